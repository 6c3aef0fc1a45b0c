"""`expose`: snapshot, plan, check, render, apply, wait."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    Exposure,
    GatewayServiceMode,
    LoadBalancing,
    Options,
)
from kubectl_istio_udp.model.names import MANAGER, check_dns_label
from kubectl_istio_udp.model.plan import ExposeRequest, Plan, plan
from kubectl_istio_udp.model.ports import parse_port_requests

if TYPE_CHECKING:
    from kubectl_istio_udp.checks.findings import Finding
    from kubectl_istio_udp.cluster.client import Api
    from kubectl_istio_udp.cluster.snapshot import GatewayChoice
    from kubectl_istio_udp.model.exposure import ExposureSpec
    from kubectl_istio_udp.model.snapshot import Snapshot
    from kubectl_istio_udp.model.write import Write

_DEFAULTS = Options()


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
    "datagrams of further ones.  [default: what the gateway's Envoy has open files for, at most "
    f"{_DEFAULTS.max_sessions}]",
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
@options.options(*options.wait_options)
@options.dry_run_option
@options.output_option("yaml", "json", "name")
@click.option("--force-conflicts", is_flag=True, help="Take over fields that others changed.")
@click.option(
    "--field-manager", default=MANAGER, show_default=True, help="Owner of the fields written."
)
@options.cluster_options
def command(
    *,
    service: str,
    ports: tuple[str, ...],
    name: str | None,
    gateway: GatewayChoice,
    discovery: str,
    wait: bool,
    timeout: Duration,
    dry_run: str,
    output: str | None,
    force_conflicts: bool,
    field_manager: str,
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
    )
    snapshot = read_snapshot(api, request, gateway, need_proxy=wait and dry_run == "none")
    planned = plan(request, snapshot)
    _check(planned, snapshot)
    _write(
        api,
        planned,
        snapshot,
        manager=field_manager,
        force=force_conflicts,
        dry_run=dry_run,
        output=output,
        timeout=timeout.seconds if wait else 0,
    )


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


def _check(planned: Plan, snapshot: Snapshot) -> None:
    """Tell the findings; refuse where one says that writing would harm.

    Raises:
        Refused: nothing was written.
    """
    from kubectl_istio_udp.checks.expose import check_expose
    from kubectl_istio_udp.checks.findings import Severity, errors
    from kubectl_istio_udp.model.errors import Refused
    from kubectl_istio_udp.output.printing import note, warn

    findings = check_expose(planned.exposure, snapshot)
    refusing = errors(findings)
    if refusing:
        first, *others = refusing
        raise Refused(
            f"{first}; nothing was written",
            hints=[*_hints(first), *(str(finding) for finding in others)],
        )
    discovery = planned.exposure.spec.discovery.value
    because = f": {planned.reason}" if planned.reason else ""
    note(f"endpoints are found by {discovery}{because}")
    for finding in findings:
        tell = warn if finding.severity is Severity.WARNING else note
        tell(str(finding))
        for hint in _hints(finding):
            note(f"  {hint}")


def _hints(finding: Finding) -> list[str]:
    return [finding.hint] if finding.hint else []


def _write(
    api: Api,
    planned: Plan,
    snapshot: Snapshot,
    *,
    manager: str,
    force: bool,
    dry_run: str,
    output: str | None,
    timeout: float,
) -> None:
    from kubectl_istio_udp.cluster.writing import Transaction, prune
    from kubectl_istio_udp.output import printing
    from kubectl_istio_udp.render.exposure import writes

    exposure = planned.exposure
    todo = writes(exposure, manager)
    if dry_run == "client":
        _print_applied([(write, "serverside-applied") for write in todo], dry_run, output, [])
        return
    done: list[tuple[Write, str]] = []
    manifests: list[Mapping[str, Any]] = []
    with Transaction(api, force=force, dry_run=dry_run == "server") as transaction:
        for write in todo:
            applied = transaction.apply(write)
            for text in applied.warnings if applied.verb != "unchanged" else ():
                # Istio says this of every EnvoyFilter; keeping it sound is what we are for.
                if not text.startswith("EnvoyFilter exposes internal implementation details"):
                    printing.warn(text)
            done.append(
                (write, "unchanged" if applied.verb == "unchanged" else "serverside-applied")
            )
            manifests.append(applied.manifest)
        if timeout and dry_run == "none":
            _wait(api, exposure, todo, snapshot, timeout, transaction)
            _check_not_overtaken(api, exposure.spec)
    _print_applied(done, dry_run, output, manifests)
    gone = prune(api, snapshot, exposure.spec, todo, dry_run=dry_run == "server")
    for kind, name in gone:
        click.echo(printing.deleted_line(kind, name, dry_run), err=output is not None)
    if dry_run == "none" and output is None:
        _print_addresses(api, exposure, bool(timeout))


def _wait(
    api: Api,
    exposure: Exposure,
    todo: Sequence[Write],
    snapshot: Snapshot,
    timeout: float,
    transaction: Any,
) -> None:
    """Wait for the gateway; a refusal takes everything back, a timeout nothing."""
    from kubectl_istio_udp.cluster.snapshot import ready_addresses
    from kubectl_istio_udp.cluster.waiting import Expected, wait_until_live
    from kubectl_istio_udp.model.errors import Interrupted, Rejected
    from kubectl_istio_udp.output.printing import Progress
    from kubectl_istio_udp.render.envoyfilter import revisions

    written = revisions(next(w.manifest for w in todo if w.kind == "EnvoyFilter"))
    spec = exposure.spec
    expected = Expected(
        prefix=f"{spec.object_name}-",
        listeners=written["LISTENER"],
        clusters=written["CLUSTER"],
        hosts=lambda: ready_addresses(api, exposure),
    )
    progress = Progress()
    try:
        wait_until_live(
            api, spec.gateway.namespace, spec.gateway.selector, expected, timeout, progress
        )
    except Rejected:
        raise
    except KeyboardInterrupt:
        transaction.keep()
        raise Interrupted(
            "interrupted while waiting for the gateway; what was applied stays",
            hints=[f"see how it is: kubectl istio-udp get -n {spec.namespace} {spec.name}"],
        ) from None
    except BaseException:
        transaction.keep()
        raise
    finally:
        progress.clear()


def _check_not_overtaken(api: Api, spec: ExposureSpec) -> None:
    """Make sure that what was written is still what is there.

    Raises:
        ClusterError: another `expose` of the same exposure, at the same time, came last.
    """
    from kubectl_istio_udp.cluster.exposures import spec_of
    from kubectl_istio_udp.model.errors import ClusterError

    found = api.find("EnvoyFilter", spec.gateway.namespace, spec.object_name)
    if found is None or spec_of(found) != spec:
        raise ClusterError(
            f"exposure {spec.name} was changed by somebody else meanwhile",
            hints=[f"see how it is: kubectl istio-udp get -n {spec.namespace} {spec.name}"],
        )


def _print_applied(
    done: Sequence[tuple[Write, str]],
    dry_run: str,
    output: str | None,
    manifests: Sequence[Mapping[str, Any]],
) -> None:
    from kubectl_istio_udp.output import printing

    if output in ("yaml", "json"):
        shown = manifests or [write.manifest for write, _ in done]
        click.echo(printing.documents(shown, output), nl=False)
        return
    for write, outcome in done:
        if output == "name":
            click.echo(printing.resource(write.kind, write.name))
        else:
            click.echo(printing.object_line(write.kind, write.name, outcome, dry_run))


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
