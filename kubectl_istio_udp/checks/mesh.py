"""Rules about the mesh: whether istiod reads the written objects, and follows the Service."""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_istio_udp.checks.findings import Finding, Value
from kubectl_istio_udp.checks.refs import gateway_ref
from kubectl_istio_udp.checks.rules import rule
from kubectl_istio_udp.model.exposure import (
    Exposure,
)
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.model.mesh import Mesh, show_version
from kubectl_istio_udp.model.snapshot import Snapshot


@rule("U131", reads=("gateway", "mesh", "namespaces"))
def namespace_not_read(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """Istiod does not read the namespace of one of the exposure's objects."""
    places = {ref.namespace: ref.kind for ref in exposure.spec.objects if ref.kind != "Service"}
    for namespace, kind in sorted(places.items()):
        if snapshot.reads_namespace(namespace):
            continue
        yield Finding(
            "U131",
            ObjectRef("Namespace", "", namespace),
            "metadata.labels",
            {
                "control_plane": str(snapshot.mesh.control_plane),
                "kind": kind,
                "object_name": exposure.spec.object_name,
                "gateway": str(snapshot.gateway.ref),
            },
        )


@rule("U132", reads=("gateway", "mesh"))
def selectors_ignored(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """Istiod ignores workloadSelectors for gateways of the Gateway API."""
    if snapshot.gateway.api and not snapshot.mesh.selectors_for_gateway_api:
        yield Finding(
            "U132",
            gateway_ref(snapshot.gateway.ref),
            values={"control_plane": str(snapshot.mesh.control_plane)},
        )


_HIDING = ("exposures", "gateway", "mesh", "service")


@rule("U135", reads=_HIDING)
def changes_hidden(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The gateway would not be informed when the Service's pods change."""
    if _hides_changes(exposure, snapshot) and not _exists(exposure, snapshot):
        yield Finding("U135", gateway_ref(snapshot.gateway.ref), values=_hidden(snapshot))


@rule("U218", reads=_HIDING)
def changes_stay_hidden(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """Like U135, but only a warning because the exposure already exists."""
    if _hides_changes(exposure, snapshot) and _exists(exposure, snapshot):
        yield Finding("U218", gateway_ref(snapshot.gateway.ref), values=_hidden(snapshot))


def _hides_changes(exposure: Exposure, snapshot: Snapshot) -> bool:
    spec = exposure.spec
    return snapshot.mesh.hides_changes and any(map(spec.eds_service, spec.backends))


def _hidden(snapshot: Snapshot) -> dict[str, Value]:
    mesh = snapshot.mesh
    return {
        "control_plane": str(mesh.control_plane),
        "istio": show_version(mesh.istio),
        "service": str(snapshot.service),
        "gateway": str(snapshot.gateway.ref),
    }


def _exists(exposure: Exposure, snapshot: Snapshot) -> bool:
    return any(before.key == exposure.spec.key for before in snapshot.exposures)


@rule("U209", reads=("gateway", "mesh"))
def mesh_unknown(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The mesh's root namespace is unknown."""
    mesh = snapshot.mesh
    if mesh.assumed:
        plane = mesh.control_plane
        values = {"mesh": mesh_name(mesh), "root_namespace": mesh.root_namespace}
        if plane.namespace:
            config = ObjectRef("ConfigMap", plane.namespace, plane.config_name)
            yield Finding("U209", config, "data.mesh", values)
        else:
            yield Finding("U209", gateway_ref(snapshot.gateway.ref), values=values)


def mesh_name(mesh: Mesh) -> str:
    """A mesh with unreadable configuration in messages, with the ConfigMap's name."""
    plane = mesh.control_plane
    where = f" (ConfigMap {plane.namespace}/{plane.config_name})" if plane.namespace else ""
    return f"{plane}{where}"
