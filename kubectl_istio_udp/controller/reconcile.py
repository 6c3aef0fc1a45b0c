"""Reconcile one exposure: its intent, its current state, and the missing writes.

    intent -> permission -> decide -> (reserve, if the gateway changes) -> write -> remove the rest

Each step is in the file of its name: permitting.py, deciding.py (routes.py for a Gateway),
reserving.py, writing.py, removing.py. A change of endpoints costs one request, for the
ServiceEntry; nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kubectl_istio_udp.controller.deciding import Decided, Decider, GatewayChanges
from kubectl_istio_udp.controller.endpoints import Endpoints
from kubectl_istio_udp.controller.objects import (
    MANAGER,
    is_applied,
    marked,
    source_of,
    with_revision,
)
from kubectl_istio_udp.controller.outcome import (
    DELETING,
    GONE,
    MANUAL,
    OK,
    REFUSED,
    WAITING,
    Outcome,
    Refusal,
    invalid,
)
from kubectl_istio_udp.controller.pending import PendingExposures
from kubectl_istio_udp.controller.permitting import Permissions, check_use
from kubectl_istio_udp.controller.refreshing import Refresher
from kubectl_istio_udp.controller.removing import Removal
from kubectl_istio_udp.controller.reserving import Reserver
from kubectl_istio_udp.controller.routes import RouteDecider
from kubectl_istio_udp.controller.waits import STEP_SECONDS, Timing, Waits
from kubectl_istio_udp.controller.writing import Fence, Writer
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.endpointrules import summary
from kubectl_istio_udp.model.entries import same_host
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.errors import IstioUdpError, UsageError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.ports import ports_text
from kubectl_istio_udp.model.reasons import (
    ENDPOINT_REFUSED,
    EXPOSED,
    FORBIDDEN,
    HOST_TAKEN,
    NOT_TAKEN,
)
from kubectl_istio_udp.model.service import MOST_ENDPOINTS
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.sources.annotations import Intent
from kubectl_istio_udp.sources.permission import Permission, Use
from kubectl_istio_udp.sources.routes import Backends
from kubectl_istio_udp.state.caches import Caches
from kubectl_istio_udp.state.kept import KeptNamespace
from kubectl_istio_udp.state.ownership import Existing


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
        fence: Fence,
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
            fence: lets the writes pass.
            freed: called with a planned footprint that could not be written.
            clock: returns the time in seconds.
            timing: the waits and intervals.
        """
        pending = PendingExposures(caches)
        self._caches, self._waits = caches, Waits(timing, clock)
        self._permissions = Permissions(caches, pending, allow_all=allow_all, defaults=defaults)
        self._writer = Writer(api, caches, fence)
        endpoints = Endpoints(caches, self._permissions, self._waits)
        self._decider = Decider(caches, pending, endpoints, file_limit)
        self._routes = RouteDecider(caches, pending, endpoints, self._decider)
        self._reserver = Reserver(
            caches,
            pending,
            self._permissions,
            self._decider,
            self._writer,
            may_take=may_take,
            freed=freed,
            watch_seconds=timing.watch,
        )
        self._refresher = Refresher(caches, endpoints, self._writer)
        self._removal = Removal(caches, self._writer, self._waits)
        self.unavailable, self.refused = self._routes.unavailable, self._routes.refused

    def begin(self) -> None:
        """Forget what an earlier time as leader left."""
        self._waits.clear()
        self._routes.clear()

    def about(self, key: Key) -> About | None:
        """The object that Events about an exposure refer to."""
        if gateway := self._caches.gateway_of(key):
            return gateway.about
        service = self._caches.service_manifest(key)
        return About.of(service) if service is not None and key in self._caches.intents else None

    def reconcile(self, key: Key, requested: Intent | UsageError | None) -> Outcome:
        """Reconcile an exposure.

        Args:
            key: the exposure.
            requested: its intent in the caches.

        Raises:
            IstioUdpError: the API server rejected a write; it must be retried.
        """
        outcome = self._reconcile(key, requested).about(requested)
        return replace(outcome, refused_endpoints=self._routes.refused(key))

    def _reconcile(self, key: Key, requested: Intent | UsageError | None) -> Outcome:
        existing = self._caches.existing(key)
        namespace = self._caches.namespaces.get("", key[0])
        if namespace is None:
            # On the command line or by annotation: the exposed Service no longer exists.
            return self._withdraw(key, existing)
        if existing.exists and existing.source is None:
            left = self._refresher.refresh(existing, names.MANAGER)
            outcome = _not_taken_over(key, existing) if requested else Outcome(MANUAL)
            return replace(outcome, again=left or None)
        if namespace.leaving:
            return self._withdraw(key, existing)
        undecided = requested is None and self._caches.is_undecided(key)
        if undecided or self._caches.lacks_rights(existing):
            left = self._refresher.refresh(existing, MANAGER)
            return Outcome(WAITING if existing.exists else GONE, again=left or None)
        if requested is None:
            left = self._waits.unrequested_left(key) if existing.exists else 0
            return Outcome(DELETING, again=left) if left > 0 else self._withdraw(key, existing)
        self._waits.requested(key)
        return self._reconcile_requested(key, requested, namespace, existing)

    def refresh(self, key: Key, services: Collection[Key]) -> float | None:
        """Update an exposure after a change of endpoints alone, without planning it.

        Args:
            key: the exposure, with the outcome OK.
            services: the Services whose endpoints may have changed.

        Returns:
            The seconds until it must be reconciled, because an address may not be an endpoint: the
            watch of pods may be later than that of EndpointSlices. 0 if it is up to date. None if
            it must be reconciled now.

        Raises:
            IstioUdpError: the API server rejected a write; it must be retried.
        """
        if not self._refresher.refresh_services(self._caches.existing(key), services):
            return None
        return self._waits.timing.watch if self._refresher.refuses(services) else 0.0

    def permission(self, key: Key) -> Permission | None:
        """What an intent may use of a gateway; None if its namespace does not say, or is gone."""
        namespace = self._caches.namespaces.get("", key[0])
        if namespace is None:
            return None
        try:
            return self._permissions.of_intent(key, self._caches.intent(key), namespace)
        except UsageError:
            return None

    def is_at_former_gateway(self, key: Key) -> bool:
        """Whether the exposure of a Gateway is at another gateway than it requests."""
        intent, permission = self._caches.intent(key), self.permission(key)
        if permission is None or not isinstance(intent, Intent):
            return False
        existing = self._caches.existing(key)
        try:
            gateway = self._decider.gateway(intent, permission, existing)
        except GatewayChanges:
            return True
        except Refusal:
            return False
        return existing.at(gateway.ref) is not existing

    def _reconcile_requested(
        self, key: Key, requested: Intent | UsageError, namespace: KeptNamespace, existing: Existing
    ) -> Outcome:
        try:
            permission = self._permissions.of_intent(key, requested, namespace)
        except UsageError as error:
            self._routes.forget(key)
            return self._keep(key, invalid(error), None, existing)
        at_present = self._permissions.of_held(key, namespace)
        return self._keep_permitted(key, requested, permission, existing, at_present)

    def _keep_permitted(
        self,
        key: Key,
        requested: Intent | UsageError,
        permission: Permission,
        existing: Existing,
        at_present: Permission,
    ) -> Outcome:
        """Keep an accepted exposure while it is permitted, whatever is requested now.

        Args:
            key: the exposure.
            requested: what is requested.
            permission: what the request may use.
            existing: the exposure as it is.
            at_present: what it may use of the gateway where it is.
        """
        withdrawn = at_present.withdrawn(_use_of(existing.held)) if existing.held else ""
        try:
            outcome = self._try(requested, permission, existing)
        except GatewayChanges:
            # Delete it at its gateway, then reconcile again.
            return self._withdraw(key, existing)
        except IstioUdpError:
            if withdrawn:
                return self._forbid(key, existing, withdrawn)
            raise
        if outcome.state == OK:
            return outcome
        if withdrawn:
            return self._forbid(key, existing, withdrawn)
        return self._keep(key, outcome, at_present, existing)

    def _keep(
        self, key: Key, outcome: Outcome, permission: Permission | None, existing: Existing
    ) -> Outcome:
        """Keep an exposure as it is, without what its Gateway no longer has.

        A refused request must not keep a listener, route or grant working that was deleted.

        Args:
            key: the exposure.
            outcome: why it does not become as requested.
            permission: what it may use of the gateway where it is; None if its namespace's
                annotations are not valid.
            existing: the exposure as it is.
        """
        ports = self._routes.still_requested(existing, permission) if outcome.message else None
        if ports is not None and not ports:
            withdrawn = self._withdraw(key, existing)
            return replace(withdrawn, reason=outcome.reason, message=outcome.message)
        again = self._reduce(permission, existing, ports) if ports else None
        self._refresher.refresh(self._caches.existing(key), MANAGER)
        if outcome.message and existing.held:
            stays = "the rest of the exposure" if ports else "the exposure"
            message = f"{outcome.message}; {stays} stays as it was before"
            outcome = replace(outcome, message=message)
        waits = [each for each in (again, outcome.again) if each is not None]
        return replace(outcome, again=min(waits, default=None))

    def _reduce(
        self,
        permission: Permission | None,
        existing: Existing,
        ports: Sequence[tuple[int, Backends]],
    ) -> float | None:
        """Remove ports and backends of an exposure; return the seconds until the next step.

        Args:
            permission: what it may use; None if its namespace's annotations are not valid.
            existing: the exposure.
            ports: the ports and backends that stay, at least one.
        """
        if (left := self._cooldown_left(permission, existing)) > 0:
            return left
        try:
            decided = self._routes.reduced(existing, ports)
        except Refusal as refusal:
            return refusal.outcome.again
        except UsageError:
            decided = None
        if decided is None:
            return None
        todo = self._todo(decided)
        self._apply(existing, [write for write in todo if not self._is_applied(write)])
        return self._next_step(decided, self._removal.remove(existing, todo))

    def _withdraw(self, key: Key, existing: Existing) -> Outcome:
        outcome = self._removal.withdraw(key, existing)
        if outcome.state == GONE:
            self._routes.forget(key)
        return outcome

    def _forbid(self, key: Key, existing: Existing, message: str) -> Outcome:
        """Delete an exposure that is not permitted any longer."""
        outcome = self._withdraw(key, existing)
        return replace(outcome, reason=FORBIDDEN, message=message)

    def _try(
        self, requested: Intent | UsageError, permission: Permission, existing: Existing
    ) -> Outcome:
        """Carry out a request, or return the outcome of its refusal."""
        if isinstance(requested, UsageError):
            return invalid(requested)
        try:
            return self._carry_out(requested, permission, existing)
        except UsageError as error:
            return invalid(error)
        except Refusal as refusal:
            return refusal.outcome

    def _carry_out(self, intent: Intent, permission: Permission, existing: Existing) -> Outcome:
        # Refuse a request without permission before doing any work.
        try:
            self._permissions.check_rank(permission, intent.key)
            check_use(permission, Use.of_request(intent.request, intent.udp_ports))
        except Refusal:
            self._routes.forget(intent.key)
            raise
        decided = self._decide(intent, permission, existing)
        todo = self._todo(decided)
        if existing.at(decided.exposure.spec.gateway) is not existing:
            return self._move(intent, permission, decided, todo)
        if (left := self._write(intent, permission, existing, decided, todo)) > 0:
            return Outcome(WAITING, again=left)
        again = self._next_step(decided, self._removal.remove(existing, todo))
        return replace(self._exposed(decided), again=again)

    def _move(
        self, intent: Intent, permission: Permission, decided: Decided, todo: Sequence[Write]
    ) -> Outcome:
        """Start to move an exposure to another gateway, if nothing prevents it there.

        Raises:
            Refusal: it stays at its gateway.
            GatewayChanges: it must be deleted at its gateway first.
        """
        self._reserver.check(intent, permission, decided, todo)
        if (left := self._waits.cooldown_left(intent.key)) > 0:
            return Outcome(WAITING, again=left)
        raise GatewayChanges(f"it moves to gateway {decided.exposure.spec.gateway}")

    def _next_step(self, decided: Decided, again: float | None) -> float | None:
        """The seconds until the next step of a change; None if there is none.

        Args:
            decided: what was written.
            again: the seconds until the next step of the removal; None if there is none.
        """
        if decided.complete:
            return again
        cooldown = max(0.0, self._waits.cooldown_left(decided.exposure.spec.key)) + STEP_SECONDS
        return cooldown if again is None else min(again, cooldown)

    def _decide(self, intent: Intent, permission: Permission, existing: Existing) -> Decided:
        if intent.request.service:
            return self._decider.decide(intent, permission, existing)
        return self._routes.decide(intent, permission, existing)

    def _write(
        self,
        intent: Intent,
        permission: Permission,
        existing: Existing,
        decided: Decided,
        todo: Sequence[Write],
    ) -> float:
        """Write what differs; return the seconds until the gateway may change, 0 when done."""
        differing = [write for write in todo if not self._is_applied(write)]
        kinds = {write.kind for write in differing}
        if not kinds - {"ServiceEntry"}:
            self._writer.apply_all([(write, None) for write in differing], reconciles=intent.key)
            return 0.0
        if "EnvoyFilter" in kinds and (left := self._cooldown_left(permission, existing)) > 0:
            return left
        with self._reserver.hold(intent, permission, decided, todo):
            self._apply(existing, differing)
        return 0.0

    def _cooldown_left(self, permission: Permission | None, existing: Existing) -> float:
        """The seconds for which the gateway must not change.

        The end of a permission for a port does not wait: only an administrator can cause it.
        """
        held = existing.held.ports if existing.held and permission else ()
        if permission and any(permission.forbids(port.gateway_port) for port in held):
            return 0.0
        return self._waits.cooldown_left(existing.key)

    def _apply(self, existing: Existing, differing: Sequence[Write]) -> None:
        for write in differing:
            self._writer.apply(write, reconciles=existing.key)
            # Now, because a later write may fail. A failed write is retried after its back-off.
            if write.kind == "EnvoyFilter":
                held = existing.held.backends if existing.held else ()
                next_step = any(not backend.weight for backend in held)
                self._waits.start_cooldown(existing.key, next_step=next_step)

    def _todo(self, decided: Decided) -> list[Write]:
        """The writes of a decided exposure."""
        source = source_of(decided.exposure.spec)
        revision = decided.snapshot.gateway.control_plane.revision
        return [
            with_revision(marked(write, source), self._find(write), revision)
            for write in writes(decided.exposure, MANAGER)
        ]

    def _is_applied(self, write: Write) -> bool:
        return is_applied(write, self._find(write))

    def _find(self, write: Write) -> Mapping[str, Any] | None:
        """The object that a write changes; None if it does not exist."""
        return self._caches.find(write.kind, write.namespace, write.name)

    def _exposed(self, decided: Decided) -> Outcome:
        """The outcome for a written exposure, possibly with a warning."""
        spec, snapshot = decided.exposure.spec, decided.snapshot
        others = same_host(
            spec.key, spec.entries, self._caches.known_entries, spec.gateway.namespace
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
        of_service = snapshot.rules.objections(snapshot.slices)
        refused = decided.refused or ({spec.key: of_service} if of_service else {})
        if refused:
            every = {address: why for each in refused.values() for address, why in each.items()}
            listed = "; ".join(f"Service {'/'.join(of)}: {summary(refused[of])}" for of in refused)
            text = "the gateway does not send to"
            detail = f"{text} {listed}" if decided.refused else ""
            return Outcome(OK, ENDPOINT_REFUSED, f"{text} {summary(every)}", detail)
        if left_out := sum(map(self._caches.endpoints_left_out, spec.services)):
            return Outcome(
                OK,
                ENDPOINT_REFUSED,
                f"the Service has more than {MOST_ENDPOINTS} endpoints; the gateway does not send "
                f"to {left_out} of them",
            )
        ports = ", ".join(ports_text(spec.ports))
        return Outcome(OK, EXPOSED, f"{ports} at gateway {spec.gateway}")


def _use_of(held: ExposureSpec) -> Use:
    """What an exposure uses that, if it is not permitted, ends all of it.

    Without a Gateway's ports: a listener whose port is not permitted ends alone.
    """
    use = Use.of_spec(held)
    return use if held.service else replace(use, ports=())


def _not_taken_over(key: Key, existing: Existing) -> Outcome:
    """The outcome for a request whose exposure was created on the command line."""
    where = f" at gateway {existing.exposure.gateway}" if existing.exposure else ""
    return Outcome(
        REFUSED,
        NOT_TAKEN,
        f"exposure {key[1]}{where} was created with `kubectl istio-udp expose` and stays as it "
        f"is. To manage it by annotation, first run: kubectl istio-udp delete -n {key[0]} "
        f"{key[1]}",
    )
