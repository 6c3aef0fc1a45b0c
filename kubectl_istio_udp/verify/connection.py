"""A TCP connection held open from the network-tool pod, and the proxies on its path."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.errors import ClusterError, IstioUdpError, UsageError
from kubectl_istio_udp.model.gateway import PROXY_CONTAINER
from kubectl_istio_udp.model.logscope import Proxy, proxy_of
from kubectl_istio_udp.model.service import IPV4, IPV6, endpoints_of
from kubectl_istio_udp.state.services import service_slices
from kubectl_istio_udp.verify.toolpod import ToolPod, apply_for_one_run, wait_running

_NOT_FOUND = 127
# The first bytes let proxies detect the protocol. A new Service may refuse at first, and a
# proxy without endpoints accepts and closes, so the shell retries. It waits for both ends of the
# pipe; the empty lines let the first one notice that nc has ended.
_HOLD = """
command -v nc >/dev/null || exit 127
export HOST="$1" PORT="$2" SECONDS_LONG="$3"
timeout "$3" sh -c '
  while {
    echo verify
    for second in $(seq "$SECONDS_LONG"); do sleep 1; echo 2>/dev/null || break; done
  } | nc "$HOST" "$PORT" >/dev/null || :
  do sleep 0.5; done'
"""


@dataclass(frozen=True)
class Target:
    """The destination of a connection.

    Attributes:
        address, port: the destination.
        servers: (address, port) of each pod that may receive it.
        proxies: the proxies of those pods, by the pod's address.
    """

    address: str
    port: int
    servers: tuple[tuple[str, int], ...]
    proxies: Mapping[str, Proxy]


class HeldConnection:
    """A connection that is held open.

    Attributes:
        ended: set when the connection has ended.
        problem: why it could not be opened; None if there was no error.
    """

    def __init__(self) -> None:
        """Create a connection that has not ended."""
        self.ended = threading.Event()
        self.problem: IstioUdpError | None = None


@contextmanager
def held(api: Api, tool: ToolPod, target: Target, seconds: float) -> Iterator[HeldConnection]:
    """Hold a connection open for at most this many seconds.

    It is not closed on exit but ends by itself, or when its destination is deleted.

    Args:
        api: the cluster.
        tool: the network-tool pod.
        target: the destination.
        seconds: how long the connection is held.
    """
    connection = HeldConnection()
    command = ["sh", "-c", _HOLD, "sh", target.address, str(target.port), str(round(seconds))]

    def hold() -> None:
        try:
            result = tool.run(api, command, seconds)
            if result.exit_code == _NOT_FOUND:
                connection.problem = ClusterError(
                    f"pod {tool} cannot run nc: {result.stderr.strip() or 'not found'}",
                    hints=["use a pod that has it: --tool-pod NAME, or --create-tool"],
                )
        except IstioUdpError as error:
            connection.problem = error
        connection.ended.set()

    threading.Thread(target=hold, daemon=True).start()
    yield connection


def proxy_log(api: Api, proxy: Proxy, since_seconds: int) -> str:
    """The log of a pod's proxy with timestamps; "" if it may not be read."""
    try:
        return api.log(
            proxy.namespace,
            proxy.name,
            PROXY_CONTAINER,
            since_seconds,
            lines=20_000,
            timestamps=True,
        )
    except ClusterError:
        return ""


def client(api: Api, tool: ToolPod) -> tuple[str, Proxy | None]:
    """The network-tool pod's address, and its proxy if it has one."""
    pod = api.get("Pod", tool.namespace, tool.name)
    return str(pod["status"]["podIP"]), proxy_of(pod)


def service_target(api: Api, namespace: str, text: str) -> Target:
    """The destination for `--to SERVICE[:PORT]`.

    Raises:
        UsageError: the Service has no such TCP port, or no ready pods.
        NotFound, Forbidden, Unreachable: errors of the API server.
    """
    name, _, port = text.partition(":")
    service, slices = in_parallel(
        [
            lambda: api.get("Service", namespace, name),
            lambda: service_slices(api, namespace, name),
        ]
    )
    ports = [p for p in service["spec"].get("ports") or () if p.get("protocol", "TCP") == "TCP"]
    plain = [p for p in ports if not _speaks_http(p)]
    entry = next((p for p in plain + ports if port in ("", str(p["port"]), p.get("name"))), None)
    if entry is None:
        listed = ", ".join(str(p["port"]) for p in ports) or "none"
        raise UsageError(
            f"Service {namespace}/{name} has no TCP port {port}".rstrip(),
            hints=[f"its TCP ports: {listed}"],
        )
    if _speaks_http(entry):
        raise UsageError(
            f"port {entry['port']} of Service {namespace}/{name} is an HTTP port; proxies log each "
            "of its requests, not its connections",
            hints=["name a plain TCP port: --to SERVICE:PORT"],
        )
    endpoints = endpoints_of(slices, entry.get("name", ""), (IPV4, IPV6), "TCP")
    ready = [endpoint for endpoint in endpoints if endpoint.ready]
    if not ready:
        raise UsageError(f"Service {namespace}/{name} has no ready pods")
    proxies = {
        endpoint.address: proxy
        for endpoint in ready
        if endpoint.pod and (proxy := proxy_of(api.get("Pod", namespace, endpoint.pod)))
    }
    address = service["spec"].get("clusterIP") or ""
    headless = address in ("", "None")
    return Target(
        ready[0].address if headless else address,
        ready[0].port if headless else entry["port"],
        tuple((endpoint.address, endpoint.port) for endpoint in ready),
        proxies,
    )


def _speaks_http(port: Mapping[str, Any]) -> bool:
    """Whether Istio treats a Service port as HTTP, by its appProtocol or name prefix."""
    return str(port.get("appProtocol") or port.get("name") or "").startswith(("http", "grpc"))


@contextmanager
def echo_target(api: Api, manifests: Sequence[Mapping[str, Any]]) -> Iterator[Target]:
    """Create a server for this run, and delete it afterwards.

    Args:
        api: the cluster.
        manifests: its Pod and Service.

    Raises:
        WaitTimeout: it did not start.
        ClusterError: it has no sidecar, so there is no proxy log.
    """
    metadata = manifests[0]["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    applied: list[Mapping[str, Any]] = []
    try:
        for manifest in manifests:
            applied.append(manifest)
            applied[-1] = made = apply_for_one_run(api, manifest)
        selector = f"app={metadata['labels']['app']}"
        (pod,) = wait_running(api, namespace, selector, api.waits.pod_start, name)
        proxy, server = proxy_of(pod), str(pod["status"]["podIP"])
        if proxy is None:
            raise ClusterError(
                f"pod {namespace}/{name} has no sidecar: Istio does not inject into {namespace}",
                hints=["name a Service whose pods have one: --to SERVICE[:PORT]"],
            )
        port = made["spec"]["ports"][0]["port"]
        yield Target(made["spec"]["clusterIP"], port, ((server, port),), {server: proxy})
    finally:
        for manifest in applied:
            with suppress(IstioUdpError):
                api.delete(manifest)
