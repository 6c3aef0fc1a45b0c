"""What the controller writes into statuses, and when."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kubectl_istio_udp.controller.reconcile import Reconciler
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.resources import API_GATEWAY
from tests.support.apiserver import ApiServer
from tests.support.controlling import space, until
from tests.support.routed import TARGET, Routed, edge, read, routed, services
from tests.support.routes import gateway, gateway_class, listener, mirrored_route, route

PLACE = "istio-system"


@pytest.fixture
def running(api: Api, server: ApiServer) -> Iterator[Routed]:
    """With a second gateway, `edge`."""
    with routed(
        api,
        server,
        *(space(name) for name in ("team", PLACE)),
        *services("team", "coredns"),
        *services(PLACE, "coredns"),
        *edge(),
    ) as found:
        yield found


class Blocked:
    """Lets no exposure be reconciled until it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = threading.Event()
        self.free.set()
        reconcile = Reconciler.reconcile

        def wait(reconciler: Reconciler, *arguments: Any) -> Any:
            self.free.wait(60)
            return reconcile(reconciler, *arguments)

        monkeypatch.setattr(Reconciler, "reconcile", wait)


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    found = Blocked(monkeypatch)
    yield found
    found.free.set()


def parameters(name: str) -> Any:
    return {"parametersRef": {"group": "", "kind": "Service", "name": name}}


def named(name: str, generation: int = 1, status: Any = None, **more: Any) -> Any:
    """A Gateway whose parametersRef names a gateway."""
    found = gateway(namespace=PLACE, infrastructure=parameters(name), **more)
    found["metadata"]["generation"] = generation
    return {**found, **({"status": status} if status else {})}


def told(running: Routed) -> dict[str, tuple[Any, ...]]:
    """Status, reason and generation of the Gateway's conditions."""
    conditions = running.status(API_GATEWAY, "udp", PLACE).get("conditions", ())
    return {c["type"]: (c["status"], c["reason"], c["observedGeneration"]) for c in conditions}


def generations_meanwhile(running: Routed, blocked: Blocked) -> set[int]:
    """The generations of the conditions when the Gateway names `edge`, which nobody reconciles."""
    blocked.free.clear()
    running.server.put(named("edge", 2, running.status(API_GATEWAY, "udp", PLACE)))
    # Another change of what the Gateway's status depends on.
    running.server.put(route(namespace=PLACE, name="more", created="2026-05-01T00:00:00Z"))
    until(lambda: running.status("UDPRoute", "more", PLACE).get("parents"))
    running.quiet()
    return {generation for _, _, generation in told(running).values()}


def test_the_former_gateway_s_outcome_is_not_reported_for_another_one(
    running: Routed, blocked: Blocked
) -> None:
    running.begin(named("istio-ingressgateway"), route(namespace=PLACE))
    until(lambda: told(running).get("Programmed") == ("True", "Programmed", 1))
    running.quiet()
    assert generations_meanwhile(running, blocked) == {1}
    blocked.free.set()
    until(lambda: told(running).get("Programmed") == ("True", "Programmed", 2))


def test_a_failed_write_is_not_reported_for_another_request(
    running: Routed, blocked: Blocked
) -> None:
    running.server.fail("PATCH", "/envoyfilters/", 403)
    running.begin(named("istio-ingressgateway"), route(namespace=PLACE))
    until(lambda: "403" in str(running.status(API_GATEWAY, "udp", PLACE)))
    assert generations_meanwhile(running, blocked) == {1}


@pytest.mark.parametrize("waits", ["listener", "cooldown"])
def test_it_is_pending_until_it_has_moved_to_another_gateway(running: Routed, waits: str) -> None:
    """It waits until the listener there is gone, or until it may change."""
    running.wait_for(**{waits: 60.0})
    running.begin(named("istio-ingressgateway"), route(namespace=PLACE))
    until(lambda: told(running).get("Programmed") == ("True", "Programmed", 1))
    running.server.put(named("edge", 2, running.status(API_GATEWAY, "udp", PLACE)))
    until(lambda: told(running).get("Programmed") == ("False", "Pending", 2))
    message = running.status(API_GATEWAY, "udp", PLACE)["conditions"][1]["message"]
    assert message == "the gateway does not have this change yet"


def test_a_move_that_fails_is_pending(running: Routed) -> None:
    """The Service cannot be changed, so nothing is at the new gateway."""
    running.begin(named("istio-ingressgateway"), route(namespace=PLACE))
    until(lambda: told(running).get("Programmed") == ("True", "Programmed", 1))
    running.server.fail("DELETE", "/services/", 403)
    running.server.fail("PATCH", "/services/", 403)
    running.server.put(named("edge", 2, running.status(API_GATEWAY, "udp", PLACE)))
    until(lambda: "403" in str(running.status(API_GATEWAY, "udp", PLACE)["conditions"]))
    assert told(running).get("Programmed") == ("False", "Pending", 2)


def test_an_earlier_refusal_is_not_reported_for_a_corrected_request(
    running: Routed, blocked: Blocked
) -> None:
    """`expose --api udproute` would roll back what the controller is about to accept."""
    running.begin(gateway(listener(port=53), annotations=TARGET), route())
    until(lambda: running.conditions().get("Programmed") == ("False", "Invalid"))
    running.quiet()
    blocked.free.clear()
    corrected = gateway(annotations=TARGET)
    corrected["metadata"]["generation"] = 2
    running.server.put({**corrected, "status": running.status(API_GATEWAY, "udp")})
    running.server.put(route(name="more", created="2026-05-01T00:00:00Z"))
    until(lambda: running.route_conditions("more"))
    running.quiet()
    conditions = running.status(API_GATEWAY, "udp")["conditions"]
    assert {each["observedGeneration"] for each in conditions} == {1}
    blocked.free.set()
    running.programmed()


def test_routes_that_may_no_longer_attach_are_decided_before_that_is_reported(
    running: Routed, blocked: Blocked
) -> None:
    """The ports are those of the earlier generation, but not the routes of its listeners."""
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    running.quiet()
    blocked.free.clear()
    changed = gateway(listener(from_="None"), annotations=TARGET)
    changed["metadata"]["generation"] = 2
    running.server.put({**changed, "status": running.status(API_GATEWAY, "udp")})
    until(lambda: running.route_conditions()["Accepted"] == ("False", "NotAllowedByListeners"))
    running.quiet()
    conditions = running.status(API_GATEWAY, "udp")["conditions"]
    assert {each["observedGeneration"] for each in conditions} == {1}
    blocked.free.set()
    until(lambda: running.attached() == [0])
    running.programmed()
    assert not any(weight for _, weight in running.weights())


def test_an_address_that_the_gateway_s_own_service_gets_later_is_reported(running: Routed) -> None:
    service = running.server.get("Service", PLACE, "istio-ingressgateway")
    service["status"] = {}
    notes = {**TARGET, "kubectl-istio-udp/gateway-service": "patch"}
    allowed = space("team", **{"kubectl-istio-udp/allow-gateway-service": "patch"})
    running.begin(service, allowed, gateway(annotations=notes), route())
    until(lambda: running.conditions().get("Programmed") == ("False", "AddressNotAssigned"))
    running.quiet()
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.77"}]}}
    key = ("Service", PLACE, "istio-ingressgateway")
    running.server.merge(key, {"metadata": {}, "status": status}, "cloud")
    running.programmed()
    addresses = running.status(API_GATEWAY, "udp")["addresses"]
    assert addresses == [{"type": "IPAddress", "value": "203.0.113.77"}]


def test_a_gateway_without_any_supported_listener_gets_a_status(running: Routed) -> None:
    running.begin(gateway(listener(protocol="example.com/none"), annotations=TARGET))
    until(lambda: running.conditions().get("Accepted") == ("False", "ListenersNotValid"))
    (status,) = running.status(API_GATEWAY, "udp")["listeners"]
    assert read(status["conditions"])["Accepted"] == ("False", "UnsupportedProtocol")


def test_statuses_stay_while_the_class_is_missing(running: Routed) -> None:
    """It may be replaced, and comes back with nothing to write."""
    running.server.put(
        gateway(annotations=TARGET),
        route(),
        gateway(listener("web", 80, "HTTP"), namespace=PLACE),
        mirrored_route(namespace=PLACE),
    )
    running.begin()
    running.programmed()
    until(lambda: running.status("HTTPRoute", "web", PLACE).get("parents"))
    until(lambda: running.status("UDPRoute", "dns").get("parents"))
    running.quiet()
    before = statuses(running)
    running.server.remove("GatewayClass", "", "istio-udp")
    running.quiet()
    assert statuses(running) == before
    # Nor does a controller write anything that starts without the class.
    running.controllers.pop().stop()
    running.start("two", gateway_api=True)
    running.quiet()
    assert statuses(running) == before
    # Nobody decides about a parent that a route no longer has.
    fewer = running.server.get("UDPRoute", "team", "dns")
    fewer["spec"]["parentRefs"] = []
    running.server.put(fewer)
    until(lambda: running.status("UDPRoute", "dns")["parents"] == [])
    running.server.put(gateway_class())
    running.quiet()
    assert statuses(running)["HTTPRoute"] == before["HTTPRoute"]
    # Its listener has lost its route, so the Gateway may be pending until Envoy has that.
    as_before = read(before[API_GATEWAY]["conditions"])
    until(lambda: read(statuses(running)[API_GATEWAY]["conditions"]) == as_before)


def statuses(running: Routed) -> dict[str, Any]:
    return copy.deepcopy(
        {
            "UDPRoute": running.status("UDPRoute", "dns"),
            "HTTPRoute": running.status("HTTPRoute", "web", PLACE),
            API_GATEWAY: running.status(API_GATEWAY, "udp"),
        }
    )


def test_labels_of_a_namespace_with_gateways_decide_about_its_routes(running: Routed) -> None:
    """Its labels also decide which gateways istiod reads, which concerns everything else."""
    selector = {"matchLabels": {"dns": "yes"}}
    selected = listener(namespaces={"from": "Selector", "selector": selector})
    parents = [{"name": "udp", "namespace": "team"}]
    running.begin(gateway(selected, annotations=TARGET), route(namespace=PLACE, parents=parents))

    def accepted() -> Any:
        found = running.status("UDPRoute", "dns", PLACE).get("parents")
        return read(found[0]["conditions"])["Accepted"] if found else None

    until(lambda: accepted() == ("False", "NotAllowedByListeners"))
    running.quiet()
    labelled = running.server.get("Namespace", "", PLACE)
    labelled["metadata"]["labels"] = {"dns": "yes"}
    running.server.put(labelled)
    until(lambda: accepted() == ("True", "Accepted"))
    until(lambda: running.attached() == [1])


def test_a_permission_that_comes_with_a_label_is_reported(running: Routed) -> None:
    running.begin(
        named("istio-ingressgateway"),
        route(namespace=PLACE, annotations={"kubectl-istio-udp/session-log": "true"}),
    )

    def types() -> set[str]:
        parents = running.status("UDPRoute", "dns", PLACE).get("parents", ())
        return {each["type"] for parent in parents for each in parent["conditions"]}

    until(lambda: "PartiallyInvalid" in types())
    running.quiet()
    changed = running.server.get("Namespace", "", PLACE)
    changed["metadata"]["labels"] = {"dns": "yes"}
    changed["metadata"]["annotations"]["kubectl-istio-udp/allow-session-log"] = "true"
    running.server.put(changed)
    until(lambda: types() == {"Accepted", "ResolvedRefs"})


def test_a_class_has_the_features_of_the_kinds_that_are_installed(running: Routed) -> None:
    def features() -> set[str]:
        found = running.status("GatewayClass", "istio-udp", "").get("supportedFeatures", ())
        return {each["name"] for each in found}

    running.server.installed.discard("TLSRoute")
    running.begin()
    until(lambda: features() == {"GRPCRoute", "Gateway", "HTTPRoute", "ReferenceGrant", "UDPRoute"})
    running.server.installed.add("TLSRoute")
    until(lambda: "TLSRouteModeMixed" in features())
    before = running.quiet()
    running.server.installed.discard("GRPCRoute")
    running.server.compact()
    running.server.cut_watches()
    until(lambda: "GRPCRoute" not in features())
    assert len(running.server.writes()) == len(before) + 1


def test_a_class_is_accepted_where_features_have_another_format(running: Routed) -> None:
    """In the experimental channel of Gateway API 1.0 and 1.1 they were strings."""

    def only_strings(stored: Any) -> str:
        features = (stored.get("status") or {}).get("supportedFeatures", ())
        return "" if all(isinstance(each, str) for each in features) else "must be a string"

    running.server.admit = only_strings
    running.begin()
    until(lambda: running.status("GatewayClass", "istio-udp", "").get("conditions"))
    running.quiet()
