"""`controller uninstall`: remove the controller from a cluster."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.flags import Command


@click.command("uninstall", cls=Command)
@click.option(
    "--keep-exposures",
    is_flag=True,
    help="Keep the exposures. If you install the controller again, it manages them.",
)
@click.option(
    "--timeout", type=options.DURATION, default="60s", show_default=True, help="How long to wait."
)
@options.dry_run_option
@options.controller_options
def command(**values: Any) -> None:
    """Remove the controller and its exposures from the cluster.

    Stops the controller first, then deletes its exposures as `delete` does, then its rights. Keeps
    the annotations of the Services, and the namespace.
    """
    from kubectl_istio_udp.cli.run.controller import uninstall

    uninstall.run(**values)
