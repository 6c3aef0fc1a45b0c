"""What runs that stopped half-way may have left of an exposure, where no label leads to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.errors import Forbidden
from kubectl_istio_udp.model.exposure import ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.kinds import Kind, Spec
from kubectl_istio_udp.model.names import (
    MANAGED_BY_LABEL,
    MANAGER,
    exposure_of_manager,
    namespaced_name,
    service_manager,
)
from kubectl_istio_udp.model.ownership import exposure_managers, is_managed, managed_ports
from kubectl_istio_udp.state.existing import USUAL_GATEWAY_NAMESPACE
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.reservations import Reservation, read_reservation

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Leftover:
    """One object, or a part of one, that a run left behind.

    Attributes:
        key: the (namespace, name) of the exposure.
        manifest: a Service with ports of it, or a reservation.
        exists: whether the exposure itself exists.
    """

    key: tuple[str, str]
    manifest: Manifest
    exists: bool

    @property
    def finish(self) -> str:
        """What removes it."""
        namespace, name = self.key
        if self.exists:
            return f"the next expose or delete of {name}"
        return f"kubectl istio-udp delete -n {namespace} {name}"

    def __str__(self) -> str:
        """`Service a/b: port 5300/UDP`."""
        metadata = self.manifest["metadata"]
        place = f"{self.manifest['kind']} {metadata['namespace']}/{metadata['name']}"
        if self.manifest["kind"] != "Service":
            return f"{place}: reservation"
        ports = managed_ports(self.manifest, service_manager(*self.key))
        return f"{place}: port {', '.join(str(port['port']) + '/UDP' for port in ports)}"


@dataclass(frozen=True)
class Leftovers:
    """The objects among which leftovers are looked for.

    Attributes:
        services: Services of others; the managedFields of some say that an exposure has ports
            there.
        filters: our EnvoyFilters, reservations among them.
    """

    services: tuple[Manifest, ...] = ()
    filters: tuple[Manifest, ...] = ()

    def reservations(self, key: tuple[str, str]) -> tuple[Manifest, ...]:
        """The reservations of an exposure, by its (namespace, name)."""
        return tuple(found for found, read in self._reserved() if read.spec.key == key)

    def stale_reservations(self, key: tuple[str, str]) -> tuple[Manifest, ...]:
        """Those whose run must have ended: the next `expose` deletes them, wherever they are."""
        now = datetime.now(timezone.utc)
        return tuple(
            found for found, read in self._reserved() if read.spec.key == key and read.stale(now)
        )

    def found(self, existing: Iterable[Existing], namespace: str | None) -> tuple[Leftover, ...]:
        """What is left of the exposures of a namespace (None: of all), sorted by exposure.

        Ports on a gateway's Service that the exposure does not have there, or that no exposure has,
        and reservations of runs that must have ended.

        Args:
            existing: the exposures, responses and access logs of that namespace.
            namespace: that of the exposures.
        """
        now = datetime.now(timezone.utc)
        specs = {e.key: e.spec for e in existing if e.kind is Kind.EXPOSURE}
        there: list[Leftover] = []
        for key, service in self._patched():
            spec = specs.get(key)
            if not (isinstance(spec, ExposureSpec) and _is_patched_by(service, spec)):
                there.append(Leftover(key, service, key in specs))
        for envoy_filter, read in self._reserved():
            if read.stale(now):
                there.append(Leftover(read.spec.key, envoy_filter, read.spec.key in specs))
        wanted = [each for each in there if namespace in (None, each.key[0])]
        return tuple(sorted(wanted, key=lambda each: (each.key, str(each))))

    def keys(self, namespace: str) -> frozenset[tuple[str, str]]:
        """The exposures (namespace, name) of a namespace that have anything left."""
        reserved = {read.spec.key for _, read in self._reserved()}
        patched = {key for key, _ in self._patched()}
        return frozenset(key for key in reserved | patched if key[0] == namespace)

    def _reserved(self) -> Iterator[tuple[Manifest, Reservation]]:
        """Each EnvoyFilter that is a reservation, with what it says."""
        for found in self.filters:
            if read := read_reservation(found):
                yield found, read

    def _patched(self) -> Iterator[tuple[tuple[str, str], Manifest]]:
        """Each exposure that has ports on somebody's Service, with that Service."""
        # Names that are too long are cut, and only known by comparison.
        by_manager = {service_manager(*key): key for key in map(namespaced_name, self.services)}
        for service in self.services:
            for manager in sorted(exposure_managers(service)):
                key = exposure_of_manager(manager) or by_manager.get(manager)
                if key is not None:
                    yield key, service

    def any_of(self, key: tuple[str, str]) -> bool:
        """Whether anything is left of an exposure, by its (namespace, name)."""
        manager = service_manager(*key)
        patched = any(is_managed(service, manager) for service in self.services)
        return patched or bool(self.reservations(key))


def _is_patched_by(service: Manifest, spec: ExposureSpec) -> bool:
    """Whether an exposure is to have its ports on a Service, as far as it tells."""
    patches = spec.options.gateway_service is GatewayServiceMode.PATCH
    return patches and namespaced_name(service)[0] == spec.gateway.namespace


def read_leftovers(api: Api, specs: Iterable[Spec | None]) -> Leftovers:
    """Look for leftovers in all namespaces.

    No object names them reliably: a run that stopped half-way may have left a port on the Service
    of a gateway that nothing else points to any more. A user who may not look everywhere finds
    those in the namespaces where the exposures' gateways are, as far as allowed.

    Args:
        api: the cluster.
        specs: the exposures; None for one that cannot be read.
    """
    gateways = {s.gateway.namespace for s in specs if isinstance(s, ExposureSpec)}
    namespaces = sorted({USUAL_GATEWAY_NAMESPACE, *gateways})

    def read(kind: str, selector: str) -> tuple[Manifest, ...]:
        found: list[dict[str, Any]] = []
        try:
            return tuple(api.list(kind, None, selector))
        except Forbidden:
            for namespace in namespaces:
                with suppress(Forbidden):
                    found += api.list(kind, namespace, selector)
        return tuple(found)

    services, filters = in_parallel(
        [
            lambda: read("Service", ""),
            lambda: read("EnvoyFilter", f"{MANAGED_BY_LABEL}={MANAGER}"),
        ]
    )
    return Leftovers(services, filters)
