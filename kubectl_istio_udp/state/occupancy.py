"""What EnvoyFilters and reservations use of a gateway: the only place that computes it.

`expose`, `get` and the controller all call it, with objects that they read or watch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.model.envoyfilter import Footprint, attaches, footprints_at
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import Gateway, GatewayRef, selects
from kubectl_istio_udp.model.mesh import Mesh
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.model.usage import Holder, Holders, Usage, used_by
from kubectl_istio_udp.state.ownership import readable
from kubectl_istio_udp.state.reservations import (
    Reservation,
    counted,
    filter_names,
    read_reservation,
)

Manifest = Mapping[str, Any]
Key = tuple[str, str]
Place = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class GatewayFilter:
    """An EnvoyFilter or reservation, as it concerns gateways.

    Attributes:
        manifest: the EnvoyFilter.
        footprint: what it adds to proxies; for a reservation, what its exposure's EnvoyFilter will.
        spec: the exposure, if it is an exposure's EnvoyFilter; otherwise None.
        reservation: the reservation, if it is one; otherwise None.
    """

    manifest: Manifest
    footprint: Footprint = field(compare=False)
    spec: ExposureSpec | None = field(compare=False)
    reservation: Reservation | None = field(compare=False, default=None)

    @classmethod
    def of(cls, manifest: Manifest) -> GatewayFilter:
        """Read an EnvoyFilter's manifest."""
        reservation = read_reservation(manifest)
        if reservation is not None:
            return cls(manifest, reservation.footprint, None, reservation)
        return cls(manifest, Footprint.from_object(manifest), readable(manifest, ExposureSpec))

    def footprints_at(self, gateway: Gateway, mesh: Mesh) -> tuple[Footprint, ...]:
        """What it adds, or will add, to a gateway; empty if it does not apply to the gateway."""
        if self.reservation is None:
            return footprints_at(self.manifest, gateway, mesh)
        return (self.footprint,) if attaches(self.manifest, gateway, mesh).possible else ()


@dataclass(frozen=True)
class Pending:
    """What this process decided to write but has not reserved or written yet.

    Attributes:
        manifest: an exposure's EnvoyFilter.
        footprint: what it adds to proxies.
        spec: the exposure.
    """

    manifest: Manifest
    footprint: Footprint
    spec: ExposureSpec


class GatewayFilters:
    """EnvoyFilters and reservations by what they use; thread-safe.

    The controller keeps one up to date, and the command line makes one for each decision.
    """

    def __init__(self) -> None:
        """Start without EnvoyFilters."""
        self._lock = threading.Lock()
        self._filters: dict[Key, GatewayFilter] = {}
        self._reservations: dict[Key, Reservation] = {}
        # By UDP port, and by the name of a listener or cluster.
        self._users: dict[int | str, dict[Key, None]] = {}
        # The exposures by the namespace and selector of their EnvoyFilters.
        self._holders: dict[Place, Holders] = {}

    @classmethod
    def of(cls, manifests: Iterable[Manifest]) -> GatewayFilters:
        """Read the manifests of EnvoyFilters."""
        found = cls()
        for manifest in manifests:
            found.put(namespaced_name(manifest), GatewayFilter.of(manifest))
        return found

    def get(self, key: Key) -> GatewayFilter | None:
        """The EnvoyFilter or reservation with this (namespace, name); None without one."""
        return self._filters.get(key)

    def put(self, key: Key, now: GatewayFilter | None) -> None:
        """Add or replace the EnvoyFilter with this (namespace, name); None removes it."""
        with self._lock:
            before = self._filters.pop(key, None)
            if before is not None:
                self._remove(key, before)
            if now is not None:
                self._add(key, now)

    def _add(self, key: Key, now: GatewayFilter) -> None:
        self._filters[key] = now
        for used in now.footprint.used:
            self._users.setdefault(used, {})[key] = None
        if now.reservation is not None:
            self._reservations[key] = now.reservation
        if now.spec is not None:
            holders = self._holders.setdefault(_place(now.spec.gateway), Holders())
            holders.put(now.spec.key, Holder.of(now.spec))

    def _remove(self, key: Key, before: GatewayFilter) -> None:
        self._reservations.pop(key, None)
        for used in before.footprint.used:
            users = self._users[used]
            del users[key]
            if not users:
                del self._users[used]
        if before.spec is not None:
            place = _place(before.spec.gateway)
            self._holders[place].put(before.spec.key, None)
            if not self._holders[place]:
                del self._holders[place]

    def reservations(self) -> list[Reservation]:
        """All reservations."""
        with self._lock:
            return list(self._reservations.values())

    def all(self) -> list[GatewayFilter]:
        """All EnvoyFilters and reservations."""
        with self._lock:
            return list(self._filters.values())

    def using(self, anything: Iterable[int | str]) -> list[GatewayFilter]:
        """The EnvoyFilters and reservations with one of these, at any gateway.

        Args:
            anything: UDP ports, and names of listeners and clusters.
        """
        with self._lock:
            keys = {key for each in anything for key in self._users.get(each, ())}
            return [self._filters[key] for key in sorted(keys)]

    def usage(
        self,
        reaches: Callable[[GatewayRef], bool],
        more: Iterable[ExposureSpec],
        without: Key | None,
    ) -> Usage:
        """What exposures use of a gateway.

        Args:
            reaches: whether an EnvoyFilter with a namespace and selector applies to the gateway.
            more: further exposures at the gateway, and how others are planned to become.
            without: the exposure to leave out.
        """
        with self._lock:
            groups = [
                holders
                for (namespace, selector), holders in self._holders.items()
                if reaches(GatewayRef(namespace, "", dict(selector)))
            ]
            return used_by(groups, map(Holder.of, more), without)


class Occupancy:
    """Everything that a decision about a gateway must take into account."""

    def __init__(
        self,
        filters: GatewayFilters,
        reservation: Reservation | None = None,
        pending: Collection[Pending] = (),
    ) -> None:
        """Select what counts.

        Args:
            filters: the EnvoyFilters that may apply to the gateway, including reservations.
            reservation: this run's reservation. Later reservations and pending writes do not count,
                because each pending write is reserved before it is written.
            pending: what this process will write for other exposures.
        """
        self._filters = filters
        self._reservations = counted(filters.reservations(), reservation)
        self._pending = () if reservation else tuple(pending)

    def footprints_at(
        self, gateway: Gateway, mesh: Mesh, concerning: ExposureSpec | None = None
    ) -> tuple[Footprint, ...]:
        """The listeners, clusters and ports that EnvoyFilters add to a gateway.

        Args:
            gateway: the gateway.
            mesh: its mesh.
            concerning: skip EnvoyFilters that have nothing in common with this exposure. Of a
                thousand filters a few remain, and computing each takes long.
        """
        if concerning is None:
            return self._footprints(self._filters.all(), gateway, mesh)
        used: Iterable[int | str] = (
            *(port.listener_port for port in concerning.ports),
            *concerning.listener_names,
            *concerning.cluster_names,
        )
        return self._footprints(self._filters.using(used), gateway, mesh)

    def _footprints(
        self, found: Iterable[GatewayFilter], gateway: Gateway, mesh: Mesh
    ) -> tuple[Footprint, ...]:
        """What those of some EnvoyFilters that count add to a gateway, and what is pending."""
        some = (f for f in found if f.reservation is None or f.reservation in self._reservations)
        footprints = [footprint for f in some for footprint in f.footprints_at(gateway, mesh)]
        pending = (p for p in self._pending if attaches(p.manifest, gateway, mesh).possible)
        return (*footprints, *(each.footprint for each in pending))

    def ports_of_others(
        self, ports: Set[int], gateway: Gateway, mesh: Mesh, key: Key, held: ExposureSpec | None
    ) -> frozenset[int]:
        """The ports among some that other exposures and EnvoyFilters keep from an exposure.

        Args:
            ports: listener ports.
            gateway: the gateway.
            mesh: its mesh.
            key: the exposure that is decided.
            held: it as it is, at this or another gateway; None if it does not exist.
        """
        found = self._footprints(self._filters.using(ports), gateway, mesh)
        namespaces = {gateway.ref.namespace, *([held.gateway.namespace] if held else ())}
        here = held is not None and held.gateway.same_pods(gateway.ref)
        own = {port.listener_port for port in held.ports} if held and here else frozenset[int]()
        return frozenset(
            port
            for footprint in of_others(found, key, namespaces)
            for port in footprint.udp_ports & ports
            if footprint.blocks(port, own)
        )

    def usage(self, gateway: Gateway, root_namespace: str, without: Key | None = None) -> Usage:
        """The ports and sessions that exposures use of a gateway.

        Args:
            gateway: the gateway.
            root_namespace: its mesh's root namespace, whose EnvoyFilters apply to all namespaces.
            without: the exposure to leave out.
        """
        labels = {frozenset(pod.labels.items()) for pod in gateway.pods}
        pods = [dict(pairs) for pairs in labels] or [dict(gateway.ref.selector)]

        def reaches(ref: GatewayRef) -> bool:
            # Gateways with different names may share pods: the selectors decide.
            if ref.namespace not in (gateway.ref.namespace, root_namespace):
                return False
            same = ref.selector == gateway.ref.selector
            return same or any(selects(ref.selector, labels) for labels in pods)

        specs = [*(each.spec for each in self._reservations), *(p.spec for p in self._pending)]
        more = [spec for spec in specs if reaches(spec.gateway)]
        return self._filters.usage(reaches, more, without)


def of_others(
    footprints: Iterable[Footprint], key: Key, namespaces: Iterable[str]
) -> Iterator[Footprint]:
    """What other EnvoyFilters and reservations than an exposure's add.

    Args:
        footprints: what all of them add.
        key: the exposure.
        namespaces: the namespaces of its gateways.
    """
    owned = {f"{each}/{name}" for each in namespaces for name in filter_names(*key)}
    return (each for each in footprints if each.exposure != key or each.owner not in owned)


def _place(ref: GatewayRef) -> Place:
    """The namespace and selector of an exposure's EnvoyFilter."""
    return (ref.namespace, frozenset(ref.selector.items()))
