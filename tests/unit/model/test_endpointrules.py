"""Which addresses may become endpoints."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.model.endpointrules import (
    ANY_ADDRESS,
    EndpointRules,
    api_server_addresses,
    canonical,
)
from kubectl_istio_udp.model.exposure import Discovery
from kubectl_istio_udp.model.service import EndpointSlice, Pod, Service, ServicePort
from kubectl_istio_udp.model.service import service_port_endpoints as found_for
from kubectl_istio_udp.sources.permission import Permission
from tests.support.builders import cluster, endpoint, endpoint_slice, plan_of, pod, service, udp


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.8.8", "loopback"),
        ("::1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("239.1.2.3", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("241.1.2.3", "reserved"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("fd00:ec2::254", "metadata service"),
        ("fd20:ce::254", "metadata service"),
        ("100.100.100.200", "metadata service"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:169.254.169.254", "link-local"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("2002:7f00:1::", "loopback"),
        ("::169.254.169.254", "link-local"),
        ("10.96.0.1", "API server"),
        ("::ffff:10.96.0.1", "API server"),
        ("FD00:0:0:0::9", "API server"),
        ("example.com", "not an IP address"),
        ("", "not an IP address"),
    ],
)
def test_special_addresses_are_never_endpoints(address: str, reason: str) -> None:
    everything = Permission.parse({"kubectl-istio-udp/allow-endpoints": "0.0.0.0/0,::/0"}).endpoints
    api_server = frozenset({"10.96.0.1", "fd00::9"})
    rules = EndpointRules(api_server, pods={address}, ranges=everything)
    for each in (rules, EndpointRules(api_server), rules.allowing([address])):
        assert reason in (each.objection(address) or "")


@pytest.mark.parametrize("address", ["10.0.0.1", "8.8.8.8", "fd00::1", "2001:db8::1", "100.64.0.1"])
def test_other_addresses_are_allowed_without_restrictions(address: str) -> None:
    assert ANY_ADDRESS.objection(address) is None


def test_a_tenant_may_list_its_pods_and_allowed_ranges() -> None:
    ranges = Permission.parse({"kubectl-istio-udp/allow-endpoints": "192.0.2.0/28, fd01::/64"})
    rules = EndpointRules(pods={"10.0.0.1", "fd00::1"}, ranges=ranges.endpoints)
    for address in ("10.0.0.1", "fd00::1", "FD00:0::1", "192.0.2.15", "fd01::5"):
        assert rules.objection(address) is None
    for address in ("10.0.0.2", "192.0.2.16", "fd02::1"):
        assert rules.objection(address) == "not the address of a running pod of the namespace"


def test_addresses_are_compared_however_they_are_written() -> None:
    assert canonical(["FD00:0:0::1", "10.0.0.1", "x"]) == {"fd00::1", "10.0.0.1"}


@pytest.mark.parametrize(
    ("change", "addresses"),
    [
        ({}, ("10.244.0.20",)),
        ({"status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}},
         ("10.0.0.1", "fd00::1")),
        ({"status": {"phase": "Succeeded", "podIP": "10.0.0.1"}}, ()),
        ({"status": {"phase": "Failed", "podIP": "10.0.0.1"}}, ()),
        ({"status": {"phase": "Pending"}}, ()),
        ({"status": {}}, ()),
        ({"spec": {"containers": [], "hostNetwork": True}}, ()),
    ],
)  # fmt: skip
def test_a_pods_address_is_its_own_while_it_runs(
    change: dict[str, Any], addresses: tuple[str, ...]
) -> None:
    assert Pod.from_object({**pod(), **change}).addresses == addresses


def test_the_api_server_has_several_addresses() -> None:
    manifest = service("kubernetes", clusterIP="10.96.0.1", clusterIPs=["10.96.0.1", "fd00::1"])
    slices = [EndpointSlice.from_object(endpoint_slice(endpoint("10.200.0.2")))]
    assert api_server_addresses(manifest, slices) == {"10.96.0.1", "fd00::1", "10.200.0.2"}
    assert api_server_addresses(None, []) == frozenset()


@pytest.mark.parametrize("discovery", [Discovery.ENDPOINTS, Discovery.STATIC])
def test_a_plan_omits_forbidden_endpoints(discovery: Discovery) -> None:
    slices = [endpoint_slice(endpoint("10.0.0.1"), endpoint("169.254.169.254"))]
    exposure = plan_of(cluster(slices=slices), discovery=discovery).exposure
    assert [e.address for e in exposure.endpoints[None, 53]] == ["10.0.0.1"]


def test_a_workload_entry_and_an_undeclared_port_are_obstacles_for_selector() -> None:
    planned = plan_of(facts={"workload_entries": ("vm",)})
    assert planned.exposure.spec.discovery is Discovery.ENDPOINTS
    assert "WorkloadEntry vm" in (planned.reason or "")
    named = service(ports=[udp(target="dns")])
    declares = [
        {"name": "coredns", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}
    ]
    pods = [pod("a", containers=declares), pod("b")]
    planned = plan_of(cluster(service=named, pods=pods))
    assert planned.exposure.spec.discovery is Discovery.ENDPOINTS
    assert "pod b does not declare target port dns" in (planned.reason or "")
    ended = {**pod("b"), "status": {"phase": "Succeeded"}}
    planned = plan_of(cluster(service=named, pods=[pods[0], ended]))
    assert planned.exposure.spec.discovery is Discovery.SELECTOR


DNS = ServicePort(53, "udp-dns", "UDP", 53)
SLICES = [EndpointSlice.from_object(endpoint_slice(endpoint("10.0.0.1")))]


def addresses(
    wanted: dict[str, Any] | None, slices: list[EndpointSlice] = SLICES, port: ServicePort = DNS
) -> list[str]:
    now = Service.from_object(wanted) if wanted else None
    return [e.address for e in found_for(now, slices, port, ("IPv4",))]


def test_a_port_is_found_by_its_number_while_its_name_changes() -> None:
    """The Service changes first, its EndpointSlices a moment later."""
    renamed = service(ports=[udp(53, "dns")])
    later = [EndpointSlice.from_object(
        endpoint_slice(endpoint("10.0.0.1"), ports=[{"name": "dns", "port": 53, "protocol": "UDP"}])
    )]  # fmt: skip
    assert addresses(renamed) == addresses(renamed, later) == ["10.0.0.1"]
    assert addresses(service(ports=[udp(53, "dns", "named")])) == ["10.0.0.1"]
    # Without a record of the former name, the target port identifies it.
    unknown = ServicePort(53, "dns", "UDP", 53)
    assert addresses(renamed, port=unknown) == ["10.0.0.1"]
    assert addresses(service(ports=[udp(5353, "udp-dns")])) == ["10.0.0.1"]
    assert addresses(None) == ["10.0.0.1"]


def test_a_name_that_another_port_has_now_is_ignored() -> None:
    swapped = service(ports=[udp(53, "new", 5300), udp(54, "udp-dns", 53)])
    assert addresses(swapped) == []
