"""Each rule of `direct response`, in a situation that it is for and in one that it is not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kubectl_istio_udp.checks.catalog import Severity
from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.response import RULES, check_response
from kubectl_istio_udp.checks.rules import codes_of
from kubectl_istio_udp.model.gateway import gateways_from
from kubectl_istio_udp.model.http_routing import OtherVirtualService, Server
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.mesh import Mesh
from kubectl_istio_udp.model.names import labels
from kubectl_istio_udp.model.request import ResponseRequest
from kubectl_istio_udp.model.response import Answer, Body, Response, ResponseApi
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.plan.response import ResponseSnapshot, plan_response
from tests.support.builders import CREATED, gateway_pod, gateway_service, metadata, service, tcp
from tests.support.checked import texts_of, undeclared, whole

(GATEWAY,) = gateways_from([gateway_pod()], [gateway_service()])
SHOP = Server("istio-system/shop", 80, ("*",))
RATINGS = "ratings.default.svc.cluster.local"
OLDER, NEWER = "2025-01-01T00:00:00Z", "2027-01-01T00:00:00Z"
ENVOY_FILTER = ResponseApi.ENVOY_FILTER
EXACT = {"match": [{"uri": {"exact": "/direct"}}]}
MAYBE = {"match": [{"uri": {"exact": "/direct"}, "method": {"exact": "POST"}}]}


def rival(
    *routes: dict[str, Any],
    hosts: list[str] | tuple[str, ...] = ("a.example",),
    gateways: frozenset[str] | set[str] = frozenset({"istio-system/shop"}),
    made: str = OLDER,
) -> OtherVirtualService:
    return OtherVirtualService(
        "shop/theirs", tuple(hosts), frozenset(gateways), tuple(routes), created=made
    )


def in_mesh(*routes: Any, hosts: list[str] | tuple[str, ...] = (RATINGS,)) -> OtherVirtualService:
    return rival(*routes, hosts=hosts, gateways={"mesh"})


def own(**more: Any) -> dict[str, Any]:
    """The response's VirtualService, as it is there already."""
    return {
        "kind": "VirtualService",
        "metadata": metadata(
            "lab", "response-lab-direct", labels=labels(Kind.RESPONSE, "lab", "direct")
        ),
        "spec": {"hosts": ["a.example"], **more},
    }


def planned(
    hosts: tuple[str, ...] = ("a.example",), body: Body | None = None, **case: Any
) -> tuple[Response, ResponseSnapshot]:
    request: dict[str, Any] = {
        key: case.pop(key) for key in ("mesh", "api", "create_gateway") if key in case
    }
    if "port" in case:
        request["gateway_port"] = case.pop("port")
    path, prefix = case.pop("path", "/direct"), case.pop("prefix", False)
    facts: dict[str, Any] = {
        "gateway": None if request.get("mesh") else GATEWAY,
        "servers": (SHOP,),
        "proxies": (1, 31),
    }
    facts |= case
    facts.setdefault("mesh_config", Mesh(istio=(1, 31)))
    snapshot = ResponseSnapshot(facts.pop("mesh_config"), **facts)
    answer = Answer(path, 200, body=body, prefix=prefix, hosts=tuple(hosts))
    asked = ResponseRequest("lab", answer, name="direct", **request)
    return plan_response(asked, snapshot).response, snapshot


def findings(**case: Any) -> tuple[Finding, ...]:
    return check_response(*planned(**case))


FOREIGN = {"kind": "VirtualService", "metadata": metadata("lab", "response-lab-direct"), "spec": {}}
MESH: dict[str, Any] = {"mesh": True, "hosts": (RATINGS,)}
SERVICE = Service.from_object(service("ratings", ports=[tcp(9080)]))
OLD = Mesh(istio=(1, 14))
LARGE = Body(5000, "")

FIRES: list[tuple[str, dict[str, Any]]] = [
    ("U101", {"objects": (FOREIGN,)}),
    ("U111", {"servers": ()}),
    ("U111", {"servers": (Server("a/b", 81, ("*",)),)}),
    ("U111", {"servers": (Server("a/b", 80, ("b.example",)),)}),
    ("U111", {"servers": (Server("a/b", 80, ("*",), response=("lab", "other")),)}),
    ("U111", {"servers": (dataclasses.replace(SHOP, redirects=True),)}),
    ("U118", {"servers": (dataclasses.replace(SHOP, http=False),), "create_gateway": True}),
    (
        "U118",
        {"servers": (dataclasses.replace(SHOP, tls=True, http=False),), "create_gateway": True},
    ),
    ("U118", {"servers": (), "create_gateway": True, "port": 15021}),
    ("U112", {"servers": (Server("a/b", 80, ("a.example",)),), "hosts": ("a.example", "b.x")}),
    ("U113", {"others": (rival(EXACT),)}),
    (
        "U113",
        {"others": (rival(EXACT, gateways={"c/d"}),), "servers": (SHOP, Server("c/d", 80, ("*",)))},
    ),
    # Made in the same second: the other one may be the first.
    ("U113", {"others": (rival(EXACT, made=CREATED),), "objects": (own(),)}),
    ("U114", {"others": (rival(hosts=["*"]),)}),
    ("U114", {"others": (rival(hosts=["*"]), rival()), "hosts": ("a.example", "b.example")}),
    (
        "U114",
        {
            "others": (rival(hosts=["*"], gateways={"c/d"}),),
            "servers": (SHOP, Server(SHOP.gateway, 81, ("*",)), Server("c/d", 81, ("*",))),
        },
    ),
    ("U113", {"others": (rival({}),), "path": "/", "prefix": True}),
    ("U212", {"others": (rival(EXACT),), "path": "/", "prefix": True}),
    (
        "U212",
        {"others": (rival(EXACT, made=NEWER),), "path": "/", "prefix": True, "objects": (own(),)},
    ),
    ("U114", {"others": (rival(hosts=["*.example"]),)}),
    ("U114", {"others": (rival(hosts=["*"]),), "api": ENVOY_FILTER}),
    ("U114", {**MESH, "others": (in_mesh(),), "services": (SERVICE,)}),
    ("U114", {**MESH, "others": (in_mesh(hosts=["*.svc.cluster.local"]),), "services": (SERVICE,)}),
    ("U115", {"mesh_config": OLD, "api": ResponseApi.VIRTUAL_SERVICE}),
    ("U115", {"proxies": (1, 14), "api": ResponseApi.VIRTUAL_SERVICE}),
    ("U116", {"proxies": (1, 17), "body": LARGE}),
    ("U117", {**MESH, "api": ENVOY_FILTER}),
    ("U211", {"body": Body(100_001, "")}),
    ("U212", {"others": (rival(MAYBE),)}),
    ("U213", {"others": (rival(EXACT),), "api": ENVOY_FILTER}),
    ("U213", {**MESH, "others": (in_mesh(),), "services": (SERVICE,), "api": ENVOY_FILTER}),
    ("U214", {"others": (rival(),), "hosts": ("*",)}),
    (
        "U214",
        {"others": (rival(hosts=[f"{i}.example" for i in range(9)]),), "hosts": ("*.example",)},
    ),
    ("U215", MESH),
]
SILENT: list[tuple[str, dict[str, Any]]] = [
    ("U101", {"objects": (own(),)}),
    ("U111", {}),
    ("U111", {"servers": (), "create_gateway": True}),
    ("U111", MESH),
    ("U112", {"hosts": ("a.example", "b.x")}),
    ("U118", {"servers": (), "create_gateway": True}),
    ("U118", {}),
    (
        "U113",
        {"others": (rival({}, made=NEWER),), "path": "/", "prefix": True, "objects": (own(),)},
    ),
    (
        "U114",
        {
            "others": (rival(hosts=["*"], gateways={"c/d"}),),
            "servers": (SHOP, Server("c/d", 80, ("b.example",))),
        },
    ),
    ("U113", {"others": (rival({"match": []}), rival({}))}),
    ("U113", {"others": (rival(EXACT, hosts=["b.example"]),)}),
    ("U113", {"others": (rival(EXACT, gateways={"e/f"}),)}),
    # It has another virtual host, so neither takes precedence.
    ("U113", {"others": (rival(EXACT, hosts=["*"]),)}),
    ("U113", {"others": (rival(EXACT),), "hosts": ("*",)}),
    ("U113", {"others": (rival(EXACT),), "api": ENVOY_FILTER}),
    ("U113", {"others": (rival(EXACT, made=NEWER),), "objects": (own(),)}),
    ("U114", {"others": (rival(hosts=["*"]), rival(hosts=["a.example"]))}),
    ("U114", {"others": (rival(hosts=["*"]),), "objects": (own(),)}),
    ("U114", {"others": (rival(hosts=["*"]),), "hosts": ("*",)}),
    ("U114", {**MESH, "others": (in_mesh(),), "services": (SERVICE,), "api": ENVOY_FILTER}),
    ("U115", {}),
    ("U115", {"mesh_config": OLD}),
    ("U116", {"body": LARGE}),
    ("U116", {"body": LARGE, "proxies": (1, 18)}),
    ("U116", {"body": Body(4096, ""), "proxies": (1, 17)}),
    ("U117", {**MESH, "services": (SERVICE,), "api": ENVOY_FILTER}),
    ("U211", {"body": Body(100_000, "")}),
    ("U212", {"others": (rival(EXACT),)}),
    ("U213", {"others": (rival(EXACT),)}),
    ("U214", {"others": (rival(),)}),
    ("U215", {**MESH, "services": (SERVICE,)}),
]


@pytest.mark.parametrize(("code", "case"), FIRES)
def test_a_rule_reports_its_finding(code: str, case: dict[str, Any]) -> None:
    found = [finding for finding in findings(**case) if finding.code == code]
    assert found and all(str(each).endswith(f"[{code}]") for each in found)
    for each in found:
        whole(each)


@pytest.mark.parametrize(("code", "case"), SILENT)
def test_a_rule_reports_nothing_without_its_problem(code: str, case: dict[str, Any]) -> None:
    assert code not in [finding.code for finding in findings(**case)]


def test_every_code_is_tested_both_ways() -> None:
    codes = codes_of(RULES)
    assert {code for code, _ in FIRES} == codes == {code for code, _ in SILENT}


def test_every_text_is_tested() -> None:
    found = {(f.code, f.case) for code, case in FIRES for f in findings(**case)}
    assert found == texts_of(RULES)


def test_rules_read_what_they_declare() -> None:
    assert undeclared(RULES, ((code, *planned(**case)) for code, case in (*FIRES, *SILENT))) == {}


def test_a_good_response_has_no_findings() -> None:
    assert findings() == ()


def test_the_message_names_the_objects_concerned() -> None:
    (found,) = findings(others=(rival(EXACT),))
    assert "shop/theirs" in found.message and "a.example" in found.message
    assert "--api envoyfilter" in found.remedy()
    (found,) = findings(servers=(dataclasses.replace(SHOP, port=8080),))
    assert "8080" in found.message and "--gateway-port" in found.remedy()
    assert OLDER < CREATED < NEWER


SAID = {
    "U101": (
        Severity.ERROR,
        "VirtualService lab/response-lab-direct already exists and does not belong to "
        "response direct",
        "give the response another name: --name",
    ),
    "U112": (
        Severity.ERROR,
        "port 80 of gateway istio-system/istio-ingressgateway does not accept host b.x",
        "add the host to Gateway a/b, or omit it",
    ),
    "U113": (
        Severity.ERROR,
        "VirtualService shop/theirs is older and takes precedence for /direct of host a.example; "
        "this response would never be used",
        "take precedence over all VirtualServices: --api envoyfilter",
    ),
    "U114": (
        Severity.ERROR,
        "VirtualService shop/theirs serves a.example by its host *; a response for a.example "
        "would make all paths but /direct unreachable",
        "use the same host, so that Istio merges both: --host '*'",
    ),
    "U115": (
        Severity.ERROR,
        "Istio 1.14 does not support directResponse in a VirtualService (control plane 1.14, "
        "gateway 1.31); this needs 1.15 or newer",
        "use --api envoyfilter or --api auto",
    ),
    "U116": (
        Severity.ERROR,
        "the body has 5000 bytes, but Istio 1.17 (control plane 1.31, gateway 1.17) answers at "
        "most 4096",
        "shorten it, or upgrade to Istio 1.18",
    ),
    "U117": (
        Severity.ERROR,
        f"host {RATINGS} has no Service; an EnvoyFilter must name the Service's ports",
        "create the Service first, or use --api virtualservice",
    ),
    "U211": (
        Severity.WARNING,
        "the body has 100001 bytes, and every proxy that answers keeps it in memory; Istio advises "
        "against more than 100000",
        "",
    ),
    "U212": (
        Severity.WARNING,
        "VirtualService shop/theirs is older and, depending on its conditions, takes precedence "
        "for some requests for /direct of host a.example",
        "take precedence over all VirtualServices: --api envoyfilter",
    ),
    "U213": (
        Severity.WARNING,
        "this response takes precedence over VirtualService shop/theirs, which no longer gets "
        "requests for /direct of a.example",
        "",
    ),
    "U214": (
        Severity.WARNING,
        "other VirtualServices, not this response, get the requests for these hosts: "
        "a.example (shop/theirs)",
        "create another response for one: --host a.example --name NAME; or take precedence over "
        "all VirtualServices: --api envoyfilter",
    ),
    "U215": (
        Severity.WARNING,
        f"host {RATINGS} has no Service; sidecars route it only if a ServiceEntry defines it",
        "",
    ),
}


@pytest.mark.parametrize("code", SAID)
def test_the_finding_has_a_message_and_a_remedy(code: str) -> None:
    case = next(case for fires, case in FIRES if fires == code and "path" not in case)
    found = next(finding for finding in findings(**case) if finding.code == code)
    assert (found.severity, found.message, found.remedy()) == SAID[code]


@pytest.mark.parametrize(
    ("servers", "message", "hint"),
    [
        (
            (),
            "no Istio Gateway has an HTTP server on port 80 of gateway "
            "istio-system/istio-ingressgateway",
            "create one: --create-gateway",
        ),
        (
            (Server("a/b", 8080, ("*",)), Server("a/c", 81, ("*",))),
            "no Istio Gateway has an HTTP server on port 80 of gateway "
            "istio-system/istio-ingressgateway; ports with one: 81, 8080",
            "create one: --create-gateway; or use another port: --gateway-port",
        ),
        (
            (Server("a/b", 80, ("c.x", "b.x")),),
            "port 80 of gateway istio-system/istio-ingressgateway accepts b.x, c.x, not "
            "a.example (a/b)",
            "use one of its hosts: --host",
        ),
    ],
)
def test_names_the_existing_servers(servers: tuple[Server, ...], message: str, hint: str) -> None:
    (found,) = findings(servers=servers)
    assert (found.code, found.message, found.remedy()) == ("U111", message, hint)


def test_inside_the_mesh_one_of_two_virtual_services_would_be_ignored() -> None:
    (found,) = findings(**MESH, others=(in_mesh(),), services=(SERVICE,))
    assert found.message == (
        f"VirtualService shop/theirs routes host {RATINGS} inside the mesh, where Istio uses "
        "only one VirtualService for each host: one of the two would be ignored"
    )


def test_only_the_first_of_many_hosts_are_listed() -> None:
    hosts = [f"{i}.example" for i in range(9)]
    (found,) = findings(others=(rival(hosts=hosts),), hosts=("*.example",))
    assert found.message.endswith("4.example (shop/theirs) and 4 more")


def test_errors_come_first_and_a_virtual_service_with_two_hosts_is_reported_once() -> None:
    found = findings(others=(rival(EXACT),), body=Body(100_001, ""))
    assert [each.code for each in found] == ["U113", "U211"]
    both: dict[str, Any] = {
        "others": (rival(EXACT, hosts=["a.example", "*.example"]),),
        "api": ENVOY_FILTER,
    }
    told = [each.code for each in findings(**both, objects=(own(),))]
    assert told == ["U213"]
