"""Hold what an exposure needs of a gateway until it is written, and refuse what does not fit."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace

from kubectl_istio_udp.apply.reserving import Overtaken, fitting, takes_more
from kubectl_istio_udp.checks.expose import expose_errors
from kubectl_istio_udp.controller.deciding import Decided, Decider
from kubectl_istio_udp.controller.outcome import WAITING, Outcome, Refusal, refused, taken
from kubectl_istio_udp.controller.pending import PendingExposures
from kubectl_istio_udp.controller.permitting import Permissions
from kubectl_istio_udp.controller.waits import RETRY_SECONDS
from kubectl_istio_udp.controller.writing import Writer
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import Gateway, GatewayRef
from kubectl_istio_udp.model.memory import CAREFUL_WORKERS, ProxySize
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.sources.annotations import Intent
from kubectl_istio_udp.sources.permission import Permission
from kubectl_istio_udp.state.caches import Caches
from kubectl_istio_udp.state.occupancy import Pending
from kubectl_istio_udp.state.reservations import Reservation


class Reserver:
    """Checks decided exposures against their gateways, one at a time."""

    def __init__(
        self,
        caches: Caches,
        pending: PendingExposures,
        permissions: Permissions,
        decider: Decider,
        writer: Writer,
        *,
        may_take: Callable[[Key], bool],
        freed: Callable[[Footprint], None],
        watch_seconds: float,
    ) -> None:
        """Take the dependencies.

        Args:
            caches, pending, permissions: what exists, and what is allowed.
            decider: decides which gateway an intent is for.
            writer: writes the reservation.
            may_take: whether an intent may still get its ports.
            freed: called with a planned footprint that could not be written.
            watch_seconds: how late a watch may be.
        """
        self._caches, self._pending, self._permissions = caches, pending, permissions
        self._decider, self._writer = decider, writer
        self._may_take, self._freed = may_take, freed
        self._watch_seconds = watch_seconds
        self._deciding = threading.Lock()

    def check(
        self, intent: Intent, permission: Permission, decided: Decided, todo: Sequence[Write]
    ) -> None:
        """Check an exposure against its gateway, without holding anything.

        Raises:
            Refusal: it would do damage, or others use what it needs.
        """
        with self._deciding:
            self._check(intent, permission, decided, todo)

    @contextmanager
    def hold(
        self, intent: Intent, permission: Permission, decided: Decided, todo: Sequence[Write]
    ) -> Iterator[None]:
        """Check an exposure against the gateway, and hold what it needs until it is written.

        This holds it against other workers at once, and against `expose` runs by a reservation.

        Raises:
            Refusal: it would do damage, or others use what it needs.
            Conflict, Unreachable: it cannot be reserved now; retry.
        """
        spec = decided.exposure.spec
        with self._deciding:
            pending = self._check(intent, permission, decided, todo)
            self._pending.add(pending)
        try:
            if not takes_more(spec, self._caches.existing(spec.key).held):
                yield
            else:
                with self._reserved(decided, todo):
                    yield
        except Exception:
            self._pending.remove(spec.key)
            self._freed(pending.footprint)
            raise
        self._pending.remove(spec.key)

    def _check(
        self, intent: Intent, permission: Permission, decided: Decided, todo: Sequence[Write]
    ) -> Pending:
        """Return what an exposure that fits at its gateway adds to it; otherwise raise Refusal."""
        spec = decided.exposure.spec
        manifest = next(write.manifest for write in todo if write.kind == "EnvoyFilter")
        footprint = Footprint.from_object(manifest)
        if found := expose_errors(decided.exposure, self._seen(decided, todo)):
            raise Refusal(refused(found, spec))
        self._permissions.check_totals(permission, spec, shrinks=_shrinks(intent))
        self._yield_to_older(intent, spec, footprint)
        self._check_addresses(spec)
        return Pending(manifest, footprint, spec)

    @contextmanager
    def _reserved(self, decided: Decided, todo: Sequence[Write]) -> Iterator[None]:
        """Hold a reservation against `expose` runs, after checking that it fits besides theirs.

        Raises:
            Refusal: another run was faster.
            Conflict, Unreachable: it cannot be reserved now; retry.
        """
        spec = decided.exposure.spec

        def look_again(reservation: Reservation) -> Snapshot:
            self._caches.wait_reserved(reservation, self._watch_seconds)
            return self._seen(decided, todo, reservation)

        existing = self._caches.find("EnvoyFilter", spec.gateway.namespace, spec.object_name)
        self._writer.fence("create", "EnvoyFilter")
        try:
            with fitting(self._writer.api, decided.exposure, existing, look_again):
                yield
                self._writer.count("delete", "EnvoyFilter")
        except Overtaken as error:
            raise Refusal(refused(error.findings, spec)) from error

    def _seen(
        self, decided: Decided, todo: Sequence[Write], reservation: Reservation | None = None
    ) -> Snapshot:
        """The snapshot for the checks, with the planned writes counted as written.

        Args:
            decided: the decision.
            todo: the planned writes.
            reservation: its reservation. Then earlier reservations count, and pending decisions do
                not.
        """
        caches, spec, snapshot = self._caches, decided.exposure.spec, decided.snapshot
        now = caches.existing(spec.key)
        held = now.at(spec.gateway).held
        owned = {"/".join(namespaced_name(each)) for each in now.all_of("EnvoyFilter")}
        existing = [caches.find(w.kind, w.namespace, w.name) for w in todo if w.whole]
        occupancy = self._pending.occupancy(spec.key, reservation)
        others = occupancy.usage(snapshot.gateway, snapshot.mesh.root_namespace, spec.key)
        return replace(
            snapshot,
            # Before it moves, its own EnvoyFilter at another gateway may apply to this one too.
            footprints=tuple(
                each
                for each in occupancy.footprints_at(snapshot.gateway, snapshot.mesh, spec)
                if each.owner not in owned
            ),
            size=self._size(snapshot.gateway, others.ports + (len(held.ports) if held else 0)),
            others=others,
            objects=tuple(manifest for manifest in existing if manifest),
            exposures=(held,) if held else (),
        )

    def _size(self, gateway: Gateway, udp_ports: int) -> ProxySize:
        """The estimated size of the gateway's Envoy, without querying it.

        It has as many workers as cores (the default of ProxyConfig.concurrency), and at least one
        cluster for each TCP port of a Service and each exposed UDP port.
        """
        workers = math.ceil(gateway.cores or CAREFUL_WORKERS)
        return ProxySize(workers, self._caches.tcp_ports + udp_ports)

    def _check_addresses(self, spec: ExposureSpec) -> None:
        """Raise Refusal if another exposure that is being written has the same address."""
        entries = [e for other in self._pending.beside(spec.key) for e in other.spec.entries]
        used = {address for entry in entries for address in entry.addresses}
        if any(used.intersection(entry.addresses) for entry in spec.entries):
            raise Refusal(Outcome(WAITING, again=RETRY_SECONDS))

    def _yield_to_older(self, intent: Intent, spec: ExposureSpec, footprint: Footprint) -> None:
        """Raise Refusal if an older intent may still get one of the ports.

        An exposure that has a port keeps it. Among those that request it the oldest wins, in
        whatever order they are reconciled. This does not plan the others: it uses the outcome of
        their last reconciliation. Without an outcome, they are reconciled first.
        """
        existing = self._caches.existing(spec.key).at(spec.gateway).held
        held = {port.listener_port for port in existing.ports} if existing else set()
        wanted = footprint.udp_ports - held
        for rank, key in self._caches.requests_for(wanted):
            if rank >= intent.about.rank:
                return
            older = self._competing(key, wanted, spec.gateway) if key != spec.key else None
            if older is not None:
                raise Refusal(replace(taken(wanted, spec.gateway, older.about), after=key))

    def _competing(self, key: Key, listener_ports: Set[int], gateway: GatewayRef) -> Intent | None:
        """An older intent, if it may still get one of some ports of a gateway; otherwise None."""
        permission = self._may_take(key) and self._permissions.granted(key, listener_ports)
        intent = self._caches.intent(key) if permission else None
        if not permission or not isinstance(intent, Intent):
            return None
        return None if self._decider.is_elsewhere(intent, permission, gateway) else intent


def _shrinks(intent: Intent) -> bool:
    """Whether an exposure gets as many sessions as are left, at a Service's ports.

    Each backend of a Gateway's port has as many sessions, so a new plan may exceed the limit again.
    """
    return bool(intent.request.service) and intent.request.takes_what_is_left
