"""Read the cluster's state for `access-log`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.accesslog import AccessLogSpec
from kubectl_istio_udp.model.deletion import is_being_deleted
from kubectl_istio_udp.model.errors import Forbidden, NotFound, NotInstalled
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.logscope import AccessLogSnapshot, Setting, proxy_of
from kubectl_istio_udp.model.mesh import Mesh
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.state.ownership import readable


def read_access_log_snapshot(api: Api, mesh: Mesh, namespace: str, name: str) -> AccessLogSnapshot:
    """Read everything that a decision about an access log needs.

    Args:
        api: the cluster.
        mesh: the mesh's settings; they determine the namespace.
        namespace: the namespace of its EnvoyFilter.
        name: the access log's name.

    Raises:
        Forbidden, Unreachable, ClusterError: something required could not be read.
    """
    everywhere = namespace == mesh.root_namespace
    own_name = names.object_name(namespace, name, Kind.ACCESS_LOG)
    calls: list[Callable[[], Any]] = [
        lambda: _list_applicable(api, "EnvoyFilter", namespace, mesh, everywhere),
        lambda: _list_applicable(api, "Telemetry", namespace, mesh, everywhere),
        lambda: api.list("Pod", None if everywhere else namespace),
    ]
    filters, telemetries, pods = in_parallel(calls)
    existing = [
        f
        for f in filters
        if namespaced_name(f) == (namespace, own_name) and not is_being_deleted(f)
    ]
    return AccessLogSnapshot(
        mesh=mesh,
        telemetry_logs=any(map(_turns_logging_on, telemetries)),
        settings=tuple(filter(None, map(Setting.from_object, filters))),
        proxies=tuple(filter(None, map(proxy_of, pods))),
        objects=tuple(existing),
        present=readable(existing[0], AccessLogSpec) if existing else None,
    )


def _list_applicable(
    api: Api, kind: str, namespace: str, mesh: Mesh, everywhere: bool
) -> list[dict[str, Any]]:
    """The objects that may apply to the same proxies: the namespace's and the root namespace's.

    Those of the root namespace are skipped if they may not be read.
    """
    try:
        if everywhere:
            return api.list(kind)
        found = api.list(kind, namespace)
        try:
            return found + api.list(kind, mesh.root_namespace)
        except Forbidden:
            return found
    except (NotFound, NotInstalled):
        return []


def _turns_logging_on(telemetry: Mapping[str, Any]) -> bool:
    """Whether a Telemetry has an enabled accessLogging entry (its API reference)."""
    entries = (telemetry.get("spec") or {}).get("accessLogging") or ()
    return any(not entry.get("disabled") for entry in entries)
