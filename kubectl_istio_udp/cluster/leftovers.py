"""What runs that stopped half-way may have left of an exposure, where no label leads to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from kubectl_istio_udp.cluster.existing import USUAL_GATEWAY_NAMESPACE
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.errors import Forbidden
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.kinds import Spec
from kubectl_istio_udp.model.names import MANAGED_BY_LABEL, MANAGER, service_manager
from kubectl_istio_udp.model.ownership import is_managed
from kubectl_istio_udp.state.reservations import is_reservation_of, read_reservation

Manifest = Mapping[str, Any]


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
        return tuple(found for found in self.filters if is_reservation_of(found, key))

    def stale_reservations(self, key: tuple[str, str]) -> tuple[Manifest, ...]:
        """Those whose run must have ended: the next `expose` deletes them, wherever they are."""
        now = datetime.now(timezone.utc)
        return tuple(
            found
            for found in self.reservations(key)
            if (read := read_reservation(found)) and read.stale(now)
        )

    def any_of(self, key: tuple[str, str]) -> bool:
        """Whether anything is left of an exposure, by its (namespace, name)."""
        manager = service_manager(*key)
        patched = any(is_managed(service, manager) for service in self.services)
        return patched or bool(self.reservations(key))


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
