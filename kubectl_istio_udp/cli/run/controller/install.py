"""`controller install`: apply the manifests of the controller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click

from kubectl_istio_udp.apply.controller import delete_former_rights, wait_until_ready
from kubectl_istio_udp.apply.transaction import apply_manifests
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.mesh import DEFAULT_CONTROL_PLANE, DEFAULT_ROOT_NAMESPACE, Mesh
from kubectl_istio_udp.model.names import MANAGER
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.plan.sessions import CAREFUL_FILE_LIMIT
from kubectl_istio_udp.render.controller import Installation, controller
from kubectl_istio_udp.state.controllers import (
    api_ports,
    mesh_config_maps,
    read_meshes,
    smallest_file_limit,
)
from kubectl_istio_udp.state.gatewaynamespaces import controller_namespace

_USUAL_MESH_CONFIG = (DEFAULT_ROOT_NAMESPACE, DEFAULT_CONTROL_PLANE.config_name)


def run(
    *,
    image: str,
    replicas: int,
    gateway_namespaces: tuple[str, ...],
    root_namespaces: tuple[str, ...],
    mesh_configs: tuple[tuple[str, str], ...],
    file_limit: int | None,
    allow_all: bool,
    defaults: tuple[tuple[str, str], ...],
    gateway_api: bool,
    wait: bool,
    timeout: Duration,
    dry_run: str,
    output: str | None,
    common: options.Common,
) -> None:
    """Run `controller install`, with the values of its options."""
    wanted = Installation(
        namespace=common.namespace or options.CONTROLLER_NAMESPACE,
        image=image,
        gateway_namespaces=gateway_namespaces,
        root_namespaces=root_namespaces or (DEFAULT_ROOT_NAMESPACE,),
        file_limit=file_limit or CAREFUL_FILE_LIMIT,
        allow_all=allow_all,
        defaults=defaults,
        gateway_api=gateway_api,
        mesh_configs=mesh_configs or (_USUAL_MESH_CONFIG,),
        replicas=replicas,
    )
    if output:
        click.echo(printing.documents(controller(wanted), output), nl=False)
        return
    api = connect(common)
    namespace_of(common, api)
    installed = controller_namespace(api)
    if installed not in (None, wanted.namespace):
        raise UsageError(
            f"the controller is in namespace {installed}, not in {wanted.namespace}",
            hints=[
                f"to change it: kubectl istio-udp controller install -n {installed}",
                f"to move it, first: kubectl istio-udp controller uninstall -n {installed} "
                "--keep-exposures",
            ],
        )
    if file_limit is None:
        wanted = replace(wanted, file_limit=_measured_file_limit(api, gateway_namespaces))
    wanted = replace(wanted, api_ports=api_ports(api))
    meshes = _known_meshes(api, gateway_namespaces)
    if not root_namespaces:
        wanted = replace(wanted, root_namespaces=tuple(sorted({m.root_namespace for m in meshes})))
    if not mesh_configs:
        wanted = replace(wanted, mesh_configs=mesh_config_maps(api, meshes))
    _write(api, wanted, dry_run)
    if wait and dry_run == "none":
        wait_until_ready(connect(common), wanted.namespace, wanted.replicas, timeout.seconds)


def _measured_file_limit(api: Api, gateway_namespaces: Sequence[str]) -> int:
    """The smallest open-file limit of the gateways; a warning and a safe one if none is known."""
    measured = smallest_file_limit(api, gateway_namespaces)
    if measured is None:
        printing.warn(
            "could not read the open-file limit of any gateway; assuming "
            f"{CAREFUL_FILE_LIMIT} (set it with --file-limit)"
        )
    return measured or CAREFUL_FILE_LIMIT


def _known_meshes(api: Api, gateway_namespaces: Sequence[str]) -> Sequence[Mesh]:
    """The gateways' meshes; a warning for each whose configuration cannot be read."""
    meshes = read_meshes(api, gateway_namespaces)
    for found in meshes:
        if found.assumed:
            printing.warn(
                f"could not read the mesh configuration of {found.control_plane}; assuming Istio's "
                "defaults (name its ConfigMap with --mesh-config, its root namespace with "
                "--root-namespace)"
            )
    return meshes


def _write(api: Api, wanted: Installation, dry_run: str) -> None:
    """Write the controller's objects, all or none, and print a line for each.

    Then delete those that only an earlier installation needed.
    """
    if dry_run == "none" and api.find("Namespace", None, wanted.namespace) is None:
        name = {"name": wanted.namespace}
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": name}, manager=MANAGER)
        click.echo(printing.object_line("Namespace", wanted.namespace, "created"))
    manifests = controller(wanted)
    outcomes = apply_manifests(api, manifests, dry_run)
    for manifest, outcome in zip(manifests, outcomes, strict=True):
        name_ = manifest["metadata"]["name"]
        click.echo(printing.object_line(manifest["kind"], name_, outcome, dry_run))
    delete_former_rights(
        api,
        manifests,
        dry_run=dry_run != "none",
        report=lambda kind, name: click.echo(printing.deleted_line(kind, name, dry_run)),
    )
