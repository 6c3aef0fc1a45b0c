"""The hops of an exposure as they are now, and why a gateway would not answer."""

from __future__ import annotations

from collections.abc import Iterable

from kubectl_istio_udp.cluster import proxies
from kubectl_istio_udp.cluster.addresses import gateway_service
from kubectl_istio_udp.cluster.snapshot import service_slices
from kubectl_istio_udp.cluster.waiting import ready_pods
from kubectl_istio_udp.kube.client import Api, in_parallel
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.service import IPV4, IPV6, EndpointSlice, Service, endpoints_of


def service_hops(service: Service, slices: tuple[EndpointSlice, ...]) -> tuple[Hop, ...]:
    """The endpoints of a Service's UDP ports that should answer: all the ready ones."""
    if service.external_name is not None:
        return tuple(
            Hop(Via.POD, service.external_name, service.external_name, port.port, port.port)
            for port in service.udp_ports
        )
    return tuple(
        Hop(Via.POD, endpoint.target, endpoint.address, endpoint.port, port.port)
        for port in service.udp_ports
        for endpoint in endpoints_of(slices, port.name, (IPV4, IPV6))
        if endpoint.ready
    )


def read_service(api: Api, namespace: str, name: str) -> tuple[Service, tuple[EndpointSlice, ...]]:
    """A Service and its EndpointSlices.

    Raises:
        NotFound, Forbidden, Unreachable, ClusterError: as the server says.
    """
    service, slices = in_parallel(
        [
            lambda: api.get("Service", namespace, name),
            lambda: service_slices(api, namespace, name),
        ]
    )
    return Service.from_object(service), slices


def gateway_hops(api: Api, spec: ExposureSpec) -> tuple[Hop, ...]:
    """Every ready gateway pod, then the Service in front, for each of an exposure's ports."""
    pods, service = in_parallel(
        [
            lambda: ready_pods(api, spec.gateway.namespace, spec.gateway.selector),
            lambda: gateway_service(api, spec),
        ]
    )
    hops = [
        Hop(Via.GATEWAY, pod.name, pod.ips[0], port.listener_port, port.service_port)
        for port in spec.ports
        for pod in pods
    ]
    address = service["spec"].get("clusterIP") if service else None
    if service and address and address != "None":
        hops += [
            Hop(Via.SERVICE, service["metadata"]["name"], address, p.gateway_port, p.service_port)
            for p in spec.ports
        ]
    return tuple(hops)


def why_silent(api: Api, spec: ExposureSpec, hop: Hop) -> str:
    """Why a gateway pod does not answer, from what its own Envoy has.

    Returns:
        A clause such as `no listener on 5300 in istio-ingressgateway-abc`.
    """
    port = next(p for p in spec.ports if p.listener_port == hop.port)
    try:
        state = proxies.proxy_state(api, spec.gateway.namespace, hop.name, f"{spec.object_name}-")
    except ClusterError as error:
        return error.message
    return _lack(state, spec, port, hop.name)


def why_service_silent(api: Api, spec: ExposureSpec) -> str:
    """What is wrong with the Service in front of a gateway that answers; "" if nothing shows.

    Returns:
        A clause such as `port 5300 of Service istio-system/udp-a-b leads to 5301, not 5300`.
    """
    if spec.options.gateway_service is GatewayServiceMode.NONE:
        return ""
    service = gateway_service(api, spec)
    if service is None:
        return f"no Service leads to the gateway for {spec.name}"
    name = f"Service {service['metadata']['namespace']}/{service['metadata']['name']}"
    selector = service["spec"].get("selector") or {}
    companion = spec.options.gateway_service is GatewayServiceMode.COMPANION
    if companion and selector != dict(spec.gateway.selector):
        return f"the selector of {name}, {selector}, is not the gateway's"
    leads = {
        entry["port"]: entry.get("targetPort", entry["port"])
        for entry in service["spec"].get("ports") or ()
        if entry.get("protocol") == "UDP"
    }
    for port in spec.ports:
        if port.gateway_port not in leads:
            return f"{name} has no port {port.gateway_port}/UDP"
        if leads[port.gateway_port] != port.listener_port:
            target = leads[port.gateway_port]
            return f"port {port.gateway_port} of {name} leads to {target}, not {port.listener_port}"
    return ""


def stale_hosts(api: Api, spec: ExposureSpec, inner: Iterable[Hop], outer: Iterable[Hop]) -> str:
    """Where a gateway sends datagrams to addresses that are not the Service's; "" if nowhere.

    Args:
        api: the cluster.
        spec: the exposure.
        inner: the Service's ready endpoints.
        outer: the gateway's pods (other hops are passed over).
    """
    if spec.discovery is Discovery.DNS:
        return ""
    wanted: dict[int, set[str]] = {port.service_port: set() for port in spec.ports}
    for hop in inner:
        wanted[hop.service_port].add(f"{hop.address}:{hop.port}")
    for pod in sorted({hop.name for hop in outer if hop.via is Via.GATEWAY}):
        try:
            state = proxies.proxy_state(api, spec.gateway.namespace, pod, f"{spec.object_name}-")
        except ClusterError:
            continue
        for port in spec.ports:
            hosts = state.hosts.get(spec.proxy_name(port), frozenset())
            if hosts != wanted[port.service_port]:
                has = ", ".join(sorted(hosts)) or "nowhere"
                should = ", ".join(sorted(wanted[port.service_port]))
                return (
                    f"gateway {pod} sends port {port.service_port} to {has}, but Service "
                    f"{spec.service} has {should}"
                )
    return ""


def _lack(state: proxies.ProxyState, spec: ExposureSpec, port: ExposedPort, pod: str) -> str:
    name = spec.proxy_name(port)
    if name in state.refusals:
        return f"its Envoy refused listener {name}: {state.refusals[name]}"
    if name not in state.listeners:
        return f"no listener on {port.listener_port} in {pod}"
    if name not in state.clusters:
        return f"no cluster {name} in {pod}"
    if not state.hosts.get(name):
        return f"no host in cluster {name} of {pod}"
    hosts = ", ".join(sorted(state.hosts[name]))
    return (
        f"{pod} has listener and cluster with {hosts}; something between them drops datagrams, "
        "a NetworkPolicy for example"
    )
