"""Rules about the mesh: does istiod read the written objects, and follow the Service?"""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.model.exposure import (
    Exposure,
)
from kubectl_istio_udp.model.mesh import Mesh, show_version
from kubectl_istio_udp.model.snapshot import Snapshot


def namespace_not_read(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U131: istiod does not read the namespace of one of the exposure's objects."""
    places = {ref.namespace: ref.kind for ref in exposure.spec.objects if ref.kind != "Service"}
    for namespace, kind in sorted(places.items()):
        if snapshot.reads_namespace(namespace):
            continue
        yield Finding(
            "U131",
            f"Namespace {namespace}",
            f"{snapshot.mesh.control_plane} does not read namespace {namespace}, so it would "
            f"ignore {kind} {exposure.spec.object_name}: meshConfig.discoverySelectors do not "
            "select the namespace",
            "give the namespace the labels of one of the discoverySelectors"
            + (", or use --discovery static" if kind == "ServiceEntry" else ""),
        )


def selectors_ignored(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U132: istiod ignores workloadSelectors for gateways of the Gateway API."""
    if snapshot.gateway.api and not snapshot.mesh.selectors_for_gateway_api:
        yield Finding(
            "U132",
            f"gateway {snapshot.gateway.ref}",
            f"{snapshot.gateway.ref} is a gateway of the Gateway API, and "
            f"{snapshot.mesh.control_plane} ignores the workloadSelector of EnvoyFilters for these",
            "set ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY=true for istiod, or use another gateway",
        )


def changes_hidden(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U135: the gateway would not be informed when the Service's pods change."""
    if _hides_changes(exposure, snapshot) and not _exists(exposure, snapshot):
        yield Finding("U135", f"gateway {snapshot.gateway.ref}", _hidden(snapshot), _SHOW_CHANGES)


def changes_stay_hidden(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U218: like U135, but only a warning because the exposure already exists."""
    if _hides_changes(exposure, snapshot) and _exists(exposure, snapshot):
        yield Finding("U218", f"gateway {snapshot.gateway.ref}", _hidden(snapshot), _SHOW_CHANGES)


_SHOW_CHANGES = (
    "set PILOT_FILTER_GATEWAY_CLUSTER_CONFIG=false for istiod, upgrade to Istio 1.31, or use "
    "--discovery static and expose again when pods move"
)


def _hides_changes(exposure: Exposure, snapshot: Snapshot) -> bool:
    spec = exposure.spec
    return snapshot.mesh.hides_changes and any(map(spec.eds_service, spec.backends))


def _hidden(snapshot: Snapshot) -> str:
    mesh = snapshot.mesh
    return (
        f"{mesh.control_plane} (Istio {show_version(mesh.istio)}) does not inform gateways about "
        "changed endpoints, because PILOT_FILTER_GATEWAY_CLUSTER_CONFIG is set: when the pods "
        "endpoints that change, because PILOT_FILTER_GATEWAY_CLUSTER_CONFIG is set: when the pods "
        f"of {snapshot.service} move, clients get no answer"
    )


def _exists(exposure: Exposure, snapshot: Snapshot) -> bool:
    return any(before.key == exposure.spec.key for before in snapshot.exposures)


def mesh_unknown(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U209: the mesh's root namespace is unknown."""
    mesh = snapshot.mesh
    if mesh.assumed:
        yield Finding(
            "U209",
            f"gateway {snapshot.gateway.ref}",
            f"could not read the mesh configuration of {mesh_name(mesh)}; assuming root namespace "
            f"{mesh.root_namespace}. An EnvoyFilter in another root namespace could conflict",
            "name the root namespace: --root-namespace NAMESPACE",
        )


def mesh_name(mesh: Mesh) -> str:
    """A mesh with unreadable configuration in messages, with the ConfigMap's name."""
    plane = mesh.control_plane
    where = f" (ConfigMap {plane.namespace}/{plane.config_name})" if plane.namespace else ""
    return f"{plane}{where}"
