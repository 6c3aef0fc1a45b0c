"""`controller status`: read and print the state of the controller."""

from __future__ import annotations

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.render.controller import LEASE, NAME
from kubectl_istio_udp.state.controllers import read_controller


def run(*, common: options.Common) -> int:
    """Run `controller status`, with the values of its options; the exit code."""
    api = connect(common)
    namespace = namespace_of(common, api)
    found = read_controller(api, namespace, NAME, LEASE)
    if found.deployment is None:
        printing.note(f"No controller found in namespace {namespace}.")
        printing.note("  install it: kubectl istio-udp controller install")
        return 1
    spec = found.deployment["spec"]
    replicas = f"{found.ready}/{spec['replicas']}"
    image = spec["template"]["spec"]["containers"][0]["image"]
    row = [NAME, replicas, found.holder or "<none>", len(found.exposures), len(found.unmet), image]
    headers = ["controller", "ready", "leader", "exposures", "unmet", "image"]
    click.echo(printing.table([row], headers))
    if found.unmet:
        click.echo()
        rows = [
            [unmet.namespace, unmet.name, "as before" if unmet.exposed else "no", unmet.reason]
            for unmet in found.unmet
        ]
        click.echo(printing.table(rows, ["namespace", "service", "exposed", "why not"]))
    return 0 if found.ready and found.holder and not found.unmet else 1
