"""The hops of a response, and why a hop does not answer as expected."""

from __future__ import annotations

from collections.abc import Sequence

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.http_routing import Server, servers_from
from kubectl_istio_udp.model.logscope import proxy_of
from kubectl_istio_udp.model.response import ResponseSpec
from kubectl_istio_udp.model.service import IPV4, IPV6, endpoints_of
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.gateways import find_gateway
from kubectl_istio_udp.state.services import service_slices
from kubectl_istio_udp.verify.toolpod import ToolPod

_HTTP_PORT = 80
# Names that do not exist represent "any host" (RFC 2606).
_ANY_LABEL, _ANY_HOST = "any", "any.invalid"
_HAS_ROUTE = (
    "has the route of this response, so something else decides about the request: "
    "kubectl get authorizationpolicies,envoyfilters,virtualservices -A"
)


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


def http_servers(api: Api, spec: ResponseSpec) -> tuple[Server, ...]:
    """The servers on the response's port of the Istio Gateways that it uses.

    Empty inside the mesh, and for a Gateway of its own, which accepts the response's hosts.
    """
    if spec.gateway is None or not spec.servers:
        return ()
    found = [api.find("Gateway", *name.split("/", 1)) for name in spec.servers]
    servers = servers_from([each for each in found if each], _gateway(api, spec))
    return tuple(each for each in servers if each.http and each.port == spec.gateway_port)


def host_to_request(host: str, spec: ResponseSpec, servers: Sequence[Server]) -> str:
    """A host that a response's host matches and that one of the port's servers accepts.

    A response for `*` answers only for the hosts of the Istio Gateways.
    """
    accepted = sorted({one for each in servers for one in each.taken(host, spec.namespace)})
    return _concrete(host if host in accepted else next(iter(accepted), host))


def _concrete(host: str) -> str:
    """A host that matches a pattern; for `*.example.com` one that does not exist."""
    if host == "*":
        return _ANY_HOST
    return host.replace("*", _ANY_LABEL, 1)


def why_not_answered(api: Api, spec: ResponseSpec, hop: Hop, servers: Sequence[Server]) -> str:
    """Why a gateway pod does not send the response; "" for other hops and if it is not known.

    Args:
        api: the cluster.
        spec: the response.
        hop: the gateway pod.
        servers: from `http_servers`.
    """
    if spec.gateway is None or hop.via is not Via.GATEWAY:
        return ""
    for host in spec.answer.hosts if spec.servers else ():
        if not any(each.admits(host, spec.namespace) for each in servers):
            return f"no Istio Gateway on port {spec.gateway_port} accepts {host} any more"
    try:
        routes = proxies.routes(api, spec.gateway.namespace, hop.name, spec.object_name)
    except ClusterError as error:
        return error.message
    if routes:
        return f"{hop.name} {_HAS_ROUTE}"
    return f"{hop.name} does not have the route of this response"
