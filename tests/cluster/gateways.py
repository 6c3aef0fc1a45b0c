"""Gateways for one test, and the ports that their Envoys listen on."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
from conftest import GATEWAY_NAMESPACE, Space, eventually, get, kubectl, run


@pytest.fixture(scope="session")
def gateway_api() -> None:
    """The Kubernetes Gateway API's CRDs; the project's own cluster can install them."""
    install_gateway_api()


def install_gateway_api() -> None:
    """Install the Gateway API's CRDs if they are missing; skip the test if that is not possible."""
    known = run("kubectl", "get", "crd", "gateways.gateway.networking.k8s.io")
    if known.code != 0:
        ground = os.environ.get("GROUND")
        if not ground or os.environ.get("E2E_CLUSTER") == "current":
            pytest.skip("this cluster has no Gateway API")
        subprocess.run([ground, "gateway-api"], check=True, timeout=300)


def gone(space: Space, workload: str, name: str) -> None:
    """Delete a gateway of a test when nothing is exposed at it any more."""
    assert space.plugin("delete", "--all").code == 0
    kubectl("delete", workload, "-n", space.name, name, "--wait=false")
    eventually(
        "the gateway's pods are gone",
        lambda: not get("pods", "-n", space.name, "-l", f"app={name}")["items"],
        60,
    )


def gateway_manifests(name: str, istio: str, **labels: str) -> list[dict[str, Any]]:
    """A gateway from Istio's injection template, as in its Helm chart: Service, Deployment.

    Args:
        name: the name of both, and the label app unless `labels` has another.
        istio: the label istio.
        labels: further labels of its pods, by which both select them.
    """
    labels = {"app": name, "istio": istio, **labels}
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
            "spec": {"selector": {"matchLabels": labels}, "template": pod},
        },
    ]


def bare_gateway(name: str, kind: str = "Deployment", **spec: Any) -> list[dict[str, Any]]:
    """A gateway without a template: Service and workload with a complete pod.

    Its pod is a live one of the installation, without the sysctl that lets it bind low ports.

    Args:
        name: the name of both, and the labels app and istio.
        kind: the workload's.
        spec: fields of the pod; `proxy` has those of the container's securityContext.
    """
    (live, *_) = get("pods", "-n", GATEWAY_NAMESPACE, "-l", "istio=ingressgateway")["items"]
    proxy, own = live["spec"]["containers"][0], spec.pop("proxy", {})
    proxy["securityContext"] = {**proxy.get("securityContext", {}), **own}
    proxy["resources"] = {"requests": {"cpu": "10m", "memory": "64Mi"}}
    token = "kube-api-access-"
    proxy["volumeMounts"] = [
        mount for mount in proxy["volumeMounts"] if not mount["name"].startswith(token)
    ]
    volumes = [v for v in live["spec"]["volumes"] if not v["name"].startswith(token)]
    for port in proxy.get("ports", ()):
        port.pop("hostPort", None)
    service, workload = gateway_manifests(name, name)
    labels = workload["spec"]["selector"]["matchLabels"]
    workload["kind"] = kind
    workload["spec"]["template"] = {
        "metadata": {"labels": {**labels, "sidecar.istio.io/inject": "false"}},
        "spec": {
            "containers": [proxy],
            "volumes": volumes,
            "terminationGracePeriodSeconds": 2,
            **spec,
        },
    }
    return [service, workload]


def listened_ports(namespace: str, selector: str) -> set[int]:
    """The ports of every listener in the Envoys of some gateway pods."""
    found: set[Any] = set()
    for pod in get("pods", "-n", namespace, "-l", selector)["items"]:
        said = kubectl(
            "exec", "-n", namespace, pod["metadata"]["name"], "-c", "istio-proxy", "--",
            "pilot-agent", "request", "GET", "/listeners?format=json",
        )  # fmt: skip
        for listener in json.loads(said).get("listener_statuses") or ():
            socket = listener["local_address"].get("socket_address") or {}
            found.add(socket.get("port_value"))
    return found


def udp_filter(
    name: str, port: int, *, operation: str = "ADD", match: Any = None, **spec: Any
) -> dict[str, Any]:
    """A foreign EnvoyFilter with a UDP listener without endpoints.

    Args:
        name: its name, and the listener's.
        port: the UDP port that it binds.
        operation, match: of the listener's patch.
        spec: further fields, workloadSelector or targetRefs.
    """
    udp = "type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3"
    address = {"socket_address": {"address": "192.0.2.200", "port_value": 9}}
    cluster = {
        "name": f"{name}-nobody",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": f"{name}-nobody",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    route = {
        "name": "route",
        "typed_config": {"@type": f"{udp}.Route", "cluster": f"{name}-nobody"},
    }
    proxy = {
        "@type": f"{udp}.UdpProxyConfig",
        "stat_prefix": name,
        "matcher": {"on_no_match": {"action": route}},
    }
    listener = {
        "name": name,
        "address": {
            "socket_address": {"protocol": "UDP", "address": "0.0.0.0", "port_value": port}
        },
        "udp_listener_config": {"downstream_socket_config": {"max_rx_datagram_size": 2048}},
        "listener_filters": [
            {"name": "envoy.filters.udp_listener.udp_proxy", "typed_config": proxy}
        ],
    }
    patches = (("CLUSTER", "ADD", cluster), ("LISTENER", operation, listener))
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": name},
        "spec": {
            **spec,
            "configPatches": [
                {
                    "applyTo": kind,
                    "match": match or {"context": "GATEWAY"},
                    "patch": {"operation": how, "value": value},
                }
                for kind, how, value in patches
            ],
        },
    }


def posing_pod() -> dict[str, Any]:
    """A pod with the labels and the container's name and arguments of Istio's ingress gateway."""
    labels = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "posing", "labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "istio-proxy",
                    "image": "zhaohuabing/network-tool",
                    "command": ["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"],
                    "args": ["proxy", "router"],
                }
            ],
        },
    }
