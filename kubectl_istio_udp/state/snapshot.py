"""Read the cluster's state for `expose`, in two rounds of parallel requests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import Any

from kubectl_istio_udp.kube.client import Api, selector_of
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.kube.reads import Reads
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.deletion import deletion_text, is_being_deleted
from kubectl_istio_udp.model.endpointrules import API_SERVER_SERVICE, EndpointRules, canonical
from kubectl_istio_udp.model.entries import EntryIndex, EntrySummary
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NoAnswer, NotFound, NotInstalled
from kubectl_istio_udp.model.exposure import Discovery, Exposure, ExposureSpec, exposed_endpoints
from kubectl_istio_udp.model.gateway import ISTIO_LABEL, Gateway, selects
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.memory import ProxySize
from kubectl_istio_udp.model.mesh import Mesh
from kubectl_istio_udp.model.proxystate import BoundListener
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.service import EndpointSlice, Pod, Service, workload_labels
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.apiserver import read_api_server_addresses
from kubectl_istio_udp.state.gateways import (
    gateway_among,
    gateway_pods,
    gateway_secret,
)
from kubectl_istio_udp.state.mesh import read_mesh
from kubectl_istio_udp.state.occupancy import GatewayFilters, Occupancy
from kubectl_istio_udp.state.ownership import Existing, readable
from kubectl_istio_udp.state.reservations import Reservation
from kubectl_istio_udp.state.services import (
    service_entries,
    service_slices,
)


def begin_reads(reads: Reads, namespace: str, service: str, choice: GatewayChoice) -> None:
    """Start the reads of a decision that depend on no other answer.

    Args:
        reads: the cluster, as the decision sees it.
        namespace, service: the Service.
        choice: how the gateway is chosen.
    """
    for kind in ("EnvoyFilter", "ServiceEntry", "Service"):
        reads.begin(kind)
    reads.begin("WorkloadEntry", namespace)
    if not (choice.namespace or choice.selector):
        reads.begin("Pod", None, ISTIO_LABEL)
    for place in ((namespace, service), API_SERVER_SERVICE):
        reads.begin_call(partial(service_slices, reads, *place))
    reads.begin_call(partial(gateway_pods, reads, choice))
    reads.begin_call(partial(read_mesh, reads))


def read_snapshot(
    api: Api,
    request: ExposeRequest,
    choice: GatewayChoice,
    existing: Existing,
    *,
    need_proxy: bool,
) -> Snapshot:
    """Read everything that a decision about an exposure needs.

    Args:
        api: the cluster.
        request: the request.
        choice: the gateway.
        existing: the current exposure; without objects if there is none.
        need_proxy: whether to fail if no gateway pod's Envoy may be queried.

    Raises:
        NotFound, Forbidden, Unreachable, UsageError: something required is missing or ambiguous.
    """
    namespace, name = request.namespace, request.service
    service_object, slices, pods_of_gateways, mesh = in_parallel(
        [
            lambda: _service(api, namespace, name),
            lambda: service_slices(api, namespace, name),
            lambda: gateway_pods(api, choice),
            # In parallel, before the gateway is known: nearly all gateways have this control plane.
            lambda: read_mesh(api),
        ]
    )
    service = Service.from_object(service_object)
    gateway = gateway_among(api, pods_of_gateways, choice)
    if gateway.control_plane != mesh.control_plane:
        mesh = read_mesh(api, gateway.control_plane)
    mesh = mesh.with_root_namespace(choice.root_namespace)
    before = existing.held
    gateway = gateway.kept(before.gateway if before else None, choice.name)
    key = (namespace, request.exposure_name)
    own_name = names.object_name(*key)
    selector = selector_of(service.selector)
    calls: list[Callable[[], Any]] = [
        lambda: _envoy_filters(api, gateway, mesh),
        lambda: api.list("Pod", namespace, selector) if selector else [],
        lambda: service_entries(api, [namespace, gateway.ref.namespace]),
        lambda: api.find("Service", gateway.ref.namespace, own_name),
        lambda: _query_proxy(api, gateway, need_proxy),
        lambda: _labels(api, {namespace, gateway.ref.namespace}, mesh),
        lambda: read_api_server_addresses(api),
        lambda: _workload_entries(api, service),
    ]
    filters, pods, entries, companion, proxy, labels, api_server, workloads = in_parallel(calls)
    bound, file_limit, size = proxy
    selected = tuple(Pod.from_object(pod) for pod in pods)
    own_filter = _own_filter(filters, gateway, own_name)
    own_entries = _entries_with_own_names(entries, gateway, request)
    occupancy = Occupancy(GatewayFilters.of(filters))
    footprints = occupancy.footprints_at(gateway, mesh)
    bound = _protocols(api, gateway, bound, footprints, needed=need_proxy)
    return Snapshot(
        service=service,
        slices=slices,
        pods=selected,
        gateway=gateway,
        mesh=mesh,
        namespaces=labels,
        footprints=footprints,
        bound=bound,
        file_limit=file_limit,
        size=size,
        others=occupancy.usage(gateway, mesh.root_namespace, key),
        objects=tuple(
            manifest
            for manifest in (*own_filter, *own_entries, companion)
            if manifest and not is_being_deleted(manifest)
        ),
        # If not all namespaces may be listed, read the one in the gateway's namespace.
        exposures=(before,)
        if before
        else tuple(spec for f in own_filter if (spec := readable(f, ExposureSpec))),
        before=before,
        entries=EntryIndex.of(map(EntrySummary.from_object, entries)),
        rules=EndpointRules(api_server=api_server),
        workload_entries=workloads,
        others_addresses=_others_addresses(api, service, slices, selected),
        secret=gateway_secret(gateway),
    )


def _entries_with_own_names(
    entries: Iterable[dict[str, Any]], gateway: Gateway, request: ExposeRequest
) -> list[dict[str, Any]]:
    """The ServiceEntries with a name and namespace that this exposure's entries may have."""
    places = (request.namespace, gateway.ref.namespace)
    return [
        entry
        for entry in entries
        if entry["metadata"]["namespace"] in places
        and names.is_object_name(
            entry["metadata"]["name"], request.namespace, request.exposure_name
        )
    ]


def _others_addresses(
    api: Api, service: Service, slices: Sequence[EndpointSlice], selected: Sequence[Pod]
) -> tuple[tuple[str, str], ...]:
    """The endpoints of a Service that are pods of other namespaces, or nodes: (address, owner).

    Whoever can write EndpointSlices may name any pod in them, so the pods' own addresses count.
    Empty if not all pods may be listed.
    """
    own = canonical(a for pod in selected for a in (*pod.addresses, *pod.node_addresses))
    left = canonical(e.address for each in slices for e in each.endpoints) - own
    if not left:
        return ()
    try:
        pods = api.list("Pod")
    except Forbidden:
        return ()
    found: dict[str, str] = {}
    for manifest in pods:
        namespace, name = names.namespaced_name(manifest)
        pod = Pod.from_object(manifest)
        found |= dict.fromkeys(canonical(pod.node_addresses), f"the node of pod {namespace}/{name}")
        if namespace != service.namespace:
            found |= dict.fromkeys(canonical(pod.addresses), f"pod {namespace}/{name}")
    return tuple((address, found[address]) for address in sorted(left & found.keys()))


def _workload_entries(api: Api, service: Service) -> tuple[str, ...]:
    """The names of the WorkloadEntries that a Service's selector matches.

    Empty if they may not be read, or if this Istio does not have them.
    """
    if not service.selector:
        return ()
    try:
        found = api.list("WorkloadEntry", service.namespace)
    except (Forbidden, NotInstalled):
        return ()
    return tuple(
        entry["metadata"]["name"]
        for entry in found
        if selects(service.selector, workload_labels(entry))
    )


def read_again(
    api: Api, snapshot: Snapshot, key: tuple[str, str], reservation: Reservation
) -> Snapshot:
    """The same snapshot with the gateway's current EnvoyFilters.

    Args:
        api: the cluster.
        snapshot: the earlier snapshot.
        key: the exposure's (namespace, name).
        reservation: this run's reservation; later ones do not count.
    """
    gateway, mesh = snapshot.gateway, snapshot.mesh
    filters = _envoy_filters(api, gateway, mesh)
    occupancy = Occupancy(GatewayFilters.of(filters), reservation)
    rest = [manifest for manifest in snapshot.objects if manifest["kind"] != "EnvoyFilter"]
    own_filter = _own_filter(filters, gateway, names.object_name(*key))
    return replace(
        snapshot,
        footprints=occupancy.footprints_at(gateway, mesh),
        others=occupancy.usage(gateway, mesh.root_namespace, key),
        objects=(*own_filter, *rest),
    )


def _own_filter(
    filters: Sequence[dict[str, Any]], gateway: Gateway, name: str
) -> list[dict[str, Any]]:
    place = (gateway.ref.namespace, name)
    return [f for f in filters if names.namespaced_name(f) == place and not is_being_deleted(f)]


def _service(api: Api, namespace: str, name: str) -> dict[str, Any]:
    """The Service's manifest; if its namespace does not exist, the error says so."""
    try:
        found = api.get("Service", namespace, name)
    except NotFound as error:
        with contextlib.suppress(Forbidden):
            if api.find("Namespace", None, namespace) is None:
                raise NotFound(
                    f"namespace {namespace} not found",
                    hints=["list namespaces: kubectl get namespaces"],
                ) from error
        raise
    if is_being_deleted(found):
        raise ClusterError(
            f"{deletion_text(found)}; nothing was written",
            hints=["expose it when it has been created again"],
        )
    return found


def ready_addresses(api: Api, exposure: Exposure) -> dict[str, frozenset[str]]:
    """The addresses (`10.0.0.1:53`) that each of an exposure's clusters should have now.

    With discovery static or endpoints these are the written ones; otherwise they are read again.
    """
    spec = exposure.spec
    if spec.discovery is Discovery.SELECTOR:
        slices = service_slices(api, spec.namespace, spec.service)
        found = api.find("Service", spec.namespace, spec.service)
        service = Service.from_object(found) if found else None
        endpoints = exposed_endpoints(spec, service, slices, exposure.families)
        exposure = replace(exposure, endpoints=endpoints)
    return {
        spec.cluster_name(port, backend): frozenset(
            f"{endpoint.address}:{endpoint.port}" for endpoint in exposure.ready_endpoints(backend)
        )
        for port in spec.ports
        for backend in port.backends
    }


def _envoy_filters(api: Api, gateway: Gateway, mesh: Mesh) -> list[dict[str, Any]]:
    """The EnvoyFilters that may apply to a gateway."""
    if mesh.assumed:
        # Any namespace may be the root namespace.
        with contextlib.suppress(Forbidden):
            return api.list("EnvoyFilter")
    namespaces = sorted({gateway.ref.namespace, mesh.root_namespace})
    lists = for_each(lambda namespace: api.list("EnvoyFilter", namespace), namespaces)
    return [found for each in lists for found in each]


def _labels(api: Api, namespaces: Set[str], mesh: Mesh) -> dict[str, Mapping[str, str]]:
    """The labels of namespaces, if istiod only reads namespaces with certain labels."""
    if not mesh.discovery_selectors:
        return {}

    def labels(name: str) -> Mapping[str, str] | None:
        with contextlib.suppress(Forbidden, NotFound):
            return api.get("Namespace", None, name)["metadata"].get("labels") or {}
        return None

    names_ = sorted(namespaces)
    found = for_each(labels, names_)
    return {name: read for name, read in zip(names_, found, strict=True) if read is not None}


def _protocols(
    api: Api,
    gateway: Gateway,
    bound: tuple[BoundListener, ...] | None,
    footprints: Sequence[Footprint],
    *,
    needed: bool,
) -> tuple[BoundListener, ...] | None:
    """The active listeners with their protocols; those of EnvoyFilters are not queried."""
    if not bound:
        return bound
    known = {name for footprint in footprints for name in footprint.listeners}
    try:
        return proxies.with_protocols(api, gateway.ref.namespace, bound[0].pod, bound, known)
    except ClusterError:
        if needed:
            raise
        return bound


def _query_proxy(
    api: Api, gateway: Gateway, needed: bool
) -> tuple[tuple[BoundListener, ...] | None, int | None, ProxySize | None]:
    """The listeners and size of one ready gateway pod's Envoy, and the lowest file limit of all.

    Unknown values are None. Limits differ between nodes; listeners and sizes are equal in all pods.
    """
    if not gateway.ready_pods:
        return None, None, None
    namespace = gateway.ref.namespace
    first, *others = [pod.name for pod in gateway.ready_pods]

    def known(question: tuple[Callable[[Api, str, str], Any], str]) -> Any:
        call, pod = question
        try:
            return call(api, namespace, pod)
        except ClusterError as error:
            # Users who may port-forward but not exec, or whose exec hangs, get a warning about the
            # file limit instead (U204).
            unknown = call is proxies.file_limit and isinstance(error, (Forbidden, NoAnswer))
            if needed and pod == first and not unknown:
                error.hints += ("or run without waiting for the gateway: --no-wait",)
                raise
            # Independent queries: if the admin interface fails, the file limit may still be read.
            return None

    queries: list[tuple[Callable[[Api, str, str], Any], str]]
    queries = [(proxies.listeners_and_size, first), (proxies.file_limit, first)]
    queries += [(proxies.file_limit, pod) for pod in others]
    admin, *limits = for_each(known, queries)
    bound, size = admin or (None, None)
    return bound, min((limit for limit in limits if limit is not None), default=None), size
