"""Update the ServiceEntries of exposures that otherwise stay as they are.

These are exposures from the command line, and those with a request that is refused or waits.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from kubectl_istio_udp.apply.changes import key_of
from kubectl_istio_udp.apply.deletion_order import without_listeners
from kubectl_istio_udp.controller.endpoints import Endpoints
from kubectl_istio_udp.controller.objects import MANAGER, is_applied, marked, source_of
from kubectl_istio_udp.controller.writing import Writer
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.endpointrules import EndpointRules
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.plan.exposure import with_new_entries
from kubectl_istio_udp.plan.routes import refused_endpoints
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.render.serviceentry import listed_addresses, service_entries, service_entry
from kubectl_istio_udp.state.caches import Caches
from kubectl_istio_udp.state.gateways import gateway_secret
from kubectl_istio_udp.state.ownership import Existing


class Refresher:
    """Updates the ServiceEntries of existing exposures."""

    def __init__(self, caches: Caches, endpoints: Endpoints, writer: Writer) -> None:
        """Take the dependencies."""
        self._caches, self._endpoints, self._writer = caches, endpoints, writer

    def refresh(self, existing: Existing, manager: str) -> float:
        """Update the ServiceEntries of an exposure that lists addresses, if they differ.

        For an exposure from the command line, discovery stays `endpoints` while the Service lists
        them.

        Returns:
            The seconds until it must be reconciled again; 0 to wait for a change.
        """
        spec, entries = existing.at_gateway, existing.all_of("ServiceEntry")
        if spec is None:
            return 0.0
        # For an exposure from the command line only the entries that it names count: a tenant may
        # create others next to them.
        named = [entry for entry in entries if ObjectRef.of(entry) in spec.objects]
        listed = listed_addresses(named) if manager != MANAGER else ()

        def rules_of(namespace: str) -> EndpointRules:
            # A pod of another namespace may have the address that a pod of this one had.
            kept = self._caches.without_other_pods(listed, namespace)
            return self._endpoints.rules(namespace).allowing(kept)

        if (
            self._migrate(existing, rules_of(spec.namespace), manager)
            or spec.discovery is not Discovery.ENDPOINTS
        ):
            return 0.0
        if (left := self._endpoints.emptied_left(spec)) > 0:
            return left
        by_ref = {ObjectRef.of(entry): entry for entry in entries}
        for manifest in service_entries(self._endpoints.current(spec, rules_of)):
            write = Write(manifest, manager)
            write = marked(write, source_of(spec)) if manager == MANAGER else write
            entry = by_ref.get(ObjectRef.of(manifest))
            found = self._caches.find(write.kind, write.namespace, write.name)
            if entry is not None and not is_applied(write, found):
                self._writer.apply(write, only=entry)
        return 0.0

    def refresh_services(self, existing: Existing, services: Collection[Key]) -> bool:
        """Update the ServiceEntries of some Services of an exposure, if they differ.

        Planning the whole exposure again would take more time: many times as much for a Gateway
        with a Service for each listener.

        Args:
            existing: the exposure, which is as requested.
            services: the Services whose endpoints may have changed.

        Returns:
            Whether nothing else depends on these endpoints. If not, nothing was written: the
            exposure must be planned again.
        """
        spec = existing.held
        if spec is None or existing.source is None or spec.discovery is not Discovery.ENDPOINTS:
            return False
        if self._endpoints.emptied_left(spec) > 0:
            return False
        own = (spec.namespace, spec.service)
        entries = [entry for entry in spec.entries if (entry.service or own) in services]
        # Ports whose endpoints differ get separate ServiceEntries.
        shared = any(len(entry.ports) > 1 for entry in entries)
        if shared or any(map(self._caches.endpoints_left_out, services)):
            return False
        found = [self._caches.find("ServiceEntry", e.namespace, e.name) for e in entries]
        if None in found:
            return False
        exposure = self._endpoints.current(spec, self._endpoints.rules, services)
        # A Service without endpoints for the gateway's address families is rejected.
        if spec.service and not all(exposure.endpoints.values()):
            return False
        manifests = (service_entry(exposure, entry) for entry in entries)
        todo = [marked(Write(each, MANAGER), source_of(spec)) for each in manifests]
        pairs = zip(todo, found, strict=True)
        differing = [(write, before) for write, before in pairs if not is_applied(write, before)]
        self._writer.apply_all(differing, reconciles=spec.key)
        return True

    def refuses(self, services: Collection[Key]) -> bool:
        """Whether Services list an address that may not be an endpoint."""
        states = filter(None, map(self._endpoints.service_state, services))
        return bool(refused_endpoints(states))

    def _migrate(self, existing: Existing, rules: EndpointRules, manager: str) -> bool:
        """Add hosts and addresses to an earlier version's ServiceEntries; return whether it did.

        It does not if an object or the listeners are missing: the exposure is then being deleted.
        """
        spec = existing.held
        if spec is None or all(e.addresses for e in spec.entries) or existing.missing:
            return False
        service = self._caches.service((spec.namespace, spec.service))
        gateway = next(iter(self._caches.gateways_at(spec.gateway)), None)
        envoy_filter = existing.object("EnvoyFilter")
        if service is None or gateway is None or envoy_filter is None:
            return False
        if without_listeners(envoy_filter, manager) is None:
            return False
        snapshot = self._snapshot(spec, service, gateway, rules)
        todo = writes(with_new_entries(spec, snapshot), manager)
        wanted = [write for write in todo if write.kind in ("ServiceEntry", "EnvoyFilter")]
        by_key = {key_of(manifest): manifest for manifest in existing.objects}
        for write in wanted:
            write_marked = marked(write) if manager == MANAGER else write
            self._writer.apply(write_marked, only=by_key.get(write.key))
        kept = {write.key for write in wanted}
        for entry in existing.all_of("ServiceEntry"):
            if key_of(entry) not in kept:
                self._writer.delete(entry)
        return True

    def _snapshot(
        self, spec: ExposureSpec, service: Service, gateway: Gateway, rules: EndpointRules
    ) -> Snapshot:
        """What `_migrate` plans from."""
        return Snapshot(
            service=service,
            slices=self._caches.slices_of((spec.namespace, spec.service)),
            pods=(),
            gateway=replace(gateway, ref=spec.gateway),
            mesh=self._caches.mesh(gateway.control_plane),
            namespaces=self._caches.labels_of({spec.namespace, gateway.ref.namespace}),
            before=spec,
            entries=self._caches.known_entries,
            rules=rules,
            secret=gateway_secret(gateway),
        )
