"""The manifests of the controller, with the minimal permissions that it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp import __version__
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.gatewayapi import CONTROLLER_NAME, GATEWAY_CLASS, MIRRORED_ROUTES
from kubectl_istio_udp.model.resources import API_GATEWAY, RESOURCES

Manifest = dict[str, Any]

NAME = names.CONTROLLER
# The Lease of its leader election; controller/run.py uses the same name.
LEASE = NAME
DEFAULT_IMAGE = f"kubectl-istio-udp/controller:{__version__}"
LABELS = {names.MANAGED_BY_LABEL: names.MANAGER, "app.kubernetes.io/name": NAME}
SELECTOR = ",".join(f"{key}={value}" for key, value in LABELS.items())
_PODS = {"app.kubernetes.io/name": NAME}
_PORT = 8080
# The ports of API servers behind their Service's port 443; NetworkPolicies apply to these.
_API_PORTS = (443, 6443)
_USER = 65532


@dataclass(frozen=True)
class Installation:
    """The settings of an installation.

    Attributes:
        namespace: the namespace of the controller.
        image: its image.
        replicas: the number of replicas; one leads.
        gateway_namespaces, root_namespaces, file_limit, allow_all, gateway_api: as in
            `controller run`.
        mesh_configs: (namespace, name) of each `--mesh-config`.
        defaults: name and value of each `--namespace-default`.
        api_ports: the ports of the API server.
    """

    namespace: str
    image: str
    gateway_namespaces: tuple[str, ...]
    root_namespaces: tuple[str, ...]
    file_limit: int
    allow_all: bool = False
    defaults: tuple[tuple[str, str], ...] = ()
    mesh_configs: tuple[tuple[str, str], ...] = ()
    gateway_api: bool = False
    replicas: int = 2
    api_ports: tuple[int, ...] = _API_PORTS


def controller(wanted: Installation) -> tuple[Manifest, ...]:
    """All manifests in writing order."""
    return (
        _service_account(wanted),
        *_rights_everywhere(wanted),
        *_rights_in(wanted, wanted.namespace, _OWN_RULES),
        *(
            manifest
            for namespace in sorted(set(wanted.gateway_namespaces))
            for manifest in _rights_in(wanted, namespace, _gateway_rules(wanted), "-gateway")
        ),
        *_rights_in_root(wanted),
        *_rights_in_control_planes(wanted),
        _network_policy(wanted),
        _disruption_budget(wanted),
        _deployment(wanted),
        *((_gateway_class(),) if wanted.gateway_api else ()),
    )


def _object(kind: str, namespace: str | None, name: str = NAME) -> Manifest:
    metadata: Manifest = {"name": name, "labels": dict(LABELS)}
    if namespace:
        metadata["namespace"] = namespace
    return {**RESOURCES[kind].type_meta, "metadata": metadata}


def _service_account(wanted: Installation) -> Manifest:
    return _object("ServiceAccount", wanted.namespace)


def _rule(kinds: Sequence[str], *verbs: str, subresource: str = "", **more: list[str]) -> Manifest:
    """A rule for kinds of one API group, or for a subresource of them."""
    resources = [RESOURCES[kind] for kind in kinds]
    suffix = f"/{subresource}" if subresource else ""
    return {
        "apiGroups": sorted({resource.group for resource in resources}),
        "resources": [resource.plural + suffix for resource in resources],
        "verbs": list(verbs),
        **more,
    }


# Every namespace may have requests, so these are read, and ServiceEntries written, in all of them.
_RULES = [
    _rule(["Namespace", "Service", "Pod"], "list", "watch"),
    _rule(["EndpointSlice"], "list", "watch"),
    _rule(
        ["ServiceEntry"],
        *("list", "watch", "create", "patch", "delete"),
    ),
    # Repeating an Event updates the same object (server-side apply).
    _rule(["Event"], "create", "patch"),
]
_GATEWAY_RULES = [
    _rule(["Service"], "create", "patch", "delete"),
    _rule(
        ["EnvoyFilter"],
        *("list", "watch", "create", "patch", "delete"),
    ),
]
# The Gateway API objects that it serves, and the statuses that it writes.
_ROUTE_RULES = [
    _rule(["GatewayClass", API_GATEWAY, "UDPRoute", "ReferenceGrant"], "list", "watch"),
    _rule(["GatewayClass", API_GATEWAY, "UDPRoute"], "patch", subresource="status"),
    # Copies of routes are in the namespaces of the originals, so that ReferenceGrants apply.
    _rule(MIRRORED_ROUTES, "list", "watch", "create", "patch", "delete"),
    _rule(MIRRORED_ROUTES, "patch", subresource="status"),
]
# To query listeners from gateways' Envoys: `get` until Kubernetes 1.34, `create` from 1.35.
_ENVOY_RULE = _rule(["Pod"], "get", "create", subresource="portforward")
# The Gateways of class istio that it creates.
_CHILD_RULE = _rule([API_GATEWAY], "create", "patch", "delete")
_ROOT_RULES = [_rule(["EnvoyFilter"], "list", "watch")]
_OWN_RULES = [
    _rule(
        ["Lease"],
        *("get", "list", "watch", "update"),
        resourceNames=[LEASE],
    ),
    # RBAC cannot restrict `create` by name.
    _rule(["Lease"], "create"),
]


def _rights_everywhere(wanted: Installation) -> tuple[Manifest, Manifest]:
    rules = [*_RULES, *(_ROUTE_RULES if wanted.gateway_api else ())]
    role = {**_object("ClusterRole", None), "rules": rules}
    binding = _object("ClusterRoleBinding", None)
    return role, {**binding, **_bound("ClusterRole", NAME, wanted)}


def _rights_in(
    wanted: Installation, namespace: str, rules: list[Manifest], suffix: str = ""
) -> tuple[Manifest, Manifest]:
    name = NAME + suffix
    role = {**_object("Role", namespace, name), "rules": rules}
    binding = _object("RoleBinding", namespace, name)
    return role, {**binding, **_bound("Role", name, wanted)}


def _gateway_rules(wanted: Installation) -> list[Manifest]:
    return [*_GATEWAY_RULES, *([_ENVOY_RULE, _CHILD_RULE] if wanted.gateway_api else ())]


def _gateway_class() -> Manifest:
    """The GatewayClass that the controller serves."""
    return {
        **_object("GatewayClass", None, GATEWAY_CLASS),
        "spec": {"controllerName": CONTROLLER_NAME},
    }


def _rights_in_root(wanted: Installation) -> Iterator[Manifest]:
    for namespace in sorted({*wanted.root_namespaces} - {*wanted.gateway_namespaces}):
        yield from _rights_in(wanted, namespace, _ROOT_RULES, "-root")


def _rights_in_control_planes(wanted: Installation) -> Iterator[Manifest]:
    """Permission to read the ConfigMaps with the meshes' settings, by name."""
    for namespace in sorted({namespace for namespace, _ in wanted.mesh_configs}):
        found = sorted(name for place, name in wanted.mesh_configs if place == namespace)
        rules = [_rule(["ConfigMap"], "list", "watch", resourceNames=found)]
        yield from _rights_in(wanted, namespace, rules, "-mesh")


def _bound(kind: str, name: str, wanted: Installation) -> Manifest:
    return {
        "roleRef": {"apiGroup": RESOURCES[kind].group, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": wanted.namespace}],
    }


def _network_policy(wanted: Installation) -> Manifest:
    """Only health and metrics accept connections; only the API server may be connected to."""
    return {
        **_object("NetworkPolicy", wanted.namespace),
        "spec": {
            "podSelector": {"matchLabels": _PODS},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [{"port": _PORT, "protocol": "TCP"}]}],
            "egress": [{"ports": [{"port": port, "protocol": "TCP"} for port in wanted.api_ports]}],
        },
    }


def _disruption_budget(wanted: Installation) -> Manifest:
    return {
        **_object("PodDisruptionBudget", wanted.namespace),
        "spec": {"minAvailable": 1, "selector": {"matchLabels": _PODS}},
    }


def _deployment(wanted: Installation) -> Manifest:
    return {
        **_object("Deployment", wanted.namespace),
        "spec": {
            "replicas": wanted.replicas,
            "selector": {"matchLabels": _PODS},
            "template": {
                "metadata": {
                    # A sidecar would only be in the way to the API server.
                    "labels": {**LABELS, "sidecar.istio.io/inject": "false"},
                    "annotations": {
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": str(_PORT),
                        "prometheus.io/path": "/metrics",
                    },
                },
                "spec": {
                    "serviceAccountName": NAME,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": _USER,
                        "runAsGroup": _USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "terminationGracePeriodSeconds": 30,
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {"matchLabels": _PODS},
                        }
                    ],
                    "containers": [_container(wanted)],
                },
            },
        },
    }


def _container(wanted: Installation) -> Manifest:
    arguments = ["controller", "run", f"--namespace={wanted.namespace}"]
    arguments += [f"--gateway-namespace={name}" for name in wanted.gateway_namespaces]
    arguments += [f"--root-namespace={name}" for name in wanted.root_namespaces]
    arguments += [f"--file-limit={wanted.file_limit}"]
    arguments += [f"--mesh-config={namespace}/{name}" for namespace, name in wanted.mesh_configs]
    arguments += [f"--namespace-default={name}={value}" for name, value in wanted.defaults]
    arguments += [f"--port={_PORT}", *(["--allow-all"] if wanted.allow_all else [])]
    arguments += ["--gateway-api"] if wanted.gateway_api else []
    return {
        "name": "controller",
        "image": wanted.image,
        "args": arguments,
        "ports": [{"name": "http", "containerPort": _PORT, "protocol": "TCP"}],
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": _PORT},
            "periodSeconds": 10,
            "failureThreshold": 3,
            "timeoutSeconds": 5,
        },
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": _PORT},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
        },
        "resources": {
            "requests": {"cpu": "50m", "memory": "96Mi"},
            "limits": {"memory": "256Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
