"""What EnvoyFilters, reservations and pending decisions take of a gateway."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubectl_istio_udp.checks.ports import port_taken
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.mesh import DEFAULT_MESH
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.usage import Holder
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from kubectl_istio_udp.state.occupancy import GatewayFilter, GatewayFilters, Occupancy, Pending
from kubectl_istio_udp.state.reservations import Reservation, read_reservation, reservation
from tests.support.builders import cluster, gateway_of, plan_of, snapshot_of
from tests.support.effort import examples

GATEWAY = snapshot_of(cluster()).gateway
EXPOSURE = plan_of(max_sessions=500).exposure
SPEC = EXPOSURE.spec
PORTS = {port.listener_port for port in SPEC.ports}
MESH = DEFAULT_MESH.with_root_namespace("root")


def written(name: str = "coredns") -> GatewayFilter:
    return GatewayFilter.of(envoy_filter(plan_of(name=name, max_sessions=500).exposure))


def reserved(name: str, version: int) -> dict[str, Any]:
    manifest = reservation(plan_of(name=name, max_sessions=500).exposure.spec, name)
    about = {"resourceVersion": str(version), "creationTimestamp": "2999-01-02T03:04:05Z"}
    manifest["metadata"] |= about
    return manifest


def index_of(*found: GatewayFilter) -> GatewayFilters:
    index = GatewayFilters()
    for each in found:
        index.put(namespaced_name(each.manifest), each)
    return index


def pending(name: str) -> Pending:
    found = written(name)
    assert found.spec
    return Pending(found.manifest, found.footprint, found.spec)


MINE = read_reservation(reserved("mine", 20))
EVERYBODY = [written("w"), GatewayFilter.of(reserved("e", 19)), GatewayFilter.of(reserved("l", 21))]


@pytest.mark.parametrize(
    ("mine", "names"),
    [(None, {"w", "e", "l", "p"}), (MINE, {"w", "e"})],
    ids=["before its reservation", "with its reservation"],
)
def test_what_counts_as_used(mine: Reservation | None, names: set[str]) -> None:
    occupancy = Occupancy(index_of(*EVERYBODY), mine, [pending("p")])
    footprint = occupancy.footprints_at(GATEWAY, DEFAULT_MESH)
    usage = occupancy.usage(GATEWAY, "istio-system")
    assert {found.exposure[1] for found in footprint if found.exposure} == names
    assert {holder.key[1] for holder in usage.holders} == names
    assert usage.sessions == 500 * len(names)


def test_the_decided_exposure_does_not_count() -> None:
    assert Occupancy(index_of(written())).usage(GATEWAY, "istio-system", SPEC.key).sessions == 0


def test_envoy_filters_without_common_ports_or_names_are_omitted() -> None:
    (port,) = SPEC.ports
    same_port = plan_of(name="other").exposure.spec
    elsewhere = dataclasses.replace(same_port, ports=(ExposedPort.of(port.gateway_port, 1, 1),))
    occupancy = Occupancy(index_of(written()))
    assert len(occupancy.footprints_at(GATEWAY, DEFAULT_MESH, same_port)) == 1
    assert not occupancy.footprints_at(GATEWAY, DEFAULT_MESH, elsewhere)


ONE, TWO, OTHER = {"app": "gw", "istio": "ingress"}, {"istio": "ingress"}, {"app": "other"}


def at(gateway: GatewayRef, name: str = "coredns", sessions: int = 7) -> GatewayFilter:
    """The EnvoyFilter of an exposure at a gateway."""
    planned = plan_of(name=name, max_sessions=sessions).exposure
    spec = dataclasses.replace(planned.spec, gateway=gateway)
    found = GatewayFilter.of(envoy_filter(dataclasses.replace(planned, spec=spec)))
    assert found.spec
    return found


@pytest.mark.parametrize(
    ("namespace", "selector", "counts"),
    [
        ("istio-system", ONE, True),
        # Another name for the same pods, and one that selects some of them.
        ("istio-system", TWO, True),
        ("istio-system", OTHER, False),
        ("elsewhere", ONE, False),
    ],
)
def test_exposures_of_the_same_pods_share_the_sessions(
    namespace: str, selector: dict[str, Any], counts: bool
) -> None:
    found = at(GatewayRef(namespace, "x", selector))
    usage = Occupancy(index_of(found)).usage(gateway_of(ONE), "istio-system")
    assert usage.holders == ((Holder(("default", "coredns"), 1, 7),) if counts else ())
    assert (usage.ports, usage.sessions) == ((1, 7) if counts else (0, 0))


def test_the_root_namespace_applies_to_gateways_of_every_namespace() -> None:
    found = at(GatewayRef("root", "x", ONE))
    assert Occupancy(index_of(found)).usage(gateway_of(ONE), "root").sessions == 7


def spec_at(sessions: int) -> ExposureSpec:
    spec = at(GatewayRef("istio-system", "x", ONE), sessions=sessions).spec
    assert spec
    return spec


@pytest.mark.parametrize(("there", "planned"), [(7, 9), (9, 7)])
def test_an_exposure_that_is_changing_counts_once_with_the_larger_number(
    there: int, planned: int
) -> None:
    index = index_of(at(GatewayRef("istio-system", "x", ONE), sessions=there))
    changing = spec_at(planned)
    changed = at(GatewayRef("istio-system", "x", ONE), sessions=planned)
    occupancy = Occupancy(index, pending=[Pending(changed.manifest, changed.footprint, changing)])
    usage = occupancy.usage(gateway_of(ONE), "istio-system")
    assert usage.holders == (Holder(changing.key, 1, 9),)
    assert (usage.ports, usage.sessions) == (1, 9)


CHANGES = [
    at(GatewayRef(namespace, "x", selector), name, sessions)
    for namespace in ("istio-system", "root")
    for selector in (ONE, TWO, OTHER)
    for name in ("a", "b", "c")
    for sessions in (5, 60)
] + [GatewayFilter.of(reserved(name, 19)) for name in ("a", "d")]


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.booleans()), max_size=30))
def test_sums_that_follow_each_change_equal_sums_from_scratch(
    changes: list[tuple[GatewayFilter, bool]],
) -> None:
    kept, there = GatewayFilters(), dict[tuple[str, str], GatewayFilter]()
    for found, removed in changes:
        key = namespaced_name(found.manifest)
        kept.put(key, None if removed else found)
        there.pop(key, None)
        if not removed:
            there[key] = found
    fresh = index_of(*reversed(there.values()))
    at_gateway = [found.spec for found in there.values() if found.spec]
    at_gateway += [found.reservation.spec for found in there.values() if found.reservation]
    for gateway in (gateway_of(ONE), gateway_of(OTHER)):
        for without in (None, ("default", "a")):
            usages = [Occupancy(i).usage(gateway, "root", without) for i in (kept, fresh)]
            largest: dict[str, int] = {}
            for spec in at_gateway:
                pods = gateway.pods[0].labels.items()
                if spec.gateway.selector.items() <= pods and spec.key != without:
                    largest[spec.name] = max(largest.get(spec.name, 0), spec.sessions)
            assert [u.sessions for u in usages] == 2 * [sum(largest.values())]
            assert [u.ports for u in usages] == 2 * [len(largest)]
            assert set(usages[0].holders) == set(usages[1].holders)
            assert {h.key[1]: h.sessions for h in usages[0].holders} == largest
        footprints = [set(Occupancy(i).footprints_at(gateway, MESH)) for i in (kept, fresh)]
        assert footprints[0] == footprints[1]
        some = [set(Occupancy(i).footprints_at(gateway, MESH, SPEC)) for i in (kept, fresh)]
        concerning = {f for f in footprints[0] if f.used & (PORTS | SPEC.listener_names)}
        assert some[0] == some[1] == concerning


@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.booleans()), max_size=30))
def test_nothing_is_left_of_what_was_removed(changes: list[tuple[GatewayFilter, bool]]) -> None:
    kept = GatewayFilters()
    for found, _ in changes:
        kept.put(namespaced_name(found.manifest), found)
    for found, _ in changes:
        kept.put(namespaced_name(found.manifest), None)
    assert vars(kept) == {**vars(GatewayFilters()), "_lock": vars(kept)["_lock"]}


UNKNOWN = dataclasses.replace(DEFAULT_MESH, assumed=True)
IN_LAB = dataclasses.replace(DEFAULT_MESH, root_namespace="lab")


def foreign(**match: Any) -> GatewayFilter:
    """Someone's listener in another namespace, at the gateway's labels."""
    address = {"protocol": "UDP", "address": "0.0.0.0", "port_value": min(PORTS)}
    patch = {
        "applyTo": "LISTENER",
        "match": {"context": "GATEWAY", **match},
        "patch": {
            "operation": "ADD",
            "value": {"name": "theirs", "address": {"socket_address": address}},
        },
    }
    return GatewayFilter.of(
        {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": "theirs", "namespace": "lab"},
            "spec": {
                "workloadSelector": {"labels": dict(GATEWAY.ref.selector)},
                "configPatches": [patch],
            },
        }
    )


@pytest.mark.parametrize(
    ("mesh", "match", "held", "taken"),
    [
        (UNKNOWN, {}, None, True),
        (UNKNOWN, {}, SPEC, False),
        (IN_LAB, {}, SPEC, True),
        (DEFAULT_MESH, {}, None, False),
        # It may be for other proxies: no reason to refuse.
        (IN_LAB, {"proxy": {"metadata": {"COLOUR": "blue"}}}, None, False),
    ],
)
def test_a_port_counts_as_taken_exactly_if_u103_reports_it(
    mesh: Any, match: Any, held: Any, taken: bool
) -> None:
    """The root namespace may be unknown: see U103."""
    occupancy = Occupancy(index_of(foreign(**match)))
    found = occupancy.ports_of_others(PORTS, GATEWAY, mesh, SPEC.key, held)
    assert found == ({min(PORTS)} if taken else set())
    snapshot = dataclasses.replace(
        snapshot_of(cluster()),
        mesh=mesh,
        before=held,
        footprints=occupancy.footprints_at(GATEWAY, mesh, SPEC),
    )
    assert bool(list(port_taken.find(EXPOSURE, snapshot))) == taken
