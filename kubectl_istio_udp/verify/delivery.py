"""Whether datagrams arrive, for protocols that never answer: syslog, StatsD, NetFlow, SNMP traps.

What can be seen (measured, Envoy 1.40 and Linux 6; docs/verify.md): Envoy counts nothing of a UDP
session among its hosts' statistics, and Istio's filter hides the others. But a session is a socket
of the gateway's pod that is connected to the server's address, and the server's pod counts the
datagrams that its processes have read. Both are in /proc/net.
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
from kubectl_istio_udp.model.proxystate import UdpSocket, UdpStatus
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.verify.result import (
    DELIVERED,
    FORWARDED,
    LOST,
    NOT_READ,
    ONE_CLIENT,
    REFUSED,
    SENT,
)
from kubectl_istio_udp.verify.verdict import HopResult

Statuses = Mapping[str, UdpStatus]


@dataclass(frozen=True)
class Watched:
    """The pods whose UDP counters show what becomes of a datagram.

    Attributes:
        namespace: that of the Service's pods.
        servers: the containers of each of the Service's pods, by pod.
        gateway_namespace, gateways: the gateway's pods.
    """

    namespace: str
    servers: Mapping[str, Sequence[str]]
    gateway_namespace: str = ""
    gateways: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        namespace: str,
        pods: Iterable[Mapping[str, Any]],
        gateway_namespace: str = "",
        gateways: Sequence[str] = (),
    ) -> Watched:
        """Take the Service's pods as manifests."""
        servers = {
            pod["metadata"]["name"]: [c["name"] for c in pod["spec"]["containers"]] for pod in pods
        }
        return cls(namespace, servers, gateway_namespace, gateways)


@dataclass(frozen=True)
class _Look:
    """The counters at one moment; pods whose images have nothing to read them with are missing."""

    servers: Statuses
    gateways: Statuses


def deliver(
    api: Api,
    hops: Sequence[Hop],
    watched: Watched,
    send: Callable[[Hop], HopResult],
) -> tuple[HopResult, ...]:
    """Send the probe to one hop after the other, and see in the pods' counters what arrives.

    Args:
        api: the cluster.
        hops: where to send it.
        watched: the pods to look at.
        send: sends it to a hop, as often as was asked.

    Returns:
        The results; where no answer came the outcome is DELIVERED (a server's process has read
        the datagrams), FORWARDED (the gateway has sent them on, and the server's pod cannot be
        looked into), SENT (nothing can be looked into), ONE_CLIENT (the server's socket is
        connected to another client), NOT_READ (they wait in the server's queue), LOST, or what
        `send` found.
    """
    pods = {hop.address: hop.name for hop in hops if hop.via is Via.POD}
    hosts = frozenset(f"{hop.address}:{hop.port}" for hop in hops if hop.via is Via.POD)
    found = []
    for hop in hops:
        before = _look(api, watched)
        result = send(hop)
        if result.worst.outcome in ("timeout", REFUSED):
            after = _look(api, watched)
            servers = [pods[hop.address]] if hop.via is Via.POD else list(watched.servers)
            sockets = _at_ports(after.servers, servers, hosts)
            seen = Seen(
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
class Seen:
    """What was seen of the datagrams that were sent to one hop.

    Attributes:
        sent: how many.
        refused: whether the hop's address refused them.
        read: how many the servers' processes have read since; None where no pod tells.
        opened: whether a gateway pod has opened a session for them; None where none tells, or
            where none is on the way.
        queued: whether datagrams wait at a server's port.
        connected: whether the servers' sockets at that port are all connected to some client: the
            kernel then refuses every other one.
    """

    sent: int = 1
    refused: bool = False
    read: int | None = None
    opened: bool | None = None
    queued: bool = False
    connected: bool = False


def judge_delivery(seen: Seen) -> str:
    """What became of the datagrams, as the outcome of their answers."""
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


def _look(api: Api, watched: Watched) -> _Look:
    servers, gateways = in_parallel(
        [
            lambda: _statuses(api, watched.namespace, watched.servers),
            lambda: _statuses(
                api,
                watched.gateway_namespace,
                {pod: [PROXY_CONTAINER] for pod in watched.gateways},
            ),
        ]
    )
    return _Look(servers, gateways)


def _statuses(api: Api, namespace: str, pods: Mapping[str, Sequence[str]]) -> Statuses:
    def status(pod: str) -> UdpStatus | None:
        # The containers of a pod share its network; one that has `cat` is enough.
        for container in pods[pod]:
            try:
                found = proxies.udp_status(api, namespace, pod, container)
            except ClusterError:
                return None
            if found is not None:
                return found
        return None

    found = zip(pods, for_each(status, pods), strict=True)
    return {pod: status for pod, status in found if status is not None}


def _read(before: Statuses, after: Statuses, pods: Iterable[str]) -> int | None:
    """How many datagrams the pods' processes have read; None where a pod does not tell."""
    pods = list(pods)
    if not pods or not all(pod in before and pod in after for pod in pods):
        return None
    return sum(after[pod].read - before[pod].read for pod in pods)


def _opened(before: _Look, after: _Look, hop: Hop, hosts: frozenset[str]) -> bool | None:
    """Whether gateway pods have opened a session to one of the hosts; None where none tells."""
    pods = [hop.name] if hop.via is Via.GATEWAY else list(after.gateways)
    pods = [pod for pod in pods if pod in before.gateways and pod in after.gateways]
    if not pods:
        return None
    there = {(pod, s) for pod in pods for s in before.gateways[pod].sockets}
    return any(
        socket.remote in hosts and (pod, socket) not in there
        for pod in pods
        for socket in after.gateways[pod].sockets
    )


def _at_ports(statuses: Statuses, pods: Iterable[str], hosts: Iterable[str]) -> list[UdpSocket]:
    """The sockets of some pods at the ports of some addresses."""
    ports = {int(host.rpartition(":")[2]) for host in hosts}
    return [
        socket
        for pod in pods
        if pod in statuses
        for socket in statuses[pod].sockets
        if socket.port in ports
    ]


def _with_outcome(result: HopResult, outcome: str, seen: Seen) -> HopResult:
    text = "" if seen.read is None else f"the server read {seen.read} datagram(s), {seen.sent} sent"
    good = outcome in (DELIVERED, FORWARDED, SENT, ONE_CLIENT)
    answers = tuple(
        replace(answer, answered=good, outcome=outcome, text=text) for answer in result.answers
    )
    return replace(result, answers=answers)
