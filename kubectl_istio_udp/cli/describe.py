"""`describe`: settings, objects and proxies of exposures, responses and access logs."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.flags import Command


@click.command("describe", cls=Command)
@click.argument("names", nargs=-1, metavar="[[TYPE/]NAME]...")
@options.all_namespaces_option
@options.gateway_namespaces_option
@options.cluster_options
def command(**values: Any) -> None:
    """Show the details of exposures, responses and access logs.

    NAME is an exposure; for other kinds use response/NAME or accesslog/NAME. Shows settings,
    conditions, objects, and what the Envoy of each gateway pod has.
    """
    from kubectl_istio_udp.cli.run import describe

    describe.run(**values)
