"""Install and uninstall the controller: its settings, its objects, and the order of deletion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from kubectl_istio_udp.apply.deletion_order import delete_existing
from kubectl_istio_udp.apply.transaction import apply_manifests
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import NotInstalled, UsageError, WaitTimeout
from kubectl_istio_udp.model.gatewayapi import GATEWAY_CLASS
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.model.mesh import DEFAULT_CONTROL_PLANE, DEFAULT_ROOT_NAMESPACE, Mesh
from kubectl_istio_udp.model.names import MANAGER
from kubectl_istio_udp.plan.sessions import CAREFUL_FILE_LIMIT
from kubectl_istio_udp.render.controller import LEASE, NAME, SELECTOR, Installation, controller
from kubectl_istio_udp.state.controllers import (
    api_ports,
    mesh_config_maps,
    read_meshes,
    smallest_file_limit,
)
from kubectl_istio_udp.state.existing import list_exposures
from kubectl_istio_udp.state.gatewaynamespaces import controller_namespace
from kubectl_istio_udp.state.leftovers import read_leftovers
from kubectl_istio_udp.state.ownership import is_declared

# In deletion order: first the Deployment, which writes, then its permissions.
_KINDS = (
    "Deployment",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "RoleBinding",
    "Role",
    "ClusterRoleBinding",
    "ClusterRole",
    "ServiceAccount",
    "GatewayClass",
)

_USUAL_MESH_CONFIG = (DEFAULT_ROOT_NAMESPACE, DEFAULT_CONTROL_PLANE.config_name)


@dataclass(frozen=True)
class NamedInstallation:
    """The settings of `controller install`; None and () stand for unnamed ones.

    Attributes:
        namespace, image, gateway_namespaces, allow_all, defaults, gateway_api, replicas: as in
            Installation.
        root_namespaces, mesh_configs, file_limit: as in Installation; if they are not named, the
            cluster tells them.
    """

    namespace: str
    image: str
    gateway_namespaces: tuple[str, ...]
    root_namespaces: tuple[str, ...]
    mesh_configs: tuple[tuple[str, str], ...]
    file_limit: int | None
    allow_all: bool
    defaults: tuple[tuple[str, str], ...]
    gateway_api: bool
    replicas: int

    def without_cluster(self) -> Installation:
        """All settings, with defaults for those that the cluster would tell."""
        return Installation(
            namespace=self.namespace,
            image=self.image,
            gateway_namespaces=self.gateway_namespaces,
            root_namespaces=self.root_namespaces or (DEFAULT_ROOT_NAMESPACE,),
            file_limit=self.file_limit or CAREFUL_FILE_LIMIT,
            allow_all=self.allow_all,
            defaults=self.defaults,
            mesh_configs=self.mesh_configs or (_USUAL_MESH_CONFIG,),
            gateway_api=self.gateway_api,
            replicas=self.replicas,
        )


def install(
    api: Api,
    named: NamedInstallation,
    *,
    dry_run: str,
    written: Callable[[str, str, str], None],
    deleted: Callable[[str, str], None],
    warn: Callable[[str], None],
) -> None:
    """Write the controller's objects, all or none; delete those of an earlier installation.

    Args:
        api: the cluster.
        named: the settings.
        dry_run: as in WriteOptions.
        written: called with the kind, the name and kubectl's word for each object.
        deleted: called with the kind and name of each deleted object.
        warn: called with the text of each warning.

    Raises:
        UsageError: the controller is installed in another namespace.
        Forbidden, Unreachable, ClusterError: errors of the API server.
    """
    _check_namespace(
        api,
        named.namespace,
        "to change it: kubectl istio-udp controller install -n {}",
        "to move it, first: kubectl istio-udp controller uninstall -n {} --keep-exposures",
    )
    wanted = _completed(api, named, warn)
    if dry_run == "none" and api.find("Namespace", None, wanted.namespace) is None:
        metadata = {"name": wanted.namespace}
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}, manager=MANAGER)
        written("Namespace", wanted.namespace, "created")
    manifests = controller(wanted)
    outcomes = apply_manifests(api, manifests, dry_run)
    for manifest, outcome in zip(manifests, outcomes, strict=True):
        written(manifest["kind"], manifest["metadata"]["name"], outcome)
    _delete_former_rights(api, manifests, dry_run=dry_run != "none", report=deleted)


def _check_namespace(api: Api, namespace: str, *hints: str) -> None:
    """Check that no controller is installed in another namespace.

    Args:
        api: the cluster.
        namespace: the namespace of the command line.
        hints: what to type otherwise, with {} for the other namespace.

    Raises:
        UsageError: it is in another namespace.
    """
    installed = controller_namespace(api)
    if installed not in (None, namespace):
        raise UsageError(
            f"the controller is in namespace {installed}, not in {namespace}",
            hints=[hint.format(installed) for hint in hints],
        )


def _completed(api: Api, named: NamedInstallation, warn: Callable[[str], None]) -> Installation:
    """All settings: those that are not named are read from the gateways and their meshes."""
    wanted = replace(named.without_cluster(), api_ports=api_ports(api))
    if named.file_limit is None:
        limit = _measured_file_limit(api, named.gateway_namespaces, warn)
        wanted = replace(wanted, file_limit=limit)
    meshes = _known_meshes(api, named.gateway_namespaces, warn)
    if not named.root_namespaces:
        roots = sorted({mesh.root_namespace for mesh in meshes})
        wanted = replace(wanted, root_namespaces=tuple(roots))
    if not named.mesh_configs:
        wanted = replace(wanted, mesh_configs=mesh_config_maps(api, meshes))
    return wanted


def _measured_file_limit(
    api: Api, gateway_namespaces: Sequence[str], warn: Callable[[str], None]
) -> int:
    """The smallest open-file limit of the gateways; a warning and a safe one if none is known."""
    measured = smallest_file_limit(api, gateway_namespaces)
    if measured is None:
        warn(
            "could not read the open-file limit of any gateway; assuming "
            f"{CAREFUL_FILE_LIMIT} (set it with --file-limit)"
        )
    return measured or CAREFUL_FILE_LIMIT


def _known_meshes(
    api: Api, gateway_namespaces: Sequence[str], warn: Callable[[str], None]
) -> Sequence[Mesh]:
    """The gateways' meshes; a warning for each whose configuration cannot be read."""
    meshes = read_meshes(api, gateway_namespaces)
    for mesh in meshes:
        if mesh.assumed:
            warn(
                f"could not read the mesh configuration of {mesh.control_plane}; assuming Istio's "
                "defaults (name its ConfigMap with --mesh-config, its root namespace with "
                "--root-namespace)"
            )
    return meshes


def wait_until_ready(api: Api, namespace: str, replicas: int, timeout: float) -> None:
    """Wait until all replicas of the controller run the latest version and are ready.

    Args:
        api: the cluster.
        namespace: the controller's namespace.
        replicas: how many there will be.
        timeout: in seconds.

    Raises:
        WaitTimeout: they are not ready in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = api.get("Deployment", namespace, NAME)
        status = found.get("status") or {}
        seen = status.get("observedGeneration") == found["metadata"].get("generation")
        counts = [status.get(key) or 0 for key in ("updatedReplicas", "readyReplicas", "replicas")]
        if seen and counts == [replicas] * 3:
            return
        if time.monotonic() >= deadline:
            raise WaitTimeout(
                f"{counts[1]} of {replicas} replicas are ready after {timeout:g}s; the objects "
                "stay applied",
                hints=[
                    f"see why: kubectl describe pods -n {namespace} "
                    f"-l app.kubernetes.io/name={NAME}"
                ],
            )
        time.sleep(api.waits.poll)


def _delete_former_rights(
    api: Api,
    manifests: Iterable[Mapping[str, Any]],
    *,
    dry_run: bool,
    report: Callable[[str, str], None],
) -> None:
    """Delete the rights in namespaces that only an earlier installation used.

    Args:
        api: the cluster.
        manifests: the objects of the current installation.
        dry_run: whether to only have the server check it.
        report: called with the kind and name of each deleted object.
    """
    wanted = {ObjectRef.of(manifest) for manifest in manifests}
    for kind in ("RoleBinding", "Role"):
        for manifest in _list(api, kind):
            if ObjectRef.of(manifest) not in wanted and api.delete(manifest, dry_run=dry_run):
                report(kind, manifest["metadata"]["name"])


def uninstall(
    api: Api,
    namespace: str,
    *,
    keep_exposures: bool,
    timeout: float,
    dry_run: str,
    report: Callable[[str, str], None],
    warn: Callable[[str], None],
) -> None:
    """Delete the controller, then its exposures, and then its rights.

    Args:
        api: the cluster.
        namespace: the controller's namespace.
        keep_exposures: keep the exposures.
        timeout: in seconds, for each wait.
        dry_run: as in WriteOptions.
        report: called with the kind and name of each deleted object.
        warn: called with the text of each warning.

    Raises:
        UsageError: the controller is installed in another namespace.
        WaitTimeout: a pod of the controller is still running.
    """
    _check_namespace(api, namespace, "name it: kubectl istio-udp controller uninstall -n {}")
    dry = dry_run != "none"
    _delete_objects(api, _KINDS[:1], dry_run=dry, report=report)
    if not dry:
        _wait_until_gone(api, namespace, timeout)
    exposures = () if keep_exposures else tuple(filter(is_declared, list_exposures(api)))
    leftovers = read_leftovers(api, [existing.spec for existing in exposures])
    for existing in exposures:
        warnings = delete_existing(
            api,
            existing,
            leftovers,
            timeout=timeout,
            dry_run=dry_run,
            report=lambda kind, _, name: report(kind, name),
        )
        for text in warnings:
            warn(text)
    _delete_objects(api, _KINDS[1:], dry_run=dry, report=report)
    lease = api.find("Lease", namespace, LEASE)
    if lease is not None and api.delete(lease, dry_run=dry):
        report("Lease", LEASE)


def _delete_objects(
    api: Api, kinds: Sequence[str], *, dry_run: bool, report: Callable[[str, str], None]
) -> None:
    """Delete the controller's objects of these kinds, in all namespaces."""
    for kind in kinds:
        for manifest in _list(api, kind):
            if api.delete(manifest, dry_run=dry_run):
                report(kind, manifest["metadata"]["name"])


def _list(api: Api, kind: str) -> list[dict[str, Any]]:
    """The controller's objects; none if the cluster does not serve the kind (GatewayClass).

    Anybody can copy the labels to an object, so the name must be the controller's too.
    """
    with suppress(NotInstalled):
        names = (NAME, GATEWAY_CLASS)
        found = api.list(kind, None, SELECTOR)
        return [each for each in found if each["metadata"]["name"].startswith(names)]
    return []


def _wait_until_gone(api: Api, namespace: str, timeout: float) -> None:
    """Wait until the controller's pods have ended, so that none of them writes any more.

    Raises:
        WaitTimeout: a pod is still running.
    """
    deadline = time.monotonic() + timeout
    while pods := api.list("Pod", namespace, SELECTOR):
        if time.monotonic() >= deadline:
            name = pods[0]["metadata"]["name"]
            raise WaitTimeout(
                f"pod {namespace}/{name} still runs after {timeout:g}s",
                hints=["to wait longer: --timeout 2m"],
            )
        time.sleep(api.waits.poll)
