"""Exposures that a worker has decided but not written yet; other workers count them as written."""

from __future__ import annotations

from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.usage import Usage
from kubectl_istio_udp.state.caches import Caches
from kubectl_istio_udp.state.occupancy import Occupancy, Pending
from kubectl_istio_udp.state.reservations import Reservation


class PendingExposures:
    """The exposures that workers are writing, by key; thread-safe."""

    def __init__(self, caches: Caches) -> None:
        """Take the caches, which have the written exposures."""
        self._caches = caches
        self._pending: dict[Key, Pending] = {}

    def add(self, pending: Pending) -> None:
        """Count an exposure from now on."""
        self._pending[pending.spec.key] = pending

    def remove(self, key: Key) -> None:
        """End `add`."""
        del self._pending[key]

    def beside(self, key: Key) -> list[Pending]:
        """All but one exposure.

        Workers change them without a lock, so this iterates over a copy, which is made in one
        operation.
        """
        return [pending for other, pending in self._pending.copy().items() if other != key]

    def occupancy(self, key: Key, reservation: Reservation | None = None) -> Occupancy:
        """What all but one exposure use of gateways, written or not.

        Args:
            key: the exposure that does not count.
            reservation: its reservation, if it has one.
        """
        return Occupancy(self._caches.gateway_filters, reservation, self.beside(key))

    def totals(self, key: Key) -> Usage:
        """What its namespace's other exposures use, at all gateways."""
        decided = [each.spec for each in self.beside(key) if each.spec.key[0] == key[0]]
        return self._caches.used_in(key[0], decided, key)
