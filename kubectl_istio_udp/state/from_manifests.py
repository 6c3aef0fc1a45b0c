"""The state of a cluster that holds given manifests. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from kubectl_istio_udp.model.gateway import gateways_from, is_gateway_pod, selects
from kubectl_istio_udp.model.podstatus import is_ready
from kubectl_istio_udp.model.service import SERVICE_LABEL, EndpointSlice, Pod, Service
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.plan.gateway import choose_gateway

Manifest = Mapping[str, Any]
_WORKLOADS = ("Deployment", "StatefulSet", "ReplicaSet", "DaemonSet")


def of_kind(manifests: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    """The manifests of some kinds."""
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def namespace_of(manifest: Manifest) -> str:
    """The namespace of an object; `default` if its manifest has none."""
    return str(manifest["metadata"].get("namespace") or "default")


def pods_from(manifests: Iterable[Manifest]) -> list[Manifest]:
    """The Pods in the manifests, and the pods that their Deployments and similar would create.

    Pods of a workload are named after it with a number: `coredns-1`.
    """
    found: list[Manifest] = []
    for manifest in of_kind(manifests, "Pod", *_WORKLOADS):
        if manifest["kind"] == "Pod":
            found.append(manifest)
            continue
        spec = manifest.get("spec") or {}
        count = 1 if manifest["kind"] == "DaemonSet" else spec.get("replicas", 1)
        name, template = manifest["metadata"]["name"], spec.get("template") or {}
        for number in range(1, count + 1):
            metadata = {
                **(template.get("metadata") or {}),
                "name": f"{name}-{number}",
                "namespace": namespace_of(manifest),
            }
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
            found.append({**pod, "spec": template.get("spec") or {}})
    return found


def running(pod: Manifest, address: str, *, ready: bool = True) -> Manifest:
    """A running Pod with an address."""
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": str(ready)}],
    }
    return {**pod, "status": status}


def selected(manifest: Manifest, pods: Iterable[Manifest]) -> list[Manifest]:
    """The Pods that a Service selects; none if it has no selector."""
    selector = (manifest.get("spec") or {}).get("selector")
    return [
        pod
        for pod in pods
        if selector
        and namespace_of(pod) == namespace_of(manifest)
        and selects(selector, pod["metadata"].get("labels") or {})
    ]


def endpoint_slices(manifest: Manifest, pods: Iterable[Manifest]) -> list[Manifest]:
    """The EndpointSlices of a Service: one for each selected pod with an address."""
    service = Service.from_object(manifest)
    return [
        _endpoint_slice(service, pod, str(pod["status"]["podIP"]))
        for pod in selected(manifest, pods)
        if (pod.get("status") or {}).get("podIP")
    ]


def _endpoint_slice(service: Service, pod: Manifest, address: str) -> Manifest:
    name = pod["metadata"]["name"]
    named = Pod.from_object(pod).ports
    ports = []
    for port in service.ports:
        target = port.target_port
        number = target if isinstance(target, int) else named.get(target)
        if number:
            ports.append({"name": port.name, "port": number, "protocol": port.protocol})
    endpoint = {
        "addresses": [address],
        "conditions": {"ready": is_ready(pod) or service.publish_not_ready},
        "targetRef": {"kind": "Pod", "name": name, "namespace": service.namespace},
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service.name}-{name}",
            "namespace": service.namespace,
            "labels": {SERVICE_LABEL: service.name},
        },
        "addressType": "IPv6" if ":" in address else "IPv4",
        "ports": ports,
        "endpoints": [endpoint],
    }


def snapshot_from(
    manifests: Sequence[Manifest],
    namespace: str,
    name: str,
    *,
    gateway: str | None = None,
    gateway_selector: Mapping[str, str] | None = None,
    gateway_namespaces: Collection[str] | None = None,
    **facts: Any,
) -> Snapshot:
    """The snapshot that `expose` would read from a cluster with these manifests.

    Args:
        manifests: Services, Pods and EndpointSlices; others are ignored.
        namespace, name: the Service.
        gateway, gateway_selector: the options --gateway and --gateway-selector.
        gateway_namespaces: the namespaces with gateways; None for Istio's defaults.
        facts: more fields of the Snapshot.

    Raises:
        NotFound, UsageError: there is no gateway, or several.
    """
    found = next(
        manifest
        for manifest in of_kind(manifests, "Service")
        if (namespace_of(manifest), manifest["metadata"]["name"]) == (namespace, name)
    )
    pods = of_kind(manifests, "Pod")
    return Snapshot(
        service=Service.from_object(found),
        slices=tuple(
            EndpointSlice.from_object(each)
            for each in of_kind(manifests, "EndpointSlice")
            if namespace_of(each) == namespace and each["metadata"]["labels"][SERVICE_LABEL] == name
        ),
        pods=tuple(Pod.from_object(pod) for pod in selected(found, pods)),
        gateway=choose_gateway(
            gateways_from(
                filter(is_gateway_pod, pods),
                of_kind(manifests, "Service"),
                dict(gateway_selector) if gateway_selector else None,
            ),
            gateway,
            selector_given=bool(gateway_selector),
            namespaces=gateway_namespaces,
        ),
        **facts,
    )
