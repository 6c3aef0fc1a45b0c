"""`controller status`: how the controller does, and whose wishes are not met."""

from __future__ import annotations

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.render.controller import LEASE, NAME


@click.command("status")
@options.controller_options
def command(*, common: options.Common) -> int:
    """Say how the controller does, and which wishes are not met, and why.

    Exits 1 where no replica leads, or a wish is not met.
    """
    from kubectl_istio_udp.cluster.controllers import read_controller
    from kubectl_istio_udp.output import printing

    api = common.connect()
    namespace = common.namespace_of(api)
    found = read_controller(api, namespace, NAME, LEASE)
    if found.deployment is None:
        printing.note(f"there is no controller in namespace {namespace}")
        printing.note("  put it there: kubectl istio-udp controller install")
        return 1
    spec = found.deployment["spec"]
    replicas = f"{found.ready}/{spec['replicas']}"
    image = spec["template"]["spec"]["containers"][0]["image"]
    row = [NAME, replicas, found.holder or "<none>", len(found.exposures), len(found.unmet), image]
    headers = ["controller", "ready", "leader", "exposures", "unmet", "image"]
    click.echo(printing.table([row], headers))
    if found.unmet:
        click.echo()
        click.echo(printing.table(found.unmet, ["namespace", "service", "why not"]))
    return 0 if found.ready and found.holder and not found.unmet else 1
