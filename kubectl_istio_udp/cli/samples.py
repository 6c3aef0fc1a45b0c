"""`samples`: a DNS server to expose, and a network-tool pod to query it from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.render.samples import COREDNS_IMAGE, TOOL_IMAGE, samples

_image_options = options.options(
    click.option("--coredns-image", default=COREDNS_IMAGE, show_default=True, help="DNS server."),
    click.option("--tool-image", default=TOOL_IMAGE, show_default=True, help="Network tool."),
)


@click.group("samples")
def command() -> None:
    """Apply, delete or print a sample DNS server and network tool.

    The DNS server is CoreDNS behind the Service coredns (53/UDP), and answers for foo.bar.com. The
    network tool is a pod with dig, curl and nc.
    """


@command.command("apply")
@_image_options
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until they run.")
@click.option(
    "--timeout", type=options.DURATION, default="60s", show_default=True, help="How long to wait."
)
@options.dry_run_option
@options.cluster_options
def apply_command(
    *,
    coredns_image: str,
    tool_image: str,
    wait: bool,
    timeout: Any,
    dry_run: str,
    common: options.Common,
) -> None:
    """Apply the samples, and wait until they run."""
    from kubectl_istio_udp.apply.transaction import Transaction
    from kubectl_istio_udp.model.errors import ApplyConflict
    from kubectl_istio_udp.model.names import MANAGER
    from kubectl_istio_udp.model.write import Write
    from kubectl_istio_udp.output import printing
    from kubectl_istio_udp.verify.toolpod import wait_running

    api = common.connect()
    namespace = common.namespace_of(api)
    manifests = samples(namespace, coredns_image, tool_image)
    outcomes = []
    try:
        with Transaction(api, dry_run=dry_run == "server") as transaction:
            for manifest in manifests:
                verb = "changed"
                if dry_run != "client":
                    verb = transaction.apply(Write(manifest, MANAGER)).verb
                outcomes.append("unchanged" if verb == "unchanged" else "serverside-applied")
    except ApplyConflict as error:
        error.hints = (
            "it does not belong to the samples; use another namespace: -n NAMESPACE",
            *error.hints[2:],
        )
        raise
    for manifest, outcome in zip(manifests, outcomes, strict=True):
        name = manifest["metadata"]["name"]
        click.echo(printing.object_line(manifest["kind"], name, outcome, dry_run))
    if wait and dry_run == "none":
        progress = printing.Progress()
        for app in sorted({manifest["metadata"]["labels"]["app"] for manifest in manifests}):
            progress(f"waiting for the pods of {app}")
            wait_running(api, namespace, f"app={app}", timeout.seconds)
        progress.clear()
        where = f"-n {common.namespace} " if common.namespace else ""
        click.echo(f"next: kubectl istio-udp expose {where}coredns -p 5300:53", err=True)


@command.command("delete")
@options.dry_run_option
@options.cluster_options
def delete_command(*, dry_run: str, common: options.Common) -> None:
    """Delete the samples, and no other objects."""
    from kubectl_istio_udp.model.names import MANAGED_BY_LABEL, MANAGER
    from kubectl_istio_udp.output import printing

    api = common.connect()
    namespace = common.namespace_of(api)
    for manifest in reversed(samples(namespace)):
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        there = api.find(kind, namespace, name)
        if there is None:
            continue
        if (there["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) != MANAGER:
            printing.warn(
                f"{printing.resource(kind, name)} does not belong to the samples; not deleted"
            )
            continue
        if dry_run != "client":
            api.delete(kind, namespace, name, dry_run=dry_run == "server")
        click.echo(printing.deleted_line(kind, name, dry_run))


@command.command("print")
@_image_options
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace.")
@options.output_option("yaml", "json", default="yaml")
def print_command(*, coredns_image: str, tool_image: str, namespace: str, output: str) -> None:
    """Print the manifests of the samples, without a cluster."""
    from kubectl_istio_udp.output import printing

    found: Sequence[dict[str, Any]] = samples(namespace, coredns_image, tool_image)
    click.echo(printing.documents(found, output), nl=False)
