"""Gateways and Services with different address families."""

from __future__ import annotations

import pytest

from tests.support import builders
from tests.support.builders import endpoint, endpoint_slice
from tests.support.controlling import Running, annotated, space, until

V4, V6 = ("10.244.0.7",), ("fd00::7",)


def put(running: Running, gateway: tuple[str, ...], family: str, *addresses: str) -> None:
    """A gateway, and a Service with one EndpointSlice."""
    running.server.put(
        space("default", **{"kubectl-istio-udp/allow-endpoints": "10.0.0.0/8,fd00::/16"}),
        builders.gateway_pod(ips=gateway),
        endpoint_slice(*map(endpoint, addresses), family=family),
        annotated(),
    )


@pytest.mark.parametrize(
    ("gateway", "family", "addresses", "has"),
    [
        (V6, "IPv4", ("10.244.0.20",), "IPv6"),
        (V4, "IPv6", ("fd00::20",), "IPv4"),
        (V6, "IPv4", (), "IPv6"),
        (V4, "IPv6", (), "IPv4"),
    ],
)
def test_a_service_of_another_family_is_refused(
    running: Running, gateway: tuple[str, ...], family: str, addresses: tuple[str, ...], has: str
) -> None:
    """Also without endpoints at the moment; it is exposed when it has the gateway's family."""
    put(running, gateway, family, *addresses)
    running.start()
    told = running.tells("ExposeInvalid")
    assert f"has only {family} addresses, but the pods of gateway" in told
    assert f"have only {has}" in told
    running.quiet()
    assert running.filter() is None
    right = "fd00::21" if has == "IPv6" else "10.244.0.21"
    running.server.put(endpoint_slice(endpoint(right), family=has, suffix="other"))
    if addresses:
        running.server.remove("EndpointSlice", "default", "coredns-abc")
    running.exposed()
    until(lambda: running.addresses() == [right])


def test_an_ipv6_gateway_listens_and_sends_by_ipv6(running: Running) -> None:
    """Addresses that were written by hand in another form are as Envoy shows them."""
    put(running, V6, "IPv6", "FD00:0:0::20", "fd00::21")
    running.start()
    running.exposed()
    assert running.addresses() == ["fd00::20", "fd00::21"]
    patches = running.filter()["spec"]["configPatches"]
    (listener,) = [p["patch"]["value"] for p in patches if p["applyTo"] == "LISTENER"]
    assert listener["address"]["socket_address"]["address"] == "::"
    assert running.companion()["spec"]["ports"][0]["port"] == 5300


def test_endpoints_that_change_to_another_family_are_refused(running: Running) -> None:
    """Although a change of endpoints alone usually needs no planning."""
    put(running, V4, "IPv4", "10.244.0.20")
    running.start()
    running.exposed()
    running.quiet()
    running.server.put(endpoint_slice(endpoint("fd00::20"), family="IPv6"))
    assert "has only IPv6 addresses" in running.tells("ExposeInvalid")
