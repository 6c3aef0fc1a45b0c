"""`demo`: expose and verify on this machine, with a real Envoy and no cluster."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.flags import Command
from kubectl_istio_udp.model.errors import IstioUdpError

# The ports of the samples, as in the README's example.
SAMPLES_PORT = "5300:53"


@click.command("demo", cls=Command)
@click.argument("service", required=False)
@options.filename_option
@click.option(
    "-p",
    "--port",
    "ports",
    multiple=True,
    metavar="GATEWAY_PORT[:SERVICE_PORT]",
    help=f"As for expose.  [default: {SAMPLES_PORT} for the samples]",
)
@options.envoy_option
@click.option("--keep", is_flag=True, help="Keep running until Ctrl-C.")
@options.verbose_option
def command(**values: Any) -> int:
    """Expose and verify a Service on this machine, with a real Envoy and no cluster.

    Reads a Service, its pods and the gateway from manifests (-f), or uses the samples. Plans,
    checks and renders the exposure as expose does. Runs each pod as a DNS server on a loopback
    address, and the gateway as an Envoy on 127.0.0.1. Then queries all of them, and replaces the
    pods under queries as a rolling restart does.

    Leaves nothing behind. Exits with 0 if every query was answered, else with 1; with 3 if there
    is no Envoy on this machine.
    """
    try:
        from kubectl_istio_udp.cli.run import demo
    except ModuleNotFoundError as error:
        raise IstioUdpError(
            f"the demo's DNS server needs dnspython (module {error.name})",
            hints=["install it: pip install dnspython"],
        ) from error

    return demo.run(samples_port=SAMPLES_PORT, **values)
