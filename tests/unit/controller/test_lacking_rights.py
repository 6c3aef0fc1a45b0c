"""A controller whose image is newer than its rights: it may not list kinds that it did not use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.resources import API_GATEWAY
from tests.support.apiserver import ApiServer
from tests.support.controlling import annotated, space, until
from tests.support.routed import NAME, TARGET, Routed, routed, services
from tests.support.routes import gateway, route

DECIDING = ["GatewayClass", API_GATEWAY, "UDPRoute", "ReferenceGrant"]
COPIED = ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"]


@pytest.fixture
def running(api: Api, server: ApiServer) -> Iterator[Routed]:
    with routed(
        api, server, space("team"), space("default"), *services("team", "coredns")
    ) as found:
        yield found


def forbid(server: ApiServer, kind: str) -> None:
    server.permits = lambda verb, of, *_: not (of == kind and verb in ("list", "watch"))


def reported(running: Routed) -> list[Any]:
    """The statuses of the Gateway and its route."""
    return [running.status(API_GATEWAY, "udp"), running.status("UDPRoute", "dns")]


def status_writes(server: ApiServer) -> list[str]:
    """The paths of the writes to statuses of the Gateway API's objects."""
    paths = [each.path for each in server.requests if each.method == "PATCH"]
    return [path for path in paths if "/gateway.networking" in path and path.endswith("/status")]


@pytest.mark.parametrize("kind", [*DECIDING, *COPIED])
def test_it_serves_everything_else(
    running: Routed, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    running.quiet()
    running.stop()
    before = running.filter(NAME), running.entry(NAME), reported(running)
    forbid(running.server, kind)
    running.server.requests.clear()
    controller = running.start("two", gateway_api=True)
    running.server.put(annotated(ports="5301:53"))
    running.exposed()
    assert controller.ready()
    assert (running.filter(NAME), running.entry(NAME), reported(running)) == before
    messages = [r.getMessage() for r in caplog.records if "working without" in r.getMessage()]
    assert len(messages) == 1
    assert "no permission to list" in messages[0] and "controller install" in messages[0]
    running.server.permits = lambda *_: True
    running.quiet()
    assert reported(running) == before[2]
    assert not status_writes(running.server)


@pytest.mark.parametrize("kind", DECIDING)
def test_it_goes_on_when_it_has_the_rights(running: Routed, kind: str) -> None:
    forbid(running.server, kind)
    controller = running.begin(gateway(annotations=TARGET), route())
    until(controller.ready)
    assert running.filter(NAME) is None
    running.server.permits = lambda *_: True
    running.programmed()
    until(lambda: running.attached() == [1])
    assert running.weights() == [("coredns", 1)]


def test_rights_that_are_lost_later_change_nothing(running: Routed) -> None:
    controller = running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    running.quiet()
    before = running.filter(NAME)
    forbid(running.server, "UDPRoute")
    running.server.compact()
    running.server.cut_watches()
    failing = next(cache for cache in controller.caches.all if cache.kind == "UDPRoute")
    until(lambda: failing.failures > 2)
    assert failing.refusal is None and failing.values()
    assert running.filter(NAME) == before
