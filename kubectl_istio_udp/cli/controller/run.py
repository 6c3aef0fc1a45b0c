"""`controller run`: run the controller in this process."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.controller import settings
from kubectl_istio_udp.cli.flags import Command
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.mesh import DEFAULT_ROOT_NAMESPACE
from kubectl_istio_udp.plan.sessions import CAREFUL_FILE_LIMIT


@click.command("run", cls=Command)
@settings.gateway_namespaces_option
@settings.root_namespaces_option(DEFAULT_ROOT_NAMESPACE)
@settings.mesh_configs_option("none: Istio's defaults are assumed")
@click.option(
    "--file-limit",
    type=click.IntRange(min=1),
    default=CAREFUL_FILE_LIMIT,
    show_default=True,
    help="Open-file limit of each gateway's Envoy, which limits the sessions of all exposures "
    "together. `install` measures it.",
)
@settings.allow_all_option
@settings.namespace_default_option
@settings.gateway_api_option
@click.option(
    "--leader-elect/--no-leader-elect",
    default=True,
    show_default=True,
    help="Write only while this replica holds the Lease.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port that serves /healthz, /readyz and /metrics; 0 uses any free one.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Lowest level to log. Logs are lines of JSON on stderr.",
)
@options.controller_options
def command(**values: Any) -> None:
    """Run the controller, inside or outside the cluster, until SIGTERM or SIGINT.

    No request takes longer than 5s, even with a larger --request-timeout: it must end before
    another replica becomes the leader.
    """
    try:
        from kubectl_istio_udp.cli.run.controller import run
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the controller needs {error.name}",
            hints=["install it: pip install 'kubectl-istio-udp[controller]'"],
        ) from error

    run.run(**values)
