"""The evidence about an exposure after a failed probe: the input of the rules in find_cause.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.model.deletion import is_being_deleted
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.podstatus import is_ready, phase, waiting_containers
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.proxystate import ProxyState, UdpSocket
from kubectl_istio_udp.model.service import (
    IPV4,
    IPV6,
    Endpoint,
    EndpointSlice,
    Service,
    endpoints_of,
)


@dataclass(frozen=True)
class PodState:
    """A pod of the Service or of the gateway.

    Attributes:
        name: its name.
        ready: whether its Ready condition is true.
        why: why it is not ready (`ImagePullBackOff`, `Pending`); "" if it is.
        labels: its labels.
    """

    name: str
    ready: bool
    why: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_object(cls, pod: Mapping[str, Any]) -> PodState:
        """Read a v1 Pod manifest."""
        metadata = pod["metadata"]
        ready = is_ready(pod) and not is_being_deleted(pod)
        why = "" if ready else _why_not_ready(pod)
        return cls(metadata["name"], ready, why, metadata.get("labels") or {})


def _why_not_ready(pod: Mapping[str, Any]) -> str:
    found = phase(pod)
    if found != "Terminating" and (waiting := waiting_containers(pod)):
        return str(waiting[0]["reason"])
    return "not ready" if found == "Running" else found


@dataclass(frozen=True)
class ProxyEvidence:
    """The state of one gateway pod's Envoy, from its admin interface and /proc/net.

    Attributes:
        state: its listeners, clusters and hosts.
        error: why it could not be queried; "" if it could.
        sockets: its UDP sockets; None if its image cannot read them.
        reached: whether a datagram just sent to it opened a session; None if unknown.
        dropped: datagrams that the kernel dropped at the listeners' sockets during the probe.
    """

    state: ProxyState = field(default_factory=ProxyState)
    error: str = ""
    sockets: tuple[UdpSocket, ...] | None = None
    reached: bool | None = None
    dropped: int = 0


@dataclass(frozen=True)
class Evidence:
    """An exposure and the facts that may explain why a hop does not answer.

    Attributes:
        spec: the exposure; of a Gateway's exposure only one port with one backend.
        service, slices: its current Service and EndpointSlices.
        pods: the pods that the Service selects; None if it has no selector, or if they could not
            be read.
        gateway_pods: the gateway's pods, ready or not.
        proxies: the gateway pods' Envoys, by pod name.
        entries: manifests of the exposure's ServiceEntries.
        envoy_filter: the manifest of its EnvoyFilter.
        front: the manifest of the Service in front of the gateway.
        declared: whether the controller keeps the exposure, as an annotated Service or a Gateway
            requests it.
        missing: the exposure's missing objects.
        refused: endpoints that the gateway does not send to, with the reason; they are not in
            `slices`.
        same_host: another ServiceEntry with the exposure's host, as `namespace/name`.
        probe_bytes: the length of the sent datagram; None if unknown.
        answer_bytes: the length of a pod's longest answer; None without one.
        families: the gateway's address families, the preferred one first.
        policies: NetworkPolicies that select the Service's or the gateway's pods, as
            `namespace/name`; None where they could not be read.
    """

    spec: ExposureSpec
    service: Service
    slices: tuple[EndpointSlice, ...] = ()
    pods: tuple[PodState, ...] | None = None
    gateway_pods: tuple[PodState, ...] = ()
    proxies: Mapping[str, ProxyEvidence] = field(default_factory=dict)
    entries: tuple[Mapping[str, Any], ...] = ()
    envoy_filter: Mapping[str, Any] | None = None
    front: Mapping[str, Any] | None = None
    declared: bool = False
    missing: Sequence[str] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    same_host: str = ""
    probe_bytes: int | None = None
    answer_bytes: int | None = None
    families: tuple[str, ...] = (IPV4, IPV6)
    policies: tuple[str, ...] | None = None

    @property
    def ready_gateway_pods(self) -> tuple[str, tuple[str, ...]]:
        """The namespace and the names of the gateway's ready pods."""
        names = tuple(pod.name for pod in self.gateway_pods if pod.ready)
        return self.spec.gateway.namespace, names

    def ready(self, port: ExposedPort) -> tuple[Endpoint, ...]:
        """The ready endpoints of a port, by the current name of the Service's port."""
        named = [p for p in self.service.udp_ports if p.port == port.service_port]
        if not named:
            return ()
        found = endpoints_of(self.slices, named[0].name, self.families)
        return tuple(endpoint for endpoint in found if endpoint.ready)

    def addresses(self, port: ExposedPort) -> frozenset[str]:
        """Their addresses with ports, `10.0.0.1:53`."""
        return frozenset(f"{endpoint.address}:{endpoint.port}" for endpoint in self.ready(port))

    def proxy(self, pod: str) -> ProxyEvidence:
        """The evidence about a gateway pod's Envoy."""
        return self.proxies.get(pod, ProxyEvidence(error="it was not queried"))

    def hosts(self, pod: str, port: ExposedPort) -> frozenset[str]:
        """The addresses to which a gateway pod sends a port's datagrams."""
        return self.proxy(pod).state.hosts.get(self.cluster(port), frozenset())

    def cluster(self, port: ExposedPort) -> str:
        """The name of the cluster of a port's only backend."""
        return self.spec.cluster_name(port, port.backends[0])
