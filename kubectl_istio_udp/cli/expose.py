"""`expose`: parse, expose, and print the addresses for clients."""

from __future__ import annotations

from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import applying_options
from kubectl_istio_udp.cli.flags import Command
from kubectl_istio_udp.model.exposure import (
    MOST_USEFUL_SESSIONS,
    Affinity,
    GatewayServiceMode,
    LoadBalancing,
    Options,
)

_DEFAULTS = Options()


def _values(enumeration: Any) -> click.Choice[str]:
    return click.Choice([member.value for member in enumeration])


class _Rate(click.FloatRange):
    """A number in a range. click takes `nan` for one."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse the value."""
        found: float = super().convert(value, param, ctx)
        if found != found:
            self.fail(f"{value!r} is not a number", param, ctx)
        return found


@click.command("expose", cls=Command)
@click.argument("service")
@click.option(
    "-p",
    "--port",
    "ports",
    multiple=True,
    metavar="GATEWAY_PORT[:SERVICE_PORT]",
    help="Gateway port, and the Service port (number or name) that it leads to; repeatable. "
    "Ranges: 20000-20031, 20000-20031:30000-30031, 20000-20031:53. "
    "An existing exposure keeps its other ports. A new exposure without -p gets every UDP port "
    "of the Service, with the same number.",
)
@click.option(
    "--remove-port",
    "remove_ports",
    multiple=True,
    metavar="GATEWAY_PORT",
    help="Gateway port, or range of ports, to remove from the exposure; repeatable.",
)
@click.option("--name", help="Name of the exposure.  [default: the name of the Service]")
@options.gateway_options
@click.option(
    "--discovery",
    type=click.Choice(["auto", "selector", "endpoints", "static"]),
    help="How the gateway learns the endpoints. selector: istiod follows the Service's ready "
    "pods; endpoints: a list of addresses in a ServiceEntry, updated by expose or the controller; "
    "static: addresses in the EnvoyFilter. auto: selector if the Service allows it, else "
    "endpoints.  [default: auto]",
)
@click.option(
    "--max-sessions",
    type=int,
    help="Maximum number of concurrent client sessions for each port in each gateway pod. Envoy "
    "drops the datagrams of additional clients.  [default: a sixteenth of what the gateway has "
    "left]",
)
@click.option(
    "--expect-rate",
    type=_Rate(0, MOST_USEFUL_SESSIONS, min_open=True),
    metavar="N",
    help="Expected number of new client ports a second, at each port and at the busiest time. "
    "Sets --max-sessions accordingly.",
)
@click.option(
    "--idle-timeout",
    type=options.DURATION,
    help="How long a session without datagrams stays open. Raise it if the server sends first "
    "after a longer silence (SIP registrations, games, tunnels).  "
    f"[default: {_DEFAULTS.idle_timeout}]",
)
@click.option(
    "--max-datagram-size",
    type=int,
    metavar="BYTES",
    help="Maximum size of a datagram's payload, in both directions.  "
    f"[default: {_DEFAULTS.max_datagram_size}]",
)
@click.option(
    "--affinity",
    type=_values(Affinity),
    help="source-ip: send all sessions of a client address to the same pod, separately for each "
    f"exposed port unless --discovery is static.  [default: {_DEFAULTS.affinity.value}]",
)
@click.option(
    "--load-balancing",
    type=_values(LoadBalancing),
    help="How to choose the pod for a new session.  [default: round-robin; maglev with --affinity "
    "source-ip]",
)
@click.option(
    "--session-log/--no-session-log",
    default=None,
    help="Make the gateway log every session when it ends.  [default: no]",
)
@click.option(
    "--gateway-service",
    type=_values(GatewayServiceMode),
    help="How clients reach the port. companion: a new Service beside the gateway's own; patch: a "
    f"port added to the gateway's own Service; none: neither.  "
    f"[default: {_DEFAULTS.gateway_service.value}]",
)
@click.option(
    "--api",
    type=click.Choice(["istio", "udproute"]),
    default="istio",
    show_default=True,
    help="What to write. istio: the EnvoyFilter and the other objects of an exposure; udproute: a "
    "Gateway and UDPRoutes, which the controller serves (`controller install --gateway-api`). "
    "`--as udproute` is the same.",
)
@applying_options(waiting=True)
@options.cluster_options
def command(**values: Any) -> None:
    """Make a Service's UDP ports reachable through an Istio gateway.

    Checks the Service, its pods and the gateway, and writes nothing that could harm the gateway.
    Then writes the objects, and waits until the Envoy of every ready gateway pod has them.

    Run it again to change a setting. Settings that you do not name stay as they are; the defaults
    below are for new exposures. Each change is shown as `old -> new` before it is written.
    """
    from kubectl_istio_udp.cli.run import expose

    expose.run(**values)
