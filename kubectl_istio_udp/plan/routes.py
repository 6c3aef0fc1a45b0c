"""Plan the exposure of a Gateway: a port for each UDP listener, with its route's backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from kubectl_istio_udp.model.entries import Entry
from kubectl_istio_udp.model.exposure import Discovery, Endpoints, Exposure, ExposureSpec
from kubectl_istio_udp.model.ports import Backend, ExposedPort, listener_port
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.service import Service, ServicePort
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.plan.exposure import (
    ServiceState,
    check_listener_ports,
    port_endpoints,
    service_entries,
    with_sessions,
)
from kubectl_istio_udp.plan.sessions import SessionRoom
from kubectl_istio_udp.sources.routes import Backends, WeightedBackend

States = Mapping[tuple[str, str], ServiceState]


def plan_routes(
    request: ExposeRequest,
    ports: Sequence[tuple[int, Backends]],
    states: States,
    snapshot: Snapshot,
    room: SessionRoom,
) -> Exposure:
    """Decide the ports, endpoints and sessions of a Gateway's exposure.

    Args:
        request: the Gateway's request.
        ports: the port of each listener, and its route's backends.
        states: the backends' Services, by (namespace, name).
        snapshot: the gateway and its state.
        room: the limits on sessions.

    Raises:
        UsageError: the gateway may bind neither a port nor its replacement.
    """
    gateway = snapshot.gateway
    exposed = tuple(
        ExposedPort(
            gateway_port=number,
            listener_port=listener_port(number, gateway.first_bindable),
            backends=tuple(_backend(each, states) for each in found.backends),
            dropped=found.dropped,
        )
        for number, found in ports
    )
    check_listener_ports(exposed, gateway, request.options.gateway_service)
    clusters = sum(len(port.backends) for port in exposed)
    spec = ExposureSpec(
        namespace=request.namespace,
        name=request.exposure_name,
        service="",
        ports=exposed,
        gateway=gateway.ref,
        discovery=Discovery.ENDPOINTS,
        options=with_sessions(request, snapshot, room, max(1, clusters)),
    )
    endpoints: Endpoints = {
        backend.key: port_endpoints(_port(state.service, backend.port), state, snapshot)
        for backend, state in _with_states(spec, states)
    }
    return Exposure(
        spec=replace(spec, entries=_entries(spec, states, endpoints, snapshot)),
        families=gateway.families,
        endpoints=endpoints,
        gateway_service=gateway.service,
    )


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
        mine = {number: each for (service, number), each in endpoints.items() if service == of}
        planned += service_entries(spec, snapshot, states[of], mine, planned)
    return planned
