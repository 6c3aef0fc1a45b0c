"""Programmed: what the Envoys of a Gateway's pods say."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.resources import API_GATEWAY
from tests.support import builders
from tests.support.apiserver import ApiServer, Exec
from tests.support.controlling import space, until
from tests.support.routed import NAME, TARGET, Routed, read, routed, services
from tests.support.routes import gateway, listener, route

FIRST, SECOND = "istio-ingressgateway-1", "istio-ingressgateway-2"


@pytest.fixture
def running(api: Api, server: ApiServer) -> Iterator[Routed]:
    with routed(api, server, space("team"), *services("team", "coredns")) as found:
        yield found


def message(running: Routed) -> str:
    conditions = running.status(API_GATEWAY, "udp")["conditions"]
    return next(str(each["message"]) for each in conditions if each["type"] == "Programmed")


def programmed(running: Routed) -> dict[str, tuple[str, str]]:
    """The condition Programmed of each listener."""
    listeners = running.status(API_GATEWAY, "udp").get("listeners", ())
    return {each["name"]: read(each["conditions"])["Programmed"] for each in listeners}


def queries(running: Routed) -> int:
    return len(running.envoys.commands)


def added(running: Routed, port: int = 5300) -> Any:
    """The listener that the EnvoyFilter adds for a port."""
    patches = (each["patch"] for each in running.filter(NAME)["spec"]["configPatches"])
    values = (each.get("value") or {} for each in patches)
    return next(copy.deepcopy(v) for v in values if v.get("name") == f"{NAME}-{port}")


def test_a_pod_that_starts_later_is_queried_too(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    running.envoys.without.add(SECOND)
    running.server.put(builders.gateway_pod(SECOND, ready=False))
    running.quiet()
    assert running.conditions()["Programmed"] == ("True", "Programmed")
    running.server.put(builders.gateway_pod(SECOND))
    until(lambda: running.conditions()["Programmed"] == ("False", "Pending"))
    assert f"gateway pod {SECOND} does not yet have listener {NAME}-5300" in message(running)
    running.envoys.without.clear()
    running.programmed()


def test_a_pod_that_replaces_one_of_the_same_name_is_queried(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    running.envoys.without.add(FIRST)
    running.server.remove("Pod", "istio-system", FIRST)
    running.server.put(builders.gateway_pod(FIRST))
    until(lambda: f"gateway pod {FIRST} does not yet have" in message(running))
    assert running.conditions()["Programmed"] == ("False", "Pending")


def test_a_gateway_whose_pods_are_not_ready_is_not_programmed(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    addresses = running.status(API_GATEWAY, "udp")["addresses"]
    running.server.put(builders.gateway_pod(ready=False))
    until(lambda: running.conditions()["Programmed"] == ("False", "Pending"))
    assert "has no ready pod" in message(running)
    assert running.status(API_GATEWAY, "udp")["addresses"] == addresses
    running.server.put(builders.gateway_pod())
    running.programmed()


def test_envoys_are_queried_only_when_something_has_changed(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    running.quiet()
    before = queries(running)
    # Another route and a pod that is not ready: what is served does not change.
    running.server.put(route(name="younger", created="2026-05-01T00:00:00Z"))
    until(lambda: running.attached() == [2])
    running.server.put(builders.gateway_pod(SECOND, ready=False))
    running.quiet()
    assert queries(running) == before


def test_an_earlier_revision_of_a_listener_does_not_suffice(running: Routed) -> None:
    """As for `expose`: the gateway would still have the earlier settings."""
    idle = "kubectl-istio-udp/idle-timeout"
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    running.envoys.stuck = True
    running.server.put(route(annotations={idle: "2m"}))
    until(lambda: running.conditions()["Programmed"] == ("False", "Pending"))
    assert f"does not yet have listener {NAME}-5300" in message(running)
    running.envoys.stuck = False
    running.programmed()


def test_a_listener_that_envoy_rejects_is_not_programmed(running: Routed) -> None:
    """Although Envoy keeps the earlier one; the other listeners are programmed."""
    idle = "kubectl-istio-udp/idle-timeout"
    listeners = listener(), listener("b", 5301)
    running.begin(gateway(*listeners, annotations=TARGET), route())
    running.programmed()
    name = f"{NAME}-5301"
    running.envoys.former[name] = added(running, 5301)
    running.envoys.refuses[name] = "no such field"
    running.server.put(route(annotations={idle: "2m"}))
    until(lambda: running.conditions()["Programmed"] == ("False", "Invalid"))
    until(lambda: programmed(running)["dns"] == ("True", "Programmed"))
    assert programmed(running)["b"] == ("False", "Invalid")
    assert f"rejects listener {name}: no such field" in message(running)
    running.envoys.refuses.clear()
    running.programmed()


def test_a_new_listener_leaves_the_others_programmed(running: Routed) -> None:
    """The new one is written after a while, because gateways are shared."""
    running.wait_for(cooldown=600.0)
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    changed = gateway(listener(), listener("b", 5301), annotations=TARGET)
    changed["metadata"]["generation"] = 2
    changed["status"] = running.status(API_GATEWAY, "udp")
    running.server.put(changed)
    until(lambda: "b" in programmed(running))
    assert programmed(running) == {"dns": ("True", "Programmed"), "b": ("False", "Pending")}
    assert running.conditions()["Programmed"] == ("False", "Pending")
    assert message(running) == "the gateway does not have this change yet"
    found = running.status(API_GATEWAY, "udp")["listeners"][0]["conditions"]
    assert {each["observedGeneration"] for each in found} == {2}


def test_a_new_listener_does_not_hide_that_pods_cannot_be_queried(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    running.envoys.deaf[FIRST] = Exec(code=1)
    changed = gateway(listener(), listener("b", 5301), annotations=TARGET)
    running.server.put({**changed, "status": running.status(API_GATEWAY, "udp")})
    until(lambda: "could not be queried" in message(running))
    # What this generation's status says of the others may still be true.
    assert programmed(running) == {"dns": ("True", "Programmed"), "b": ("False", "Pending")}


def test_a_port_of_istiod_s_own_udp_listener_is_unavailable(running: Routed) -> None:
    """With HTTP/3 istiod adds a UDP listener to the gateway by itself."""
    running.envoys.bound.append(("udp_0.0.0.0_5301", 5301))
    # A TCP listener with the same number does not matter.
    running.envoys.bound.append(("0.0.0.0_5300", 5300))
    running.begin(gateway(listener(), listener("b", 5301), annotations=TARGET), route())
    until(lambda: running.conditions().get("Accepted") == ("True", "ListenersNotValid"))
    running.programmed()
    listeners = running.status(API_GATEWAY, "udp")["listeners"]
    found = {each["name"]: read(each["conditions"]) for each in listeners}
    assert found["dns"]["Accepted"] == ("True", "Accepted")
    assert found["b"]["Accepted"] == ("False", "PortUnavailable")
    assert found["b"]["Conflicted"] == ("True", "PortUnavailable")
    assert "udp_0.0.0.0_5301" in str(listeners[1])
