"""`expose`: parse, expose, and print the addresses for clients."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import Applying, Printed, applying_options
from kubectl_istio_udp.model.exposure import (
    MOST_USEFUL_SESSIONS,
    Affinity,
    Exposure,
    GatewayServiceMode,
    LoadBalancing,
    Options,
)
from kubectl_istio_udp.model.names import check_dns_label
from kubectl_istio_udp.model.ports import parse_port_requests, port_numbers

if TYPE_CHECKING:
    from kubectl_istio_udp.kube.client import Api
    from kubectl_istio_udp.sources.settings import Named
    from kubectl_istio_udp.state.gateways import GatewayChoice

_DEFAULTS = Options()
# The option for each field of a listener or cluster.
_FLAGS = {
    "port_value": "-p",
    "name": "--name",
    "stat_prefix": "--name",
    "idle_timeout": "--idle-timeout",
    "max_connections": "--max-sessions",
    "max_rx_datagram_size": "--max-datagram-size",
    "hash_policies": "--affinity",
    "lb_policy": "--load-balancing",
    "access_log": "--session-log",
    "load_assignment": "--discovery",
}


def _values(enumeration: Any) -> click.Choice[str]:
    return click.Choice([member.value for member in enumeration])


@click.command("expose")
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
    type=click.FloatRange(0, MOST_USEFUL_SESSIONS, min_open=True),
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
@applying_options(waiting=True)
@options.cluster_options
def command(
    *,
    service: str,
    ports: tuple[str, ...],
    remove_ports: tuple[str, ...],
    name: str | None,
    gateway: GatewayChoice,
    applying: Applying,
    common: options.Common,
    **named: Any,
) -> None:
    """Make a Service's UDP ports reachable through an Istio gateway.

    Checks the Service, its pods and the gateway, and writes nothing that could harm the gateway.
    Then writes the objects, and waits until the Envoy of every ready gateway pod has them.

    Run it again to change a setting. Settings that you do not name stay as they are; the defaults
    below are for new exposures. Each change is shown as `old -> new` before it is written.
    """
    from kubectl_istio_udp.apply.exposing import Asked, expose

    check_dns_label(service, "Service")
    if name:
        check_dns_label(name, "exposure")
    settings = _named(ports, remove_ports, named)
    api = common.connect()
    asked = Asked(common.namespace_of(api), service, name, settings, gateway)
    exposure = expose(api, asked, applying, Printed(applying), _FLAGS)
    if applying.in_words:
        _print_addresses(api, exposure, applying.waits)


def _named(ports: tuple[str, ...], remove_ports: tuple[str, ...], named: dict[str, Any]) -> Named:
    """The settings that the command line names."""
    from kubectl_istio_udp.sources.settings import Named

    kinds = {
        "affinity": Affinity,
        "load_balancing": LoadBalancing,
        "gateway_service": GatewayServiceMode,
    }
    read = {
        key: kinds[key](value) if key in kinds and value is not None else value
        for key, value in named.items()
    }
    return Named(
        ports=parse_port_requests(ports),
        remove_ports=tuple(
            number for text in remove_ports for number in port_numbers(text, "gateway port")
        ),
        **read,
    )


def _print_addresses(api: Api, exposure: Exposure, wait: bool) -> None:
    """Print the addresses for clients, and what to type next."""
    from kubectl_istio_udp.model.ports import number_ranges, port_runs
    from kubectl_istio_udp.output import printing
    from kubectl_istio_udp.state.addresses import client_addresses

    deadline = time.monotonic() + (api.waits.balancer_address if wait else 0)
    addresses = client_addresses(api, exposure.spec, deadline)
    for ports in port_runs(exposure.spec.ports):
        numbers = number_ranges(port.service_port for port in ports)
        for address in addresses.of(ports):
            click.echo(f"clients reach {exposure.spec.service}:{numbers} at {address}")
    if addresses.pending:
        printing.warn(addresses.pending)
