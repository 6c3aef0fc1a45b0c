"""`access-log`: read the cluster, decide, and write."""

from __future__ import annotations

from dataclasses import dataclass

from kubectl_istio_udp.apply.changes import change_set
from kubectl_istio_udp.apply.deleting import delete_one
from kubectl_istio_udp.apply.pipeline import Decision, Report, apply_decision
from kubectl_istio_udp.checks.accesslog import check_access_log
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.accesslog import AccessLogSpec, LogScope
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.mesh import Mesh
from kubectl_istio_udp.model.write_options import WriteOptions
from kubectl_istio_udp.plan.accesslog import plan_access_log
from kubectl_istio_udp.render.accesslog import access_log_writes
from kubectl_istio_udp.sources.accesslog import NamedAccessLog
from kubectl_istio_udp.state.accesslogs import read_access_log_snapshot
from kubectl_istio_udp.state.existing import get_existing
from kubectl_istio_udp.state.gateways import find_gateway
from kubectl_istio_udp.state.leftovers import Leftovers
from kubectl_istio_udp.state.mesh import read_mesh


@dataclass(frozen=True)
class LogTarget:
    """The place of an access log.

    Attributes:
        namespace: the namespace of its EnvoyFilter.
        gateway: the gateway's name; None if it is not at a gateway.
        labels: the labels of the pods; empty for all pods.
    """

    namespace: str
    gateway: str | None
    labels: dict[str, str]


def log_connections(
    api: Api,
    namespace: str,
    named: NamedAccessLog,
    gateway: GatewayChoice,
    writing: WriteOptions,
    report: Report,
) -> AccessLogSpec:
    """Create or change an access log as requested on a command line.

    Args:
        api: the cluster.
        namespace: the namespace of the command line.
        named: the named settings.
        gateway: how the gateway is chosen, if the log is at one.
        writing: how to write.
        report: informed about each step.

    Returns:
        The access log as written.

    Raises:
        UsageError: it is not possible as requested.
        Refused, Rejected or an error of the cluster; everything was rolled back then.
    """
    mesh = read_mesh(api)
    target = _find_target(api, namespace, named, gateway, mesh)
    name = named.name_at(target.gateway, target.labels)
    snapshot = read_access_log_snapshot(api, mesh, target.namespace, name)
    wanted = named.spec(target.namespace, name, target.labels, snapshot.present)
    planned = plan_access_log(wanted, snapshot, named=named.name is not None)
    spec, count = planned.spec, planned.proxies
    decision = Decision(
        spec=spec,
        before=snapshot.present,
        summary=f"applies to {count} {'proxy' if count == 1 else 'proxies'}, by "
        f"{spec.log_field.value}",
        findings=check_access_log(spec, snapshot),
        changes=change_set(
            spec.kind, spec.key, snapshot.objects, writes=access_log_writes(spec, writing.manager)
        ),
    )
    apply_decision(api, decision, writing, report, {spec.log_field.value: "--every"})
    return spec


def stop_logging(
    api: Api,
    namespace: str,
    named: NamedAccessLog,
    gateway: GatewayChoice,
    writing: WriteOptions,
    report: Report,
) -> None:
    """Delete the access log that `log_connections` with the same arguments would change.

    Raises:
        NotFound: there is none.
        UsageError or an error of the cluster.
    """
    target = _find_target(api, namespace, named, gateway, read_mesh(api))
    name = named.name_at(target.gateway, target.labels)
    for existing in get_existing(api, target.namespace, [f"accesslog/{name}"]):
        delete_one(api, existing, Leftovers(), writing, report)


def _find_target(
    api: Api, namespace: str, named: NamedAccessLog, choice: GatewayChoice, mesh: Mesh
) -> LogTarget:
    """Find the namespace of the EnvoyFilter and the pods that it applies to."""
    if named.scope is LogScope.MESH:
        return LogTarget(mesh.root_namespace, None, dict(named.selector))
    if named.scope is LogScope.GATEWAY:
        ref = find_gateway(api, choice).ref
        return LogTarget(ref.namespace, ref.name, dict(ref.selector))
    if namespace == mesh.root_namespace:
        raise UsageError(
            f"an EnvoyFilter in {namespace}, the mesh's root namespace, applies to every proxy",
            hints=[
                "to log in the whole mesh: --mesh",
                "to log at one gateway: --gateway NAMESPACE/NAME",
            ],
        )
    return LogTarget(namespace, None, dict(named.selector))
