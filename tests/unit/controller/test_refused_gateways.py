"""What goes on, and what ends, while the request of a Gateway is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.names import object_name
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.sources.gateways import child_key, exposure_key, is_child_of, needs_child
from tests.support.apiserver import ApiServer
from tests.support.controlling import annotated, space, until
from tests.support.routed import KEY, NAME, TARGET, Routed, made_by_istiod, read, routed, services
from tests.support.routes import backend, gateway, listener, route

TWO = [listener("a", 5300), listener("b", 5301)]
AT_A, AT_B = ([{"name": "udp", "sectionName": name}] for name in "ab")
ROUTES = [route(name="a", parents=AT_A), route(backend("canary"), name="b", parents=AT_B)]
MISSPELLED = {"kubectl-istio-udp/afinity": "source-ip"}
LIMIT = {
    "kubectl-istio-udp/allow-sessions": "6000",
    "kubectl-istio-udp/allow-total-sessions": "5000",
}


@pytest.fixture
def running(api: Api, server: ApiServer) -> Iterator[Routed]:
    spaces = [space(name) for name in ("team", "other")]
    with routed(api, server, *spaces, *services("team", "coredns", "canary")) as found:
        yield found


def ports(running: Routed, name: str = NAME) -> list[int]:
    return [port.gateway_port for port in running.spec(name).ports] if running.filter(name) else []


def accepted(running: Routed, name: str = "udp") -> dict[str, tuple[str, str]]:
    """The condition Accepted of each listener."""
    listeners = running.status(API_GATEWAY, name).get("listeners", ())
    return {each["name"]: read(each["conditions"])["Accepted"] for each in listeners}


def test_a_listener_that_moved_to_a_taken_port_stops(running: Routed) -> None:
    running.server.put(annotated(namespace="other", ports="5301:53"))
    running.begin(gateway(annotations=TARGET), route())
    running.exposed(object_name("other", "coredns"))
    running.programmed()
    running.server.put(gateway(listener(port=5301), annotations=TARGET))
    until(lambda: running.filter(NAME) is None and running.companion(NAME) is None)
    until(lambda: accepted(running) == {"dns": ("False", "PortUnavailable")})
    running.server.remove("Service", "other", "coredns")
    until(lambda: ports(running) == [5301])
    running.programmed()


def refuse(running: Routed, how: str, *listeners: Any) -> None:
    """Change the Gateway so that its request is refused as a whole."""
    notes, more = dict(TARGET), dict[str, Any]()
    if how == "a misspelled annotation":
        notes |= MISSPELLED
    elif how == "spec.addresses":
        more["addresses"] = [{"type": "IPAddress", "value": "192.0.2.7"}]
    elif how == "a setting that is not allowed":
        notes["kubectl-istio-udp/idle-timeout"] = "20h"
    elif how == "a limit of the namespace":
        notes["kubectl-istio-udp/max-sessions"] = "6000"
        running.server.put(space("team", **LIMIT))
    elif how == "a malformed limit of the namespace":
        running.server.put(space("team", **{"kubectl-istio-udp/allow-sessions": "many"}))
    running.server.put(gateway(*listeners, annotations=notes, **more))


REFUSALS = [
    "a misspelled annotation",
    "spec.addresses",
    "a setting that is not allowed",
    "a limit of the namespace",
    "a malformed limit of the namespace",
]


@pytest.mark.parametrize("how", REFUSALS)
def test_what_is_deleted_stops_although_the_rest_is_refused(running: Routed, how: str) -> None:
    running.begin(gateway(*TWO, annotations=TARGET), *ROUTES)
    running.programmed()
    running.quiet()
    refuse(running, how, *TWO)
    until(lambda: running.conditions().get("Programmed", "?")[0] == "False")
    running.quiet()
    assert ports(running) == [5300, 5301] and running.weights() == [("coredns", 1), ("canary", 1)]
    # A route,
    running.server.remove("UDPRoute", "team", "b")
    until(lambda: running.weights() == [("coredns", 1)])
    assert running.routed().ports[1].dropped == 1
    until(lambda: len(running.server.all("ServiceEntry")) == 1)
    # a listener,
    refuse(running, how, TWO[0])
    until(lambda: ports(running) == [5300])
    until(lambda: [p["port"] for p in running.companion(NAME)["spec"]["ports"]] == [5300])
    # and the last one.
    refuse(running, how, listener("other", 5399))
    until(lambda: 5300 not in ports(running))


def test_the_successor_of_a_deleted_route_gets_nothing_while_refused(running: Routed) -> None:
    young = route(backend("canary"), name="young", created="2026-05-01T00:00:00Z")
    running.begin(gateway(annotations=TARGET), route(), young)
    running.programmed()
    refuse(running, "spec.addresses")
    until(lambda: running.conditions().get("Accepted") == ("False", "UnsupportedAddress"))
    running.server.remove("UDPRoute", "team", "dns")
    until(lambda: running.weights() == [])
    running.server.put(gateway(annotations=TARGET))
    until(lambda: running.weights() == [("canary", 1)])


def test_a_listener_whose_port_is_not_allowed_does_not_stop_the_others(running: Routed) -> None:
    running.begin(gateway(listener("a", 5300), listener("far", 9999), annotations=TARGET), route())
    running.programmed()
    assert ports(running) == [5300]
    refused = ("False", "PortUnavailable")
    until(lambda: accepted(running) == {"a": ("True", "Accepted"), "far": refused})
    assert running.conditions().get("Accepted") == ("True", "ListenersNotValid")
    (far,) = (e for e in running.status(API_GATEWAY, "udp")["listeners"] if e["name"] == "far")
    assert read(far["conditions"])["Conflicted"] == ("False", "NoConflicts")
    assert "gateway port 9999 is not allowed (annotation kubectl-istio-udp/allow" in str(far)
    running.server.put(space("team", allow="5300,9999"))
    until(lambda: ports(running) == [5300, 9999])
    until(lambda: running.conditions().get("Accepted") == ("True", "Accepted"))


def test_a_port_that_the_gateway_s_service_has_is_unavailable(running: Routed) -> None:
    service = running.server.get("Service", "istio-system", "istio-ingressgateway")
    theirs = {"name": "quic", "port": 5301, "protocol": "UDP", "targetPort": 5301}
    patched = {**service, "spec": {**service["spec"], "ports": [*service["spec"]["ports"], theirs]}}
    modes = {"kubectl-istio-udp/allow-gateway-service": "patch"}
    running.server.put(patched, space("team", **modes))
    notes = {**TARGET, "kubectl-istio-udp/gateway-service": "patch"}
    running.begin(gateway(*TWO, annotations=notes), *ROUTES)
    until(lambda: ports(running) == [5300])
    until(lambda: accepted(running).get("b") == ("False", "PortUnavailable"))
    assert accepted(running)["a"] == ("True", "Accepted")
    running.server.put(service)
    until(lambda: ports(running) == [5300, 5301])


@pytest.mark.parametrize("how", ["", "spec.addresses"])
def test_a_port_that_is_no_longer_allowed_stops_at_once(running: Routed, how: str) -> None:
    """Although the gateway may not change for a while; the other listener stays."""
    running.wait_for(cooldown=600.0)
    running.begin(gateway(*TWO, annotations=TARGET), *ROUTES)
    running.programmed()
    if how:
        refuse(running, how, *TWO)
        until(lambda: running.conditions().get("Accepted", "?")[0] == "False")
    running.server.put(space("team", allow="5300"))
    until(lambda: ports(running) == [5300])
    assert running.weights() == [("coredns", 1)]


def test_a_gateway_of_its_own_stays_with_a_malformed_annotation(running: Routed) -> None:
    """It needs no permission for its ports."""
    running.server.put(space("istio-system", allow=None), *services("istio-system", "coredns"))
    at = "istio-system"
    running.begin(gateway(namespace=at), route(namespace=at))
    _, child = child_key((at, "udp"))
    until(lambda: running.server.get(API_GATEWAY, at, child))
    made_by_istiod(running, child)
    name = object_name(*exposure_key((at, "udp")))
    until(lambda: ports(running, name) == [5300])
    running.quiet()
    running.server.put(gateway(namespace=at, annotations=MISSPELLED))

    def said() -> Any:
        return read(running.status(API_GATEWAY, "udp", at).get("conditions", ())).get("Accepted")

    until(lambda: said() == ("False", "Invalid"))
    running.quiet()
    assert ports(running, name) == [5300]


@pytest.mark.parametrize("allow", ["5300-5399", None])
def test_a_gateway_of_its_own_stays_until_the_exposure_is_at_another_one(
    running: Routed, allow: str | None
) -> None:
    """Without it, a name that is misspelled would end what works."""
    at = "istio-system"
    running.server.put(space(at, allow), *services(at, "coredns"))
    running.begin(gateway(namespace=at), route(namespace=at))
    child = child_key((at, "udp"))
    until(lambda: running.server.get(API_GATEWAY, *child))
    made_by_istiod(running, child[1])
    name = object_name(*exposure_key((at, "udp")))
    at_child = partial(is_child_of, gateway=(at, "udp"))
    until(lambda: running.filter(name) and at_child(running.spec(name).gateway))
    running.server.put(gateway(namespace=at, annotations={"kubectl-istio-udp/gateway": "nowhere"}))

    def said() -> Any:
        return read(running.status(API_GATEWAY, "udp", at).get("conditions", ())).get("Programmed")

    until(lambda: said() == ("False", "NoResources"))
    running.quiet()
    assert at_child(running.spec(name).gateway)
    assert running.server.get(API_GATEWAY, *child)
    running.server.put(space(at))
    running.server.put(gateway(namespace=at, annotations=TARGET))
    until(lambda: running.filter(name) and not at_child(running.spec(name).gateway))
    until(lambda: not running.server.get(API_GATEWAY, *child))


def test_a_gateway_of_its_own_stays_while_the_exposure_is_being_written_there(
    running: Routed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server has the EnvoyFilter before the controller knows."""
    at, known = "istio-system", threading.Event()
    running.server.put(space(at), *services(at, "coredns"))
    running.begin(gateway(namespace=at), route(namespace=at))
    child = child_key((at, "udp"))
    until(lambda: running.server.get(API_GATEWAY, *child))
    caches, name = running.controllers[0].caches, object_name(*exposure_key((at, "udp")))
    filters = caches.filters[at]
    learn = filters.learn

    def learn_late(manifest: Mapping[str, Any]) -> None:
        assert manifest["metadata"]["name"] != name or known.wait(60)
        learn(manifest)

    monkeypatch.setattr(filters, "learn", learn_late)
    made_by_istiod(running, child[1])
    until(lambda: running.filter(name))
    running.server.put(gateway(namespace=at, annotations={"kubectl-istio-udp/gateway": "nowhere"}))

    def is_noticed() -> bool:
        found = caches.gateway_of(exposure_key((at, "udp")))
        return found is not None and not needs_child(found)

    until(is_noticed)
    running.quiet()
    assert running.server.get(API_GATEWAY, *child)
    known.set()
    running.quiet()
    assert running.server.get(API_GATEWAY, *child)


def test_a_port_that_is_no_longer_allowed_stops_although_another_gateway_is_requested(
    running: Routed,
) -> None:
    """A gateway of its own needs no permission, but this one has no pods."""
    at = "istio-system"
    running.server.put(space(at), *services(at, "coredns"))
    running.begin(gateway(namespace=at, annotations=TARGET), route(namespace=at))
    name = object_name(*exposure_key((at, "udp")))
    until(lambda: ports(running, name) == [5300])
    running.server.put(gateway(namespace=at))
    until(lambda: running.server.get(API_GATEWAY, *child_key((at, "udp"))))
    running.quiet()
    assert ports(running, name) == [5300]
    running.server.put(space(at, allow=None))
    until(lambda: not running.filter(name))


def test_a_gateway_that_is_not_accepted_gets_no_gateway_of_its_own(running: Routed) -> None:
    at = "istio-system"
    running.server.put(space(at))
    running.begin(gateway(namespace=at, annotations=MISSPELLED))

    def said() -> Any:
        return read(running.status(API_GATEWAY, "udp", at).get("conditions", ())).get("Accepted")

    until(lambda: said() == ("False", "Invalid"))
    running.quiet()
    assert running.server.get(API_GATEWAY, *child_key((at, "udp"))) is None
    running.server.put(gateway(namespace=at))
    until(lambda: running.server.get(API_GATEWAY, *child_key((at, "udp"))))


def test_an_older_gateway_that_may_not_have_a_port_does_not_hold_it(running: Routed) -> None:
    running.server.put(space("other", allow="5399"))
    older = gateway(
        listener("a", 5300),
        listener("b", 5399),
        namespace="other",
        annotations=TARGET,
        created="2026-01-01T00:00:00Z",
    )
    running.begin(older, gateway(annotations=TARGET), route())
    running.programmed()
    assert ports(running) == [5300]
    until(lambda: ports(running, object_name(*exposure_key(("other", "udp")))) == [5399])


def test_a_gateway_without_any_port_says_why(running: Routed) -> None:
    running.begin(gateway(listener(port=53), annotations=TARGET))
    until(lambda: accepted(running) == {"dns": ("False", "PortUnavailable")})
    until(lambda: running.conditions().get("Accepted") == ("False", "ListenersNotValid"))
    assert running.filter(NAME) is None
    told = running.tells("ExposeForbidden", "udp")
    assert "gateway port 53 is not allowed" in told
    assert running.controllers[0]._reconciler.unavailable(KEY).keys() == {53}


@pytest.mark.parametrize("how", ["annotation", "addresses", "parameters"])
def test_a_gateway_that_is_no_longer_accepted_keeps_its_address(running: Routed, how: str) -> None:
    """Its exposure stays; a DNS record that is made from the address must stay too."""
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    before = running.status(API_GATEWAY, "udp")
    wrong: Any = {
        "annotation": gateway(annotations={**TARGET, "kubectl-istio-udp/idle-timeout": "x"}),
        "addresses": gateway(annotations=TARGET, addresses=[{"value": "192.0.2.1"}]),
        "parameters": gateway(
            infrastructure={"parametersRef": {"group": "", "kind": "Service", "name": "gone"}}
        ),
    }[how]
    wrong["metadata"]["generation"] = 2
    running.server.put({**wrong, "status": before})
    until(lambda: running.conditions()["Accepted"][0] == "False")
    assert running.status(API_GATEWAY, "udp")["addresses"] == before["addresses"]
    assert running.filter(NAME)
