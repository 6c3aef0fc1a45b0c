"""Rules about the Service in front of the gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kubectl_istio_udp.model.client_service import (
    ServiceProblem,
    port_problem,
    selector_problem,
    selects_others,
)
from kubectl_istio_udp.model.deletion import deletion_text, is_being_deleted
from kubectl_istio_udp.model.exposure import GatewayServiceMode
from kubectl_istio_udp.model.pending_loadbalancer import is_pending, pending_remedy, pending_text
from kubectl_istio_udp.verify.cause import Cause, name_of, run_again
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
    nobody = evidence.gateway_pods and not any(
        selector.items() <= pod.labels.items() for pod in evidence.gateway_pods
    )
    found = selector_problem(evidence.front, evidence.spec)
    if found is None and selector and nobody:
        found = selects_others(evidence.front)
    return _cause(evidence, found)


def front_ports(evidence: Evidence) -> Cause | None:
    """The Service for clients lacks a port of the exposure, or sends it to another port."""
    if evidence.front is None:
        return None
    return _cause(evidence, port_problem(evidence.front, evidence.spec))


def _cause(evidence: Evidence, found: ServiceProblem | None) -> Cause | None:
    remedy = run_again(evidence, "--force-conflicts")
    return Cause(found.reason, found.text, remedy) if found else None


def front_name(evidence: Evidence) -> str:
    """`Service namespace/name` of the Service for clients."""
    return f"Service {name_of(evidence.front)}"
