from __future__ import annotations

import pytest

from kubectl_istio_udp.model.envoyfilter import Claims, applies_to
from kubectl_istio_udp.model.gateway import Gateway, GatewayRef
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from tests.unit.builders import GATEWAY_LABELS, cluster, plan_of, snapshot_of


def patch(kind, value, operation="ADD"):
    return {"applyTo": kind, "patch": {"operation": operation, "value": value}}


def listener(name="l", port=5300, protocol="UDP"):
    socket = {"protocol": protocol, "address": "0.0.0.0", "port_value": port}
    return {"name": name, "address": {"socket_address": socket}}


def envoyfilter(*patches, namespace="istio-system", selector=None, labels=None):
    spec = {"configPatches": list(patches)}
    if selector is not None:
        spec["workloadSelector"] = {"labels": selector}
    metadata = {"name": "other", "namespace": namespace, "labels": labels}
    return {"kind": "EnvoyFilter", "metadata": metadata, "spec": spec}


def claims(*patches):
    return Claims.from_object(envoyfilter(*patches))


def test_reads_what_a_filter_adds():
    found = claims(patch("LISTENER", listener()), patch("CLUSTER", {"name": "c"}))
    assert found == Claims("istio-system/other", frozenset("l"), frozenset("c"), frozenset({5300}))


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
def test_reads_the_udp_ports_of_a_listener_in_either_spelling(value, ports):
    assert claims(patch("LISTENER", value)).udp_ports == ports


@pytest.mark.parametrize(
    "odd",
    [
        patch("LISTENER", listener(), "MERGE"),
        patch("CLUSTER", {"name": "c"}, "REMOVE"),
        patch("HTTP_ROUTE", {"name": "r"}),
        patch("CLUSTER", {}),
        patch("LISTENER", {}),
        {"applyTo": "CLUSTER"},
        {"applyTo": "CLUSTER", "patch": None},
        {"applyTo": "CLUSTER", "patch": {"operation": "ADD", "value": None}},
        {},
    ],
)
def test_what_adds_nothing_claims_nothing(odd):
    found = claims(odd)
    assert not (found.listeners | found.clusters | found.udp_ports)


@pytest.mark.parametrize("spec", [None, {}, {"configPatches": None}])
def test_an_empty_filter_claims_nothing(spec):
    found = Claims.from_object({**envoyfilter(), "spec": spec})
    assert found == Claims("istio-system/other")


def test_our_own_filters_are_known_by_their_labels():
    ours = envoy_filter(plan_of().exposure)
    found = Claims.from_object(ours)
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
def test_others_are_nobodys_exposure(labels):
    assert Claims.from_object(envoyfilter(labels=labels)).exposure is None


GATEWAY = snapshot_of(cluster()).gateway


@pytest.mark.parametrize(
    ("namespace", "selector", "root", "expected"),
    [
        ("istio-system", GATEWAY_LABELS, "istio-system", True),
        ("istio-system", {"istio": "ingressgateway"}, "istio-system", True),
        ("istio-system", None, "istio-system", True),
        ("istio-system", {}, "istio-system", True),
        ("istio-system", {"istio": "egressgateway"}, "istio-system", False),
        ("root", None, "root", True),
        ("root", {"istio": "egressgateway"}, "root", False),
        ("default", None, "istio-system", False),
        ("default", GATEWAY_LABELS, "istio-system", False),
    ],
)
def test_which_filters_reach_a_gateway(namespace, selector, root, expected):
    found = envoyfilter(namespace=namespace, selector=selector)
    assert applies_to(found, GATEWAY, root) is expected


@pytest.mark.parametrize(("value", "expected"), [("x", True), ("y", False)])
def test_a_gateway_without_pods_is_judged_by_its_selector(value, expected):
    empty = Gateway(GatewayRef("istio-system", "gone", {"app": "x"}))
    assert applies_to(envoyfilter(selector={"app": value}), empty, "istio-system") is expected
