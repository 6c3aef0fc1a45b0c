"""`access-log`: decide, check, render and apply."""

from __future__ import annotations

import click

from kubectl_istio_udp.apply.access_logging import log_connections, stop_logging
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import Applying
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.cli.run.printed import Printed
from kubectl_istio_udp.model.accesslog import Direction
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.sources.accesslog import NamedAccessLog, named_scope


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
        scope=named_scope(mesh=mesh, gateway=gateway, namespace=common.namespace, selector=labels),
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
