"""The ServiceEntry that makes istiod publish a Service's UDP endpoints (EDS) to the gateway.

istiod serves no endpoints for UDP ports, so the entry says TCP: the protocol only decides that
istiod keeps the list, and the list is all that the exposure's own cluster takes from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kubectl_istio_udp.model.entries import Entry
from kubectl_istio_udp.model.exposure import Discovery, Exposure
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.resources import RESOURCES
from kubectl_istio_udp.render.metadata import metadata


def service_entries(exposure: Exposure) -> tuple[dict[str, Any], ...]:
    """The manifests of the exposure's ServiceEntries."""
    return tuple(_service_entry(exposure, entry) for entry in exposure.spec.entries)


def _service_entry(exposure: Exposure, entry: Entry) -> dict[str, Any]:
    spec, ports = exposure.spec, exposure.spec.entry_ports(entry)
    same_namespace = entry.namespace == spec.gateway.namespace
    body: dict[str, Any] = {
        "hosts": [entry.host],
        "exportTo": ["." if same_namespace else spec.gateway.namespace],
        "location": "MESH_INTERNAL",
        "resolution": "STATIC",
        "ports": [_port(port) for port in ports],
    }
    if entry.addresses:
        body["addresses"] = list(entry.addresses)
    if spec.discovery is Discovery.SELECTOR:
        body["workloadSelector"] = {"labels": dict(exposure.selector)}
    else:
        body["endpoints"] = _endpoints(exposure, ports)
    return {
        **RESOURCES["ServiceEntry"].type_meta,
        "metadata": {**metadata(spec, entry.namespace), "name": entry.name},
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


def _endpoints(exposure: Exposure, ports: tuple[ExposedPort, ...]) -> list[dict[str, Any]]:
    """One entry an address; one more for each further number that a port has there.

    A number is said where it is not the one that the entry gives the port anyway: a list of ten
    addresses alone costs the API server a fifth less to take (docs/measurements.md).
    """
    usual = {port.entry_port_name: port.target_port or port.service_port for port in ports}
    by_address: dict[str, dict[str, list[int]]] = {}
    for port in ports:
        for endpoint in exposure.ready_endpoints(port):
            numbers = by_address.setdefault(endpoint.address, {})
            numbers.setdefault(port.entry_port_name, []).append(endpoint.port)
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
