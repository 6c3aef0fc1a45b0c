"""More than one gateway, more than one pod of it, and pods that come later."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

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

# They change what all tests share, or measure what others would disturb.
pytestmark = pytest.mark.alone


def gateway_manifests(name: str, istio: str) -> list[dict[str, Any]]:
    """A gateway by Istio's injection template, as its Helm chart makes one."""
    labels = {"app": name, "istio": istio}
    pod = {
        "metadata": {
            "labels": {**labels, "sidecar.istio.io/inject": "true"},
            "annotations": {"inject.istio.io/templates": "gateway"},
        },
        "spec": {
            "containers": [
                {
                    "name": "istio-proxy",
                    "image": "auto",
                    "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                }
            ]
        },
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "type": "ClusterIP",
                "selector": labels,
                "ports": [{"name": "http2", "port": 80, "targetPort": 8080}],
            },
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": pod,
            },
        },
    ]


@pytest.fixture
def second_gateway(space: Space) -> Iterator[str]:
    """A second ingress gateway, in the test's own namespace: `NAMESPACE/edge`."""
    space.apply(*gateway_manifests("edge", "ingressgateway"))
    yield f"{space.name}/edge"
    assert space.plugin("delete", "--all").code == 0
    kubectl("delete", "deployment", "-n", space.name, "edge", "--wait=false")
    eventually(
        "the second gateway is gone",
        lambda: not get("pods", "-n", space.name, "-l", "app=edge")["items"],
        60,
    )


def test_two_gateways(space: Space, second_gateway: str, port: int) -> None:
    """None chosen is an error that lists them; each can be chosen, and both at once."""
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
        "dns", "-p", f"{port + 100}:53", "--name", "dns-3", "--gateway-selector", "app=edge"
    )
    assert "serverside-applied" in by_label.out
    assert space.verify("dns-3").code == 0


def test_two_replicas_and_a_pod_that_comes_later(space: Space, port: int) -> None:
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
    assert "there is no endpoint" in silent.out
    kubectl("scale", "-n", space.name, "deploy/dns", "--replicas=1")
    kubectl("rollout", "status", "-n", space.name, "deploy/dns", "--timeout=60s")
    wait_answered(space, "dns")


@pytest.fixture(scope="session")
def gateway_api() -> None:
    """The Kubernetes Gateway API's CRDs; the project's own cluster can install them."""
    known = run("kubectl", "get", "crd", "gateways.gateway.networking.k8s.io")
    if known.code != 0:
        ground = os.environ.get("GROUND")
        if not ground or os.environ.get("E2E_CLUSTER") == "current":
            pytest.skip("this cluster has no Gateway API")
        subprocess.run([ground, "gateway-api"], check=True, timeout=300)


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
