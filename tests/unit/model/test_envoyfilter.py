from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.model.envoyfilter import (
    ROOT_UNKNOWN,
    Footprint,
    footprints_at,
    version_attaches,
)
from kubectl_istio_udp.model.gateway import Gateway, GatewayPod, GatewayRef
from kubectl_istio_udp.model.mesh import DEFAULT_MESH, Mesh
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from tests.support.builders import GATEWAY_LABELS, cluster, gateway_pod, plan_of, snapshot_of


def patch(kind: str, value: dict[str, Any], operation: str = "ADD") -> dict[str, Any]:
    return {"applyTo": kind, "patch": {"operation": operation, "value": value}}


def listener(
    name: str = "l", port: int | str = 5300, protocol: int | str = "UDP"
) -> dict[str, Any]:
    socket = {"protocol": protocol, "address": "0.0.0.0", "port_value": port}
    return {"name": name, "address": {"socket_address": socket}}


def envoyfilter(
    *patches: dict[str, Any],
    namespace: str = "istio-system",
    selector: dict[str, Any] | None = None,
    labels: dict[str, Any] | None = None,
) -> dict[str, Any]:
    spec: dict[str, Any] = {"configPatches": list(patches)}
    if selector is not None:
        spec["workloadSelector"] = {"labels": selector}
    metadata = {"name": "other", "namespace": namespace, "labels": labels}
    return {"kind": "EnvoyFilter", "metadata": metadata, "spec": spec}


def footprint(*patches: Any) -> Any:
    return Footprint.from_object(envoyfilter(*patches))


def test_reads_what_a_filter_adds() -> None:
    found = footprint(patch("LISTENER", listener()), patch("CLUSTER", {"name": "c"}))
    assert found == Footprint(
        "istio-system/other", frozenset("l"), frozenset("c"), frozenset({5300})
    )


CAMEL = {"name": "l", "address": {"socketAddress": {"protocol": "UDP", "portValue": 5300}}}


@pytest.mark.parametrize(
    ("value", "ports"),
    [
        (listener(), {5300}),
        (listener(protocol="TCP"), set()),
        (CAMEL, {5300}),
        (listener(protocol=1, port="5300"), {5300}),
        (listener(protocol=0), set()),
        (listener(port="dns"), set()),
        (
            {**listener(), "additional_addresses": [{"address": listener(port=54)["address"]}]},
            {5300, 54},
        ),
        ({**CAMEL, "additionalAddresses": [{"address": CAMEL["address"]}, {}]}, {5300}),
        ({"name": "l", "address": {"pipe": {"path": "/x"}}}, set()),
        ({"name": "l", "address": None}, set()),
        (
            {"name": "l", "address": {"socket_address": {"protocol": "UDP", "named_port": "x"}}},
            set(),
        ),
        ({"name": "l"}, set()),
    ],
)
def test_reads_the_udp_ports_of_a_listener_in_either_spelling(
    value: dict[str, Any], ports: set[int]
) -> None:
    assert footprint(patch("LISTENER", value)).udp_ports == ports


@pytest.mark.parametrize(
    "odd",
    [
        patch("CLUSTER", {"name": "c"}, "MERGE"),
        patch("CLUSTER", {"name": "c"}, "REMOVE"),
        {**patch("LISTENER", listener()), "match": {"context": "SIDECAR_OUTBOUND"}},
        patch("HTTP_ROUTE", {"name": "r"}),
        patch("CLUSTER", {}),
        patch("LISTENER", {}),
        {"applyTo": "CLUSTER"},
        {"applyTo": "CLUSTER", "patch": None},
        {"applyTo": "CLUSTER", "patch": {"operation": "ADD", "value": None}},
        {},
    ],
)
def test_patches_that_add_nothing_have_no_footprint(odd: dict[str, Any]) -> None:
    found = footprint(odd)
    assert not (found.listeners | found.clusters | found.udp_ports)


@pytest.mark.parametrize("spec", [None, {}, {"configPatches": None}])
def test_an_empty_filter_has_no_footprint(spec: dict[str, Any] | None) -> None:
    found = Footprint.from_object({**envoyfilter(), "spec": spec})
    assert found == Footprint("istio-system/other")


def test_envoy_filters_of_exposures_are_recognized_by_labels() -> None:
    ours = envoy_filter(plan_of().exposure)
    found = Footprint.from_object(ours)
    assert found.exposure == ("default", "coredns")
    assert found.udp_ports == {10053}
    assert found.listeners == found.clusters == {"udp-default-coredns-53"}


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"app.kubernetes.io/managed-by": "helm", "kubectl-istio-udp/exposure": "x",
         "kubectl-istio-udp/namespace": "y"},
        {"app.kubernetes.io/managed-by": "kubectl-istio-udp", "kubectl-istio-udp/exposure": "x"},
        {"app.kubernetes.io/managed-by": "kubectl-istio-udp", "kubectl-istio-udp/namespace": "x"},
    ],
)  # fmt: skip
def test_other_envoy_filters_belong_to_no_exposure(labels: dict[str, Any]) -> None:
    assert Footprint.from_object(envoyfilter(labels=labels)).exposure is None


GATEWAY = snapshot_of(cluster()).gateway
API = {"gateway.networking.k8s.io/gateway-name": "public", "app": "x"}
TARGET = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public"}


def gateway_of(*pods: dict[str, Any], **ref: Any) -> Gateway:
    """A gateway of these pods."""
    read = tuple(GatewayPod.from_object(p) for p in pods)
    return Gateway(GatewayRef("istio-system", "g", ref.get("selector", GATEWAY_LABELS)), read)


def found_at(
    envoy_filter: dict[str, Any], gateway: Gateway = GATEWAY, mesh: Mesh = DEFAULT_MESH
) -> str:
    """`certain`, `possible` or `nothing`: what a gateway gets of an EnvoyFilter's listener."""
    several = footprints_at(envoy_filter, gateway, mesh)
    assert len(several) < 2
    return "nothing" if not several else "possible" if several[0].doubt else "certain"


@pytest.mark.parametrize(
    ("namespace", "selector", "root", "expected"),
    [
        ("istio-system", GATEWAY_LABELS, "istio-system", "certain"),
        ("istio-system", {"istio": "ingressgateway"}, "istio-system", "certain"),
        ("istio-system", None, "istio-system", "certain"),
        ("istio-system", {}, "istio-system", "certain"),
        ("istio-system", {"istio": "egressgateway"}, "istio-system", "nothing"),
        ("root", None, "root", "certain"),
        ("root", {"istio": "egressgateway"}, "root", "nothing"),
        ("default", None, "istio-system", "nothing"),
        ("default", GATEWAY_LABELS, "istio-system", "nothing"),
    ],
)
def test_which_filters_a_gateway_gets(
    namespace: str, selector: dict[str, Any] | None, root: str, expected: str
) -> None:
    found = envoyfilter(patch("LISTENER", listener()), namespace=namespace, selector=selector)
    assert found_at(found, mesh=Mesh(root)) == expected


def test_any_namespace_may_be_a_root_namespace_that_is_not_known() -> None:
    everywhere = envoyfilter(patch("LISTENER", listener()), namespace="mesh-config")
    assert found_at(everywhere, mesh=Mesh(assumed=True)) == "possible"
    elsewhere = envoyfilter(patch("LISTENER", listener()), namespace="x", selector={"app": "y"})
    assert found_at(elsewhere, mesh=Mesh(assumed=True)) == "nothing"
    told = Mesh(assumed=True).with_root_namespace("mesh-config")
    assert found_at(everywhere, mesh=told) == "certain"
    assert (
        found_at(everywhere, mesh=Mesh(assumed=True).with_root_namespace("istio-system"))
        == "nothing"
    )
    assert Mesh("read").with_root_namespace("mesh-config") == Mesh("read")


def test_every_doubt_is_reported() -> None:
    """It is unknown whether its namespace is the root namespace, and the proxies' COLOUR."""
    found = envoyfilter(
        {**patch("LISTENER", listener()), "match": {"proxy": {"metadata": {"COLOUR": "blue"}}}},
        namespace="mesh-config",
    )
    (footprint,) = footprints_at(found, GATEWAY, Mesh(assumed=True))
    assert footprint.doubt == (
        f"{ROOT_UNKNOWN} and it selects proxies by metadata COLOUR=blue, and the gateway's value "
        "is not known"
    )


@pytest.mark.parametrize(("value", "expected"), [("x", "certain"), ("y", "nothing")])
def test_a_gateway_without_pods_is_judged_by_its_selector(value: str, expected: str) -> None:
    empty = Gateway(GatewayRef("istio-system", "gone", {"app": "x"}))
    found = envoyfilter(patch("LISTENER", listener()), selector={"app": value})
    assert found_at(found, empty) == expected


@pytest.mark.parametrize(
    ("kind", "operation", "expected"),
    [
        ("LISTENER", "ADD", "certain"),
        ("LISTENER", "INSERT_FIRST", "certain"),
        ("LISTENER", "INSERT_BEFORE", "certain"),
        ("LISTENER", "INSERT_AFTER", "certain"),
        ("CLUSTER", "INSERT_FIRST", "certain"),
        ("CLUSTER", "INSERT_AFTER", "certain"),
        ("LISTENER", "MERGE", "possible"),
        ("LISTENER", "MERGE_AND_REPLACE_LIST", "possible"),
        ("LISTENER", "REMOVE", "nothing"),
        ("LISTENER", "REPLACE", "nothing"),
        ("CLUSTER", "MERGE", "nothing"),
        ("LISTENER_FILTER", "INSERT_FIRST", "nothing"),
    ],
)
def test_operations_that_istiod_reads_as_add(kind: str, operation: str, expected: str) -> None:
    assert found_at(envoyfilter(patch(kind, listener(), operation))) == expected


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({}, "certain"),
        ({"context": "ANY"}, "certain"),
        ({"context": "GATEWAY"}, "certain"),
        ({"context": "SIDECAR_OUTBOUND"}, "nothing"),
        ({"context": "SIDECAR_INBOUND"}, "nothing"),
        ({"context": "WAYPOINT"}, "nothing"),
        ({"proxy": {"proxyVersion": r"^1\.31.*"}}, "certain"),
        ({"proxy": {"proxyVersion": r"^1\.1[5-9].*"}}, "nothing"),
        ({"proxy": {"proxyVersion": "31"}}, "certain"),
        ({"proxy": {"proxyVersion": r"1\.31\.0$"}}, "certain"),
        ({"proxy": {"proxyVersion": "[[:digit:]]"}}, "possible"),
        ({"proxy": {"proxyVersion": "(unclosed"}}, "possible"),
        ({"proxy": {"proxyVersion": "1" * 1025}}, "nothing"),
        ({"proxy": {"metadata": {"CLUSTER_ID": "c1"}}}, "certain"),
        ({"proxy": {"metadata": {"CLUSTER_ID": "c2"}}}, "nothing"),
        ({"proxy": {"metadata": {"NAMESPACE": "istio-system"}}}, "certain"),
        ({"proxy": {"metadata": {"COLOUR": "blue"}}}, "possible"),
        ({"proxy": {"metadata": {"COLOUR": "blue", "NAMESPACE": "x"}}}, "nothing"),
        ({"proxy": {"proxyVersion": r"^1\.31", "metadata": {"COLOUR": "blue"}}}, "possible"),
        ({"context": "SIDECAR_INBOUND", "proxy": {"proxyVersion": ".*"}}, "nothing"),
    ],
)
def test_which_patches_a_gateway_gets(match: dict[str, Any], expected: str) -> None:
    manifest = gateway_pod(image="istio/proxyv2:1.31.0-distroless")
    proxy = manifest["spec"]["containers"][0]
    proxy["env"] = [{"name": "ISTIO_META_CLUSTER_ID", "value": "c1"}]
    found = envoyfilter({**patch("LISTENER", listener()), "match": match})
    assert found_at(found, gateway_of(manifest)) == expected


def test_an_unknown_proxy_version() -> None:
    found = envoyfilter(
        {**patch("LISTENER", listener()), "match": {"proxy": {"proxyVersion": "^1"}}}
    )
    assert found_at(found, gateway_of(gateway_pod(image="proxyv2@sha256:01"))) == "possible"


def test_one_pod_that_gets_it_is_enough() -> None:
    match = {"proxy": {"proxyVersion": r"^1\.30"}}
    found = envoyfilter({**patch("LISTENER", listener()), "match": match})
    pods = [gateway_pod("a"), gateway_pod("b", image="istio/proxyv2:1.30.2")]
    assert found_at(found, gateway_of(*pods)) == "certain"


@pytest.mark.parametrize(
    ("targets", "istio", "expected"),
    [
        ([TARGET], (1, 27), "certain"),
        ([{**TARGET, "name": "private"}], (1, 27), "nothing"),
        ([{**TARGET, "name": "private"}], (1, 31), "nothing"),
        ([{**TARGET, "name": "private"}, TARGET], (1, 31), "certain"),
        ([{**TARGET, "namespace": "istio-system"}], (1, 31), "certain"),
        ([{**TARGET, "namespace": "other"}], (1, 31), "nothing"),
        ([{**TARGET, "group": "networking.istio.io"}], (1, 31), "nothing"),
        ([{**TARGET, "kind": "GatewayClass", "name": "istio"}], (1, 31), "nothing"),
        ([{"group": "", "kind": "Service", "name": "public"}], (1, 31), "nothing"),
        # An older one ignores targetRefs.
        ([{**TARGET, "name": "private"}], (1, 26), "certain"),
        ([TARGET], (1, 26), "certain"),
        ([{**TARGET, "name": "private"}], None, "possible"),
        ([TARGET], None, "certain"),
        ([], None, "certain"),
    ],
)
def test_target_refs(
    targets: list[dict[str, Any]], istio: tuple[int, int] | None, expected: str
) -> None:
    gateway = gateway_of(gateway_pod(labels=API, image="istio/proxyv2:1.20.0"), selector=API)
    found = envoyfilter(patch("LISTENER", listener()))
    found["spec"]["targetRefs"] = targets
    assert found_at(found, gateway, Mesh(istio=istio)) == expected


def test_a_new_proxy_implies_a_new_istiod() -> None:
    gateway = gateway_of(gateway_pod(labels=API, image="istio/proxyv2:1.27.1"), selector=API)
    found = envoyfilter(patch("LISTENER", listener()))
    found["spec"]["targetRefs"] = [{**TARGET, "name": "private"}]
    assert found_at(found, gateway) == "nothing"


def test_target_refs_of_the_root_namespace_are_for_no_gateway_elsewhere() -> None:
    gateway = gateway_of(gateway_pod(labels=API), selector=API)
    found = envoyfilter(patch("LISTENER", listener()), namespace="root")
    found["spec"]["targetRefs"] = [TARGET]
    assert found_at(found, gateway, Mesh("root", istio=(1, 31))) == "nothing"


def test_target_refs_are_for_no_gateway_that_the_gateway_api_did_not_make() -> None:
    found = envoyfilter(patch("LISTENER", listener()))
    found["spec"]["targetRefs"] = [TARGET]
    assert found_at(found, mesh=Mesh(istio=(1, 31))) == "nothing"


def test_selectors_that_istiod_ignores_for_gateways_of_the_gateway_api() -> None:
    gateway = gateway_of(gateway_pod(labels=API), selector=API)
    found = envoyfilter(patch("LISTENER", listener()))
    assert found_at(found, gateway, Mesh(selectors_for_gateway_api=False)) == "nothing"
    assert found_at(found, mesh=Mesh(selectors_for_gateway_api=False)) == "certain"


def at(address: str, port: int = 5300, **more: Any) -> dict[str, Any]:
    socket = {"protocol": "UDP", "address": address, "port_value": port, **more}
    return {"name": "l", "address": {"socket_address": socket}}


@pytest.mark.parametrize(
    ("value", "ipv4", "ipv6"),
    [
        (at("0.0.0.0"), {5300}, set()),
        (at("10.0.0.1"), {5300}, set()),
        (at("::"), set(), {5300}),
        (at("::", ipv4_compat=True), {5300}, {5300}),
        (at("::", ipv4Compat=True), {5300}, {5300}),
        (at("127.0.0.1"), set(), set()),
        (at("::1"), set(), set()),
        (at("odd"), {5300}, {5300}),
        (at("0.0.0.0") | {"additional_addresses": [{"address": at("::", 54)["address"]}]},
         {5300}, {54}),
        ({"name": "l", "address": {"envoy_internal_address": {"server_listener_name": "x"}}},
         set(), set()),
    ],
)  # fmt: skip
def test_only_what_binds_the_same_family_takes_a_port(
    value: dict[str, Any], ipv4: set[int], ipv6: set[int]
) -> None:
    found = envoyfilter(patch("LISTENER", value))
    for ip, ports in (("10.0.0.1", ipv4), ("fd00::1", ipv6)):
        (footprint,) = footprints_at(found, gateway_of(gateway_pod(ips=(ip,))), Mesh())
        assert footprint.udp_ports == ports


def test_certain_and_uncertain_additions_are_separate() -> None:
    found = envoyfilter(
        patch("CLUSTER", {"name": "c"}),
        {**patch("LISTENER", listener()), "match": {"proxy": {"metadata": {"A": "b"}}}},
    )
    certain, possible = footprints_at(found, GATEWAY, Mesh())
    assert certain.clusters == {"c"}
    assert not certain.listeners and not certain.doubt
    assert possible.listeners == {"l"} and "A=b" in possible.doubt


@pytest.mark.parametrize(
    ("expression", "version"), [(r"^1\.16.*", "1.16.2"), ("", "1.0"), ("", ""), ("^1|^2", "2.1")]
)
def test_versions_that_an_expression_matches(expression: str, version: str) -> None:
    assert version_attaches(expression, version).certain
