"""Check whether datagrams arrive, for protocols without answers (syslog, StatsD, SNMP traps).

Method (measured, Envoy 1.40 and Linux 6; docs/verify.md): Envoy has no UDP session statistics per
host, and Istio's filter hides the others. But a session is a socket in the gateway's pod that is
connected to the server's address, and the server's pod counts the datagrams that its processes have
read. Both are in /proc/net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.gateway import PROXY_CONTAINER
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.model.proxystate import UdpSocket, UdpStatus
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.verify.tool_output import (
    DELIVERED,
    FORWARDED,
    LOST,
    NOT_READ,
    ONE_CLIENT,
    REFUSED,
    SENT,
)
from kubectl_istio_udp.verify.verdict import HopResult

# (namespace, name) of a pod.
Key = tuple[str, str]
Statuses = Mapping[Key, UdpStatus]


@dataclass(frozen=True)
class WatchedPods:
    """The pods whose UDP counters show where a datagram went.

    Attributes:
        servers: the containers of each of the Services' pods, by (namespace, name).
        gateways: the same of the gateway's pods.
    """

    servers: Mapping[Key, Sequence[str]]
    gateways: Mapping[Key, Sequence[str]]

    @classmethod
    def of(
        cls,
        pods: Iterable[Mapping[str, Any]],
        gateway_namespace: str = "",
        gateways: Iterable[str] = (),
    ) -> WatchedPods:
        """Make it from the manifests of the Services' pods, and the names of the gateway's."""
        servers = {
            namespaced_name(pod): [c["name"] for c in pod["spec"]["containers"]] for pod in pods
        }
        return cls(servers, {(gateway_namespace, name): [PROXY_CONTAINER] for name in gateways})


@dataclass(frozen=True)
class _Counters:
    """The counters at one time, without pods whose images cannot read them."""

    servers: Statuses
    gateways: Statuses


def deliver(
    api: Api,
    hops: Sequence[Hop],
    watched: WatchedPods,
    send: Callable[[Hop], HopResult],
) -> tuple[HopResult, ...]:
    """Send the probe to each hop in turn, and read from the pods' counters what arrived.

    Args:
        api: the cluster.
        hops: the destinations.
        watched: the pods whose counters are read.
        send: sends all probes to a hop.

    Returns:
        The results. If there was no answer, the outcome is DELIVERED (a server's process has read
            the datagrams), FORWARDED (the gateway has forwarded them, and the server's counters
            cannot be read), SENT (no counters can be read), ONE_CLIENT (the server's socket is
            connected to another client), NOT_READ (they wait in the server's queue), LOST, or the
            outcome of `send`.
    """
    pods = {hop.address: hop.name for hop in hops if hop.via is Via.POD}
    hosts = frozenset(f"{hop.address}:{hop.port}" for hop in hops if hop.via is Via.POD)
    found = []
    for hop in hops:
        before = _read_counters(api, watched)
        result = send(hop)
        if result.worst.outcome in ("timeout", REFUSED):
            after = _read_counters(api, watched)
            name = pods[hop.address] if hop.via is Via.POD else None
            servers = [key for key in watched.servers if name in (None, key[1])]
            sockets = _at_ports(after.servers, servers, hosts)
            seen = DatagramCounts(
                sent=len(result.answers),
                refused=result.worst.outcome == REFUSED,
                read=_read(before.servers, after.servers, servers),
                opened=None if hop.via is Via.POD else _opened(before, after, hop, hosts),
                queued=any(socket.queued for socket in sockets),
                connected=bool(sockets) and all(socket.remote for socket in sockets),
            )
            result = _with_outcome(result, judge_delivery(seen), seen)
        found.append(result)
    return tuple(found)


@dataclass(frozen=True)
class DatagramCounts:
    """What the counters show about the datagrams sent to one hop.

    Attributes:
        sent: the number of datagrams.
        refused: whether the hop's address refused them.
        read: how many the servers' processes have read since; None if unknown.
        opened: whether a gateway pod has opened a session for them; None if unknown, or if the
            hop is not behind a gateway.
        queued: whether datagrams wait at a server's port.
        connected: whether all servers' sockets at that port are connected to a client: the kernel
            then refuses all other clients.
    """

    sent: int = 1
    refused: bool = False
    read: int | None = None
    opened: bool | None = None
    queued: bool = False
    connected: bool = False


def judge_delivery(seen: DatagramCounts) -> str:
    """The outcome of the datagrams."""
    if seen.opened is False:
        return LOST
    if seen.read is not None and seen.read >= seen.sent:
        return DELIVERED
    if seen.connected:
        return ONE_CLIENT
    if seen.refused:
        return REFUSED
    if seen.read is None:
        return FORWARDED if seen.opened else SENT
    return NOT_READ if seen.queued else LOST


def _read_counters(api: Api, watched: WatchedPods) -> _Counters:
    servers, gateways = in_parallel(
        [lambda: _statuses(api, watched.servers), lambda: _statuses(api, watched.gateways)]
    )
    return _Counters(servers, gateways)


def _statuses(api: Api, pods: Mapping[Key, Sequence[str]]) -> Statuses:
    def status(pod: Key) -> UdpStatus | None:
        # The containers of a pod share its network, so one with `cat` is enough.
        for container in pods[pod]:
            try:
                found = proxies.udp_status(api, *pod, container)
            except ClusterError:
                return None
            if found is not None:
                return found
        return None

    found = zip(pods, for_each(status, pods), strict=True)
    return {pod: status for pod, status in found if status is not None}


def _read(before: Statuses, after: Statuses, pods: Iterable[Key]) -> int | None:
    """How many datagrams the pods' processes have read; None if a pod's counters are unknown."""
    pods = list(pods)
    if not pods or not all(pod in before and pod in after for pod in pods):
        return None
    return sum(after[pod].read - before[pod].read for pod in pods)


def _opened(before: _Counters, after: _Counters, hop: Hop, hosts: frozenset[str]) -> bool | None:
    """Whether gateway pods have opened a session to one of the hosts; None if unknown."""
    name = hop.name if hop.via is Via.GATEWAY else None
    pods = [pod for pod in after.gateways if name in (None, pod[1]) and pod in before.gateways]
    if not pods:
        return None
    sockets_before = {(pod, s) for pod in pods for s in before.gateways[pod].sockets}
    return any(
        socket.remote in hosts and (pod, socket) not in sockets_before
        for pod in pods
        for socket in after.gateways[pod].sockets
    )


def _at_ports(statuses: Statuses, pods: Iterable[Key], hosts: Iterable[str]) -> list[UdpSocket]:
    """The sockets of these pods at the ports of these addresses."""
    ports = {int(host.rpartition(":")[2]) for host in hosts}
    return [
        socket
        for pod in pods
        if pod in statuses
        for socket in statuses[pod].sockets
        if socket.port in ports
    ]


def _with_outcome(result: HopResult, outcome: str, seen: DatagramCounts) -> HopResult:
    text = "" if seen.read is None else f"the server read {seen.read} datagram(s), {seen.sent} sent"
    good = outcome in (DELIVERED, FORWARDED, SENT, ONE_CLIENT)
    answers = tuple(
        replace(answer, answered=good, outcome=outcome, text=text) for answer in result.answers
    )
    return replace(result, answers=answers)
