"""Several gateways, several pods per gateway, and pods that start later."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml
from conftest import (
    GATEWAY_NAMESPACE,
    Space,
    dns_server,
    eventually,
    gateway_pods,
    get,
    kubectl,
    run,
    wait_answered,
)
from gateways import bare_gateway, gateway_api, gateway_manifests, gone, listened_ports, posing_pod

__all__ = ["gateway_api"]

# Most change what all tests share: how many gateways there are, or how many pods.
alone = pytest.mark.alone


@pytest.fixture
def second_gateway(space: Space) -> Iterator[str]:
    """A second ingress gateway, in the test's own namespace: `NAMESPACE/edge`."""
    space.apply(*gateway_manifests("edge", "ingressgateway", test=space.name))
    yield f"{space.name}/edge"
    gone(space, "deployment", "edge")


@alone
def test_two_gateways(space: Space, second_gateway: str, port: int) -> None:
    """Without a choice, the error lists them; each can be chosen, and both at once."""
    space.apply(*dns_server())
    refused = space.expose("dns", "-p", f"{port}:53", code=2)
    assert second_gateway in refused.err
    assert f"{GATEWAY_NAMESPACE}/istio-ingressgateway" in refused.err
    space.expose("dns", "-p", f"{port}:53", "--gateway", second_gateway)
    assert space.verify("dns").code == 0
    taken = space.expose(
        "dns", "-p", f"{port}:53", "--gateway", f"{GATEWAY_NAMESPACE}/istio-ingressgateway", code=3
    )
    assert "U106" in taken.err
    space.expose(
        "dns", "-p", f"{port}:53", "--name", "dns-2", "--gateway", f"{GATEWAY_NAMESPACE}/"
        "istio-ingressgateway",
    )  # fmt: skip
    verified = space.verify("--all")
    assert verified.code == 0, verified.both
    rows = space.plugin("get").out
    assert second_gateway in rows and f"{GATEWAY_NAMESPACE}/istio-ingressgateway" in rows
    by_label = space.expose(
        "dns", "-p", f"{port + 100}:53", "--name", "dns-3",
        "--gateway-selector", f"test={space.name}",
    )  # fmt: skip
    assert "serverside-applied" in by_label.out
    assert space.verify("dns-3").code == 0


@alone
def test_an_exposure_keeps_its_gateway_when_a_second_one_appears(space: Space, port: int) -> None:
    """It can still be changed without naming its gateway; a new exposure must name one."""
    space.apply(*dns_server())
    words = ("-p", f"{port}:53")
    space.expose("dns", *words)
    space.apply(*gateway_manifests("edge", "ingressgateway", test=space.name))
    try:
        refused = space.expose("dns", "-p", f"{port + 1}:53", "--name", "dns-2", code=2)
        assert f"{space.name}/edge" in refused.err
        changed = space.expose("dns", *words, "--idle-timeout", "20s")
        assert "idle-timeout: 10s -> 20s" in changed.err
        assert not any(line.strip().startswith("gateway") for line in changed.err.splitlines())
        wait_answered(space, "dns")
    finally:
        gone(space, "deployment", "edge")


SHARED = {"app": "istio-ingressgateway"}


@pytest.fixture
def inside_and_outside(space: Space) -> Iterator[None]:
    """Two gateways with pods that differ by one label from the installation."""
    for name in ("inside", "outside"):
        space.apply(*gateway_manifests(f"gw-{name}", "ingressgateway", **SHARED, type=name))
    yield
    assert space.plugin("delete", "--all").code == 0
    kubectl("delete", "deployment", "-n", space.name, "gw-inside", "gw-outside", "--wait=false")
    eventually(
        "they are gone",
        lambda: not get("pods", "-n", space.name, "-l", "istio=ingressgateway")["items"],
        60,
    )


@alone
def test_two_gateways_that_share_istios_labels(
    space: Space, inside_and_outside: None, port: int
) -> None:
    """They count as two: one must be chosen, and its exposure is not at the other one."""
    space.apply(*dns_server())
    asked = space.expose("dns", "-p", f"{port}:53", code=2)
    assert f"{space.name}/gw-inside (Deployment gw-inside)" in asked.err
    assert f"{space.name}/gw-outside (Deployment gw-outside)" in asked.err
    space.expose("dns", "-p", f"{port}:53", "--gateway", "gw-inside")
    wait_answered(space, "dns")
    assert port in listened_ports(space.name, "type=inside")
    assert port not in listened_ports(space.name, "type=outside")
    (found,) = get("envoyfilter", "-n", space.name)["items"]
    assert found["spec"]["workloadSelector"]["labels"]["type"] == "inside"
    again = space.expose("dns", "-p", f"{port}:53")
    assert "unchanged" in again.out


@pytest.mark.parametrize("fronted", [False, True])
def test_a_pod_that_poses_as_a_gateway_does_not_count(
    space: Space, port: int, fronted: bool
) -> None:
    """Users who may create a pod in any namespace can give it a gateway's labels."""
    service = gateway_manifests("istio-ingressgateway", "ingressgateway")[0]
    space.apply(*dns_server(), posing_pod(), *([service] if fronted else []))
    kubectl("wait", "-n", space.name, "pod/posing", "--for=condition=Ready", "--timeout=60s")
    for words in ((), ("--gateway", "istio-ingressgateway")):
        space.expose("dns", "-p", f"{port}:53", *words)
        assert f"{GATEWAY_NAMESPACE}/istio-ingressgateway" in space.plugin("get").out
    missing = space.expose("dns", "-p", f"{port}:53", "--gateway", "nowhere", code=3)
    assert f"--gateway {space.name}" not in missing.err
    assert not get("envoyfilter", "-n", space.name)["items"]


@alone
def test_two_replicas_and_a_pod_that_starts_later(space: Space, port: int) -> None:
    """Every ready gateway pod is waited for; a new one becomes Ready and answers by itself."""
    space.apply(*dns_server())
    scale = ("scale", "-n", GATEWAY_NAMESPACE, "deploy/istio-ingressgateway", "--replicas")
    status = ("rollout", "status", "-n", GATEWAY_NAMESPACE, "deploy/istio-ingressgateway")
    try:
        kubectl(*scale, "2")
        kubectl(*status, "--timeout=90s")
        space.expose("dns", "-p", f"{port}:53")
        assert _gateways_answering(space) == set(gateway_pods())
        assert len(gateway_pods()) == 2
        kubectl(*scale, "3")
        kubectl(*status, "--timeout=90s")
        answering = eventually(
            "three gateway pods answer",
            lambda: found if len(found := _gateways_answering(space)) == 3 else None,
        )
        assert answering == set(gateway_pods())
    finally:
        kubectl(*scale, "1")
        eventually("one gateway pod", lambda: len(gateway_pods()) == 1, 60)


def _gateways_answering(space: Space) -> set[str]:
    verified = space.verify("dns", "-o", "json")
    probes = json.loads(verified.out)[0]["probes"]
    return {p["name"] for p in probes if p["via"] == "gateway" and p["answered"]}


@alone
def test_new_gateway_pod_while_the_backend_is_gone(space: Space, port: int) -> None:
    """An exposure without endpoints never keeps a gateway pod from becoming Ready."""
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53")
    kubectl("scale", "-n", space.name, "deploy/dns", "--replicas=0")
    kubectl("rollout", "restart", "-n", GATEWAY_NAMESPACE, "deploy/istio-ingressgateway")
    kubectl(
        "rollout", "status", "-n", GATEWAY_NAMESPACE, "deploy/istio-ingressgateway",
        "--timeout=60s",
    )  # fmt: skip
    silent = space.verify("dns")
    assert silent.code == 1
    assert "no endpoint to query" in silent.out
    kubectl("scale", "-n", space.name, "deploy/dns", "--replicas=1")
    kubectl("rollout", "status", "-n", space.name, "deploy/dns", "--timeout=60s")
    wait_answered(space, "dns")


@alone
@pytest.mark.parametrize(
    ("user", "listener"),
    # Kubernetes gives the capability only to root.
    [(0, 53), (1337, 10053)],
    ids=["root", "another user"],
)
def test_what_net_bind_service_allows(space: Space, user: int, listener: int) -> None:
    """The gateway's listener shows whether it could bind port 53; clients use 53 anyway."""
    may_bind = {
        "runAsUser": user,
        "runAsGroup": user,
        "runAsNonRoot": user != 0,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    }
    space.apply(*dns_server(), *bare_gateway("capable", proxy=may_bind))
    try:
        exposed = space.expose("dns", "-p", "53:53", "--gateway", f"{space.name}/capable")
        assert ("may not bind port 53" in exposed.err) == (listener != 53)
        wait_answered(space, "dns")
        assert listener in listened_ports(space.name, "app=capable")
    finally:
        gone(space, "deployment", "capable")


@alone
def test_a_gateway_on_its_nodes_network(space: Space, port: int) -> None:
    """A DaemonSet there opens the node's own ports, and the companion translates as usual."""
    space.apply(
        *dns_server(),
        *bare_gateway("host", "DaemonSet", hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"),
    )
    kubectl("rollout", "status", "-n", space.name, "ds/host", "--timeout=90s")
    try:
        exposed = space.expose("dns", "-p", "53:53", "-p", f"{port}:53", "--gateway", "host")
        assert f"{port}/UDP is open on each of them" in exposed.err
        assert "use these ports, not 53" in exposed.err
        wait_answered(space, "dns")
        node = next(
            address["address"]
            for address in get("nodes")["items"][0]["status"]["addresses"]
            if address["type"] == "InternalIP"
        )
        namespace, _, tool = space.tool.partition("/")
        for number in (port, 10053):
            dig = ("dig", "+short", f"@{node}", "-p", str(number), "plain.example")
            answer = kubectl("exec", "-n", namespace, tool, "--", *dig)
            assert answer.strip() == "192.0.2.1"
    finally:
        gone(space, "daemonset", "host")


@alone
def test_gateway_of_the_gateway_api(space: Space, port: int, gateway_api: None) -> None:
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "door"},
        "spec": {
            "gatewayClassName": "istio",
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    }
    kubectl("apply", "-n", space.name, "-f", "-", stdin=yaml.safe_dump(gateway))
    space.apply(*dns_server())
    eventually(
        "the gateway's Deployment",
        lambda: run("kubectl", "get", "deploy", "-n", space.name, "door-istio").code == 0,
    )
    kubectl("rollout", "status", "-n", space.name, "deploy/door-istio", "--timeout=90s")
    space.expose("dns", "-p", f"{port}:53", "--gateway", f"{space.name}/door")
    verified = space.verify("dns")
    assert verified.code == 0, verified.both
    patched = space.expose(
        "dns", "-p", f"{port}:53", "--gateway", "door", "--gateway-service", "patch"
    )
    assert "service/door-istio serverside-applied" in patched.out
    assert space.verify("dns").code == 0
    assert space.plugin("delete", "dns").code == 0
    ports = get("service", "-n", space.name, "door-istio")["spec"]["ports"]
    assert all(p["protocol"] == "TCP" for p in ports)
    kubectl("delete", "gateway.gateway.networking.k8s.io", "-n", space.name, "door")
    eventually(
        "the gateway's pods are gone",
        lambda: (
            not get("pods", "-n", space.name, "-l", "gateway.networking.k8s.io/gateway-name")[
                "items"
            ]
        ),
        60,
    )
