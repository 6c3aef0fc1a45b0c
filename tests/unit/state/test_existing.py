from __future__ import annotations

import copy
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.accesslog import LogScope
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NotFound, UsageError
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.response import ResponseApi
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state.existing import get_existing, list_existing, list_exposures
from kubectl_istio_udp.state.ownership import spec_of
from tests.support.apiserver import ApiServer
from tests.support.builders import plan_of
from tests.support.mesh_builders import RATINGS, access_log, put, response

SPEC_NOTE = "kubectl-istio-udp/spec"


def objects(name: str = "coredns") -> list[dict[str, Any]]:
    return [copy.deepcopy(dict(w.manifest)) for w in writes(plan_of(name=name).exposure)]


def test_rebuilds_an_exposure_from_its_objects(api: Api, server: ApiServer) -> None:
    server.put(*objects())
    (found,) = list_exposures(api)
    assert (found.namespace, found.name, found.problem) == ("default", "coredns", "")
    assert found.spec == plan_of().exposure.spec
    assert [o["kind"] for o in found.objects] == ["ServiceEntry", "EnvoyFilter", "Service"]
    assert found.all_of("Service")[0]["metadata"]["namespace"] == "istio-system"
    assert found.object("Pod") is None


def test_lists_by_namespace_and_name_sorted(api: Api, server: ApiServer) -> None:
    server.put(*objects("b"), *objects("a"))
    assert [e.name for e in list_exposures(api)] == ["a", "b"]
    assert [e.name for e in list_existing(api, "default")] == ["a", "b"]
    assert list_existing(api, "elsewhere") == ()


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_objects_left_by_an_incomplete_deletion_count(
    api: Api, server: ApiServer, kept: int
) -> None:
    server.put(objects()[kept])
    (found,) = list_exposures(api)
    assert found.spec == plan_of().exposure.spec
    assert len(found.objects) == 1


def test_the_envoy_filter_decides(api: Api, server: ApiServer) -> None:
    entry, envoy_filter, service = objects()
    other = plan_of(max_sessions=5).exposure.spec
    envoy_filter["metadata"]["annotations"][SPEC_NOTE] = other.to_json()
    server.put(entry, envoy_filter, service)
    assert list_exposures(api)[0].spec == other


def test_another_object_decides_if_one_is_unreadable(api: Api, server: ApiServer) -> None:
    entry, envoy_filter, service = objects()
    envoy_filter["metadata"]["annotations"][SPEC_NOTE] = "{"
    server.put(entry, envoy_filter, service)
    assert list_exposures(api)[0].spec == plan_of().exposure.spec


def test_an_exposure_that_cannot_be_read_says_why(api: Api, server: ApiServer) -> None:
    envoy_filter = objects()[1]
    envoy_filter["metadata"]["annotations"] = None
    server.put(envoy_filter)
    (found,) = list_exposures(api)
    assert found.spec is None
    assert found.problem == (
        "EnvoyFilter istio-system/udp-default-coredns has no annotation kubectl-istio-udp/spec"
    )


def test_reads_the_annotation() -> None:
    assert spec_of(objects()[0]) == plan_of().exposure.spec
    bare = objects()[0]
    bare["metadata"]["annotations"] = None
    with pytest.raises(ClusterError, match="has no annotation"):
        spec_of(bare)


def test_gets_names_in_the_given_order(api: Api, server: ApiServer) -> None:
    server.put(*objects("a"), *objects("b"))
    assert [e.name for e in get_existing(api, "default", ["b", "a"])] == ["b", "a"]
    assert [e.name for e in get_existing(api, "default", [])] == ["a", "b"]


@pytest.mark.parametrize(
    ("there", "hint"),
    [(["a", "b"], "this namespace has: a, b"), ([], "list all: kubectl istio-udp get -A")],
)
def test_reports_a_missing_name(api: Api, server: ApiServer, there: list[str], hint: str) -> None:
    for name in there:
        server.put(*objects(name))
    with pytest.raises(NotFound, match="exposure x not found in namespace default") as caught:
        get_existing(api, "default", ["x"])
    assert hint in caught.value.hints[0]
    assert get_existing(api, "default", ["x"], missing_ok=True) == ()


def test_without_access_to_all_namespaces_nearby_objects_are_found(
    api: Api, server: ApiServer
) -> None:
    """In the Service's namespace, and in that of the gateway which the ServiceEntry names."""
    server.put(*objects())
    for plural in ("serviceentries", "envoyfilters", "services"):
        server.fail("GET", rf"v\w+/{plural}\?", 403)
    (found,) = list_existing(api, "default", (Kind.EXPOSURE,))
    assert [o["kind"] for o in found.objects] == ["ServiceEntry", "EnvoyFilter", "Service"]
    assert found.missing == ()
    with pytest.raises(Forbidden):
        list_exposures(api)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_missing_object_is_named(api: Api, server: ApiServer, lost: int) -> None:
    there = objects()
    gone = there.pop(lost)
    server.put(*there)
    (found,) = list_exposures(api)
    place = gone["metadata"]
    assert found.missing == (f"{gone['kind']} {place['namespace']}/{place['name']}",)


# -- responses and access logs ------------------------------------------------------------------

OWN_GATEWAY: dict[str, Any] = {
    "creates_gateway": True,
    "servers": (),
    "api": ResponseApi.ENVOY_FILTER,
}


def found(api: Api, namespace: str | None = None) -> list[tuple[str, str]]:
    return [(e.namespace, str(e.ref)) for e in list_existing(api, namespace)]


def test_distinguishes_the_kinds(api: Api, server: ApiServer) -> None:
    """Even if they have the same name: an EnvoyFilter may belong to any of them."""
    server.put(*objects("one"))
    put(server, access_log("one"), response(name="one", **OWN_GATEWAY))
    put(server, access_log("other", namespace="lab"))
    assert found(api) == [
        ("default", "one"),
        ("default", "response/one"),
        ("default", "accesslog/one"),
        ("lab", "accesslog/other"),
    ]
    assert found(api, "lab") == [("lab", "accesslog/other")]
    exposure, answer, log, _ = list_existing(api)
    assert [o["kind"] for o in exposure.objects] == ["ServiceEntry", "EnvoyFilter", "Service"]
    assert [o["kind"] for o in answer.objects] == ["Gateway", "VirtualService", "EnvoyFilter"]
    assert [o["kind"] for o in log.objects] == ["EnvoyFilter"]
    assert answer.spec == response(name="one", **OWN_GATEWAY).spec
    assert log.spec == access_log("one")


def test_only_the_requested_kinds_are_listed(api: Api, server: ApiServer) -> None:
    server.put(*objects("one"))
    put(server, access_log("one"), response(name="one"))
    only = list_existing(api, None, (Kind.ACCESS_LOG,))
    assert [e.kind for e in only] == [Kind.ACCESS_LOG]
    assert {r.path.rpartition("/")[2] for r in server.requests} == {"envoyfilters"}


def test_gets_several_kinds_in_the_given_order(api: Api, server: ApiServer) -> None:
    server.put(*objects("a"))
    put(server, access_log("a"), response(name="a"))
    names = ["accesslog/a", "a", "responses/a"]
    refs = [str(e.ref) for e in get_existing(api, "default", names)]
    assert refs == ["accesslog/a", "a", "response/a"]


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("response/x", "response x not found in namespace default", "response/there"),
        ("accesslog/x", "access log x not found in namespace default", "accesslog/there"),
        ("x", "exposure x not found in namespace default", "kubectl istio-udp get -A"),
    ],
)
def test_the_error_lists_names_of_the_same_kind(
    api: Api, server: ApiServer, name: str, message: str, hint: str
) -> None:
    put(server, access_log("there"), response(name="there"))
    with pytest.raises(NotFound, match=message) as caught:
        get_existing(api, "default", [name])
    assert caught.value.hints[0].endswith(hint)


@pytest.mark.parametrize("name", ["pod/x", "response/", "/x", "a/b/c"])
def test_an_unknown_kind_is_refused(api: Api, name: str) -> None:
    with pytest.raises(UsageError, match="unknown kind in"):
        get_existing(api, "default", [name])


@pytest.mark.parametrize(
    ("lost", "missing"),
    [
        (("Gateway", "istio-system"), "Gateway istio-system/response-default-hello"),
        (("VirtualService", "default"), "VirtualService default/response-default-hello"),
        (("EnvoyFilter", "istio-system"), "EnvoyFilter istio-system/response-default-hello"),
    ],
)
def test_names_the_missing_objects_of_a_response(
    api: Api, server: ApiServer, lost: tuple[str, str], missing: str
) -> None:
    put(server, response(**OWN_GATEWAY))
    server.remove(*lost, "response-default-hello")
    (there,) = list_existing(api)
    assert there.missing == (missing,)
    assert there.spec == response(**OWN_GATEWAY).spec


# -- who may not look everywhere ----------------------------------------------------------------

EVERYWHERE = r"v[\w]+/(serviceentries|envoyfilters|services|gateways|virtualservices)\?"


def test_finds_nearby_responses_and_access_logs(api: Api, server: ApiServer) -> None:
    server.put(*objects())
    away = GatewayRef("lab", "edge", {"app": "edge"})
    put(server, response(**OWN_GATEWAY), response(name="away", gateway=away, **OWN_GATEWAY))
    put(server, access_log(), access_log("gw", namespace="istio-system", scope=LogScope.GATEWAY))
    server.fail("GET", EVERYWHERE, 403)
    things = list_existing(api, "default")
    assert [str(e.ref) for e in things] == [
        "coredns",
        "response/away",
        "response/hello",
        "accesslog/namespace",
    ]
    assert [e.missing for e in things] == [()] * 4
    assert [str(e.ref) for e in list_existing(api, "istio-system")] == ["accesslog/gw"]


def test_a_response_without_annotation_is_searched_at_the_usual_gateway(
    api: Api, server: ApiServer
) -> None:
    put(server, response(**OWN_GATEWAY))
    broken = server.get("VirtualService", "default", "response-default-hello")
    broken["metadata"]["annotations"] = {}
    server.put(broken)
    server.fail("GET", EVERYWHERE, 403)
    (there,) = list_existing(api, "default")
    assert there.missing == ()


def test_rights_for_exposures_suffice_for_exposures(api: Api, server: ApiServer) -> None:
    """The other kinds are not shown then."""
    server.put(*objects())
    put(server, response(mesh=True, hosts=(RATINGS,)), access_log())
    server.fail("GET", EVERYWHERE, 403)
    server.fail("GET", "/namespaces/[^/]+/(gateways|virtualservices)", 403)
    server.fail("GET", "/namespaces/default/(envoyfilters|services)", 403)
    assert found(api, "default") == [("default", "coredns")]
    (there,) = list_existing(api, "default")
    assert there.missing == ()
    assert [str(e.ref) for e in get_existing(api, "default", ["coredns"])] == ["coredns"]


def test_permission_to_list_exposures_everywhere_shows_all_of_them(
    api: Api, server: ApiServer
) -> None:
    server.put(*objects())
    put(server, response(), access_log())
    server.fail("GET", "/(gateways|virtualservices)", 403)
    assert found(api) == [("default", "coredns"), ("default", "accesslog/namespace")]
    with pytest.raises(Forbidden, match=r"virtualservices|gateways"):
        list_existing(api, None, (Kind.RESPONSE,))
    server.fail("GET", "/serviceentries", 403)
    with pytest.raises(Forbidden, match="serviceentries"):
        list_existing(api)


def test_rights_in_its_namespace_suffice_for_an_access_log(api: Api, server: ApiServer) -> None:
    put(server, access_log(), access_log(namespace="lab"))
    server.fail("GET", EVERYWHERE, 403)
    server.fail("GET", "/namespaces/istio-system/", 403)
    (there,) = get_existing(api, "default", ["accesslog/namespace"])
    assert there.spec == access_log()
    server.fail("GET", "/namespaces/default/envoyfilters", 403)
    with pytest.raises(Forbidden, match="envoyfilters"):
        get_existing(api, "default", ["accesslog/namespace"])


def test_a_named_response_without_permission_is_an_error(api: Api, server: ApiServer) -> None:
    put(server, response())
    server.fail("GET", EVERYWHERE, 403)
    server.fail("GET", "/namespaces/[^/]+/virtualservices", 403)
    with pytest.raises(Forbidden, match="virtualservices"):
        get_existing(api, "default", ["response/hello"])
