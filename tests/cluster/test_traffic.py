"""Datagrams under load: restarts, fresh ports, limits."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from conftest import Space, companion, dns_server, finish, gateway_restarts, kubectl

# They change what all tests share, or measure what others would disturb.
pytestmark = pytest.mark.alone

Load = Callable[..., "subprocess.Popen[str]"]


@pytest.mark.quiet
def test_rolling_restart_loses_almost_nothing(space: Space, port: int, load_pod: Load) -> None:
    """Three backends restart under 500 queries/s, with discovery by selector and no controller.

    Fresh ports and 50 clients that keep theirs, at the same time: at most 2 lost of 12,500 each.
    """
    space.apply(*dns_server(replicas=3))
    space.expose("dns", "-p", f"{port}:53", "--discovery", "selector", "--expect-rate", "600")
    target = companion(space, "dns")
    fresh = load_pod(*target, "--queries", "12500", "--rate", "500")
    sticky = load_pod(*target, "--queries", "12500", "--rate", "500", "--clients", "50")
    kubectl("rollout", "restart", "-n", space.name, "deploy/dns")
    kubectl("rollout", "status", "-n", space.name, "deploy/dns", "--timeout=60s")
    assert fresh.poll() is None, "the load must outlast the restart"
    counts = {"fresh ports": finish(fresh), "sticky clients": finish(sticky)}
    print(f"\nrolling restart: {counts}")
    assert all(count["lost"] <= 2 for count in counts.values()), counts


def test_twenty_thousand_fresh_ports(space: Space, port: int, load_pod: Load) -> None:
    """No port is used twice, and an exposure that expects the rate answers every query."""
    space.apply(*dns_server(replicas=2))
    space.expose("dns", "-p", f"{port}:53", "--expect-rate", "800")
    count = finish(load_pod(*companion(space, "dns"), "--queries", "20000", "--rate", "800"))
    print(f"\nfresh ports: {count}")
    assert count["answered"] == 20_000, count


def test_more_clients_than_sessions_do_not_harm_the_gateway(
    space: Space, port: int, load_pod: Load
) -> None:
    """Beyond --max-sessions datagrams are dropped, the gateway lives, and it recovers."""
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53", "--max-sessions", "500", "--idle-timeout", "2s")
    restarts = gateway_restarts()
    target = companion(space, "dns")
    count = finish(load_pod(*target, "--queries", "3000", "--rate", "1500", "--timeout", "1"))
    # The load's first query is not counted, and its session may last as long as the load does.
    assert 499 <= count["answered"] < 3000, count
    assert gateway_restarts() == restarts
    after = finish(load_pod(*target, "--queries", "100", "--rate", "50"))
    assert after["answered"] == 100, after


def test_a_flood_of_ports_does_not_harm_the_gateway(
    space: Space, port: int, load_pod: Load
) -> None:
    """With the default limit, 30,000 ports at once do not crash the gateway's Envoy."""
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53", "--idle-timeout", "60s")
    restarts = gateway_restarts()
    target = companion(space, "dns")
    finish(load_pod(*target, "--queries", "30000", "--rate", "3000", "--timeout", "1"))
    assert gateway_restarts() == restarts
    space.expose("dns", "-p", f"{port}:53", "--idle-timeout", "1s")
    after = finish(load_pod(*target, "--queries", "100", "--rate", "50"))
    assert after["answered"] == 100, after
