"""Rules about the gateway itself: its version, its pods, its network."""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_istio_udp.checks.findings import Finding, Value
from kubectl_istio_udp.checks.refs import (
    PROXY_IMAGE,
    READY,
    gateway_ref,
    gateway_service_ref,
    owner_ref,
)
from kubectl_istio_udp.checks.rules import rule
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Exposure,
)
from kubectl_istio_udp.model.mesh import show_version
from kubectl_istio_udp.model.snapshot import Snapshot

# The first Istio with Envoy 1.23, whose UDP proxy has a matcher and a log (its release notes).
_FIRST_ISTIO = (1, 15)


@rule("U107", reads=("gateway",))
def old_gateway(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The gateway's Envoy is too old for the rendered configuration."""
    istio = snapshot.gateway.istio
    if istio is not None and istio < _FIRST_ISTIO:
        yield Finding(
            "U107",
            gateway_ref(snapshot.gateway.ref),
            PROXY_IMAGE,
            {"istio": show_version(istio), "needed": show_version(_FIRST_ISTIO)},
        )


@rule("U203", reads=("gateway",))
def no_ready_gateway(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """No gateway pod is ready, so the configuration cannot be confirmed."""
    if not snapshot.gateway.ready_pods:
        yield Finding("U203", gateway_ref(snapshot.gateway.ref), READY)


@rule("U305", reads=("gateway",))
def on_host_network(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The gateway's listeners use the network of its nodes."""
    if not snapshot.gateway.host_network:
        return
    values: dict[str, Value] = {
        "ports": tuple(f"{port.listener_port}/UDP" for port in exposure.spec.ports)
    }
    translated = [p for p in exposure.spec.ports if p.listener_port != p.gateway_port]
    if translated:
        values["gateway_port"] = translated[0].gateway_port
    case = "translated" if translated else ""
    yield Finding("U305", gateway_ref(snapshot.gateway.ref), "spec.hostNetwork", values, case)


@rule("U306", reads=("exposures", "service"))
def who_the_client_is(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """Servers see the gateway's address, not the client's; printed for a new exposure."""
    if any(before.key == exposure.spec.key for before in snapshot.exposures):
        return
    yield Finding("U306", owner_ref("Service", str(snapshot.service)))


@rule("U307", reads=("gateway",))
def affinity_to_nodes(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """With externalTrafficPolicy Cluster source-ip affinity applies to nodes, not clients."""
    if exposure.spec.options.affinity is not Affinity.SOURCE_IP:
        return
    service = (exposure.gateway_service or {}).get("spec") or {}
    outside = service.get("type") in ("LoadBalancer", "NodePort")
    if outside and service.get("externalTrafficPolicy") != "Local":
        yield Finding(
            "U307",
            gateway_service_ref(snapshot.gateway),
            "spec.externalTrafficPolicy",
        )
