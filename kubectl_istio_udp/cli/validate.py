"""`validate`: check EnvoyFilters with a real Envoy, without a cluster."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.flags import Command


@click.command("validate", cls=Command)
@options.filename_option
@options.envoy_option
@options.output_option("text", "json", default="text")
@options.verbose_option
def command(**values: Any) -> int:
    """Check with a real Envoy whether it accepts EnvoyFilters, without a cluster.

    Works for all EnvoyFilters, not only for the plugin's own. Prints the line of each field that
    Envoy rejects.

    Exits with 0 if Envoy accepts all, 1 if it rejects one, 2 if the files have no EnvoyFilter, 3
    if there is no Envoy on this machine.
    """
    from kubectl_istio_udp.cli.run import validate

    return validate.run(**values)
