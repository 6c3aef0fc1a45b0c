"""Decide the exposure that a Gateway of the Gateway API and its UDPRoutes request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kubectl_istio_udp.controller.deciding import Decided, Decider, permitted
from kubectl_istio_udp.controller.endpoints import Endpoints
from kubectl_istio_udp.controller.outcome import (
    WAITING,
    Outcome,
    Refusal,
    Unavailable,
    no_listener,
)
from kubectl_istio_udp.controller.pending import PendingExposures
from kubectl_istio_udp.controller.waits import RETRY_SECONDS
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec, GatewayServiceMode, Options
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.managed_fields import conflicting_ports
from kubectl_istio_udp.model.names import service_manager
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.plan.exposure import bindable_port
from kubectl_istio_udp.plan.routes import RefusedEndpoints, RoutePlan, plan_routes, still_requested
from kubectl_istio_udp.plan.sessions import SessionRoom
from kubectl_istio_udp.sources.annotations import Intent
from kubectl_istio_udp.sources.permission import Permission, Use
from kubectl_istio_udp.sources.routes import Backends, route_options
from kubectl_istio_udp.state.caches import Caches
from kubectl_istio_udp.state.ownership import Existing


@dataclass(frozen=True)
class _Found:
    """What the last decision about a Gateway's exposure found.

    Attributes:
        intent: what was requested.
        unavailable: why listeners cannot have their ports, by port.
        refused: the addresses of its backends that may not be endpoints; None if it was refused
            before they were read.
    """

    intent: Intent
    unavailable: Mapping[int, Unavailable] = field(default_factory=dict)
    refused: RefusedEndpoints | None = None


class RouteDecider:
    """Decides from the caches; writes nothing."""

    def __init__(
        self, caches: Caches, pending: PendingExposures, endpoints: Endpoints, decider: Decider
    ) -> None:
        """Take the dependencies."""
        self._caches, self._pending, self._endpoints = caches, pending, endpoints
        self._decider = decider
        self._found: dict[Key, _Found] = {}

    def decide(self, intent: Intent, permission: Permission, existing: Existing) -> Decided:
        """Plan the exposure of a Gateway.

        A listener is left out while it cannot have its port.

        Raises:
            UsageError: the routes have too many backends.
            Refusal: it is not permitted, the gateway does not exist, or no listener is left.
            GatewayChanges: its deletion at another gateway has begun.
        """
        found = _Found(intent)
        try:
            gateway = self._decider.gateway(intent, permission, existing)
            existing = existing.at(gateway.ref)
            snapshot = self._decider.snapshot(Service(*intent.key), gateway, existing)
            requested = self._requested_ports(intent)
            unavailable = self._unavailable_ports(
                [port for port, _ in requested], intent, permission, snapshot
            )
            found = replace(found, unavailable=unavailable)
            ports = [each for each in requested if each[0] not in unavailable]
            if not ports:
                raise Refusal(no_listener(unavailable, gateway))
            room = self._decider.room(intent.key, permission, gateway)
            options = self._options(intent, permission, existing.held)
            planned = self._plan(intent.request, ports, snapshot, room, options)
            decided = permitted(intent, permission, existing, planned.exposure, snapshot)
            found = replace(found, refused=planned.refused)
            return replace(decided, complete=planned.complete, refused=planned.refused)
        finally:
            self._found[intent.key] = found

    def still_requested(
        self, existing: Existing, permission: Permission | None
    ) -> tuple[tuple[int, Backends], ...] | None:
        """The ports of an exposure that its Gateway still has, with those of its routes' backends.

        Args:
            existing: the exposure.
            permission: what it may use; None if its namespace's annotations are not valid.

        Returns:
            The ports; None if nothing that the exposure has was deleted, or it is not a Gateway's.
        """
        held, asking = existing.held, self._caches.gateway_of(existing.key)
        gateways = self._caches.api_gateways
        if held is None or held.service or asking is None or gateways is None:
            return None
        requested = {
            port: backends
            for _, port, backends in gateways.ports(asking)
            if permission is None or not permission.forbids(port)
        }
        return still_requested(held, requested)

    def reduced(self, existing: Existing, ports: Sequence[tuple[int, Backends]]) -> Decided | None:
        """Plan an exposure with only some of its ports and backends, and otherwise unchanged.

        Args:
            existing: the exposure.
            ports: from `still_requested`, at least one.

        Returns:
            The plan; None if the gateway has no pod with an address, which serves nothing.

        Raises:
            UsageError: the gateway's pods may not bind these ports any more.
            Refusal: it cannot be decided at the moment.
        """
        held = existing.held
        gateway = self._gateway_of(held) if held else None
        if held is None or gateway is None:
            return None
        snapshot = self._decider.snapshot(Service(*existing.key), gateway, existing)
        request = ExposeRequest(
            namespace=held.namespace,
            service="",
            name=held.name,
            discovery=Discovery.ENDPOINTS,
            options=held.options,
            automatic_sessions=False,
        )
        options = {each.gateway_port: each.options for each in held.port_options}
        planned = self._plan(request, ports, snapshot, None, options)
        return Decided(planned.exposure, snapshot, planned.complete)

    def _gateway_of(self, held: ExposureSpec) -> Gateway | None:
        """The gateway of an exposure; None if it has no pod with an address."""
        for gateway in self._caches.gateways_at(held.gateway):
            if gateway.has_addresses:
                return gateway.kept(held.gateway)
        return None

    def _plan(
        self,
        request: ExposeRequest,
        ports: Sequence[tuple[int, Backends]],
        snapshot: Snapshot,
        room: SessionRoom | None,
        options: Mapping[int, Options],
    ) -> RoutePlan:
        """Plan some ports of a Gateway, with the current endpoints of their Services."""
        services = {each.service for _, found in ports for each in found.backends}
        held = snapshot.before
        former = held.services - self._endpoints.forbidden(held) if held else frozenset()
        states = {
            of: state for of in services | former if (state := self._endpoints.service_state(of))
        }
        # If a Service disappears meanwhile, its routes are reconciled again.
        if services - set(states):
            raise Refusal(Outcome(WAITING, again=RETRY_SECONDS))
        return plan_routes(request, ports, states, snapshot, room, options)

    def _options(
        self, intent: Intent, permission: Permission, held: ExposureSpec | None
    ) -> dict[int, Options]:
        """The settings of ports whose routes have annotations.

        If these cannot be read, the port keeps the settings that it has, while they are permitted.
        """
        asking, gateways = self._caches.gateway_of(intent.key), self._caches.api_gateways
        if asking is None or gateways is None:
            return {}
        before = {p.gateway_port: p.options for p in held.port_options} if held else {}
        found = {}
        for port, route in gateways.served(asking).items():
            read = route_options(route, asking, permission)
            options = before.get(port) if read.malformed else read.options
            if options and not permission.objection(Use((), options, automatic_sessions=True)):
                found[port] = options
        return found

    def unavailable(self, key: Key) -> Mapping[int, Unavailable]:
        """Why listeners of a Gateway cannot have their ports, by port, without the others.

        What was found for an earlier request says nothing about the current one.
        """
        found = self._current(key)
        return found.unavailable if found else {}

    def refused(self, key: Key) -> RefusedEndpoints | None:
        """The addresses of a Gateway's backends that may not be endpoints, when it was decided.

        None if its current request has not been decided.
        """
        found = self._current(key)
        return found.refused if found else None

    def _current(self, key: Key) -> _Found | None:
        found = self._found.get(key)
        return found if found and found.intent == self._caches.intent(key) else None

    def clear(self) -> None:
        """Forget everything from an earlier time as leader."""
        self._found.clear()

    def forget(self, key: Key) -> None:
        """Forget what was found about an exposure: it is gone, or was refused before."""
        self._found.pop(key, None)

    def _requested_ports(self, intent: Intent) -> list[tuple[int, Backends]]:
        """The ports of a Gateway's listeners and their backends."""
        asking = self._caches.gateway_of(intent.key)
        gateways = self._caches.api_gateways
        if asking is None or gateways is None:
            raise Refusal(Outcome(WAITING, again=RETRY_SECONDS))
        return [(port, backends) for _, port, backends in gateways.ports(asking)]

    def _unavailable_ports(
        self, ports: Sequence[int], intent: Intent, permission: Permission, snapshot: Snapshot
    ) -> dict[int, Unavailable]:
        """Why a Gateway's listeners cannot have their ports, by port, without the others."""
        found: dict[int, Unavailable] = {}
        bound: dict[int, int] = {}
        gateway, mode = snapshot.gateway, intent.request.options.gateway_service
        patched = gateway.service if mode is GatewayServiceMode.PATCH else None
        for port in ports:
            if objection := permission.port_objection(port):
                found[port] = Unavailable(objection)
            elif patched and conflicting_ports(patched, service_manager(*intent.key), port):
                text = f"Service {gateway.service_name} of the gateway already has this port"
                found[port] = Unavailable(text, conflicts=True)
            else:
                try:
                    bound[port] = bindable_port(port, gateway, mode)
                except UsageError as error:
                    found[port] = Unavailable(error.message)
        occupancy = self._pending.occupancy(intent.key)
        taken = occupancy.ports_of_others(
            frozenset(bound.values()),
            gateway,
            snapshot.mesh,
            intent.key,
            self._caches.existing(intent.key).held,
        )
        served = {port.gateway_port for port in snapshot.before.ports} if snapshot.before else set()
        # Two ports may be bound as the same one: 53 as 10053. The one that is served keeps it.
        having: dict[int, int] = {}
        for port in sorted(bound, key=lambda each: each not in served):
            having.setdefault(bound[port], port)
        for port, number in bound.items():
            if number in taken or having[number] != port:
                text = f"port {port}/UDP of the gateway is already taken"
                found[port] = Unavailable(text, conflicts=True)
        return found
