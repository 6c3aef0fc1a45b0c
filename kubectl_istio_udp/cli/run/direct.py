"""`direct query`: query a Service's pods, and print the answers."""

from __future__ import annotations

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.model.names import check_dns_label
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.verify.options import ProbeOptions
from kubectl_istio_udp.verify.service import verify_service


def query(
    *,
    service: str,
    probe_settings: ProbeOptions,
    common: options.Common,
) -> int:
    """Run `direct query`, with the values of its options; the exit code."""
    check_dns_label(service, "Service")
    api = connect(common)
    verification = verify_service(api, namespace_of(common, api), service, probe_settings)
    if probe_settings.output == "table":
        if verification.rows:
            click.echo(printing.table(verification.rows, verification.headers))
        click.echo(f"{service}: {verification.text}")
    else:
        click.echo(printing.data(dict(verification.data), probe_settings.output), nl=False)
    return 0 if verification.good else 1
