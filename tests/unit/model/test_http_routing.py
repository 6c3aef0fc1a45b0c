"""Who answers a request: Istio Gateways' servers and other people's VirtualServices."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.gateway import gateways_from
from kubectl_istio_udp.model.http_routing import OtherVirtualService, Server, Takes, servers_from
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.mesh import Mesh
from kubectl_istio_udp.model.names import labels
from kubectl_istio_udp.model.request import ResponseRequest
from kubectl_istio_udp.model.response import Answer, ResponseApi
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.plan.response import (
    ResponsePlan,
    ResponseSnapshot,
    hosts_of_other,
    plan_response,
)
from tests.support.builders import gateway_pod, gateway_service, metadata, service, tcp, udp

(GATEWAY,) = gateways_from([gateway_pod()], [gateway_service()])
SHOP = "istio-system/shop"


def istio_gateway(
    *servers: dict[str, Any],
    name: str = "shop",
    selector: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {
        "kind": "Gateway",
        "metadata": metadata("istio-system", name, **more),
        "spec": {"selector": selector or {"istio": "ingressgateway"}, "servers": list(servers)},
    }


def server(
    port: int = 80, protocol: str = "HTTP", hosts: tuple[str, ...] = ("*",), **tls: Any
) -> dict[str, Any]:
    found = {"port": {"number": port, "name": "x", "protocol": protocol}, "hosts": list(hosts)}
    return {**found, "tls": tls} if tls else found


def virtual_service(
    *http: dict[str, Any],
    hosts: list[str] | tuple[str, ...] = ("a.example",),
    name: str = "theirs",
    created: str = "2026-01-01T00:00:00Z",
    **spec: Any,
) -> dict[str, Any]:
    return {
        "kind": "VirtualService",
        "metadata": metadata("shop", "theirs"),
        "spec": {"hosts": list(hosts), "gateways": [SHOP], "http": list(http), **spec},
    }


def takes(*matches: dict[str, Any], path: str = "/direct", prefix: bool = False) -> Takes:
    other = OtherVirtualService.from_object(virtual_service({"match": list(matches)}))
    return other.takes(Answer(path, 200, prefix=prefix))


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"uri": {"exact": "/direct"}}, Takes.YES),
        ({"uri": {"exact": "/other"}}, Takes.NO),
        ({"uri": {"prefix": "/dir"}}, Takes.YES),
        ({"uri": {"prefix": "/direct/"}}, Takes.NO),
        ({"uri": {"regex": "/d.*t"}}, Takes.PERHAPS),
        ({"uri": {"regex": "/(a+)+$"}}, Takes.PERHAPS),
        # istiod puts routes for everything behind all others.
        ({"uri": {"prefix": "/"}}, Takes.NO),
        ({"uri": {"regex": ".*"}}, Takes.NO),
        ({"name": "all"}, Takes.NO),
        ({"headers": {"x": {"exact": "1"}}}, Takes.PERHAPS),
        ({"uri": {"exact": "/direct"}, "method": {"exact": "POST"}}, Takes.PERHAPS),
        ({"uri": {"exact": "/other"}, "method": {"exact": "POST"}}, Takes.NO),
        ({"uri": {"prefix": "/"}, "method": {"exact": "POST"}}, Takes.PERHAPS),
        ({"uri": {"exact": "/DIRECT"}, "ignoreUriCase": True}, Takes.YES),
        ({"uri": {"exact": "/DIRECT"}, "ignoreUriCase": False}, Takes.NO),
    ],
)
def test_which_requests_a_route_matches(match: dict[str, Any], expected: Takes) -> None:
    assert takes(match) is expected


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"uri": {"exact": "/api/x"}}, Takes.PERHAPS),
        ({"uri": {"prefix": "/api/x"}}, Takes.PERHAPS),
        ({"uri": {"prefix": "/a"}}, Takes.YES),
        ({"uri": {"regex": "/api/.*"}}, Takes.PERHAPS),
        ({"uri": {"exact": "/other"}}, Takes.NO),
        ({"uri": {"prefix": "/other"}}, Takes.NO),
    ],
)
def test_which_requests_of_a_prefix_a_route_matches(match: dict[str, Any], expected: Takes) -> None:
    assert takes(match, path="/api", prefix=True) is expected


def test_one_of_several_matches_is_enough() -> None:
    assert takes({"uri": {"exact": "/a"}}, {"uri": {"exact": "/direct"}}) is Takes.YES
    assert OtherVirtualService.from_object(virtual_service({})).takes(Answer("/x", 200)) is Takes.NO
    assert OtherVirtualService.from_object(virtual_service()).takes(Answer("/x", 200)) is Takes.NO


def test_reads_a_virtual_service() -> None:
    other = OtherVirtualService.from_object(
        virtual_service(hosts=["ratings", "*"], gateways=["own", "mesh"])
    )
    assert other.hosts == ("ratings.shop.svc.cluster.local", "*")
    assert other.gateways == {"shop/own", "mesh"}
    other = OtherVirtualService.from_object({"metadata": {"namespace": "a", "name": "b"}})
    assert (other.owner, other.hosts) == ("a/b", ())
    assert other.gateways == {"mesh"}


@pytest.mark.parametrize(
    ("hosts", "host", "namespace", "expected"),
    [
        (("*",), "a.example", "lab", True),
        (("*/*",), "a.example", "lab", True),
        (("lab/*",), "a.example", "lab", True),
        (("other/*",), "a.example", "lab", False),
        (("./*",), "a.example", "lab", False),
        (("./*",), "a.example", "istio-system", True),
        (("*.example",), "a.example", "lab", True),
        (("a.example",), "*.example", "lab", True),
        (("a.example",), "b.example", "lab", False),
        ((), "a.example", "lab", False),
    ],
)
def test_which_virtual_services_a_server_accepts(
    hosts: tuple[str, ...], host: str, namespace: str, expected: bool
) -> None:
    assert Server(SHOP, 80, hosts).admits(host, namespace) is expected


def test_servers_of_a_gateways_pods() -> None:
    mine = labels(Kind.RESPONSE, "lab", "x")
    found = servers_from(
        [
            istio_gateway(server(), server(443, "HTTPS", mode="SIMPLE")),
            istio_gateway(server(444, "HTTPS", mode="PASSTHROUGH"), server(53, "TCP")),
            istio_gateway(server(81), name="elsewhere", selector={"istio": "egressgateway"}),
            istio_gateway(server(82), name="ours", labels=mine),
            {"metadata": metadata("a", "empty")},
        ],
        GATEWAY,
    )
    assert [(s.gateway, s.port, s.tls, s.http, s.response) for s in found] == [
        (SHOP, 80, False, True, None),
        (SHOP, 443, True, True, None),
        (SHOP, 444, True, False, None),
        (SHOP, 53, False, False, None),
        ("istio-system/ours", 82, False, True, ("lab", "x")),
    ]
    (redirecting,) = servers_from([istio_gateway(server(httpsRedirect=True))], GATEWAY)
    assert redirecting.redirects


@pytest.mark.parametrize(
    ("hosts", "host", "expected"),
    [
        (["*"], "a.example", {"a.example"}),
        (["shop.example"], "*", {"shop.example"}),
        (["*.example", "other"], "a.example", {"a.example"}),
        (["a.example", "b.example"], "*.example", {"a.example", "b.example"}),
        (["b.example"], "a.example", set()),
    ],
)
def test_the_hosts_of_a_server(hosts: list[str], host: str, expected: set[str]) -> None:
    assert Server(SHOP, 80, tuple(hosts)).taken(host, "lab") == expected


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([], Takes.NO),
        ([{}], Takes.YES),
        ([{"match": [{"uri": {"prefix": "/"}}]}], Takes.YES),
        ([{"match": [{"uri": {"prefix": "/a"}}]}], Takes.PERHAPS),
    ],
)
def test_a_route_for_all_paths_comes_last(routes: list[dict[str, Any]], expected: Takes) -> None:
    other = OtherVirtualService.from_object(virtual_service(*routes))
    assert other.takes(Answer("/", 503, prefix=True)) is expected


def planned(
    answer: Answer | None = None,
    servers: list[Server] | tuple[Any, ...] = (),
    mesh: Mesh | None = None,
    proxies: tuple[int, int] | None = (1, 31),
    **request: Any,
) -> ResponsePlan:
    snapshot = ResponseSnapshot(
        mesh or Mesh(istio=(1, 31)),
        None if request.get("mesh") else GATEWAY,
        proxies,
        tuple(servers),
        services=request.pop("services", ()),
    )
    return plan_response(ResponseRequest("lab", answer or Answer("/x", 200), **request), snapshot)


@pytest.mark.parametrize(
    ("control_plane", "proxies", "expected"),
    [
        ((1, 31), (1, 31), "virtualservice"),
        ((1, 15), (1, 15), "virtualservice"),
        ((1, 31), (1, 14), "envoyfilter"),
        ((1, 14), (1, 31), "envoyfilter"),
        (None, None, "virtualservice"),
        (None, (1, 9), "envoyfilter"),
    ],
)
def test_the_older_one_decides(
    control_plane: tuple[int, int] | None, proxies: tuple[int, int] | None, expected: str
) -> None:
    found = planned(mesh=Mesh(istio=control_plane), proxies=proxies)
    assert found.response.spec.api.value == expected
    shown = f"{control_plane[0]}.{control_plane[1]}" if control_plane else "unknown"
    assert f"control plane {shown}" in found.reason


def test_the_requested_api_is_used() -> None:
    assert planned(api=ResponseApi.ENVOY_FILTER).response.spec.api is ResponseApi.ENVOY_FILTER


def test_it_is_bound_to_the_servers_on_the_port() -> None:
    servers = [Server("a/b", 80, ("*",)), Server("c/d", 81, ("*",)), Server("e/f", 80, ("z",))]
    spec = planned(Answer("/x", 200, hosts=("y",)), servers).response.spec
    assert spec.servers == ("a/b",) and not spec.creates_gateway


@pytest.mark.parametrize(
    ("owner", "create", "expected"),
    [
        (("lab", "other"), False, False),
        (("lab", "other"), True, True),
        (("lab", "x"), False, True),
        (None, True, False),
    ],
)
def test_a_response_does_not_depend_on_the_gateway_of_another(
    owner: tuple[str, str] | None, create: bool, expected: bool
) -> None:
    spec = planned(
        servers=[Server("a/b", 80, ("*",), response=owner)], create_gateway=create
    ).response.spec
    assert spec.creates_gateway is expected
    assert spec.servers == (("a/b",) if owner is None else ())


def test_inside_the_mesh() -> None:
    ports = [tcp(9000, "tcp"), tcp(8081, "http"), udp(53)]
    ratings = Service.from_object(service("ratings", ports=ports))
    found = plan_response(
        ResponseRequest("lab", Answer("/x", 200, hosts=("r.lab.svc.x",)), mesh=True),
        ResponseSnapshot(Mesh("root"), services=(ratings,)),
    ).response.spec
    assert (found.mesh, found.mesh_ports, found.root_namespace) == (True, (8081, 9000), "root")
    with pytest.raises(UsageError, match="needs exactly one host"):
        plan_response(
            ResponseRequest("lab", Answer("/x", 200), mesh=True), ResponseSnapshot(Mesh())
        )


@pytest.mark.parametrize(
    ("export_to", "expected"),
    [([], True), (["*"], True), (["."], False), (["istio-system"], True), (["lab"], False)],
)
def test_whether_a_gateway_sees_it(export_to: list[str], expected: bool) -> None:
    other = OtherVirtualService.from_object(virtual_service(exportTo=export_to))
    snapshot = ResponseSnapshot(Mesh(), GATEWAY, servers=(Server(SHOP, 80, ("*",)),))
    spec = plan_response(ResponseRequest("lab", Answer("/x", 200)), snapshot).response.spec
    assert bool(hosts_of_other(other, spec, snapshot)) is expected


def test_other_ports_of_the_same_gateway_count() -> None:
    other = OtherVirtualService.from_object(virtual_service(gateways=["c/d"]))
    servers = [Server(SHOP, 80, ("*",)), Server(SHOP, 81, ("*",)), Server("c/d", 81, ("*",))]
    snapshot = ResponseSnapshot(Mesh(), GATEWAY, servers=tuple(servers))
    spec = plan_response(ResponseRequest("lab", Answer("/x", 200)), snapshot).response.spec
    assert hosts_of_other(other, spec, snapshot) == {"a.example"}


@pytest.mark.parametrize("redirects", [True, False])
def test_a_server_that_redirects_does_not_count(redirects: bool) -> None:
    servers = [Server("a/b", 80, ("*",), redirects=redirects)]
    assert planned(servers=servers).response.spec.servers == (() if redirects else ("a/b",))


def test_a_name_derived_from_a_path_belongs_to_one_response() -> None:
    present = planned(Answer("/a/b", 200), [Server("a/b", 80, ("*",))]).response.spec
    snapshot = ResponseSnapshot(
        Mesh(), GATEWAY, servers=(Server("a/b", 80, ("*",)),), present=present
    )
    same = ResponseRequest("lab", Answer("/a/b", 404))
    assert plan_response(same, snapshot).response.spec.answer.status == 404
    for other in (Answer("/a-b", 200), Answer("/a/b", 200, hosts=("x",))):
        with pytest.raises(UsageError, match="already exists, for /a/b") as caught:
            plan_response(ResponseRequest("lab", other), snapshot)
        assert "--name a-b" in caught.value.hints[0]
        named = ResponseRequest("lab", other, name="a-b")
        assert plan_response(named, snapshot).response.spec.answer == other
