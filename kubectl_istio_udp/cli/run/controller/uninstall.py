"""`controller uninstall`: delete the controller and its exposures."""

from __future__ import annotations

import click

from kubectl_istio_udp.apply.deletion_order import delete_existing
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.render.controller import LEASE, SELECTOR
from kubectl_istio_udp.state.controllers import (
    KINDS,
    remove_controller,
    wait_no_pods,
)
from kubectl_istio_udp.state.existing import list_exposures
from kubectl_istio_udp.state.gatewaynamespaces import controller_namespace
from kubectl_istio_udp.state.leftovers import read_leftovers
from kubectl_istio_udp.state.ownership import is_declared


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
    dry = dry_run != "none"

    def report(kind: str, name: str) -> None:
        click.echo(printing.deleted_line(kind, name, dry_run))

    remove_controller(api, SELECTOR, KINDS[:1], dry_run=dry, report=report)
    if not dry:
        wait_no_pods(api, namespace, SELECTOR, timeout.seconds)
    exposures = () if keep_exposures else tuple(filter(is_declared, list_exposures(api)))
    leftovers = read_leftovers(api, [existing.spec for existing in exposures])
    for existing in exposures:
        warnings = delete_existing(
            api,
            existing,
            leftovers,
            timeout=timeout.seconds,
            dry_run=dry_run,
            report=lambda kind, _, name: report(kind, name),
        )
        for text in warnings:
            printing.warn(text)
    remove_controller(api, SELECTOR, KINDS[1:], dry_run=dry, report=report)
    lease = api.find("Lease", namespace, LEASE)
    if lease is not None and api.delete(lease, dry_run=dry):
        report("Lease", LEASE)
