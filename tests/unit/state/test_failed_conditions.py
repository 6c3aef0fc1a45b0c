from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model.gatewayapi import CONTROLLER_NAME
from kubectl_istio_udp.state.failed_conditions import failing
from tests.support.routes import gateway, gateway_class, mirrored_route, route


def condition(kind: str, reason: str, holds: bool = False, generation: int = 1) -> dict[str, Any]:
    status = "True" if holds else "False"
    usual = {"status": status, "reason": reason, "message": f"why {kind}"}
    return {"type": kind, "observedGeneration": generation, **usual}


GOOD = [condition("Accepted", "Accepted", True), condition("Programmed", "Programmed", True)]


def at(*conditions: Any, controller: str = CONTROLLER_NAME, name: str = "udp") -> dict[str, Any]:
    return {
        "parentRef": {"name": name},
        "controllerName": controller,
        "conditions": list(conditions),
    }


def rows(gateways: Any = (), routes: Any = ()) -> list[tuple[str, str, str, str]]:
    found = failing([gateway_class(), gateway_class("istio", controller="x")], gateways, routes)
    return [(each.kind, each.part, each.type, each.reason) for each in found]


def served(**status: Any) -> dict[str, Any]:
    return {**gateway(), "status": {"conditions": GOOD, **status}}


def test_good_conditions_are_not_shown() -> None:
    resolved = condition("ResolvedRefs", "ResolvedRefs", True)
    listeners = [{"name": "dns", "conditions": [*GOOD, condition("Conflicted", "NoConflicts")]}]
    good = route(status={"parents": [at(GOOD[0], resolved)]})
    assert rows([served(listeners=listeners)], [good]) == []


def test_conditions_of_gateways_and_listeners() -> None:
    bad = served(conditions=[GOOD[0], condition("Programmed", "Invalid")])
    assert rows([bad]) == [("Gateway", "", "Programmed", "Invalid")]
    taken = [
        condition("Accepted", "PortUnavailable"),
        condition("Conflicted", "PortUnavailable", True),
    ]
    assert rows([served(listeners=[{"name": "dns", "conditions": taken}])]) == [
        ("Gateway", "dns", "Accepted", "PortUnavailable"),
        ("Gateway", "dns", "Conflicted", "PortUnavailable"),
    ]


def test_conditions_of_routes() -> None:
    refused = at(GOOD[0], condition("ResolvedRefs", "RefNotPermitted"))
    partly = at(GOOD[0], condition("PartiallyInvalid", "UnsupportedValue", True))
    found = [
        route(status={"parents": [refused]}),
        route(name="other", status={"parents": [partly]}),
    ]
    assert rows([served()], found) == [
        ("UDPRoute", "team/udp", "ResolvedRefs", "RefNotPermitted"),
        ("UDPRoute", "team/udp", "PartiallyInvalid", "UnsupportedValue"),
    ]


def test_what_the_controller_has_not_reported_yet() -> None:
    old = served(conditions=[condition("Accepted", "Accepted", True, generation=0)])
    assert rows([old], [route()]) == [
        ("Gateway", "", "", "Pending"),
        ("UDPRoute", "team/udp", "", "Pending"),
    ]


def test_other_controllers_are_not_shown() -> None:
    other = {**gateway(class_name="istio"), "status": {}}
    foreign = at(condition("Accepted", "No"), controller="x")
    assert rows([other], [route()]) == []
    mine = at(GOOD[0])
    assert rows([served()], [route(status={"parents": [foreign, mine]})]) == []


def test_routes_of_other_kinds_that_istiod_has_not_reported_on() -> None:
    pending = {**condition("Accepted", "Pending"), "status": "Unknown"}
    found = mirrored_route("TCPRoute", status={"parents": [at(pending)]})
    assert rows([served()], [found]) == [("TCPRoute", "team/udp", "Accepted", "Pending")]
