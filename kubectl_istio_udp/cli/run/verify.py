"""`verify`: test each exposure, response and access log, and print the results."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, find_existing, namespace_of
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.verify import sending
from kubectl_istio_udp.verify.existing import verify_all
from kubectl_istio_udp.verify.options import ProbeOptions


def run(
    *,
    names: tuple[str, ...],
    all_names: bool,
    all_namespaces: bool,
    gateway_namespaces: tuple[str, ...],
    to: str | None,
    probe_settings: ProbeOptions,
    common: options.Common,
) -> int:
    """Run `verify`, with the values of its options; the exit code."""
    if bool(names) == (all_names or all_namespaces):
        raise UsageError(
            "name what to verify, or use --all or -A",
            hints=[common.list_hint],
        )
    api = connect(common)
    namespace = namespace_of(common, api)
    tool = sending.start_tool_search(api, namespace, probe_settings)
    found = find_existing(common, api, names, all_namespaces, gateway_namespaces)
    if not found:
        printing.note("No exposures, responses or access logs found.")
        return 0
    verifications = verify_all(api, namespace, found, to, probe_settings, tool)
    if probe_settings.output == "table":
        _print(found, verifications)
    else:
        data = [
            {
                "kind": existing.kind.value,
                "namespace": existing.namespace,
                "name": existing.name,
                "good": verification.good,
                "verdict": verification.text,
                **verification.data,
            }
            for existing, verification in zip(found, verifications, strict=True)
        ]
        click.echo(printing.data(data, probe_settings.output), nl=False)
    return 0 if all(verification.good for verification in verifications) else 1


def _print(found: Sequence[Existing], verifications: Sequence[sending.Verification]) -> None:
    """A table per kind, then a sentence per exposure, response or access log."""
    pairs = list(zip(found, verifications, strict=True))
    for kind in Kind:
        shown = [
            (existing, verification) for existing, verification in pairs if existing.kind is kind
        ]
        rows = [
            [*([f"{existing.namespace}/{existing.name}"] if len(pairs) > 1 else []), *row]
            for existing, verification in shown
            for row in verification.rows
        ]
        if rows:
            headers = next(verification.headers for _, verification in shown if verification.rows)
            lead = [kind.words] if len(pairs) > 1 else []
            click.echo(printing.table(rows, [*lead, *headers]))
    for existing, verification in pairs:
        click.echo(f"{existing.ref}: {verification.text}")
