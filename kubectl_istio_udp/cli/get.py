"""`get`: list exposures, responses and access logs, one table per kind."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.flags import Command


@click.command("get", cls=Command)
@click.argument("names", nargs=-1, metavar="[[TYPE/]NAME]...")
@options.all_namespaces_option
@options.gateway_namespaces_option
@options.output_option("table", "wide", "yaml", "json", "name", default="table")
@options.cluster_options
def command(**values: Any) -> None:
    """List exposures, responses and access logs.

    NAME is an exposure; for other kinds use response/NAME or accesslog/NAME.

    STATUS is ok, or one of NoEndpoints, NotProgrammed, NoAddress, Conflict, Unreadable, NoService,
    InvalidBackend, Terminating, or Missing and the kind of the missing object. -o wide, yaml and
    json also query the Envoy of every gateway pod. -o yaml and json print conditions and objects.
    Without names, it also lists what killed runs left behind, and how to remove it.
    """
    from kubectl_istio_udp.cli.run import get

    get.run(**values)
