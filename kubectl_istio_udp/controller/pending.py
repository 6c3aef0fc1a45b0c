"""Exposures that a worker has decided but not written yet; other workers count them as written."""

from __future__ import annotations

from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.state.caches import Caches
from kubectl_istio_udp.state.occupancy import Occupancy, Pending
from kubectl_istio_udp.state.reservations import Reservation


class PendingExposures:
    """The exposures that workers are writing, by key; thread-safe."""

    def __init__(self, caches: Caches) -> None:
        """Take the caches, which have the written exposures."""
        self._caches = caches
        self._pending: dict[Key, Pending] = {}

    def add(self, footprint: Footprint, spec: ExposureSpec) -> None:
        """Count an exposure from now on."""
        self._pending[spec.key] = Pending(footprint, spec)

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
        return Occupancy(self._caches.all_filters(), reservation, self.beside(key))

    def totals(self, key: Key) -> tuple[int, int]:
        """The ports and sessions of its namespace's other exposures, at all gateways."""
        found = {each.key: each for each in self._caches.in_namespace(key[0])}
        decided = [each.spec for each in self.beside(key)]
        found |= {spec.key: spec for spec in decided if spec.key[0] == key[0]}
        found.pop(key, None)
        used = [ports_and_sessions(each) for each in found.values()]
        return sum(ports for ports, _ in used), sum(sessions for _, sessions in used)


def ports_and_sessions(spec: ExposureSpec) -> tuple[int, int]:
    """An exposure's ports, and its sessions over all ports."""
    ports = len(spec.ports)
    return ports, ports * spec.options.max_sessions
