"""Find leftovers of interrupted runs that labels do not identify.

Anybody can write a Service with the field manager of another exposure. So the Services of an
exposure only count in the namespace of its gateway, and in istio-system. The gateway of a deleted
exposure is unknown: then Services count that keep a port without the exposure's ports, as a
gateway's Service does. The API server rejects a Service without ports.
"""

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
from kubectl_istio_udp.model.managed_fields import (
    exposure_managers,
    has_other_ports,
    is_managed,
    managed_ports,
)
from kubectl_istio_udp.model.names import (
    MANAGED_BY_LABEL,
    MANAGER,
    exposure_of_manager,
    namespaced_name,
    service_manager,
)
from kubectl_istio_udp.state.gatewaynamespaces import USUAL_GATEWAY_NAMESPACE
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.reservations import Reservation, read_reservation

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Leftover:
    """An object, or a part of an object, that an interrupted run left behind.

    Attributes:
        key: (namespace, name) of the exposure.
        manifest: a Service with ports of the exposure, or a reservation.
        exists: whether the exposure itself exists.
    """

    key: tuple[str, str]
    manifest: Manifest
    exists: bool

    @property
    def finish(self) -> str:
        """The command that removes it."""
        namespace, name = self.key
        if self.exists:
            return f"run `expose` or `delete` for {name} again"
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
    """The objects that may be leftovers.

    Attributes:
        services: Services that the plugin did not create; their managedFields show whether an
            exposure has ports on them.
        filters: EnvoyFilters with the plugin's labels, including reservations.
    """

    services: tuple[Manifest, ...] = ()
    filters: tuple[Manifest, ...] = ()

    def reservations(self, key: tuple[str, str]) -> tuple[Manifest, ...]:
        """The reservations of an exposure."""
        return tuple(found for found, read in self._reserved() if read.spec.key == key)

    def stale_reservations(self, key: tuple[str, str]) -> tuple[Manifest, ...]:
        """Reservations of runs that must have ended; the next `expose` deletes them."""
        now = datetime.now(timezone.utc)
        return tuple(
            found for found, read in self._reserved() if read.spec.key == key and read.stale(now)
        )

    def found(self, existing: Iterable[Existing], namespace: str | None) -> tuple[Leftover, ...]:
        """The leftovers of the exposures of a namespace (None: of all), sorted by exposure.

        These are ports on a gateway's Service that the exposure does not use or that has no
        exposure, and reservations of runs that must have ended.

        Args:
            existing: the exposures, responses and access logs of the namespace.
            namespace: the exposures' namespace.
        """
        now = datetime.now(timezone.utc)
        specs = {e.key: e.exposure for e in existing if e.kind is Kind.EXPOSURE}
        left: list[Leftover] = []
        for key, service in self._patched():
            spec = specs.get(key)
            if _counts(service, spec) and not (spec and _is_patched_by(service, spec)):
                left.append(Leftover(key, service, key in specs))
        for envoy_filter, read in self._reserved():
            if read.stale(now):
                left.append(Leftover(read.spec.key, envoy_filter, read.spec.key in specs))
        wanted = [each for each in left if namespace in (None, each.key[0])]
        return tuple(sorted(wanted, key=lambda each: (each.key, str(each))))

    def keys(self, namespace: str) -> frozenset[tuple[str, str]]:
        """The exposures (namespace, name) of a namespace that have leftovers."""
        reserved = {read.spec.key for _, read in self._reserved()}
        patched = {key for key, service in self._patched() if _counts(service)}
        return frozenset(key for key in reserved | patched if key[0] == namespace)

    def _reserved(self) -> Iterator[tuple[Manifest, Reservation]]:
        """The EnvoyFilters that are reservations, each with its content."""
        for found in self.filters:
            if read := read_reservation(found):
                yield found, read

    def _patched(self) -> Iterator[tuple[tuple[str, str], Manifest]]:
        """The exposures with ports on a Service, each with the Service."""
        # Long names are truncated, and can only be compared.
        by_manager = {service_manager(*key): key for key in map(namespaced_name, self.services)}
        for service in self.services:
            for manager in sorted(exposure_managers(service)):
                key = exposure_of_manager(manager) or by_manager.get(manager)
                if key is not None:
                    yield key, service

    def any_of(self, key: tuple[str, str]) -> bool:
        """Whether an exposure has leftovers."""
        manager = service_manager(*key)
        patched = any(is_managed(service, manager) for service in self.services_of(()))
        return patched or bool(self.reservations(key))

    def services_of(self, specs: Iterable[Spec | None]) -> tuple[Manifest, ...]:
        """The Services on which an exposure may have ports.

        Args:
            specs: the exposure as it is and as it will be; None for unreadable ones.
        """
        wanted = [spec for spec in specs if isinstance(spec, ExposureSpec)]
        return tuple(service for service in self.services if _counts(service, *wanted))


def _counts(service: Manifest, *specs: ExposureSpec | None) -> bool:
    """Whether a Service may have ports of an exposure.

    Args:
        service: the Service.
        specs: the exposure as it is and as it will be; none if it is deleted.
    """
    gateways = {spec.gateway.namespace for spec in specs if spec}
    if not gateways:
        return has_other_ports(service)
    return namespaced_name(service)[0] in {USUAL_GATEWAY_NAMESPACE, *gateways}


def _is_patched_by(service: Manifest, spec: ExposureSpec) -> bool:
    """Whether an exposure should have its ports on a Service."""
    patches = spec.options.gateway_service is GatewayServiceMode.PATCH
    return patches and namespaced_name(service)[0] == spec.gateway.namespace


def read_leftovers(api: Api, specs: Iterable[Spec | None]) -> Leftovers:
    """Read possible leftovers in all namespaces.

    No object names them reliably: an interrupted run may have left a port on the Service of a
    gateway that nothing else refers to. For users who may not list all namespaces, this only
    includes the namespaces of the exposures' gateways, as far as permitted.

    Args:
        api: the cluster.
        specs: the exposures; None for unreadable ones.
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
