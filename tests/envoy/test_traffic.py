"""Real datagrams through the embedded gateway."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from kubectl_istio_udp.envoy.local_gateway import LocalGateway, raise_file_limit
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.exposure import Affinity, LoadBalancing
from kubectl_istio_udp.plan.sessions import room
from tests.envoy.traffic import LARGEST, ask, ask_from_many_ports, exposed, exposed_twice

# Clients bind another loopback address, so that the kernel gives these ports to nobody else.
CLIENT = "127.0.0.99"


@pytest.mark.parametrize("size", [0, 1, 512, 1_472, 1_473, 8_972, 9_000])
def test_payloads_of_every_size_pass_both_ways(envoy: Path, size: int) -> None:
    payload = os.urandom(size)
    with exposed(envoy) as (_, target, _):
        assert ask(target, payload) == payload


def test_longer_payloads_than_are_allowed_do_not_pass(envoy: Path) -> None:
    with exposed(envoy, max_datagram_size=512) as (_, target, _):
        assert ask(target, b"x" * 512) == b"x" * 512
        with pytest.raises(TimeoutError):
            ask(target, b"x" * 513, timeout=0.5)


def test_answers_20000_queries_from_20000_fresh_ports(envoy: Path) -> None:
    sessions = min(17_000, room(raise_file_limit(), 0))
    with exposed(envoy, servers=2, idle_timeout=Duration(1), max_sessions=sessions) as (
        gateway,
        target,
        echoes,
    ):
        # A session ends a second after its last datagram, later on a busy machine.
        rate, ports = sessions / 3, range(12_001, 32_001)
        assert ask_from_many_ports(target, CLIENT, ports, 100, rate=rate) == 20_000
        assert sum(len(echo.clients) for echo in echoes) == 20_000
        os.kill(gateway.pid, 0)


def test_more_sessions_than_allowed_are_dropped_and_envoy_lives(envoy: Path) -> None:
    with exposed(envoy, idle_timeout=Duration(30), max_sessions=10) as (gateway, target, _):
        assert ask_from_many_ports(target, CLIENT, range(10_001, 10_051), 50, timeout=1.0) == 10
        os.kill(gateway.pid, 0)


def test_source_ip_affinity_keeps_a_client_on_its_backend(envoy: Path) -> None:
    with exposed(
        envoy, servers=3, affinity=Affinity.SOURCE_IP, load_balancing=LoadBalancing.MAGLEV
    ) as (_, target, echoes):
        used = set()
        for number in range(1, 21):
            for echo in echoes:
                echo.clients.clear()
            for _ in range(20):
                ask(target, source=f"127.0.1.{number}")
            mine = [echo.address for echo in echoes if echo.clients]
            assert len(mine) == 1
            used.add(mine[0])
        assert len(used) == 3


@pytest.mark.parametrize("policy", [LoadBalancing.MAGLEV, LoadBalancing.RING_HASH])
def test_static_hosts_keep_a_client_on_its_backend_at_every_port(
    envoy: Path, policy: LoadBalancing
) -> None:
    """The servers listen on two ports each, as those of SIP and RTP do."""
    options = {"affinity": Affinity.SOURCE_IP, "load_balancing": policy}
    with exposed_twice(envoy, servers=5, **options) as (targets, echoes):
        used = set()
        for number in range(1, 21):
            mine = []
            for target, servers in zip(targets, echoes, strict=True):
                for echo in servers:
                    echo.clients.clear()
                ask(target, source=f"127.0.1.{number}")
                mine += [echo.address for echo in servers if echo.clients]
            assert len(mine) == 2 and len(set(mine)) == 1, mine
            used.update(mine)
        assert len(used) > 1


def test_without_affinity_a_client_uses_every_backend(envoy: Path) -> None:
    with exposed(envoy, servers=3) as (_, target, echoes):
        for _ in range(30):
            ask(target)
        assert all(echo.clients for echo in echoes)


def test_idle_timeout_ends_a_session_when_it_says(envoy: Path) -> None:
    idle = 0.6
    with (
        exposed(envoy, idle_timeout=Duration(idle)) as (gateway, target, (echo,)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(5)
        client.connect(target)

        def query() -> float:
            client.send(b"hello")
            assert client.recv(LARGEST) == b"hello"
            return time.monotonic()

        query()
        last = query()
        assert len(set(echo.clients)) == 1
        while sessions(gateway):
            assert time.monotonic() - last < 10
            time.sleep(0.005)
        # Envoy's idle time started when it sent the answer, a moment before it arrived.
        assert time.monotonic() - last >= idle - 0.05
        query()
        assert len(set(echo.clients)) == 2


def test_an_answer_from_another_port_does_not_come_back(envoy: Path) -> None:
    """Like a TFTP server's. The gateway's socket is connected to the port that it queries."""
    with exposed(envoy) as (_, target, (echo,)):
        assert ask(target) == b"hello"
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            client.settimeout(5)
            client.connect(target)
            client.send(b"hello")
            assert client.recv(LARGEST) == b"hello"
            other.bind((echo.address, 0))
            other.sendto(b"from another port", echo.clients[-1])
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(LARGEST)


def test_the_server_sees_the_gateways_address(envoy: Path) -> None:
    with exposed(envoy) as (_, target, (echo,)):
        ask(target, source="127.0.1.7")
        assert echo.clients[-1][0] != "127.0.1.7"


def sessions(gateway: LocalGateway) -> int:
    """The number of its sessions."""
    return sum(gateway.statistics("udp.*downstream_sess_active").values())
