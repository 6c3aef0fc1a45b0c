"""Ownership of objects: all ways to forge one, and all states in which ours may be left."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.names import SOURCE_LABEL, SPEC_ANNOTATION, object_name
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state import ownership
from kubectl_istio_udp.state.ownership import belongs, is_copy_of, readable, resolve, spec_of
from tests.support.builders import plan_of
from tests.support.mesh_builders import access_log, manifests_of, response

SPEC = plan_of().exposure.spec
EXPOSURE_LABEL, NAMESPACE_LABEL = "kubectl-istio-udp/exposure", "kubectl-istio-udp/namespace"
LAB = GatewayRef("lab", "edge", {"app": "edge"})


def objects(**changes: Any) -> list[dict[str, Any]]:
    """ServiceEntry, EnvoyFilter and companion Service of default/coredns, changed or not."""
    exposure = plan_of().exposure
    spec = replace(exposure.spec, **changes)
    made = [copy.deepcopy(dict(write.manifest)) for write in writes(replace(exposure, spec=spec))]
    for manifest in made:
        manifest["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    return made


def forged(kind: str, **metadata: Any) -> dict[str, Any]:
    """One of the objects of default/coredns with other metadata; younger than the real ones."""
    (found,) = [copy.deepcopy(manifest) for manifest in objects() if manifest["kind"] == kind]
    found["metadata"] |= {"creationTimestamp": "2026-02-02T00:00:00Z", **metadata}
    return found


def labels_of(namespace: str, name: str) -> dict[str, str]:
    return {**objects()[0]["metadata"]["labels"], NAMESPACE_LABEL: namespace, EXPOSURE_LABEL: name}


def note(spec: ExposureSpec | str) -> dict[str, str]:
    return {SPEC_ANNOTATION: spec if isinstance(spec, str) else spec.to_json()}


def places(manifests: Any) -> list[str]:
    return [f"{m['kind']} {m['metadata']['namespace']}/{m['metadata']['name']}" for m in manifests]


OURS = places(objects())
NAME = SPEC.object_name


# A ServiceEntry or Service in a tenant's namespace, an EnvoyFilter in another gateway's.
FORGERIES = {
    "labels of another namespace": forged("ServiceEntry", namespace="lab"),
    "labels of another namespace, other name": forged("ServiceEntry", namespace="lab", name="x"),
    "own labels, spec of another": forged(
        "ServiceEntry",
        namespace="lab",
        name=object_name("lab", "evil"),
        labels=labels_of("lab", "evil"),
    ),
    "own labels, name of another": forged(
        "ServiceEntry", namespace="lab", labels=labels_of("lab", "evil")
    ),
    "own labels and spec, name of another": forged(
        "ServiceEntry",
        namespace="lab",
        labels=labels_of("lab", "evil"),
        annotations=note(replace(SPEC, namespace="lab", name="evil", entries=())),
    ),
    "two kinds in the labels": forged(
        "ServiceEntry",
        namespace="lab",
        labels={**labels_of("lab", "evil"), "kubectl-istio-udp/response": "evil"},
    ),
    "no name in the labels": forged(
        "ServiceEntry", namespace="lab", labels={**labels_of("lab", "evil"), EXPOSURE_LABEL: ""}
    ),
    "companion Service elsewhere": forged("Service", namespace="lab"),
    "companion Service of a gateway of one's own": forged(
        "Service", namespace="lab", annotations=note(replace(SPEC, gateway=LAB))
    ),
    "EnvoyFilter elsewhere": forged("EnvoyFilter", namespace="lab"),
    "EnvoyFilter of a gateway of one's own": forged(
        "EnvoyFilter", namespace="lab", annotations=note(replace(SPEC, gateway=LAB))
    ),
    "EnvoyFilter elsewhere that cannot be read": forged(
        "EnvoyFilter", namespace="lab", annotations=note("{")
    ),
    "ServiceEntry elsewhere that cannot be read": forged(
        "ServiceEntry", namespace="lab", annotations=note('{"service":["x"]}')
    ),
    "a kind that no exposure has": {**forged("Service"), "kind": "VirtualService"},
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("first", [True, False])
def test_a_forged_object_beside_the_exposure_is_a_stray(forgery: Any, first: bool) -> None:
    there = [forgery, *objects()] if first else [*objects(), forgery]
    state = resolve(there)
    (exposure,) = state.existing
    assert (exposure.namespace, exposure.name, exposure.spec) == ("default", "coredns", SPEC)
    assert places(exposure.objects) == OURS
    (stray,) = state.strays
    assert [str(stray)] == places([forgery])
    assert stray.reason


@pytest.mark.parametrize(
    "forgery",
    [
        forgery
        for what, forgery in FORGERIES.items()
        # These are consistent, or the only objects left.
        if "one's own" not in what and what != "EnvoyFilter elsewhere that cannot be read"
    ],
)
def test_a_forged_object_alone_is_a_stray(forgery: Any) -> None:
    state = resolve([forgery])
    assert state.existing == ()
    assert len(state.strays) == 1


def test_a_stray_names_the_claimed_owner_and_the_reason() -> None:
    (stray,) = resolve([FORGERIES["own labels, spec of another"]]).strays
    assert str(stray) == "ServiceEntry lab/udp-lab-evil"
    assert stray.claimed_owner == "exposure lab/evil"
    assert stray.reason == "its annotation belongs to exposure default/coredns"


@pytest.mark.parametrize("keeps", range(1, 8))
def test_any_remaining_object_of_an_exposure_belongs_to_it(keeps: int) -> None:
    left = [manifest for bit, manifest in enumerate(objects()) if keeps & 1 << bit]
    (exposure,) = resolve(left).existing
    assert exposure.spec == SPEC
    assert places(exposure.objects) == places(left)


@pytest.mark.parametrize("keeps", range(1, 8))
@pytest.mark.parametrize("text", [None, "{", '{"version":9}'])
def test_remaining_unreadable_objects_belong_to_the_exposure(keeps: int, text: str | None) -> None:
    left = [manifest for bit, manifest in enumerate(objects()) if keeps & 1 << bit]
    for manifest in left:
        manifest["metadata"]["annotations"] = None if text is None else note(text)
    (exposure,) = resolve(left).existing
    assert exposure.spec is None and exposure.problem
    assert places(exposure.objects) == places(left)


@pytest.mark.parametrize(
    "spoiled", ["{", replace(SPEC, name="other", entries=()).to_json(), "null"]
)
def test_an_entry_with_a_damaged_annotation_can_be_repaired(spoiled: str) -> None:
    """Where the EnvoyFilter says that it is there, the ServiceEntry is known by labels and name."""
    entry, *others = objects()
    entry["metadata"]["annotations"] = note(spoiled)
    state = resolve([entry, *others])
    (exposure,) = state.existing
    assert (exposure.spec, state.strays) == (SPEC, ())
    assert places(exposure.objects) == OURS
    assert belongs(entry, SPEC)


def test_of_two_envoy_filters_the_confirmed_one_decides() -> None:
    older = forged(
        "EnvoyFilter",
        namespace="lab",
        annotations=note(replace(SPEC, gateway=LAB)),
        creationTimestamp="2020-01-01T00:00:00Z",
    )
    state = resolve([older, *objects()])
    assert state.existing[0].spec == SPEC
    assert [str(stray) for stray in state.strays] == [f"EnvoyFilter lab/{NAME}"]


OBJECT_KINDS = ownership.OBJECT_KINDS[Kind.EXPOSURE]
EDGE = GatewayRef("edge", "edge", {"app": "edge"})
WHERE_GATEWAYS_BELONG = frozenset({"istio-system", "edge"})


def listed_at(gateway: GatewayRef, created: str, *kinds: str) -> list[dict[str, Any]]:
    """Objects of default/coredns at a gateway, none of them in the exposure's own namespace."""
    entry = replace(SPEC.entries[0], namespace=gateway.namespace)
    made = objects(gateway=gateway, discovery=Discovery.ENDPOINTS, entries=(entry,))
    found = [manifest for manifest in made if manifest["kind"] in (kinds or OBJECT_KINDS)]
    for manifest in found:
        manifest["metadata"]["creationTimestamp"] = created
    return found


EARLY, LATE = "2020-01-01T00:00:00Z", "2026-03-03T00:00:00Z"


def decided(there: list[dict[str, Any]]) -> tuple[str, set[str]]:
    """The gateway's namespace of the one exposure, and the namespaces of its strays."""
    state = resolve(there, gateways=lambda: WHERE_GATEWAYS_BELONG)
    (exposure,) = state.existing
    places = {manifest["metadata"]["namespace"] for manifest in exposure.objects}
    assert exposure.exposure is None or places == {exposure.exposure.gateway.namespace}
    return places.pop(), {stray.namespace for stray in state.strays}


@pytest.mark.parametrize("real", [*OBJECT_KINDS, ()])
@pytest.mark.parametrize("pretended", [*OBJECT_KINDS, ()])
def test_objects_forged_before_the_exposure_existed_do_not_decide(
    real: Any, pretended: Any
) -> None:
    """Whatever is left of the exposure, and whatever is forged."""
    ours = listed_at(SPEC.gateway, LATE, *filter(None, [real]))
    forgery = listed_at(LAB, EARLY, *filter(None, [pretended]))
    assert decided([*forgery, *ours]) == ("istio-system", {"lab"})
    assert decided([*ours, *forgery]) == ("istio-system", {"lab"})


def test_an_unreadable_exposure_comes_before_a_forged_one() -> None:
    """For example one of a later version of the plugin."""
    ours = listed_at(SPEC.gateway, LATE)
    for manifest in ours:
        manifest["metadata"]["annotations"] = note('{"version":9}')
    forgery = listed_at(LAB, EARLY)
    assert decided([*forgery, *ours]) == ("istio-system", {"lab"})
    for manifest in forgery:
        manifest["metadata"]["annotations"] = note("{")
    assert decided([*forgery, *ours]) == ("istio-system", {"lab"})


def test_a_tenant_does_not_hide_its_exposure_with_a_gateway_of_its_own() -> None:
    """From `controller uninstall`, for example."""
    own = GatewayRef("default", "edge", {"app": "edge"})
    forgery = objects(gateway=own, entries=())
    assert decided([*forgery, *listed_at(SPEC.gateway, LATE)]) == ("istio-system", {"default"})


def test_where_gateways_belong_or_nowhere_the_older_decides() -> None:
    older, younger = listed_at(EDGE, EARLY), listed_at(SPEC.gateway, LATE)
    assert decided([*younger, *older]) == ("edge", {"istio-system"})
    other = GatewayRef("other", "edge", {"app": "edge"})
    assert decided([*listed_at(other, LATE), *listed_at(LAB, EARLY)]) == ("lab", {"other"})


def test_an_exposure_that_is_being_deleted_comes_last() -> None:
    """A cloud's finalizer may keep its companion Service for minutes."""
    ending = listed_at(SPEC.gateway, EARLY, "Service")
    ending[0]["metadata"]["deletionTimestamp"] = LATE
    assert decided([*ending, *listed_at(LAB, LATE)]) == ("lab", {"istio-system"})


def test_an_object_of_another_gateway_that_does_not_agree_with_itself_does_not_count() -> None:
    """It says that the exposure is at a third gateway."""
    (filter_,) = listed_at(SPEC.gateway, EARLY, "EnvoyFilter")
    filter_["metadata"]["namespace"] = "edge"
    assert decided([filter_, *listed_at(LAB, LATE)]) == ("lab", {"edge"})


def test_the_namespaces_of_gateways_are_only_read_if_it_depends_on_them() -> None:
    def unexpected() -> frozenset[str]:
        raise AssertionError

    state = resolve([*objects(), forged("ServiceEntry", namespace="lab")], gateways=unexpected)
    assert state.existing[0].spec == SPEC


def test_the_envoy_filter_decides_who_manages_an_exposure() -> None:
    entry, envoy_filter, companion = objects()
    entry["metadata"]["labels"][SOURCE_LABEL] = "controller"
    (exposure,) = resolve([entry, envoy_filter, companion]).existing
    assert exposure.source is None
    envoy_filter["metadata"]["labels"][SOURCE_LABEL] = "controller"
    (exposure,) = resolve([entry, envoy_filter, companion]).existing
    assert exposure.source == "controller"


@pytest.mark.parametrize("namespace", ["default", "istio-system"])
def test_a_service_entry_may_be_in_either_namespace(namespace: str) -> None:
    entry, *others = objects()
    entry["metadata"]["namespace"] = namespace
    (exposure,) = resolve([entry, *others]).existing
    assert len(exposure.objects) == 3
    assert belongs(entry, SPEC)


def test_the_service_entry_that_the_spec_has_comes_before_a_leftover() -> None:
    entry, *others = objects()
    leftover = copy.deepcopy(entry)
    leftover["metadata"]["namespace"] = "istio-system"
    (exposure,) = resolve([leftover, entry, *others]).existing
    assert exposure.object("ServiceEntry") is entry
    assert exposure.all_of("ServiceEntry") == [leftover, entry]
    assert exposure.missing == ()


def test_only_the_object_that_decides_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exposure may have hundreds of ServiceEntries, each with the whole spec."""
    entry, *others = objects()
    entries = []
    for number in range(300):
        further = copy.deepcopy(entry)
        further["metadata"]["name"] += f".{number}"
        entries.append(further)
    read: list[str] = []

    def noted(manifest: dict[str, Any]) -> Any:
        read.append(manifest["kind"])
        return spec_of(manifest)

    monkeypatch.setattr(ownership, "spec_of", noted)
    (exposure,) = resolve([*entries, *others]).existing
    assert len(exposure.objects) == 302
    assert read == ["EnvoyFilter"]


@pytest.mark.parametrize(
    ("spec", "made"),
    [
        (response().spec, manifests_of(response())),
        (access_log(), manifests_of(access_log())),
    ],
    ids=["response", "access log"],
)
def test_responses_and_access_logs_follow_the_same_rule(spec: Any, made: Any) -> None:
    (found,) = resolve(made).existing
    assert (found.kind, found.spec) == (spec.kind, spec)
    for manifest in made:
        moved = copy.deepcopy(manifest)
        moved["metadata"]["namespace"] = "elsewhere"
        state = resolve([*made, moved])
        assert [str(stray) for stray in state.strays] == places([moved])
        assert state.existing[0].objects == found.objects
        assert not belongs(moved, spec)


def test_only_the_requested_kinds_are_resolved() -> None:
    there = [*objects(), *manifests_of(access_log())]
    assert [e.kind for e in resolve(there, (Kind.ACCESS_LOG,)).existing] == [Kind.ACCESS_LOG]
    assert [e.kind for e in resolve(there).existing] == [Kind.EXPOSURE, Kind.ACCESS_LOG]


def test_spec_of_trusts_only_what_agrees_with_itself() -> None:
    assert spec_of(objects()[0]) == SPEC
    for forgery in FORGERIES.values():
        if forgery["metadata"]["annotations"] == note(replace(SPEC, gateway=LAB)):
            continue
        assert readable(forgery, ExposureSpec) is None
        with pytest.raises(ClusterError):
            spec_of(forgery)


OWNER = {"kind": "HTTPRoute", "name": "web", "uid": "1", "controller": True}


@pytest.mark.parametrize(
    ("copied", "metadata"),
    [
        (True, {}),
        (False, {"labels": {}}),
        (False, {"namespace": "other"}),
        (False, {"ownerReferences": []}),
        (False, {"ownerReferences": [{**OWNER, "uid": "2"}]}),
        (False, {"ownerReferences": [{**OWNER, "kind": "GRPCRoute"}]}),
        (False, {"ownerReferences": [{**OWNER, "controller": False}]}),
        # One that another controller owns, too.
        (False, {"ownerReferences": [OWNER, {**OWNER, "uid": "2"}]}),
    ],
)
def test_which_routes_are_copies(copied: bool, metadata: dict[str, Any]) -> None:
    original = About("HTTPRoute", "gateway.networking.k8s.io/v1", "team", "web", "1")
    usual = {
        "namespace": "team",
        "labels": {"app.kubernetes.io/managed-by": "kubectl-istio-udp"},
        "ownerReferences": [OWNER],
    }
    assert is_copy_of({"kind": "HTTPRoute", "metadata": usual | metadata}, original) is copied
