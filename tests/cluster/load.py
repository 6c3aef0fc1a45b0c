"""Sends DNS queries over UDP at a steady rate and counts what comes back; prints JSON.

A program of its own, of the standard library only: it runs inside a pod, where the cluster's
clients are (`kubectl exec -i POD -- python3 - ARGS < load.py`).

    load.py ADDRESS PORT NAME --queries N --rate PER_SECOND [--clients N] [--timeout SECONDS]
            [--until FILE] [--first-port PORT]

Without --clients every query has a source port that no other query of the run has, counted from
--first-port, so that two runs in one pod do not need the same ports; with it N clients keep their
ports and take turns. With --until it ends when the file is there, after N queries at the latest.

It begins when a first query, which is not counted, is answered: kube-proxy may learn of a Service
later than the gateway does. After 5 s without an answer it begins all the same.
"""

import argparse
import contextlib
import json
import os
import selectors
import socket
import struct
import time

# Outside the kernel's own ephemeral ports, so that nobody else takes one meanwhile.
FIRST_FRESH_PORT, FIRST_STICKY_PORT = 10_000, 9_000
MOST_SECONDS_BEFORE = 5.0


def dns_query(number: int, name: str) -> bytes:
    """A query for the A record of a name; the message id is the number's low 16 bits."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!6H", number & 0xFFFF, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


class Load:
    """One run: what was sent and is not answered yet, and what was."""

    def __init__(
        self, target: tuple[str, int], name: str, clients: int, first_port: int = FIRST_FRESH_PORT
    ) -> None:
        self.target, self.name, self.first_port = target, name, first_port
        self.selector = selectors.DefaultSelector()
        self.waiting: dict[tuple[int, int], float] = {}
        self.answered = 0
        self.latencies: list[float] = []
        self.overdue: list[float] = []
        self.sticky = [self._socket(FIRST_STICKY_PORT + index) for index in range(clients)]

    def await_first_answer(self, seconds: float) -> None:
        """Ask every 0.1 s until there is an answer, for as long at most."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.closing(self._connected(0)) as opened:
                opened.settimeout(0.1)
                with contextlib.suppress(OSError):
                    opened.send(dns_query(0, self.name))
                    opened.recv(65535)
                    return
            # Where the port is closed, the answer to that comes at once.
            time.sleep(0.1)

    def _socket(self, port: int) -> socket.socket:
        opened = self._connected(port)
        opened.setblocking(False)
        self.selector.register(opened, selectors.EVENT_READ, opened)
        return opened

    def _connected(self, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_DGRAM)
        opened.bind(("", port))
        opened.connect(self.target)
        return opened

    def send(self, number: int) -> None:
        if self.sticky:
            sender = self.sticky[number % len(self.sticky)]
        else:
            sender = self._socket(self.first_port + number)
        self.waiting[sender.fileno(), number & 0xFFFF] = time.monotonic()
        # An ICMP error of an earlier datagram may surface here: then the query counts as lost.
        with contextlib.suppress(OSError):
            sender.send(dns_query(number, self.name))

    def receive(self, seconds: float) -> None:
        for key, _ in self.selector.select(max(0.0, seconds)):
            client: socket.socket = key.data
            try:
                answer = client.recv(65535)
            except OSError:
                continue
            sent = self.waiting.pop((client.fileno(), struct.unpack("!H", answer[:2])[0]), None)
            if sent is None:
                continue
            self.answered += 1
            self.latencies.append(time.monotonic() - sent)
            if not self.sticky:
                self._close(client)

    def _close(self, client: socket.socket) -> None:
        self.selector.unregister(client)
        client.close()

    def expire(self, timeout: float) -> None:
        """Close new sockets without an answer in time, and count their queries as lost."""
        if self.sticky:
            return
        late = [key for key, sent in self.waiting.items() if time.monotonic() - sent > timeout]
        for key in late:
            self.overdue.append(self.waiting.pop(key))
            self._close(self.selector.get_map()[key[0]].data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("name")
    parser.add_argument("--queries", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--clients", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=3.0)
    parser.add_argument("--until", default="")
    parser.add_argument("--first-port", type=int, default=FIRST_FRESH_PORT)
    wanted = parser.parse_args()
    target = (wanted.address, wanted.port)
    load = Load(target, wanted.name, wanted.clients, wanted.first_port)
    load.await_first_answer(MOST_SECONDS_BEFORE)
    begun = time.monotonic()
    sent = 0
    for number in range(wanted.queries):
        if wanted.until and number % 10 == 0 and os.path.exists(wanted.until):
            break
        sent += 1
        due = begun + number / wanted.rate
        while (left := due - time.monotonic()) > 0:
            load.receive(left)
        load.send(number)
        load.receive(0)
        if number % 100 == 0:
            load.expire(wanted.timeout)
    end = time.monotonic() + wanted.timeout
    while load.waiting and time.monotonic() < end:
        load.receive(end - time.monotonic())
    latencies = sorted(load.latencies) or [0.0]
    unanswered = sorted([*load.overdue, *load.waiting.values()])
    result = {
        "sent": sent,
        "answered": load.answered,
        "lost": sent - load.answered,
        # When the first ones were sent, in seconds after the start.
        "lost_at": [round(when - begun, 1) for when in unanswered[:20]],
        "seconds": round(time.monotonic() - begun, 2),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
