"""Decide the exposure that a Service's annotations request: permission, gateway, plan."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from kubectl_istio_udp.apply.deletion_order import without_listeners
from kubectl_istio_udp.controller.endpoints import Endpoints
from kubectl_istio_udp.controller.objects import MANAGER
from kubectl_istio_udp.controller.outcome import REFUSED, WAITING, Outcome, Refusal
from kubectl_istio_udp.controller.pending import PendingExposures
from kubectl_istio_udp.controller.permitting import check_use
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.errors import IstioUdpError, NotFound, UsageError
from kubectl_istio_udp.model.exposure import Discovery, Exposure
from kubectl_istio_udp.model.gateway import Gateway, GatewayRef
from kubectl_istio_udp.model.ports import Backend
from kubectl_istio_udp.model.reasons import FORBIDDEN, NO_GATEWAY
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.plan.exposure import plan
from kubectl_istio_udp.plan.gateway import choose_gateway
from kubectl_istio_udp.plan.routes import RefusedEndpoints
from kubectl_istio_udp.plan.sessions import SessionLimit, SessionRoom
from kubectl_istio_udp.sources.annotations import Intent
from kubectl_istio_udp.sources.permission import Permission, Use
from kubectl_istio_udp.state.caches import Caches
from kubectl_istio_udp.state.gateways import gateway_secret
from kubectl_istio_udp.state.ownership import Existing


@dataclass(frozen=True)
class Decided:
    """A planned exposure.

    Attributes:
        exposure: the exposure.
        snapshot: what it was planned from.
        complete: whether it is the last step.
        refused: by Service, its addresses that may not be endpoints, each with the reason.
    """

    exposure: Exposure
    snapshot: Snapshot
    complete: bool = True
    refused: RefusedEndpoints = field(default_factory=dict)


class GatewayChanges(IstioUdpError):
    """The exposure must be deleted at its gateway, to be written at another one."""


class Decider:
    """Decides from the caches; writes nothing."""

    def __init__(
        self, caches: Caches, pending: PendingExposures, endpoints: Endpoints, file_limit: int
    ) -> None:
        """Take the dependencies.

        Args:
            caches, pending, endpoints: what exists.
            file_limit: the open-file limit of the gateways' Envoys.
        """
        self._caches, self._pending, self._endpoints = caches, pending, endpoints
        self._file_limit = file_limit

    def decide(self, intent: Intent, permission: Permission, existing: Existing) -> Decided:
        """Plan the exposure of a Service.

        At another gateway than the current one, it is planned as a new exposure.

        Raises:
            UsageError: it is not possible with this Service.
            Refusal: it is not permitted, or the gateway does not exist.
            GatewayChanges: its deletion at another gateway has begun.
        """
        request, caches = intent.request, self._caches
        service = caches.service((request.namespace, request.service))
        if service is None:
            raise UsageError(f"Service {request.namespace}/{request.service} does not exist")
        if service.external_name is not None and not permission.everything:
            raise Refusal(
                Outcome(
                    REFUSED,
                    FORBIDDEN,
                    f"Service {service} is of type ExternalName ({service.external_name}); only a "
                    "controller with --allow-all exposes those, because the name may lead anywhere",
                )
            )
        gateway = self.gateway(intent, permission, existing)
        spec = existing.at_gateway
        if spec is not None and (left := self._endpoints.emptied_left(spec)) > 0:
            raise Refusal(Outcome(WAITING, again=left))
        existing = existing.at(gateway.ref)
        discovery = _discovery(request.discovery, permission, service, existing)
        snapshot = replace(
            self.snapshot(service, gateway, existing),
            slices=caches.slices_of((service.namespace, service.name)),
            # A list of addresses contains everything.
            pods=() if discovery is Discovery.ENDPOINTS else caches.pods_of(service),
            rules=self._endpoints.rules(service.namespace),
        )
        planned = plan(
            replace(request, discovery=discovery),
            snapshot,
            self.room(intent.key, permission, gateway),
        ).exposure
        return permitted(intent, permission, existing, _steady(planned, service), snapshot)

    def gateway(self, intent: Intent, permission: Permission, existing: Existing) -> Gateway:
        """The gateway of an exposure.

        Raises:
            Refusal: there is none that the namespace may use, or it has no pod.
            GatewayChanges: its deletion at another gateway has begun.
        """
        allowed = [g for g in self._caches.gateways() if permission.allows_gateway(g.ref)]
        before = existing.at_gateway.gateway if existing.at_gateway else None
        try:
            gateway = choose_gateway(
                allowed,
                intent.gateway,
                kind=intent.gateway_kind,
                namespaces=self._caches.gateway_namespaces,
                before=before,
            ).kept(before, intent.gateway)
        except (NotFound, UsageError) as error:
            hints = "; ".join(error.hints)
            message = (
                f"{error.message}; {hints}" if isinstance(error, UsageError) else error.message
            )
            raise Refusal(Outcome(WAITING, NO_GATEWAY, message)) from error
        if not gateway.has_addresses:
            # Its address families decide how a listener binds. A listener that binds other families
            # later gets new sockets, and Envoy loses datagrams until the old ones drain (45 s).
            message = f"no pod of gateway {gateway.ref} has an address yet"
            raise Refusal(Outcome(WAITING, NO_GATEWAY, message))
        if existing.at(gateway.ref) is not existing and not _has_listeners(existing):
            # Even if it is not possible at this gateway any more, the rest must be deleted.
            raise GatewayChanges("it is being deleted at another gateway")
        return gateway

    def is_elsewhere(self, intent: Intent, permission: Permission, gateway: GatewayRef) -> bool:
        """Whether an intent is for another gateway than this one, or for none that exists."""
        try:
            chosen = self.gateway(intent, permission, self._caches.existing(intent.key))
        except Refusal:
            return True
        except GatewayChanges:
            return False
        return not chosen.ref.same_pods(gateway)

    def snapshot(self, service: Service, gateway: Gateway, existing: Existing) -> Snapshot:
        """The snapshot for a decision, without the Service's pods and endpoints."""
        caches = self._caches
        return Snapshot(
            service=service,
            slices=(),
            pods=(),
            gateway=gateway,
            mesh=caches.mesh(gateway.control_plane),
            namespaces=caches.labels_of({service.namespace, gateway.ref.namespace}),
            file_limit=self._file_limit,
            exposures=(existing.held,) if existing.held else (),
            before=existing.held,
            entries=caches.known_entries,
            secret=gateway_secret(gateway),
        )

    def room(self, key: Key, permission: Permission, gateway: Gateway) -> SessionRoom:
        """The limits on sessions, if the Service does not request a number."""

        def elsewhere() -> int:
            root = self._caches.mesh(gateway.control_plane).root_namespace
            return self._pending.occupancy(key).usage(gateway, root, key).sessions

        def limit() -> SessionLimit:
            left = permission.total_sessions - self._pending.totals(key).sessions
            return SessionLimit(permission.sessions, left)

        limited = None if permission.everything else limit
        return SessionRoom(self._file_limit, elsewhere, stays=True, limit=limited)


def _has_listeners(existing: Existing) -> bool:
    """Whether an exposure has listeners; without, its deletion has begun."""
    envoy_filter = existing.object("EnvoyFilter")
    return envoy_filter is not None and without_listeners(envoy_filter, MANAGER) is not None


def permitted(
    intent: Intent,
    permission: Permission,
    existing: Existing,
    exposure: Exposure,
    snapshot: Snapshot,
) -> Decided:
    """Return a planned exposure if it is permitted; otherwise raise Refusal."""
    automatic = intent.request.takes_what_is_left
    check_use(permission, replace(Use.of_spec(exposure.spec), automatic_sessions=automatic))
    if existing.at_gateway is not None and existing.at_gateway == exposure.spec:
        exposure = replace(exposure, spec=existing.at_gateway)  # its JSON is cached
    return Decided(exposure, snapshot)


def _discovery(
    requested: Discovery | None, permission: Permission, service: Service, existing: Existing
) -> Discovery | None:
    """The discovery to request from the plan; None to let it choose.

    If `auto` resulted in a list, it stays a list, which always works. Otherwise an exposure would
    change with every rolling update that changes a named port.
    """
    if requested is not None or service.external_name is not None:
        return requested
    spec = existing.at_gateway
    listed = spec is not None and spec.discovery is Discovery.ENDPOINTS
    free = permission.everything or Discovery.SELECTOR in permission.discoveries
    return Discovery.ENDPOINTS if listed or not free else None


def _steady(exposure: Exposure, service: Service) -> Exposure:
    """The exposure without spec fields that change with its pods.

    With listed endpoints each endpoint has its own port. The plan takes the number of a named port
    from the pods, and a different number would change the EnvoyFilter's annotation.
    """
    spec = exposure.spec
    if spec.discovery is not Discovery.ENDPOINTS:
        return exposure
    named = {p.port for p in service.udp_ports if isinstance(p.target_port, str)}
    ports = tuple(
        replace(port, backends=tuple(_steady_backend(each, named) for each in port.backends))
        for port in spec.ports
    )
    return replace(exposure, spec=replace(spec, ports=ports))


def _steady_backend(backend: Backend, named: Collection[int]) -> Backend:
    return replace(backend, target_port=None) if backend.port in named else backend
