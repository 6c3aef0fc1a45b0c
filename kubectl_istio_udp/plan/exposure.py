"""Decide everything about an exposure from a request and a snapshot of the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kubectl_istio_udp.model.annotation_values import some
from kubectl_istio_udp.model.endpointrules import EndpointRules
from kubectl_istio_udp.model.entries import Entry, EntryRequest, plan_entries
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import (
    Discovery,
    Exposure,
    ExposureSpec,
    GatewayServiceMode,
    Options,
    exposed_endpoints,
)
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.ports import (
    FIRST_UNPRIVILEGED_PORT,
    ExposedPort,
    PortRequest,
    check_port_count,
    listener_port,
)
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.service import (
    IPV4,
    IPV6,
    Endpoint,
    EndpointSlice,
    Pod,
    Service,
    ServicePort,
    service_port_endpoints,
)
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.model.spec_annotation import LONGEST_SPEC_BYTES
from kubectl_istio_udp.plan.sessions import SessionRoom, sessions_for_rate


@dataclass(frozen=True)
class ServiceState:
    """A Service with endpoints in an exposure.

    Attributes:
        service: the Service.
        slices: its EndpointSlices.
        rules: the addresses that may be its endpoints.
        of: the Service, as in `Backend.service`; None for the exposure's own Service.
    """

    service: Service
    slices: tuple[EndpointSlice, ...]
    rules: EndpointRules
    of: tuple[str, str] | None = None


@dataclass(frozen=True)
class Plan:
    """A planned exposure, and why its endpoints are not found by selector (None if they are)."""

    exposure: Exposure
    reason: str | None


def plan(request: ExposeRequest, snapshot: Snapshot, room: SessionRoom | None = None) -> Plan:
    """Decide ports, discovery and sessions of an exposure.

    Args:
        request: the request.
        snapshot: the state of the cluster.
        room: the limits on sessions; None for the snapshot's.

    Raises:
        UsageError: the Service has no UDP port, or not the requested one, or the request is not
            possible with this Service or gateway; the message says what is.
    """
    service, gateway = snapshot.service, snapshot.gateway
    pairs = _pair(request.ports, service)
    _check_families(snapshot)
    state = ServiceState(service, snapshot.slices, snapshot.rules)
    followed = replace(state, rules=snapshot.rules.following(snapshot.pods))
    endpoints = {port.port: port_endpoints(port, followed, snapshot) for _, port in pairs}
    discovery, reason = _discovery(request.discovery, snapshot, pairs, endpoints)
    if discovery is not Discovery.SELECTOR and followed != state:
        endpoints = {port.port: port_endpoints(port, state, snapshot) for _, port in pairs}
    ports = tuple(
        _exposed(number, port, discovery, snapshot, endpoints[port.port]) for number, port in pairs
    )
    check_listener_ports(ports, gateway, request.options.gateway_service)
    spec = ExposureSpec(
        namespace=service.namespace,
        name=request.exposure_name,
        service=service.name,
        ports=ports,
        gateway=gateway.ref,
        discovery=discovery,
        options=with_sessions(request, snapshot, room, len(ports)),
    )
    spec = replace(spec, entries=service_entries(spec, snapshot, state, endpoints))
    check_length(spec)
    exposure = Exposure(
        spec=spec,
        families=gateway.families,
        selector=service.selector,
        external_name=service.external_name,
        endpoints={(None, number): each for number, each in endpoints.items()},
        gateway_service=gateway.service,
    )
    return Plan(exposure, reason)


def with_new_entries(spec: ExposureSpec, snapshot: Snapshot) -> Exposure:
    """An existing exposure with newly planned ServiceEntries and otherwise unchanged.

    For exposures of earlier versions, whose ServiceEntries have no addresses.
    """
    service = snapshot.service
    found = exposed_endpoints(spec, service, snapshot.slices, snapshot.gateway.families)
    endpoints = {key: snapshot.rules.permitted(each) for key, each in found.items()}
    by_number = {number: each for (_, number), each in endpoints.items()}
    state = ServiceState(service, snapshot.slices, snapshot.rules)
    return Exposure(
        spec=replace(spec, entries=service_entries(spec, snapshot, state, by_number)),
        families=snapshot.gateway.families,
        selector=service.selector,
        endpoints=endpoints,
        gateway_service=snapshot.gateway.service,
    )


def port_endpoints(
    port: ServicePort, state: ServiceState, snapshot: Snapshot
) -> tuple[Endpoint, ...]:
    """The allowed endpoints of a Service's port, ready or not."""
    before = snapshot.before.backends if snapshot.before else ()
    former = {each.key: each.port_name for each in before}
    found = service_port_endpoints(
        state.service,
        state.slices,
        replace(port, name=former.get((state.of, port.port), port.name)),
        snapshot.gateway.families,
    )
    return state.rules.permitted(found)


def service_entries(
    spec: ExposureSpec,
    snapshot: Snapshot,
    state: ServiceState,
    endpoints: Mapping[int, tuple[Endpoint, ...]],
    planned: Sequence[Entry] = (),
) -> tuple[Entry, ...]:
    """Plan the ServiceEntries of a Service.

    Entries with a selector are in the Service's namespace. Entries that list addresses are in the
    gateway's namespace, where tenants cannot write.

    Args:
        spec: the exposure.
        snapshot: the gateway and the exposure as it was before.
        state: the Service.
        endpoints: its endpoints by port number.
        planned: the entries already planned for the exposure's other Services.
    """
    backends = [b for b in spec.backends if b.eds_service is None and b.service == state.of]
    numbers = tuple(dict.fromkeys(backend.port for backend in backends))
    if spec.discovery not in (Discovery.SELECTOR, Discovery.ENDPOINTS) or not numbers:
        return ()
    listed = spec.discovery is Discovery.ENDPOINTS
    before = snapshot.before.entries if snapshot.before else ()
    kept = tuple(entry for entry in before if entry.service == state.of)
    request = EntryRequest(
        key=spec.key,
        namespace=spec.gateway.namespace if listed else spec.namespace,
        groups=_groups(numbers, state.service, endpoints, kept) if listed else [numbers],
        gateway_namespace=spec.gateway.namespace,
        families=snapshot.gateway.families,
        secret=f"{state.service.uid}/{snapshot.secret}",
        kept=kept,
        everywhere=snapshot.entries,
        service=state.of,
        beside=(*(entry for entry in before if entry.service != state.of), *planned),
    )
    return plan_entries(request)


def _groups(
    numbers: tuple[int, ...],
    service: Service,
    endpoints: Mapping[int, tuple[Endpoint, ...]],
    kept: tuple[Entry, ...],
) -> list[tuple[int, ...]]:
    """Group the ports that share one ServiceEntry.

    istiod combines each port of a ServiceEntry with each of its addresses. So ports only share an
    entry if all pods serve all of them: behind a selector, those with a numeric target port. A port
    that is alone in its entry stays so.
    """
    fixed = {p.port for p in service.udp_ports if isinstance(p.target_port, int)}
    alone = {entry.ports[0] for entry in kept if len(entry.ports) == 1} if len(kept) > 1 else set()
    groups: dict[object, tuple[int, ...]] = {}
    for number in numbers:
        shares = service.selector and number in fixed and number not in alone
        key = _listed(endpoints[number]) if shares else number
        groups[key] = (*groups.get(key, ()), number)
    return list(groups.values())


def _listed(endpoints: tuple[Endpoint, ...]) -> frozenset[tuple[str, bool, bool]]:
    """A key that is equal for lists of endpoints with the same addresses and states."""
    return frozenset((e.address, e.ready, e.serving and e.terminating) for e in endpoints)


def with_sessions(
    request: ExposeRequest, snapshot: Snapshot, room: SessionRoom | None, clusters: int
) -> Options:
    """The options of a request, with the number of sessions for each of so many clusters.

    In an exposure of one Service each port has one cluster.
    """
    if request.expect_rate is not None:
        idle = request.options.idle_timeout.seconds
        return replace(request.options, max_sessions=sessions_for_rate(request.expect_rate, idle))
    if not request.takes_what_is_left:
        return request.options
    room = room or SessionRoom(snapshot.file_limit, lambda: snapshot.others.sessions)
    existing = [
        e for e in snapshot.exposures if e.key == (request.namespace, request.exposure_name)
    ]
    before = (len(existing[0].serving), existing[0].options.max_sessions) if existing else None
    return replace(request.options, max_sessions=room.granted(clusters, before))


def _pair(requests: Sequence[PortRequest], service: Service) -> tuple[tuple[int, ServicePort], ...]:
    """Match each gateway port with a UDP port of the Service."""
    if not service.udp_ports:
        had = ", ".join(map(str, service.ports)) or "none"
        raise UsageError(
            f"Service {service} has no UDP port (its ports: {had})",
            hints=[f"see it: kubectl get service -n {service.namespace} {service.name} -o yaml"],
        )
    if not requests:
        check_port_count(len(service.udp_ports))
        return tuple((port.port, port) for port in service.udp_ports)
    return tuple((request.gateway_port, _find(request, service)) for request in requests)


def _find(request: PortRequest, service: Service) -> ServicePort:
    ports = service.udp_ports
    if request.service_port is None:
        if len(ports) == 1:
            return ports[0]
        matching = [port for port in ports if port.port == request.gateway_port]
    else:
        matching = [port for port in ports if request.service_port in (port.port, port.name)]
    if matching:
        return matching[0]
    listed = some(ports, 5)
    if request.service_port is None:
        raise UsageError(
            f"-p {request.gateway_port} is ambiguous: Service {service} has several UDP ports",
            hints=[f"its UDP ports: {listed}; write -p {request.gateway_port}:{ports[0].port}"],
        )
    raise UsageError(
        f"Service {service} has no UDP port {request.service_port}",
        hints=[f"its UDP ports: {listed}"],
    )


def _discovery(
    requested: Discovery | None,
    snapshot: Snapshot,
    pairs: Sequence[tuple[int, ServicePort]],
    endpoints: dict[int, tuple[Endpoint, ...]],
) -> tuple[Discovery, str | None]:
    """Choose the discovery, and return why it is not by selector."""
    service = snapshot.service
    if service.external_name is not None:
        if requested not in (None, Discovery.DNS):
            raise UsageError(
                f"--discovery {requested.value} does not work for ExternalName Service {service}",
                hints=["omit --discovery: the gateway then resolves the name"],
            )
        if objection := snapshot.rules.name_objection(service.external_name):
            raise UsageError(
                f"the gateway does not send to {service.external_name}, the externalName of "
                f"Service {service}: it is {objection}"
            )
        return Discovery.DNS, f"the Service is the DNS name {service.external_name}"
    obstacle = _obstacle(snapshot, pairs, endpoints)
    if requested is Discovery.SELECTOR and obstacle:
        raise UsageError(
            f"--discovery selector does not work for Service {service}: {obstacle}",
            hints=["omit --discovery, or use --discovery endpoints"],
        )
    if requested is None:
        return (Discovery.ENDPOINTS if obstacle else Discovery.SELECTOR), obstacle
    return (
        requested,
        None if requested is Discovery.SELECTOR else obstacle or "as set for this exposure",
    )


def _obstacle(
    snapshot: Snapshot,
    pairs: Sequence[tuple[int, ServicePort]],
    endpoints: dict[int, tuple[Endpoint, ...]],
) -> str | None:
    """Why a ServiceEntry's workloadSelector cannot describe this Service; None if it can.

    ServiceEntry ports have the same number in all pods, and istiod only lists ready pods
    (Istio's reference, ServiceEntry.workloadSelector; ambient: measured on Istio 1.31).
    """
    return (
        _service_obstacle(snapshot, pairs)
        or _ports_obstacle(snapshot, pairs, endpoints)
        or _pods_obstacle(snapshot, endpoints)
    )


def _service_obstacle(snapshot: Snapshot, pairs: Sequence[tuple[int, ServicePort]]) -> str | None:
    """Why the Service, or how istiod reads it, prevents a workloadSelector."""
    service = snapshot.service
    if not service.selector:
        return "the Service has no selector"
    if service.publish_not_ready:
        return "the Service publishes unready addresses (publishNotReadyAddresses)"
    if not snapshot.reads_namespace(service.namespace):
        return f"istiod does not read namespace {service.namespace} (meshConfig.discoverySelectors)"
    if not snapshot.mesh.selects_pods:
        return "istiod does not select pods (PILOT_ENABLE_SERVICEENTRY_SELECT_PODS=false)"
    hidden = not service.is_exported_to(
        snapshot.gateway.ref.namespace, snapshot.mesh.service_export_to
    )
    if hidden and any(service.tcp_twin(port) for _, port in pairs):
        return f"the Service is not exported to namespace {snapshot.gateway.ref.namespace}"
    return None


def _ports_obstacle(
    snapshot: Snapshot,
    pairs: Sequence[tuple[int, ServicePort]],
    endpoints: Mapping[int, tuple[Endpoint, ...]],
) -> str | None:
    """The port that does not have the same number in all pods."""
    for _, port in pairs:
        numbers = _target_numbers(port, snapshot.pods, endpoints[port.port])
        if len(numbers) > 1:
            listed = ", ".join(map(str, sorted(numbers)))
            return f"target port {port.target_port} is not the same in every pod ({listed})"
        without = _pods_without(port, snapshot.pods)
        if without and len(without) < len(snapshot.pods):
            return f"pod {without[0]} does not declare target port {port.target_port}"
    return None


def _pods_obstacle(snapshot: Snapshot, endpoints: Mapping[int, tuple[Endpoint, ...]]) -> str | None:
    """The pod, or other workload, for which istiod would publish another address."""
    ambient = [pod.name for pod in snapshot.pods if pod.ambient]
    if ambient:
        return f"pod {ambient[0]} is in ambient mode"
    other_family = _pods_of_other_family(snapshot.pods, endpoints)
    if other_family:
        return (
            f"the Service uses an address of pod {other_family[0]} that is not its primary one, "
            "but istiod would publish the primary one"
        )
    if snapshot.workload_entries:
        return (
            f"its selector also selects WorkloadEntry {snapshot.workload_entries[0]}, which is not "
            "an endpoint of the Service"
        )
    return None


def _pods_of_other_family(
    pods: Sequence[Pod], endpoints: Mapping[int, tuple[Endpoint, ...]]
) -> list[str]:
    """The pods for which the Service uses another address family than istiod.

    istiod uses a pod's status.podIP for a ServiceEntry's selector. In a dual-stack cluster that is
    the IPv4 address, even if the Service is IPv6 only (measured on Istio 1.31).
    """
    primary = {pod.name: pod.addresses[0] for pod in pods if pod.addresses}
    return sorted(
        {
            endpoint.pod
            for each in endpoints.values()
            for endpoint in each
            if endpoint.pod in primary
            and (":" in endpoint.address) != (":" in primary[endpoint.pod])
        }
    )


def _check_families(snapshot: Snapshot) -> None:
    """Reject a Service if the gateway's pods have none of its address families.

    A Service without endpoints has an empty EndpointSlice for each of its families.

    Raises:
        UsageError: there is no common address family.
    """
    slices = [each for each in snapshot.slices if each.endpoints] or snapshot.slices
    of_service = {each.family for each in slices} & {IPV4, IPV6}
    of_gateway = snapshot.gateway.families
    if of_service and of_gateway and not of_service & set(of_gateway):
        raise UsageError(
            f"Service {snapshot.service} has only {'/'.join(sorted(of_service))} addresses, but "
            f"the pods of gateway {snapshot.gateway.ref} have only {'/'.join(of_gateway)}",
            hints=[
                "give the Service both families (spec.ipFamilyPolicy: PreferDualStack), or use a "
                "gateway that has its family"
            ],
        )


def _exposed(
    number: int,
    port: ServicePort,
    discovery: Discovery,
    snapshot: Snapshot,
    endpoints: Sequence[Endpoint],
) -> ExposedPort:
    service, gateway = snapshot.service, snapshot.gateway
    twin = None
    if discovery is Discovery.SELECTOR and service.tcp_twin(port):
        # A ServiceEntry for the same number would conflict with the Service's inbound TCP chain in
        # the pods' sidecars; istiod already publishes the same endpoints for the TCP port.
        host = f"{service.name}.{service.namespace}.svc.{gateway.domain}"
        twin = f"outbound|{port.port}||{host}"
    return ExposedPort.of(
        gateway_port=number,
        listener_port=listener_port(number, gateway.first_bindable),
        service_port=port.port,
        service_port_name=port.name,
        target_port=_target_port(port, service, snapshot.pods, endpoints, discovery),
        eds_service=twin,
    )


def _target_port(
    port: ServicePort,
    service: Service,
    pods: Sequence[Pod],
    endpoints: Sequence[Endpoint],
    discovery: Discovery,
) -> int | None:
    """The port number in the pods; None if it differs between pods."""
    if isinstance(port.target_port, int):
        return port.target_port
    numbers = _target_numbers(port, pods, endpoints)
    if len(numbers) == 1:
        return numbers.pop()
    if not numbers and discovery is Discovery.SELECTOR:
        raise UsageError(
            f"port {port.target_port!r} of Service {service} cannot be resolved to a number: "
            "it has no pod that declares it",
            hints=[
                "start a pod with a containerPort of this name and protocol UDP, "
                "or give the Service a numeric targetPort"
            ],
        )
    return None


def _target_numbers(
    port: ServicePort, pods: Sequence[Pod], endpoints: Sequence[Endpoint]
) -> set[int]:
    """The numbers that a port has in pods, including pods without an address yet."""
    numbers = {endpoint.port for endpoint in endpoints}
    if isinstance(port.target_port, str):
        numbers |= {pod.ports[port.target_port] for pod in pods if port.target_port in pod.ports}
    return numbers


def _pods_without(port: ServicePort, pods: Sequence[Pod]) -> list[str]:
    """The names of the pods that do not declare a named target port."""
    if isinstance(port.target_port, int):
        return []
    return [pod.name for pod in pods if port.target_port not in pod.ports and not pod.ended]


def check_listener_ports(
    ports: Sequence[ExposedPort], gateway: Gateway, mode: GatewayServiceMode
) -> None:
    """Reject ports that would bind the same listener port, or that clients could not reach.

    Raises:
        UsageError: the message names the port.
    """
    seen: dict[int, ExposedPort] = {}
    for port in ports:
        if port.listener_port in seen:
            raise UsageError(
                f"ports {seen[port.listener_port]} and {port} would both bind "
                f"{port.listener_port}/UDP in the gateway",
                hints=["choose another gateway port for one of them"],
            )
        seen[port.listener_port] = port
        bindable_port(port.gateway_port, gateway, mode)


def check_length(spec: ExposureSpec) -> None:
    """Reject a spec that could not be read again.

    Raises:
        UsageError: it is longer than an annotation may be.
    """
    length = len(spec.to_json())
    if length <= LONGEST_SPEC_BYTES:
        return
    if spec.routed:
        raise UsageError(
            f"the routes have {len(spec.backends)} backends at {len(spec.ports)} listeners, more "
            "than one Gateway can hold",
            hints=["move some of the listeners to another Gateway"],
        )
    raise UsageError(
        f"the settings of {len(spec.ports)} ports take {length} bytes, more than the "
        f"{LONGEST_SPEC_BYTES} that one exposure can hold",
        hints=["expose the Service several times: --name NAME -p FIRST-LAST"],
    )


def bindable_port(gateway_port: int, gateway: Gateway, mode: GatewayServiceMode) -> int:
    """The port that a gateway's Envoy binds for a gateway port.

    Raises:
        UsageError: it may bind neither the port nor its replacement, or clients could not reach
            the replacement.
    """
    bound = listener_port(gateway_port, gateway.first_bindable)
    if bound != gateway_port and mode is GatewayServiceMode.NONE:
        raise UsageError(
            f"gateway {gateway.ref} may not bind port {gateway_port} "
            f"(below {FIRST_UNPRIVILEGED_PORT})",
            hints=["use a higher port, or let a Service translate it (--gateway-service)"],
        )
    return bound
