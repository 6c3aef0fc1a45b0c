"""The hops of a response, and why a hop does not answer as expected."""

from __future__ import annotations

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.http_routing import servers_from
from kubectl_istio_udp.model.logscope import proxy_of
from kubectl_istio_udp.model.response import ResponseSpec
from kubectl_istio_udp.model.service import IPV4, IPV6, endpoints_of
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.gateways import find_gateway
from kubectl_istio_udp.state.services import service_slices
from kubectl_istio_udp.verify.toolpod import ToolPod

_HTTP_PORT = 80


def response_hops(api: Api, spec: ResponseSpec, tool: ToolPod) -> tuple[Hop, ...]:
    """All ready gateway pods, then the gateway's Service; inside the mesh the tool's sidecar.

    Raises:
        NotFound: the gateway has no pods.
        ClusterError: the tool pod has no sidecar.
    """
    if spec.gateway is None:
        return (_sidecar_hop(api, spec, tool),)
    gateway = _gateway(api, spec)
    service = gateway.service or {}
    entry = next(
        (
            port
            for port in (service.get("spec") or {}).get("ports") or ()
            if port["port"] == spec.gateway_port and port.get("protocol", "TCP") == "TCP"
        ),
        None,
    )
    if entry is None or gateway.service_name is None:
        return tuple(
            Hop(Via.GATEWAY, pod.name, pod.ips[0], spec.gateway_port, spec.gateway_port)
            for pod in gateway.ready_pods
        )
    slices = service_slices(api, gateway.ref.namespace, gateway.service_name)
    hops = [
        Hop(Via.GATEWAY, endpoint.target, endpoint.address, endpoint.port, spec.gateway_port)
        for endpoint in endpoints_of(slices, entry.get("name", ""), (IPV4, IPV6), "TCP")
        if endpoint.ready
    ]
    address = service["spec"].get("clusterIP")
    if address and address != "None":
        name = gateway.service_name
        hops.append(Hop(Via.SERVICE, name, address, spec.gateway_port, spec.gateway_port))
    return tuple(hops)


def _gateway(api: Api, spec: ResponseSpec) -> Gateway:
    assert spec.gateway is not None
    return find_gateway(api, GatewayChoice(str(spec.gateway), tuple(spec.gateway.selector.items())))


def _sidecar_hop(api: Api, spec: ResponseSpec, tool: ToolPod) -> Hop:
    if proxy_of(api.get("Pod", tool.namespace, tool.name)) is None:
        raise ClusterError(
            f"pod {tool} has no sidecar, but inside the mesh the client's sidecar answers",
            hints=[
                "create one with a sidecar for this run: --create-tool",
                "or use another pod: --tool-pod [NAMESPACE/]NAME",
            ],
        )
    host = spec.answer.hosts[0]
    port = _mesh_port(api, spec)
    return Hop(Via.SIDECAR, tool.name, host, port, port)


def _mesh_port(api: Api, spec: ResponseSpec) -> int:
    """A port of the host for which sidecars route HTTP."""
    labels = spec.answer.hosts[0].split(".")
    service = api.find("Service", labels[1], labels[0]) if len(labels) > 1 else None
    ports = ((service or {}).get("spec") or {}).get("ports") or ()
    named = [p for p in ports if p.get("name", "").startswith(("http", "grpc"))]
    usual = [p for p in ports if p.get("protocol", "TCP") == "TCP"]
    return int((named or usual or [{"port": _HTTP_PORT}])[0]["port"])


def speaks_tls(api: Api, spec: ResponseSpec) -> bool:
    """Whether the response's server on the gateway terminates TLS."""
    if spec.gateway is None or not spec.servers:
        return False
    namespace, _, name = spec.servers[0].partition("/")
    manifest = api.find("Gateway", namespace, name)
    servers = servers_from([manifest] if manifest else [], _gateway(api, spec))
    return any(server.tls for server in servers if server.port == spec.gateway_port)


def why_not_answered(api: Api, spec: ResponseSpec, hop: Hop) -> str:
    """Why a gateway pod does not send the response, from its Envoy's routes; "" for other hops."""
    if spec.gateway is None or hop.via is not Via.GATEWAY:
        return ""
    try:
        routes = proxies.routes(api, spec.gateway.namespace, hop.name, spec.object_name)
    except ClusterError as error:
        return error.message
    if routes:
        return f"{hop.name} has the route of this response, but answers differently"
    return f"{hop.name} does not have the route of this response"
