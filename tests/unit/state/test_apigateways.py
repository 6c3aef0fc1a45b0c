"""What the caches keep of the Gateway API's objects, and in which order it is reported."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from kubectl_istio_udp.kube import watch
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import Cache, Key
from kubectl_istio_udp.state.apigateways import GATEWAY, ApiGateways, RouteWatch, Subject
from tests.support.routes import (
    backend,
    gateway,
    gateway_class,
    grant,
    listener,
    mirrored_route,
    route,
)

MOST = 300_000
LABELS = {f"label-{n}": f"value-{n}" for n in range(100)}
SELECTOR = {"from": "Selector", "selector": {"matchLabels": LABELS}}
NAMES = tuple(LABELS)[:16]
PARENTS = [{"name": f"gateway-{n}"} for n in range(32)]


def test_routes_are_copied_oldest_first(api: Api) -> None:
    """istiod gives precedence to the older of two routes, and copies are as old as their writes."""
    gateways = api_gateways(api)
    ages = [("team", "young", 3), ("apps", "older", 2), ("team", "oldest", 1), ("apps", "also", 3)]
    for number, (namespace, name, day) in enumerate(ages, 1):
        created = f"2026-01-0{day}T00:00:00Z"
        found = mirrored_route(name=name, namespace=namespace, created=created)
        found["metadata"]["resourceVersion"] = str(number)
        gateways.mirrored["HTTPRoute"].learn(found)
    names = [name for kind, _, name in gateways.subjects() if kind == "HTTPRoute"]
    assert names == ["oldest", "older", "also", "young"]


@pytest.mark.parametrize(
    ("of", "make"),
    [
        (lambda g: g.gateways, lambda: gateway(listener(namespaces=SELECTOR))),
        (
            lambda g: g.gateways,
            lambda: gateway(infrastructure={"annotations": {"a": "y" * 40_000}}),
        ),
        (lambda g: g.routes, lambda: route(*map(backend, NAMES), parents=PARENTS)),
        (lambda g: g.mirrored["HTTPRoute"], lambda: mirrored_route(parents=PARENTS)),
        (lambda g: g.grants, lambda: grant(*[{"kind": "Service", "name": n} for n in NAMES])),
    ],
)
def test_a_namespace_does_not_fill_the_memory(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    of: Callable[[ApiGateways], Cache[Any]],
    make: Callable[[], Any],
) -> None:
    """However many of its objects there are, and whatever they contain."""
    monkeypatch.setattr(watch, "NAMESPACE_BYTES", MOST)
    cache = of(api_gateways(api))
    text = json.dumps(make())
    tracemalloc.start()
    for number in range(100):
        manifest = json.loads(text)
        manifest["metadata"] |= {"name": f"a-{number}", "resourceVersion": str(number + 1)}
        cache.learn(manifest)
    needed = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert needed < 2 * MOST
    manifest["metadata"]["namespace"] = "other"
    cache.learn(manifest)
    assert cache.get("other", "a-99")


def api_gateways(
    api: Api,
    changed: Callable[[Key], None] = lambda _: None,
    report: Callable[[Subject], None] = lambda _: None,
) -> ApiGateways:
    """The caches of the Gateway API, without other objects."""
    return ApiGateways(
        api,
        service=lambda *_: None,
        labels=lambda _: None,
        changed=changed,
        grants_changed=lambda _: None,
        permitted=lambda: None,
        creates_in=(),
        watch=RouteWatch(report=report, installed=1.0),
    )


class Watched:
    """The caches of the Gateway API, fed by hand, and the Gateways that they reported."""

    def __init__(self, api: Api) -> None:
        self.changed: list[tuple[str, str]] = []
        self.reported: list[tuple[str, str, str]] = []
        self.caches = api_gateways(api, self.changed.append, self.reported.append)
        self._versions = itertools.count(1)
        self.learn(self.caches.classes, gateway_class())

    def learn(self, cache: Cache[Any], *manifests: Any) -> set[tuple[str, str]]:
        """Let a cache have objects; return the Gateways that it reported."""
        self.changed.clear()
        self.reported.clear()
        for manifest in manifests:
            manifest["metadata"]["resourceVersion"] = str(next(self._versions))
            cache.learn(manifest)
        return {*self.changed, *(key[1:] for key in self.reported if key[0] == "Gateway")}


@pytest.fixture
def watched(api: Api) -> Watched:
    return Watched(api)


def parents_in(namespace: str, count: int = 32) -> list[Any]:
    return [{"name": f"gateway-{n}", "namespace": namespace} for n in range(count)]


def test_a_route_queues_no_gateways_that_do_not_exist(watched: Watched) -> None:
    """They would take the turns of the namespace that it names."""
    attack = route(namespace="attack", parents=parents_in("team"))
    assert watched.learn(watched.caches.routes, attack) == set()
    watched.caches.service_changed(("attack", "coredns"))
    assert not watched.changed
    assert watched.caches.gateways_of_service(("attack", "coredns")) == set()


def test_a_route_queues_no_gateway_that_does_not_admit_it(watched: Watched) -> None:
    parents = parents_in("team", 2)
    closed, opened = gateway(name="gateway-0"), gateway(listener(from_="All"), name="gateway-1")
    watched.learn(watched.caches.gateways, closed, opened)
    attack = route(namespace="attack", parents=parents)
    assert watched.learn(watched.caches.routes, attack) == {("team", "gateway-1")}
    own = route(parents=parents)
    found = {("team", "gateway-0"), ("team", "gateway-1")}
    assert watched.learn(watched.caches.routes, own) == found


def test_routes_without_permission_do_not_follow_a_service(watched: Watched) -> None:
    """Anybody can refer to it, with any number of routes."""
    caches, service = watched.caches, ("team", "coredns")
    watched.learn(caches.gateways, gateway(namespace="attack"))
    foreign = [
        route(backend(namespace="team"), name=f"dns-{n}", namespace="attack") for n in range(9)
    ]
    watched.learn(caches.routes, *foreign)
    watched.changed.clear()
    watched.reported.clear()
    caches.service_changed(service)
    assert not watched.changed and not watched.reported
    assert caches.gateways_of_service(service) == set()
    permits = grant(namespace="team", origin="attack")
    assert watched.learn(caches.grants, permits) == {("attack", "udp")}
    assert caches.gateways_of_service(service) == {("attack", "udp")}
    watched.changed.clear()
    caches.service_changed(service)
    assert set(watched.changed) == {("attack", "udp")}


def test_the_status_of_a_gateway_affects_no_routes(watched: Watched) -> None:
    """With each of 2,000 routes that attaches, the status changes: all routes each time."""
    caches, found = watched.caches, gateway()
    watched.learn(caches.gateways, found)
    watched.learn(caches.routes, *[route(name=f"dns-{n}") for n in range(9)])
    found = {**found, "status": {"listeners": [{"name": "dns", "attachedRoutes": 9}]}}
    watched.learn(caches.gateways, found)
    assert watched.reported == [(GATEWAY, "team", "udp")] and not watched.changed
    found = {**found, "spec": {**found["spec"], "listeners": [listener("other")]}}
    watched.learn(caches.gateways, found)
    assert len({each for each in watched.reported if each[0] == "UDPRoute"}) == 9
    assert watched.changed == [("team", "udp")]


def test_a_grant_that_permits_the_same_affects_nothing(watched: Watched) -> None:
    caches, found = watched.caches, grant()
    watched.learn(caches.gateways, gateway())
    watched.learn(caches.routes, route(backend(namespace="apps")))
    assert watched.learn(caches.grants, found) == {("team", "udp")}
    found["metadata"]["labels"] = {"some": "label"}
    watched.learn(caches.grants, found)
    assert not watched.reported and not watched.changed
