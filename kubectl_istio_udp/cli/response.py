"""`direct response`: read, plan, check, render, apply, wait."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import applying_options
from kubectl_istio_udp.cli.flags import Command

_LAST_PORT = 65_535


@click.command("response", cls=Command)
@click.argument("path")
@click.option("--status", type=int, help="HTTP status to answer, 200 to 599.  [default: 200]")
@click.option("--body", metavar="TEXT", help="Body to answer; '' for none.")
@click.option(
    "--body-file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="File with the body; - for standard input.",
)
@click.option("--binary", is_flag=True, help="Accept a body that is not UTF-8 text.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Header to answer; repeatable. Replaces all headers that the response has.",
)
@click.option(
    "--prefix/--no-prefix",
    default=None,
    help="Match every path with this prefix.  [default: no]",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="Host of the requests to answer; repeatable.  [default: *]",
)
@click.option(
    "--mesh",
    is_flag=True,
    help="Answer at the clients' sidecars instead of at a gateway. --host is then a Service, for "
    "example ratings.prod.svc.cluster.local.",
)
@options.gateway_options
@click.option(
    "--gateway-port",
    type=click.IntRange(1, _LAST_PORT),
    help="Port of the gateway's HTTP server.  [default: 80]",
)
@click.option(
    "--create-gateway",
    is_flag=True,
    help="Create an Istio Gateway with an HTTP server on that port, if there is none.",
)
@click.option(
    "--api",
    type=click.Choice(["auto", "virtualservice", "envoyfilter"]),
    help="Istio API to use. auto: VirtualService for Istio 1.15 and newer, else EnvoyFilter. An "
    "EnvoyFilter takes precedence over the routes of all VirtualServices.  [default: auto]",
)
@click.option("--name", help="Name of the response.  [default: derived from the path]")
@applying_options(waiting=True)
@options.cluster_options
def command(**values: Any) -> None:
    """Have a gateway, or the sidecars of the mesh, answer HTTP requests for PATH.

    Checks first whether this response or an existing VirtualService would answer, and writes
    nothing that would make other paths of a host unreachable.

    Run it again to change a setting. Settings that you do not name stay as they are. `direct
    /PATH` is short for `direct response /PATH`.
    """
    from kubectl_istio_udp.cli.run import response

    response.run(**values)
