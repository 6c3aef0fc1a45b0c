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
    tell_changes,
    write_all,
)
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Exposure,
    GatewayServiceMode,
    LoadBalancing,
    Options,
)
from kubectl_istio_udp.model.names import check_dns_label
from kubectl_istio_udp.model.ports import parse_port_requests, port_numbers
from kubectl_istio_udp.model.sessions import MOST_USEFUL_SESSIONS

if TYPE_CHECKING:
    from kubectl_istio_udp.apply.transaction import Transaction
    from kubectl_istio_udp.cluster.gateways import GatewayChoice
    from kubectl_istio_udp.kube.client import Api
    from kubectl_istio_udp.model.exposure import ExposureSpec
    from kubectl_istio_udp.model.plan import Plan
    from kubectl_istio_udp.model.settings import Named
    from kubectl_istio_udp.model.snapshot import Snapshot
    from kubectl_istio_udp.model.write import Write
    from kubectl_istio_udp.state.ownership import Existing

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
    from kubectl_istio_udp.apply.reserving import decide_until_it_fits
    from kubectl_istio_udp.output.printing import note

    check_dns_label(service, "Service")
    if name:
        check_dns_label(name, "exposure")
    settings = _named(ports, remove_ports, named)
    api = common.connect()
    namespace = common.namespace_of(api)
    decide_until_it_fits(
        lambda: _decide_and_write(api, (namespace, service, name), settings, gateway, applying),
        note,
    )


def _decide_and_write(
    api: Api,
    about: tuple[str, str, str | None],
    settings: Named,
    gateway: GatewayChoice,
    applying: Applying,
) -> None:
    """Decide on what there is now, and write it.

    Args:
        api: the cluster.
        about: the Service's namespace and name, and the exposure's name.
        settings: what the command line names.
        gateway: which gateway it names.
        applying: how to write.
    """
    from kubectl_istio_udp.cluster.existing import find_exposure
    from kubectl_istio_udp.cluster.snapshot import read_snapshot
    from kubectl_istio_udp.model.plan import plan

    namespace, service, name = about
    existing = find_exposure(api, namespace, name or service)
    _refuse_declared(existing)
    before = existing.exposure
    if before and before.service != service:
        before = None  # which the checks refuse
    request = settings.request(namespace, service, name, before)
    choice = gateway.or_known(before.gateway) if before else gateway
    snapshot = read_snapshot(api, request, choice, existing, need_proxy=applying.waits)
    planned = plan(request, snapshot)
    check_plan(planned, snapshot)
    if before:
        tell_changes(before, planned.exposure.spec)
    _write(api, planned.exposure, snapshot, existing, applying)


def _refuse_declared(existing: Existing) -> None:
    """Leave what a controller made to the controller.

    Raises:
        Refused: it made this exposure; the hints say how to change it.
    """
    from kubectl_istio_udp.cluster.controllers import is_declared
    from kubectl_istio_udp.model.errors import Refused
    from kubectl_istio_udp.model.wish import EXPOSE_ANNOTATION

    if not is_declared(existing):
        return
    namespace, name = existing.namespace, existing.name
    annotate = f"kubectl annotate service -n {namespace} {name}"
    raise Refused(
        f"exposure {name} is managed by the controller, because Service {namespace}/{name} has "
        f"the annotation {EXPOSE_ANNOTATION}; nothing was written",
        hints=[
            f"to change it: {annotate} --overwrite {EXPOSE_ANNOTATION}=PORTS (other settings: "
            "annotations kubectl-istio-udp/OPTION)",
            f"to manage it by command line: {annotate} {EXPOSE_ANNOTATION}-, then (if no "
            f"controller runs any more) kubectl istio-udp delete -n {namespace} {name}, then "
            "expose it again",
        ],
    )


def _named(ports: tuple[str, ...], remove_ports: tuple[str, ...], named: dict[str, Any]) -> Named:
    """The settings that the command line names."""
    from kubectl_istio_udp.model.settings import Named

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


def check_plan(planned: Plan, snapshot: Snapshot) -> None:
    """Tell how endpoints are found, and the findings.

    Raises:
        Refused: a finding says that writing would harm; nothing was written.
    """
    from kubectl_istio_udp.checks.expose import check_expose

    findings = check_expose(planned.exposure, snapshot)
    discovery = planned.exposure.spec.discovery.value
    because = f": {planned.reason}" if planned.reason else ""
    refuse_or_tell(findings, f"endpoint discovery: {discovery}{because}")


def _write(
    api: Api, exposure: Exposure, snapshot: Snapshot, existing: Existing, applying: Applying
) -> None:
    from kubectl_istio_udp.apply.changes import change_set
    from kubectl_istio_udp.apply.reserving import reserved_if_changed
    from kubectl_istio_udp.cluster.leftovers import read_leftovers
    from kubectl_istio_udp.output.printing import warn
    from kubectl_istio_udp.render.exposure import writes

    todo = writes(exposure, applying.manager)
    key = exposure.spec.key
    leftovers = read_leftovers(api, [existing.spec, exposure.spec])
    there = (*existing.objects, *snapshot.objects, *leftovers.stale_reservations(key))
    changes = change_set(exposure.spec.kind, key, there, leftovers.services, todo)

    def wait(transaction: Transaction) -> None:
        had_pods = bool(snapshot.gateway.ready_pods)
        _wait(api, exposure, todo, applying.seconds, transaction, had_pods)
        _check_not_overtaken(api, exposure.spec)

    guard = reserved_if_changed(api, exposure, snapshot, todo, warn)
    write_all(api, changes, applying, wait, _FLAGS, guard)
    if applying.dry_run == "none" and applying.output is None:
        _print_addresses(api, exposure, applying.waits)


def _wait(
    api: Api,
    exposure: Exposure,
    todo: Sequence[Write],
    seconds: float,
    transaction: Transaction,
    had_pods: bool,
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
            api,
            spec.gateway.namespace,
            spec.gateway.selector,
            expected,
            seconds,
            progress,
            had_pods=had_pods,
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
            f"exposure {spec.name} was modified concurrently",
            hints=[f"see its state: kubectl istio-udp get -n {spec.namespace} {spec.name}"],
        )


def _print_addresses(api: Api, exposure: Exposure, wait: bool) -> None:
    """Where clients reach it, and what to type next."""
    from kubectl_istio_udp.cluster.addresses import client_addresses
    from kubectl_istio_udp.model.ports import number_ranges, port_runs
    from kubectl_istio_udp.output import printing

    deadline = time.monotonic() + (_ADDRESS_SECONDS if wait else 0)
    addresses = client_addresses(api, exposure.spec, deadline)
    for ports in port_runs(exposure.spec.ports):
        numbers = number_ranges(port.service_port for port in ports)
        for address in addresses.of(ports):
            click.echo(f"clients reach {exposure.spec.service}:{numbers} at {address}")
    if addresses.pending:
        printing.warn(addresses.pending)


# A load balancer of a local cluster has its address at once; a cloud's takes minutes, for which
# `get` is the better place to look.
_ADDRESS_SECONDS = 3.0
