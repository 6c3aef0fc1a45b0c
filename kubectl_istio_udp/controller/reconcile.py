"""Reconcile one exposure: its intent, its current state, and the missing writes.

    intent -> permission -> plan -> (checks, if the gateway changes) -> render -> apply

A change of endpoints costs one request, for the ServiceEntry; nothing is read. Each write has the
uid of the object that was read, so that it does not overwrite or recreate an object that someone
replaced meanwhile.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from kubectl_istio_udp.apply.changes import ChangeSet, Release, change_set, key_of
from kubectl_istio_udp.apply.exact import apply_write
from kubectl_istio_udp.apply.removal import carry_out, silenced
from kubectl_istio_udp.apply.reserving import Overtaken, fitting, takes_more
from kubectl_istio_udp.checks.expose import check_expose
from kubectl_istio_udp.checks.findings import errors
from kubectl_istio_udp.controller.objects import MANAGER, contains, is_so, marked, source_of
from kubectl_istio_udp.controller.outcome import (
    GONE,
    LEAVING,
    MANUAL,
    OK,
    REFUSED,
    WAITING,
    Outcome,
    Refusal,
    invalid,
    refused,
    taken,
    taken_ports,
)
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.endpointrules import EndpointRules, summary
from kubectl_istio_udp.model.entries import same_host
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.errors import IstioUdpError, NotFound, UsageError
from kubectl_istio_udp.model.exposure import (
    Discovery,
    Exposure,
    ExposureSpec,
    exposed_endpoints,
)
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.model.memory import CAREFUL_WORKERS, ProxySize
from kubectl_istio_udp.model.ports import Backend, listener_port, ports_text
from kubectl_istio_udp.model.reasons import (
    ENDPOINT_REFUSED,
    EXPOSED,
    FORBIDDEN,
    HOST_TAKEN,
    NO_GATEWAY,
    NOT_TAKEN,
)
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.model.service import IPV4, IPV6, MOST_ENDPOINTS, Endpoint, Service
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.plan.exposure import ServiceState, plan, with_new_entries
from kubectl_istio_udp.plan.gateway import choose_gateway
from kubectl_istio_udp.plan.routes import plan_routes
from kubectl_istio_udp.plan.sessions import SessionLimit, SessionRoom
from kubectl_istio_udp.render.childgateway import child_gateway
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.render.serviceentry import listed_addresses, service_entries
from kubectl_istio_udp.sources.annotations import Intent
from kubectl_istio_udp.sources.permission import ALLOWED_ALL, Permission, Use
from kubectl_istio_udp.sources.routes import Backends
from kubectl_istio_udp.state.apigateways import ApiGateways
from kubectl_istio_udp.state.caches import Caches, KeptNamespace
from kubectl_istio_udp.state.gateways import gateway_secret
from kubectl_istio_udp.state.occupancy import GatewayFilter, Occupancy, Pending
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.reservations import Reservation

Manifest = Mapping[str, Any]

_RETRY_SECONDS = 0.5
# After the period in which the gateway must not change, so that it has ended.
_STEP_SECONDS = 0.05


@dataclass(frozen=True)
class Timing:
    """The waits and intervals of the controller, in seconds.

    Attributes:
        listener: between the end of a listener and the deletion of its cluster. istiod pushes a
            change to the gateways within a second, and the controller cannot query them (no exec).
        calm: the minimum interval between changes of an exposure's part of a gateway, because
            gateways are shared: someone may toggle an annotation or revert writes. Endpoints are
            not part of it.
        longest_calm: the interval grows up to this if changes continue. Envoy keeps a replaced
            listener for 45 s until it is drained: with changes every 5 s there would be nine of
            each.
        watch: a watch that is later than this is considered broken, and lists again.
        replace: a Service may be replaced by deleting and recreating it. Until this has passed, its
            exposure is kept: the load balancer's address, the listener and the endpoints.
        installed: between two checks whether the Gateway API's CRDs are installed.
    """

    listener: float = 5.0
    calm: float = 5.0
    longest_calm: float = 60.0
    watch: float = 5.0
    replace: float = 10.0
    installed: float = 10.0


class NotLeading(IstioUdpError):
    """Another replica leads, or may start to lead before this write has ended."""


class _MovesError(IstioUdpError):
    """The exposure must move to another gateway."""


@dataclass(frozen=True)
class _Facts:
    """A planned exposure, the snapshot it was planned from, and whether no step is to follow."""

    exposure: Exposure
    snapshot: Snapshot
    complete: bool = True


@dataclass(frozen=True)
class Calm:
    """A period in which an exposure's part of the gateway must not change."""

    until: float
    seconds: float

    @classmethod
    def after(cls, before: Calm | None, now: float, timing: Timing) -> Calm:
        """The period after a change: twice the previous one, if that was recent."""
        seconds = timing.calm
        if before is not None and now < before.until + timing.longest_calm:
            seconds = min(2 * before.seconds, timing.longest_calm)
        return cls(now + seconds, seconds)


class Reconciler:
    """Reconciles exposures; thread-safe for different exposures."""

    def __init__(
        self,
        api: Api,
        caches: Caches,
        *,
        file_limit: int,
        allow_all: bool,
        defaults: Mapping[str, str],
        may_take: Callable[[Key], bool],
        may_write: Callable[[], bool],
        wrote: Callable[[str, str], None],
        freed: Callable[[Footprint], None],
        clock: Callable[[], float],
        timing: Timing,
    ) -> None:
        """Take the dependencies.

        Args:
            api: the cluster, for writes.
            caches: the caches to decide from.
            file_limit: the open-file limit of the gateways' Envoys.
            allow_all: whether every namespace may expose every port.
            defaults: defaults for settings that Namespaces do not set, by setting name.
            may_take: whether an intent may still get its ports.
            may_write: whether this replica leads.
            wrote: called with the verb and kind of each write request.
            freed: called with a planned footprint that could not be written.
            clock: returns the time in seconds.
            timing: the waits and intervals.
        """
        self._api, self._caches = api, caches
        self._file_limit, self._allow_all, self._defaults = file_limit, allow_all, defaults
        self._may_take = may_take
        self._may_write, self._wrote, self._freed = may_write, wrote, freed
        self._clock, self._timing = clock, timing
        self._deciding = threading.Lock()
        self._pending: dict[Key, Pending] = {}
        self._silent: dict[Key, float] = {}
        # Until when an exposure's part of the gateway must not change.
        self._calm: dict[Key, Calm] = {}
        # Until when to keep an exposure without a request, or without addresses.
        self._missed: dict[Key, float] = {}
        self._emptied: dict[Key, float] = {}
        # The ports of Gateways' listeners that other exposures have.
        self._unavailable: dict[Key, frozenset[int]] = {}

    def begin(self) -> None:
        """Forget the waits from an earlier time as leader."""
        for until in (self._silent, self._missed, self._emptied):
            until.clear()
        self._calm.clear()

    def reconcile(self, key: Key) -> Outcome:
        """Reconcile an exposure.

        Raises:
            IstioUdpError: the API server rejected a write; it must be retried.
        """
        requested, own = self._caches.intent(key), self._caches.own(key)
        kept = self._caches.namespaces.get("", key[0])
        if kept is None:
            # On the command line or by annotation: the exposed Service no longer exists.
            return self._withdraw(key, own)
        if own.exists and own.source is None:
            left = self._refresh(own, names.MANAGER)
            found = self._made_by_hand(key, own) if requested else Outcome(MANUAL)
            return replace(found, again=left or None)
        if kept.leaving:
            return self._withdraw(key, own)
        if requested is None:
            left = self._left(self._missed, key, self._timing.replace) if own.exists else 0
            return Outcome(LEAVING, again=left) if left > 0 else self._withdraw(key, own)
        self._missed.pop(key, None)
        try:
            permission = self._permission(kept)
        except UsageError as error:
            self._refresh(own, MANAGER)
            return invalid(error)
        if isinstance(requested, Intent) and requested.own_gateway:
            # It uses nothing of a gateway that others share.
            permission = ALLOWED_ALL
        return self._allowed(key, requested, permission, own)

    def _permission(self, kept: KeptNamespace) -> Permission:
        if self._allow_all:
            return ALLOWED_ALL
        return _permission(tuple(kept.annotations.items()), tuple(self._defaults.items()))

    def _allowed(
        self, key: Key, requested: Intent | UsageError, permission: Permission, own: Existing
    ) -> Outcome:
        """Keep a once accepted exposure while it is permitted, whatever is requested now."""
        lost = permission.withdrawn(Use.of_spec(own.held)) if own.held else ""
        try:
            outcome = self._asked(requested, permission, own)
        except _MovesError:
            return self._withdraw(key, own)
        except IstioUdpError:
            if lost:
                return replace(self._withdraw(key, own), reason=FORBIDDEN, message=lost)
            raise
        if lost and outcome.state != OK:
            return replace(self._withdraw(key, own), reason=FORBIDDEN, message=lost)
        if outcome.state != OK:
            self._refresh(own, MANAGER)
        if outcome.message and outcome.state != OK and own.held:
            stays = "the exposure stays as it was before"
            return replace(outcome, message=f"{outcome.message}; {stays}")
        return outcome

    def _asked(
        self, requested: Intent | UsageError, permission: Permission, own: Existing
    ) -> Outcome:
        """Carry out a request, or return why not."""
        try:
            if isinstance(requested, UsageError):
                return invalid(requested)
            return self._honour(requested, permission, own)
        except UsageError as error:
            return invalid(error)
        except Refusal as refusal:
            return refusal.outcome

    def _left(self, since: dict[Key, float], key: Key, seconds: float) -> float:
        """The remaining seconds of a wait, which starts at the first call."""
        return since.setdefault(key, self._clock() + seconds) - self._clock()

    def about(self, key: Key) -> About | None:
        """The object that Events about an exposure refer to."""
        if gateway := self._caches.gateway_of(key):
            return gateway.about
        service = self._caches.service_manifest(key)
        return About.of(service) if service is not None and key in self._caches.intents else None

    # -- a request ----------------------------------------------------------------------------

    def _made_by_hand(self, key: Key, own: Existing) -> Outcome:
        where = f" at gateway {own.exposure.gateway}" if own.exposure else ""
        return Outcome(
            REFUSED,
            NOT_TAKEN,
            f"exposure {key[1]}{where} was created with `kubectl istio-udp expose` and stays as it "
            f"is. To manage it by annotation, first run: kubectl istio-udp delete -n {key[0]} "
            f"{key[1]}",
        )

    def _permit(self, permission: Permission, use: Use) -> None:
        if objection := permission.objection(use):
            raise Refusal(Outcome(REFUSED, FORBIDDEN, objection))

    def _permit_place(self, key: Key, permission: Permission) -> None:
        """Raise Refusal if too many older Services of the namespace have requests.

        This does not depend on gateways, and there may be thousands. The caches queue the next one
        when a Service of the namespace withdraws its request.
        """
        most = permission.total_ports
        if not permission.everything and not self._caches.is_within(key, most):
            raise Refusal(
                Outcome(
                    REFUSED,
                    NOT_TAKEN,
                    f"{most} older Services of the namespace already request to be exposed; more "
                    "are not allowed (annotation kubectl-istio-udp/allow-total-ports on the "
                    "Namespace)",
                )
            )

    def _honour(self, intent: Intent, permission: Permission, own: Existing) -> Outcome:
        # Refuse a request without permission before doing any work.
        self._permit_place(intent.key, permission)
        self._permit(permission, Use.of_request(intent.request, intent.udp_ports))
        facts = self._decide(intent, permission, own)
        exposure, snapshot = facts.exposure, facts.snapshot
        source = source_of(exposure.spec)
        todo = [marked(write, source) for write in writes(exposure, MANAGER)]
        differing = [write for write in todo if not self._is_so(write)]
        kinds = {write.kind for write in differing}
        if "EnvoyFilter" in kinds and (left := self._calm_left(intent.key)) > 0:
            return Outcome(WAITING, again=left)
        if kinds - {"ServiceEntry"}:
            with self._decided(intent, permission, exposure, snapshot, todo):
                for write in differing:
                    self.apply(write)
                    # Now, because a later write may fail. A failed write is retried after its
                    # back-off.
                    if write.kind == "EnvoyFilter":
                        self._keep_calm(intent.key, own)
        else:
            self._apply_all(differing)
        again = self._remove(intent.key, self._changes(own, todo))
        if not facts.complete:
            next_step = max(0.0, self._calm_left(intent.key)) + _STEP_SECONDS
            again = next_step if again is None else min(again, next_step)
        return replace(self._exposed(exposure, snapshot), again=again)

    def _keep_calm(self, key: Key, own: Existing) -> None:
        """Begin the period in which an exposure's part of the gateway must not change again.

        The next step of one change does not count as another change.
        """
        before, now = self._calm.get(key), self._clock()
        held = own.held.backends if own.held else ()
        if before is not None and any(not backend.weight for backend in held):
            self._calm[key] = Calm(now + before.seconds, before.seconds)
        else:
            self._calm[key] = Calm.after(before, now, self._timing)

    def _exposed(self, exposure: Exposure, snapshot: Snapshot) -> Outcome:
        """The outcome for a written exposure, possibly with a warning."""
        spec = exposure.spec
        others = same_host(
            spec.key, spec.entries, self._caches.with_host_of(spec.entries), spec.gateway.namespace
        )
        if others:
            text = (
                "another ServiceEntry has the same host as this exposure; its endpoints may get "
                "the datagrams"
            )
            listed = ", ".join(sorted(f"{other.namespace}/{other.name}" for other in others))
            return Outcome(
                OK,
                HOST_TAKEN,
                f"{text}. To see which one: kubectl istio-udp verify {spec.name}",
                f"{text}: {listed}",
            )
        if objections := snapshot.rules.objections(snapshot.slices):
            return Outcome(
                OK, ENDPOINT_REFUSED, f"the gateway does not send to {summary(objections)}"
            )
        if left_out := sum(map(self._caches.endpoints_left_out, spec.services)):
            return Outcome(
                OK,
                ENDPOINT_REFUSED,
                f"the Service has more than {MOST_ENDPOINTS} endpoints; the gateway does not send "
                f"to {left_out} of them",
            )
        ports = ", ".join(ports_text(exposure.spec.ports))
        return Outcome(OK, EXPOSED, f"{ports} at gateway {exposure.spec.gateway}")

    def _decide(self, intent: Intent, permission: Permission, own: Existing) -> _Facts:
        """Plan the exposure.

        Raises:
            UsageError: it is not possible with this Service.
            Refusal: it is not permitted, or the gateway does not exist.
        """
        if not intent.request.service:
            return self._decide_routed(intent, permission, own)
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
        gateway = self._gateway(intent, permission, own)
        if own.exposure is not None and (left := self._emptied_left(own.exposure)) > 0:
            raise Refusal(Outcome(WAITING, again=left))
        asked = self._discovery(request.discovery, permission, service, own)
        snapshot = replace(
            self._snapshot(service, gateway, own),
            slices=caches.slices_of((service.namespace, service.name)),
            # A list of addresses contains everything.
            pods=() if asked is Discovery.ENDPOINTS else caches.pods_of(service),
            rules=self._rules(service.namespace),
        )
        planned = plan(
            replace(request, discovery=asked), snapshot, self._room(intent.key, permission, gateway)
        ).exposure
        return self._permitted_facts(intent, permission, own, _steady(planned, service), snapshot)

    def _decide_routed(self, intent: Intent, permission: Permission, own: Existing) -> _Facts:
        """Plan the exposure of a Gateway of the Gateway API.

        A listener is left out while another exposure has its port.

        Raises:
            UsageError: a port cannot be exposed at this gateway.
            Refusal: it is not permitted, the gateway does not exist, or no listener is left.
        """
        self._keep_child(intent)
        gateway = self._gateway(intent, permission, own)
        snapshot = self._snapshot(Service(*intent.key), gateway, own)
        ports = self._free_ports(intent, snapshot)
        services = {each.service for _, found in ports for each in found.backends}
        former = own.held.services - self._forbidden(own.held) if own.held else frozenset()
        states = {of: state for of in services | former if (state := self._service_state(of))}
        # A Service may disappear meanwhile; its routes are then reconciled again.
        if services - set(states):
            raise Refusal(Outcome(WAITING, again=_RETRY_SECONDS))
        room = self._room(intent.key, permission, gateway)
        planned = plan_routes(intent.request, ports, states, snapshot, room)
        facts = self._permitted_facts(intent, permission, own, planned.exposure, snapshot)
        return replace(facts, complete=planned.complete)

    def _keep_child(self, intent: Intent) -> None:
        """Write the Gateway of class istio for a Gateway, or delete a former one."""
        asking, gateways = self._caches.gateway_of(intent.key), self._caches.api_gateways
        if asking is None or gateways is None:
            return
        there = gateways.child(asking.key)
        if intent.own_gateway:
            self._write_child(gateways, child_gateway(asking), there)
        elif there is not None:
            metadata = there["metadata"]
            place = (metadata["namespace"], metadata["name"])
            self._fence()
            self._wrote("delete", there["kind"])
            self._api.delete(API_GATEWAY, *place, uid=metadata["uid"])
            gateways.gateways.forget(*place)

    def _write_child(self, gateways: ApiGateways, wanted: Manifest, there: Manifest | None) -> None:
        """Write the Gateway of class istio for a Gateway, if it differs."""
        if there is not None and contains(there, wanted):
            return
        self._fence()
        if there is None:
            self._wrote("create", wanted["kind"])
            written = self._api.create(wanted, manager=MANAGER)
        else:
            metadata = {**wanted["metadata"], "uid": there["metadata"]["uid"]}
            self._wrote("patch", wanted["kind"])
            written = self._api.apply(
                {**wanted, "metadata": metadata}, before=None, manager=MANAGER, force=True
            ).manifest
        gateways.gateways.learn(written)

    def _free_ports(self, intent: Intent, snapshot: Snapshot) -> list[tuple[int, Backends]]:
        """The ports of a Gateway's listeners that no other exposure has, and their backends."""
        asking = self._caches.gateway_of(intent.key)
        gateways = self._caches.api_gateways
        if asking is None or gateways is None:
            raise Refusal(Outcome(WAITING, again=_RETRY_SECONDS))
        gateway = snapshot.gateway
        wanted = [
            (listener_port(port, gateway.first_bindable), port, backends)
            for _, port, backends in gateways.ports(asking)
        ]
        occupancy = self._occupancy(intent.key)
        bound = frozenset(number for number, _, _ in wanted)
        held = occupancy.ports_of_others(bound, gateway, snapshot.mesh, intent.key)
        free = [(port, backends) for number, port, backends in wanted if number not in held]
        unavailable = frozenset(port for number, port, _ in wanted if number in held)
        self._unavailable[intent.key] = unavailable
        if not free:
            raise Refusal(taken_ports(unavailable, gateway))
        return free

    def unavailable(self, key: Key) -> frozenset[int]:
        """The gateway ports that an exposure requests and others have."""
        return self._unavailable.get(key, frozenset())

    def _service_state(self, of: Key) -> ServiceState | None:
        service = self._caches.service(of)
        if service is None:
            return None
        return ServiceState(service, self._caches.slices_of(of), self._rules(of[0]), of)

    def _snapshot(self, service: Service, gateway: Gateway, own: Existing) -> Snapshot:
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
            exposures=(own.held,) if own.held else (),
            before=own.held,
            entries=caches.summaries(),
            secret=gateway_secret(gateway),
        )

    def _permitted_facts(
        self,
        intent: Intent,
        permission: Permission,
        own: Existing,
        exposure: Exposure,
        snapshot: Snapshot,
    ) -> _Facts:
        """Return a planned exposure if it is permitted; otherwise raise Refusal."""
        request = intent.request
        chosen = request.automatic_sessions and request.expect_rate is None
        self._permit(permission, replace(Use.of_spec(exposure.spec), automatic_sessions=chosen))
        if own.exposure is not None and own.exposure == exposure.spec:
            exposure = replace(exposure, spec=own.exposure)  # its JSON is cached
        return _Facts(exposure, snapshot)

    def _room(self, key: Key, permission: Permission, gateway: Gateway) -> SessionRoom:
        """The limits on sessions, if the Service does not request a number."""

        def elsewhere() -> int:
            root = self._caches.mesh(gateway.control_plane).root_namespace
            return self._occupancy(key).usage(gateway, root, key).sessions

        def limit() -> SessionLimit:
            left = permission.total_sessions - self._in_namespace(key)[1]
            return SessionLimit(permission.sessions, left)

        limited = None if permission.everything else limit
        return SessionRoom(self._file_limit, elsewhere, stays=True, limit=limited)

    def _emptied_left(self, spec: ExposureSpec) -> float:
        """The remaining seconds to keep listed addresses after all EndpointSlices have disappeared.

        A Service with a selector has an EndpointSlice even without pods, but not right after it was
        deleted and recreated.
        """
        if not spec.service:
            return 0.0
        by_hand = (
            service := self._caches.service((spec.namespace, spec.service))
        ) is not None and (not service.selector)
        listed = spec.discovery is Discovery.ENDPOINTS
        if by_hand or not listed or self._caches.has_slices((spec.namespace, spec.service)):
            self._emptied.pop(spec.key, None)
            return 0.0
        return max(0.0, self._left(self._emptied, spec.key, self._timing.replace))

    def _gateway(self, intent: Intent, permission: Permission, own: Existing) -> Gateway:
        allowed = [g for g in self._caches.gateways() if permission.allows_gateway(g.ref)]
        before = own.exposure.gateway if own.exposure else None
        try:
            gateway = choose_gateway(
                allowed, intent.gateway, namespaces=self._caches.gateway_namespaces, before=before
            ).kept(before)
        except (NotFound, UsageError) as error:
            hints = "; ".join(error.hints)
            message = (
                f"{error.message}; {hints}" if isinstance(error, UsageError) else error.message
            )
            raise Refusal(Outcome(WAITING, NO_GATEWAY, message)) from error
        if not gateway.has_addresses:
            # Its address families decide how a listener binds. One that binds otherwise later gets
            # new sockets, and Envoy loses datagrams until the old ones have drained (45 s).
            message = f"no pod of gateway {gateway.ref} has an address yet"
            raise Refusal(Outcome(WAITING, NO_GATEWAY, message))
        if before is None or before.same_pods(gateway.ref):
            return gateway
        # Another gateway: remove it from the current one, then reconcile again.
        raise _MovesError(f"it is at gateway {before}")

    def _discovery(
        self, asked: Discovery | None, permission: Permission, service: Service, own: Existing
    ) -> Discovery | None:
        """The discovery to request from the plan; None to let it choose.

        If `auto` resulted in a list, it stays a list, which always works. Otherwise an exposure
        would change with every rolling update that changes a named port.
        """
        if asked is not None or service.external_name is not None:
            return asked
        listed = own.exposure is not None and own.exposure.discovery is Discovery.ENDPOINTS
        free = permission.everything or Discovery.SELECTOR in permission.discoveries
        return Discovery.ENDPOINTS if listed or not free else None

    def _in_namespace(self, key: Key) -> tuple[int, int]:
        """The ports and sessions of the namespace's other exposures, at all gateways."""
        found = {each.key: each for each in self._caches.in_namespace(key[0])}
        decided = [each.spec for each in self._pending_beside(key)]
        found |= {spec.key: spec for spec in decided if spec.key[0] == key[0]}
        found.pop(key, None)
        taken = [_taken(each) for each in found.values()]
        return sum(ports for ports, _ in taken), sum(sessions for _, sessions in taken)

    def _permit_total(self, permission: Permission, spec: ExposureSpec) -> None:
        """Raise Refusal if the namespace's exposures would exceed its limits."""
        if permission.everything:
            return
        there = self._caches.own(spec.key).held
        before = _taken(there) if there else (0, 0)
        most = (permission.total_ports, permission.total_sessions)
        rows = zip(
            ("ports", "sessions"),
            _taken(spec),
            before,
            self._in_namespace(spec.key),
            most,
            strict=True,
        )
        for what, now, had, others, limit in rows:
            if now > had and others + now > limit:
                raise Refusal(
                    Outcome(
                        WAITING,
                        NOT_TAKEN,
                        f"the namespace's exposures would have {others + now} {what} in total; "
                        f"{limit} are allowed (annotation "
                        f"kubectl-istio-udp/allow-total-{what} on the Namespace)",
                    )
                )

    def _occupancy(self, key: Key, mine: Reservation | None = None) -> Occupancy:
        """What others use of gateways, including planned exposures that are not written yet."""
        return Occupancy(self._caches.all_filters(), mine, self._pending_beside(key))

    def _pending_beside(self, key: Key) -> list[Pending]:
        """What other workers have decided and not written yet.

        They change it without the lock, so this iterates over a copy, which is made in one
        operation.
        """
        return [pending for other, pending in self._pending.copy().items() if other != key]

    def _size(self, gateway: Gateway, udp_ports: int) -> ProxySize:
        """The estimated size of the gateway's Envoy, without querying it.

        It has as many workers as cores (the default of ProxyConfig.concurrency), and at least one
        cluster for each TCP port of a Service and each exposed UDP port.
        """
        workers = math.ceil(gateway.cores or CAREFUL_WORKERS)
        return ProxySize(workers, self._caches.tcp_ports + udp_ports)

    @contextmanager
    def _decided(
        self,
        intent: Intent,
        permission: Permission,
        exposure: Exposure,
        snapshot: Snapshot,
        todo: Sequence[Write],
    ) -> Iterator[None]:
        """Check an exposure against the gateway, and hold what it needs until it is written.

        This holds it against other workers at once, and against `expose` runs by a reservation.

        Raises:
            Refusal: it would do damage, or others use what it needs.
            Conflict, Unreachable: it cannot be reserved now; retry.
        """
        spec = exposure.spec
        footprint = Footprint.from_object(next(w.manifest for w in todo if w.kind == "EnvoyFilter"))
        with self._deciding:
            if found := errors(check_expose(exposure, self._seen(exposure, snapshot, todo))):
                raise Refusal(refused(found, spec))
            self._permit_total(permission, spec)
            self._yield_to_older(intent, spec, footprint)
            self._check_addresses(spec)
            self._pending[spec.key] = Pending(footprint, spec)
        try:
            if not takes_more(spec, self._caches.own(spec.key).held):
                yield
            else:
                with self._reserved(exposure, snapshot, todo):
                    yield
        except Exception:
            del self._pending[spec.key]
            self._freed(footprint)
            raise
        del self._pending[spec.key]

    @contextmanager
    def _reserved(
        self, exposure: Exposure, snapshot: Snapshot, todo: Sequence[Write]
    ) -> Iterator[None]:
        """Hold a reservation against `expose` runs, after checking that it fits besides theirs.

        Raises:
            Refusal: another run was faster.
            Conflict, Unreachable: it cannot be reserved now; retry.
        """
        spec = exposure.spec

        def look_again(mine: Reservation) -> Snapshot:
            self._caches.wait_reserved(mine, self._timing.watch)
            return self._seen(exposure, snapshot, todo, mine)

        there = self._caches.find("EnvoyFilter", spec.gateway.namespace, spec.object_name)
        self._fence()
        self._wrote("create", "EnvoyFilter")
        try:
            with fitting(self._api, exposure, there, look_again):
                yield
                self._wrote("delete", "EnvoyFilter")
        except Overtaken as error:
            raise Refusal(refused(error.findings, spec)) from error

    def _seen(
        self,
        exposure: Exposure,
        snapshot: Snapshot,
        todo: Sequence[Write],
        mine: Reservation | None = None,
    ) -> Snapshot:
        """The snapshot for the checks, with the planned writes counted as written.

        Args:
            exposure, snapshot: the decision.
            todo: the planned writes.
            mine: its reservation. Then earlier reservations count, and pending decisions do not.
        """
        caches, spec = self._caches, exposure.spec
        own = caches.own(spec.key).held
        there = [caches.find(w.kind, w.namespace, w.name) for w in todo if w.whole]
        occupancy = self._occupancy(spec.key, mine)
        others = occupancy.usage(snapshot.gateway, snapshot.mesh.root_namespace, spec.key)
        return replace(
            snapshot,
            footprints=occupancy.footprints_at(snapshot.gateway, snapshot.mesh, spec),
            size=self._size(snapshot.gateway, others.ports + (len(own.ports) if own else 0)),
            others=others,
            objects=tuple(manifest for manifest in there if manifest),
            exposures=(own,) if own else (),
        )

    def _check_addresses(self, spec: ExposureSpec) -> None:
        """Raise Refusal if another exposure that is being written has the same address."""
        entries = [e for other in self._pending_beside(spec.key) for e in other.spec.entries]
        taken = {address for entry in entries for address in entry.addresses}
        if any(taken.intersection(entry.addresses) for entry in spec.entries):
            raise Refusal(Outcome(WAITING, again=_RETRY_SECONDS))

    def _yield_to_older(self, intent: Intent, spec: ExposureSpec, footprint: Footprint) -> None:
        """Raise Refusal if an older intent may still get one of the ports.

        An exposure that has a port keeps it. Among those that request it the oldest wins, in
        whatever order they are reconciled. This does not plan the others: it uses the outcome of
        their last reconciliation, and without one, that comes first.
        """
        own = self._caches.own(spec.key).held
        held = {port.listener_port for port in own.ports} if own else set()
        wanted = footprint.udp_ports - held
        for rank, key in self._caches.rivals(wanted):
            if rank >= intent.about.rank:
                return
            if key != spec.key and self._may_take(key) and self._permitted(key):
                by = f"Service {key[0]}/{key[1]}"
                raise Refusal(replace(taken(wanted, spec.gateway, by), after=key))

    def _permitted(self, key: Key) -> bool:
        """Whether an intent's namespace has permission for it.

        There may be thousands of older intents, so the cheapest checks come first.
        """
        kept = self._caches.namespaces.get("", key[0])
        if kept is None or kept.leaving:
            return False
        try:
            permission = self._permission(kept)
            self._permit_place(key, permission)
            intent, own = self._caches.intent(key), self._caches.own(key)
            if not isinstance(intent, Intent) or (own.exists and own.source is None):
                return False
            self._permit(permission, Use.of_request(intent.request, intent.udp_ports))
        except (UsageError, Refusal):
            return False
        return True

    # -- what was there before ----------------------------------------------------------------

    def _refresh(self, own: Existing, manager: str) -> float:
        """Update the ServiceEntries of an exposure that lists addresses, if they differ.

        For an exposure from the command line, discovery stays `endpoints` while the Service lists
        them.

        Returns:
            The seconds until it must be reconciled again; 0 to wait for a change.
        """
        spec, entries = own.exposure, own.all_of("ServiceEntry")
        if spec is None:
            return 0.0
        # For an exposure from the command line only the entries that it names count: a tenant may
        # create others next to them.
        mine = [entry for entry in entries if ObjectRef.of(entry) in spec.objects]
        listed = listed_addresses(mine) if manager != MANAGER else ()

        def rules_of(namespace: str) -> EndpointRules:
            return self._rules(namespace).allowing(listed)

        if (
            self._mend(own, rules_of(spec.namespace), manager)
            or spec.discovery is not Discovery.ENDPOINTS
        ):
            return 0.0
        if (left := self._emptied_left(spec)) > 0:
            return left
        there = {ObjectRef.of(entry): entry for entry in entries}
        for manifest in service_entries(self._now(spec, rules_of)):
            write = Write(manifest, manager)
            write = marked(write, source_of(spec)) if manager == MANAGER else write
            entry = there.get(ObjectRef.of(manifest))
            if entry is not None and not self._is_so(write):
                self.apply(write, only=entry)
        return 0.0

    def _mend(self, own: Existing, rules: EndpointRules, manager: str) -> bool:
        """Add hosts and addresses to an earlier version's ServiceEntries; return whether it did.

        Not if an object or the listeners are missing, because the exposure is then being deleted.
        """
        spec = own.held
        if spec is None or all(e.addresses for e in spec.entries) or own.missing:
            return False
        service = self._caches.service((spec.namespace, spec.service))
        gateway = next((g for g in self._caches.gateways() if g.ref.same_pods(spec.gateway)), None)
        envoy_filter = own.object("EnvoyFilter")
        if service is None or gateway is None or envoy_filter is None:
            return False
        if silenced(envoy_filter, manager) is None:
            return False
        snapshot = Snapshot(
            service=service,
            slices=self._caches.slices_of((spec.namespace, spec.service)),
            pods=(),
            gateway=replace(gateway, ref=spec.gateway),
            mesh=self._caches.mesh(gateway.control_plane),
            namespaces=self._caches.labels_of({spec.namespace, gateway.ref.namespace}),
            before=spec,
            entries=self._caches.summaries(),
            rules=rules,
            secret=gateway_secret(gateway),
        )
        todo = writes(with_new_entries(spec, snapshot), manager)
        wanted = [write for write in todo if write.kind in ("ServiceEntry", "EnvoyFilter")]
        there = {key_of(manifest): manifest for manifest in own.objects}
        for write in wanted:
            self.apply(marked(write) if manager == MANAGER else write, only=there.get(write.key))
        kept = {write.key for write in wanted}
        for entry in own.all_of("ServiceEntry"):
            if key_of(entry) not in kept:
                self.delete(entry)
        return True

    def _now(self, spec: ExposureSpec, rules_of: Callable[[str], EndpointRules]) -> Exposure:
        """An exposure with its Services' current endpoints.

        Args:
            spec: the exposure.
            rules_of: returns the rules for the endpoints of a namespace's Services.
        """
        families, caches = self._families(spec), self._caches
        endpoints: dict[Any, tuple[Endpoint, ...]] = {}
        for key in spec.services - self._forbidden(spec):
            of = None if spec.service else key
            found = exposed_endpoints(
                spec, caches.service(key), caches.slices_of(key), families, of
            )
            rules = rules_of(key[0])
            endpoints |= {each: rules.permitted(listed) for each, listed in found.items()}
        return Exposure(spec, families, endpoints=endpoints)

    def _rules(self, namespace: str) -> EndpointRules:
        """The rules for endpoint addresses of a namespace's exposures."""
        api_server = self._caches.api_server()
        if self._allow_all:
            return EndpointRules(api_server)
        kept = self._caches.namespaces.get("", namespace)
        try:
            ranges = self._permission(kept).endpoints if kept else ()
        except UsageError:
            ranges = ()
        return EndpointRules(api_server, self._caches.pod_addresses(namespace), ranges)

    def _forbidden(self, spec: ExposureSpec) -> set[Key]:
        """The Services whose endpoints an exposure must not have any longer.

        A ReferenceGrant that is withdrawn does not wait until the gateway may change again.
        """
        asking, gateways = self._caches.gateway_of(spec.key), self._caches.api_gateways
        return gateways.forbidden(asking) if asking and gateways else set()

    def _families(self, spec: ExposureSpec) -> tuple[str, ...]:
        for gateway in self._caches.gateways():
            if gateway.ref.same_pods(spec.gateway) and gateway.has_addresses:
                return gateway.families
        return (IPV4, IPV6)

    def _withdraw(self, key: Key, own: Existing) -> Outcome:
        """Delete an exposure: first the Service for clients, then the listeners, then the rest."""
        changes = self._changes(own, ())
        left = self._remove(key, changes)
        if own.exists:
            return Outcome(LEAVING, again=left)
        for times in (self._silent, self._missed, self._emptied):
            times.pop(key, None)
        # A run that continues deletes its reservation; a killed one leaves it.
        waits = [*map(self._lasts, self._caches.reserved(key)), *self._calm_lasts(key)]
        return Outcome(GONE, again=max(waits, default=None))

    def _calm_lasts(self, key: Key) -> Iterator[float]:
        """The seconds for which the last change matters to an exposure that is created again.

        Otherwise an annotation that goes and comes, or names one gateway after the other, would
        change the gateways again and again.
        """
        left = self._calm_left(key) + self._timing.longest_calm
        if left > 0 and key in self._calm:
            yield left
        else:
            self._calm.pop(key, None)

    def _changes(self, own: Existing, todo: Sequence[Write]) -> ChangeSet:
        """The difference to the wanted objects, including leftovers."""
        stale = [f.manifest for f in self._caches.reserved(own.key) if self._lasts(f) < 0]
        services = self._caches.patched_services(own.key)
        return change_set(own.kind, own.key, (*own.objects, *stale), services, todo)

    def _lasts(self, reserved: GatewayFilter) -> float:
        """The seconds until a reservation is stale."""
        found = reserved.reservation
        return found.lasts(datetime.now(timezone.utc)) if found else 0.0

    def _remove(self, key: Key, changes: ChangeSet) -> float | None:
        """Remove what a ChangeSet says; return the seconds until the next step, None when done."""
        return carry_out(changes, _Remover(self, key)) or None

    def drain(self, key: Key, envoy_filter: Manifest) -> float:
        """Remove the listeners; return the seconds until the gateways have done so."""
        write = silenced(envoy_filter, MANAGER)
        if write is not None:
            self.apply(write)
            self._silent[key] = self._clock() + self._timing.listener
        # A previous leader may have removed them just now.
        until = self._silent.setdefault(key, self._clock() + self._timing.listener)
        return max(0.0, until - self._clock())

    def _calm_left(self, key: Key) -> float:
        """The seconds for which an exposure's part of the gateway must not change."""
        calm = self._calm.get(key)
        return calm.until - self._clock() if calm else 0.0

    # -- writing ------------------------------------------------------------------------------

    def _is_so(self, write: Write) -> bool:
        return is_so(write, self._caches.find(write.kind, write.namespace, write.name))

    def _apply_all(self, todo: Iterable[Write]) -> None:
        for write in todo:
            self.apply(write)

    def apply(self, write: Write, only: Manifest | None = None) -> None:
        """Server-side apply, of a new object or only of the object that was read.

        Args:
            write: what to write.
            only: the object to change. If it was deleted since, it is not created again.

        Raises:
            Conflict: the object was replaced or does not exist.
        """
        there = only or self._caches.find(write.kind, write.namespace, write.name)
        manifest = dict(write.manifest)
        if there is not None and write.whole and "uid" in there["metadata"]:
            manifest["metadata"] = {**manifest["metadata"], "uid": there["metadata"]["uid"]}
        self._fence()
        self._wrote("patch", write.kind)
        applied = apply_write(
            self._api,
            replace(write, manifest=manifest),
            before=there,
            force=there is not None and write.whole,
        )
        self._caches.learn(applied.manifest)

    def delete(self, manifest: Manifest) -> None:
        """Delete an object, if this replica leads."""
        self._fence()
        self._wrote("delete", manifest["kind"])
        metadata = manifest["metadata"]
        place = (manifest["kind"], metadata["namespace"], metadata["name"])
        self._api.delete(*place, uid=metadata.get("uid", ""))
        self._caches.forget(manifest)

    def _fence(self) -> None:
        if not self._may_write():
            raise NotLeading("another replica leads")


@dataclass(frozen=True)
class _Remover:
    """Removes as the leader; returns the seconds to wait instead of waiting."""

    reconciler: Reconciler
    key: Key

    def delete(self, manifest: Manifest) -> None:
        self.reconciler.delete(manifest)

    def release(self, release: Release) -> None:
        self.reconciler.apply(Write(release.manifest, release.manager, whole=False))

    def drain(self, envoy_filter: Manifest) -> float:
        return self.reconciler.drain(self.key, envoy_filter)


@lru_cache(maxsize=1024)
def _permission(
    annotations: tuple[tuple[str, str], ...], defaults: tuple[tuple[str, str], ...]
) -> Permission:
    """Read a Namespace's annotations; cached for thousands of Services."""
    return Permission.parse(dict(annotations), dict(defaults))


def _taken(spec: ExposureSpec) -> tuple[int, int]:
    """An exposure's ports, and its sessions over all ports."""
    ports = len(spec.ports)
    return ports, ports * spec.options.max_sessions


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
