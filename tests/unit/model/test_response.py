"""What a response may be, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, UsageError
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.kinds import Kind, ObjectRef, Ref
from kubectl_istio_udp.model.response import (
    LARGEST_BODY_BYTES,
    Answer,
    Body,
    ResponseApi,
    ResponseSpec,
    covers,
    default_name,
    parse_header,
)

GATEWAY = GatewayRef("istio-system", "istio-ingressgateway", {"istio": "ingressgateway"})


@pytest.mark.parametrize("status", [199, 600, 0, -1, 100])
def test_only_final_statuses(status: int) -> None:
    with pytest.raises(UsageError, match=r"is not between 200 and 599"):
        Answer("/x", status)


@pytest.mark.parametrize("status", [200, 204, 418, 599])
def test_every_final_status(status: int) -> None:
    assert Answer("/x", status).status == status


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("x", "does not begin with /"),
        ("", "does not begin with /"),
        ("/a?b", "is not a valid path of a request"),
        ("/a#b", "is not a valid path of a request"),
        ("/a b", "is not a valid path of a request"),
        ("/ä", "is not a valid path of a request"),
        ("/" + "a" * 2048, "is not a valid path of a request"),
        ("/a\\b", "is not a valid path of a request"),
        ('/a"b', "is not a valid path of a request"),
        ("/a{b}", "is not a valid path of a request"),
        ("/a%2", "is not a valid path of a request"),
        ("/q%41z", "proxies decode %41"),
        ("/x/%2e%2E/y", "proxies decode %2e"),
        ("/a/../b", "proxies resolve"),
        ("/./b", "proxies resolve"),
    ],
)
def test_invalid_paths(path: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Answer(path, 200)


@pytest.mark.parametrize("path", ["/", "/a", "/a/", "/a%20b", "/v1/getProductRatings", "/a:b@c"])
def test_paths(path: str) -> None:
    assert Answer(path, 200).covers(path)
    assert Answer(path, 200, prefix=True).covers(path + "more")
    assert not Answer(path, 200).covers(path + "more")


@pytest.mark.parametrize(
    "host", ["a b", "a:80", "*a.example", "a.*", "-a", "a..b", "https://a", ""]
)
def test_invalid_hosts(host: str) -> None:
    with pytest.raises(UsageError, match="is not a valid host"):
        Answer("/x", 200, hosts=(host,))


@pytest.mark.parametrize("hosts", [("*", "a.example"), ("a.example", "*.example")])
def test_hosts_that_cover_each_other(hosts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="already covers"):
        Answer("/x", 200, hosts=hosts)


def test_a_host_is_written_in_lower_case() -> None:
    with pytest.raises(UsageError, match="not in lower case") as caught:
        Answer("/x", 200, hosts=("Shop.Example",))
    assert caught.value.hints == ("write shop.example",)


@pytest.mark.parametrize("status", [204, 205, 304])
def test_statuses_without_body(status: int) -> None:
    Answer("/x", status)
    with pytest.raises(UsageError, match="cannot have a body"):
        Answer("/x", status, Body.of(b"x", binary=False))


def test_an_answer_needs_a_host() -> None:
    with pytest.raises(UsageError, match="at least one host"):
        Answer("/x", 200, hosts=())


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("*", "a", True),
        ("*.b", "a.b", True),
        ("*.b", "b", False),
        ("a.b", "A.B", True),
        ("a.b", "*.b", False),
        ("*.b", "*.a.b", True),
    ],
)
def test_what_a_pattern_covers(pattern: str, host: str, expected: bool) -> None:
    assert covers(pattern, host) is expected


@pytest.mark.parametrize(
    "text",
    [
        "x-empty=",
        "a",
        "=b",
        "a b=c",
        "a=b\nc",
        "a= b",
        "a=\x00",
        "host=x",
        "Content-Length=3",
        "é=1",
    ],
)
def test_invalid_headers(text: str) -> None:
    with pytest.raises(UsageError):
        parse_header(text)


def test_a_header() -> None:
    assert parse_header("X-A=b=c 50%") == ("x-a", "b=c 50%")


def test_bodies() -> None:
    assert Body.of(b"hello", binary=False).size == 5
    assert Body.of(b"\xff", binary=True).binary
    with pytest.raises(UsageError, match="not UTF-8 text"):
        Body.of(b"\xff", binary=False)
    Body.of(b"a" * LARGEST_BODY_BYTES, binary=False)
    with pytest.raises(UsageError, match="at most 1000000"):
        Body.of(b"a" * (LARGEST_BODY_BYTES + 1), binary=True)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/direct", "direct"),
        ("/v1/getProductRatings", "v1-getproductratings"),
        ("/", "root"),
        ("/" + "a" * 60, "a" * 40),
        ("/" + "a" * 39 + "/b", "a" * 39),
        ("/%20", "20"),
    ],
)
def test_names_from_paths(path: str, name: str) -> None:
    assert default_name(path) == name


SPECS = st.builds(
    ResponseSpec,
    namespace=st.just("lab"),
    name=st.just("x"),
    answer=st.builds(
        Answer,
        path=st.sampled_from(["/", "/a", "/b/c"]),
        status=st.integers(206, 299),
        body=st.none() | st.builds(Body.of, st.binary(max_size=9), st.just(True)),
        prefix=st.booleans(),
        headers=st.just(()) | st.just((("x-a", "b"),)),
        hosts=st.sampled_from([("*",), ("a.example", "*.b.example")]),
    ),
    api=st.sampled_from(ResponseApi),
    gateway=st.none() | st.just(GATEWAY),
    gateway_port=st.integers(1, 65_535),
    servers=st.sampled_from([(), ("a/b", "c/d")]),
    creates_gateway=st.booleans(),
    root_namespace=st.sampled_from(["", "istio-system"]),
    mesh_ports=st.sampled_from([(), (80, 9080)]),
)


@given(SPECS)
def test_the_annotation_keeps_every_setting(spec: ResponseSpec) -> None:
    assert ResponseSpec.from_json(spec.to_json()) == spec
    assert ResponseSpec.from_json(spec.to_json()).to_json() == spec.to_json()


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"version": 9}', "null"])
def test_an_invalid_annotation(text: str) -> None:
    with pytest.raises(ClusterError):
        ResponseSpec.from_json(text)


@pytest.mark.parametrize(
    ("api", "gateway", "made", "places"),
    [
        ("virtualservice", GATEWAY, False, {"VirtualService": "lab"}),
        ("virtualservice", GATEWAY, True, {"Gateway": "istio-system", "VirtualService": "lab"}),
        ("envoyfilter", GATEWAY, False, {"VirtualService": "lab", "EnvoyFilter": "istio-system"}),
        ("virtualservice", None, False, {"VirtualService": "lab"}),
        ("envoyfilter", None, False, {"EnvoyFilter": "root"}),
    ],
)
def test_the_objects_it_consists_of(
    api: Api, gateway: GatewayRef | None, made: bool, places: dict[str, Any]
) -> None:
    spec = ResponseSpec(
        "lab",
        "x",
        Answer("/x", 200),
        ResponseApi(api),
        gateway,
        creates_gateway=made,
        root_namespace="root",
    )
    assert spec.objects == tuple(
        ObjectRef(kind, namespace, "response-lab-x") for kind, namespace in places.items()
    )
    assert spec.object_name == "response-lab-x"


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("coredns", Ref(Kind.EXPOSURE, "coredns")),
        ("exposure/a", Ref(Kind.EXPOSURE, "a")),
        ("response/a", Ref(Kind.RESPONSE, "a")),
        ("Responses/a", Ref(Kind.RESPONSE, "a")),
        ("accesslog/mesh", Ref(Kind.ACCESS_LOG, "mesh")),
    ],
)
def test_references(text: str, ref: Ref) -> None:
    assert Ref.parse(text) == ref
    assert Ref.parse(str(ref)) == ref


@pytest.mark.parametrize("text", ["pod/a", "response/", "/a", "a/b/c"])
def test_invalid_references(text: str) -> None:
    with pytest.raises(UsageError, match="unknown kind in") as caught:
        Ref.parse(text)
    assert "accesslog/NAME" in caught.value.hints[0]
