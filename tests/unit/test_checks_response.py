"""Each rule of `direct response`, in a situation that it is for and in one that it is not."""

from __future__ import annotations

import dataclasses

import pytest

from kubectl_istio_udp.checks.objects import documented_codes
from kubectl_istio_udp.checks.response import RULES, check_response
from kubectl_istio_udp.model.gateway import gateways_from
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.mesh import Mesh
from kubectl_istio_udp.model.names import labels
from kubectl_istio_udp.model.response import Answer, Body, ResponseApi
from kubectl_istio_udp.model.responseplan import ResponseRequest, ResponseSnapshot, plan_response
from kubectl_istio_udp.model.routing import Rival, Server
from kubectl_istio_udp.model.service import Service
from tests.unit.builders import CREATED, gateway_pod, gateway_service, metadata, service, tcp

(GATEWAY,) = gateways_from([gateway_pod()], [gateway_service()])
SHOP = Server("istio-system/shop", 80, ("*",))
RATINGS = "ratings.default.svc.cluster.local"
OLDER, NEWER = "2025-01-01T00:00:00Z", "2027-01-01T00:00:00Z"
ENVOY_FILTER = ResponseApi.ENVOY_FILTER
EXACT = {"match": [{"uri": {"exact": "/direct"}}]}
MAYBE = {"match": [{"uri": {"exact": "/direct"}, "method": {"exact": "POST"}}]}


def rival(*routes, hosts=("a.example",), gateways=frozenset({"istio-system/shop"}), made=OLDER):
    return Rival("shop/theirs", tuple(hosts), frozenset(gateways), tuple(routes), created=made)


def in_mesh(*routes, hosts=(RATINGS,)):
    return rival(*routes, hosts=hosts, gateways={"mesh"})


def own(**more):
    """The response's VirtualService, as it is there already."""
    return {
        "kind": "VirtualService",
        "metadata": metadata(
            "lab", "response-lab-direct", labels=labels(Kind.RESPONSE, "lab", "direct")
        ),
        "spec": {"hosts": ["a.example"], **more},
    }


def findings(hosts=("a.example",), body=None, **case):
    request = {key: case.pop(key) for key in ("mesh", "api", "create_gateway") if key in case}
    facts = {
        "gateway": None if request.get("mesh") else GATEWAY,
        "servers": (SHOP,),
        "proxies": (1, 31),
    }
    facts |= case
    facts.setdefault("mesh_config", Mesh(istio=(1, 31)))
    snapshot = ResponseSnapshot(facts.pop("mesh_config"), **facts)
    answer = Answer("/direct", 200, body=body, hosts=tuple(hosts))
    planned = plan_response(ResponseRequest("lab", answer, name="direct", **request), snapshot)
    return check_response(planned.response, snapshot)


FOREIGN = {"kind": "VirtualService", "metadata": metadata("lab", "response-lab-direct"), "spec": {}}
MESH = {"mesh": True, "hosts": (RATINGS,)}
SERVICE = Service.from_object(service("ratings", ports=[tcp(9080)]))
OLD = Mesh(istio=(1, 14))
LARGE = Body(5000, "")

FIRES = [
    ("U101", {"objects": (FOREIGN,)}),
    ("U111", {"servers": ()}),
    ("U111", {"servers": (Server("a/b", 81, ("*",)),)}),
    ("U111", {"servers": (Server("a/b", 80, ("b.example",)),)}),
    ("U111", {"servers": (Server("a/b", 80, ("*",), response=("lab", "other")),)}),
    ("U112", {"servers": (Server("a/b", 80, ("a.example",)),), "hosts": ("a.example", "b.x")}),
    ("U113", {"rivals": (rival(EXACT),)}),
    (
        "U113",
        {"rivals": (rival(EXACT, gateways={"c/d"}),), "servers": (SHOP, Server("c/d", 80, ("*",)))},
    ),
    ("U114", {"rivals": (rival(hosts=["*"]),)}),
    ("U114", {"rivals": (rival(hosts=["*.example"]),)}),
    ("U114", {"rivals": (rival(hosts=["*"]),), "api": ENVOY_FILTER}),
    (
        "U114",
        {
            "rivals": (rival(hosts=["*"]), rival(hosts=["a.example"])),
            "hosts": ("a.example", "b.example"),
        },
    ),
    ("U114", {**MESH, "rivals": (in_mesh(),), "services": (SERVICE,)}),
    ("U114", {**MESH, "rivals": (in_mesh(hosts=["*.svc.cluster.local"]),), "services": (SERVICE,)}),
    ("U115", {"mesh_config": OLD, "api": ResponseApi.VIRTUAL_SERVICE}),
    ("U115", {"proxies": (1, 14), "api": ResponseApi.VIRTUAL_SERVICE}),
    ("U116", {"proxies": (1, 17), "body": LARGE}),
    ("U117", {**MESH, "api": ENVOY_FILTER}),
    ("U211", {"body": Body(100_001, "")}),
    ("U212", {"rivals": (rival(MAYBE),)}),
    ("U213", {"rivals": (rival(EXACT),), "api": ENVOY_FILTER}),
    ("U213", {**MESH, "rivals": (in_mesh(),), "services": (SERVICE,), "api": ENVOY_FILTER}),
    ("U214", {"rivals": (rival(),), "hosts": ("*",)}),
    (
        "U214",
        {"rivals": (rival(hosts=[f"{i}.example" for i in range(9)]),), "hosts": ("*.example",)},
    ),
    ("U215", MESH),
]
SILENT = [
    ("U101", {"objects": (own(),)}),
    ("U111", {}),
    ("U111", {"servers": (), "create_gateway": True}),
    ("U111", MESH),
    ("U112", {"hosts": ("a.example", "b.x")}),
    ("U113", {"rivals": (rival({"match": []}), rival({}))}),
    ("U113", {"rivals": (rival(EXACT, hosts=["b.example"]),)}),
    ("U113", {"rivals": (rival(EXACT, gateways={"e/f"}),)}),
    ("U113", {"rivals": (rival(EXACT),), "api": ENVOY_FILTER}),
    ("U113", {"rivals": (rival(EXACT, made=NEWER),), "objects": (own(),)}),
    ("U114", {"rivals": (rival(hosts=["*"]), rival(hosts=["a.example"]))}),
    ("U114", {"rivals": (rival(hosts=["*"]),), "objects": (own(),)}),
    ("U114", {"rivals": (rival(hosts=["*"]),), "hosts": ("*",)}),
    ("U114", {**MESH, "rivals": (in_mesh(),), "services": (SERVICE,), "api": ENVOY_FILTER}),
    ("U115", {}),
    ("U115", {"mesh_config": OLD}),
    ("U116", {"body": LARGE}),
    ("U116", {"body": Body(4096, ""), "proxies": (1, 17)}),
    ("U117", {**MESH, "services": (SERVICE,), "api": ENVOY_FILTER}),
    ("U211", {"body": Body(100_000, "")}),
    ("U212", {"rivals": (rival(EXACT),)}),
    ("U213", {"rivals": (rival(EXACT),)}),
    ("U214", {"rivals": (rival(),)}),
    ("U215", {**MESH, "services": (SERVICE,)}),
]


@pytest.mark.parametrize(("code", "case"), FIRES)
def test_fires(code, case):
    found = [finding for finding in findings(**case) if finding.code == code]
    assert found and all(each.message and str(each).endswith(f"[{code}]") for each in found)


@pytest.mark.parametrize(("code", "case"), SILENT)
def test_passes(code, case):
    assert code not in [finding.code for finding in findings(**case)]


def test_every_code_is_tested_both_ways():
    codes = documented_codes(RULES)
    assert {code for code, _ in FIRES} == codes == {code for code, _ in SILENT}


def test_a_good_response_has_no_findings():
    assert findings() == ()


def test_who_is_concerned_is_named():
    (found,) = findings(rivals=(rival(EXACT),))
    assert "shop/theirs" in found.message and "a.example" in found.message
    assert "--api envoyfilter" in found.hint
    (found,) = findings(servers=(dataclasses.replace(SHOP, port=8080),))
    assert "8080" in found.message and "--gateway-port" in found.hint
    assert OLDER < CREATED < NEWER
