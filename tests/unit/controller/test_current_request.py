"""Statuses and requests follow what is requested now, whatever was found before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.state.apigateways import ApiGateways
from tests.support import builders
from tests.support.apiserver import ApiServer, Request
from tests.support.controlling import annotated, space, until
from tests.support.routed import AT_EDGE, KEY, NAME, TARGET, Routed, edge, read, routed, services
from tests.support.routes import backend, gateway, listener, route

AT_NO_GATEWAY = {"kubectl-istio-udp/gateway": "istio-system/nowhere"}
YOUNGER = "2026-06-01T00:00:00Z"


@pytest.fixture
def running(api: Api, server: ApiServer) -> Iterator[Routed]:
    """With a second gateway, `edge`."""
    with routed(
        api,
        server,
        *(space(name) for name in ("team", "other")),
        *services("team", "coredns", "canary"),
        *services("other", "coredns"),
        *edge(),
    ) as found:
        yield found


def accepted(running: Routed, name: str = "dns") -> tuple[str, str] | None:
    """The condition Accepted of a listener."""
    listeners = running.status(API_GATEWAY, "udp").get("listeners", ())
    found = {each["name"]: read(each["conditions"]) for each in listeners}
    return found.get(name, {}).get("Accepted")


def test_ports_that_change_listeners_are_pending_until_they_are_written(running: Routed) -> None:
    running.wait_for(cooldown=120.0, longest_cooldown=120.0)
    at_a, at_b = ([{"name": "udp", "sectionName": name}] for name in "ab")
    running.begin(
        gateway(listener("a", 5300), listener("b", 5301), annotations=TARGET),
        route(name="a", parents=at_a),
        route(backend("canary"), name="b", parents=at_b),
    )
    running.programmed()
    running.quiet()
    changed = gateway(listener("a", 5301), listener("b", 5300), annotations=TARGET)
    changed["metadata"]["generation"] = 2
    running.server.put({**changed, "status": running.status(API_GATEWAY, "udp")})

    def reported() -> Any:
        conditions = running.status(API_GATEWAY, "udp")["conditions"]
        return {c["type"]: c["status"] for c in conditions if c["observedGeneration"] == 2}

    until(reported)
    assert reported()["Programmed"] == "False"


def test_a_taken_port_says_nothing_about_another_gateway(running: Routed) -> None:
    running.server.put(annotated(namespace="other", ports="5301:53"))
    running.begin(gateway(listener(port=5301), annotations=TARGET, created=YOUNGER), route())
    until(lambda: accepted(running) == ("False", "PortUnavailable"))
    running.server.put(gateway(listener(port=5301), annotations=AT_NO_GATEWAY, created=YOUNGER))
    until(lambda: accepted(running) == ("True", "Accepted"))
    assert running.conditions()["Programmed"] == ("False", "NoResources")


def test_a_port_that_is_being_written_is_available_at_another_gateway(running: Routed) -> None:
    free = threading.Event()

    def wait(request: Request) -> None:
        if request.method == "PATCH" and request.path.endswith(f"/services/{NAME}"):
            free.wait(30)

    running.server.seen = wait
    controller = running.begin(gateway(annotations=TARGET))
    until(lambda: controller._reconciler._reserver._pending.beside(("", "")))
    running.server.put(gateway(name="two", annotations=AT_EDGE))
    found = until(lambda: running.conditions("two").get("Accepted"))
    free.set()
    assert found == ("True", "Accepted")


def test_a_port_of_istiod_is_available_when_it_is_free(running: Routed) -> None:
    running.envoys.bound.append(("udp_0.0.0.0_5301", 5301))
    running.begin(gateway(listener(), listener("b", 5301), annotations=TARGET), route())
    until(lambda: accepted(running, "b") == ("False", "PortUnavailable"))
    running.quiet()
    running.envoys.bound.clear()
    until(lambda: accepted(running, "b") == ("True", "Accepted"), 25)


def test_a_class_that_goes_during_a_change_keeps_the_exposure(
    running: Routed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch of Services reads the class before it is deleted, and stores the request after."""
    running.wait_for(replace=0.5)
    caches = running.begin(gateway(annotations=TARGET), route()).caches
    running.programmed()
    running.quiet()
    is_undecided, armed = ApiGateways.is_undecided, threading.Event()

    def late(gateways: ApiGateways, key: Any) -> bool:
        found = is_undecided(gateways, key)
        if armed.is_set() and threading.current_thread().name.startswith("watch Service "):
            armed.clear()
            running.server.remove("GatewayClass", "", "istio-udp")
            end = time.monotonic() + 1.0
            while not caches.is_undecided(KEY) and time.monotonic() < end:
                time.sleep(0.01)
        return found

    monkeypatch.setattr(ApiGateways, "is_undecided", late)
    armed.set()
    changed = builders.service(namespace="team", ports=[builders.udp(), builders.udp(54, "more")])
    running.server.put(changed)
    until(lambda: not armed.is_set())
    until(lambda: caches.is_undecided(KEY))
    running.quiet()
    assert running.filter(NAME)


def test_a_pod_that_does_not_respond_holds_up_no_other_namespace(running: Routed) -> None:
    respond, free = running.envoys.run, threading.Event()

    def run(namespace: str, pod: str, *more: Any) -> Any:
        if pod == "edge-1":
            free.wait(30)
        return respond(namespace, pod, *more)

    silent = [
        gateway(listener(port=5310 + n), name=f"slow{n}", namespace="other", annotations=AT_EDGE)
        for n in range(4)
    ]
    running.begin(*silent)
    running.server.run = run
    running.server.put(gateway(annotations=TARGET), route())
    try:
        until(lambda: running.conditions().get("Programmed") == ("True", "Programmed"), 10)
    finally:
        free.set()
