"""`access-log`: read, check, render, apply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import Applying, Printed, applying_options
from kubectl_istio_udp.model.accesslog import Direction, Reach
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.sources.accesslog import DEFAULT_EVERY, NamedAccessLog

if TYPE_CHECKING:
    from kubectl_istio_udp.state.gateways import GatewayChoice


@click.command("access-log")
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
def command(
    *,
    every: Duration | None,
    mesh: bool,
    gateway: GatewayChoice,
    selector: str | None,
    direction: str | None,
    off: bool,
    name: str | None,
    applying: Applying,
    common: options.Common,
) -> None:
    """Make proxies log open TCP connections periodically, not only when they end.

    Applies to the pods of a namespace (-n), to the whole mesh (--mesh), or to a gateway
    (--gateway). Run it again to change a setting. Settings that you do not name stay as they are.
    """
    from kubectl_istio_udp.apply.access_logging import log_connections, stop_logging

    labels = dict(options.parse_labels(selector, "--selector"))
    named = NamedAccessLog(
        reach=_reach(mesh, gateway, labels, common),
        every=every,
        direction=Direction(direction) if direction else None,
        selector=labels,
        name=name,
    )
    api = common.connect()
    asked = (api, common.namespace_of(api), named, gateway, applying, Printed(applying))
    if off:
        stop_logging(*asked)
        return
    spec = log_connections(*asked)
    if applying.in_words:
        to = " --to SERVICE" if spec.selector else ""
        click.echo(
            f"test it: kubectl istio-udp verify -n {spec.namespace} accesslog/{spec.name}{to}",
            err=True,
        )


def _reach(
    mesh: bool, gateway: GatewayChoice, labels: dict[str, str], common: options.Common
) -> Reach:
    at_gateway = bool(gateway.name or gateway.selector)
    if mesh and at_gateway:
        raise UsageError("--mesh cannot be combined with --gateway: it already includes gateways")
    if mesh and common.namespace:
        raise UsageError("--mesh cannot be combined with -n: it already includes all namespaces")
    if at_gateway and labels:
        raise UsageError("-l cannot be combined with --gateway: a gateway has its own labels")
    return Reach.MESH if mesh else Reach.GATEWAY if at_gateway else Reach.NAMESPACE
