"""`verify` for an access log: hold a connection open, and time its log lines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.accesslog import AccessLogSpec, Direction, LogScope
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.gateway import selects
from kubectl_istio_udp.model.logscope import Proxy
from kubectl_istio_udp.output.printing import Progress, note
from kubectl_istio_udp.render.samples import one_run_echo
from kubectl_istio_udp.state.mesh import read_mesh
from kubectl_istio_udp.verify import sending
from kubectl_istio_udp.verify.connection import (
    Target,
    client,
    echo_target,
    held,
    proxy_log,
    service_target,
)
from kubectl_istio_udp.verify.loglines import Line, interval, lines_of
from kubectl_istio_udp.verify.options import ProbeOptions
from kubectl_istio_udp.verify.toolpod import ToolPod

_LINES = 4
_LONG_SECONDS = 60.0
_TOLERANCE = 0.2


@dataclass(frozen=True, eq=False)
class _Side:
    """One proxy of the connection.

    Attributes:
        name: client or server.
        proxy: the proxy.
        client: the client's address.
        server: the `address:port` of the connection, as this proxy sees it.
        expected: whether the access log applies to it, so that it must log; otherwise it must not.
    """

    name: str
    proxy: Proxy
    client: str
    server: str
    expected: bool


def verify_access_log(
    api: Api,
    pod: ToolPod,
    spec: AccessLogSpec,
    to: str | None,
    probe_settings: ProbeOptions,
) -> sending.Verification:
    """Hold a TCP connection open and time its log lines in the client's and the server's proxy.

    Takes about four intervals, but at least three seconds; the connection ends by itself.

    Args:
        api: the cluster.
        pod: the network-tool pod.
        spec: the access log.
        to: `--to`: the Service to connect to; None for an echo server.
        probe_settings: the options for probes.

    Raises:
        UsageError: there is no server to connect to.
        NotFound, ClusterError, WaitTimeout, Unreachable, Forbidden: the test was not possible.
    """
    progress = Progress()
    mesh = read_mesh(api)
    address, proxy = client(api, pod)
    everywhere = spec.namespace == mesh.root_namespace
    with _target(api, pod, spec, to, probe_settings, progress) as target:
        sides = _sides(spec, everywhere, address, proxy, target)
        if not any(side.expected for side in sides):
            return sending.Verification(
                False,
                f"the access log applies neither to {pod} nor to the server, so no line would "
                "appear; connect to a Service whose pods it applies to: --to SERVICE[:PORT]",
            )
        wanted = max(_LINES, math.ceil(api.waits.log_lines / spec.every.seconds))
        seconds = spec.every.seconds * wanted + api.waits.log_late
        if seconds > _LONG_SECONDS:
            note(f"this takes {seconds:g}s: {wanted} lines, one every {spec.every}")
        progress(f"holding a connection to {target.address}:{target.port} for {seconds:g}s")
        begun = time.monotonic()
        found = _watch_lines(api, pod, target, sides, wanted, seconds)
    progress.clear()
    return _judge(spec, found, ended_early=time.monotonic() - begun < spec.every.seconds)


def _watch_lines(
    api: Api, pod: ToolPod, target: Target, sides: Sequence[_Side], wanted: int, seconds: float
) -> dict[_Side, tuple[Line, ...]]:
    """Hold a connection until each side has as many lines as wanted, or these seconds are over.

    Raises:
        ClusterError: the connection could not be held.
    """
    begun = time.monotonic()
    found: dict[_Side, tuple[Line, ...]] = {side: () for side in sides}
    with held(api, pod, target, seconds) as connection:
        while not connection.ended.is_set():
            since = math.ceil(time.monotonic() - begun) + 1
            found = {s: _lines(proxy_log(api, s.proxy, since), s) for s in sides}
            if _enough(found, wanted) or time.monotonic() - begun > seconds:
                break
            connection.ended.wait(api.waits.log_poll)
    if connection.problem:
        raise connection.problem
    return found


def _enough(found: Mapping[_Side, tuple[Line, ...]], wanted: int) -> bool:
    """Whether each side has its lines; of several servers, one has the connection."""
    expected = {side.name for side in found if side.expected}
    having = {side.name for side, lines in found.items() if side.expected and len(lines) >= wanted}
    return expected == having


def _lines(log: str, side: _Side) -> tuple[Line, ...]:

    return lines_of(log, side.client, side.server)


@contextmanager
def _target(
    api: Api,
    pod: ToolPod,
    spec: AccessLogSpec,
    to: str | None,
    probe_settings: ProbeOptions,
    progress: Any,
) -> Iterator[Target]:

    home = pod.namespace if spec.scope is LogScope.MESH else spec.namespace
    if to:
        namespace, _, service = to.rpartition("/")
        yield service_target(api, namespace or home, service)
        return
    if spec.selector:
        # If an echo server had labels that Services or ReplicaSets select, it would get their
        # traffic or be adopted.
        raise UsageError(
            f"{spec.kind.value}/{spec.name} applies only to pods with certain labels, and an echo "
            "server for one run gets no such labels",
            hints=["name a Service whose pods have them: --to [NAMESPACE/]SERVICE[:PORT]"],
        )
    manifests = one_run_echo(home, probe_settings.tool_image)
    progress(f"starting pod {manifests[0]['metadata']['name']}")
    with echo_target(api, manifests) as target:
        yield target


def _sides(
    spec: AccessLogSpec, everywhere: bool, address: str, proxy: Proxy | None, target: Target
) -> list[_Side]:

    def applies(candidate: Proxy, direction: Direction) -> bool:
        near = everywhere or candidate.namespace == spec.namespace
        way = spec.direction in (Direction.ANY, direction)
        return near and way and selects(spec.selector, candidate.labels)

    sides = []
    if proxy:
        to = f"{target.address}:{target.port}"
        sides.append(_Side("client", proxy, address, to, applies(proxy, Direction.OUTBOUND)))
    for server, port in target.servers:
        if server in target.proxies:
            server_proxy = target.proxies[server]
            server_applies = applies(server_proxy, Direction.INBOUND)
            sides.append(_Side("server", server_proxy, address, f"{server}:{port}", server_applies))
    return sides


def _judge(
    spec: AccessLogSpec,
    found: dict[_Side, tuple[Line, ...]],
    *,
    ended_early: bool,
) -> sending.Verification:

    headers = ("side", "proxy", "applies", "lines", "interval", "last line")
    rows: list[Sequence[object]] = []
    data = []
    wrong = []
    # Only one of several servers has the connection: ignore those without lines.
    servers = [side for side in found if side.name == "server" and side.expected]
    silent = [side for side in servers if not found[side]]
    for side, lines in found.items():
        measured = interval(lines)
        if side in silent and len(silent) < len(servers):
            continue
        last = lines[-1].text if lines else ""
        shown = "" if measured is None else f"{measured:.2f}s"
        name = f"{side.proxy.namespace}/{side.proxy.name}"
        applies = "yes" if side.expected else "no"
        rows.append([side.name, name, applies, len(lines), shown, last[:100]])
        data.append(
            {
                "side": side.name,
                "proxy": name,
                "inReach": side.expected,
                "intervalSeconds": measured,
                "lines": [line.text for line in lines],
            }
        )
        wrong += _wrong(spec, side, lines, measured)
    if ended_early and wrong:
        wrong.append("the connection ended at once")
    text = "; ".join(wrong) or f"a line every {spec.every}"
    return sending.Verification(not wrong, text, headers, rows, {"sides": data})


def _wrong(
    spec: AccessLogSpec, side: _Side, lines: Sequence[Line], measured: float | None
) -> list[str]:
    name = f"the {side.name}'s proxy {side.proxy.namespace}/{side.proxy.name}"
    if not side.expected:
        out = f"{name} writes lines although the access log does not apply to it"
        return [out] if len(lines) > 1 else []
    if measured is None:
        return [f"{name} wrote {'one line' if lines else 'no line'} for an open connection"]
    if abs(measured - spec.every.seconds) > _TOLERANCE * spec.every.seconds:
        return [f"{name} wrote a line every {measured:.2f}s, not every {spec.every}"]
    return []
