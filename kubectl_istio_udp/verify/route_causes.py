"""Find out why a UDPRoute drops datagrams, or why the gateway does not follow it yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kubectl_istio_udp.model.gatewayapi import GROUP, UdpRoute
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.sources.routes import NOT_PERMITTED, Backends, Reference, combined
from kubectl_istio_udp.state.udproutes import Routing
from kubectl_istio_udp.verify.cause import Cause

_STATUS = "see why: kubectl istio-udp controller status"


@dataclass(frozen=True)
class RoutedPort:
    """A port of a Gateway's exposure, and what the Gateway API requests for it.

    Attributes:
        port: the port, as the gateway has it.
        routing: the Gateway and its routes; None if the Gateway does not exist or may not be read.
        route: the route that gets the datagrams; None without one.
        references: the backends of the route.
    """

    port: ExposedPort
    routing: Routing | None
    route: UdpRoute | None = None
    references: tuple[Reference, ...] = ()

    @property
    def name(self) -> str:
        """`listener dns (port 5300)`, for messages."""
        found = self.routing.listener(self.port.gateway_port) if self.routing else None
        number = self.port.gateway_port
        return f"listener {found.name} (port {number})" if found else f"port {number}"

    @property
    def weight(self) -> int:
        """The weights of all backends together, with the dropped ones."""
        return self.port.dropped + sum(backend.weight for backend in self.port.backends)


def route_cause(routed: RoutedPort) -> Cause | None:
    """Why the gateway drops clients of a port although the backends' pods may work; None if not.

    Backends without endpoints are another rule's, because the cause is in their pods.
    """
    if routed.routing is None:
        return None if routed.weight else _nothing(routed)
    wanted = combined(routed.references)
    if _differs(routed.port, wanted):
        return Cause(
            "RouteNotApplied",
            f"the gateway does not send {routed.name} to the backends of "
            f"{_route_text(routed.route)} yet",
            _STATUS,
        )
    if routed.route is None:
        return _no_route(routed)
    if not routed.weight:
        return _nothing(routed)
    invalid = [each for each in routed.references if each.reason and each.ref.weight]
    return _invalid(routed, invalid) if invalid else None


def share(routed: RoutedPort, weight: int) -> str:
    """A weight as a share of the clients, `30% of the clients`."""
    if weight >= routed.weight:
        return "all clients"
    percent = 100 * weight / routed.weight
    return f"{percent:.0f}% of the clients" if percent >= 1 else "some clients"


def _differs(port: ExposedPort, wanted: Backends) -> bool:
    """Whether the shares of a port are not those of its route."""
    has = {each.key: each.weight for each in port.backends if each.weight}
    expected = {(each.service, each.port): each.weight for each in wanted.backends}
    return has != expected or port.dropped != wanted.dropped


def _no_route(routed: RoutedPort) -> Cause:
    assert routed.routing is not None
    gateway, port = routed.routing.gateway, routed.port.gateway_port
    rejected = [
        (route, message)
        for route, message in routed.routing.rejected
        if any(
            parent.is_gateway(gateway.key) and parent.port in (None, port)
            for parent in route.parents
        )
    ]
    text = f"no UDPRoute is attached to {routed.name} of Gateway {gateway}, so it drops everything"
    if not rejected:
        return Cause("NoRoute", text, f"see the routes: kubectl get udproutes.{GROUP} -A")
    route, message = rejected[0]
    return Cause("NoRoute", f"{text}; UDPRoute {route} is not accepted: {message}", _edit(route))


def _nothing(routed: RoutedPort) -> Cause:
    """No backend has a weight."""
    if routed.route is None:
        text = f"{routed.name} has no backend, so the gateway drops everything"
        return Cause("NoRoute", text, _STATUS)
    text = (
        f"all backends of UDPRoute {routed.route} have weight 0, so the gateway drops all "
        f"datagrams of {routed.name}"
    )
    return Cause("WeightZero", text, f"give one a weight: {_edit(routed.route)}")


def _invalid(routed: RoutedPort, invalid: Iterable[Reference]) -> Cause:
    """Some backend references are invalid; the first one is named."""
    invalid = list(invalid)
    assert routed.route is not None
    first, lost = invalid[0], sum(each.ref.weight for each in invalid)
    remedy = (
        f"add a ReferenceGrant to namespace {first.ref.namespace}; see the existing ones: "
        f"kubectl get referencegrants.{GROUP} -n {first.ref.namespace}"
        if first.reason == NOT_PERMITTED
        else f"correct the backendRef: {_edit(routed.route)}"
    )
    text = (
        f"the gateway drops {share(routed, lost)} of {routed.name}, because a backend of "
        f"UDPRoute {routed.route} is refused: {first.message}"
    )
    return Cause(first.reason, text, remedy)


def _route_text(route: UdpRoute | None) -> str:
    return f"UDPRoute {route}" if route else "its UDPRoute (there is none)"


def _edit(route: UdpRoute) -> str:
    return f"kubectl edit udproutes.{GROUP} -n {route.about.namespace} {route.about.name}"
