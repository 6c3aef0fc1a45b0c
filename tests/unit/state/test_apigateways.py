"""What the caches keep of the Gateway API's objects, and in which order it is reported."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from kubectl_istio_udp.kube import watch
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import Cache, Key
from kubectl_istio_udp.state.apigateways import ApiGateways, RouteWatch, Subject
from tests.support.routes import (
    backend,
    gateway,
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
