"""The status of exposures, responses and access logs: conditions, address, endpoints, age."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from kubectl_istio_udp.kube.client import Api, selector_of
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.kube.reads import Reads
from kubectl_istio_udp.model.annotation_values import some
from kubectl_istio_udp.model.conditions import Condition, ConditionType, summary, with_ready
from kubectl_istio_udp.model.deletion import deletion_text
from kubectl_istio_udp.model.envoyfilter import Footprint, footprints_at, revisions
from kubectl_istio_udp.model.errors import ClusterError, Forbidden
from kubectl_istio_udp.model.exposure import (
    Discovery,
    ExposureSpec,
    GatewayServiceMode,
    exposed_endpoints,
)
from kubectl_istio_udp.model.gateway import (
    ISTIO_LABEL,
    Gateway,
    GatewayPod,
    GatewayRef,
    is_gateway_pod,
)
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.mesh import Mesh
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.model.service import IPV4, IPV6, Endpoint, EndpointSlice, Service
from kubectl_istio_udp.model.times import read_time
from kubectl_istio_udp.state.addresses import Addresses, client_addresses
from kubectl_istio_udp.state.mesh import read_mesh
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.query_limit import QueryLimit
from kubectl_istio_udp.state.services import service_slices

if TYPE_CHECKING:
    from kubectl_istio_udp.model.proxystate import ProxyState
    from kubectl_istio_udp.state.udproutes import Routing

BY_COMMAND, BY_ANNOTATION, BY_GATEWAY = "command-line", "annotation", "gateway"
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


@dataclass(frozen=True)
class Status:
    """The status of an exposure, response or access log, as `get` shows it.

    Attributes:
        age: the time since its oldest object was created, in kubectl's format.
        conditions: its conditions, Ready first.
        address: the address for clients of an exposure; "" if unknown.
        ready: ready and all endpoints, `2/3`; "" if the gateway resolves a DNS name.
        owner: `command-line`; `annotation` or `gateway` if the controller manages it. See
            `owner_text`.
    """

    age: str
    conditions: tuple[Condition, ...]
    address: str = ""
    ready: str = ""
    owner: str = BY_COMMAND

    @property
    def state(self) -> str:
        """The reasons of failed conditions, `NoEndpoints,NoAddress`; `ok` if there are none."""
        return summary(self.conditions)


@dataclass(frozen=True)
class _GatewayFacts:
    """The facts about one gateway that the status of its exposures depends on.

    Attributes:
        ready: the names of its ready pods; None if they may not be listed.
        footprints: what the EnvoyFilters that apply to it add.
        possible: the same, with EnvoyFilters of which it is uncertain whether they apply.
        states: the exposures' listeners in each ready pod's Envoy, by the pod's name; None if not
            queried.
        problem: why an Envoy could not be queried.
    """

    ready: tuple[str, ...] | None = None
    footprints: tuple[Footprint, ...] = ()
    possible: tuple[Footprint, ...] = ()
    states: Mapping[str, ProxyState] | None = None
    problem: str = ""


_Gateway = tuple[str, tuple[tuple[str, str], ...]]
# For more Services, one list reads the EndpointSlices of all. A Gateway may have hundreds.
_MOST_SINGLE_READS = 20


def begin_reads(reads: Reads) -> None:
    """Start the reads of a list of all exposures that depend on no other answer."""
    for kind in ("EnvoyFilter", "Service"):
        reads.begin(kind)
    # The pods of nearly all gateways have this label.
    reads.begin("Pod", None, ISTIO_LABEL)
    reads.begin_call(partial(read_mesh, reads))


def begin_status_reads(reads: Reads, found: Sequence[Existing]) -> None:
    """Start the reads for `read_status` that one list answers with fewer requests."""
    services = {service for each in found if each.exposure for service in each.exposure.services}
    if len(services) > _MOST_SINGLE_READS:
        reads.begin("EndpointSlice")


def read_status(
    api: Api,
    found: Sequence[Existing],
    *,
    query_envoy: bool = False,
    query_limit: QueryLimit | None = None,
) -> list[Status]:
    """The status of each exposure, response and access log, read in parallel.

    Args:
        api: the cluster.
        found: the exposures, responses and access logs.
        query_envoy: whether to query the listeners of each gateway pod's Envoy. If not, only the
            pods' readiness is known. Gateways that only a tenant's object names are not queried.
        query_limit: limits the queries; one for the whole command.
    """
    gateways: dict[_Gateway, GatewayRef] = {}
    queried: set[_Gateway] = set()
    for existing in found:
        gateway = _gateway_of(existing)
        if gateway is not None:
            gateways[_key(gateway)] = gateway
            if query_envoy and not is_named_by_tenant(existing):
                queried.add(_key(gateway))
    query_limit = query_limit or QueryLimit()
    read, services, mesh = in_parallel(
        [
            lambda: for_each(lambda ref: _read_gateway(api, ref), gateways.values()),
            lambda: for_each(lambda existing: _read_service(api, existing.exposure), found),
            # In parallel, before the gateways' pods are known: nearly all have this control plane.
            lambda: read_mesh(api) if gateways else Mesh(),
        ]
    )
    facts = for_each(
        lambda each: _gateway_facts(
            api, each[0], each[1], mesh, query_limit if _key(each[0]) in queried else None
        ),
        zip(gateways.values(), read, strict=True),
    )
    known = dict(zip(gateways, facts, strict=True))
    statuses = []
    for existing, service in zip(found, services, strict=True):
        gateway = _gateway_of(existing)
        statuses.append(_status(existing, known[_key(gateway)] if gateway else None, service))
    return statuses


def is_named_by_tenant(existing: Existing) -> bool:
    """Whether only a tenant's object names the gateway, and no EnvoyFilter in its namespace."""
    return existing.kind is Kind.EXPOSURE and existing.object("EnvoyFilter") is None


def _gateway_of(existing: Existing) -> GatewayRef | None:
    gateway: GatewayRef | None = getattr(existing.spec, "gateway", None)
    return gateway


def _key(gateway: GatewayRef) -> _Gateway:
    return (gateway.namespace, tuple(sorted(gateway.selector.items())))


_ReadGateway = tuple[tuple[GatewayPod, ...] | None, list[dict[str, Any]]]


def _read_gateway(api: Api, ref: GatewayRef) -> _ReadGateway:
    """A gateway's pods (None if they may not be listed), and its namespace's EnvoyFilters."""
    pods, filters = in_parallel(
        [lambda: _pods(api, ref), lambda: _envoy_filters(api, ref.namespace)]
    )
    return pods, filters


def _gateway_facts(
    api: Api, ref: GatewayRef, read: _ReadGateway, mesh: Mesh, query_limit: QueryLimit | None
) -> _GatewayFacts:
    """The facts about a gateway; `mesh` is the one of the default control plane."""
    pods, filters = read
    if pods is None:
        return _GatewayFacts()
    gateway = Gateway(ref, pods)
    if gateway.control_plane != mesh.control_plane:
        mesh = read_mesh(api, gateway.control_plane)
    if mesh.root_namespace != ref.namespace:
        filters = [*filters, *_envoy_filters(api, mesh.root_namespace)]
    ready = tuple(sorted(pod.name for pod in pods if pod.ready))
    possible = tuple(
        each for manifest in filters for each in footprints_at(manifest, gateway, mesh)
    )
    facts = _GatewayFacts(ready, tuple(each for each in possible if each.is_certain()), possible)
    if query_limit is None:
        return facts
    # `get` without -o wide does not query Envoy, and so does not import the parsers.
    from kubectl_istio_udp.state import proxies

    try:
        states = for_each(
            lambda pod: query_limit.call(
                ref.namespace, pod, lambda: proxies.exposed_listeners(api, ref.namespace, pod)
            ),
            ready,
        )
    except ClusterError as error:
        return replace(facts, problem=error.message)
    return replace(facts, states=dict(zip(ready, states, strict=True)))


def _pods(api: Api, ref: GatewayRef) -> tuple[GatewayPod, ...] | None:
    """The pods of a gateway; None if they may not be listed."""
    try:
        pods = api.list("Pod", ref.namespace, selector_of(ref.selector))
    except Forbidden:
        return None
    return tuple(GatewayPod.from_object(pod) for pod in pods if is_gateway_pod(pod))


def _envoy_filters(api: Api, namespace: str) -> list[dict[str, Any]]:
    """The EnvoyFilters of a namespace; none if they may not be listed."""
    with suppress(Forbidden):
        return api.list("EnvoyFilter", namespace)
    return []


_ServiceRead = tuple[tuple[str, str], Mapping[str, Any] | None, tuple[EndpointSlice, ...]]
# The addresses of an exposure; and each of its Services by name, with manifest and EndpointSlices.
_ReadService = tuple[Addresses, tuple[_ServiceRead, ...]]


def _read_service(api: Api, spec: ExposureSpec | None) -> _ReadService | None:
    """The addresses of an exposure, and its Services with their EndpointSlices.

    None if there is no exposure, or it cannot be read.
    """
    if spec is None:
        return None
    names = sorted(spec.services)
    requests: list[Callable[[], Any]] = [partial(client_addresses, api, spec)]
    requests += [partial(service_slices, api, *name) for name in names]
    requests += [partial(api.find, "Service", *name) for name in names]
    addresses, *found = in_parallel(requests)
    slices, services = found[: len(names)], found[len(names) :]
    return addresses, tuple(zip(names, services, slices, strict=True))


def _status(
    existing: Existing, gateway: _GatewayFacts | None, read_service: _ReadService | None
) -> Status:
    made = age(min(o["metadata"]["creationTimestamp"] for o in existing.objects))
    owner = _owner(existing)
    if existing.spec is None:
        unreadable = Condition.fails(ConditionType.ACCEPTED, "Unreadable", existing.problem)
        return Status(made, with_ready([unreadable]), owner=owner)
    accepted, programmed = _accepted(existing, gateway), _programmed(existing, gateway)
    at_gateway = [accepted, *([programmed] if programmed else [])]
    spec = existing.exposure
    if spec is None or read_service is None:
        return Status(made, with_ready(at_gateway), owner=owner)
    addresses, services = read_service
    endpoints = _endpoints(spec, services)
    conditions = [accepted, _resolved(spec, services, endpoints)]
    conditions += [programmed] if programmed else []
    conditions.append(_addressed(spec, addresses))
    ready = f"{endpoints[0]}/{endpoints[1]}" if endpoints else ""
    return Status(made, with_ready(conditions), _shown(addresses, spec), ready, owner)


def owner_text(status: Status, routing: Routing | None) -> str:
    """The owner with the name of its Gateway, in kubectl's form `gateway/NAME`.

    Args:
        status: the status.
        routing: the Gateway of the exposure; None if there is none, or it was not found.
    """
    return f"{BY_GATEWAY}/{routing.gateway.about.name}" if routing else status.owner


def _owner(existing: Existing) -> str:
    if not existing.source:
        return BY_COMMAND
    spec = existing.exposure
    return BY_GATEWAY if spec is not None and not spec.service else BY_ANNOTATION


def _accepted(existing: Existing, gateway: _GatewayFacts | None) -> Condition:
    """Whether its objects are complete and do not conflict with others."""
    if existing.leaving:
        text = deletion_text(existing.leaving[0])
        return Condition.fails(ConditionType.ACCEPTED, "Terminating", text)
    if existing.missing:
        return Condition.fails(
            ConditionType.ACCEPTED,
            f"Missing{existing.missing[0].partition(' ')[0]}",
            f"{', '.join(existing.missing)} does not exist; run the command that created this "
            f"{existing.kind.words} again",
        )
    envoy_filter = existing.object("EnvoyFilter")
    if envoy_filter is not None and gateway is not None:
        footprint = Footprint.from_object(envoy_filter)
        for other in gateway.footprints:
            if other.owner == footprint.owner:
                continue
            ports = other.udp_ports & footprint.udp_ports
            same = (other.listeners & footprint.listeners) | (other.clusters & footprint.clusters)
            if ports or same:
                what = f"port {min(ports)}/UDP" if ports else min(same)
                return Condition.fails(
                    ConditionType.ACCEPTED,
                    "Conflict",
                    f"EnvoyFilter {other.owner} adds {what} to the same gateway; Envoy rejects "
                    "one of the two, and new gateway pods may not become ready",
                )
    return Condition.holds(ConditionType.ACCEPTED)


def _resolved(
    spec: ExposureSpec, services: tuple[_ServiceRead, ...], endpoints: tuple[int, int] | None
) -> Condition:
    """Whether the Services are valid backends, and have ready endpoints."""
    type_ = ConditionType.RESOLVED_REFS
    missing = [name for name, service, _ in services if service is None]
    if missing:
        message = f"Service {'/'.join(missing[0])} does not exist"
        return Condition.fails(type_, "NoService", message)
    if not services and not any(port.dropped for port in spec.ports):
        return Condition.fails(type_, "NoService", "no route leads to a Service")
    if endpoints is not None and services and not endpoints[0]:
        name = ", ".join(f"Service {'/'.join(each)}" for each, _, _ in services)
        return Condition.fails(
            type_,
            "NoEndpoints",
            f"{name} has no ready endpoints ({endpoints[1]} not ready); clients get no answer",
        )
    unanswered = _ports_without_endpoints(spec, services) if endpoints is not None else []
    if unanswered and spec.service:
        return Condition.fails(
            type_,
            "NoEndpoints",
            f"Service {spec.namespace}/{spec.service} has no ready endpoints for "
            f"{some(unanswered)}; clients get no answer there",
        )
    dropping = [str(port.gateway_port) for port in spec.ports if port.dropped]
    if dropping:
        return Condition.fails(
            type_,
            "InvalidBackend",
            f"the gateway drops a share of the clients of port {', '.join(dropping)}, because a "
            "route refers to a backend that is not valid; see its condition ResolvedRefs, or "
            "describe this exposure",
        )
    silent = [each[0] for each in services if not _counted(spec, [each])[0]]
    if endpoints is not None and silent and not spec.service:
        return Condition.fails(
            type_,
            "NoEndpoints",
            f"Service {'/'.join(silent[0])} has no ready endpoints; its clients get no answer",
        )
    return Condition.holds(type_)


def _programmed(existing: Existing, gateway: _GatewayFacts | None) -> Condition | None:
    """Whether the gateway has the configuration; None for what is not at a gateway."""
    ref, type_ = _gateway_of(existing), ConditionType.PROGRAMMED
    if ref is None or gateway is None:
        return None
    spec, envoy_filter = existing.exposure, existing.object("EnvoyFilter")
    wanted = spec.listener_names if spec else frozenset()
    written = Footprint.from_object(envoy_filter).listeners if envoy_filter else frozenset()
    if envoy_filter and wanted - written:
        return Condition.fails(
            type_,
            "NotProgrammed",
            f"the EnvoyFilter in {ref.namespace} has no listener {min(wanted - written)}; a delete "
            "may have been interrupted. Run delete or expose again",
        )
    if gateway.ready is None:
        return Condition.unknown(type_, f"no permission to list the pods of gateway {ref}")
    if not gateway.ready:
        return Condition.fails(type_, "NotProgrammed", f"gateway {ref} has no ready pod")
    if envoy_filter and not _applies(envoy_filter, gateway):
        place = "/".join(namespaced_name(envoy_filter))
        return Condition.fails(
            type_,
            "NotProgrammed",
            f"EnvoyFilter {place} does not apply to the pods of gateway {ref}; "
            f"{_remedy(existing.namespace, existing.name)}",
        )
    if gateway.problem:
        return Condition.unknown(type_, gateway.problem)
    written_revisions = revisions(envoy_filter or {})["LISTENER"]
    current = {name: written_revisions.get(name, "") for name in sorted(wanted)}
    for pod, state in (gateway.states or {}).items():
        if lack := state.first_lack(current, {}):
            message = f"gateway pod {ref.namespace}/{pod} {lack}"
            return Condition.fails(type_, "NotProgrammed", message)
    return Condition.holds(type_)


def _remedy(namespace: str, name: str) -> str:
    """How to repair an edited object; it depends on whether the controller does it."""
    return f"what to do: kubectl istio-udp verify -n {namespace} {name}"


def _applies(envoy_filter: Mapping[str, Any], gateway: _GatewayFacts) -> bool:
    """Whether the gateway may get what an EnvoyFilter adds; one that adds nothing does."""
    wanted = Footprint.from_object(envoy_filter)
    return not wanted or any(each.owner == wanted.owner for each in gateway.possible)


def _addressed(spec: ExposureSpec, addresses: Addresses) -> Condition:
    """Whether clients have an address."""
    type_, mode = ConditionType.ADDRESSED, spec.options.gateway_service
    if addresses.pending:
        return Condition.fails(type_, "NoAddress", addresses.pending)
    if mode is GatewayServiceMode.NONE:
        if addresses.pods:
            return Condition.holds(type_)
        return Condition.fails(type_, "NoAddress", f"gateway {spec.gateway} has no pod")
    if not addresses.service:
        where = f"no Service of gateway {spec.gateway} has the port"
        return Condition.fails(type_, "NoAddress", f"{where}; expose again to add it")
    if addresses.problem:
        return Condition.fails(
            type_, "NoAddress", f"{addresses.problem}; {_remedy(spec.namespace, spec.name)}"
        )
    return Condition.holds(type_)


def _shown(addresses: Addresses, spec: ExposureSpec) -> str:
    if not addresses.service and spec.options.gateway_service is not GatewayServiceMode.NONE:
        return "<none>"
    if addresses.pending:
        return "<pending>"
    first = addresses.of(spec.ports[:1])
    return first[0].rpartition(":")[0] if first else ""


def _endpoints(spec: ExposureSpec, services: tuple[_ServiceRead, ...]) -> tuple[int, int] | None:
    """The numbers of ready and of all endpoints; None if the gateway resolves a DNS name.

    Counted by address: an endpoint is ready for all ports of a Service that it has.
    """
    return None if spec.discovery is Discovery.DNS else _counted(spec, services)


def _counted(spec: ExposureSpec, services: Iterable[_ServiceRead]) -> tuple[int, int]:
    """The numbers of ready and of all endpoints of some Services."""
    endpoints = {
        (name, endpoint.address): endpoint
        for name, _, each in _endpoints_by_port(spec, services)
        for endpoint in each
    }
    return sum(endpoint.ready for endpoint in endpoints.values()), len(endpoints)


def _ports_without_endpoints(spec: ExposureSpec, services: Iterable[_ServiceRead]) -> list[str]:
    """The exposed ports of the Services that no endpoint is ready for: `53/UDP`."""
    silent = {
        number
        for _, number, each in _endpoints_by_port(spec, services)
        if not any(endpoint.ready for endpoint in each)
    }
    return [f"{number}/UDP" for number in sorted(silent)]


def _endpoints_by_port(
    spec: ExposureSpec, services: Iterable[_ServiceRead]
) -> Iterator[tuple[tuple[str, str], int, tuple[Endpoint, ...]]]:
    """The name of each Service, each of its exposed ports, and the endpoints of the port."""
    for name, manifest, slices in services:
        found = exposed_endpoints(
            spec,
            Service.from_object(manifest) if manifest else None,
            slices,
            (IPV4, IPV6),
            None if spec.service else name,
        )
        for (_, number), endpoints in found.items():
            yield name, number, endpoints


def age(timestamp: str, now: datetime | None = None) -> str:
    """The time since an API timestamp in its largest unit: `12s`, `5m`, `3h`, `9d`."""
    made = read_time(timestamp)
    seconds = max(0, int(((now or datetime.now(timezone.utc)) - made).total_seconds()))
    for size, unit in _UNITS:
        # Like kubectl, use the larger unit from two of them on.
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
