"""`controller uninstall`: remove the controller from a cluster."""

from __future__ import annotations

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.render.controller import LEASE, SELECTOR


@click.command("uninstall")
@click.option(
    "--keep-exposures",
    is_flag=True,
    help="Keep the exposures; a controller that is installed again manages them.",
)
@click.option(
    "--timeout", type=options.DURATION, default="60s", show_default=True, help="How long to wait."
)
@options.dry_run_option
@options.controller_options
def command(
    *, keep_exposures: bool, timeout: Duration, dry_run: str, common: options.Common
) -> None:
    """Remove the controller and its exposures from the cluster.

    Stops the controller first, then deletes its exposures as `delete` does, then its rights. Keeps
    the annotations of the Services, and the namespace.
    """
    from kubectl_istio_udp.apply.deletion import delete_existing
    from kubectl_istio_udp.output import printing
    from kubectl_istio_udp.state.controllers import (
        KINDS,
        is_declared,
        remove_controller,
        wait_no_pods,
    )
    from kubectl_istio_udp.state.existing import list_exposures
    from kubectl_istio_udp.state.leftovers import read_leftovers

    api = common.connect()
    namespace = common.namespace_of(api)
    asked = dry_run != "none"

    def report(kind: str, name: str) -> None:
        click.echo(printing.deleted_line(kind, name, dry_run))

    remove_controller(api, SELECTOR, KINDS[:1], dry_run=asked, report=report)
    if not asked:
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
    remove_controller(api, SELECTOR, KINDS[1:], dry_run=asked, report=report)
    if api.delete("Lease", namespace, LEASE, dry_run=asked):
        report("Lease", LEASE)
