"""Servers and clients on loopback, and a real gateway between them."""

from __future__ import annotations

import math
import random
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubectl_istio_udp.envoy.eds import published
from kubectl_istio_udp.envoy.local_gateway import LocalGateway
from kubectl_istio_udp.model.exposure import Discovery
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.model.service import Endpoint
from kubectl_istio_udp.render.exposure import writes
from tests.support.builders import cluster, plan_of, pod, service, udp

LARGEST = 65_535


class Echo:
    """Sends every datagram back, and remembers it and whom it came from."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self.socket.bind((address, port))
        self.address, self.port = self.socket.getsockname()
        self.clients: list[tuple[str, int]] = []
        self.heard: set[bytes] = set()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, client = self.socket.recvfrom(LARGEST)
            if data == b"end" and client == self.socket.getsockname():
                return
            self.clients.append(client)
            self.heard.add(data)
            with suppress(OSError):
                self.socket.sendto(data, client)

    def close(self) -> None:
        self.socket.sendto(b"end", self.socket.getsockname())
        self._thread.join()
        self.socket.close()


def free_port(address: str = "127.0.0.1") -> int:
    """A free port that the kernel does not assign as an ephemeral port."""
    while True:
        port = random.randrange(2_000, 10_000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.bind((address, port))
            return port


@contextmanager
def exposed(
    envoy: Path, servers: int = 1, **options: Any
) -> Iterator[tuple[LocalGateway, tuple[str, int], list[Echo]]]:
    """A gateway before some echo servers.

    Yields:
        The Gateway, its (address, port), and the servers.
    """
    with ExitStack() as stack:
        echoes: list[Echo] = []
        for number in range(servers):
            echoes.append(Echo(f"127.0.0.{11 + number}", echoes[0].port if echoes else 0))
            stack.callback(echoes[-1].close)
        pods = [pod(f"echo-{echo.address}") for echo in echoes]
        for echo, each in zip(echoes, pods, strict=True):
            each["status"]["podIP"] = echo.address
        port = free_port()
        # Loopback addresses may not be listed; with a selector istiod provides the endpoints.
        planned = plan_of(
            cluster(service=service(ports=[udp(target=echoes[0].port)]), pods=pods, slices=[]),
            ports=[PortRequest(port, 53)],
            discovery=Discovery.SELECTOR,
            **options,
        )
        rendered = [write.manifest for write in writes(planned.exposure)]
        filters = [manifest for manifest in rendered if manifest["kind"] == "EnvoyFilter"]
        gateway = stack.enter_context(LocalGateway(envoy, filters, published([*rendered, *pods])))
        yield gateway, ("127.0.0.1", port), echoes


@contextmanager
def exposed_twice(
    envoy: Path, servers: int, **options: Any
) -> Iterator[tuple[list[tuple[Any, ...]], tuple[list[Any], ...]]]:
    """A gateway with two ports before servers that listen on two ports each, with static hosts.

    Yields:
        The gateway's (address, port) of each port, and the servers of each.
    """
    with ExitStack() as stack:
        echoes: tuple[list[Echo], list[Echo]] = ([], [])
        for number in range(servers):
            for mine in echoes:
                mine.append(Echo(f"127.0.0.{11 + number}", mine[0].port if mine else 0))
                stack.callback(mine[-1].close)
        ports = [free_port(), free_port()]
        targets = [udp(53, "one", echoes[0][0].port), udp(54, "two", echoes[1][0].port)]
        planned = plan_of(
            cluster(service=service(ports=targets)),
            ports=[PortRequest(ports[0], 53), PortRequest(ports[1], 54)],
            discovery=Discovery.STATIC,
            **options,
        )
        # `expose` would not accept loopback addresses as endpoints.
        hosts: dict[tuple[tuple[str, str] | None, int], tuple[Endpoint, ...]] = {
            (None, number): tuple(Endpoint(echo.address, echo.port, ready=True) for echo in mine)
            for number, mine in zip((53, 54), echoes, strict=True)
        }
        exposure = replace(planned.exposure, endpoints=hosts)
        rendered = [write.manifest for write in writes(exposure)]
        filters = [manifest for manifest in rendered if manifest["kind"] == "EnvoyFilter"]
        stack.enter_context(LocalGateway(envoy, filters, published(rendered)))
        yield [("127.0.0.1", port) for port in ports], echoes


def ask(
    target: tuple[str, int],
    payload: bytes = b"hello",
    source: str = "127.0.0.1",
    timeout: float = 5.0,
) -> bytes:
    """Send one datagram from a fresh port of an address, and give what comes back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        client.settimeout(timeout)
        client.connect(target)
        client.send(payload)
        return client.recv(LARGEST)


def ask_from_many_ports(
    target: tuple[str, int],
    source: str,
    ports: Any,
    at_once: int,
    timeout: float = 5.0,
    rate: float = math.inf,
) -> int:
    """One query from each port, some at once; gives how many were answered by their own answer.

    Args:
        target: the address and port to query.
        source: the address to query from.
        ports: the client ports.
        at_once: how many queries wait for their answers at the same time, at most.
        timeout: the seconds without any answer after which it ends.
        rate: queries per second, at most.
    """
    answered = 0
    started = time.monotonic()
    waiting = selectors.DefaultSelector()
    rest = iter(ports)

    def begin() -> None:
        port = next(rest, None)
        if port is not None:
            due = started + (answered - at_once) / rate
            time.sleep(max(0.0, due - time.monotonic()))
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.bind((source, port))
            client.connect(target)
            client.send(str(port).encode())
            waiting.register(client, selectors.EVENT_READ, (client, port))

    for _ in range(at_once):
        begin()
    while waiting.get_map():
        ready = waiting.select(timeout)
        if not ready:
            break
        for key, _ in ready:
            client, port = key.data
            answered += client.recv(LARGEST) == str(port).encode()
            waiting.unregister(client)
            client.close()
            begin()
    for key in list(waiting.get_map().values()):
        key.data[0].close()
    waiting.close()
    return answered
