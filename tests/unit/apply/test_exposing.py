"""`expose` beside forged objects: they decide neither the settings nor the gateway."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from kubectl_istio_udp.model.exposure import (
    Discovery,
    ExposureSpec,
    GatewayServiceMode,
    Options,
)
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.names import SOURCE_LABEL
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.render.exposure import writes
from tests.support.apiserver import ApiServer
from tests.support.builders import gateway_pod, gateway_service, namespace, plan_of
from tests.unit.conftest import Run

NAME = "udp-default-coredns"
EXPOSE = ("expose", "coredns", "-n", "default", "-p", "7300:53")
LAB = GatewayRef("lab", "edge", {"app": "edge"})
# What a tenant would like an administrator's next `expose` to do.
STOLEN: dict[str, Any] = {
    "ports": (ExposedPort.of(53, 5353, 53), ExposedPort.of(7300, 7300, 53)),
    "options": Options(session_log=True, gateway_service=GatewayServiceMode.PATCH),
}


def forged(server: ApiServer, *kinds: str, labels: Any = None, **changes: Any) -> None:
    """Store objects of exposure default/coredns with a spec of somebody's choosing."""
    exposure = plan_of().exposure
    spec = replace(exposure.spec, **changes)
    for write in writes(replace(exposure, spec=spec)):
        if write.kind in kinds:
            manifest = copy.deepcopy(dict(write.manifest))
            manifest["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
            manifest["metadata"]["labels"] |= labels or {}
            if write.kind == "EnvoyFilter":
                manifest["spec"] = {"configPatches": []}
            server.put(manifest)


def spec_in(server: ApiServer, place: str = "istio-system") -> ExposureSpec:
    manifest = server.get("EnvoyFilter", place, NAME)
    return ExposureSpec.from_json(manifest["metadata"]["annotations"]["kubectl-istio-udp/spec"])


def gateway_in_lab(**more: Any) -> list[dict[str, Any]]:
    """A gateway that somebody runs in namespace lab."""
    labels = {"app": "edge", "istio": "edge"}
    in_front = gateway_service(name="edge", namespace="lab", selector=labels)
    return [gateway_pod("edge-1", namespace="lab", labels=labels, **more), in_front]


def labelled(name: str) -> dict[str, Any]:
    """A namespace that an administrator labelled as having gateways."""
    found = namespace(name)
    found["metadata"]["labels"] = {"kubectl-istio-udp/gateways": "true"}
    return found


def installed(*namespaces: str) -> list[dict[str, Any]]:
    """The objects that show in which namespaces a controller uses gateways."""
    name = "kubectl-istio-udp-controller"
    container = {"args": [f"--gateway-namespace={each}" for each in namespaces]}
    return [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "istio-system"}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": "istio-system"},
            "spec": {"template": {"spec": {"containers": [container]}}},
        },
    ]


def is_as_requested(server: ApiServer) -> bool:
    """Whether the exposure has the named port, and otherwise the defaults."""
    spec, usual = spec_in(server), plan_of().exposure.spec
    companion = server.get("Service", "istio-system", NAME)
    own = server.get("Service", "istio-system", "istio-ingressgateway")
    return (
        [port.gateway_port for port in spec.ports] == [7300]
        and replace(spec.options, max_sessions=usual.options.max_sessions) == usual.options
        and (spec.gateway, spec.discovery) == (usual.gateway, usual.discovery)
        and [port["port"] for port in companion["spec"]["ports"]] == [7300]
        and own["spec"] == gateway_service()["spec"]
    )


FORGED_ENTRIES: dict[str, dict[str, Any]] = {
    "settings": STOLEN,
    "a selector of other pods": {"gateway": GatewayRef("istio-system", "x", {"istio": "other"})},
    "a gateway in the same namespace": {
        "gateway": GatewayRef("default", "edge", {"app": "edge"}),
        "entries": (),
    },
    "a gateway in another namespace": {"gateway": LAB, "entries": ()},
    "listed": {"discovery": Discovery.ENDPOINTS},
}


@pytest.mark.parametrize("changes", FORGED_ENTRIES.values(), ids=FORGED_ENTRIES)
@pytest.mark.parametrize("labels", [{}, {SOURCE_LABEL: "service"}], ids=["", "declared"])
def test_a_tenants_service_entry_decides_nothing(
    run: Run, server: ApiServer, changes: dict[str, Any], labels: dict[str, str]
) -> None:
    forged(server, "ServiceEntry", labels=labels)
    (manifest,) = server.all("ServiceEntry")
    server.remove("ServiceEntry", "default", NAME)
    spec = replace(plan_of().exposure.spec, **changes)
    manifest["metadata"]["annotations"]["kubectl-istio-udp/spec"] = spec.to_json()
    manifest["metadata"]["name"] += ".x"
    server.put(manifest)
    done = run(*EXPOSE)
    assert done.code == 0, done.err
    assert is_as_requested(server)
    assert f"ignoring the settings in ServiceEntry default/{NAME}.x" in done.err
    assert len(server.all("ServiceEntry")) == 1


def test_a_damaged_envoy_filter_does_not_make_a_tenants_entry_decide(
    run: Run, server: ApiServer
) -> None:
    forged(server, "ServiceEntry", **STOLEN)
    forged(server, "EnvoyFilter", **STOLEN)
    damaged = server.get("EnvoyFilter", "istio-system", NAME)
    damaged["metadata"]["annotations"]["kubectl-istio-udp/spec"] = "{"
    server.put(damaged)
    done = run(*EXPOSE, "--force-conflicts")
    assert done.code == 0, done.err
    assert is_as_requested(server)


@pytest.mark.parametrize(
    "pods",
    [
        [],
        gateway_in_lab(by_istiod=False),
        [*gateway_in_lab(), *installed("istio-system")],
        [*gateway_in_lab(), labelled("edge")],
    ],
    ids=["no pod", "posing pod", "gateway beside a controller", "gateway without a label"],
)
@pytest.mark.parametrize("kinds", [("EnvoyFilter",), ("Service",), ("EnvoyFilter", "Service")])
def test_an_exposure_forged_before_the_first_expose_is_not_followed(
    run: Run, server: ApiServer, kinds: tuple[str, ...], pods: list[dict[str, Any]]
) -> None:
    """It is in a namespace where gateways do not belong."""
    options = replace(STOLEN["options"], gateway_service=GatewayServiceMode.COMPANION)
    changes = {**STOLEN, "options": options, "entries": (), "discovery": Discovery.ENDPOINTS}
    forged(server, *kinds, gateway=LAB, **changes)
    server.put(*pods)
    before = [m for m in server.all("EnvoyFilter") if m["metadata"]["namespace"] == "lab"]
    done = run(*EXPOSE)
    assert done.code == 0, done.err
    assert is_as_requested(server)
    assert f"ignoring {kinds[0]} lab/{NAME}: gateways do not belong in namespace lab" in done.err
    assert [m for m in server.all("EnvoyFilter") if m["metadata"]["namespace"] == "lab"] == before
    # And from now on the forged one is a stray, although it is older.
    exposures, _, strays = run("get", "-A").out.partition("STRAY")
    assert "istio-system/istio-ingressgateway" in exposures and "lab" not in exposures
    assert f"{kinds[0]}" in strays and "lab" in strays


EXPECTED = {
    "injected by istiod": ([], ()),
    "labelled": ([labelled("lab")], ()),
    "of the controller": (installed("lab"), ()),
    "named": ([], ("--gateway", "lab/edge")),
    "the only one with the name": ([], ("--gateway", "edge")),
}


@pytest.mark.parametrize(("objects", "words"), EXPECTED.values(), ids=EXPECTED)
def test_an_exposure_where_gateways_belong_keeps_its_gateway_and_settings(
    run: Run, server: ApiServer, objects: Any, words: Any
) -> None:
    """Another gateway, in istio-system, is not chosen."""
    server.put(*gateway_in_lab())
    first = ("--gateway", "lab/edge", "--session-log", "--discovery", "endpoints")
    assert run(*EXPOSE, *first).code == 0, run.err
    server.put(*objects)
    done = run("expose", "coredns", "-p", "7301:53", *words)
    assert done.code == 0, done.err
    assert "ignoring" not in done.err
    spec = spec_in(server, "lab")
    assert ([p.gateway_port for p in spec.ports], spec.options.session_log) == ([7300, 7301], True)
    assert server.get("EnvoyFilter", "istio-system", NAME) is None


def test_an_exposure_that_its_own_namespace_names_keeps_its_gateway(
    run: Run, server: ApiServer
) -> None:
    """Its ServiceEntry is in its own namespace, where another tenant cannot write."""
    server.put(*gateway_in_lab())
    assert run(*EXPOSE, "--gateway", "lab/edge", "--session-log").code == 0
    assert server.get("ServiceEntry", "default", NAME)
    done = run("expose", "coredns", "-p", "7301:53")
    assert done.code == 0, done.err
    assert "ignoring" not in done.err
    spec = spec_in(server, "lab")
    assert ([p.gateway_port for p in spec.ports], spec.options.session_log) == ([7300, 7301], True)


@pytest.mark.parametrize(
    "hidden", ["/clusterrolebindings", "/deployments", "labelSelector=kubectl"]
)
def test_a_user_who_may_not_read_where_gateways_belong_keeps_to_istio_system(
    run: Run, server: ApiServer, hidden: str
) -> None:
    forged(server, "EnvoyFilter", gateway=LAB, entries=(), discovery=Discovery.ENDPOINTS)
    server.put(*gateway_in_lab(), *installed("edge"), labelled("edge"))
    server.fail("GET", hidden, 403)
    done = run(*EXPOSE)
    assert done.code == 0, done.err
    assert is_as_requested(server)
