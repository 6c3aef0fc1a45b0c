"""What was found about an exposure after a probe failed: the input of every rule in causes.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.model.exposure import ExposureSpec
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
        why: why it is not ready (`ImagePullBackOff`, `Pending`); "" where it is.
        labels: its labels.
    """

    name: str
    ready: bool
    why: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_object(cls, pod: Mapping[str, Any]) -> PodState:
        """Read a v1 Pod manifest."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        conditions = status.get("conditions") or ()
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        ready = ready and not metadata.get("deletionTimestamp")
        why = "" if ready else _why_not_ready(pod)
        return cls(metadata["name"], ready, why, metadata.get("labels") or {})


def _why_not_ready(pod: Mapping[str, Any]) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return str(waiting["reason"])
    phase = str(status.get("phase", "Unknown"))
    return "not ready" if phase == "Running" else phase


@dataclass(frozen=True)
class ProxyEvidence:
    """One gateway pod's Envoy, as its admin interface and /proc/net show it.

    Attributes:
        state: its listeners, clusters and hosts.
        error: why it could not be asked; "" where it could.
        sockets: its UDP sockets; None where its image has nothing to read them with.
        reached: whether a datagram sent to it just now opened a session; None where not known.
        dropped: datagrams that the kernel dropped at the listeners' sockets meanwhile.
    """

    state: ProxyState = field(default_factory=ProxyState)
    error: str = ""
    sockets: tuple[UdpSocket, ...] | None = None
    reached: bool | None = None
    dropped: int = 0


@dataclass(frozen=True)
class Evidence:
    """An exposure and everything around it that can explain why a hop does not answer.

    Attributes:
        spec: the exposure.
        service, slices: its Service as it is now, and the EndpointSlices.
        pods: the pods that the Service selects; None where it selects none by labels, or where
            they could not be read.
        gateway_pods: the gateway's pods, ready or not.
        proxies: the gateway pods' Envoys, by pod.
        entries: manifests of the exposure's ServiceEntries.
        envoy_filter: the manifest of its EnvoyFilter.
        front: the manifest of the Service in front of the gateway.
        missing: objects that the exposure should have and has not.
        same_host: another ServiceEntry with the exposure's host, as `namespace/name`.
        probe_bytes: the length of the datagram that was sent; None where not known.
        answer_bytes: the longest answer of a pod; None where none came.
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
    missing: Sequence[str] = ()
    same_host: str = ""
    probe_bytes: int | None = None
    answer_bytes: int | None = None
    policies: tuple[str, ...] | None = None

    def ready(self, port: ExposedPort) -> tuple[Endpoint, ...]:
        """The ready endpoints of a port, by the name that its number has in the Service now."""
        named = [p for p in self.service.udp_ports if p.port == port.service_port]
        if not named:
            return ()
        there = endpoints_of(self.slices, named[0].name, (IPV4, IPV6))
        return tuple(endpoint for endpoint in there if endpoint.ready)

    def addresses(self, port: ExposedPort) -> frozenset[str]:
        """The same as addresses with ports, `10.0.0.1:53`."""
        return frozenset(f"{endpoint.address}:{endpoint.port}" for endpoint in self.ready(port))

    def proxy(self, pod: str) -> ProxyEvidence:
        """What is known of a gateway pod's Envoy."""
        return self.proxies.get(pod, ProxyEvidence(error="it was not asked"))

    def hosts(self, pod: str, port: ExposedPort) -> frozenset[str]:
        """The addresses that a gateway pod sends a port's datagrams to."""
        return self.proxy(pod).state.hosts.get(self.spec.proxy_name(port), frozenset())
