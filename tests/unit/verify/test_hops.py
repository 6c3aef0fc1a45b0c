from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import NotFound
from kubectl_istio_udp.model.exposure import Exposure, ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.verify.hops import read_outer, read_service, service_hops
from tests.support.apiserver import ApiServer
from tests.support.builders import endpoint, endpoint_slice, gateway_pod, plan_of, service, tcp, udp


def exposure(**options: Any) -> Exposure:
    return plan_of(ports=parse_port_requests(["5300:53"]), **options).exposure


def put(server: ApiServer, made: Exposure) -> ExposureSpec:
    server.put(*[dict(write.manifest) for write in writes(made)])
    return made.spec


def targets(hops: tuple[Hop, ...]) -> list[str]:
    return [f"{hop.via.value} {hop.name} {hop.target}" for hop in hops]


def hops_of(api: Api, name: str = "coredns") -> tuple[Hop, ...]:
    return service_hops(*read_service(api, "default", name))


def test_every_ready_pod_is_a_hop(api: Api, server: ApiServer) -> None:
    server.put(
        service(ports=[udp(53), udp(54, "two"), tcp(80)]),
        endpoint_slice(
            endpoint("10.0.0.1", "a"),
            endpoint("10.0.0.2", "b", ready=False),
            ports=[
                {"name": "udp-dns", "port": 53, "protocol": "UDP"},
                {"name": "two", "port": 5454, "protocol": "UDP"},
            ],
        ),
    )
    assert targets(hops_of(api)) == ["pod a 10.0.0.1:53", "pod a 10.0.0.1:5454"]
    assert [hop.service_port for hop in hops_of(api)] == [53, 54]


def test_an_external_name_is_queried_directly(api: Api, server: ApiServer) -> None:
    spec = {"type": "ExternalName", "externalName": "dns.example.com", "ports": [udp(53)]}
    server.put({**service("outside"), "spec": spec})
    assert targets(hops_of(api, "outside")) == ["pod dns.example.com dns.example.com:53"]


def test_reports_a_missing_service(api: Api) -> None:
    with pytest.raises(NotFound, match="service x not found"):
        hops_of(api, "x")


def test_the_gateways_ready_pods_and_the_service_in_front(api: Api, server: ApiServer) -> None:
    server.put(gateway_pod("gw-2", ips=("10.244.0.8", "fd00::8")), gateway_pod("gw-3", ready=False))
    made = exposure()
    for write in writes(made):
        api.apply(write.manifest, before=None, manager=write.manager)
    address = server.get("Service", "istio-system", "udp-default-coredns")["spec"]["clusterIP"]
    assert targets(read_outer(api, made.spec).hops(made.spec)) == [
        "gateway gw-2 10.244.0.8:5300",
        "gateway istio-ingressgateway-1 10.244.0.7:5300",
        f"service udp-default-coredns {address}:5300",
    ]


def test_privileged_ports_differ_between_gateway_and_service(api: Api) -> None:
    made = plan_of().exposure
    for write in writes(made):
        api.apply(write.manifest, before=None, manager=write.manager)
    ports = {hop.via: hop.port for hop in read_outer(api, made.spec).hops(made.spec)}
    assert ports == {Via.GATEWAY: 10053, Via.SERVICE: 53}


@pytest.mark.parametrize("change", ["headless", "none", "gone"])
def test_without_a_service_address_the_gateway_is_the_last_hop(
    api: Api, server: ApiServer, change: str
) -> None:
    mode = GatewayServiceMode.NONE if change == "none" else GatewayServiceMode.COMPANION
    spec = put(server, exposure(gateway_service=mode))
    if change == "headless":
        found = server.get("Service", "istio-system", "udp-default-coredns")
        found["spec"]["clusterIP"] = "None"
        server.put(found)
    elif change == "gone":
        server.remove("Service", "istio-system", "udp-default-coredns")
    assert [hop.via for hop in read_outer(api, spec).hops(spec)] == [Via.GATEWAY]
