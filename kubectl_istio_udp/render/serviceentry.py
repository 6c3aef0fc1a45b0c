"""The ServiceEntry that makes istiod publish a Service's UDP endpoints (EDS) to the gateway.

istiod does not publish endpoints for UDP ports, so the entry says TCP. The exposure's cluster only
uses the endpoint list, to which the protocol does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kubectl_istio_udp.model.entries import Entry
from kubectl_istio_udp.model.exposure import Discovery, Exposure
from kubectl_istio_udp.model.ports import Backend
from kubectl_istio_udp.model.resources import RESOURCES
from kubectl_istio_udp.render.metadata import metadata


def service_entries(exposure: Exposure) -> tuple[dict[str, Any], ...]:
    """The manifests of the exposure's ServiceEntries."""
    return tuple(service_entry(exposure, entry) for entry in exposure.spec.entries)


def service_entry(exposure: Exposure, entry: Entry) -> dict[str, Any]:
    """The manifest of one of the exposure's ServiceEntries."""
    spec, backends = exposure.spec, exposure.spec.entry_backends(entry)
    same_namespace = entry.namespace == spec.gateway.namespace
    body: dict[str, Any] = {
        "hosts": [entry.host],
        "exportTo": ["." if same_namespace else spec.gateway.namespace],
        "location": "MESH_INTERNAL",
        "resolution": "STATIC",
        "ports": [_port(backend) for backend in backends],
    }
    if entry.addresses:
        body["addresses"] = list(entry.addresses)
    if spec.discovery is Discovery.SELECTOR:
        body["workloadSelector"] = {"labels": dict(exposure.selector)}
    else:
        body["endpoints"] = _endpoints(exposure, backends)
    return {
        **RESOURCES["ServiceEntry"].type_meta,
        "metadata": {**metadata(spec, entry.namespace), "name": entry.name},
        "spec": body,
    }


def _port(backend: Backend) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": backend.entry_port_name,
        "number": backend.port,
        "protocol": "TCP",
    }
    if backend.target_port is not None:
        entry["targetPort"] = backend.target_port
    return entry


def _endpoints(exposure: Exposure, backends: tuple[Backend, ...]) -> list[dict[str, Any]]:
    """One entry per address, and one more for each further number that a port has there.

    A number is only included if it differs from the entry's port: omitting it from ten addresses
    saves the API server a fifth of the cost (docs/measurements.md).
    """
    usual = {backend.entry_port_name: backend.target_port or backend.port for backend in backends}
    by_address: dict[str, dict[str, list[int]]] = {}
    for backend in backends:
        for endpoint in exposure.ready_endpoints(backend):
            numbers = by_address.setdefault(endpoint.address, {})
            numbers.setdefault(backend.entry_port_name, []).append(endpoint.port)
    found = []
    for address, numbers in sorted(by_address.items()):
        for row in range(max(map(len, numbers.values()))):
            here = {name: each[min(row, len(each) - 1)] for name, each in numbers.items()}
            unusual = {name: number for name, number in here.items() if number != usual[name]}
            found.append({"address": address, **({"ports": unusual} if unusual else {})})
    return found


def listed_addresses(manifests: Iterable[Mapping[str, Any]]) -> set[str]:
    """The addresses that ServiceEntry manifests list as endpoints."""
    return {
        endpoint["address"]
        for manifest in manifests
        for endpoint in manifest["spec"].get("endpoints") or ()
        if "address" in endpoint
    }
