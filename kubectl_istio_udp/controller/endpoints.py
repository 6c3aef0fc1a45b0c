"""The endpoints of an exposure's Services at the moment, and the rules for them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from kubectl_istio_udp.controller.permitting import Permissions
from kubectl_istio_udp.controller.waits import Waits
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.endpointrules import EndpointRules
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import (
    Discovery,
    Exposure,
    ExposureSpec,
    exposed_endpoints,
)
from kubectl_istio_udp.model.service import IPV4, IPV6, Endpoint
from kubectl_istio_udp.plan.exposure import ServiceState
from kubectl_istio_udp.state.caches import Caches


class Endpoints:
    """Reads endpoints from the caches."""

    def __init__(self, caches: Caches, permissions: Permissions, waits: Waits) -> None:
        """Take the dependencies."""
        self._caches, self._permissions, self._waits = caches, permissions, waits

    def rules(self, namespace: str) -> EndpointRules:
        """The rules for endpoint addresses of a namespace's exposures."""
        api_server = self._caches.api_server()
        if self._permissions.allow_all:
            return EndpointRules(api_server)
        kept = self._caches.namespaces.get("", namespace)
        try:
            ranges = self._permissions.of(kept).endpoints if kept else ()
        except UsageError:
            ranges = ()
        return EndpointRules(api_server, self._caches.pod_addresses(namespace), ranges)

    def service_state(self, of: Key) -> ServiceState | None:
        """A Service with its endpoints and their rules; None if it does not exist."""
        service = self._caches.service(of)
        if service is None:
            return None
        return ServiceState(service, self._caches.slices_of(of), self.rules(of[0]), of)

    def current(
        self,
        spec: ExposureSpec,
        rules_of: Callable[[str], EndpointRules],
        services: Collection[Key] | None = None,
    ) -> Exposure:
        """An exposure with its Services' current endpoints.

        Args:
            spec: the exposure.
            rules_of: returns the rules for the endpoints of a namespace's Services.
            services: the Services whose endpoints are needed; None for all.
        """
        families, caches = self._families(spec), self._caches
        endpoints: dict[Any, tuple[Endpoint, ...]] = {}
        wanted = spec.services if services is None else spec.services.intersection(services)
        for key in wanted - self.forbidden(spec):
            of = None if spec.service else key
            found = exposed_endpoints(
                spec, caches.service(key), caches.slices_of(key), families, of
            )
            rules = rules_of(key[0])
            endpoints |= {each: rules.permitted(listed) for each, listed in found.items()}
        return Exposure(spec, families, endpoints=endpoints)

    def forbidden(self, spec: ExposureSpec) -> set[Key]:
        """The Services whose endpoints an exposure must not have any longer.

        A ReferenceGrant that is withdrawn does not wait until the gateway may change again, even if
        the route is deleted with it.
        """
        asking, gateways = self._caches.gateway_of(spec.key), self._caches.api_gateways
        return gateways.forbidden(asking, spec.services) if asking and gateways else set()

    def _families(self, spec: ExposureSpec) -> tuple[str, ...]:
        for gateway in self._caches.gateways_at(spec.gateway):
            if gateway.has_addresses:
                return gateway.families
        return (IPV4, IPV6)

    def emptied_left(self, spec: ExposureSpec) -> float:
        """The remaining seconds to keep listed addresses after all EndpointSlices have disappeared.

        A Service with a selector has an EndpointSlice even without pods, but not right after it was
        deleted and recreated.
        """
        if not spec.service:
            return 0.0
        service = self._caches.service((spec.namespace, spec.service))
        by_hand = service is not None and not service.selector
        listed = spec.discovery is Discovery.ENDPOINTS
        if by_hand or not listed or self._caches.has_slices((spec.namespace, spec.service)):
            self._waits.filled(spec.key)
            return 0.0
        return self._waits.emptied_left(spec.key)
