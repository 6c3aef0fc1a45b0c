"""`expose`: snapshot, plan, check, render, apply, wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import (
    Applying,
    applying_options,
    kept_while_waiting,
    refuse_or_tell,
    tell_gone,
    write_all,
)
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    Exposure,
    GatewayServiceMode,
    LoadBalancing,
    Options,
)
from kubectl_istio_udp.model.names import check_dns_label
from kubectl_istio_udp.model.plan import ExposeRequest, Plan, plan
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.model.sessions import MOST_USEFUL_SESSIONS

if TYPE_CHECKING:
    from kubectl_istio_udp.apply.transaction import Transaction
    from kubectl_istio_udp.cluster.gateways import GatewayChoice
    from kubectl_istio_udp.kube.client import Api
    from kubectl_istio_udp.model.exposure import ExposureSpec
    from kubectl_istio_udp.model.snapshot import Snapshot
    from kubectl_istio_udp.model.write import Write

_DEFAULTS = Options()
# What decides a field of a listener or cluster.
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
    help="Port at the gateway, and the Service's port (number or name) behind it; repeatable. "
    "Without it every UDP port of the Service is exposed under its own number.",
)
@click.option("--name", help="Name of the exposure; else the Service's.")
@options.gateway_options
@click.option(
    "--discovery",
    type=click.Choice(["auto", "selector", "endpoints", "static"]),
    default="auto",
    show_default=True,
    help="How endpoints follow the pods. selector: istiod publishes the Service's ready pods; "
    "endpoints: a list of addresses, fresh when written again; static: addresses in the "
    "EnvoyFilter, the last resort. auto takes selector wherever the Service allows it.",
)
@click.option(
    "--max-sessions",
    type=int,
    help="Client ports that a gateway pod serves at once, for each port; Envoy drops the "
    "datagrams of further ones.  [default: a sixteenth of what the gateway has left; an exposure "
    "that exists keeps its number]",
)
@click.option(
    "--expect-rate",
    type=click.FloatRange(0, MOST_USEFUL_SESSIONS, min_open=True),
    metavar="N",
    help="New client ports a second at each port, at the busiest time: sets --max-sessions to "
    "what they need at this --idle-timeout.",
)
@click.option(
    "--idle-timeout",
    type=options.DURATION,
    default=str(_DEFAULTS.idle_timeout),
    show_default=True,
    help="How long a silent client port keeps its session and its pod. Raise it where the "
    "server speaks first after longer silence (SIP registrations, games, tunnels).",
)
@click.option(
    "--max-datagram-size",
    type=int,
    default=_DEFAULTS.max_datagram_size,
    show_default=True,
    metavar="BYTES",
    help="Longest payload that passes, both ways.",
)
@click.option(
    "--affinity",
    type=_values(Affinity),
    default=_DEFAULTS.affinity.value,
    show_default=True,
    help="source-ip keeps all of a client's ports on one pod.",
)
@click.option(
    "--load-balancing",
    type=_values(LoadBalancing),
    help="Which pod a new session gets.  [default: round-robin; with --affinity source-ip maglev]",
)
@click.option(
    "--session-log",
    is_flag=True,
    help="The gateway writes a line to its log for every session that ends.",
)
@click.option(
    "--gateway-service",
    type=_values(GatewayServiceMode),
    default=_DEFAULTS.gateway_service.value,
    show_default=True,
    help="How clients reach the port: a companion Service beside the gateway's own, a port added "
    "to the gateway's own (patch), or neither.",
)
@applying_options(waiting=True)
@options.cluster_options
def command(
    *,
    service: str,
    ports: tuple[str, ...],
    name: str | None,
    gateway: GatewayChoice,
    discovery: str,
    expect_rate: float | None,
    applying: Applying,
    common: options.Common,
    **limits: Any,
) -> None:
    """Make a Service's UDP ports reachable through an Istio gateway.

    Looks at the Service, its pods and the gateway, refuses what would harm the gateway, applies,
    and waits until every ready gateway pod's own Envoy has it. Repeating it changes nothing that
    is already so.
    """
    from kubectl_istio_udp.cluster.snapshot import read_snapshot

    check_dns_label(service, "Service")
    chosen = _options(**limits)
    requests = parse_port_requests(ports)
    api = common.connect()
    request = ExposeRequest(
        namespace=common.namespace_of(api),
        service=service,
        name=check_dns_label(name, "exposure") if name else None,
        ports=requests,
        discovery=None if discovery == "auto" else Discovery(discovery),
        options=chosen,
        automatic_sessions=limits["max_sessions"] is None,
        expect_rate=expect_rate,
    )
    snapshot = read_snapshot(api, request, gateway, need_proxy=applying.waits)
    planned = plan(request, snapshot)
    check_plan(planned, snapshot)
    _write(api, planned.exposure, snapshot, applying)


def _options(
    *,
    max_sessions: int | None,
    idle_timeout: Duration,
    max_datagram_size: int,
    affinity: str,
    load_balancing: str | None,
    session_log: bool,
    gateway_service: str,
) -> Options:
    kept = Affinity(affinity)
    usual = kept.usual_load_balancing
    return Options(
        max_sessions=_DEFAULTS.max_sessions if max_sessions is None else max_sessions,
        idle_timeout=idle_timeout,
        max_datagram_size=max_datagram_size,
        affinity=kept,
        load_balancing=LoadBalancing(load_balancing) if load_balancing else usual,
        session_log=session_log,
        gateway_service=GatewayServiceMode(gateway_service),
    )


def check_plan(planned: Plan, snapshot: Snapshot) -> None:
    """Tell how endpoints are found, and the findings.

    Raises:
        Refused: a finding says that writing would harm; nothing was written.
    """
    from kubectl_istio_udp.checks.expose import check_expose

    findings = check_expose(planned.exposure, snapshot)
    discovery = planned.exposure.spec.discovery.value
    because = f": {planned.reason}" if planned.reason else ""
    refuse_or_tell(findings, f"endpoints are found by {discovery}{because}")


def _write(api: Api, exposure: Exposure, snapshot: Snapshot, applying: Applying) -> None:
    from kubectl_istio_udp.apply.deletion import prune_gateway_ports
    from kubectl_istio_udp.render.exposure import writes

    todo = writes(exposure, applying.manager)

    def wait(transaction: Transaction) -> None:
        _wait(api, exposure, todo, applying.seconds, transaction)
        _check_not_overtaken(api, exposure.spec)

    write_all(api, todo, snapshot.objects, applying, wait, _FLAGS)
    if applying.dry_run == "client":
        return
    dry_run = applying.dry_run == "server"
    tell_gone(
        prune_gateway_ports(api, snapshot.exposures, exposure.spec, dry_run=dry_run), applying
    )
    if applying.dry_run == "none" and applying.output is None:
        _print_addresses(api, exposure, applying.waits)


def _wait(
    api: Api,
    exposure: Exposure,
    todo: Sequence[Write],
    seconds: float,
    transaction: Transaction,
) -> None:
    """Wait for the gateway; a refusal takes everything back, a timeout nothing."""
    from kubectl_istio_udp.cluster.snapshot import ready_addresses
    from kubectl_istio_udp.cluster.waiting import Expected, wait_until_live
    from kubectl_istio_udp.render.envoyfilter import revisions

    written = revisions(next(w.manifest for w in todo if w.kind == "EnvoyFilter"))
    spec = exposure.spec
    expected = Expected(
        prefix=f"{spec.object_name}-",
        listeners=written["LISTENER"],
        clusters=written["CLUSTER"],
        hosts=lambda: ready_addresses(api, exposure),
    )
    kept_while_waiting(
        transaction,
        lambda progress: wait_until_live(
            api, spec.gateway.namespace, spec.gateway.selector, expected, seconds, progress
        ),
        f"kubectl istio-udp get -n {spec.namespace} {spec.name}",
    )


def _check_not_overtaken(api: Api, spec: ExposureSpec) -> None:
    """Make sure that what was written is still what is there.

    Raises:
        ClusterError: another `expose` of the same exposure, at the same time, came last.
    """
    from kubectl_istio_udp.model.errors import ClusterError
    from kubectl_istio_udp.model.exposure import ExposureSpec
    from kubectl_istio_udp.state.ownership import readable

    found = api.find("EnvoyFilter", spec.gateway.namespace, spec.object_name)
    if found is None or readable(found, ExposureSpec) != spec:
        raise ClusterError(
            f"exposure {spec.name} was changed by somebody else meanwhile",
            hints=[f"see how it is: kubectl istio-udp get -n {spec.namespace} {spec.name}"],
        )


def _print_addresses(api: Api, exposure: Exposure, wait: bool) -> None:
    """Where clients reach it, and what to type next."""
    from kubectl_istio_udp.cluster.addresses import client_addresses

    deadline = time.monotonic() + (_ADDRESS_SECONDS if wait else 0)
    addresses = client_addresses(api, exposure.spec, deadline)
    for port in exposure.spec.ports:
        for address in addresses.of(port):
            click.echo(f"clients reach {exposure.spec.service}:{port.service_port} at {address}")
    if addresses.pending:
        click.echo(f"the load balancer has no address yet: {addresses.pending}", err=True)


# A load balancer of a local cluster has its address at once; a cloud's takes minutes, for which
# `get` is the better place to look.
_ADDRESS_SECONDS = 3.0
