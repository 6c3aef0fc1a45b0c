"""`controller uninstall`: delete the controller and its exposures."""

from __future__ import annotations

import click

from kubectl_istio_udp.apply.controller import uninstall
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.state.gatewaynamespaces import controller_namespace


def run(*, keep_exposures: bool, timeout: Duration, dry_run: str, common: options.Common) -> None:
    """Run `controller uninstall`, with the values of its options."""
    api = connect(common)
    namespace = namespace_of(common, api)
    installed = controller_namespace(api) or namespace
    if installed != namespace:
        raise UsageError(
            f"the controller is in namespace {installed}, not in {namespace}",
            hints=[f"name it: kubectl istio-udp controller uninstall -n {installed}"],
        )
    uninstall(
        api,
        namespace,
        keep_exposures=keep_exposures,
        timeout=timeout.seconds,
        dry_run=dry_run,
        report=lambda kind, name: click.echo(printing.deleted_line(kind, name, dry_run)),
        warn=printing.warn,
    )
