"""The Gateways and UDPRoutes that exposures are for, read by requests to the API server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model.errors import Forbidden, NotInstalled
from kubectl_istio_udp.model.gatewayapi import (
    ApiGateway,
    Key,
    Listener,
    ReferenceGrant,
    UdpRoute,
)
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.sources.gateways import exposure_key
from kubectl_istio_udp.sources.routes import KIND, Reference, attach, attached, references


@dataclass(frozen=True)
class Routing:
    """A Gateway with an exposure, and the routes that have it as a parent.

    Attributes:
        gateway: the Gateway.
        routes: the routes at each listener, by its name, the oldest first.
        rejected: the routes that no listener accepts, each with the reason in words.
    """

    gateway: ApiGateway
    routes: Mapping[str, tuple[UdpRoute, ...]] = field(default_factory=dict)
    rejected: tuple[tuple[UdpRoute, str], ...] = ()

    def listener(self, port: int) -> Listener | None:
        """The listener of a gateway port."""
        return next((each for each in self.gateway.udp if each.port == port), None)

    def served(self, port: int) -> UdpRoute | None:
        """The route that gets the datagrams of a gateway port: the oldest at its listener."""
        listener = self.listener(port)
        routes = self.routes.get(listener.name, ()) if listener else ()
        return routes[0] if routes else None


@dataclass(frozen=True)
class RouteBackend:
    """A backend of a route at a listener, for tables.

    Attributes:
        listener, port: the listener's name and port.
        route: `namespace/name` of the route; "" if the listener has none.
        backend: `namespace/name:port` of the Service; "" without a route.
        weight: its weight.
        problem: why it gets no clients; "" if it gets some.
    """

    listener: str
    port: int
    route: str = ""
    backend: str = ""
    weight: int = 0
    problem: str = ""


def read_route_backends(api: Api, routing: Routing) -> list[RouteBackend]:
    """The backends of the route at each UDP listener of a Gateway.

    A backend counts as valid if the user may not read the objects that decide it.
    """
    listeners = routing.gateway.udp
    found = for_each(lambda each: _backends(api, each, routing.served(each.port)), listeners)
    return [row for rows in found for row in rows]


def _backends(api: Api, listener: Listener, route: UdpRoute | None) -> list[RouteBackend]:
    if route is None:
        nothing = "no route; the gateway drops everything"
        return [RouteBackend(listener.name, listener.port, problem=nothing)]
    try:
        found = read_references(api, route)
    except Forbidden:
        found = tuple(map(Reference, route.backends))
    return [
        RouteBackend(
            listener.name,
            listener.port,
            str(route),
            f"{each.ref.namespace}/{each.ref.name}:{each.ref.port or '?'}",
            each.ref.weight,
            each.message or ("" if each.ref.weight else "weight 0"),
        )
        for each in found
    ]


def _find_gateways(api: Api, exposures: Iterable[Key]) -> dict[Key, dict[str, Any]]:
    """The manifest of the Gateway of each exposure, without those that have none.

    Args:
        api: the cluster.
        exposures: (namespace, name) of exposures of Gateways.
    """
    wanted = set(exposures)
    found = for_each(
        lambda namespace: _list(api, API_GATEWAY, namespace), sorted({key[0] for key in wanted})
    )
    named = {exposure_key(namespaced_name(each)): each for group in found for each in group}
    return {key: manifest for key, manifest in named.items() if key in wanted}


def read_routing(api: Api, exposures: Iterable[Key]) -> dict[Key, Routing]:
    """The Gateway and the routes of each exposure, without those whose Gateway is not found.

    Objects that the user may not list are left out.

    Args:
        api: the cluster.
        exposures: (namespace, name) of exposures of Gateways.
    """
    wanted = set(exposures)
    if not wanted:
        return {}
    manifests, routes = in_parallel(
        [
            lambda: _find_gateways(api, wanted),
            lambda: _all_routes(api, sorted({namespace for namespace, _ in wanted})),
        ]
    )
    gateways = {key: ApiGateway.from_object(each) for key, each in manifests.items()}
    labels = _labels(api, gateways.values(), routes)
    return {key: _routing(gateway, routes, labels) for key, gateway in gateways.items()}


def _routing(
    gateway: ApiGateway, routes: Sequence[UdpRoute], labels: Mapping[str, Mapping[str, str]]
) -> Routing:
    results = [
        (route, attach(route, parent, gateway, labels.get))
        for route in routes
        for parent in route.parents
        if parent.is_gateway(gateway.key)
    ]
    return Routing(
        gateway,
        attached(gateway, routes, labels.get),
        tuple((route, result.message) for route, result in results if not result.accepted),
    )


def _all_routes(api: Api, namespaces: Sequence[str]) -> list[UdpRoute]:
    """All UDPRoutes, or those of some namespaces if the others may not be listed."""
    try:
        found = api.list(KIND)
    except NotInstalled:
        return []
    except Forbidden:
        found = [r for group in for_each(lambda n: _list(api, KIND, n), namespaces) for r in group]
    return [UdpRoute.from_object(each) for each in found]


def _labels(
    api: Api, gateways: Iterable[ApiGateway], routes: Iterable[UdpRoute]
) -> dict[str, Mapping[str, str]]:
    """The labels of the routes' namespaces, if a listener selects namespaces by labels."""
    listeners = [each for gateway in gateways for each in gateway.listeners]
    if not any(each.namespaces == "Selector" for each in listeners):
        return {}
    names = sorted({route.about.namespace for route in routes})
    found = for_each(lambda name: _namespace(api, name), names)
    return {
        name: (manifest["metadata"].get("labels") or {})
        for name, manifest in zip(names, found, strict=True)
        if manifest is not None
    }


def _namespace(api: Api, name: str) -> dict[str, Any] | None:
    with suppress(Forbidden):
        return api.find("Namespace", None, name)
    return None


def read_references(api: Api, route: UdpRoute) -> tuple[Reference, ...]:
    """The backend references of a route, each with what makes it invalid.

    Raises:
        Forbidden: a Service or the ReferenceGrants of its namespace may not be read.
        Unreachable, ClusterError: other errors of the API server.
    """
    names = sorted({(ref.namespace, ref.name) for ref in route.backends})
    others = sorted({namespace for namespace, _ in names} - {route.about.namespace})
    services, grants = in_parallel(
        [
            lambda: for_each(lambda name: api.find("Service", *name), names),
            lambda: for_each(lambda namespace: _grants(api, namespace), others),
        ]
    )
    found = dict(zip(names, services, strict=True))

    def find(namespace: str, name: str) -> Service | None:
        manifest = found[namespace, name]
        return Service.from_object(manifest) if manifest else None

    return references(route, find, [grant for group in grants for grant in group])


def _grants(api: Api, namespace: str) -> list[ReferenceGrant]:
    with suppress(NotInstalled):
        return [ReferenceGrant.from_object(each) for each in api.list("ReferenceGrant", namespace)]
    return []


def _list(api: Api, kind: str, namespace: str) -> list[dict[str, Any]]:
    """The objects of a kind in a namespace; none if it is not installed or may not be listed."""
    with suppress(NotInstalled, Forbidden):
        return api.list(kind, namespace)
    return []
