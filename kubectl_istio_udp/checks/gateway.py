"""Rules about the gateway itself: its version, its pods, its network."""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Exposure,
)
from kubectl_istio_udp.model.snapshot import Snapshot

# The first Istio with Envoy 1.23, whose UDP proxy has a matcher and a log (its release notes).
_FIRST_ISTIO = (1, 15)


def old_gateway(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U107: the gateway's Envoy is too old for the rendered configuration."""
    istio = snapshot.gateway.istio
    if istio is not None and istio < _FIRST_ISTIO:
        yield Finding(
            "U107",
            f"gateway {snapshot.gateway.ref}",
            f"gateway {snapshot.gateway.ref} runs Istio {'.'.join(map(str, istio))} and is too "
            f"old: routing UDP needs Istio {'.'.join(map(str, _FIRST_ISTIO))} or newer",
            "upgrade the gateway",
        )


def no_ready_gateway(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U203: no gateway pod is ready, so the configuration cannot be confirmed."""
    if not snapshot.gateway.ready_pods:
        yield Finding(
            "U203",
            f"gateway {snapshot.gateway.ref}",
            f"gateway {snapshot.gateway.ref} has no ready pod",
            f"see them: kubectl get pods -n {snapshot.gateway.ref.namespace}",
        )


def on_host_network(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U305: the gateway's listeners use the network of its nodes."""
    if not snapshot.gateway.host_network:
        return
    listened = ", ".join(f"{port.listener_port}/UDP" for port in exposure.spec.ports)
    translated = [p for p in exposure.spec.ports if p.listener_port != p.gateway_port]
    yield Finding(
        "U305",
        f"gateway {snapshot.gateway.ref}",
        f"gateway {snapshot.gateway.ref} uses the network of its nodes: {listened} is open on each "
        "of them"
        + (
            f"; clients that send to a node use these ports, not {translated[0].gateway_port}"
            if translated
            else ""
        ),
        "make sure that no other program on these nodes uses the ports, and restrict access by a "
        "firewall",
    )


def who_the_client_is(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U306: servers see the gateway's address; printed once, when the exposure is new."""
    if any(before.key == exposure.spec.key for before in snapshot.exposures):
        return
    yield Finding(
        "U306",
        f"Service {snapshot.service}",
        f"the pods of {snapshot.service} see the addresses of the gateway's pods instead of those "
        "of the clients, and must answer from the port that was queried",
        "what this means for DNS views, RADIUS, syslog, SIP and TFTP: docs/clients.md",
    )


def affinity_to_nodes(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U307: with externalTrafficPolicy Cluster source-ip affinity applies to nodes, not clients."""
    if exposure.spec.options.affinity is not Affinity.SOURCE_IP:
        return
    service = (exposure.gateway_service or {}).get("spec") or {}
    outside = service.get("type") in ("LoadBalancer", "NodePort")
    if outside and service.get("externalTrafficPolicy") != "Local":
        yield Finding(
            "U307",
            f"Service {snapshot.gateway.service_name}",
            f"--affinity source-ip applies to nodes instead of clients: "
            f"{snapshot.gateway.service_name} has externalTrafficPolicy Cluster, so the gateway "
            "sees the address of a node",
            "set externalTrafficPolicy: Local on that Service, then expose again",
        )
