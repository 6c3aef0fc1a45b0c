"""Table rows about an exposure, response or access log in a gateway's Envoys."""

from __future__ import annotations

from collections.abc import Container

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import PROXY_CONTAINER, GatewayRef
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.pods import ready_pods


def proxy_rows(api: Api, existing: Existing) -> list[list[str]]:
    """One row for each ready gateway pod.

    Four columns: the pod, what its Envoy has, the open sessions and their maximum, and the
    cluster's hosts. If a pod cannot be queried, its row shows the error. Empty for what is not at a
    gateway.
    """
    spec = existing.spec
    gateway: GatewayRef | None = getattr(spec, "gateway", None)
    if spec is None or gateway is None:
        return []
    if isinstance(spec, ExposureSpec) and existing.object("EnvoyFilter") is None:
        # Nothing in the gateway's namespace names this gateway. Do not exec into pods that only a
        # tenant's ServiceEntry names.
        return []
    rows = []
    for pod in ready_pods(api, gateway.namespace, gateway.selector):
        try:
            if isinstance(spec, ExposureSpec):
                prefix = f"{spec.object_name}-"
                state = proxies.proxy_state(api, gateway.namespace, pod.name, prefix)
                udp = proxies.udp_status(api, gateway.namespace, pod.name, PROXY_CONTAINER)
                for port in spec.ports:
                    listener = spec.proxy_name(port)
                    clusters = [spec.cluster_name(port, backend) for backend in port.backends]
                    has = [_has("listener", listener, state.listeners)]
                    has += [_has("cluster", name, state.clusters) for name in clusters]
                    hosts = frozenset(
                        host for name in clusters for host in state.hosts.get(name, ())
                    )
                    used = udp.connected_to(hosts) if udp else "?"
                    sessions = f"{used} of {spec.options.max_sessions}"
                    rows.append([pod.name, ", ".join(has), sessions, ", ".join(sorted(hosts))])
            else:
                routes = proxies.routes(api, gateway.namespace, pod.name, spec.object_name)
                has = [f"route {route}" for route in sorted(routes)]
                rows.append([pod.name, ", ".join(has) or "no route", "", ""])
        except ClusterError as error:
            rows.append([pod.name, error.message, "", ""])
    return rows


def _has(kind: str, name: str, there: Container[str]) -> str:
    return f"{kind} {name}" if name in there else f"no {kind} {name}"
