"""Read UDPRoutes: the listeners that they attach to, and the Services that they request.

The rules are those of the Gateway API (its reference, and GEP-2645 for UDPRoute). If several routes
attach to one listener, all are accepted, and the oldest gets the datagrams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import Options
from kubectl_istio_udp.model.gatewayapi import (
    GROUP,
    ApiGateway,
    BackendRef,
    Key,
    Listener,
    ParentRef,
    ReferenceGrant,
    UdpRoute,
)
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.sources.annotations import GATEWAY_OPTIONS, ROUTE_OPTIONS, read_options
from kubectl_istio_udp.sources.permission import Permission, Use

KIND = "UDPRoute"
ACCEPTED, NO_PARENT, NOT_ALLOWED = "Accepted", "NoMatchingParent", "NotAllowedByListeners"
RESOLVED, NOT_FOUND, INVALID_KIND = "ResolvedRefs", "BackendNotFound", "InvalidKind"
NOT_PERMITTED, UNSUPPORTED = "RefNotPermitted", "UnsupportedProtocol"

Labels = Callable[[str], Mapping[str, str] | None]
FindService = Callable[[str, str], Service | None]


@dataclass(frozen=True)
class Attachment:
    """The result of attaching a route to a parent.

    Attributes:
        listeners: the names of the listeners that accept it.
        reason: the reason of the condition Accepted.
        message: the message of the condition.
    """

    listeners: tuple[str, ...]
    reason: str
    message: str

    @property
    def accepted(self) -> bool:
        """Whether a listener accepts it."""
        return bool(self.listeners)


def attach(route: UdpRoute, parent: ParentRef, gateway: ApiGateway, labels: Labels) -> Attachment:
    """Decide which listeners of a Gateway a route attaches to.

    Args:
        route: the route.
        parent: its reference to the Gateway.
        gateway: the Gateway.
        labels: returns a namespace's labels; None if unknown.
    """
    named = named_listeners(parent, gateway)
    if isinstance(named, Attachment):
        return named
    allowing = allowing_listeners(gateway, route.about.namespace, labels)
    taking = [each for each in named if each in allowing]
    if taking:
        return Attachment(tuple(each.name for each in taking), ACCEPTED, "")
    allows_kind = any(_takes_kind(each) for each in named)
    return not_allowed(
        gateway, named, "UDPRoutes from this namespace" if allows_kind else "UDPRoutes"
    )


def named_listeners(parent: ParentRef, gateway: ApiGateway) -> Sequence[Listener] | Attachment:
    """The listeners of a Gateway that a reference to it names; why there is none."""
    named = [listener for listener in gateway.listeners if parent.selects(listener)]
    return named or Attachment((), NO_PARENT, f"Gateway {gateway} has no such listener")


def not_allowed(gateway: ApiGateway, named: Sequence[Listener], routes: str) -> Attachment:
    """A route does not attach to the listeners that it names.

    Args:
        gateway: the Gateway.
        named: its listeners that the route names.
        routes: what they do not allow, e.g. `UDPRoutes`.
    """
    several = len(named) > 1
    listed = f"listener{'s' * several} {', '.join(each.name for each in named)}"
    verb = "do" if several else "does"
    message = f"{listed} of Gateway {gateway} {verb} not allow {routes}"
    return Attachment((), NOT_ALLOWED, message)


def allowing_listeners(gateway: ApiGateway, namespace: str, labels: Labels) -> tuple[Listener, ...]:
    """The listeners of a Gateway that allow UDPRoutes of a namespace."""
    return tuple(
        listener
        for listener in gateway.listeners
        if _takes_kind(listener)
        and listener.allows_namespace(namespace, gateway.about.namespace, labels(namespace))
    )


def _takes_kind(listener: Listener) -> bool:
    return (GROUP, KIND) in listener.supported_kinds


def attached(
    gateway: ApiGateway, routes: Iterable[UdpRoute], labels: Labels
) -> dict[str, tuple[UdpRoute, ...]]:
    """The routes at each listener of a Gateway, by the listener's name, the oldest route first."""
    found: dict[str, dict[tuple[str, str], UdpRoute]] = {
        listener.name: {} for listener in gateway.listeners
    }
    for route, allowing in _allowed(gateway, routes, labels):
        for parent in route.parents:
            if parent.is_gateway(gateway.key):
                for listener in filter(parent.selects, allowing):
                    found[listener.name][route.key] = route
    return {name: tuple(each.values()) for name, each in found.items()}


def _allowed(
    gateway: ApiGateway, routes: Iterable[UdpRoute], labels: Labels
) -> list[tuple[UdpRoute, tuple[Listener, ...]]]:
    """The routes of allowed namespaces, the oldest first, each with the listeners that allow it.

    Anybody can refer to a Gateway. What is not allowed is left out first, so that it needs no time.
    """
    allowing: dict[str, tuple[Listener, ...]] = {}
    found = []
    for route in routes:
        namespace = route.about.namespace
        if namespace not in allowing:
            allowing[namespace] = allowing_listeners(gateway, namespace, labels)
        if allowing[namespace]:
            found.append((route, allowing[namespace]))
    return sorted(found, key=lambda each: each[0].about.rank)


@dataclass(frozen=True)
class WeightedBackend:
    """A Service's UDP port with its share of the clients.

    Attributes:
        service: (namespace, name) of the Service.
        port: its port number.
        weight: its relative weight.
    """

    service: tuple[str, str]
    port: int
    weight: int


@dataclass(frozen=True)
class Backends:
    """The backends of a route, after resolving its references.

    Attributes:
        backends: the Services' ports, without duplicates.
        dropped: the total weight of invalid references; their share is dropped.
        reason: the reason of the condition ResolvedRefs.
        message: the first problem; "" if there is none.
    """

    backends: tuple[WeightedBackend, ...]
    dropped: int = 0
    reason: str = RESOLVED
    message: str = ""

    @property
    def resolved(self) -> bool:
        """Whether all references are valid."""
        return self.reason == RESOLVED


@dataclass(frozen=True)
class Reference:
    """A backend reference of a route, and whether it is valid.

    Attributes:
        ref: the reference.
        reason: why it is invalid, a reason of the condition ResolvedRefs; "" if it is valid.
        message: the message of the condition; "" if it is valid.
    """

    ref: BackendRef
    reason: str = ""
    message: str = ""


def references(
    route: UdpRoute, find: FindService, grants: Sequence[ReferenceGrant]
) -> tuple[Reference, ...]:
    """Check the backend references of a route.

    Args:
        route: the route.
        find: returns a Service; None if it does not exist.
        grants: the ReferenceGrants of the cluster.
    """
    return tuple(Reference(ref, *_objection(route, ref, find, grants)) for ref in route.backends)


def resolve(route: UdpRoute, find: FindService, grants: Sequence[ReferenceGrant]) -> Backends:
    """Resolve the backend references of a route; the arguments are those of `references`."""
    return combined(references(route, find, grants))


def combined(found: Iterable[Reference]) -> Backends:
    """The backends of a route from its references."""
    weights: dict[tuple[tuple[str, str], int], int] = {}
    dropped, problem = 0, (RESOLVED, "")
    for each in found:
        if each.reason:
            dropped += each.ref.weight
            problem = (each.reason, each.message) if problem[0] == RESOLVED else problem
        elif each.ref.weight:
            key = ((each.ref.namespace, each.ref.name), each.ref.port or 0)
            weights[key] = weights.get(key, 0) + each.ref.weight
    backends = tuple(WeightedBackend(*key, weight) for key, weight in weights.items())
    return Backends(backends, dropped, *problem)


def forbidden(
    services: Iterable[tuple[str, str]],
    gateway: ApiGateway,
    routes: Mapping[str, Sequence[UdpRoute]],
    grants: Sequence[ReferenceGrant],
) -> set[tuple[str, str]]:
    """The Services of a Gateway's exposure that it must not send to any longer.

    A Service that no served route refers to may get datagrams until the gateway can change, unless
    its owner has withdrawn the permission: no route of the Gateway's namespace, or of the attached
    routes' namespaces, may refer to it.

    Args:
        services: (namespace, name) of the exposure's Services.
        gateway: the Gateway.
        routes: the routes at each listener, the oldest first.
        grants: the ReferenceGrants of the cluster.
    """
    referring: dict[tuple[str, str], set[str]] = {}
    for each in routes.values():
        for ref in each[0].backends if each else ():
            referring.setdefault((ref.namespace, ref.name), set()).add(each[0].about.namespace)
    attached_in = {route.about.namespace for each in routes.values() for route in each}
    usual = {gateway.about.namespace, *attached_in}
    return {
        of
        for of in services
        if not any(is_permitted(namespace, of, grants) for namespace in referring.get(of, usual))
    }


def is_permitted(namespace: str, service: Key, grants: Sequence[ReferenceGrant]) -> bool:
    """Whether UDPRoutes of a namespace may refer to a Service."""
    return _is_permitted(namespace, BackendRef("", "Service", *service), grants)


def _is_permitted(namespace: str, ref: BackendRef, grants: Sequence[ReferenceGrant]) -> bool:
    """Whether UDPRoutes of a namespace may refer to a backend."""
    return ref.namespace == namespace or any(
        grant.permits((GROUP, KIND, namespace), ref) for grant in grants
    )


@dataclass(frozen=True)
class RouteOptions:
    """The settings that a route has at the listeners of a Gateway.

    Attributes:
        options: the settings; None for those of the Gateway.
        problem: why the route's annotations do not apply; "" if they do.
        malformed: whether an annotation cannot be read; otherwise it is not permitted.
    """

    options: Options | None = None
    problem: str = ""
    malformed: bool = False


def route_options(route: UdpRoute, gateway: ApiGateway, permission: Permission) -> RouteOptions:
    """Read the annotations of a route; what they do not name is as the Gateway's annotations say.

    Args:
        route: the route.
        gateway: the Gateway that it attaches to.
        permission: what the Gateway may use.
    """
    if not route.annotations:
        return RouteOptions()
    try:
        read_options(route.annotations, ROUTE_OPTIONS)
        notes = {**gateway.annotations, **route.annotations}
        options = read_options(notes, GATEWAY_OPTIONS).options
    except UsageError as error:
        problem = "; ".join([error.message, *error.hints])
        return RouteOptions(problem=problem, malformed=True)
    if objection := permission.objection(Use((), options, automatic_sessions=True)):
        return RouteOptions(problem=objection)
    return RouteOptions(options)


def _objection(
    route: UdpRoute, ref: BackendRef, find: FindService, grants: Sequence[ReferenceGrant]
) -> tuple[str, str]:
    """The reason and message of an invalid reference; ("", "") if it is valid."""
    if (ref.group, ref.kind) != ("", "Service"):
        kind = f"{ref.group}/{ref.kind}" if ref.group else ref.kind
        return INVALID_KIND, f"{kind} {ref.name} is not a Service"
    name = f"Service {ref.namespace}/{ref.name}"
    if not _is_permitted(route.about.namespace, ref, grants):
        return (
            NOT_PERMITTED,
            f"no ReferenceGrant in namespace {ref.namespace} permits UDPRoutes of namespace "
            f"{route.about.namespace} to refer to {name}",
        )
    service = find(ref.namespace, ref.name)
    if service is None:
        return NOT_FOUND, f"{name} does not exist"
    if service.external_name is not None:
        return UNSUPPORTED, f"{name} is of type ExternalName"
    if ref.port is None:
        return NOT_FOUND, f"the reference to {name} does not name a port"
    ports = [port for port in service.ports if port.port == ref.port]
    if not ports:
        return NOT_FOUND, f"{name} has no port {ref.port}"
    if not any(port.protocol == "UDP" for port in ports):
        return UNSUPPORTED, f"port {ref.port} of {name} is not a UDP port"
    return "", ""
