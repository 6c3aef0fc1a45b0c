"""The controller's caches of watched objects, and indexes over them.

Nothing here sends requests: all answers come from the watches. `kept.py` reduces objects to what
decisions need.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import Cache, Key
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.annotation_values import PREFIX
from kubectl_istio_udp.model.endpointrules import (
    API_SERVER_SERVICE,
    api_server_addresses,
    canonical,
)
from kubectl_istio_udp.model.entries import EntryIndex
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.errors import Unreachable, UsageError
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.gateway import (
    Gateway,
    GatewayRef,
    gateways_from,
)
from kubectl_istio_udp.model.gatewayapi import ApiGateway, ParametersRef
from kubectl_istio_udp.model.kinds import Kind, ObjectRef
from kubectl_istio_udp.model.managed_fields import exposure_managers
from kubectl_istio_udp.model.mesh import ControlPlane, Mesh
from kubectl_istio_udp.model.service import (
    MOST_ENDPOINTS,
    SERVICE_LABEL,
    EndpointSlice,
    Pod,
    Service,
)
from kubectl_istio_udp.model.usage import Holder, Holders, Usage, used_by
from kubectl_istio_udp.sources.annotations import Intent, is_requested, service_intent
from kubectl_istio_udp.sources.gateways import exposure_key, gateway_intent
from kubectl_istio_udp.state.apigateways import ApiGateways, RouteWatch
from kubectl_istio_udp.state.intents import Intents, Rank, Row
from kubectl_istio_udp.state.kept import (
    Keeper,
    KeptNamespace,
    KeptPod,
    SeenEntry,
    content,
    is_managed,
    istiod_of,
    kept_filter,
    kept_namespace,
    kept_slice,
    labels_of,
    manifest_of,
    running_addresses,
    tcp_ports,
)
from kubectl_istio_udp.state.mesh import Config, mesh_config, mesh_from
from kubectl_istio_udp.state.occupancy import GatewayFilter, GatewayFilters
from kubectl_istio_udp.state.ownership import (
    Disagreement,
    Existing,
    claimed_owner,
    remaining,
    resolve_one,
)
from kubectl_istio_udp.state.reservations import Reservation
from kubectl_istio_udp.state.trimming import (
    KeptService,
    KeptSlice,
    LabelSet,
    Packed,
    unpacked,
)

Manifest = Mapping[str, Any]
_log = logging.getLogger(__name__)
Where = TypeVar("Where", bound=Hashable)
Name = TypeVar("Name", bound=Hashable)
What = TypeVar("What")
Requested = TypeVar("Requested")

# ServiceEntries of an exposure in its own namespace: the current one, and those that it replaced.
_MOST_OUTSIDE = 4


@dataclass(frozen=True)
class PlannedWrite:
    """A write of a reconciliation.

    Attributes:
        key: the exposure that is reconciled.
        is_done: whether the object is as planned.
    """

    key: Key
    is_done: Callable[[Manifest], bool]


class Caches:
    """All watched objects and their indexes.

    Attributes:
        tcp_ports: the number of TCP ports of all Services together.
        gateway_filters: the EnvoyFilters that may apply to a gateway, including reservations.
        known_entries: all ServiceEntries.
    """

    def __init__(
        self,
        api: Api,
        gateway_namespaces: Iterable[str],
        root_namespaces: Iterable[str],
        mesh_configs: Iterable[Key] = (),
        *,
        enqueue: Callable[[Key], None],
        endpoints_changed: Callable[[Key, Key], None],
        footprint_changed: Callable[[Footprint | None, Footprint | None, Key | None], None],
        routes: RouteWatch | None = None,
        may_enqueue: Callable[[], bool],
    ) -> None:
        """Take what to watch, and whom to inform.

        Args:
            api: the cluster.
            gateway_namespaces: the namespaces with gateways.
            root_namespaces: the meshes' root namespaces, whose EnvoyFilters apply to every proxy.
            mesh_configs: (namespace, name) of each ConfigMap with mesh settings.
            enqueue: called with each exposure to reconcile.
            endpoints_changed: called with an exposure, and one of its Services whose endpoints
                changed.
            may_enqueue: whether `enqueue` has an effect now; if not, nothing is searched for it.
            footprint_changed: called with an EnvoyFilter's former and new footprint, and the
                exposure whose reconciliation wrote it.
            routes: how to watch the Gateway API's objects; None to not watch them.
        """
        self.gateway_namespaces = frozenset(gateway_namespaces)
        mesh_configs = frozenset(mesh_configs)
        self._root_namespaces = tuple(root_namespaces)
        self._enqueue, self._may_enqueue = enqueue, may_enqueue
        self._endpoints_changed, self._footprint_changed = endpoints_changed, footprint_changed
        # The writes that are under way in reconciliations.
        self._planned: dict[tuple[str, Key], PlannedWrite] = {}
        self._lock = threading.RLock()
        self._filters_changed = threading.Condition()
        self.intents = Intents()
        # For namespaces with more requests than permitted: the permitted number.
        self._most_intents: dict[str, int] = {}
        self._slices_of_service: dict[Key, dict[str, KeptSlice]] = {}
        self._api_server: frozenset[str] = frozenset()
        self._api_server_service: Manifest | None = None
        self._pods: dict[str, dict[str, KeptPod]] = {}
        self._own: dict[Key, dict[ObjectRef, Manifest | Packed]] = {}
        self._own_in: dict[str, set[Key]] = {}
        self._reserved: dict[Key, dict[Key, GatewayFilter]] = {}
        self._specs_in: dict[str, dict[str, ExposureSpec]] = {}
        self._held_in: dict[str, Holders] = {}
        self.gateway_filters = GatewayFilters()
        # Per namespace: the running pods by address, and the EndpointSlices.
        self._pods_at: dict[str, dict[str, set[str]]] = {}
        self._slices_in: dict[str, dict[str, KeptSlice]] = {}
        self.known_entries = EntryIndex()
        # The Services of exposures with another name than their Service, and the reverse.
        self._services: dict[Key, frozenset[Key]] = {}
        self._named_otherwise: dict[Key, dict[Key, bool]] = {}
        # The Services of exposures from the command line that list addresses.
        self._listed_by_command: dict[Key, Key] = {}
        # The selectors of Services with requests, by namespace.
        self._selectors: dict[str, dict[Key, LabelSet]] = {}
        self._patched: dict[str, set[Key]] = {}
        self.tcp_ports = 0
        self._istiods: dict[Key, Manifest] = {}
        self._meshes: dict[ControlPlane, Mesh] = {}
        self._gateway_pods: dict[Key, Manifest] = {}
        self._gateway_services: dict[Key, Manifest] = {}
        self._gateways: tuple[Gateway, ...] | None = None
        # Whether a gateway may have changed since the last call of `_gateways_changed`.
        self._gateways_touched = False
        self._gateway_facts: tuple[Any, ...] = ()
        # Namespace, name, selector and ready pods of each gateway.
        self._ready_pods: set[tuple[Any, ...]] = set()
        control_planes = frozenset(namespace for namespace, _ in mesh_configs)
        keeper = Keeper(self.gateway_namespaces, control_planes)
        watched = sorted(self.gateway_namespaces.union(self._root_namespaces))
        self.namespaces: Cache[KeptNamespace] = Cache(
            api, "Namespace", keep=kept_namespace, changed=self._namespace_changed
        )
        self.services: Cache[Manifest | KeptService] = Cache(
            api, "Service", keep=keeper.service, changed=self._service
        )
        self.slices: Cache[KeptSlice] = Cache(
            api,
            "EndpointSlice",
            keep=kept_slice,
            changed=self._slice_changed,
            weigh=lambda kept: kept.weight,
            label_selector=SERVICE_LABEL,
        )
        self.pods: Cache[Manifest | KeptPod] = Cache(api, "Pod", keep=keeper.pod, changed=self._pod)
        # All ServiceEntries: no other may have an exposure's host or address.
        self.entries: Cache[SeenEntry] = Cache(
            api, "ServiceEntry", keep=keeper.entry, changed=self._entry
        )
        self.filters: dict[str, Cache[GatewayFilter]] = {
            namespace: Cache(
                api, "EnvoyFilter", namespace=namespace, keep=kept_filter, changed=self._filter
            )
            for namespace in watched
        }
        self.mesh_configs: dict[Key, Cache[Config]] = {
            (namespace, name): Cache(
                api,
                "ConfigMap",
                namespace=namespace,
                keep=mesh_config,
                changed=self._mesh_changed,
                # The permissions are for this ConfigMap only.
                field_selector=f"metadata.name={name}",
            )
            for namespace, name in sorted(mesh_configs)
        }
        # The Gateway of each exposure that a Gateway of the Gateway API requests.
        self._of_gateways: dict[Key, Key] = {}
        # The exposures of Gateways that cannot be decided (ApiGateways.is_undecided).
        self._undecided: set[Key] = set()
        self.api_gateways: ApiGateways | None = None
        if routes is not None:
            self.api_gateways = ApiGateways(
                api,
                service=self.routed_service,
                labels=self.labels_of_namespace,
                changed=self._gateway_requests,
                grants_changed=self._enqueue_users_in,
                permitted=self._enqueue_all,
                creates_in=self.gateway_namespaces,
                watch=routes,
            )
        self.all: tuple[Cache[Any], ...] = (
            *(self.api_gateways.caches if self.api_gateways else ()),
            *self.mesh_configs.values(),
            self.namespaces,
            self.services,
            self.slices,
            self.pods,
            self.entries,
            *self.filters.values(),
        )

    # -- lookups ------------------------------------------------------------------------------

    def exposures(self) -> list[Key]:
        """Every requested or existing exposure, the oldest intent first."""
        with self._lock:
            exposed = dict.fromkeys((*self._own, *self._reserved))
            return list(self.intents) + [key for key in exposed if key not in self.intents]

    def intent(self, key: Key) -> Intent | UsageError | None:
        """The intent of an exposure, or the error from reading it; None if there is none."""
        if gateway := self.gateway_of(key):
            return self._gateway_intent(gateway)
        service = self.service_manifest(key) if key in self.intents else None
        if service is None or not is_requested(service):
            return None
        return _intent(lambda: service_intent(service))

    def requests_for(self, gateway_ports: Iterable[int]) -> Iterator[Row]:
        """The intents for any of these ports, as `Intents.requests_for` returns them."""
        with self._lock:
            return self.intents.requests_for(gateway_ports)

    def is_within(self, key: Key, most: int) -> bool:
        """Whether an intent is among the oldest `most` of its namespace.

        If not, it is queued again when it has become one of them.
        """
        with self._lock:
            within = self.intents.older(key) < most
            if not within or key[0] in self._most_intents:
                self._most_intents[key[0]] = most
            return within

    def may_expose(self, namespace: str) -> bool:
        """Whether a namespace has a permission, or any exposure."""
        kept = self.namespaces.get("", namespace)
        permitted = kept is not None and bool(kept.annotations.get(f"{PREFIX}allow"))
        return permitted or namespace in self._specs_in

    def used_in(self, namespace: str, more: Iterable[ExposureSpec], without: Key) -> Usage:
        """What the exposures of a namespace that have an EnvoyFilter use, at any gateway.

        Args:
            namespace: the namespace.
            more: further exposures, and how others are planned to become.
            without: the exposure to leave out.
        """
        with self._lock:
            held = self._held_in.get(namespace, Holders())
            return used_by([held], map(Holder.of, more), without)

    def existing(self, key: Key) -> Existing:
        """The current exposure without objects that are being deleted; it may have none."""
        with self._lock:
            found = list(self._own.get(key, {}).items())
        counted = [kept for ref, kept in found if ref.namespace in self.gateway_namespaces]
        # Users of the exposure's own namespace may create thousands. The exposure has few there,
        # with the first names; when one of these is deleted, the next one is included.
        outside = [row for row in found if row[0].namespace not in self.gateway_namespaces]
        first = heapq.nsmallest(_MOST_OUTSIDE, outside, key=lambda row: row[0].name)
        counted += [kept for _, kept in first]
        objects = [manifest for manifest in map(unpacked, counted) if manifest is not None]
        existing = resolve_one((Kind.EXPOSURE, *key), objects)
        return remaining(existing) if existing else Existing(Kind.EXPOSURE, *key, None, ())

    def reserved(self, key: Key) -> tuple[GatewayFilter, ...]:
        """The reservations of an exposure, at any gateway."""
        with self._lock:
            return tuple(self._reserved.get(key, {}).values())

    def service(self, key: Key) -> Service | None:
        """A Service; None if it does not exist."""
        found = self.service_manifest(key)
        return Service.from_object(found) if found else None

    def routed_service(self, namespace: str, name: str) -> Service | None:
        """A Service that a route refers to; with few facts if it has no UDP port."""
        kept = self.services.get(namespace, name)
        if isinstance(kept, KeptService) and not kept.packed.content:
            return kept.without_udp(namespace, name)
        return self.service((namespace, name))

    def gateway_of(self, key: Key) -> ApiGateway | None:
        """The Gateway that requests an exposure; None if a Service does."""
        gateway = self._of_gateways.get(key)
        return self.api_gateways.gateway(gateway) if gateway and self.api_gateways else None

    def is_undecided(self, key: Key) -> bool:
        """Whether an exposure belongs to a Gateway that cannot be decided now.

        Its class does not exist, or a kind that it depends on may not be listed. The Gateway API
        requires that existing Gateways do not change with their class.
        """
        return key in self._undecided

    def lacks_rights(self, existing: Existing) -> bool:
        """Whether an exposure may be that of a Gateway, and Gateways cannot be read as a whole."""
        if self.api_gateways is None or not self.api_gateways.lacks_rights:
            return False
        spec = existing.exposure
        from_gateway = spec.routed if spec is not None else existing.exists
        return from_gateway or existing.key in self._of_gateways

    def client_service(self, spec: ExposureSpec) -> Manifest | None:
        """The Service that clients of an exposure use; None if there is none."""
        mode = spec.options.gateway_service
        if mode is GatewayServiceMode.COMPANION:
            return self.find("Service", spec.gateway.namespace, spec.object_name)
        patched = self.patched_services(spec.key)
        return patched[0] if mode is GatewayServiceMode.PATCH and patched else None

    def service_manifest(self, key: Key) -> Manifest | None:
        """A Service's reduced manifest; None if nothing of it is needed."""
        return manifest_of(self.services.get(*key))

    def patched_services(self, key: Key) -> tuple[Manifest, ...]:
        """The gateways' Services that have ports of an exposure, by their managedFields."""
        with self._lock:
            places = tuple(self._patched.get(names.service_manager(*key), ()))
        return tuple(found for place in places if (found := self.service_manifest(place)))

    def has_slices(self, key: Key) -> bool:
        """Whether a Service has an EndpointSlice."""
        return key in self._slices_of_service

    def endpoints_left_out(self, key: Key) -> int:
        """How many endpoints of a Service exceed the limit and are ignored."""
        with self._lock:
            kept = list(self._slices_of_service.get(key, {}).values())
        listed = sum(each.size for each in kept)
        return listed - sum(each.size for each in self._first_slices(key))

    def slices_of(self, key: Key) -> tuple[EndpointSlice, ...]:
        """A Service's EndpointSlices, up to the maximum number of endpoints."""
        return tuple(each.slice() for each in self._first_slices(key))

    def _first_slices(self, key: Key) -> Iterator[KeptSlice]:
        """The first ones by name; always at least one, even if it has too many endpoints."""
        with self._lock:
            kept = sorted(self._slices_of_service.get(key, {}).items())
        sizes = itertools.accumulate(each.size for _, each in kept)
        for (_, each), size in zip(kept, sizes, strict=True):
            if size > MOST_ENDPOINTS and size > each.size:
                return
            yield each

    def api_server(self) -> frozenset[str]:
        """The addresses of the API server."""
        with self._lock:
            slices = self.slices_of(API_SERVER_SERVICE)
            return api_server_addresses(self._api_server_service, slices)

    def pod_addresses(self, namespace: str) -> Container[str]:
        """The addresses of the running pods of a namespace, without gateways."""
        return self._pods_at.get(namespace, {})

    def without_other_pods(self, addresses: Iterable[str], namespace: str) -> set[str]:
        """The addresses, in canonical form, without those of other namespaces' running pods."""
        with self._lock:
            others = [found for name, found in self._pods_at.items() if name != namespace]
            return {
                address
                for address in canonical(addresses)
                if not any(address in found for found in others)
            }

    def pods_of(self, service: Service) -> tuple[Pod, ...]:
        """A Service's pods."""
        wanted = LabelSet.of(service.selector)
        with self._lock:
            pods = list(self._pods.get(service.namespace, {}).values())
        return tuple(kept.pod for kept in pods if kept.labels.has(wanted))

    def gateways(self) -> tuple[Gateway, ...]:
        """The gateways in the namespaces for gateways."""
        with self._lock:
            if self._gateways is None:
                pods, services = self._gateway_pods.values(), self._gateway_services.values()
                self._gateways = gateways_from(list(pods), list(services))
            return self._gateways

    def gateways_at(self, ref: GatewayRef) -> tuple[Gateway, ...]:
        """The gateways with the same pods as `ref`; several may share pods."""
        return tuple(gateway for gateway in self.gateways() if gateway.is_at(ref))

    def mesh(self, control_plane: ControlPlane) -> Mesh:
        """The mesh settings of a gateway's control plane; Istio's defaults if unknown."""
        with self._lock:
            if control_plane not in self._meshes:
                self._meshes[control_plane] = self._mesh(control_plane)
            return self._meshes[control_plane]

    def _mesh(self, control_plane: ControlPlane) -> Mesh:
        configs = {
            name: config
            for (namespace, name), cache in self.mesh_configs.items()
            if namespace == control_plane.namespace
            and (config := cache.get(namespace, name)) is not None
        }
        istiods = [m for key, m in self._istiods.items() if key[0] == control_plane.namespace]
        found = mesh_from(control_plane, configs, istiods)
        if found.assumed:
            return found.with_root_namespace(self._root_namespaces[0])
        if found.root_namespace not in self.filters:
            _log.warning(
                "the root namespace of %s is %s, whose EnvoyFilters are not watched: "
                "run `controller install` again",
                control_plane,
                found.root_namespace,
            )
        return found

    def labels_of(self, namespaces: Iterable[str]) -> dict[str, Mapping[str, str]]:
        """The labels of these namespaces, if they exist."""
        found = ((name, self.namespaces.get("", name)) for name in namespaces)
        return {name: kept.labels for name, kept in found if kept is not None}

    def labels_of_namespace(self, name: str) -> Mapping[str, str] | None:
        """The labels of a namespace; None if there is no such namespace."""
        space = self.namespaces.get("", name)
        return space.labels if space else None

    def wait_reserved(self, reservation: Reservation, seconds: float) -> None:
        """Wait until the watch has delivered a reservation.

        A watch delivers changes in the API server's order: afterwards the cache has everything that
        existed before the reservation, and nothing needs to be read.

        Raises:
            Unreachable: the watch did not deliver it in time.
        """

        def is_seen() -> bool:
            found = self.gateway_filters.get((reservation.namespace, reservation.name))
            return bool(found and found.reservation and found.reservation.uid == reservation.uid)

        with self._filters_changed:
            if not self._filters_changed.wait_for(is_seen, seconds):
                raise Unreachable(
                    f"the watch of EnvoyFilters in namespace {reservation.namespace} is more than "
                    f"{seconds:g}s late"
                )

    def find(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """An object by name, whoever created it (ServiceEntries: only those of exposures)."""
        if kind == "ServiceEntry":
            seen = self.entries.get(namespace, name)
            return seen.manifest if seen else None
        if kind == "Service":
            return self.service_manifest((namespace, name))
        cache = self.filters.get(namespace)
        found = cache.get(namespace, name) if cache else None
        return found.manifest if found else None

    def learn(self, manifest: Manifest) -> None:
        """Store the result of a write before the watch delivers it."""
        self._cache(manifest).learn(manifest)

    @contextmanager
    def planning(self, kind: str, place: Key, planned: PlannedWrite) -> Iterator[None]:
        """Do not queue an exposure for what its own reconciliation writes meanwhile.

        Args:
            kind: the kind of the object.
            place: its (namespace, name).
            planned: what is written.
        """
        self._planned[kind, place] = planned
        try:
            yield
        finally:
            # Two exposures may write ports of the same Service (patch).
            self._planned.pop((kind, place), None)

    def is_planned_by(self, kind: str, key: Key) -> bool:
        """Whether an exposure's reconciliation is writing an object of a kind."""
        return any(of == kind and each.key == key for (of, _), each in tuple(self._planned.items()))

    def _planned_by(self, kind: str, place: Key, now: Manifest | None) -> Key | None:
        """The exposure whose reconciliation made an object what it is now; None for others."""
        planned = self._planned.get((kind, place))
        return planned.key if planned and now and planned.is_done(now) else None

    def forget(self, manifest: Manifest) -> None:
        """Remove a deleted object before the watch reports it."""
        metadata = manifest["metadata"]
        self._cache(manifest).forget(metadata["namespace"], metadata["name"])

    def _cache(self, manifest: Manifest) -> Cache[Any]:
        caches: dict[str, Cache[Any]] = {"ServiceEntry": self.entries, "Service": self.services}
        kind = manifest["kind"]
        if kind == "EnvoyFilter":
            return self.filters[manifest["metadata"]["namespace"]]
        return caches[kind]

    # -- changes ------------------------------------------------------------------------------

    def _namespace_changed(
        self, key: Key, before: KeptNamespace | None, now: KeptNamespace | None
    ) -> None:
        name = key[1]
        labelled = labels_of(before) != labels_of(now)
        if name in self.gateway_namespaces and labelled:
            # They may decide whether istiod reads the gateways' objects.
            self._enqueue_all()
        else:
            with self._lock:
                keys = {*self.intents.first(name), *self._own_in.get(name, ())}
                if self.api_gateways:
                    # Their routes may refer to the namespace's Services, whose endpoints it limits.
                    keys |= set(map(exposure_key, self.api_gateways.gateways_using(name)))
            for found in keys:
                self._enqueue(found)
        if self.api_gateways:
            self.api_gateways.permission_changed(name)
            if labelled:
                self.api_gateways.namespace_changed(name)

    def _mesh_changed(self, _key: Key, _before: Config | None, _now: Config | None) -> None:
        with self._lock:
            self._meshes.clear()
        self._enqueue_all()

    def _note_istiod(self, key: Key, before: Manifest | None, now: Manifest | None) -> None:
        if before == now:
            return
        with self._lock:
            self._istiods.pop(key, None)
            if now is not None:
                self._istiods[key] = now
            meshes = {plane: self._mesh(plane) for plane in self._meshes}
            changed = meshes != self._meshes
            self._meshes = meshes
        if changed:
            self._enqueue_all()

    def _service(
        self, key: Key, was: Manifest | KeptService | None, is_: Manifest | KeptService | None
    ) -> None:
        before, now = manifest_of(was), manifest_of(is_)
        with self._lock:
            self.tcp_ports += tcp_ports(is_) - tcp_ports(was)
            affected = self._note_intent(key, now)
            self._note_patched(key, before, now)
            owners = self._note_own("Service", before, now)
            affected |= {key, *owners, *self._users(key)}
            if key[0] in self.gateway_namespaces:
                self._note_gateway_service(key, now)
            if key == API_SERVER_SERVICE:
                self._api_server_service = now
        affected.discard(self._planned_by("Service", key, now))
        for each in affected:
            self._enqueue(each)
        if key == API_SERVER_SERVICE:
            self._enqueue_api_server_changed()
        if self.api_gateways:
            self.api_gateways.service_changed(key)
            if key[0] in self.gateway_namespaces and (was is None) != (is_ is None):
                self.api_gateways.parameter_changed(ParametersRef("", "Service", key[1]), key[0])
            if now and before and now.get("status") != before.get("status"):
                self.api_gateways.report_gateways(self._with_ports_of(now))
        self._gateways_changed()

    def _with_ports_of(self, service: Manifest) -> list[Key]:
        """The Gateways whose ports a gateway's own Service has."""
        managers = exposure_managers(service)
        return [
            gateway
            for key, gateway in tuple(self._of_gateways.items())
            if managers and names.service_manager(*key) in managers
        ]

    def _gateway_requests(self, gateway: Key) -> None:
        """Store a Gateway's request."""
        key, gateways = exposure_key(gateway), self.api_gateways
        with self._lock:
            # Inside the lock, so that the thread that reads the caches last also decides last.
            undecided = gateways is not None and gateways.is_undecided(gateway)
            (self._undecided.add if undecided else self._undecided.discard)(key)
            # Until it can be decided, it keeps its rank and its ports.
            if not undecided:
                self._note_gateway(key, gateways.gateway(gateway) if gateways else None)
        self._enqueue(key)

    def _note_gateway(self, key: Key, found: ApiGateway | None) -> None:
        if found is None or found.leaving:
            if self._of_gateways.pop(key, None):
                self.intents.drop(key)
            return
        self._of_gateways[key] = found.key
        intent = self._gateway_intent(found)
        if intent is None:
            self.intents.drop(key)
        else:
            self._put_intent(key, found.about.rank, intent)

    def _put_intent(self, key: Key, rank: Rank, intent: Intent | UsageError) -> None:
        self.intents.put(key, rank, intent.gateway_ports if isinstance(intent, Intent) else ())

    def _gateway_intent(self, gateway: ApiGateway) -> Intent | UsageError | None:
        may_own = gateway.about.namespace in self.gateway_namespaces
        return _intent(lambda: gateway_intent(gateway, may_own=may_own))

    def _note_patched(self, key: Key, before: Manifest | None, now: Manifest | None) -> None:
        for manager in exposure_managers(before or {}):
            self._patched.get(manager, set()).discard(key)
        for manager in exposure_managers(now or {}):
            self._patched.setdefault(manager, set()).add(key)

    def _note_gateway_service(self, key: Key, now: Manifest | None) -> None:
        known = self._gateway_services.pop(key, None)
        if now is not None and not is_managed(now):
            known = self._gateway_services[key] = now
        if known is not None:
            self._forget_gateways()

    def _note_intent(self, key: Key, now: Manifest | None) -> set[Key]:
        """Store a Service's request; return those that may move in the order."""
        if key in self._of_gateways:
            return set()
        if now is None or not is_requested(now):
            _note(self._selectors, key[0], key, None)
            affected = self.intents.drop(key)
            next_in_line = self.intents.at(key[0], self._most_intents.get(key[0], 1) - 1)
            return {next_in_line} if affected and next_in_line else set()
        selector = LabelSet.of(now["spec"].get("selector") or {})
        _note(self._selectors, key[0], key, selector)
        self._put_intent(key, About.of(now).rank, _intent(lambda: service_intent(now)))
        return set()

    def _users(self, service: Key) -> set[Key]:
        """The exposures of a Service with another name than the Service."""
        found = set(self._named_otherwise.get(service, ()))
        if self.api_gateways:
            found |= {exposure_key(each) for each in self.api_gateways.gateways_of_service(service)}
        return found

    def _enqueue_users_in(self, namespace: str) -> None:
        """Queue the exposures of Gateways that have Services of a namespace.

        A route that referred to a Service may have been deleted before its ReferenceGrant. Its
        exposure still has the Service's endpoints until the gateway may change.
        """
        with self._lock:
            found = [users for of, users in self._named_otherwise.items() if of[0] == namespace]
            affected = {user for users in found for user in users if user in self._of_gateways}
        for each in affected:
            self._enqueue(each)

    def _slice_changed(self, key: Key, before: KeptSlice | None, now: KeptSlice | None) -> None:
        services = {(key[0], kept.service) for kept in (before, now) if kept is not None}
        with self._lock:
            for kept, gone in ((before, True), (now, False)):
                if kept is None:
                    continue
                service = (key[0], kept.service)
                _note(self._slices_of_service, service, key[1], None if gone else kept)
                _note(self._slices_in, key[0], key[1], None if gone else kept)
        self._enqueue_endpoints(services)
        if API_SERVER_SERVICE in services:
            self._enqueue_api_server_changed()

    def _enqueue_api_server_changed(self) -> None:
        """Queue the exposures of Services that list an address which the API server got or lost."""
        with self._lock:
            before, self._api_server = self._api_server, self.api_server()
            changed = before ^ self._api_server
            listed = {
                service
                for namespace in self._slices_in
                for address in changed
                for service in self._listed_by(namespace, address)
            }
        self._enqueue_endpoints(listed - {API_SERVER_SERVICE})

    def _enqueue_endpoints(self, services: Iterable[Key]) -> None:
        """Queue the exposures of Services whose endpoints changed."""
        with self._lock:
            users = [
                (user, service)
                for service in services
                # Its own exposure usually has its name.
                for user in {service, *self._users(service)}
            ]
        for user, service in users:
            self._endpoints_changed(user, service)

    def _listed_by(self, namespace: str, address: str) -> set[Key]:
        """The Services whose EndpointSlices list an address."""
        kept = self._slices_in.get(namespace, {}).values()
        return {(namespace, each.service) for each in kept if each.may_list(address)}

    def _listed_elsewhere(self, namespace: str, address: str) -> set[Key]:
        """The Services of other namespaces, exposed by command line, that list a pod's address."""
        return {
            service
            for service in self._listed_by_command.values()
            if service[0] != namespace
            and any(
                each.may_list(address) for each in self._slices_of_service.get(service, {}).values()
            )
        }

    def _pod(
        self,
        key: Key,
        before: Manifest | KeptPod | None,
        now: Manifest | KeptPod | None,
    ) -> None:
        listed, selecting = set[Key](), set[Key]()
        with self._lock:
            if self._may_enqueue():
                for address in running_addresses(before) ^ running_addresses(now):
                    listed |= self._listed_by(key[0], address)
                    listed |= self._listed_elsewhere(key[0], address)
                for labels in {pod.labels for pod in (before, now) if isinstance(pod, KeptPod)}:
                    selecting |= self._selecting(key[0], labels)
            for pod, gone in ((before, True), (now, False)):
                if isinstance(pod, KeptPod):
                    self._note_pod(key, pod, gone)
                elif pod is not None:
                    self._forget_gateways()
                    self._gateway_pods.pop(key, None)
                    if not gone:
                        self._gateway_pods[key] = pod
        self._note_istiod(key, istiod_of(before), istiod_of(now))
        self._enqueue_endpoints(listed)
        for each in selecting - listed:
            self._enqueue(each)
        self._gateways_changed()

    def _note_pod(self, key: Key, pod: KeptPod, gone: bool) -> None:
        for address in running_addresses(pod):
            pods = self._pods_at.setdefault(key[0], {}).setdefault(address, set())
            (pods.discard if gone else pods.add)(key[1])
            if not pods:
                del self._pods_at[key[0]][address]
        _note(self._pods, key[0], key[1], None if gone else pod)

    def _selecting(self, namespace: str, labels: LabelSet) -> set[Key]:
        """The Services with requests that select a pod, up to the permitted number."""
        selectors = self._selectors.get(namespace, {})
        looked_at = self.intents.first(namespace, self._most_intents.get(namespace))
        return {key for key in looked_at if labels.has(selectors.get(key, LabelSet()))}

    def _entry(self, key: Key, before: SeenEntry | None, now: SeenEntry | None) -> None:
        with self._lock:
            owners = self._note_own(
                "ServiceEntry", before.kept if before else None, now.kept if now else None
            )
            self.known_entries.put(key, now.summary if now else None, now.many if now else None)
            owners |= {owner for seen in (before, now) if seen for owner in self._named_by(seen)}
        owners.discard(self._planned_by("ServiceEntry", key, now.manifest if now else None))
        for owner in owners:
            self._enqueue(owner)

    def _named_by(self, seen: SeenEntry) -> set[Key]:
        """The exposures that a ServiceEntry's hosts were made for."""
        if seen.many is not None:
            held = [spec for specs in self._specs_in.values() for spec in specs.values()]
            return {spec.key for spec in held if any(e.host in seen.many for e in spec.entries)}
        owners = {names.exposure_of_host(host) for host in seen.summary.hosts}
        return {owner for owner in owners if owner in self._own}

    def _filter(self, key: Key, before: GatewayFilter | None, now: GatewayFilter | None) -> None:
        with self._filters_changed:
            self.gateway_filters.put(key, now)
            self._filters_changed.notify_all()
        with self._lock:
            if before and before.reservation:
                _note(self._reserved, before.reservation.spec.key, key, None)
            if now and now.reservation:
                _note(self._reserved, now.reservation.spec.key, key, now)
        if not self._frees(before, now):
            return
        with self._lock:
            owners = self._note_own(
                "EnvoyFilter", before.manifest if before else None, now.manifest if now else None
            )
        planned_by = self._planned_by("EnvoyFilter", key, now.manifest if now else None)
        owners.discard(planned_by)
        for owner in owners:
            self._enqueue(owner)
        self._footprint_changed(
            before.footprint if before else None, now.footprint if now else None, planned_by
        )

    def _frees(self, before: GatewayFilter | None, now: GatewayFilter | None) -> bool:
        """Whether a change concerns exposures; a reservation only if it ends without a write."""
        if now is not None and now.reservation is not None:
            return False
        if before is None or before.reservation is None:
            return True
        return now is not None or self.existing(before.reservation.spec.key).exposure is None

    def _note_own(
        self, kind: str, before: Manifest | Packed | None, now: Manifest | Packed | None
    ) -> set[Key]:
        """Update the index of exposures' objects; return the old and new exposure of an object."""
        owners = set()
        for kept, gone in ((before, True), (now, False)):
            manifest = unpacked(kept)
            owner = self._owner(kind, manifest) if manifest else None
            if kept is None or manifest is None or owner is None:
                continue
            owners.add(owner)
            objects = self._own.setdefault(owner, {})
            self._own_in.setdefault(owner[0], set()).add(owner)
            if not gone:
                objects[ObjectRef.of(manifest)] = kept
            else:
                objects.pop(ObjectRef.of(manifest), None)
            if not objects:
                del self._own[owner]
                self._own_in[owner[0]].discard(owner)
                if not self._own_in[owner[0]]:
                    del self._own_in[owner[0]]
        for owner in owners:
            self._note_spec(owner)
        return owners

    def _note_spec(self, owner: Key) -> None:
        """Update the specs per namespace, and exposures with another name than their Service.

        If several objects have a spec, `existing` finds the one that decides.
        """
        existing = self.existing(owner)
        _note(self._specs_in, *owner, existing.held)
        held = self._held_in.setdefault(owner[0], Holders())
        held.put(owner, Holder.of(existing.held) if existing.held else None)
        if not held:
            del self._held_in[owner[0]]
        listed = existing.at_gateway if existing.source is None else None
        if listed and listed.service and listed.discovery is Discovery.ENDPOINTS:
            self._listed_by_command[owner] = (listed.namespace, listed.service)
        else:
            self._listed_by_command.pop(owner, None)
        for service in self._services.pop(owner, ()):
            _note(self._named_otherwise, service, owner, None)
        services = existing.exposure.services - {owner} if existing.exposure else frozenset()
        if services:
            self._services[owner] = services
        for service in services:
            _note(self._named_otherwise, service, owner, True)

    def _owner(self, kind: str, manifest: Manifest) -> Key | None:
        """The exposure that an object claims, if it is in a relevant namespace.

        Whether it really belongs to it is decided from all its objects (state/ownership.py).
        """
        try:
            owner, *key = claimed_owner(manifest)
        except Disagreement:
            return None
        place = manifest["metadata"]["namespace"]
        right = place in self.gateway_namespaces or (kind, place) == ("ServiceEntry", key[0])
        return (key[0], key[1]) if right and owner is Kind.EXPOSURE else None

    def _forget_gateways(self) -> None:
        self._gateways, self._gateways_touched = None, True

    def _gateways_changed(self) -> None:
        """Queue everything if facts about a gateway that exposures depend on have changed."""
        with self._lock:
            if not self._gateways_touched:
                return
            self._gateways_touched = False
            reported = self._of_changed_pods()
            facts = tuple(
                (
                    g.ref,
                    g.service_names,
                    g.owners,
                    g.families,
                    g.has_addresses,
                    g.first_bindable,
                    g.memory_limit,
                    g.cores,
                    g.domain,
                    g.istio,
                    g.control_plane,
                    g.api,
                    content(g.service),
                )
                for g in self.gateways()
            )
            changed = facts != self._gateway_facts
            self._gateway_facts = facts
        if changed:
            self._enqueue_all()
        if self.api_gateways:
            self.api_gateways.report_gateways(reported)

    def _of_changed_pods(self) -> list[Key]:
        """The Gateways with exposures at gateways whose ready pods are not those of before."""
        before = self._ready_pods
        self._ready_pods = {
            (
                *(gateway.ref.namespace, gateway.ref.name),
                tuple(sorted(gateway.ref.selector.items())),
                frozenset((pod.name, pod.uid) for pod in gateway.ready_pods),
            )
            for gateway in self.gateways()
        }
        changed = [
            GatewayRef(namespace, name, dict(selector))
            for namespace, name, selector, _ in before ^ self._ready_pods
        ]
        return [
            gateway
            for key, gateway in self._of_gateways.items()
            if (spec := self._specs_in.get(key[0], {}).get(key[1]))
            and any(spec.gateway.same_pods(ref) for ref in changed)
        ]

    def _enqueue_all(self) -> None:
        for key in self.exposures():
            self._enqueue(key)


def _note(index: dict[Where, dict[Name, What]], where: Where, name: Name, now: What | None) -> None:
    """Update an index of dictionaries and remove empty ones; None removes an entry."""
    found = index.setdefault(where, {})
    if now is None:
        found.pop(name, None)
    else:
        found[name] = now
    if not found:
        del index[where]


def _intent(read: Callable[[], Requested]) -> Requested | UsageError:
    """The request, or the error from reading it."""
    try:
        return read()
    except UsageError as error:
        # Not the error itself, whose traceback would hold everything that was read.
        return type(error)(error.message, hints=error.hints)
