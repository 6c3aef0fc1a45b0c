"""Health and metrics, whoever connects."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from kubectl_istio_udp.controller.health import HealthServer


@pytest.fixture
def counted() -> list[int]:
    return []


@pytest.fixture
def health(counted: list[int]) -> Iterator[HealthServer]:
    def metrics() -> bytes:
        counted.append(1)
        return b"metrics"

    server = HealthServer(0, metrics, lambda: "", lambda: True)
    server.start()
    yield server
    server.stop()


def query(health: HealthServer, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{health.port}{path}", timeout=2) as answer:
        found: bytes = answer.read()
        return found


def test_open_connections_do_not_delay_probes(health: HealthServer) -> None:
    """Silent connections and slow requests; they do not occupy a thread each."""
    before = threading.active_count()
    held = []
    for number in range(400):
        held.append(socket.create_connection(("127.0.0.1", health.port), timeout=2))
        if number % 2:
            held[-1].sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        if number % 40 == 0:
            assert query(health, "/healthz") == b"ok"
    end = time.monotonic() + 60
    while threading.active_count() - before > 40 and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() - before <= 40
    assert query(health, "/readyz") == b"ok"
    for each in held:
        each.close()


def test_metrics_are_computed_once_a_second(health: HealthServer, counted: list[int]) -> None:
    assert {query(health, "/metrics") for _ in range(50)} == {b"metrics"}
    assert len(counted) < 5
