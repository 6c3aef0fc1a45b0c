"""What EnvoyFilters, reservations and pending decisions take of a gateway."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kubectl_istio_udp.model.mesh import DEFAULT_MESH
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from kubectl_istio_udp.state.occupancy import GatewayFilter, Occupancy, Pending
from kubectl_istio_udp.state.reservations import Reservation, read_reservation, reservation
from tests.support.builders import cluster, plan_of, snapshot_of

GATEWAY = snapshot_of(cluster()).gateway
EXPOSURE = plan_of(max_sessions=500).exposure
SPEC = EXPOSURE.spec


def written(name: str = "coredns") -> GatewayFilter:
    return GatewayFilter.of(envoy_filter(plan_of(name=name, max_sessions=500).exposure))


def reserved(name: str, version: int) -> dict[str, Any]:
    manifest = reservation(plan_of(name=name, max_sessions=500).exposure.spec, name)
    about = {"resourceVersion": str(version), "creationTimestamp": "2999-01-02T03:04:05Z"}
    manifest["metadata"] |= about
    return manifest


def pending(name: str) -> Pending:
    found = written(name)
    assert found.spec
    return Pending(found.footprint, found.spec)


MINE = read_reservation(reserved("mine", 20))
EVERYBODY = [written("w"), GatewayFilter.of(reserved("e", 19)), GatewayFilter.of(reserved("l", 21))]


@pytest.mark.parametrize(
    ("mine", "names"),
    [(None, {"w", "e", "l", "p"}), (MINE, {"w", "e"})],
    ids=["before its reservation", "with its reservation"],
)
def test_what_counts(mine: Reservation | None, names: set[str]) -> None:
    occupancy = Occupancy(EVERYBODY, mine, [pending("p")])
    footprint = occupancy.footprints_at(GATEWAY, DEFAULT_MESH)
    usage = occupancy.usage(GATEWAY, "istio-system")
    assert {found.exposure[1] for found in footprint if found.exposure} == names
    assert {holder.key[1] for holder in usage.holders} == names
    assert usage.sessions == 500 * len(names)


def test_the_exposure_that_is_asked_for_does_not_count() -> None:
    assert Occupancy([written()]).usage(GATEWAY, "istio-system", SPEC.key).sessions == 0


def test_what_concerns_another_exposure_is_omitted() -> None:
    (port,) = SPEC.ports
    same_port = plan_of(name="other").exposure.spec
    elsewhere = dataclasses.replace(same_port, ports=(ExposedPort.of(port.gateway_port, 1, 1),))
    occupancy = Occupancy([written()])
    assert len(occupancy.footprints_at(GATEWAY, DEFAULT_MESH, same_port)) == 1
    assert not occupancy.footprints_at(GATEWAY, DEFAULT_MESH, elsewhere)
