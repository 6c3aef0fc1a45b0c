"""What the caches keep of each watched object: the parts that decisions need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.deletion import is_being_deleted
from kubectl_istio_udp.model.endpointrules import API_SERVER_SERVICE, canonical
from kubectl_istio_udp.model.entries import EntrySummary
from kubectl_istio_udp.model.gateway import is_gateway_pod, selects
from kubectl_istio_udp.model.mesh import REVISION_LABEL
from kubectl_istio_udp.model.service import SERVICE_LABEL, Pod
from kubectl_istio_udp.sources.permission import LONGEST_SETTING, is_setting
from kubectl_istio_udp.state.mesh import ISTIOD_LABEL
from kubectl_istio_udp.state.occupancy import GatewayFilter
from kubectl_istio_udp.state.trimming import (
    HostSet,
    KeptService,
    KeptSlice,
    LabelSet,
    Packed,
    pod_labels,
    small_entry,
    small_pod,
    unpacked,
)

Manifest = Mapping[str, Any]

_METADATA = (
    *("name", "namespace", "uid", "labels", "annotations"),
    *("creationTimestamp", "deletionTimestamp"),
)
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True)
class KeptNamespace:
    """A Namespace: its annotations for the plugin, whether it is being deleted, and its labels."""

    annotations: Mapping[str, str]
    leaving: bool
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KeptPod:
    """A pod that is not a gateway's: its labels, and what exposing it needs.

    An istiod's also has the parts of its manifest that concern the mesh.
    """

    labels: LabelSet
    pod: Pod
    istiod: Manifest | None = None


@dataclass(frozen=True)
class SeenEntry:
    """A ServiceEntry: a summary, and the manifest if it has the plugin's labels.

    Attributes:
        summary: the summary, without the hosts in `many`.
        kept: the manifest if it has the plugin's labels; a tenant's is compressed.
        many: its hosts with the suffix of exposures' hosts, if there are many.
    """

    summary: EntrySummary
    kept: Manifest | Packed | None
    many: HostSet | None = None

    @property
    def manifest(self) -> Manifest | None:
        """The manifest; None without the plugin's labels."""
        return unpacked(self.kept)


@dataclass(frozen=True)
class Keeper:
    """Reduces the objects of which more is kept in some namespaces.

    Attributes:
        gateway_namespaces: the namespaces with gateways.
        control_planes: the namespaces with istiods.
    """

    gateway_namespaces: frozenset[str]
    control_planes: frozenset[str]

    def service(self, manifest: Manifest) -> Manifest | KeptService:
        """A Service: near a gateway its manifest, otherwise what exposing it needs."""
        key = names.namespaced_name(manifest)
        if key == API_SERVER_SERVICE:
            return _kept(manifest)
        if key[0] in self.gateway_namespaces:
            # Only managedFields show who owns a port of the gateway's own Service (patch).
            return {**_kept(manifest, "managedFields"), "status": _addresses_status(manifest)}
        return KeptService.of(manifest)

    def pod(self, pod: Manifest) -> Manifest | KeptPod:
        """A pod: a gateway's as a manifest, others as what exposing them needs."""
        if pod["metadata"]["namespace"] in self.gateway_namespaces and is_gateway_pod(pod):
            status = pod.get("status") or {}
            ready = [c for c in status.get("conditions") or () if c["type"] == "Ready"]
            return {
                **_kept(pod, "ownerReferences"),
                "status": {
                    **{k: status[k] for k in ("phase", "podIP", "podIPs") if k in status},
                    "conditions": [{"type": c["type"], "status": c["status"]} for c in ready],
                },
            }
        kept = Pod.from_object(small_pod(pod))
        is_istiod = pod["metadata"]["namespace"] in self.control_planes and selects(
            ISTIOD_LABEL, pod["metadata"].get("labels") or {}
        )
        return KeptPod(pod_labels(pod), kept, _istiod(pod) if is_istiod else None)

    def entry(self, manifest: Manifest) -> SeenEntry:
        """A ServiceEntry."""
        whole = EntrySummary.from_object(manifest)
        summary = whole.small(self.gateway_namespaces)
        many = HostSet.of(whole.hosts) if whole.has_many_hosts else None
        if not is_managed(manifest):
            return SeenEntry(summary, None, many)
        if manifest["metadata"]["namespace"] in self.gateway_namespaces:
            return SeenEntry(summary, _kept(manifest), many)
        return SeenEntry(summary, Packed.of(_kept(small_entry(manifest))), many)


def kept_namespace(manifest: Manifest) -> KeptNamespace:
    """A Namespace."""
    notes = manifest["metadata"].get("annotations") or {}
    # One character more than allowed, so that a longer value is rejected.
    settings = {key: text[: LONGEST_SETTING + 1] for key, text in notes.items() if is_setting(key)}
    labels = manifest["metadata"].get("labels") or {}
    return KeptNamespace(settings, is_being_deleted(manifest), labels)


def kept_slice(manifest: Manifest) -> KeptSlice:
    """An EndpointSlice, which has the label of its Service."""
    return KeptSlice.of(manifest, manifest["metadata"]["labels"][SERVICE_LABEL])


def kept_filter(manifest: Manifest) -> GatewayFilter:
    """An EnvoyFilter."""
    return replace(GatewayFilter.of(manifest), manifest=_kept(manifest))


def manifest_of(kept: Manifest | KeptService | None) -> Manifest | None:
    """A Service's reduced manifest."""
    return (kept.packed.unpacked() or None) if isinstance(kept, KeptService) else kept


def tcp_ports(kept: Manifest | KeptService | None) -> int:
    """The number of a Service's TCP ports."""
    if isinstance(kept, KeptService):
        return kept.tcp_ports
    ports = (kept or {}).get("spec", {}).get("ports") or ()
    return sum(port.get("protocol", "TCP") == "TCP" for port in ports)


def running_addresses(pod: Manifest | KeptPod | None) -> set[str]:
    """The addresses of a running pod that is not a gateway's."""
    return canonical(pod.pod.addresses) if isinstance(pod, KeptPod) else set()


def labels_of(kept: KeptNamespace | None) -> Mapping[str, str] | None:
    """The labels of a Namespace; None without one."""
    return kept.labels if kept else None


def istiod_of(pod: Manifest | KeptPod | None) -> Manifest | None:
    """What is kept of an istiod pod; None for other pods."""
    return pod.istiod if isinstance(pod, KeptPod) else None


def content(service: Manifest | None) -> Any:
    """A Service without managedFields and status."""
    if service is None:
        return None
    metadata = {k: v for k, v in service["metadata"].items() if k != "managedFields"}
    return {**service, "metadata": metadata, "status": None}


def is_managed(manifest: Manifest) -> bool:
    """Whether an object has the label of the plugin's objects."""
    labels = manifest["metadata"].get("labels") or {}
    return bool(labels.get(names.MANAGED_BY_LABEL) == names.MANAGER)


def _kept(manifest: Manifest, *more: str) -> dict[str, Any]:
    """An object without status and other fields that the server sets."""
    metadata = {k: v for k, v in manifest["metadata"].items() if k in (*_METADATA, *more)}
    notes = metadata.get("annotations")
    if notes and _LAST_APPLIED in notes:
        metadata["annotations"] = {k: v for k, v in notes.items() if k != _LAST_APPLIED}
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": metadata,
        "spec": manifest.get("spec") or {},
    }


def _addresses_status(service: Manifest) -> Manifest:
    """The addresses of a Service's load balancer, from its status."""
    balancer = (service.get("status") or {}).get("loadBalancer") or {}
    return {"loadBalancer": balancer} if balancer else {}


def _istiod(pod: Manifest) -> Manifest:
    """The parts of an istiod pod that identify it and its settings."""
    revision = (pod["metadata"].get("labels") or {}).get(REVISION_LABEL)
    fields = ("name", "image", "env")
    containers = [{k: c[k] for k in fields if k in c} for c in pod["spec"]["containers"]]
    labels = {REVISION_LABEL: revision} if revision else {}
    return {"metadata": {"labels": labels}, "spec": {"containers": containers}}
