"""Table rows about an exposure, response or access log in a gateway's Envoys."""

from __future__ import annotations

from collections.abc import Container
from functools import partial

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import PROXY_CONTAINER, GatewayRef
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.proxystate import ProxyState, UdpStatus
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.pods import ready_pods
from kubectl_istio_udp.state.query_limit import QueryLimit
from kubectl_istio_udp.state.status import is_named_by_tenant


def proxy_rows(
    api: Api, existing: Existing, query_limit: QueryLimit | None = None
) -> list[list[str]]:
    """One row for each ready gateway pod.

    Four columns: the pod, what its Envoy has, the open sessions and their maximum, and the
    cluster's hosts. If a pod cannot be queried, its row shows the error. Empty for what is not at a
    gateway.

    Args:
        api: the cluster.
        existing: the exposure, response or access log.
        query_limit: limits the queries; one for the whole command.
    """
    spec = existing.spec
    gateway: GatewayRef | None = getattr(spec, "gateway", None)
    if spec is None or gateway is None:
        return []
    if is_named_by_tenant(existing):
        return []
    rows, query_limit = [], query_limit or QueryLimit()
    for pod in ready_pods(api, gateway.namespace, gateway.selector):
        where = (gateway.namespace, pod.name)
        try:
            if isinstance(spec, ExposureSpec):
                state, udp = query_limit.call(*where, partial(_read, api, *where, spec))
                cells = [_exposed(spec, port, state, udp) for port in spec.ports]
            else:
                read = partial(proxies.routes, api, *where, spec.object_name)
                routes = [f"route {route}" for route in sorted(query_limit.call(*where, read))]
                cells = [[", ".join(routes) or "no route", "", ""]]
        except ClusterError as error:
            cells = [[error.message, "", ""]]
        rows += [[pod.name, *each] for each in cells]
    return rows


def _exposed(
    spec: ExposureSpec, port: ExposedPort, state: ProxyState, udp: UdpStatus | None
) -> list[str]:
    """What an Envoy has for an exposed port, its sessions, and its hosts."""
    clusters = [spec.cluster_name(port, backend) for backend in port.backends]
    has = [_has("listener", spec.proxy_name(port), state.listeners)]
    has += [_has("cluster", name, state.clusters) for name in clusters]
    hosts = frozenset(host for name in clusters for host in state.hosts.get(name, ()))
    used = udp.connected_to(hosts) if udp else "?"
    return [", ".join(has), f"{used} of {spec.options.max_sessions}", ", ".join(sorted(hosts))]


def _read(
    api: Api, namespace: str, pod: str, spec: ExposureSpec
) -> tuple[ProxyState, UdpStatus | None]:
    state = proxies.proxy_state(api, namespace, pod, f"{spec.object_name}-")
    return state, proxies.udp_status(api, namespace, pod, PROXY_CONTAINER)


def _has(kind: str, name: str, present: Container[str]) -> str:
    return f"{kind} {name}" if name in present else f"no {kind} {name}"
