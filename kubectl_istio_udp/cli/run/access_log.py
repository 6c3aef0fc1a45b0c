"""`access-log`: decide, check, render and apply."""

from __future__ import annotations

import click

from kubectl_istio_udp.apply.access_logging import log_connections, stop_logging
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import Applying
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.cli.run.printed import Printed
from kubectl_istio_udp.model.accesslog import Direction, LogScope
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.sources.accesslog import NamedAccessLog


def run(
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
    """Run `access-log`, with the values of its options."""
    labels = dict(options.parse_labels(selector, "--selector"))
    named = NamedAccessLog(
        scope=_scope(mesh, gateway, labels, common),
        every=every,
        direction=Direction(direction) if direction else None,
        selector=labels,
        name=name,
    )
    api = connect(common)
    arguments = (api, namespace_of(common, api), named, gateway, applying, Printed(applying))
    if off:
        stop_logging(*arguments)
        return
    spec = log_connections(*arguments)
    if applying.in_words:
        to = " --to SERVICE" if spec.selector else ""
        click.echo(
            f"test it: kubectl istio-udp verify -n {spec.namespace} accesslog/{spec.name}{to}",
            err=True,
        )


def _scope(
    mesh: bool, gateway: GatewayChoice, labels: dict[str, str], common: options.Common
) -> LogScope:
    at_gateway = bool(gateway.name or gateway.selector)
    if mesh and at_gateway:
        raise UsageError("--mesh cannot be combined with --gateway: it already includes gateways")
    if mesh and common.namespace:
        raise UsageError("--mesh cannot be combined with -n: it already includes all namespaces")
    if at_gateway and labels:
        raise UsageError("-l cannot be combined with --gateway: a gateway has its own labels")
    return LogScope.MESH if mesh else LogScope.GATEWAY if at_gateway else LogScope.NAMESPACE
