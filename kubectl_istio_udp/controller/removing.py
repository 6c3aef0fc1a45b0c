"""Remove what an exposure no longer needs, or all of it, in steps that never wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from kubectl_istio_udp.apply.changes import ChangeSet, Release, change_set
from kubectl_istio_udp.apply.deletion_order import delete_in_order, without_listeners
from kubectl_istio_udp.controller.objects import MANAGER
from kubectl_istio_udp.controller.outcome import DELETING, GONE, Outcome
from kubectl_istio_udp.controller.waits import Waits
from kubectl_istio_udp.controller.writing import Writer
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.state.caches import Caches
from kubectl_istio_udp.state.leftovers import Leftovers
from kubectl_istio_udp.state.occupancy import GatewayFilter
from kubectl_istio_udp.state.ownership import Existing

Manifest = Mapping[str, Any]


class Removal:
    """Deletes objects, releases ports and drains listeners."""

    def __init__(self, caches: Caches, writer: Writer, waits: Waits) -> None:
        """Take the dependencies."""
        self._caches, self._writer, self._waits = caches, writer, waits

    def withdraw(self, key: Key, existing: Existing) -> Outcome:
        """Delete an exposure: first the Service for clients, then the listeners, then the rest."""
        left = self.remove(existing, ())
        if existing.exists:
            return Outcome(DELETING, again=left)
        self._waits.forget(key)
        # A run that continues deletes its reservation; a killed one leaves it.
        waits = [*map(_lasts, self._caches.reserved(key)), *self._waits.cooldown_lasts(key)]
        return Outcome(GONE, again=max(waits, default=None))

    def remove(self, existing: Existing, wanted: Sequence[Write]) -> float | None:
        """Remove what is not wanted; return the seconds until the next step, None when done."""
        steps = _Steps(self._writer, self._waits, existing.key)
        return delete_in_order(self._changes(existing, wanted), steps) or None

    def _changes(self, existing: Existing, wanted: Sequence[Write]) -> ChangeSet:
        """The difference to the wanted objects, including leftovers."""
        stale = [f.manifest for f in self._caches.reserved(existing.key) if _lasts(f) < 0]
        patched = Leftovers(self._caches.patched_services(existing.key))
        services = patched.services_of([existing.spec])
        objects = (*existing.objects, *stale)
        return change_set(existing.kind, existing.key, objects, services, wanted)


def _lasts(reserved: GatewayFilter) -> float:
    """The seconds until a reservation is stale."""
    found = reserved.reservation
    return found.lasts(datetime.now(timezone.utc)) if found else 0.0


@dataclass(frozen=True)
class _Steps:
    """Removes as the leader; returns the seconds to wait instead of waiting."""

    writer: Writer
    waits: Waits
    key: Key

    def delete(self, manifest: Manifest) -> None:
        self.writer.delete(manifest)

    def release(self, release: Release) -> None:
        self.writer.apply(Write(release.manifest, release.manager, whole=False))

    def drain(self, envoy_filter: Manifest) -> float:
        """Remove the listeners; return the seconds until the gateways have done so."""
        write = without_listeners(envoy_filter, MANAGER)
        if write is not None:
            self.writer.apply(write)
            self.waits.drain(self.key)
        return self.waits.drained_left(self.key)
