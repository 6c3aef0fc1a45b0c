"""Manifests of the Gateway API, as the API server would hold them."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]
GROUP = "gateway.networking.k8s.io"
CREATED = "2026-01-02T03:04:05Z"
CLASS = "istio-udp"


def _about(namespace: str, name: str, created: str = CREATED, **more: Any) -> Manifest:
    usual = {"name": name, "namespace": namespace, "creationTimestamp": created, "generation": 1}
    return {**usual, "uid": f"uid-{namespace}-{name}", **more}


def gateway_class(name: str = CLASS, controller: str | None = None, **spec: Any) -> Manifest:
    ours = "kubectl-istio-udp.dev/gateway-controller"
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "GatewayClass",
        "metadata": {"name": name, "generation": 1, "uid": f"uid-{name}"},
        "spec": {"controllerName": controller or ours, **spec},
    }


def listener(
    name: str = "dns", port: int = 5300, protocol: str = "UDP", **allowed: Any
) -> Manifest:
    """A listener; `allowed` is its allowedRoutes, `from_` its namespaces.from."""
    found: Manifest = {"name": name, "port": port, "protocol": protocol}
    if "from_" in allowed:
        allowed["namespaces"] = {"from": allowed.pop("from_")}
    return {**found, **({"allowedRoutes": allowed} if allowed else {})}


def gateway(
    *listeners: Manifest,
    name: str = "udp",
    namespace: str = "team",
    class_name: str = CLASS,
    annotations: Any = None,
    created: str = CREATED,
    **spec: Any,
) -> Manifest:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Gateway",
        "metadata": _about(namespace, name, created, annotations=annotations or {}),
        "spec": {
            "gatewayClassName": class_name,
            "listeners": list(listeners) or [listener()],
            **spec,
        },
    }


def backend(name: str = "coredns", port: int | None = 53, **more: Any) -> Manifest:
    return {"name": name, **({"port": port} if port else {}), **more}


def route(
    *backends: Manifest,
    name: str = "dns",
    namespace: str = "team",
    parents: Any = None,
    created: str = CREATED,
    annotations: Any = None,
    **more: Any,
) -> Manifest:
    notes = {"annotations": annotations} if annotations else {}
    usual = [{"group": GROUP, "kind": "Gateway", "name": "udp"}]
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "UDPRoute",
        "metadata": _about(namespace, name, created, **notes),
        "spec": {
            "parentRefs": usual if parents is None else parents,
            "rules": [{"backendRefs": list(backends) or [backend()]}],
        },
        **more,
    }


def mirrored_route(kind: str = "HTTPRoute", name: str = "web", **more: Any) -> Manifest:
    """A route of another kind than UDPRoute."""
    found = route(backend("web", 8080), name=name, **more)
    return {**found, "kind": kind}


def grant(
    *targets: Manifest, namespace: str = "apps", origin: str = "team", kind: str = "UDPRoute"
) -> Manifest:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ReferenceGrant",
        "metadata": _about(namespace, "grant"),
        "spec": {
            "from": [{"group": GROUP, "kind": kind, "namespace": origin}],
            "to": list(targets) or [{"group": "", "kind": "Service"}],
        },
    }
