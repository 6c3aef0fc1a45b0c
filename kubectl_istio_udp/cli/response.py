"""`direct response`: read, plan, check, render, apply, wait."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import Applying, Printed, applying_options
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.names import check_dns_label

if TYPE_CHECKING:
    from kubectl_istio_udp.kube.client import Api
    from kubectl_istio_udp.model.response import Answer, Response, ResponseSpec
    from kubectl_istio_udp.state.gateways import GatewayChoice

_LAST_PORT = 65_535
_HTTP_PORT = 80
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
    from kubectl_istio_udp.apply.changes import change_set
    from kubectl_istio_udp.apply.pipeline import Decision, carry
    from kubectl_istio_udp.checks.response import check_response
    from kubectl_istio_udp.model.response import ResponseApi, default_name
    from kubectl_istio_udp.plan.response import ResponseRequest, plan_response
    from kubectl_istio_udp.render.response import response_writes
    from kubectl_istio_udp.state.responses import read_response_snapshot

    content = _content(body, body_file, binary)
    named = (path, status, content, binary, prefix, headers, hosts)
    _answer(*named, None)  # reports errors before any request is sent
    at_gateway = bool(create_gateway or gateway.name or gateway.selector)
    if mesh and at_gateway:
        raise UsageError("--mesh answers at sidecars and cannot be combined with gateway options")
    if name:
        check_dns_label(name, "response")
    server = common.connect()
    namespace = common.namespace_of(server)
    before, kept = _read_existing(server, namespace, name or default_name(path), content)
    if before and not at_gateway:
        mesh = mesh or before.mesh
    if before and before.gateway and not mesh:
        gateway = gateway.or_known(before.gateway)
    kept_api = before.api if before else None
    request = ResponseRequest(
        namespace=namespace,
        answer=_answer(*named, before.answer if before else None),
        content=kept if content is None else content,
        name=name,
        mesh=mesh,
        gateway_port=gateway_port or (before.gateway_port if before else _HTTP_PORT),
        api=kept_api if api is None else None if api == "auto" else ResponseApi(api),
        create_gateway=create_gateway,
    )
    snapshot = read_response_snapshot(server, request, gateway)
    planned = plan_response(request, snapshot)
    response = planned.response
    spec = response.spec
    writes = response_writes(response, applying.manager)
    decision = Decision(
        spec=spec,
        before=before,
        said=f"Istio API: {spec.api.value} ({planned.reason})",
        findings=check_response(response, snapshot),
        changes=change_set(spec.kind, spec.key, snapshot.objects, writes=writes),
        wait=_waiter(server, response, bool(snapshot.gateway and snapshot.gateway.ready_pods)),
    )
    carry(server, decision, applying, Printed(applying), _FLAGS)
    if applying.in_words:
        click.echo(
            f"test it: kubectl istio-udp verify -n {spec.namespace} response/{spec.name}", err=True
        )


def _read_existing(
    api: Api, namespace: str, name: str, content: bytes | None
) -> tuple[ResponseSpec | None, bytes]:
    """The existing response, and its body if the command line names none.

    Raises:
        UsageError: the existing body cannot be read.
    """
    from kubectl_istio_udp.model.response import ResponseSpec
    from kubectl_istio_udp.render.response import read_content
    from kubectl_istio_udp.state.existing import get_existing

    found = get_existing(api, namespace, [f"response/{name}"], missing_ok=True)
    spec = found[0].spec if found else None
    if not isinstance(spec, ResponseSpec):
        return None, b""
    kept = read_content(found[0].objects, spec) if content is None else b""
    if kept is None:
        raise UsageError(
            f"the body of response {name} cannot be read from its objects",
            hints=["name the body again: --body or --body-file; for no body: --body ''"],
        )
    return spec, kept


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


def _answer(
    path: str,
    status: int | None,
    content: bytes | None,
    binary: bool,
    prefix: bool | None,
    headers: tuple[str, ...],
    hosts: tuple[str, ...],
    before: Answer | None,
) -> Answer:
    """The answer from named settings, else the existing response's (`before`), else defaults."""
    from kubectl_istio_udp.model.response import Answer, Body, parse_header

    parsed = tuple(map(parse_header, headers))
    twice = [name for name, _ in parsed if sum(name == other for other, _ in parsed) > 1]
    if twice:
        raise UsageError(f"--header {twice[0]} is given twice")
    kept = before or Answer(path, 200)
    named_body = Body.of(content, binary) if content else None
    return Answer(
        path=path,
        status=kept.status if status is None else status,
        body=kept.body if content is None else named_body,
        prefix=kept.prefix if prefix is None else prefix,
        headers=parsed or kept.headers,
        hosts=tuple(dict.fromkeys(hosts)) or kept.hosts,
    )


def _waiter(
    api: Api, response: Response, had_pods: bool
) -> Callable[[float, Callable[[str], None]], object] | None:
    """A function that waits for the gateway; None for sidecars, which are too many to query."""
    from kubectl_istio_udp.apply.waiting import wait_until_routed
    from kubectl_istio_udp.render.response import route_name

    gateway = response.spec.gateway
    if gateway is None:
        return None
    place, route = (gateway.namespace, gateway.selector), route_name(response)
    return lambda seconds, progress: wait_until_routed(
        api, *place, route, seconds, progress, had_pods=had_pods
    )
