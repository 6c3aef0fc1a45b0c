"""What EnvoyFilters and reservations use of a gateway: the only place that computes it.

`expose`, `get` and the controller all call it, with objects that they read or watch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.model.envoyfilter import Footprint, attaches, footprints_at
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.mesh import Mesh
from kubectl_istio_udp.model.usage import GatewayUsage
from kubectl_istio_udp.state.ownership import readable
from kubectl_istio_udp.state.reservations import Reservation, counted, read_reservation

Manifest = Mapping[str, Any]


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

    def concerns(self, ports: Set[int], listeners: Set[str], clusters: Set[str]) -> bool:
        """Whether it has one of some UDP ports, or a name, at any gateway.

        Args:
            ports: the ports of UDP listeners.
            listeners: names of listeners.
            clusters: names of clusters.
        """
        footprint = self.footprint
        return not (
            footprint.udp_ports.isdisjoint(ports)
            and footprint.listeners.isdisjoint(listeners)
            and footprint.clusters.isdisjoint(clusters)
        )

    def footprints_at(self, gateway: Gateway, mesh: Mesh) -> tuple[Footprint, ...]:
        """What it adds, or will add, to a gateway; empty if it does not apply to the gateway."""
        if self.reservation is None:
            return footprints_at(self.manifest, gateway, mesh)
        return (self.footprint,) if attaches(self.manifest, gateway, mesh).possible else ()


@dataclass(frozen=True)
class Pending:
    """What this process decided to write but has not reserved or written yet."""

    footprint: Footprint
    spec: ExposureSpec


class Occupancy:
    """Everything that a decision about a gateway must take into account."""

    def __init__(
        self,
        filters: Iterable[GatewayFilter],
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
        found = list(filters)
        reservations = counted((f.reservation for f in found if f.reservation), reservation)
        self._filters = [f for f in found if f.reservation is None or f.reservation in reservations]
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
        found = self._filters
        if concerning is not None:
            ports = frozenset(port.listener_port for port in concerning.ports)
            names = (concerning.listener_names, concerning.cluster_names)
            found = [each for each in found if each.concerns(ports, *names)]
        footprints = [footprint for f in found for footprint in f.footprints_at(gateway, mesh)]
        return (*footprints, *(each.footprint for each in self._pending))

    def ports_of_others(
        self, ports: Set[int], gateway: Gateway, mesh: Mesh, key: tuple[str, str]
    ) -> frozenset[int]:
        """The ports among some that other exposures and EnvoyFilters certainly bind at a gateway.

        Args:
            ports: listener ports.
            gateway: the gateway.
            mesh: its mesh.
            key: the exposure that is decided.
        """
        found = [f for f in self._filters if f.concerns(ports, frozenset(), frozenset())]
        footprints = [footprint for f in found for footprint in f.footprints_at(gateway, mesh)]
        footprints += [each.footprint for each in self._pending]
        held = (each.udp_ports for each in footprints if each.exposure != key and not each.doubt)
        return frozenset().union(*held) & ports

    def usage(
        self, gateway: Gateway, root_namespace: str, without: tuple[str, str] | None = None
    ) -> GatewayUsage:
        """The ports and sessions that exposures use of a gateway.

        Args:
            gateway: the gateway.
            root_namespace: its mesh's root namespace.
            without: the exposure to leave out.
        """
        specs = [f.spec for f in self._filters if f.spec]
        specs += [f.reservation.spec for f in self._filters if f.reservation]
        specs += [each.spec for each in self._pending]
        return GatewayUsage.of(gateway, root_namespace, specs, without)
