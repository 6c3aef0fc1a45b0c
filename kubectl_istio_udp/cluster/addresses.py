"""Where clients reach an exposure: the addresses of the Service in front of its gateway."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.cluster.waiting import ready_pods
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.exposure import ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.names import service_manager
from kubectl_istio_udp.model.ownership import is_managed
from kubectl_istio_udp.model.ports import ExposedPort

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Addresses:
    """The ways to an exposure, best first.

    Attributes:
        external: load balancer addresses or names.
        cluster_ip: the Service's address inside the cluster, "" where it has none.
        service: the Service's name, "" where there is none.
        node_ports: node port by port, for NodePort and LoadBalancer Services.
        pods: addresses of the gateway's pods, where no Service leads to them.
        pending: what to type to see when the load balancer has an address; "" where it has one,
            or never will.
    """

    external: tuple[str, ...] = ()
    cluster_ip: str = ""
    service: str = ""
    node_ports: Mapping[int, int] | None = None
    pods: tuple[str, ...] = ()
    pending: str = ""

    def of(self, port: ExposedPort) -> tuple[str, ...]:
        """`address:port/UDP` of one port, in the way that reaches farthest."""
        if self.external:
            return tuple(socket(a, port.gateway_port) for a in self.external)
        if self.cluster_ip:
            found = [socket(self.cluster_ip, port.gateway_port)]
            node_port = (self.node_ports or {}).get(port.gateway_port)
            return (*found, f"any node, port {node_port}/UDP") if node_port else tuple(found)
        return tuple(socket(address, port.listener_port) for address in self.pods)


def socket(address: str, port: int) -> str:
    """`10.0.0.1:53/UDP`, or `[2001:db8::1]:53/UDP`."""
    return f"[{address}]:{port}/UDP" if ":" in address else f"{address}:{port}/UDP"


def client_addresses(api: Api, spec: ExposureSpec, deadline: float = 0.0) -> Addresses:
    """The addresses of an exposure; waits for a load balancer's until `deadline` (monotonic)."""
    while True:
        found = addresses_of(gateway_service(api, spec))
        if not found.pending or time.monotonic() >= deadline:
            break
        time.sleep(_POLL_SECONDS)
    if found.service:
        return found
    pods = ready_pods(api, spec.gateway.namespace, spec.gateway.selector)
    return Addresses(pods=tuple(pod.ips[0] for pod in pods))


def gateway_service(api: Api, spec: ExposureSpec) -> Mapping[str, Any] | None:
    """The Service through which clients reach an exposure, None where there is none."""
    mode, namespace = spec.options.gateway_service, spec.gateway.namespace
    if mode is GatewayServiceMode.COMPANION:
        return api.find("Service", namespace, spec.object_name)
    if mode is GatewayServiceMode.PATCH:
        manager = service_manager(*spec.key)
        return next((s for s in api.list("Service", namespace) if is_managed(s, manager)), None)
    return None


def addresses_of(service: Mapping[str, Any] | None) -> Addresses:
    """The addresses that a Service manifest tells."""
    if service is None:
        return Addresses()
    spec, metadata = service["spec"], service["metadata"]
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    external = tuple(filter(None, (i.get("ip") or i.get("hostname") for i in ingress)))
    balanced = spec.get("type") == "LoadBalancer"
    cluster_ip = spec.get("clusterIP") or ""
    return Addresses(
        external=external,
        cluster_ip="" if cluster_ip == "None" else cluster_ip,
        service=metadata["name"],
        node_ports={
            port["port"]: port["nodePort"]
            for port in spec.get("ports") or ()
            if port.get("nodePort") and port.get("protocol") == "UDP"
        },
        pending=f"kubectl get service -n {metadata['namespace']} {metadata['name']} -w"
        if balanced and not external
        else "",
    )
