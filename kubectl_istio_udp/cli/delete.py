"""`delete`: take things away."""

from __future__ import annotations

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import ClusterError, Interrupted, UsageError


@click.command("delete")
@click.argument("names", nargs=-1, metavar="[[TYPE/]NAME]...")
@click.option("--all", "all_names", is_flag=True, help="Everything of ours in the namespace.")
@click.option("--ignore-not-found", is_flag=True, help="Having nothing to delete is fine.")
@click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="Wait, before the clusters go, until no gateway pod has the listeners any more.",
)
@click.option(
    "--timeout", type=options.DURATION, default="30s", show_default=True, help="How long to wait."
)
@options.dry_run_option
@options.cluster_options
def command(
    *,
    names: tuple[str, ...],
    all_names: bool,
    ignore_not_found: bool,
    wait: bool,
    timeout: Duration,
    dry_run: str,
    common: options.Common,
) -> None:
    """Take exposures, responses and access logs away, and nothing else.

    NAME is an exposure; response/NAME and accesslog/NAME are the others. Of an exposure the way
    for clients goes first, then the listener, the cluster and the endpoints.
    """
    from kubectl_istio_udp.apply.deletion import delete_existing
    from kubectl_istio_udp.cluster.existing import explain_stray, get_state
    from kubectl_istio_udp.output import printing

    if bool(names) == all_names:
        raise UsageError(
            "delete what? Give names, or --all",
            hints=["see those there are: kubectl istio-udp get"],
        )
    api = common.connect()
    namespace = common.namespace_of(api)
    state = get_state(api, namespace, names, missing_ok=ignore_not_found)
    for stray in state.strays:
        printing.warn(explain_stray(stray))
    for existing in state.existing:
        if dry_run == "client":
            for manifest in reversed(existing.objects):
                name = manifest["metadata"]["name"]
                click.echo(printing.deleted_line(manifest["kind"], name, dry_run))
            continue
        again = f"delete the rest: kubectl istio-udp delete -n {namespace} {existing.ref}"
        try:
            warnings = delete_existing(
                api,
                existing,
                timeout=timeout.seconds if wait else 0,
                dry_run=dry_run == "server",
                report=lambda kind, _, name: click.echo(printing.deleted_line(kind, name, dry_run)),
            )
        except KeyboardInterrupt:
            raise Interrupted("interrupted", hints=[again]) from None
        except ClusterError as error:
            error.hints = (*error.hints, again)
            raise
        for text in warnings:
            printing.warn(text)
