from __future__ import annotations

import time
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.exposure import ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.ports import ExposedPort, parse_port_requests
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state.addresses import (
    Addresses,
    addresses_of,
    client_addresses,
    gateway_service,
    socket,
)
from tests.support.apiserver import ApiServer, Request
from tests.support.builders import gateway_pod, plan_of

PORT = ExposedPort.of(53, 10053, 53)


def exposed(
    server: ApiServer, api: Api, mode: GatewayServiceMode = GatewayServiceMode.COMPANION
) -> ExposureSpec:
    """An exposure with its objects in the cluster."""
    exposure = plan_of(ports=parse_port_requests(["5300:53"]), gateway_service=mode).exposure
    for write in writes(exposure):
        api.apply(write.manifest, before=None, manager=write.manager)
    return exposure.spec


def balancer(*ingress: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "edge", "name": "s"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", **spec},
        "status": {"loadBalancer": {"ingress": list(ingress)}},
    }


def plain(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "edge", "name": "s"}, "spec": spec}


UDP53 = {"port": 53, "protocol": "UDP", "nodePort": 30053}
TCP53 = {"port": 53, "protocol": "TCP", "nodePort": 30054}


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (balancer({"ip": "203.0.113.5"}), ("203.0.113.5:53/UDP",)),
        (balancer({"hostname": "lb.example"}), ("lb.example:53/UDP",)),
        (balancer({"ip": "2001:db8::5"}), ("[2001:db8::5]:53/UDP",)),
        (balancer({"ip": "203.0.113.5"}, {"ip": "203.0.113.6"}, {}),
         ("203.0.113.5:53/UDP", "203.0.113.6:53/UDP")),
        (balancer(), ("10.96.0.1:53/UDP",)),
        (balancer(ports=[UDP53]), ("10.96.0.1:53/UDP", "any node, port 30053/UDP")),
        (plain(type="ClusterIP", clusterIP="10.96.0.1"), ("10.96.0.1:53/UDP",)),
        (plain(type="NodePort", clusterIP="10.96.0.1", ports=[TCP53, UDP53]),
         ("10.96.0.1:53/UDP", "any node, port 30053/UDP")),
        (plain(type="NodePort", clusterIP="10.96.0.1", ports=[TCP53]), ("10.96.0.1:53/UDP",)),
        (plain(type="ClusterIP", clusterIP="None"), ()),
        (plain(type="ClusterIP"), ()),
        (None, ()),
    ],
)  # fmt: skip
def test_the_most_widely_reachable_address_is_shown(
    service: dict[str, Any] | None, expected: tuple[str, ...]
) -> None:
    assert addresses_of(service).of([PORT]) == expected


@pytest.mark.parametrize(
    ("service", "pending"),
    [
        (
            balancer(),
            "the load balancer of Service edge/s has no address yet: kubectl get service -n edge s",
        ),
        (balancer({"ip": "203.0.113.5"}), ""),
        (plain(type="ClusterIP", clusterIP="10.96.0.1"), ""),
        (plain(type="LoadBalancer", externalIPs=["203.0.113.7"]), ""),
    ],
)
def test_a_load_balancer_without_an_address_is_pending(
    service: dict[str, Any], pending: str
) -> None:
    assert addresses_of(service).pending.startswith(pending)
    assert bool(addresses_of(service).pending) is bool(pending)


def test_pods_are_reached_at_the_port_they_bind() -> None:
    assert Addresses(pods=("10.0.0.1", "fd00::1")).of([PORT]) == (
        "10.0.0.1:10053/UDP", "[fd00::1]:10053/UDP"
    )  # fmt: skip
    assert socket("10.0.0.1", 53) == "10.0.0.1:53/UDP"


def test_a_range_of_ports_is_one_address() -> None:
    """A thousand lines of addresses are useless."""
    ports = [ExposedPort.of(number, number + 10_000, number) for number in range(50, 55)]
    node_ports = [
        {"port": p.gateway_port, "protocol": "UDP", "nodePort": p.gateway_port * 600} for p in ports
    ]
    way = addresses_of(balancer({"ip": "2001:db8::5"})).of(ports)
    assert way == ("[2001:db8::5]:50-54/UDP",)
    pending = addresses_of(balancer(ports=node_ports))
    some = "ports 30000, 30600, 31200 and 2 more (UDP)"
    assert pending.of(ports) == ("10.96.0.1:50-54/UDP", f"any node, {some}")
    assert pending.pending.endswith(f"meanwhile clients can use {some} of any node")
    assert Addresses(pods=("10.0.0.1",)).of(ports) == ("10.0.0.1:10050-10054/UDP",)


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        (
            GatewayServiceMode.COMPANION,
            "use --gateway-service patch if the gateway's own Service has an address, otherwise "
            "--gateway-service none",
        ),
        (GatewayServiceMode.PATCH, "use --gateway-service companion"),
    ],
)
def test_the_hint_names_the_other_mode_without_an_address(
    server: ApiServer, api: Api, mode: GatewayServiceMode, advice: str
) -> None:
    server.put(gateway_pod())
    server.load_balancer = None
    pending = client_addresses(api, exposed(server, api, mode)).pending
    assert advice in pending and f"--gateway-service {mode.value}" not in pending


def test_a_companion_has_its_own_address(api: Api, server: ApiServer) -> None:
    spec = exposed(server, api)
    found = gateway_service(api, spec)
    assert found is not None and found["metadata"]["name"] == "udp-default-coredns"
    assert client_addresses(api, spec).of(spec.ports[:1]) == ("203.0.113.5:5300/UDP",)


def test_the_patched_service_is_found_by_its_field_manager(api: Api, server: ApiServer) -> None:
    spec = exposed(server, api, GatewayServiceMode.PATCH)
    found = gateway_service(api, spec)
    assert found is not None and found["metadata"]["name"] == "istio-ingressgateway"
    assert client_addresses(api, spec).of(spec.ports[:1]) == ("10.96.0.80:5300/UDP",)


def test_an_unpatched_service_does_not_count(api: Api) -> None:
    spec = plan_of(gateway_service=GatewayServiceMode.PATCH).exposure.spec
    assert gateway_service(api, spec) is None


@pytest.mark.parametrize("mode", [GatewayServiceMode.NONE, GatewayServiceMode.COMPANION])
def test_without_a_service_the_pods_addresses_are_shown(
    api: Api, server: ApiServer, mode: GatewayServiceMode
) -> None:
    spec = exposed(server, api, mode)
    if mode is GatewayServiceMode.COMPANION:
        server.remove("Service", "istio-system", "udp-default-coredns")
    server.put(gateway_pod("b", ips=("10.244.0.8",)), gateway_pod("c", ready=False))
    assert client_addresses(api, spec).of(spec.ports[:1]) == (
        "10.244.0.8:5300/UDP", "10.244.0.7:5300/UDP"
    )  # fmt: skip


def test_waits_for_a_load_balancer(api: Api, server: ApiServer) -> None:
    server.load_balancer = None
    spec = exposed(server, api)
    assert client_addresses(api, spec).pending
    later = server.get("Service", "istio-system", "udp-default-coredns")
    later["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}
    asked = []

    def answer(request: Request) -> None:
        asked.append(request)
        if len(asked) == 3:
            server.put(later)

    server.seen = answer
    found = client_addresses(api, spec, time.monotonic() + 30)
    assert found.external == ("203.0.113.9",)
    assert len(asked) >= 3


def test_reports_why_a_load_balancer_is_pending(api: Api, server: ApiServer) -> None:
    server.load_balancer = None
    spec = exposed(server, api)
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": "istio-system"},
        "involvedObject": {"kind": "Service", "name": "udp-default-coredns"},
        "type": "Warning",
        "reason": "SyncLoadBalancerFailed",
        "message": "no UDP here",
    }
    server.put(event)
    assert "has no address yet (SyncLoadBalancerFailed: no UDP here)" in (
        client_addresses(api, spec).pending
    )
