"""Plan the exposure of a Gateway: a port for each UDP listener, with its route's backends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from kubectl_istio_udp.model.entries import Entry
from kubectl_istio_udp.model.exposure import (
    Discovery,
    Endpoints,
    Exposure,
    ExposureSpec,
    Options,
    PortOptions,
)
from kubectl_istio_udp.model.ports import Backend, ExposedPort, listener_port
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.service import Service, ServicePort
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.plan.exposure import (
    ServiceState,
    check_length,
    check_listener_ports,
    port_endpoints,
    service_entries,
    with_sessions,
)
from kubectl_istio_udp.plan.sessions import SessionRoom
from kubectl_istio_udp.plan.shares import with_kept_shares
from kubectl_istio_udp.sources.routes import Backends, WeightedBackend

NO_OPTIONS: Mapping[int, Options] = MappingProxyType({})
States = Mapping[tuple[str, str], ServiceState]
# By Service: its addresses that may not be endpoints, each with the reason.
RefusedEndpoints = Mapping[tuple[str, str], Mapping[str, str]]


@dataclass(frozen=True)
class RoutePlan:
    """The next change of a Gateway's exposure.

    Attributes:
        exposure: the exposure after it.
        complete: whether no further change is needed.
        refused: by Service, its addresses that may not be endpoints, each with the reason.
    """

    exposure: Exposure
    complete: bool
    refused: RefusedEndpoints = field(default_factory=dict)


def plan_routes(
    request: ExposeRequest,
    ports: Sequence[tuple[int, Backends]],
    states: States,
    snapshot: Snapshot,
    room: SessionRoom | None,
    options: Mapping[int, Options] = NO_OPTIONS,
) -> RoutePlan:
    """Decide the ports, endpoints and sessions of a Gateway's exposure.

    Args:
        request: the Gateway's request.
        ports: the port of each listener, and its route's backends.
        states: the backends' Services, by (namespace, name); also those of the exposure as it is,
            if they may still be used.
        snapshot: the gateway and its state.
        room: the limits on sessions; None if the request has a number of sessions.
        options: the settings of ports whose routes have other settings than the Gateway.

    Raises:
        UsageError: the gateway may bind neither a port nor its replacement, or there are more
            backends than one exposure can have.
    """
    gateway = snapshot.gateway
    wanted = tuple(
        ExposedPort(
            gateway_port=number,
            listener_port=listener_port(number, gateway.first_bindable),
            backends=tuple(_backend(each, states) for each in found.backends),
            dropped=found.dropped,
        )
        for number, found in ports
    )
    check_listener_ports(wanted, gateway, request.options.gateway_service)
    clusters = sum(len(port.backends) for port in wanted)
    before = {port.gateway_port: port for port in snapshot.before.ports} if snapshot.before else {}
    steps = [(_next_step(port, before.get(port.gateway_port), states), port) for port in wanted]
    exposed = tuple(_with_shares(port, before.get(port.gateway_port)) for port, _ in steps)
    shared = with_sessions(request, snapshot, room, max(1, clusters))
    spec = ExposureSpec(
        namespace=request.namespace,
        name=request.exposure_name,
        service="",
        ports=exposed,
        gateway=gateway.ref,
        discovery=Discovery.ENDPOINTS,
        options=shared,
        port_options=_port_options(exposed, shared, options),
    )
    # There may be thousands of endpoints, so a request that is refused anyway ends here.
    check_length(spec)
    endpoints: Endpoints = {
        backend.key: port_endpoints(_port(state.service, backend.port), state, snapshot)
        for backend, state in _with_states(spec, states)
    }
    spec = replace(spec, entries=_entries(spec, states, endpoints, snapshot))
    check_length(spec)
    exposure = Exposure(
        spec=spec,
        families=gateway.families,
        endpoints=endpoints,
        gateway_service=gateway.service,
    )
    return RoutePlan(
        exposure,
        complete=all(step == port for step, port in steps),
        refused=refused_endpoints(states[of] for of in spec.services),
    )


def refused_endpoints(states: Iterable[ServiceState]) -> RefusedEndpoints:
    """The addresses of Services that may not be endpoints: see `RoutePlan`."""
    found = {state.of: state.rules.objections(state.slices) for state in states if state.of}
    return {of: refused for of, refused in found.items() if refused}


def still_requested(
    held: ExposureSpec, requested: Mapping[int, Backends]
) -> tuple[tuple[int, Backends], ...] | None:
    """The ports and backends of a Gateway's exposure that it still requests.

    Weights stay as they are; the share of a backend that is no longer requested is dropped.

    Args:
        held: the exposure as it is.
        requested: the backends that the Gateway's routes request now, by gateway port.

    Returns:
        Each port with its backends; None if all that it has is still requested.
    """
    found: list[tuple[int, Backends]] = []
    less = False
    for port in held.ports:
        if port.gateway_port not in requested:
            less = True
            continue
        wanted = {(each.service, each.port) for each in requested[port.gateway_port].backends}
        kept = [(each.service, each) for each in port.backends if each.key in wanted]
        less = less or len(kept) < len(port.backends)
        lost = sum(each.weight for each in port.backends if each.key not in wanted)
        backends = (WeightedBackend(of, each.port, each.weight) for of, each in kept if of)
        found.append((port.gateway_port, Backends(tuple(backends), port.dropped + lost)))
    return tuple(found) if less else None


def _with_shares(port: ExposedPort, before: ExposedPort | None) -> ExposedPort:
    return with_kept_shares(port, before) if before else port


def _port_options(
    ports: Sequence[ExposedPort], shared: Options, options: Mapping[int, Options]
) -> tuple[PortOptions, ...]:
    """The settings of ports that differ from the shared ones."""
    found = [
        PortOptions(
            port.gateway_port,
            replace(
                options[port.gateway_port],
                max_sessions=shared.max_sessions,
                gateway_service=shared.gateway_service,
            ),
        )
        for port in ports
        if port.gateway_port in options
    ]
    return tuple(each for each in found if each.options != shared)


def _next_step(wanted: ExposedPort, before: ExposedPort | None, states: States) -> ExposedPort:
    """The port after the next change of the gateway.

    Envoy gets clusters before listeners. A listener that sends to a missing cluster loses datagrams
    until it changes too (docs/measurements.md). So a cluster is added one change before its
    clients, and removed one change after them.
    """
    if before is None or not any(backend.weight for backend in before.backends):
        return wanted
    existing = {backend.key for backend in before.backends}
    new = [replace(each, weight=0) for each in wanted.backends if each.key not in existing]
    if new:
        now = {each.key: each for each in wanted.backends}
        kept = [each for each in before.backends if _is_there(each, states)]
        lost = sum(each.weight for each in before.backends if each not in kept)
        as_before = (replace(now.get(each.key, each), weight=each.weight) for each in kept)
        return replace(wanted, backends=(*as_before, *new), dropped=before.dropped + lost)
    stay = {backend.key for backend in wanted.backends}
    retired = [
        replace(each, weight=0)
        for each in before.backends
        if each.weight and each.key not in stay and _is_there(each, states)
    ]
    return replace(wanted, backends=(*wanted.backends, *retired))


def _is_there(backend: Backend, states: States) -> bool:
    state = states.get(backend.service) if backend.service else None
    ports = state.service.udp_ports if state else ()
    return any(port.port == backend.port for port in ports)


def _backend(found: WeightedBackend, states: States) -> Backend:
    port = _port(states[found.service].service, found.port)
    fixed = port.target_port if isinstance(port.target_port, int) else None
    return Backend(found.port, port.name, fixed, weight=found.weight, service=found.service)


def _port(service: Service, number: int) -> ServicePort:
    return next(port for port in service.udp_ports if port.port == number)


def _with_states(spec: ExposureSpec, states: States) -> Iterator[tuple[Backend, ServiceState]]:
    for backend in spec.backends:
        if backend.service is not None:
            yield backend, states[backend.service]


def _entries(
    spec: ExposureSpec, states: States, endpoints: Endpoints, snapshot: Snapshot
) -> tuple[Entry, ...]:
    """The ServiceEntries of each Service."""
    planned: tuple[Entry, ...] = ()
    for of in dict.fromkeys(state.of for _, state in _with_states(spec, states)):
        assert of is not None
        of_service = {
            number: each for (service, number), each in endpoints.items() if service == of
        }
        planned += service_entries(spec, snapshot, states[of], of_service, planned)
    return planned
