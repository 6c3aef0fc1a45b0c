"""`access-log`: read, check, render, apply."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import applying_options
from kubectl_istio_udp.cli.flags import Command
from kubectl_istio_udp.model.accesslog import Direction
from kubectl_istio_udp.sources.accesslog import DEFAULT_EVERY


@click.command("access-log", cls=Command)
@click.option(
    "--every",
    type=options.DURATION,
    help=f"Interval between two lines of a connection, at least 1ms.  [default: {DEFAULT_EVERY}]",
)
@click.option("--mesh", is_flag=True, help="Apply to the whole mesh instead of to one namespace.")
@options.gateway_options
@click.option(
    "-l",
    "--selector",
    metavar="KEY=VALUE,...",
    help="Select pods with these labels only.",
)
@click.option(
    "--direction",
    type=click.Choice([direction.value for direction in Direction]),
    help="Log connections that sidecars accept (inbound), open (outbound), or both.  "
    f"[default: {Direction.ANY.value}]",
)
@click.option("--off", is_flag=True, help="Delete the access log instead of creating it.")
@click.option("--name", help="Name of the access log.  [default: derived from the other options]")
@applying_options(waiting=False)
@options.cluster_options
def command(**values: Any) -> None:
    """Make proxies log open TCP connections periodically, not only when they end.

    Applies to the pods of a namespace (-n), to the whole mesh (--mesh), or to a gateway
    (--gateway). Run it again to change a setting. Settings that you do not name stay as they are.
    """
    from kubectl_istio_udp.cli.run import access_log

    access_log.run(**values)
