"""`access-log`: read, check, render, apply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.applying import Applying, Printed, applying_options
from kubectl_istio_udp.model.accesslog import Direction, Reach
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.names import check_dns_label

if TYPE_CHECKING:
    from kubectl_istio_udp.kube.client import Api
    from kubectl_istio_udp.model.accesslog import AccessLogSpec
    from kubectl_istio_udp.model.mesh import Mesh
    from kubectl_istio_udp.state.gateways import GatewayChoice

_EVERY = Duration(5)


@click.command("access-log")
@click.option(
    "--every",
    type=options.DURATION,
    help=f"Interval between two lines of a connection, at least 1ms.  [default: {_EVERY}]",
)
@click.option("--mesh", is_flag=True, help="Apply to the whole mesh instead of to one namespace.")
@options.gateway_options
@click.option(
    "-l",
    "--selector",
    metavar="KEY=VALUE,...",
    help="Select pods with these labels only.",
)
@click.option(
    "--direction",
    type=click.Choice([direction.value for direction in Direction]),
    help="Log connections that sidecars accept (inbound), open (outbound), or both.  "
    f"[default: {Direction.ANY.value}]",
)
@click.option("--off", is_flag=True, help="Delete the access log instead of creating it.")
@click.option("--name", help="Name of the access log.  [default: derived from the other options]")
@applying_options(waiting=False)
@options.cluster_options
def command(
    *,
    every: Duration | None,
    mesh: bool,
    gateway: GatewayChoice,
    selector: str | None,
    direction: str | None,
    off: bool,
    name: str | None,
    applying: Applying,
    common: options.Common,
) -> None:
    """Make proxies log open TCP connections periodically, not only when they end.

    Applies to the pods of a namespace (-n), to the whole mesh (--mesh), or to a gateway
    (--gateway). Run it again to change a setting. Settings that you do not name stay as they are.
    """
    from kubectl_istio_udp.apply.changes import change_set
    from kubectl_istio_udp.apply.pipeline import Decision, carry
    from kubectl_istio_udp.checks.accesslog import check_access_log
    from kubectl_istio_udp.model.accesslog import AccessLogSpec, default_name
    from kubectl_istio_udp.render.accesslog import access_log_writes
    from kubectl_istio_udp.state.accesslogs import read_access_log_snapshot
    from kubectl_istio_udp.state.mesh import read_mesh

    labels = dict(options.parse_labels(selector, "--selector"))
    reach = _reach(mesh, gateway, labels, common)
    api = common.connect()
    settings = read_mesh(api)
    namespace, chosen, labels = _place(api, reach, gateway, labels, settings, common)
    given = check_dns_label(name, "access log") if name else None
    named = Direction(direction) if direction else None
    ours = given or default_name(reach, labels, chosen, named or Direction.ANY)
    if off:
        _take_off(api, namespace, ours, applying)
        return
    snapshot = read_access_log_snapshot(api, settings, namespace, ours)
    # Settings that are not named keep their values.
    before = snapshot.present if snapshot.present and snapshot.present.reach is reach else None
    spec = AccessLogSpec(
        namespace=namespace,
        name=ours,
        every=every or (before.every if before else _EVERY),
        reach=reach,
        selector=before.selector if before and given and not labels else labels,
        direction=named or (before.direction if before else Direction.ANY),
    )
    _check_name(spec, snapshot.present, given)
    versions = [proxy.istio for proxy in snapshot.reached(spec)]
    spec = spec.understood_by(settings.istio, versions)
    writes = access_log_writes(spec, applying.manager)
    decision = Decision(
        spec=spec,
        before=snapshot.present,
        said=f"applies to {len(versions)} {'proxy' if len(versions) == 1 else 'proxies'}, by "
        f"{spec.log_field.value}",
        findings=check_access_log(spec, snapshot),
        changes=change_set(spec.kind, spec.key, snapshot.objects, writes=writes),
    )
    carry(api, decision, applying, Printed(applying), {spec.log_field.value: "--every"})
    if applying.in_words:
        to = " --to SERVICE" if labels else ""
        click.echo(
            f"test it: kubectl istio-udp verify -n {namespace} accesslog/{ours}{to}", err=True
        )


def _check_name(spec: AccessLogSpec, present: AccessLogSpec | None, given: str | None) -> None:
    """Refuse an existing name that was derived from labels, if the labels differ."""
    if given is None and present is not None and present.selector != spec.selector:
        labels = ",".join(f"{key}={value}" for key, value in present.selector.items())
        raise UsageError(
            f"access log {spec.name} already exists, for pods with the labels {labels}",
            hints=[f"to change it: --name {spec.name}; to create another one: --name NAME"],
        )


def _reach(
    mesh: bool, gateway: GatewayChoice, labels: dict[str, str], common: options.Common
) -> Reach:
    at_gateway = bool(gateway.name or gateway.selector)
    if mesh and at_gateway:
        raise UsageError("--mesh cannot be combined with --gateway: it already includes gateways")
    if mesh and common.namespace:
        raise UsageError("--mesh cannot be combined with -n: it already includes all namespaces")
    if at_gateway and labels:
        raise UsageError("-l cannot be combined with --gateway: a gateway has its own labels")
    return Reach.MESH if mesh else Reach.GATEWAY if at_gateway else Reach.NAMESPACE


def _place(
    api: Api,
    reach: Reach,
    choice: GatewayChoice,
    labels: dict[str, str],
    mesh: Mesh,
    common: options.Common,
) -> tuple[str, str | None, dict[str, str]]:
    """The EnvoyFilter's namespace, the gateway's name (None without one), and the pod labels."""
    if reach is Reach.MESH:
        return mesh.root_namespace, None, labels
    if reach is Reach.GATEWAY:
        from kubectl_istio_udp.state.gateways import find_gateway

        ref = find_gateway(api, choice).ref
        return ref.namespace, ref.name, dict(ref.selector)
    namespace = common.namespace_of(api)
    if namespace == mesh.root_namespace:
        raise UsageError(
            f"an EnvoyFilter in {namespace}, the mesh's root namespace, applies to every proxy",
            hints=[
                "to log in the whole mesh: --mesh",
                "to log at one gateway: --gateway NAMESPACE/NAME",
            ],
        )
    return namespace, None, labels


def _take_off(api: Api, namespace: str, name: str, applying: Applying) -> None:
    from kubectl_istio_udp.apply.deletion import delete_existing
    from kubectl_istio_udp.state.existing import get_existing
    from kubectl_istio_udp.state.leftovers import Leftovers

    report = Printed(applying)
    for existing in get_existing(api, namespace, [f"accesslog/{name}"]):
        warnings = delete_existing(
            api,
            existing,
            Leftovers(),
            timeout=0,
            dry_run=applying.dry_run,
            report=lambda kind, _, name: report.removed(kind, name),
        )
        for text in warnings:
            report.warn(text)
