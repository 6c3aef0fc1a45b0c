"""The state of one gateway pod's Envoy (listeners, clusters, hosts) and its UDP sockets."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# The revision of each listener or cluster, by name.
Revisions = Mapping[str, str]

# The state of a connected socket in /proc/net/udp (include/net/tcp_states.h).
_CONNECTED = "01"


@dataclass(frozen=True)
class BoundListener:
    """An active listener in a gateway's Envoy.

    Attributes:
        name: its name.
        port: the port that it binds.
        protocol: UDP or TCP.
        pod: the gateway pod.
    """

    name: str
    port: int
    protocol: str
    pod: str


@dataclass(frozen=True)
class Refusal:
    """A listener or cluster that Envoy rejected.

    Attributes:
        why: Envoy's error on one line.
        revision: the revision of the rejected configuration; "" if Envoy does not report it.
    """

    why: str
    revision: str = ""


@dataclass(frozen=True)
class Lack:
    """What a gateway pod's Envoy lacks.

    Attributes:
        what: `listener NAME` or `cluster NAME`.
        refusal: Envoy's error, if it rejected it; "" if it may still arrive.
    """

    what: str
    refusal: str = ""

    def __str__(self) -> str:
        """The rest of a sentence about the gateway pod."""
        if self.refusal:
            return f"rejects {self.what}: {self.refusal}"
        return f"does not yet have {self.what}"


@dataclass(frozen=True)
class ProxyState:
    """What one Envoy reports about listeners and clusters.

    Attributes:
        listeners: the revision of each active listener by name; "" for listeners that the
            plugin did not create or that have no revision.
        clusters: the revision of each active cluster (not those still warming) by name.
        hosts: the addresses (`10.0.0.1:53`) by cluster.
        refusals: the rejected configuration by name of the listener or cluster.
        ports: the port of each active listener, by name.
        targets: the cluster that each active UDP listener sends to, by name of the listener.
    """

    listeners: Mapping[str, str] = field(default_factory=dict)
    clusters: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    targets: Mapping[str, str] = field(default_factory=dict)

    def first_lack(self, listeners: Revisions, clusters: Revisions) -> Lack | None:
        """What this Envoy lacks, first what it rejected; None if it has everything.

        It may still have an earlier revision of what it lacks. `expose`, `get -o wide`, `verify`
        and the controller's conditions all decide it here.

        Args:
            listeners, clusters: the wanted revisions by name.
        """
        found = [
            *self._lacks("listener", self.listeners, listeners),
            *self._lacks("cluster", self.clusters, clusters),
        ]
        return next((each for each in found if each.refusal), found[0] if found else None)

    def _lacks(self, kind: str, present: Revisions, wanted: Revisions) -> Iterator[Lack]:
        for name, revision in wanted.items():
            if present.get(name) == revision:
                continue
            refusal = self.refusals.get(name)
            # Another revision is from an earlier write.
            refused = refusal is not None and refusal.revision in ("", revision)
            yield Lack(f"{kind} {name}", refusal.why if refusal and refused else "")


@dataclass(frozen=True)
class UdpSocket:
    """One line of /proc/net/udp or /proc/net/udp6.

    Attributes:
        local: the address and port it is bound to, `10.0.0.1:53`.
        remote: the address and port it is connected to; "" if it is not connected.
        queued: received bytes that no process has read.
        drops: datagrams that the kernel dropped because its buffer was full.
    """

    local: str
    remote: str = ""
    queued: int = 0
    drops: int = 0

    @property
    def port(self) -> int:
        """The port it is bound to."""
        return int(self.local.rpartition(":")[2])


@dataclass(frozen=True)
class UdpStatus:
    """The UDP sockets and counters of a pod, from its /proc/net.

    Attributes:
        sockets: its UDP sockets.
        read: datagrams that processes have read. Linux counts `InDatagrams` when a process reads
            (udp_recvmsg in net/ipv4/udp.c), not when a datagram arrives.
        refused: datagrams for ports without a listener (`NoPorts`).
        dropped: datagrams dropped because the receive buffer was full (`RcvbufErrors`).
    """

    sockets: tuple[UdpSocket, ...] = ()
    read: int = 0
    refused: int = 0
    dropped: int = 0

    def connected_to(self, hosts: frozenset[str]) -> int:
        """How many sockets are connected to one of these addresses (`10.0.0.1:53`).

        In a gateway pod each is a session of Envoy's UDP proxy. Sessions of two exposures with the
        same endpoints cannot be distinguished.
        """
        return sum(socket.remote in hosts for socket in self.sockets)


def read_udp_status(text: str) -> UdpStatus:
    """Parse the concatenated /proc/net/udp, udp6, snmp and snmp6."""
    counts = _counts(text)
    return UdpStatus(
        tuple(_sockets(text)),
        *(
            counts.get(f"Udp:{name}", 0) + counts.get(f"Udp6{name}", 0)
            for name in ("InDatagrams", "NoPorts", "RcvbufErrors")
        ),
    )


def _sockets(text: str) -> Iterator[UdpSocket]:
    for line in text.splitlines():
        words = line.split()
        if len(words) < 13 or not words[0].rstrip(":").isdigit():
            continue
        connected = words[3] == _CONNECTED
        yield UdpSocket(
            local=_socket_address(words[1]),
            remote=_socket_address(words[2]) if connected else "",
            queued=int(words[4].rpartition(":")[2], 16),
            drops=int(words[-1]) if words[-1].isdigit() else 0,
        )


def _socket_address(text: str) -> str:
    """`127.0.0.1:53` for `0100007F:0035`; the kernel writes 32-bit words in host byte order."""
    words, _, port = text.partition(":")
    raw = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
    address = ipaddress.ip_address(raw)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return f"{address}:{int(port, 16)}"


def _counts(text: str) -> dict[str, int]:
    """The counters of snmp (a line of names, then one of values) and snmp6 (one per line)."""
    found: dict[str, int] = {}
    names: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if line.startswith("Udp: ") and not words[1].lstrip("-").isdigit():
            names = words[1:]
        elif line.startswith("Udp: "):
            found |= {f"Udp:{n}": int(v) for n, v in zip(names, words[1:], strict=False)}
        elif line.startswith("Udp6") and len(words) == 2:
            found[words[0]] = int(words[1])
    return found
