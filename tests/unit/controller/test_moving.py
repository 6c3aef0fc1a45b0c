"""A request for another gateway: the exposure only leaves its gateway if it can be at the other."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.controller.run import Controller
from tests.support import builders
from tests.support.builders import endpoint, endpoint_slice
from tests.support.controlling import NAME, Running, annotated, space, until

EDGE = {"app": "edge", "istio": "edge"}
NEW, OLD = "istio-system/edge", "istio-system/istio-ingressgateway"


def binds(port: int) -> dict[str, Any]:
    """Someone's EnvoyFilter with a listener at gateway `edge`."""
    address = {"protocol": "UDP", "address": "0.0.0.0", "port_value": port}
    listener = {"name": "theirs", "address": {"socket_address": address}}
    patch = {
        "applyTo": "LISTENER",
        "match": {"context": "GATEWAY"},
        "patch": {"operation": "ADD", "value": listener},
    }
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": builders.metadata("istio-system", "theirs"),
        "spec": {"workloadSelector": {"labels": EDGE}, "configPatches": [patch]},
    }


def request(gateway: str, ports: str = "5300:53", **options: str) -> dict[str, Any]:
    """A Service that requests to be exposed at a gateway."""
    named = {key.replace("_", "-"): value for key, value in options.items()}
    return annotated(ports=ports, options={"gateway": gateway, **named})


def exposed(running: Running, *, limits: Any = None, **settings: Any) -> Controller:
    """Expose a Service at the first of two gateways."""
    pod = builders.gateway_pod("edge-1", labels=EDGE, ips=("10.244.0.8",), limits=limits)
    running.server.put(pod)
    controller = running.start(**settings)
    running.server.put(request(OLD, max_sessions="500"))
    running.exposed()
    until(lambda: controller.states() == {"ok": 1})
    return controller


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (request(NEW, "5300:nosuch"), "ExposeInvalid: Service default/coredns has no UDP port"),
        (request(NEW, "5310:53"), "edge: port 5310/UDP is taken"),
        (request(NEW, "5310:53,5311:53"), "edge: port 5310/UDP is taken"),
        (request(NEW, expect_rate="20000"), "ExposeForbidden: 250020 sessions"),
        (request(NEW, "9999:53"), "ExposeForbidden: gateway port 9999 is not allowed"),
        (request(NEW, "5301:53,5302:53"), "ExposeRefused: the namespace's exposures would have 2"),
        (request(NEW, discovery="selector"), "ExposeForbidden: discovery selector"),
        (request("istio-system/nosuch"), "NoGateway"),
    ],
)
def test_a_refused_move_keeps_the_exposure(
    running: Running, asked: dict[str, Any], reason: str
) -> None:
    running.server.put(
        space("default", **{"kubectl-istio-udp/allow-total-ports": "1"}), binds(5310)
    )
    controller = exposed(running)
    before = running.filter(), running.companion()
    running.server.put(asked, endpoint_slice(endpoint("10.244.0.30")))
    assert "the exposure stays as it was before" in running.tells(reason)
    until(lambda: running.addresses() == ["10.244.0.30"])
    running.quiet()
    assert (running.filter(), running.companion()) == before
    running.server.put(request(OLD, max_sessions="500"))
    until(lambda: controller.states() == {"ok": 1})
    running.server.put(request(NEW))
    until(lambda: (found := running.filter()) and running.spec().gateway.name == "edge" and found)
    until(lambda: controller.states() == {"ok": 1})
    assert running.companion()["spec"]["selector"] == EDGE


@pytest.mark.parametrize(
    ("limits", "options", "reason"),
    [
        (None, {"expect_rate": "20000"}, "U108"),
        ({"cpu": "1", "memory": "1Ki"}, {}, "U109"),
    ],
)
def test_a_gateway_without_room_keeps_the_exposure(
    running: Running, limits: Any, options: dict[str, str], reason: str
) -> None:
    """Its Envoy has too few files for the sessions, or too little memory."""
    controller = exposed(running, limits=limits, allow_all=True)
    before = running.filter(), running.companion()
    running.server.put(request(NEW, **options))
    assert reason in running.tells("ExposeRefused")
    running.quiet()
    assert controller.states()["ok"] == 0
    assert (running.filter(), running.companion()) == before


def test_a_move_waits_until_the_gateway_may_change(running: Running) -> None:
    running.wait_for(cooldown=60.0)
    controller = exposed(running)
    before = running.filter(), running.companion()
    running.server.put(request(NEW))
    until(lambda: controller.states() == {"waiting": 1})
    running.quiet()
    assert (running.filter(), running.companion()) == before
    running.clock.move(60.0)
    until(lambda: running.filter() and running.spec().gateway.name == "edge")


def test_a_move_that_has_begun_is_finished(running: Running) -> None:
    """The listeners and the companion are gone already, so keeping the rest helps nobody."""
    running.wait_for(listener=600.0)
    controller = exposed(running)
    running.server.put(request(NEW))
    until(lambda: controller.states() == {"deleting": 1})
    assert running.filter() and not running.companion()
    running.server.put(binds(5300))
    running.clock.move(600.0)
    running.tells("PortTaken")
    assert not running.filter() and not running.entry()
    running.server.remove("EnvoyFilter", "istio-system", "theirs")
    running.exposed()
    assert running.spec().gateway.name == "edge"


def test_a_younger_request_does_not_take_the_port_of_a_move(running: Running) -> None:
    running.wait_for(listener=600.0)
    controller = exposed(running)
    running.server.put(request(NEW))
    until(lambda: controller.states() == {"deleting": 1})
    running.server.put(
        annotated("younger", created="2027-01-01T00:00:00Z", options={"gateway": NEW})
    )
    assert "already requested by an older Service" in running.tells("PortTaken", "younger")
    running.clock.move(600.0)
    running.exposed()
    running.quiet()
    assert [f["metadata"]["name"] for f in running.server.all("EnvoyFilter")] == [NAME]
    assert running.spec().gateway.name == "edge"


def test_a_move_to_a_gateway_that_its_current_listener_reaches(running: Running) -> None:
    """An EnvoyFilter in the root namespace applies to pods of every namespace with its labels."""
    running.server.put(
        builders.namespace("edge"),
        builders.gateway_pod("edge-1", namespace="edge", ips=("10.244.0.8",)),
        builders.gateway_service("edge", namespace="edge"),
    )
    running.start(gateway_namespaces=("istio-system", "edge"))
    running.server.put(request(OLD))
    running.exposed()
    running.server.put(request("edge/edge"))
    until(lambda: running.server.get("EnvoyFilter", "edge", NAME) and not running.filter())
    until(lambda: running.server.get("Service", "edge", NAME))
