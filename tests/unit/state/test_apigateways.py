"""The caches of the Gateway API's objects."""

from __future__ import annotations

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.state.apigateways import ApiGateways, RouteWatch
from tests.support.routes import mirrored_route


def test_routes_are_copied_oldest_first(api: Api) -> None:
    """istiod gives precedence to the older of two routes, and copies are as old as their writes."""
    gateways = ApiGateways(
        api,
        service=lambda _namespace, _name: None,
        labels=lambda _namespace: None,
        changed=lambda _key: None,
        grants_changed=lambda _namespace: None,
        permitted=lambda: None,
        creates_in=(),
        watch=RouteWatch(report=lambda _subject: None, installed=1.0),
    )
    ages = [("team", "young", 3), ("apps", "older", 2), ("team", "oldest", 1), ("apps", "also", 3)]
    for number, (namespace, name, day) in enumerate(ages, 1):
        created = f"2026-01-0{day}T00:00:00Z"
        found = mirrored_route(name=name, namespace=namespace, created=created)
        found["metadata"]["resourceVersion"] = str(number)
        gateways.mirrored["HTTPRoute"].learn(found)
    names = [name for kind, _, name in gateways.subjects() if kind == "HTTPRoute"]
    assert names == ["oldest", "older", "also", "young"]
