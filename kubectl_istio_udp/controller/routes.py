"""Decide the exposure that a Gateway of the Gateway API and its UDPRoutes request."""

from __future__ import annotations

from dataclasses import replace

from kubectl_istio_udp.controller.deciding import Decided, Decider, permitted
from kubectl_istio_udp.controller.endpoints import Endpoints
from kubectl_istio_udp.controller.outcome import WAITING, Outcome, Refusal, taken_ports
from kubectl_istio_udp.controller.pending import PendingExposures
from kubectl_istio_udp.controller.waits import RETRY_SECONDS
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.exposure import ExposureSpec, Options
from kubectl_istio_udp.model.ports import listener_port
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.plan.routes import plan_routes
from kubectl_istio_udp.sources.annotations import Intent
from kubectl_istio_udp.sources.permission import Permission, Use
from kubectl_istio_udp.sources.routes import Backends, route_options
from kubectl_istio_udp.state.caches import Caches
from kubectl_istio_udp.state.ownership import Existing


class RouteDecider:
    """Decides from the caches; writes nothing."""

    def __init__(
        self, caches: Caches, pending: PendingExposures, endpoints: Endpoints, decider: Decider
    ) -> None:
        """Take the dependencies."""
        self._caches, self._pending, self._endpoints = caches, pending, endpoints
        self._decider = decider
        # The ports of Gateways' listeners that other exposures have.
        self._unavailable: dict[Key, frozenset[int]] = {}

    def decide(self, intent: Intent, permission: Permission, existing: Existing) -> Decided:
        """Plan the exposure of a Gateway.

        A listener is left out while another exposure has its port.

        Raises:
            UsageError: a port cannot be exposed at this gateway.
            Refusal: it is not permitted, the gateway does not exist, or no listener is left.
            GatewayChanges: its deletion at another gateway has begun.
        """
        gateway = self._decider.gateway(intent, permission, existing)
        existing = existing.at(gateway.ref)
        snapshot = self._decider.snapshot(Service(*intent.key), gateway, existing)
        ports = self._free_ports(intent, snapshot)
        services = {each.service for _, found in ports for each in found.backends}
        held = existing.held
        former = held.services - self._endpoints.forbidden(held) if held else frozenset()
        states = {
            of: state for of in services | former if (state := self._endpoints.service_state(of))
        }
        # If a Service disappears meanwhile, its routes are reconciled again.
        if services - set(states):
            raise Refusal(Outcome(WAITING, again=RETRY_SECONDS))
        room = self._decider.room(intent.key, permission, gateway)
        options = self._options(intent, permission, held)
        planned = plan_routes(intent.request, ports, states, snapshot, room, options)
        decided = permitted(intent, permission, existing, planned.exposure, snapshot)
        return replace(decided, complete=planned.complete)

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

    def unavailable(self, key: Key) -> frozenset[int]:
        """The gateway ports that an exposure requests and others have."""
        return self._unavailable.get(key, frozenset())

    def forget(self, key: Key) -> None:
        """Forget an exposure that does not exist any more."""
        self._unavailable.pop(key, None)

    def _free_ports(self, intent: Intent, snapshot: Snapshot) -> list[tuple[int, Backends]]:
        """The ports of a Gateway's listeners that nobody else has, and their backends."""
        asking = self._caches.gateway_of(intent.key)
        gateways = self._caches.api_gateways
        if asking is None or gateways is None:
            raise Refusal(Outcome(WAITING, again=RETRY_SECONDS))
        gateway = snapshot.gateway
        wanted = [
            (listener_port(port, gateway.first_bindable), port, backends)
            for _, port, backends in gateways.ports(asking)
        ]
        occupancy = self._pending.occupancy(intent.key)
        bound = frozenset(number for number, _, _ in wanted)
        held = occupancy.ports_of_others(bound, gateway, snapshot.mesh, intent.key)
        served = {port.gateway_port for port in snapshot.before.ports} if snapshot.before else set()
        # Two ports may be bound as the same one: 53 as 10053. The one that is served keeps it.
        having: dict[int, int] = {}
        for number, port, _ in sorted(wanted, key=lambda each: each[1] not in served):
            having.setdefault(number, port)
        free = [
            (port, backends)
            for number, port, backends in wanted
            if number not in held and having[number] == port
        ]
        unavailable = {port for _, port, _ in wanted}.difference(port for port, _ in free)
        self._unavailable[intent.key] = frozenset(unavailable)
        if not free:
            raise Refusal(taken_ports(unavailable, gateway))
        return free
