"""The samples: a DNS server behind a UDP Service, and a pod with network tools.

The server answers `foo.bar.com` with the client's address (CoreDNS's plugin `whoami`), so an answer
shows which address a datagram came from.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from kubectl_istio_udp.model.names import MANAGED_BY_LABEL, MANAGER, QUERY_ANNOTATION
from kubectl_istio_udp.model.resources import API_GATEWAY, GATEWAY_API, RESOURCES

COREDNS_IMAGE = "coredns/coredns"
TOOL_IMAGE = "zhaohuabing/network-tool"
SAMPLE_QUERY = "foo.bar.com"
_ECHO_PORT = 9000
_NOBODY = 65534
_SERVER, _TOOL, _ECHO = "coredns", "network-tool", "tcp-echo"
# The sample Gateway.
_GATEWAY = "udp-sample"
_COREFILE = """\
.:53 {
    forward . 8.8.8.8 9.9.9.9
    log
    errors
}
foo.bar.com:53 {
    whoami
}
"""


def samples(
    namespace: str, server_image: str = COREDNS_IMAGE, tool_image: str = TOOL_IMAGE
) -> tuple[dict[str, Any], ...]:
    """The sample manifests: the server's Service, ConfigMap and Deployment, and the tool pod."""
    return (
        _service(namespace),
        _config(namespace),
        _deployment(namespace, server_image),
        _tool_pod(namespace, _TOOL, tool_image, sidecar=True),
    )


def udproute_samples(
    namespace: str, gateway_namespace: str, class_name: str
) -> tuple[dict[str, Any], ...]:
    """A Gateway with a gateway of its own, a UDPRoute to the server, and its ReferenceGrant.

    Args:
        namespace: the server's.
        gateway_namespace: that of the Gateway and the UDPRoute: a `--gateway-namespace` of the
            controller.
        class_name: the GatewayClass.
    """
    gateway = {
        **RESOURCES[API_GATEWAY].type_meta,
        "metadata": _metadata(gateway_namespace, _GATEWAY, _GATEWAY),
        "spec": {
            "gatewayClassName": class_name,
            "listeners": [{"name": "dns", "port": 5300, "protocol": "UDP"}],
        },
    }
    route = {
        **RESOURCES["UDPRoute"].type_meta,
        "metadata": _metadata(gateway_namespace, _SERVER, _SERVER),
        "spec": {
            "parentRefs": [{"name": _GATEWAY, "sectionName": "dns"}],
            "rules": [{"backendRefs": [{"name": _SERVER, "namespace": namespace, "port": 53}]}],
        },
    }
    grant = {
        **RESOURCES["ReferenceGrant"].type_meta,
        "metadata": _metadata(namespace, _SERVER, _SERVER),
        "spec": {
            "from": [{"group": GATEWAY_API, "kind": "UDPRoute", "namespace": gateway_namespace}],
            "to": [{"group": "", "kind": "Service", "name": _SERVER}],
        },
    }
    return gateway, route, grant


def one_run_tool(namespace: str, image: str | None, in_mesh: bool = False) -> dict[str, Any]:
    """A network-tool pod for one run, with a unique name; with a sidecar only if requested.

    Without a sidecar it starts faster.
    """
    name = f"{_TOOL}-{secrets.token_hex(4)}"
    return _one_run_pod(namespace, name, image, sidecar=in_mesh)


def restricted(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The same pod as the Pod Security Standard `restricted` demands it.

    Not always, because OpenShift chooses the user and refuses another one.
    """
    context = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": _NOBODY,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    containers = [{**each, "securityContext": context} for each in pod["spec"]["containers"]]
    return {**pod, "spec": {**pod["spec"], "containers": containers}}


def one_run_echo(namespace: str, image: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """A TCP server in the mesh for one run: its Pod and its Service."""
    name = f"{_ECHO}-{secrets.token_hex(4)}"
    pod = _one_run_pod(namespace, name, image, sidecar=True)
    pod["metadata"]["labels"]["app"] = name
    (container,) = pod["spec"]["containers"]
    serve = f"while true; do nc -l -p {_ECHO_PORT} || nc -l {_ECHO_PORT}; done"
    container |= {"name": _ECHO, "command": ["sh", "-c", serve]}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(namespace, name, name),
        "spec": {"selector": {"app": name}, "ports": [{"name": _ECHO, "port": _ECHO_PORT}]},
    }
    return pod, service


def istio_gateway() -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod and Service of an ingress gateway, as in Istio's own installation."""
    labels = {"app": "istio-ingressgateway", "istio": "ingressgateway"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "istio-ingressgateway-1",
            "namespace": "istio-system",
            "labels": labels,
        },
        "spec": {
            "containers": [
                {
                    "name": "istio-proxy",
                    "args": ["proxy", "router", "--domain", "$(POD_NAMESPACE).svc.cluster.local"],
                }
            ]
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "istio-ingressgateway", "namespace": "istio-system"},
        "spec": {
            "selector": labels,
            "ports": [{"name": "http2", "port": 80, "targetPort": 8080}],
        },
    }
    return pod, service


def _metadata(namespace: str, name: str, app: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": namespace,
        "labels": {"app": app, MANAGED_BY_LABEL: MANAGER},
    }


def _service(namespace: str) -> dict[str, Any]:
    metadata = _metadata(namespace, _SERVER, _SERVER)
    metadata["annotations"] = {QUERY_ANNOTATION: SAMPLE_QUERY}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "selector": {"app": _SERVER},
            "ports": [{"name": "udp-dns", "port": 53, "protocol": "UDP", "targetPort": 53}],
        },
    }


def _config(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(namespace, _SERVER, _SERVER),
        "data": {"Corefile": _COREFILE},
    }


def _deployment(namespace: str, image: str) -> dict[str, Any]:
    container = {
        "name": _SERVER,
        "image": image,
        "args": ["-conf", "/root/Corefile"],
        "volumeMounts": [{"name": "conf", "mountPath": "/root"}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(namespace, _SERVER, _SERVER),
        "spec": {
            "selector": {"matchLabels": {"app": _SERVER}},
            "template": {
                "metadata": {"labels": {"app": _SERVER}},
                "spec": {
                    "containers": [container],
                    "volumes": [{"name": "conf", "configMap": {"name": _SERVER}}],
                },
            },
        },
    }


def _one_run_pod(namespace: str, name: str, image: str | None, *, sidecar: bool) -> dict[str, Any]:
    """A pod with network tools, with limits because quotas may demand them."""
    pod = _tool_pod(namespace, name, image or TOOL_IMAGE, sidecar=sidecar)
    (container,) = pod["spec"]["containers"]
    container.pop("securityContext", None)
    container["resources"] = {
        "requests": {"cpu": "10m", "memory": "32Mi"},
        "limits": {"cpu": "1", "memory": "256Mi"},
    }
    return pod


def _tool_pod(namespace: str, name: str, image: str, *, sidecar: bool) -> dict[str, Any]:
    metadata = _metadata(namespace, name, _TOOL)
    inject = "true" if sidecar else "false"
    # Istio reads the label; releases before about 1.20 also read the annotation.
    metadata["labels"]["sidecar.istio.io/inject"] = inject
    metadata["annotations"] = {"sidecar.istio.io/inject": inject}
    container: dict[str, Any] = {
        "name": _TOOL,
        "image": image,
        # Works with any image that has a shell, and ends at once on SIGTERM.
        "command": ["/bin/sh", "-c", "trap 'exit 0' TERM INT; sleep infinity & wait"],
    }
    if sidecar:
        container["securityContext"] = {"capabilities": {"add": ["NET_ADMIN"]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 2},
    }
