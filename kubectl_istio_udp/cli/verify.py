"""`verify`: test exposures, responses and access logs, and show what is broken."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.flags import Command
from kubectl_istio_udp.cli.probe_options import probe_options


@click.command("verify", cls=Command)
@click.argument("names", nargs=-1, metavar="[[TYPE/]NAME]...")
@click.option(
    "--all",
    "all_names",
    is_flag=True,
    help="Verify all exposures, responses and access logs in the namespace.",
)
@options.all_namespaces_option
@options.gateway_namespaces_option
@click.option(
    "--to",
    metavar="SERVICE[:PORT]",
    help="For access logs: Service to hold a TCP connection to.  [default: an echo server that "
    "runs for the test]",
)
@probe_options
@options.cluster_options
def command(**values: Any) -> int:
    """Test exposures, responses and access logs end to end, and show what is broken.

    Sends from the network-tool pod. An exposure is queried at each pod of the Service, at each
    gateway pod, and at the Service in front of the gateway. A response (response/NAME) is
    requested from each gateway pod and from the gateway's Service. For an access log
    (accesslog/NAME) a TCP connection is held open until its lines show the interval.

    Exits with 0 if every test passes, else with 1.
    """
    from kubectl_istio_udp.cli.run import verify

    return verify.run(**values)
