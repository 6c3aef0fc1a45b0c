"""Rules about the Service in front of the gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kubectl_istio_udp.model.deletion import deletion_text, is_being_deleted
from kubectl_istio_udp.model.exposure import GatewayServiceMode
from kubectl_istio_udp.model.pending_loadbalancer import is_pending, pending_remedy, pending_text
from kubectl_istio_udp.verify.cause import Cause, labels_text, name_of, run_again
from kubectl_istio_udp.verify.evidence import Evidence

Manifest = Mapping[str, Any]


def no_address(evidence: Evidence, why_pending: Callable[[Manifest], str]) -> Cause | None:
    """Clients outside the cluster have no address, although every hop answers.

    Args:
        evidence: the evidence.
        why_pending: reads why a load balancer has no address; only called if it has none.
    """
    front = evidence.front
    if front is None or not is_pending(front):
        return None
    why = why_pending(front)
    return Cause(
        "NoAddress",
        f"clients outside the cluster cannot reach it: {pending_text(front, why)}",
        pending_remedy(front, why),
    )


def front_missing(evidence: Evidence) -> Cause | None:
    """The Service for clients does not exist."""
    spec = evidence.spec
    if evidence.front or spec.options.gateway_service is GatewayServiceMode.NONE:
        return None
    return Cause(
        "FrontServiceMissing",
        f"no Service leads to the gateway for {spec.name}",
        run_again(evidence),
    )


def front_leaving(evidence: Evidence) -> Cause | None:
    """The Service for clients is being deleted; it answers until its finalizers are removed."""
    if evidence.front is None or not is_being_deleted(evidence.front):
        return None
    return Cause("FrontServiceTerminating", deletion_text(evidence.front), run_again(evidence))


def front_selector(evidence: Evidence) -> Cause | None:
    """The Service for clients selects no pod of the gateway."""
    if evidence.front is None:
        return None
    selector = evidence.front["spec"].get("selector") or {}
    companion = evidence.spec.options.gateway_service is GatewayServiceMode.COMPANION
    changed = companion and selector != dict(evidence.spec.gateway.selector)
    nobody = evidence.gateway_pods and not any(
        selector.items() <= pod.labels.items() for pod in evidence.gateway_pods
    )
    if not changed and not (selector and nobody):
        return None
    return Cause(
        "FrontServiceSelector",
        f"{front_name(evidence)} selects {labels_text(selector)}, which is not the gateway's "
        "selector",
        run_again(evidence, "--force-conflicts"),
    )


def front_ports(evidence: Evidence) -> Cause | None:
    """The Service for clients lacks a port of the exposure, or sends it to another port."""
    if evidence.front is None:
        return None
    leads = {
        entry["port"]: entry.get("targetPort", entry["port"])
        for entry in evidence.front["spec"].get("ports") or ()
        if entry.get("protocol") == "UDP"
    }
    name, remedy = front_name(evidence), run_again(evidence, "--force-conflicts")
    for port in evidence.spec.ports:
        if port.gateway_port not in leads:
            text = f"{name} has no port {port.gateway_port}/UDP"
            return Cause("FrontServicePort", text, remedy)
        target = leads[port.gateway_port]
        if target != port.listener_port:
            text = f"port {port.gateway_port} of {name} leads to {target}, not {port.listener_port}"
            return Cause("FrontServiceTarget", text, remedy)
    return None


def front_name(evidence: Evidence) -> str:
    """`Service namespace/name` of the Service for clients."""
    return f"Service {name_of(evidence.front)}"
