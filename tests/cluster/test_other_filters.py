"""Other people's EnvoyFilters, and meshes that are set up another way than the test cluster's.

Each test has a gateway of its own in its own namespace.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import yaml
from conftest import Space, dns_server, eventually, get, kubectl, wait_answered
from gateways import gateway_api, gateway_manifests, listened_ports, udp_filter
from meshes import istio_version, istiod_variables, mesh_config

__all__ = ["gateway_api"]

GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
EDGE: dict[str, Any] = {"workloadSelector": {"labels": {"istio": "edge"}}}


def items(kind: str, space: Space, selector: str) -> list[dict[str, Any]]:
    """The objects of a kind in a test's namespace."""
    return list(get(kind, "-n", space.name, "-l", selector)["items"])


@pytest.fixture
def edge(space: Space) -> Iterator[str]:
    """A gateway, `NAMESPACE/edge`, and a DNS server beside it."""
    space.apply(*gateway_manifests("edge", "edge"), *dns_server())
    yield f"{space.name}/edge"
    assert space.plugin("delete", "--all").code == 0


@pytest.mark.parametrize("operation", ["ADD", "INSERT_FIRST", "INSERT_AFTER"])
def test_an_exposure_is_refused_if_another_listener_has_the_port(
    space: Space, edge: str, port: int, operation: str
) -> None:
    """istiod takes INSERT_... of a listener for ADD; Envoy would reject both."""
    space.apply(udp_filter("theirs", port, operation=operation, **EDGE))
    refused = space.expose("dns", "-p", f"{port}:53", "--gateway", edge, code=3)
    assert "U103" in refused.err and f"EnvoyFilter {space.name}/theirs" in refused.err
    names = [f["metadata"]["name"] for f in get("envoyfilter", "-n", space.name)["items"]]
    assert names == ["theirs"]
    eventually("theirs is live", lambda: port in listened_ports(space.name, "istio=edge"))


@pytest.mark.parametrize(
    "others",
    [
        {"match": {"context": "SIDECAR_OUTBOUND"}, **EDGE},
        {"match": {"context": "GATEWAY", "proxy": {"proxyVersion": r"^0\.9.*"}}, **EDGE},
        {"match": {"context": "GATEWAY", "proxy": {"metadata": {"NAMESPACE": "other"}}}, **EDGE},
        {"workloadSelector": {"labels": {"istio": "another"}}},
        {"operation": "REMOVE", **EDGE},
    ],
    ids=["context", "version", "metadata", "selector", "remove"],
)
def test_an_envoy_filter_that_does_not_apply_to_the_gateway_does_not_matter(
    space: Space, edge: str, port: int, others: dict[str, Any]
) -> None:
    space.apply(udp_filter("theirs", port, **others))
    space.expose("dns", "-p", f"{port}:53", "--gateway", edge)
    wait_answered(space, "dns")


def test_unknown_proxy_metadata_is_a_warning(space: Space, edge: str, port: int) -> None:
    match = {"context": "GATEWAY", "proxy": {"metadata": {"COLOUR": "blue"}}}
    space.apply(udp_filter("theirs", port, match=match, **EDGE))
    exposed = space.expose("dns", "-p", f"{port}:53", "--gateway", edge)
    assert "U208" in exposed.err and "COLOUR=blue" in exposed.err
    wait_answered(space, "dns")


@pytest.mark.alone
def test_the_root_namespace_is_that_of_the_mesh_configuration(
    space: Space, edge: str, port: int, tool: str
) -> None:
    """Its EnvoyFilters apply to every gateway, whatever its name is."""
    root = tool.partition("/")[0]
    kubectl("apply", "-n", root, "-f", "-", stdin=yaml.safe_dump(udp_filter("everywhere", port)))
    try:
        space.expose("dns", "-p", f"{port}:53", "--gateway", edge, "--dry-run", "server")
        with mesh_config(rootNamespace=root):
            refused = space.expose("dns", "-p", f"{port}:53", "--gateway", edge, code=3)
            assert "U103" in refused.err and f"EnvoyFilter {root}/everywhere" in refused.err
            eventually(
                "the listener is live", lambda: port in listened_ports(space.name, "istio=edge"), 60
            )
    finally:
        kubectl("delete", "envoyfilter", "-n", root, "everywhere")


@pytest.mark.alone
def test_a_mesh_that_may_not_be_read_is_reported_as_unknown(
    space: Space, edge: str, port: int, tool: str
) -> None:
    """Any namespace may be the root namespace then: its EnvoyFilters may take the port."""
    other = tool.partition("/")[0]
    config = get("configmap", "-n", "istio-system", "istio")
    del config["metadata"]["resourceVersion"]
    kubectl("apply", "-n", other, "-f", "-", stdin=yaml.safe_dump(udp_filter("everywhere", port)))
    kubectl("delete", "configmap", "-n", "istio-system", "istio")
    try:
        refused = space.expose("dns", "-p", f"{port}:53", "--gateway", edge, code=3)
        assert "U103" in refused.err and "could not read the configuration" in refused.err
        assert f"EnvoyFilter {other}/everywhere, if {other} is the root namespace" in refused.err
        assert not get("envoyfilter", "-n", space.name)["items"]
        space.expose(
            "dns", "-p", f"{port}:53", "--gateway", edge, "--root-namespace", "istio-system"
        )  # fmt: skip
        wait_answered(space, "dns")
        again = space.expose("dns", "-p", f"{port}:53", "--gateway", edge)
        assert "U208" in again.err
    finally:
        kubectl("create", "-f", "-", stdin=yaml.safe_dump(config))
        kubectl("delete", "envoyfilter", "-n", other, "everywhere")


@pytest.mark.alone
def test_namespaces_that_istiod_does_not_read(space: Space, edge: str, port: int) -> None:
    """discoverySelectors that leave out the Service's namespace, and the gateway's."""
    selector = {"matchLabels": {"kubernetes.io/metadata.name": "istio-system"}}
    seen = {"matchLabels": {"kubernetes.io/metadata.name": space.name}}
    with mesh_config(discoverySelectors=[selector]):
        refused = space.expose("dns", "-p", f"{port}:53", "--gateway", edge, code=3)
        assert "U131" in refused.err and "discoverySelectors" in refused.err
        assert not get("envoyfilter", "-n", space.name)["items"]
        ingress = "istio-system/istio-ingressgateway"
        asked = ("dns", "-p", f"{port}:53", "--gateway", ingress)
        no = space.expose(*asked, "--discovery", "selector", code=2)
        assert f"istiod does not read namespace {space.name}" in no.err
        space.expose(*asked)
        wait_answered(space, "dns")
        assert space.plugin("delete", "dns").code == 0
    with mesh_config(discoverySelectors=[selector, seen]):
        space.expose("dns", "-p", f"{port}:53", "--gateway", edge)
        wait_answered(space, "dns", 60)


@pytest.mark.alone
def test_target_refs_apply_to_the_gateway_that_they_name(
    space: Space, gateway_api: None, port: int
) -> None:
    """Two gateways of the Gateway API; a foreign EnvoyFilter applies to one of them."""
    for name in ("public", "private"):
        listeners = [{"name": "http", "port": 80, "protocol": "HTTP"}]
        space.apply(
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "metadata": {"name": name},
                "spec": {"gatewayClassName": "istio", "listeners": listeners},
            }
        )
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "private"}
    space.apply(*dns_server(), udp_filter("private-udp", port, targetRefs=[target]))
    for name in ("public", "private"):
        eventually(
            f"Gateway {name} has pods",
            partial(items, "deploy", space, f"{GATEWAY_NAME}={name}"),
        )
        kubectl("rollout", "status", "-n", space.name, f"deploy/{name}-istio", "--timeout=90s")
    refused = space.expose("dns", "-p", f"{port}:53", "--gateway", f"{space.name}/private", code=3)
    assert "U103" in refused.err
    space.expose("dns", "-p", f"{port}:53", "--gateway", f"{space.name}/public")
    wait_answered(space, "dns")
    assert space.plugin("delete", "dns").code == 0
    # Later tests must find only one gateway again.
    kubectl("delete", "gateways.gateway.networking.k8s.io", "-n", space.name, "--all")
    eventually(
        "their pods are gone",
        lambda: not get("pods", "-n", space.name, "-l", GATEWAY_NAME)["items"],
        90,
    )


@pytest.mark.alone
@pytest.mark.parametrize("discovery", ["selector", "endpoints"])
def test_a_gateway_with_filtered_clusters(
    space: Space, edge: str, port: int, discovery: str
) -> None:
    """With PILOT_FILTER_GATEWAY_CLUSTER_CONFIG, Istio's option for large meshes.

    New gateway pods and moved server pods must still get and cause updates.
    """
    with istiod_variables(PILOT_FILTER_GATEWAY_CLUSTER_CONFIG="true"):
        words = ("dns", "-p", f"{port}:53", "--gateway", edge, "--discovery", discovery)
        if istio_version() < (1, 31):
            assert "U135" in space.expose(*words, code=3).err
            return
        space.expose(*words)
        wait_answered(space, "dns")
        for name in ("edge", "dns"):
            kubectl("rollout", "restart", "-n", space.name, f"deploy/{name}")
            kubectl("rollout", "status", "-n", space.name, f"deploy/{name}", "--timeout=90s")
            eventually(
                f"one pod of {name}",
                partial(lambda n: len(items("pods", space, f"app={n}")) == 1, name),
                60,
            )
            if discovery == "endpoints":
                space.expose(*words)
            wait_answered(space, "dns")
