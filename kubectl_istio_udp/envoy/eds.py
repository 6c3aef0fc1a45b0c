"""The endpoint lists that istiod publishes (EDS) for ServiceEntries and Services. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kubectl_istio_udp.model.gateway import selects
from kubectl_istio_udp.model.podstatus import is_ready
from kubectl_istio_udp.model.service import SERVICE_LABEL, EndpointSlice, Service
from kubectl_istio_udp.state.from_manifests import namespace_of, of_kind

_ASSIGNMENT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
Address = tuple[str, int]


def published(manifests: Sequence[Mapping[str, Any]]) -> dict[str, list[Address]]:
    """All endpoint lists by name (`outbound|53||HOST`).

    Args:
        manifests: ServiceEntries, Services, Pods and EndpointSlices.
    """
    found: dict[str, list[Address]] = {}
    pods = of_kind(manifests, "Pod")
    for entry in of_kind(manifests, "ServiceEntry"):
        spec = entry["spec"]
        for host in spec["hosts"]:
            for port in spec["ports"]:
                name = f"outbound|{port['number']}||{host}"
                found[name] = sorted(_of_entry(entry, port, pods))
    slices = of_kind(manifests, "EndpointSlice")
    for manifest in of_kind(manifests, "Service"):
        service = Service.from_object(manifest)
        host = f"{service.name}.{service.namespace}.svc.cluster.local"
        for port in service.ports:
            if port.protocol == "TCP":
                of_service = [EndpointSlice.from_object(s) for s in slices if _belongs(s, service)]
                found[f"outbound|{port.port}||{host}"] = [
                    (endpoint.address, number)
                    for each in of_service
                    if (number := each.ports.get((port.name, "TCP")))
                    for endpoint in each.endpoints
                    if endpoint.ready
                ]
    return found


def _belongs(each: Mapping[str, Any], service: Service) -> bool:
    of = each["metadata"]["labels"][SERVICE_LABEL]
    return (namespace_of(each), of) == (service.namespace, service.name)


def _of_entry(
    entry: Mapping[str, Any], port: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]
) -> Iterator[Address]:
    """The endpoints of one port of a ServiceEntry: ready pods that it selects, or listed ones."""
    spec = entry["spec"]
    number = port.get("targetPort", port["number"])
    selector = (spec.get("workloadSelector") or {}).get("labels")
    if selector is None:
        for endpoint in spec.get("endpoints") or ():
            yield endpoint["address"], (endpoint.get("ports") or {}).get(port["name"], number)
        return
    for pod in pods:
        same = namespace_of(pod) == namespace_of(entry)
        if same and is_ready(pod) and selects(selector, pod["metadata"].get("labels") or {}):
            yield pod["status"]["podIP"], number


def response(name: str, addresses: Iterable[Address], version: int) -> dict[str, Any]:
    """The message with which istiod sends an endpoint list (a DiscoveryResponse)."""
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}
        for address, port in addresses
    ]
    assignment = {
        "@type": _ASSIGNMENT,
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": hosts}],
    }
    return {"version_info": str(version), "resources": [assignment]}
