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
    refused = {(each.kind, each.namespace, each.name) for each in found.failing}
    unmet = len(found.unmet) + len(refused)
    row = [NAME, replicas, found.holder or "<none>", len(found.exposures), unmet, image]
    headers = ["controller", "ready", "leader", "exposures", "unmet", "image"]
    click.echo(printing.table([row], headers))
    if found.unmet:
        click.echo()
        rows = [
            [unmet.namespace, unmet.name, "as before" if unmet.exposed else "no", unmet.reason]
            for unmet in found.unmet
        ]
        click.echo(printing.table(rows, ["namespace", "service", "exposed", "why not"]))
    if found.failing:
        click.echo()
        rows = [
            [
                each.namespace,
                f"{each.kind}/{each.name}",
                each.part,
                each.type,
                each.reason,
                each.message,
            ]
            for each in found.failing
        ]
        headers = ["namespace", "object", "at", "condition", "reason", "message"]
        click.echo(printing.table(rows, headers))
    return 0 if found.ready and found.holder and not unmet else 1
