"""The ServiceEntry that makes istiod publish a Service's UDP endpoints (EDS) to the gateway.

istiod serves no endpoints for UDP ports, so the entry says TCP: the protocol only decides that
istiod keeps the list, and the list is all that the exposure's own cluster takes from it.
"""

from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.exposure import Discovery, Exposure
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.render.metadata import ISTIO_BETA_API, metadata


def service_entry(exposure: Exposure) -> dict[str, Any] | None:
    """The ServiceEntry manifest; None where no port needs one."""
    spec = exposure.spec
    ports = {port.service_port: port for port in spec.entry_ports}
    if not ports:
        return None
    body: dict[str, Any] = {
        "hosts": [names.entry_host(spec.namespace, spec.name)],
        "exportTo": [spec.gateway.namespace],
        "location": "MESH_INTERNAL",
        "resolution": "STATIC",
        "ports": [_port(port) for port in ports.values()],
    }
    if spec.discovery is Discovery.SELECTOR:
        body["workloadSelector"] = {"labels": dict(exposure.selector)}
    else:
        body["endpoints"] = _endpoints(exposure, list(ports.values()))
    return {
        "apiVersion": ISTIO_BETA_API,
        "kind": "ServiceEntry",
        "metadata": metadata(spec, spec.namespace),
        "spec": body,
    }


def _port(port: ExposedPort) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": port.entry_port_name,
        "number": port.service_port,
        "protocol": "TCP",
    }
    if port.target_port is not None:
        entry["targetPort"] = port.target_port
    return entry


def _endpoints(exposure: Exposure, ports: list[ExposedPort]) -> list[dict[str, Any]]:
    """One entry an address, with the number of each port there."""
    by_address: dict[str, dict[str, int]] = {}
    for port in ports:
        for endpoint in exposure.ready_endpoints(port):
            by_address.setdefault(endpoint.address, {})[port.entry_port_name] = endpoint.port
    return [
        {"address": address, "ports": numbers} for address, numbers in sorted(by_address.items())
    ]
