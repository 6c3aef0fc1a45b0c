"""`controller install`: install the controller in a cluster."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.controller import settings
from kubectl_istio_udp.cli.flags import Command
from kubectl_istio_udp.plan.sessions import CAREFUL_FILE_LIMIT
from kubectl_istio_udp.render.controller import DEFAULT_IMAGE


@click.command("install", cls=Command)
@click.option("--image", default=DEFAULT_IMAGE, show_default=True, help="Image of the controller.")
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Number of replicas; one of them is the leader.",
)
@settings.gateway_namespaces_option
@settings.root_namespaces_option("the one in the mesh's configuration")
@settings.mesh_configs_option("the ConfigMaps of the gateways' control planes")
@click.option(
    "--file-limit",
    type=click.IntRange(min=1),
    help="Open-file limit of each gateway's Envoy.  [default: the lowest that a gateway reports; "
    f"{CAREFUL_FILE_LIMIT} if none can be read]",
)
@settings.allow_all_option
@settings.namespace_default_option
@settings.gateway_api_option
@options.options(*options.wait_options("Wait until all replicas run this version and are ready."))
@options.dry_run_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(["yaml", "json"]),
    help="Print the manifests instead of applying them, without a cluster.",
)
@options.controller_options
def command(**values: Any) -> None:
    """Install the controller in the cluster, with the rights that it needs.

    Applies ServiceAccount, Roles, Deployment, PodDisruptionBudget and NetworkPolicy, and creates
    the namespace if it does not exist. Run it again to change a setting.
    """
    from kubectl_istio_udp.cli.run.controller import install

    install.run(**values)
