"""What istiod's reports on copies say about the originals."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kubectl_istio_udp.controller.conditions import ApiCondition
from kubectl_istio_udp.controller.mirrored import mirror, parent_conditions
from kubectl_istio_udp.model.gatewayapi import ApiGateway, ParentRef
from kubectl_istio_udp.render.childgateway import child_gateway
from kubectl_istio_udp.render.routeclone import route_clone
from tests.support.routes import gateway, listener, mirrored_route

WANTED = child_gateway(ApiGateway.from_object(gateway(listener("web", 80, "HTTP"))))
CONTROLLER = "istio.io/gateway-controller"


def condition(kind: str, generation: int | None = 3, status: str = "True") -> dict[str, Any]:
    found = {"type": kind, "status": status, "reason": kind, "message": ""}
    return found if generation is None else {**found, "observedGeneration": generation}


def child() -> dict[str, Any]:
    """The created Gateway in its third generation, about which istiod has reported."""
    found = copy.deepcopy(WANTED)
    found["metadata"]["generation"] = 3
    seen = {"name": "web", "attachedRoutes": 2, "conditions": [condition("Accepted")]}
    found["status"] = {
        "conditions": [condition("Accepted"), condition("Programmed")],
        "listeners": [seen],
        "addresses": [{"type": "IPAddress", "value": "203.0.113.9"}],
    }
    return found


def test_a_current_report() -> None:
    found = mirror(child(), WANTED)
    assert not found.pending and set(found.conditions) == {"Accepted", "Programmed"}
    assert found.listeners["web"].attached == 2 and found.listeners["web"].accepted


def _older(found: Any) -> None:
    found["metadata"]["generation"] = 4


def _edited(found: Any) -> None:
    found["spec"]["listeners"][0]["hostname"] = "evil.example"


def _added(found: Any) -> None:
    found["spec"]["addresses"] = [{"value": "10.0.0.1"}]


def _fresh(found: Any) -> None:
    """The conditions that the CRD sets by default."""
    unseen = {**condition("Programmed", None, "Unknown"), "reason": "Pending"}
    found["status"] = {"conditions": [unseen]}


def _one_listener_late(found: Any) -> None:
    found["status"]["listeners"] = []


@pytest.mark.parametrize("change", [_older, _edited, _added, _fresh, _one_listener_late])
def test_a_report_that_is_not_current(change: Any) -> None:
    found = child()
    change(found)
    assert mirror(found, WANTED).pending


@pytest.mark.parametrize("change", [_older, _edited])
def test_clients_keep_the_address_of_a_created_gateway_that_is_not_current(change: Any) -> None:
    """It goes on serving, for example while the API server rejects its change."""
    found = child()
    change(found)
    assert mirror(found, WANTED, "rejected").addresses == (("IPAddress", "203.0.113.9"),)


def test_the_address_of_a_gateway_that_somebody_else_created_is_not_repeated() -> None:
    found = child()
    found["metadata"]["ownerReferences"] = []
    assert mirror(found, WANTED, "taken").addresses == ()


def test_a_listener_counts_when_it_is_current_itself() -> None:
    found = child()
    found["metadata"]["generation"] = 4
    found["status"]["conditions"] = [condition("Accepted", 4), condition("Programmed", 4)]
    assert mirror(found, WANTED).listeners == {}
    found["status"]["listeners"][0]["conditions"] = [condition("Accepted", 4, "False")]
    assert not mirror(found, WANTED).listeners["web"].accepted


def test_conditions_of_other_controllers_do_not_matter() -> None:
    found = child()
    found["status"]["conditions"].append(condition("kuadrant.io/DNS", 1))
    found["status"]["listeners"][0]["conditions"].append(condition("kuadrant.io/DNS", 1))
    assert not mirror(found, WANTED).pending


def test_why_it_is_pending() -> None:
    name = WANTED["metadata"]["name"]
    assert mirror(None, WANTED, "no right").pending == "no right"
    assert name in mirror(None, WANTED).pending
    _fresh(found := child())
    assert mirror(found, WANTED).pending == f"istiod has not reported on Gateway {name} yet"


ORIGINAL = mirrored_route()
REFS = [{"name": "child"}, {"name": "child", "sectionName": "web"}]
PARENTS = [ParentRef.from_object(ref, "team") for ref in REFS]
CLONE = route_clone(ORIGINAL, PARENTS)


def entry(ref: Any, *found: Any, controller: str = CONTROLLER) -> dict[str, Any]:
    return {"parentRef": ref, "controllerName": controller, "conditions": list(found)}


def clone(*entries: Any) -> dict[str, Any]:
    found = copy.deepcopy(CLONE)
    found["metadata"]["generation"] = 3
    return {**found, "status": {"parents": list(entries)}}


def test_a_copy_attaches_to_created_gateways_only() -> None:
    original = copy.deepcopy(ORIGINAL)
    original["spec"]["useDefaultGateways"] = "All"
    assert route_clone(original, PARENTS) == CLONE


def test_the_parents_of_a_route_are_distinguished() -> None:
    # With the defaults written out, as istiod may do it.
    first = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "team"}
    found = clone(
        entry({**first, **REFS[0]}, condition("Accepted")),
        entry(REFS[1], condition("Accepted", status="False")),
    )
    conditions = [parent_conditions(found, CLONE, parent, CONTROLLER) for parent in PARENTS]
    assert conditions == [
        (ApiCondition("Accepted", True, "Accepted"),),
        (ApiCondition("Accepted", False, "Accepted"),),
    ]


@pytest.mark.parametrize(
    "found",
    [
        None,
        clone(),
        clone(entry(REFS[0], condition("Accepted"), controller="example.com/c")),
        clone(entry(REFS[0], condition("Accepted", 2))),
        clone(entry(REFS[1], condition("Accepted"))),
        {**clone(entry(REFS[0], condition("Accepted"))), "spec": {**CLONE["spec"], "rules": []}},
    ],
)
def test_conditions_that_istiod_has_not_reported(found: Any) -> None:
    assert parent_conditions(found, CLONE, PARENTS[0], CONTROLLER) is None
