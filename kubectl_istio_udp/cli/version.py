"""`version`."""

from __future__ import annotations

import click

from kubectl_istio_udp import __version__
from kubectl_istio_udp.cli.flags import Command


@click.command("version", cls=Command)
def command() -> None:
    """Print the version."""
    click.echo(f"kubectl-istio-udp {__version__}")
