"""What `direct response` reads before it decides, and the hops at which `verify` asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NotFound
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.http_routing import Server
from kubectl_istio_udp.model.request import ResponseRequest
from kubectl_istio_udp.model.response import Answer, ResponseApi, ResponseSpec
from kubectl_istio_udp.plan.response import ResponseSnapshot
from kubectl_istio_udp.render.response import route_name
from kubectl_istio_udp.state.responses import read_response_snapshot
from kubectl_istio_udp.verify.responsehops import http_servers, response_hops, why_not_answered
from kubectl_istio_udp.verify.toolpod import ToolPod
from tests.support.apiserver import ApiServer, Exec
from tests.support.builders import (
    endpoint,
    endpoint_slice,
    gateway_pod,
    gateway_service,
    service,
    tcp,
    udp,
)
from tests.support.fakes import Fakes
from tests.support.mesh_builders import (
    RATINGS,
    envoy_filter,
    istio_gateway,
    istiod_pod,
    mesh_config,
    put,
    response,
    sidecar_pod,
    virtual_service,
)

OWN_NAME = "response-default-hello"
POD = "istio-ingressgateway-1"
TOOL = ToolPod("default", "network-tool", "network-tool")


ANY = GatewayChoice()


def read(
    api: Api, *, choice: GatewayChoice = ANY, hosts: tuple[str, ...] = ("*",), **request: Any
) -> ResponseSnapshot:
    answer = Answer("/hello", 200, hosts=hosts)
    return read_response_snapshot(api, ResponseRequest("default", answer, **request), choice)


def keys(snapshot: ResponseSnapshot) -> list[tuple[str, ...]]:
    return [(o["kind"], o["metadata"]["namespace"]) for o in snapshot.objects]


# -- the snapshot -------------------------------------------------------------------------------


def test_reads_mesh_gateway_servers_and_other_virtual_services(api: Api, server: ApiServer) -> None:
    server.put(
        mesh_config(rootNamespace="istio-system"),
        istiod_pod(version="1.30.1"),
        istio_gateway(hosts=("shop.example.com",)),
        istio_gateway("elsewhere", selector={"app": "other"}),
        virtual_service(),
        virtual_service("api", namespace="lab", hosts=("api.example.com",)),
    )
    snapshot = read(api)
    assert (snapshot.mesh.istio, snapshot.proxies, snapshot.istio) == ((1, 30), (1, 31), (1, 30))
    assert snapshot.versions == "control plane 1.30, gateway 1.31"
    assert snapshot.gateway is not None
    assert str(snapshot.gateway.ref) == "istio-system/istio-ingressgateway"
    assert [(s.gateway, s.port, s.hosts) for s in snapshot.servers] == [
        ("istio-system/edge", 80, ("shop.example.com",))
    ]
    assert [rival.owner for rival in snapshot.others] == ["default/shop", "lab/api"]
    assert (snapshot.services, snapshot.objects) == ((), ())


def test_without_a_gateway_it_is_an_error(api: Api, server: ApiServer) -> None:
    server.remove("Pod", "istio-system", POD)
    with pytest.raises(NotFound):
        read(api)


def test_an_image_without_a_version_needs_a_query_to_its_proxy(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.put(gateway_pod(image="own/proxy:latest"))
    fakes.istio = "1.14.5"
    assert read(api).proxies == (1, 14)


@pytest.mark.parametrize("ready", [True, False])
def test_a_version_that_cannot_be_read_is_unknown(
    api: Api, server: ApiServer, fakes: Fakes, ready: bool
) -> None:
    """The proxy cannot be asked, or there is none that is ready."""
    server.put(gateway_pod(image="own/proxy:latest", ready=ready))
    fakes.deaf[POD] = Exec(error="no")
    snapshot = read(api)
    assert snapshot.proxies is None
    assert "gateway unknown" in snapshot.versions
    assert bool(fakes.commands) is ready


def test_objects_of_the_response_are_not_other_virtual_services(
    api: Api, server: ApiServer
) -> None:
    put(server, response(creates_gateway=True, servers=(), api=ResponseApi.ENVOY_FILTER))
    put(server, response("/other", name="other"))
    snapshot = read(api)
    assert keys(snapshot) == [
        ("Gateway", "istio-system"),
        ("VirtualService", "default"),
        ("EnvoyFilter", "istio-system"),
    ]
    assert [rival.owner for rival in snapshot.others] == ["default/response-default-other"]


def test_objects_of_the_response_at_another_gateway_are_found(api: Api, server: ApiServer) -> None:
    """They must be deleted when the response moves, so labels find them, not the place."""
    other = response(
        name="hello",
        gateway=GatewayRef("lab", "edge", {"app": "edge"}),
        api=ResponseApi.ENVOY_FILTER,
        servers=(),
        creates_gateway=True,
    )
    put(server, other)
    assert ("EnvoyFilter", "lab") in keys(read(api, name="hello"))


@pytest.mark.parametrize(
    ("manifest", "place"),
    [
        (virtual_service(OWN_NAME), ("VirtualService", "default")),
        (istio_gateway(OWN_NAME), ("Gateway", "istio-system")),
        (envoy_filter(OWN_NAME), ("EnvoyFilter", "istio-system")),
    ],
)
def test_other_objects_with_the_same_name_are_found(
    api: Api, server: ApiServer, manifest: dict[str, Any], place: tuple[str, ...]
) -> None:
    server.put(manifest)
    assert keys(read(api, name="hello")) == [place]


@pytest.mark.parametrize("make", [virtual_service, envoy_filter])
def test_other_objects_with_the_same_name_in_other_namespaces_do_not_matter(
    api: Api, server: ApiServer, make: Callable[..., Any]
) -> None:
    server.put(make(OWN_NAME, namespace="lab"))
    assert keys(read(api, name="hello")) == []


def test_without_access_to_all_namespaces_reads_the_nearby_ones(
    api: Api, server: ApiServer
) -> None:
    server.put(
        istio_gateway(),
        virtual_service(),
        virtual_service("b", namespace="lab"),
        istio_gateway("far", namespace="lab"),
    )
    for plural in ("virtualservices", "gateways"):
        server.fail("GET", rf"/v1beta1/{plural}(\?|$)", 403)
    choice = GatewayChoice("istio-system/istio-ingressgateway")
    snapshot = read(api, choice=choice)
    assert [rival.owner for rival in snapshot.others] == ["default/shop"]
    assert [s.gateway for s in snapshot.servers] == ["istio-system/edge"]


def test_without_any_permission_it_is_an_error(api: Api, server: ApiServer) -> None:
    server.fail("GET", "/virtualservices", 403)
    with pytest.raises(Forbidden, match="virtualservices"):
        read(api)


# -- inside the mesh ----------------------------------------------------------------------------


def test_inside_the_mesh_the_hosts_services_are_read(api: Api, server: ApiServer) -> None:
    server.put(service("ratings", ports=[tcp(9080, "http")]), mesh_config(rootNamespace="root"))
    hosts = (RATINGS, "reviews.default.svc.cluster.local", "short", "api.example.com")
    snapshot = read(api, mesh=True, hosts=hosts)
    assert [(s.name, [p.port for p in s.ports]) for s in snapshot.services] == [("ratings", [9080])]
    assert (snapshot.gateway, snapshot.proxies, snapshot.servers) == (None, None, ())
    assert snapshot.versions == "control plane unknown"


def test_a_service_that_may_not_be_read_counts_as_missing(api: Api, server: ApiServer) -> None:
    server.put(service("ratings", ports=[tcp(9080)]))
    server.fail("GET", "/services/ratings", 403)
    assert read(api, mesh=True, hosts=(RATINGS,)).services == ()


def test_inside_the_mesh_the_filter_is_in_the_root_namespace(api: Api, server: ApiServer) -> None:
    server.put(mesh_config(rootNamespace="root"), envoy_filter(OWN_NAME, namespace="root"))
    snapshot = read(api, mesh=True, hosts=(RATINGS,), name="hello")
    assert keys(snapshot) == [("EnvoyFilter", "root")]


# -- the hops -----------------------------------------------------------------------------------


def gateway_slice(*endpoints: dict[str, Any], ports: list[dict[str, Any]]) -> dict[str, Any]:
    return endpoint_slice(
        *endpoints, of="istio-ingressgateway", namespace="istio-system", ports=ports
    )


def port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "port": number, "protocol": "TCP"}


def test_queries_pods_at_the_target_port(api: Api, server: ApiServer) -> None:
    server.put(
        gateway_slice(
            endpoint("10.244.0.7", POD),
            endpoint("10.244.0.8", "gw-2", ready=False),
            ports=[port("http2", 8080), port("https", 8443)],
        )
    )
    assert response_hops(api, response().spec, TOOL) == (
        Hop(Via.GATEWAY, POD, "10.244.0.7", 8080, 80),
        Hop(Via.SERVICE, "istio-ingressgateway", "10.96.0.80", 80, 80),
    )


def test_a_named_target_port_may_differ_between_pods(api: Api, server: ApiServer) -> None:
    front = gateway_service()
    front["spec"]["ports"] = [udp(80, "quic"), tcp(80, "http2", "web")]
    pieces = [
        gateway_slice(endpoint("10.244.0.7", "a"), ports=[port("http2", 8080)]),
        gateway_slice(endpoint("10.244.0.8", "b"), ports=[port("http2", 9090)]),
    ]
    pieces[1]["metadata"]["name"] += "-2"
    server.put(front, *pieces)
    hops = response_hops(api, response().spec, TOOL)
    assert [(hop.name, hop.port) for hop in hops] == [
        ("a", 8080),
        ("b", 9090),
        ("istio-ingressgateway", 80),
    ]


def test_a_headless_service_is_not_queried(api: Api, server: ApiServer) -> None:
    server.put(gateway_service(clusterIP="None"))
    server.put(gateway_slice(endpoint("10.244.0.7", POD), ports=[port("http2", 8080)]))
    assert [hop.via for hop in response_hops(api, response().spec, TOOL)] == [Via.GATEWAY]


@pytest.mark.parametrize("there", [True, False])
def test_a_port_without_a_service_is_queried_at_the_pods(
    api: Api, server: ApiServer, there: bool
) -> None:
    if not there:
        server.remove("Service", "istio-system", "istio-ingressgateway")
    server.put(gateway_pod("gw-2", ips=("fd00::7",)), gateway_pod("gw-3", ready=False))
    hops = response_hops(api, response(gateway_port=8888).spec, TOOL)
    assert hops == (
        Hop(Via.GATEWAY, "gw-2", "fd00::7", 8888, 8888),
        Hop(Via.GATEWAY, POD, "10.244.0.7", 8888, 8888),
    )


def test_reports_a_missing_gateway(api: Api, server: ApiServer) -> None:
    server.remove("Pod", "istio-system", POD)
    with pytest.raises(NotFound):
        response_hops(api, response().spec, TOOL)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("ports", "number"),
    [
        ([tcp(9000, "tcp-raw"), tcp(9080, "http-web")], 9080),
        ([udp(53), tcp(9000, "raw")], 9000),
        ([tcp(9000, "raw"), tcp(50051, "grpc")], 50051),
        ([], 80),
    ],
)
def test_inside_the_mesh_the_tools_sidecar_is_queried(
    api: Api, server: ApiServer, native: bool, ports: list[dict[str, Any]], number: int
) -> None:
    server.put(
        sidecar_pod("network-tool", app="network-tool", native=native),
        service("ratings", ports=ports),
    )
    spec = response(mesh=True, hosts=(RATINGS,)).spec
    assert response_hops(api, spec, TOOL) == (
        Hop(Via.SIDECAR, "network-tool", RATINGS, number, number),
    )


@pytest.mark.parametrize("host", ["api.example.com", "short"])
def test_a_host_without_a_service_is_queried_at_80(api: Api, server: ApiServer, host: str) -> None:
    server.put(sidecar_pod("network-tool", app="network-tool"))
    (hop,) = response_hops(api, response(mesh=True, hosts=(host,)).spec, TOOL)
    assert (hop.address, hop.port) == (host, 80)


def test_a_tool_without_a_sidecar_cannot_query_inside_the_mesh(api: Api, server: ApiServer) -> None:
    with pytest.raises(ClusterError, match="pod default/network-tool has no sidecar") as caught:
        response_hops(api, response(mesh=True, hosts=(RATINGS,)).spec, TOOL)
    assert "--create-tool" in caught.value.hints[0]


@pytest.mark.parametrize(
    ("gateways", "spec", "expected"),
    [
        ([istio_gateway(port=443, protocol="HTTPS", tls={"mode": "SIMPLE"})], {}, True),
        ([istio_gateway(port=443)], {}, False),
        ([istio_gateway(port=80, protocol="HTTPS", tls={"mode": "SIMPLE"})], {}, False),
        ([], {}, False),
        ([istio_gateway()], {"servers": ()}, False),
        ([istio_gateway()], {"mesh": True, "hosts": (RATINGS,)}, False),
    ],
)
def test_whether_the_server_terminates_tls(
    api: Api,
    server: ApiServer,
    gateways: list[dict[str, Any]],
    spec: dict[str, Any],
    expected: bool,
) -> None:
    server.put(*gateways)
    servers = http_servers(api, response(**{"gateway_port": 443, **spec}).spec)
    assert any(each.tls for each in servers) is expected


# -- why a hop does not answer ------------------------------------------------------------------

GATEWAY_HOP = Hop(Via.GATEWAY, POD, "10.244.0.7", 8080, 80)
SERVERS = (Server("istio-system/edge", 80, ("*",)),)


def test_a_gateway_with_the_route_has_another_route_before_it(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    put(server, response())
    text = why_not_answered(api, response().spec, GATEWAY_HOP, SERVERS)
    assert text.startswith(f"{POD} has the route of this response, so something else decides")


def test_reports_a_gateway_without_the_route(api: Api, server: ApiServer, fakes: Fakes) -> None:
    put(server, response(name="hello2"))
    assert route_name(response(name="hello2")).startswith("response-default-hello2-")
    text = why_not_answered(api, response().spec, GATEWAY_HOP, SERVERS)
    assert text == f"{POD} does not have the route of this response"


def test_reports_a_gateway_that_cannot_be_queried(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    fakes.deaf[POD] = Exec(error="gone")
    text = why_not_answered(api, response().spec, GATEWAY_HOP, SERVERS)
    assert "could not query" in text and "gone" in text


@pytest.mark.parametrize(
    ("spec", "hop"),
    [
        (response().spec, Hop(Via.SERVICE, "gw", "10.96.0.1", 80, 80)),
        (response(mesh=True, hosts=(RATINGS,)).spec, Hop(Via.SIDECAR, "tool", RATINGS, 80, 80)),
    ],
)
def test_other_hops_are_not_queried_for_the_cause(
    api: Api, fakes: Fakes, spec: ResponseSpec, hop: Hop
) -> None:
    assert why_not_answered(api, spec, hop, SERVERS) == ""
    assert fakes.commands == []
