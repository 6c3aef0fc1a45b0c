"""`version`."""

from __future__ import annotations

import click

from kubectl_istio_udp import __version__


@click.command("version")
def command() -> None:
    """Print the version."""
    click.echo(f"kubectl-istio-udp {__version__}")
