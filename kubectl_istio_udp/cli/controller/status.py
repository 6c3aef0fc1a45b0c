"""`controller status`: whether the controller runs, and which requests are not met."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.flags import Command


@click.command("status", cls=Command)
@options.output_option("table", "yaml", "json", default="table")
@options.controller_options
def command(**values: Any) -> int:
    """Show whether the controller runs, and which requests it could not carry out and why.

    Requests are the annotations of Services, and Gateways and UDPRoutes of the Gateway API: each of
    their conditions that reports a problem is shown.

    A Service also counts as unmet if its latest request failed, although an earlier one is still
    exposed.

    Exits with 1 if no replica is the leader, or a request is not met.
    """
    from kubectl_istio_udp.cli.run.controller import status

    return status.run(**values)
