"""`direct response`: decide, check, render, apply and wait."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kubectl_istio_udp.apply.responding import respond
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import Applying
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.cli.run.printed import Printed
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.sources.response import NamedResponse

# The option for each field of Envoy's route.
_FLAGS = {
    "status": "--status",
    "direct_response": "--body",
    "match": "PATH",
    "response_headers_to_add": "--header",
}


def run(
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
    """Run `direct response`, with the values of its options."""
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
        names_gateway=gateway.is_named,
        create_gateway=create_gateway,
        api=api,
        name=name,
    )
    server = connect(common)
    namespace = namespace_of(common, server)
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
