"""IPv6 beside IPv4: Services of one family or both, through gateway pods that have both."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import (
    Space,
    dns_server,
    eventually,
    get,
    wait_answered,
)
from gateways import gateway_manifests, gone

FAMILIES = [["IPv6"], ["IPv4"], ["IPv4", "IPv6"], ["IPv6", "IPv4"]]


def families_of(manifests: list[dict[str, Any]], families: list[str]) -> list[dict[str, Any]]:
    """The manifests with these families for the Service."""
    for manifest in manifests:
        if manifest["kind"] == "Service":
            policy = "SingleStack" if len(families) == 1 else "RequireDualStack"
            manifest["spec"] |= {"ipFamilies": families, "ipFamilyPolicy": policy}
    return manifests


def listed(space: Space, name: str) -> set[str]:
    """The families in which a Service has a ready endpoint."""
    label = f"kubernetes.io/service-name={name}"
    return {
        found["addressType"]
        for found in get("endpointslices", "-n", space.name, "-l", label)["items"]
        for endpoint in found.get("endpoints") or ()
        if endpoint["conditions"].get("ready")
    }


@pytest.mark.parametrize("families", FAMILIES, ids="+".join)
def test_a_service_of_any_family_answers(space: Space, port: int, families: list[str]) -> None:
    node = get("nodes")["items"][0]["status"]["addresses"]
    if sum(address["type"] == "InternalIP" for address in node) < 2:
        pytest.skip("this cluster has one address family")
    space.apply(*families_of(dns_server(), families))
    # `expose` lists the current endpoints; a Deployment is ready before they are listed.
    eventually("its endpoints are listed", lambda: listed(space, "dns") == set(families))
    exposed = space.expose("dns", "-p", f"{port}:53")
    wait_answered(space, "dns")
    # istiod takes a pod's primary address, which is IPv4 here, for a selector.
    assert ("primary one" in exposed.err) == (families == ["IPv6"])


@pytest.mark.parametrize("families", [["IPv6"], ["IPv6", "IPv4"]], ids="+".join)
@pytest.mark.parametrize("way", ["companion", "patch"])
def test_a_gateway_whose_service_is_ipv6(
    space: Space, port: int, families: list[str], way: str
) -> None:
    """Clients reach the exposure by the families that the gateway's own Service has."""
    space.apply(*dns_server(), *families_of(gateway_manifests("six", "six"), families))
    try:
        space.expose(
            "dns", "-p", f"{port}:53", "--gateway", f"{space.name}/six", "--gateway-service", way
        )
        wait_answered(space, "dns")
        name = "six" if way == "patch" else f"udp-{space.name}-dns"
        service = get("service", "-n", space.name, name)["spec"]
        assert service["ipFamilies"] == families
        assert ":" in service["clusterIP"]
    finally:
        gone(space, "deployment", "six")
