from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.model.service import (
    IPV4,
    IPV6,
    Endpoint,
    EndpointSlice,
    Pod,
    Service,
    ServicePort,
    endpoints_of,
)
from tests.support.builders import endpoint, endpoint_slice, pod, service, tcp, udp


def read(*slices: dict[str, Any]) -> tuple[EndpointSlice, ...]:
    return tuple(EndpointSlice.from_object(s) for s in slices)


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("FD00:0:0::1", "fd00::1"),
        ("fd00:0:0:0:0:0:0:1", "fd00::1"),
        ("10.0.0.1", "10.0.0.1"),
        ("dns.example.com", "dns.example.com"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_reads_addresses_as_envoy_writes_them(written: str, read_as: str) -> None:
    (found,) = read(endpoint_slice(endpoint(written)))
    assert [each.address for each in found.endpoints] == [read_as]


def test_reads_a_service() -> None:
    found = Service.from_object(
        service(
            ports=[udp(53, target="dns"), tcp(80)],
            publishNotReadyAddresses=True,
            annotations={"kubectl-istio-udp/query": "foo.bar.com"},
        )
    )
    assert str(found) == "default/coredns"
    assert found.selector == {"app": "coredns"}
    assert found.publish_not_ready
    assert found.query == "foo.bar.com"
    assert found.external_name is None
    assert [str(p) for p in found.ports] == ["53/UDP (udp-dns)", "80/TCP (tcp-dns)"]
    assert [p.target_port for p in found.udp_ports] == ["dns"]


def test_reads_a_minimal_service() -> None:
    found = Service.from_object({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 53}]}})
    assert (found.namespace, found.selector, found.query) == ("default", {}, None)
    assert found.ports == (ServicePort(53, "", "TCP", 53),)
    assert str(found.ports[0]) == "53/TCP"
    assert Service.from_object({"metadata": {"name": "x"}}).ports == ()


@pytest.mark.parametrize(
    ("kind", "expected"), [("ExternalName", "dns.example.com"), ("ClusterIP", None)]
)
def test_an_external_name_counts_only_in_a_service_of_that_type(
    kind: str, expected: str | None
) -> None:
    found = Service.from_object(service(type=kind, externalName="dns.example.com"))
    assert found.external_name == expected


@pytest.mark.parametrize(
    ("other", "twin"),
    [
        (tcp(53), True),
        (tcp(53, target=5353), False),
        (tcp(54, target=53), False),
        ({**tcp(53), "protocol": "SCTP"}, False),
        ({"name": "bare", "port": 53}, True),
    ],
)
def test_a_tcp_twin_has_the_same_number_and_target(other: dict[str, Any], twin: bool) -> None:
    found = Service.from_object(service(ports=[udp(53), other]))
    assert (found.tcp_twin(found.udp_ports[0]) is not None) == twin


@pytest.mark.parametrize(
    ("entry", "ready", "terminating"),
    [
        ({"addresses": ["10.0.0.1"]}, True, False),
        ({"addresses": ["10.0.0.1"], "conditions": None}, True, False),
        ({"addresses": ["10.0.0.1"], "conditions": {}}, True, False),
        ({"addresses": ["10.0.0.1"], "conditions": {"ready": None}}, True, False),
        ({"addresses": ["10.0.0.1"], "conditions": {"ready": True}}, True, False),
        ({"addresses": ["10.0.0.1"], "conditions": {"ready": False}}, False, False),
        (
            {
                "addresses": ["10.0.0.1"],
                "conditions": {"ready": False, "serving": True, "terminating": True},
            },
            False,
            True,
        ),
    ],
)
def test_an_absent_condition_counts_as_the_api_says(
    entry: dict[str, Any], ready: bool, terminating: bool
) -> None:
    (found,) = read(endpoint_slice(entry))[0].endpoints
    assert (found.ready, found.terminating) == (ready, terminating)


def test_an_endpoint_is_named_by_its_pod_if_it_has_one() -> None:
    other = endpoint("10.0.0.2") | {"targetRef": {"kind": "VirtualMachine", "name": "vm"}}
    pieces = read(endpoint_slice(endpoint("10.0.0.1", "coredns-1"), other))
    assert [e.target for e in pieces[0].endpoints] == ["coredns-1", "10.0.0.2"]


def test_of_several_addresses_the_first_counts() -> None:
    entry = endpoint("10.0.0.1") | {"addresses": ["10.0.0.1", "10.0.0.9"]}
    assert [e.address for e in read(endpoint_slice(entry))[0].endpoints] == ["10.0.0.1"]


@pytest.mark.parametrize("empty", [{"endpoints": None, "ports": None}, {"endpoints": []}])
def test_reads_an_empty_slice(empty: dict[str, Any]) -> None:
    piece = EndpointSlice.from_object({**endpoint_slice(), **empty})
    assert piece.endpoints == ()
    assert endpoints_of([piece], "udp-dns", (IPV4,)) == ()


def test_a_port_without_a_number_is_ignored() -> None:
    piece = endpoint_slice(endpoint("10.0.0.1"), ports=[{"name": "udp-dns", "protocol": "UDP"}])
    assert endpoints_of(read(piece), "udp-dns", (IPV4,)) == ()


DUAL = (
    endpoint_slice(endpoint("10.0.0.1", "a"), endpoint("10.0.0.2", "b")),
    endpoint_slice(endpoint("fd00::1", "a"), endpoint("fd00::2", "b"), family="IPv6", suffix="v6"),
)


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        ((IPV4,), ["10.0.0.1", "10.0.0.2"]),
        ((IPV6,), ["fd00::1", "fd00::2"]),
        ((IPV4, IPV6), ["10.0.0.1", "10.0.0.2"]),
        ((IPV6, IPV4), ["fd00::1", "fd00::2"]),
        ((), []),
    ],
)
def test_a_dual_stack_pod_counts_once(families: tuple[str, ...], expected: list[str]) -> None:
    assert [e.address for e in endpoints_of(read(*DUAL), "udp-dns", families)] == expected


def test_the_second_family_is_used_if_the_first_has_no_endpoints() -> None:
    found = endpoints_of(read(DUAL[1]), "udp-dns", (IPV4, IPV6))
    assert [e.address for e in found] == ["fd00::1", "fd00::2"]


def test_fqdn_endpoints_are_ignored() -> None:
    piece = endpoint_slice(endpoint("dns.example.com"), family="FQDN")
    assert endpoints_of(read(piece), "udp-dns", (IPV4, IPV6)) == ()


def test_named_ports_may_differ_between_slices() -> None:
    def piece(address: str, number: int, suffix: str) -> dict[str, Any]:
        ports = [{"name": "udp-dns", "port": number, "protocol": "UDP"}]
        return endpoint_slice(endpoint(address), ports=ports, suffix=suffix)

    found = endpoints_of(
        read(piece("10.0.0.2", 5353, "a"), piece("10.0.0.1", 53, "b")), "udp-dns", (IPV4,)
    )
    assert found == (Endpoint("10.0.0.1", 53), Endpoint("10.0.0.2", 5353))


def test_a_port_is_found_by_name_and_protocol() -> None:
    ports = [
        {"name": "dns", "port": 53, "protocol": "TCP"},
        {"name": "other", "port": 54, "protocol": "UDP"},
        {"port": 55, "protocol": "UDP"},
    ]
    pieces = read(endpoint_slice(endpoint("10.0.0.1"), ports=ports))
    assert endpoints_of(pieces, "dns", (IPV4,)) == ()
    assert endpoints_of(pieces, "other", (IPV4,))[0].port == 54
    assert endpoints_of(pieces, "", (IPV4,))[0].port == 55


def test_an_endpoint_in_two_slices_counts_once() -> None:
    twice = read(endpoint_slice(endpoint("10.0.0.1")), endpoint_slice(endpoint("10.0.0.1")))
    assert len(endpoints_of(twice, "udp-dns", (IPV4,))) == 1


def test_reads_a_pod() -> None:
    containers = [
        {
            "name": "coredns",
            "ports": [
                {"name": "dns", "containerPort": 1053, "protocol": "UDP"},
                {"name": "dns-tcp", "containerPort": 1054, "protocol": "TCP"},
                {"name": "metrics", "containerPort": 9153},
                {"containerPort": 1055, "protocol": "UDP"},
            ],
        }
    ]
    found = Pod.from_object(pod(containers=containers))
    assert found == Pod("coredns-1", ports={"dns": 1053}, addresses=("10.244.0.20",))


@pytest.mark.parametrize("place", ["labels", "annotations"])
@pytest.mark.parametrize(("value", "ambient"), [("enabled", True), ("disabled", False)])
def test_recognizes_an_ambient_pod(place: str, value: str, ambient: bool) -> None:
    found = Pod.from_object(pod(**dict[str, Any]({place: {"ambient.istio.io/redirection": value}})))
    assert found.ambient is ambient


@pytest.mark.parametrize("place", ["containers", "initContainers"])
def test_recognizes_containers_and_native_sidecars(place: str) -> None:
    manifest = pod()
    manifest["spec"].setdefault(place, []).append({"name": "istio-proxy"})
    assert Pod.from_object(manifest).sidecar
    assert not Pod.from_object(pod()).sidecar
