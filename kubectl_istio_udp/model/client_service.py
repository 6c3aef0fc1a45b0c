"""Whether the Service for clients leads to an exposure, by its selector and its ports. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model.exposure import ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.names import namespaced_name


@dataclass(frozen=True)
class ServiceProblem:
    """Why clients do not reach an exposure by its Service.

    Attributes:
        reason: one word for programs.
        text: a clause for users.
    """

    reason: str
    text: str


def selector_problem(service: Mapping[str, Any], spec: ExposureSpec) -> ServiceProblem | None:
    """The problem of a companion that selects other pods than the gateway's; None for others."""
    selector = service["spec"].get("selector") or {}
    companion = spec.options.gateway_service is GatewayServiceMode.COMPANION
    if not companion or selector == dict(spec.gateway.selector):
        return None
    return selects_others(service)


def selects_others(service: Mapping[str, Any]) -> ServiceProblem:
    """The problem of a Service that selects other pods than the gateway's."""
    selector = service["spec"].get("selector") or {}
    labels = ",".join(f"{key}={value}" for key, value in sorted(selector.items())) or "no label"
    return ServiceProblem(
        "FrontServiceSelector",
        f"{_name(service)} selects {labels}, which is not the gateway's selector",
    )


def port_problem(service: Mapping[str, Any], spec: ExposureSpec) -> ServiceProblem | None:
    """The Service lacks a port of the exposure, or sends it to another port; None if not."""
    leads = {
        entry["port"]: entry.get("targetPort", entry["port"])
        for entry in service["spec"].get("ports") or ()
        if entry.get("protocol") == "UDP"
    }
    for port in spec.ports:
        target = leads.get(port.gateway_port)
        if target is None:
            text = f"{_name(service)} has no port {port.gateway_port}/UDP"
            return ServiceProblem("FrontServicePort", text)
        if target != port.listener_port:
            where = f"port {port.gateway_port} of {_name(service)}"
            text = f"{where} leads to {target}, not {port.listener_port}"
            return ServiceProblem("FrontServiceTarget", text)
    return None


def _name(service: Mapping[str, Any]) -> str:
    return f"Service {'/'.join(namespaced_name(service))}"
