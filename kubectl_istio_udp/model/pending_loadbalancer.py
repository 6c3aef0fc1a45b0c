"""Services of type LoadBalancer without an address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kubectl_istio_udp.model.annotation_values import some
from kubectl_istio_udp.model.names import MANAGED_BY_LABEL, MANAGER

Manifest = Mapping[str, Any]


def is_pending(service: Manifest) -> bool:
    """Whether a Service waits for a load balancer and clients outside have no other address.

    `externalIPs` work without a load balancer.
    """
    spec = service.get("spec") or {}
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    has_address = any(entry.get("ip") or entry.get("hostname") for entry in ingress)
    return spec.get("type") == "LoadBalancer" and not has_address and not spec.get("externalIPs")


def newest_warning(events: Iterable[Manifest]) -> str:
    """The newest warning among Events, as `SyncLoadBalancerFailed: message`; "" for none."""
    warnings = [event for event in events if event.get("type") == "Warning"]
    if not warnings:
        return ""
    newest = max(warnings, key=_moment)
    message = " ".join(str(newest.get("message") or newest.get("note") or "").split())
    return f"{newest.get('reason') or 'Warning'}: {message}" if message else ""


def _moment(event: Manifest) -> str:
    """When an Event was last seen, in RFC 3339 (so the texts sort by time).

    A repeated Event has `series` or `lastTimestamp`; one written through events.k8s.io has only
    `eventTime`.
    """
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    created = event["metadata"].get("creationTimestamp")
    return str(next(filter(None, (*times, created)), ""))


def pending_text(service: Manifest, why: str) -> str:
    """The message that a load balancer has no address, with the reason if it is known."""
    metadata = service["metadata"]
    return (
        f"the load balancer of Service {metadata['namespace']}/{metadata['name']} has no address "
        f"yet{f' ({why})' if why else ''}"
    )


def pending_remedy(service: Manifest, why: str) -> str:
    """What the user can do about a load balancer without an address.

    Args:
        service: the Service.
        why: the reason; "" if none is known, so that the address may still be assigned.
    """
    metadata, spec = service["metadata"], service["spec"]
    node_ports = [
        port["nodePort"]
        for port in spec.get("ports") or ()
        if port.get("nodePort") and port.get("protocol") == "UDP"
    ]
    which = f"-n {metadata['namespace']} {metadata['name']}"
    look = f"kubectl describe service {which}" if why else f"kubectl get service {which} -w"
    steps = [look, _another_way(service)]
    if node_ports:
        steps.append(f"meanwhile clients can use {port_list(node_ports)} of any node")
    return "; ".join(steps)


def _another_way(service: Manifest) -> str:
    """The alternative if this Service never gets an address: a companion or a patched Service."""
    if (service["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) == MANAGER:
        return (
            "if it never gets one, use --gateway-service patch if the gateway's own Service has "
            "an address, otherwise --gateway-service none"
        )
    return (
        "if its load balancer cannot have TCP and UDP ports, use --gateway-service companion; "
        "if it never had an address, use --gateway-service none"
    )


def port_list(ports: Sequence[int]) -> str:
    """UDP ports as text: `port 30053/UDP`, or `ports 30053, 31211, 30009 and 2 more (UDP)`."""
    return f"port {ports[0]}/UDP" if len(ports) == 1 else f"ports {some(ports)} (UDP)"
