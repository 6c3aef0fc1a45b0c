"""Ports with several backends: each client's share of the real Envoy's clusters."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubectl_istio_udp.envoy.local_gateway import LocalGateway
from kubectl_istio_udp.model.exposure import Affinity, Discovery, LoadBalancing
from kubectl_istio_udp.model.ports import Backend, ExposedPort
from kubectl_istio_udp.model.service import Endpoint
from kubectl_istio_udp.plan.shares import with_kept_shares
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from tests.envoy.traffic import Echo, ask, free_port
from tests.support.builders import plan_of

CLIENT = "127.0.0.98"
PORTS = range(12_001, 13_001)
STICKY = {"affinity": Affinity.SOURCE_IP, "load_balancing": LoadBalancing.MAGLEV}


@contextmanager
def servers(count: int) -> Iterator[list[Echo]]:
    with ExitStack() as stack:
        found = [Echo(f"127.0.0.{11 + number}") for number in range(count)]
        for echo in found:
            stack.callback(echo.close)
        yield found


def routed(
    port: int,
    weights: tuple[int, ...],
    dropped: int,
    echoes: list[Echo] | tuple[Any, ...],
    **options: Any,
) -> dict[str, Any]:
    """An EnvoyFilter with a port that leads to one Service for each weight; 0 leaves it out."""
    exposure = plan_of(discovery=Discovery.STATIC, **options).exposure
    backends = {
        Backend(53, weight=weight, service=("apps", f"server-{number}")): echo
        for number, (weight, echo) in enumerate(zip(weights, echoes, strict=True))
        if weight
    }
    spec = replace(
        exposure.spec, service="", ports=(ExposedPort(port, port, tuple(backends), dropped),)
    )
    hosts = {b.key: (Endpoint(echo.address, echo.port),) for b, echo in backends.items()}
    return envoy_filter(replace(exposure, spec=spec, endpoints=hosts))


def spread(envoy: Path, weights: tuple[int, ...], dropped: int, echoes: list[Echo]) -> list[int]:
    """The client ports that each server hears from, after one datagram from each of PORTS."""
    for echo in echoes:
        echo.clients.clear()
    port = free_port()
    with LocalGateway(
        envoy, [routed(port, weights, dropped, echoes, max_sessions=2000)], {}
    ) as gateway:
        for number in PORTS:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.bind((CLIENT, number))
                client.sendto(b"x", ("127.0.0.1", port))
        lost = all_arrived(gateway, echoes)
        sessions = sum(gateway.statistics("udp.*downstream_sess_total").values())
    assert sessions + lost == len(PORTS)
    assert lost == pytest.approx(len(PORTS) * dropped / (sum(weights) + dropped), abs=50)
    return [len(echo.clients) for echo in echoes]


@pytest.mark.parametrize(
    ("weights", "dropped"),
    [
        ((70, 30, 0), 0),
        ((1, 1, 1), 1),
        ((50, 20, 0), 30),
        ((1_000_000, 1, 0), 0),
        ((0, 0, 0), 5),
        ((1, 0, 0), 999_999),
    ],
)
def test_clients_are_spread_by_weight_and_the_rest_is_dropped(
    envoy: Path, weights: tuple[int, ...], dropped: int
) -> None:
    with servers(3) as echoes:
        found = spread(envoy, weights, dropped, echoes)
    for weight, count in zip(weights, found, strict=True):
        expected = len(PORTS) * weight / (sum(weights) + dropped)
        assert count == pytest.approx(expected, abs=50) and (weight or not count)


def test_a_port_without_backends_drops_everything(envoy: Path) -> None:
    port = free_port()
    with LocalGateway(envoy, [routed(port, (), 0, ())], {}) as gateway:
        with pytest.raises(TimeoutError):
            ask(("127.0.0.1", port), timeout=0.5)
        assert sum(gateway.statistics("downstream_sess_no_route").values()) == 1
        assert sum(gateway.statistics("downstream_sess_total").values()) == 0


def test_with_affinity_a_client_s_address_decides(envoy: Path) -> None:
    with servers(2) as echoes:
        port = free_port()
        envoy_filters = [routed(port, (50, 50), 0, echoes, **STICKY)]
        with LocalGateway(envoy, envoy_filters, {}):
            used = set()
            for number in range(1, 31):
                for echo in echoes:
                    echo.clients.clear()
                for _ in range(10):
                    ask(("127.0.0.1", port), source=f"127.0.1.{number}")
                mine = [echo.address for echo in echoes if echo.clients]
                assert len(mine) == 1
                used.update(mine)
        assert len(used) == 2


def heard_by(envoy: Path, port: ExposedPort) -> list[int | None]:
    """The number of the server that hears each client; None if its datagram is dropped."""
    with servers(3) as echoes:
        exposure = plan_of(discovery=Discovery.STATIC, max_sessions=2000).exposure
        spec = replace(exposure.spec, service="", ports=(port,))
        hosts = {
            backend.key: (Endpoint(echo.address, echo.port),)
            for backend, echo in zip(port.backends, echoes, strict=True)
        }
        filters = [envoy_filter(replace(exposure, spec=spec, endpoints=hosts))]
        with LocalGateway(envoy, filters, {}) as gateway:
            for number in PORTS:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.bind((CLIENT, number))
                    client.sendto(b"%d" % number, ("127.0.0.1", port.listener_port))
            all_arrived(gateway, echoes)
        by_number = {int(text): index for index, echo in enumerate(echoes) for text in echo.heard}
        return [by_number.get(number) for number in PORTS]


def all_arrived(gateway: LocalGateway, echoes: list[Echo]) -> int:
    """Wait for the datagrams of all PORTS; how many of them were dropped."""
    deadline = time.monotonic() + 20
    while True:
        lost = sum(gateway.statistics("downstream_sess_no_route").values())
        if lost + sum(len(echo.clients) for echo in echoes) >= len(PORTS):
            return lost
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_change_of_weights_moves_only_the_share_that_moves(envoy: Path) -> None:
    """The backend between two others keeps all clients; then a share in the middle is dropped."""

    def of(dropped: int, *weights: int) -> ExposedPort:
        number = free_port()
        backends = tuple(
            Backend(53, weight=weight, service=("apps", f"server-{index}"))
            for index, weight in enumerate(weights)
        )
        return ExposedPort(number, number, backends, dropped)

    ports = [of(0, 50, 30, 20)]
    for each in (of(0, 40, 30, 30), of(30, 40, 0, 30)):
        ports.append(with_kept_shares(each, ports[-1]))
    first, second, third = (heard_by(envoy, port) for port in ports)
    moved = [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
    assert set(moved) == {(0, 2)}
    assert len(moved) == pytest.approx(len(PORTS) / 10, abs=30)
    assert {pair for pair in zip(second, third, strict=True) if pair[0] != pair[1]} == {(1, None)}
    assert 1 not in third
