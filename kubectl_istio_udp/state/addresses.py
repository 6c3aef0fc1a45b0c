"""The addresses for clients of an exposure, from the Service in front of its gateway."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.client_service import port_problem, selector_problem
from kubectl_istio_udp.model.exposure import ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.managed_fields import is_managed
from kubectl_istio_udp.model.names import service_manager
from kubectl_istio_udp.model.pending_loadbalancer import (
    is_pending,
    pending_remedy,
    pending_text,
    port_list,
)
from kubectl_istio_udp.model.ports import ExposedPort, number_ranges
from kubectl_istio_udp.state.pending_loadbalancer import why_pending
from kubectl_istio_udp.state.pods import ready_pods


@dataclass(frozen=True)
class Addresses:
    """The addresses of an exposure, the best first.

    Attributes:
        external: addresses or names of the load balancer, or the Service's externalIPs.
        cluster_ip: the Service's cluster IP; "" if it has none.
        service: the Service's name; "" if there is none.
        node_ports: the node port by port, for NodePort and LoadBalancer Services.
        pods: the addresses of the gateway's pods, if there is no Service.
        pending: a message if the load balancer has no address yet: why, and what to do; "" if it
            has one or needs none.
        problem: why the Service does not lead to the exposure; "" if it does.
    """

    external: tuple[str, ...] = ()
    cluster_ip: str = ""
    service: str = ""
    node_ports: Mapping[int, int] | None = None
    pods: tuple[str, ...] = ()
    pending: str = ""
    problem: str = ""

    def of(self, ports: Sequence[ExposedPort]) -> tuple[str, ...]:
        """`address:port/UDP` of one or more ports, by the most widely reachable address."""
        gateway_ports = [port.gateway_port for port in ports]
        if self.external:
            return tuple(socket(a, *gateway_ports) for a in self.external)
        if self.cluster_ip:
            found = (socket(self.cluster_ip, *gateway_ports),)
            node_ports = self.node_ports or {}
            open_ports = [node_ports[number] for number in gateway_ports if number in node_ports]
            return (*found, f"any node, {port_list(open_ports)}") if open_ports else found
        return tuple(
            socket(address, *(port.listener_port for port in ports)) for address in self.pods
        )


def socket(address: str, *ports: int) -> str:
    """`10.0.0.1:53/UDP`, or `[2001:db8::1]:20000-20031/UDP`."""
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{number_ranges(ports)}/UDP"


def client_addresses(
    api: Api,
    spec: ExposureSpec,
    deadline: float = 0.0,
    service: Mapping[str, Any] | None = None,
) -> Addresses:
    """The addresses of an exposure.

    Args:
        api: the cluster.
        spec: the exposure.
        deadline: how long to wait for a load balancer (monotonic).
        service: the Service for clients if it has just been read or written; None reads it.

    Raises:
        Unreachable, ClusterError: an object cannot be read.
    """
    service = service or gateway_service(api, spec)
    while (found := addresses_of(service)).pending and time.monotonic() < deadline:
        time.sleep(api.waits.poll)
        service = gateway_service(api, spec)
    if service and found.pending:
        return addresses_of(service, why_pending(api, service))
    if service and found.service:
        problem = selector_problem(service, spec) or port_problem(service, spec)
        return replace(found, problem=problem.text if problem else "")
    pods = ready_pods(api, spec.gateway.namespace, spec.gateway.selector)
    return Addresses(pods=tuple(pod.ips[0] for pod in pods))


def gateway_service(api: Api, spec: ExposureSpec) -> Mapping[str, Any] | None:
    """The Service that clients of an exposure use; None if there is none."""
    mode, namespace = spec.options.gateway_service, spec.gateway.namespace
    if mode is GatewayServiceMode.COMPANION:
        return api.find("Service", namespace, spec.object_name)
    if mode is GatewayServiceMode.PATCH:
        manager = service_manager(*spec.key)
        return next((s for s in api.list("Service", namespace) if is_managed(s, manager)), None)
    return None


def addresses_of(service: Mapping[str, Any] | None, why: str = "") -> Addresses:
    """The addresses in a Service manifest; `why` is the reason why a load balancer has none."""
    if service is None:
        return Addresses()
    spec, metadata = service["spec"], service["metadata"]
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    external = tuple(filter(None, (i.get("ip") or i.get("hostname") for i in ingress)))
    cluster_ip = spec.get("clusterIP") or ""
    return Addresses(
        external=external or tuple(spec.get("externalIPs") or ()),
        cluster_ip="" if cluster_ip == "None" else cluster_ip,
        service=metadata["name"],
        node_ports={
            port["port"]: port["nodePort"]
            for port in spec.get("ports") or ()
            if port.get("nodePort") and port.get("protocol") == "UDP"
        },
        pending=f"{pending_text(service, why)}: {pending_remedy(service, why)}"
        if is_pending(service)
        else "",
    )
