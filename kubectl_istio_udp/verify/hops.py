"""Read the current hops of an exposure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.kube.client import Api, selector_of
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import GatewayPod, families_of, is_gateway_pod
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.service import IPV4, IPV6, EndpointSlice, Service, endpoints_of
from kubectl_istio_udp.state.addresses import gateway_service
from kubectl_istio_udp.state.services import read_service_objects


def service_hops(service: Service, slices: tuple[EndpointSlice, ...]) -> tuple[Hop, ...]:
    """The ready endpoints of a Service's UDP ports, as hops."""
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
        NotFound, Forbidden, Unreachable, ClusterError: errors of the API server.
    """
    service, slices = read_service_objects(api, namespace, name)
    return Service.from_object(service), slices


@dataclass(frozen=True)
class Outer:
    """The hops between clients outside and an exposure's pods.

    Attributes:
        pods: manifests of the gateway's pods, ready or not.
        front: the manifest of the Service in front of them; None if there is none.
    """

    pods: tuple[Mapping[str, Any], ...] = ()
    front: Mapping[str, Any] | None = None

    @property
    def families(self) -> tuple[str, ...]:
        """The gateway's address families, the preferred one first; both if they are unknown."""
        pods = tuple(map(GatewayPod.from_object, self.pods))
        return families_of(pods) or (IPV4, IPV6)

    def hops(self, spec: ExposureSpec) -> tuple[Hop, ...]:
        """All ready gateway pods, then the Service in front, for each of the exposure's ports."""
        ready = [pod for pod in map(GatewayPod.from_object, self.pods) if pod.ready and pod.ips]
        hops = [
            Hop(Via.GATEWAY, pod.name, pod.ips[0], port.listener_port, port.service_port)
            for port in spec.ports
            for pod in sorted(ready, key=lambda pod: pod.name)
        ]
        address = self.front["spec"].get("clusterIP") if self.front else None
        if self.front and address and address != "None":
            name = self.front["metadata"]["name"]
            hops += [
                Hop(Via.SERVICE, name, address, port.gateway_port, port.service_port)
                for port in spec.ports
            ]
        return tuple(hops)


def read_outer(api: Api, spec: ExposureSpec) -> Outer:
    """The gateway's pods, and the Service in front of them.

    Raises:
        Forbidden, Unreachable, ClusterError: errors of the API server.
    """
    pods, front = in_parallel(
        [
            lambda: api.list("Pod", spec.gateway.namespace, selector_of(spec.gateway.selector)),
            lambda: gateway_service(api, spec),
        ]
    )
    return Outer(tuple(pod for pod in pods if is_gateway_pod(pod)), front)
