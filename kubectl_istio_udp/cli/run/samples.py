"""`samples`: apply, delete or print the samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from kubectl_istio_udp.apply.transaction import Transaction
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.model.errors import ApplyConflict
from kubectl_istio_udp.model.names import MANAGED_BY_LABEL, MANAGER
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.render.samples import samples
from kubectl_istio_udp.verify.toolpod import wait_running


def apply(
    *,
    coredns_image: str,
    tool_image: str,
    wait: bool,
    timeout: Any,
    dry_run: str,
    common: options.Common,
) -> None:
    """Run `samples apply`, with the values of its options."""
    api = connect(common)
    namespace = namespace_of(common, api)
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


def delete(*, dry_run: str, common: options.Common) -> None:
    """Run `samples delete`, with the values of its options."""
    api = connect(common)
    namespace = namespace_of(common, api)
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


def print_manifests(*, coredns_image: str, tool_image: str, namespace: str, output: str) -> None:
    """Run `samples print`, with the values of its options."""
    found: Sequence[dict[str, Any]] = samples(namespace, coredns_image, tool_image)
    click.echo(printing.documents(found, output), nl=False)
