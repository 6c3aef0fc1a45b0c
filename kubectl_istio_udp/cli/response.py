"""`direct response`: read, plan, check, render, apply, wait."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import Applying, Printed, applying_options
from kubectl_istio_udp.model.errors import UsageError

if TYPE_CHECKING:
    from kubectl_istio_udp.state.gateways import GatewayChoice

_LAST_PORT = 65_535
# The option for each field of Envoy's route.
_FLAGS = {
    "status": "--status",
    "direct_response": "--body",
    "match": "PATH",
    "response_headers_to_add": "--header",
}


@click.command("response")
@click.argument("path")
@click.option("--status", type=int, help="HTTP status to answer, 200 to 599.  [default: 200]")
@click.option("--body", metavar="TEXT", help="Body to answer; '' for none.")
@click.option(
    "--body-file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="File with the body; - reads standard input.",
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
def command(
    *,
    path: str,
    status: int | None,
    body: str | None,
    body_file: str | None,
    binary: bool,
    headers: tuple[str, ...],
    prefix: bool | None,
    hosts: tuple[str, ...],
    mesh: bool,
    gateway: GatewayChoice,
    gateway_port: int | None,
    create_gateway: bool,
    api: str | None,
    name: str | None,
    applying: Applying,
    common: options.Common,
) -> None:
    """Have a gateway, or the sidecars of the mesh, answer HTTP requests for PATH.

    Checks first whether this response or an existing VirtualService would answer, and writes
    nothing that would make other paths of a host unreachable.

    Run it again to change a setting. Settings that you do not name stay as they are. `direct
    /PATH` is short for `direct response /PATH`.
    """
    from kubectl_istio_udp.apply.responding import respond
    from kubectl_istio_udp.sources.response import NamedResponse

    named = NamedResponse(
        path=path,
        status=status,
        content=_content(body, body_file, binary),
        binary=binary,
        prefix=prefix,
        headers=headers,
        hosts=hosts,
        mesh=mesh,
        gateway_port=gateway_port,
        create_gateway=create_gateway,
        api=api,
        name=name,
    )
    if mesh and (create_gateway or gateway.name or gateway.selector):
        raise UsageError("--mesh answers at sidecars and cannot be combined with gateway options")
    server = common.connect()
    namespace = common.namespace_of(server)
    spec = respond(server, namespace, named, gateway, applying, Printed(applying), _FLAGS)
    if applying.in_words:
        click.echo(
            f"test it: kubectl istio-udp verify -n {spec.namespace} response/{spec.name}", err=True
        )


def _content(body: str | None, body_file: str | None, binary: bool) -> bytes | None:
    if body is not None and body_file is not None:
        raise UsageError("--body and --body-file cannot be combined")
    if body_file is None:
        if binary and body is None:
            raise UsageError("--binary needs a body", hints=["name one: --body-file FILE"])
        return None if body is None else body.encode(errors="surrogateescape")
    try:
        if body_file == "-":
            return sys.stdin.buffer.read()
        return Path(body_file).read_bytes()
    except OSError as error:
        raise UsageError(f"--body-file {body_file}: {error.strerror}") from error
