"""`expose`: expose the Service, and print where clients reach it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import click

from kubectl_istio_udp.apply.exposing import ExposeArguments, Exposed, expose
from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import Applying
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.cli.run.printed import Printed
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.exposure import (
    Affinity,
    GatewayServiceMode,
    LoadBalancing,
)
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.names import check_dns_label
from kubectl_istio_udp.model.ports import (
    number_ranges,
    parse_port_requests,
    parse_removed_ports,
    port_runs,
)
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.sources.settings import NamedSettings
from kubectl_istio_udp.state.addresses import client_addresses

_UDPROUTE = "udproute"
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


def run(
    *,
    service: str,
    ports: tuple[str, ...],
    remove_ports: tuple[str, ...],
    name: str | None,
    gateway: GatewayChoice,
    api: str,
    applying: Applying,
    common: options.Common,
    **named: Any,
) -> None:
    """Run `expose`, with the values of its options."""
    api_name, common = _api_name(api, common)
    check_dns_label(service, "Service")
    if name:
        check_dns_label(name, "exposure")
    settings = _named(ports, remove_ports, named)
    cluster = connect(common)
    arguments = ExposeArguments(namespace_of(common, cluster), service, name, settings, gateway)
    if api_name == _UDPROUTE:
        from kubectl_istio_udp.apply.exposing_routes import expose_by_routes
        from kubectl_istio_udp.apply.gatewayapi import addresses

        written = expose_by_routes(cluster, arguments, applying, Printed(applying), _FLAGS)
        if applying.in_words:
            for address in addresses(written):
                click.echo(f"clients reach {service} at {address}")
        return
    exposed = expose(cluster, arguments, applying, Printed(applying), _FLAGS)
    if applying.in_words:
        _print_addresses(cluster, exposed, applying.waits)


def _api_name(api: str, common: options.Common) -> tuple[str, options.Common]:
    """The value of --api, and the other options.

    `--as` is kubectl's name of the user to impersonate, and no user is named udproute.
    """
    if common.connection.get("as_user") != _UDPROUTE:
        return api, common
    connection = {key: each for key, each in common.connection.items() if key != "as_user"}
    return _UDPROUTE, replace(common, connection=connection)


def _named(
    ports: tuple[str, ...], remove_ports: tuple[str, ...], named: dict[str, Any]
) -> NamedSettings:
    """The settings that the command line names."""
    kinds = {
        "affinity": Affinity,
        "load_balancing": LoadBalancing,
        "gateway_service": GatewayServiceMode,
    }
    read = {
        key: kinds[key](value) if key in kinds and value is not None else value
        for key, value in named.items()
    }
    return NamedSettings(
        ports=parse_port_requests(ports),
        remove_ports=parse_removed_ports(remove_ports),
        **read,
    )


def _print_addresses(api: Api, exposed: Exposed, wait: bool) -> None:
    """Print the addresses for clients, and what to type next."""
    spec = exposed.exposure.spec
    deadline = time.monotonic() + (api.waits.balancer_address if wait else 0)
    addresses = client_addresses(api, spec, deadline, exposed.service)
    for ports in port_runs(spec.ports):
        numbers = number_ranges(port.service_port for port in ports)
        for address in addresses.of(ports):
            click.echo(f"clients reach {spec.service}:{numbers} at {address}")
    if addresses.pending:
        printing.warn(addresses.pending)
