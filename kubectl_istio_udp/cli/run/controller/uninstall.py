"""`controller uninstall`: delete the controller and its exposures."""

from __future__ import annotations

import click

from kubectl_istio_udp.apply.controller import uninstall
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.output import printing


def run(*, keep_exposures: bool, timeout: Duration, dry_run: str, common: options.Common) -> None:
    """Run `controller uninstall`, with the values of its options."""
    api = connect(common)
    uninstall(
        api,
        namespace_of(common, api),
        keep_exposures=keep_exposures,
        timeout=timeout.seconds,
        dry_run=dry_run,
        report=lambda kind, name: click.echo(printing.deleted_line(kind, name, dry_run)),
        warn=printing.warn,
    )
