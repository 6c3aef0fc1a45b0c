"""`delete`: delete exposures, responses and access logs."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.flags import Command


@click.command("delete", cls=Command)
@click.argument("names", nargs=-1, metavar="[[TYPE/]NAME]...")
@click.option(
    "--all",
    "all_names",
    is_flag=True,
    help="Delete all exposures, responses and access logs in the namespace.",
)
@click.option("--ignore-not-found", is_flag=True, help="Succeed if there is nothing to delete.")
@click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="Wait until no gateway pod has the listeners any more, before the clusters are deleted.",
)
@click.option(
    "--timeout", type=options.DURATION, default="30s", show_default=True, help="How long to wait."
)
@options.gateway_namespaces_option
@options.dry_run_option
@options.cluster_options
def command(**values: Any) -> None:
    """Delete exposures, responses and access logs.

    NAME is an exposure; for other kinds use response/NAME or accesslog/NAME. Deletes only objects
    that belong to them. For an exposure, it deletes the Service for clients first, then listeners,
    clusters and endpoints.
    """
    from kubectl_istio_udp.cli.run import delete

    delete.run(**values)
