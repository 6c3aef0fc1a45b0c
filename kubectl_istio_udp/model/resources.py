"""The kinds of objects that the plugin reads or writes, and their paths in the API.

This is the one table for requests, manifests, output, RBAC rules and the API server of the tests.
A new kind needs one new line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from kubectl_istio_udp.model.errors import UsageError


@dataclass(frozen=True)
class Resource:
    """A kind of object in the Kubernetes API.

    Attributes:
        kind: e.g. `EnvoyFilter`.
        plural: its name in paths and RBAC rules, e.g. `envoyfilters`.
        group: the API group; "" for the core group.
        versions: the API versions that the plugin supports, best first. A cluster may serve only a
            later one: older Istio versions have no `networking.istio.io/v1`.
        namespaced: False for cluster-scoped kinds.
        key: its key in RESOURCES and in requests; the kind, unless two groups have that kind.
    """

    kind: str
    plural: str
    group: str = ""
    versions: tuple[str, ...] = ("v1",)
    namespaced: bool = True
    key: str = ""

    def __post_init__(self) -> None:
        """Use the kind as the key, unless another one is given."""
        if not self.key:
            object.__setattr__(self, "key", self.kind)

    @property
    def api_version(self) -> str:
        """The apiVersion in manifests: `networking.istio.io/v1`."""
        return self.api_versions[0]

    @property
    def api_versions(self) -> tuple[str, ...]:
        """The apiVersions that the plugin supports, best first."""
        return tuple("/".join(filter(None, [self.group, version])) for version in self.versions)

    @property
    def type_meta(self) -> dict[str, str]:
        """The apiVersion and kind of a manifest."""
        return {"apiVersion": self.api_version, "kind": self.kind}

    @property
    def qualified(self) -> str:
        """The plural with its group, in kubectl's format: `envoyfilters.networking.istio.io`."""
        return ".".join(filter(None, [self.plural, self.group]))

    @property
    def singular(self) -> str:
        """The kind with its group, as kubectl prints it: `envoyfilter.networking.istio.io`."""
        return ".".join(filter(None, [self.kind.lower(), self.group]))

    def path(
        self, api_version: str, namespace: str | None, name: str = "", subresource: str = ""
    ) -> str:
        """The path of an object or of a list.

        Args:
            api_version: one of `api_versions`.
            namespace: None for all namespaces and for cluster-scoped kinds.
            name: "" for a list.
            subresource: e.g. `log`; "" for the object itself.

        Raises:
            UsageError: a name would lead to another path (`.` or `..`).
        """
        root = f"apis/{api_version}" if self.group else f"api/{api_version}"
        where = ["namespaces", _segment(namespace)] if namespace else []
        parts = [*where, self.plural, _segment(name), _segment(subresource)]
        return "/".join(filter(None, ["/" + root, *parts]))


def _segment(text: str) -> str:
    """Escape one segment of a path; names may contain any characters.

    `.` and `..` are rejected: escaping does not change them, and clients and servers resolve them.
    """
    if text in (".", ".."):
        raise UsageError(f"{text!r} is not a valid Kubernetes name")
    return quote(text, safe="")


_ISTIO = "networking.istio.io"
GATEWAY_API = "gateway.networking.k8s.io"
_RBAC = "rbac.authorization.k8s.io"
# The key of the Gateway API's Gateway in RESOURCES, because Istio has a kind of that name too.
API_GATEWAY = f"Gateway.{GATEWAY_API}"
RESOURCES: dict[str, Resource] = {
    resource.key: resource
    for resource in (
        Resource("Namespace", "namespaces", namespaced=False),
        Resource("Service", "services"),
        Resource("Pod", "pods"),
        Resource("ConfigMap", "configmaps"),
        Resource("Event", "events"),
        Resource("ServiceAccount", "serviceaccounts"),
        Resource("Deployment", "deployments", "apps"),
        Resource("DaemonSet", "daemonsets", "apps"),
        Resource("EndpointSlice", "endpointslices", "discovery.k8s.io"),
        Resource("Lease", "leases", "coordination.k8s.io"),
        Resource("NetworkPolicy", "networkpolicies", "networking.k8s.io"),
        Resource("PodDisruptionBudget", "poddisruptionbudgets", "policy"),
        Resource("Role", "roles", _RBAC),
        Resource("RoleBinding", "rolebindings", _RBAC),
        Resource("ClusterRole", "clusterroles", _RBAC, namespaced=False),
        Resource("ClusterRoleBinding", "clusterrolebindings", _RBAC, namespaced=False),
        Resource("EnvoyFilter", "envoyfilters", _ISTIO, ("v1alpha3",)),
        # `v1` from Istio 1.22 on.
        Resource("ServiceEntry", "serviceentries", _ISTIO, ("v1", "v1beta1", "v1alpha3")),
        Resource("WorkloadEntry", "workloadentries", _ISTIO, ("v1", "v1beta1", "v1alpha3")),
        Resource("VirtualService", "virtualservices", _ISTIO, ("v1beta1", "v1", "v1alpha3")),
        Resource("Gateway", "gateways", _ISTIO, ("v1beta1", "v1", "v1alpha3")),
        Resource("Telemetry", "telemetries", "telemetry.istio.io", ("v1alpha1", "v1")),
        Resource("GatewayClass", "gatewayclasses", GATEWAY_API, namespaced=False),
        Resource("Gateway", "gateways", GATEWAY_API, key=API_GATEWAY),
        Resource("HTTPRoute", "httproutes", GATEWAY_API),
        Resource("GRPCRoute", "grpcroutes", GATEWAY_API),
        # `v1` from Gateway API 1.5 on (TCPRoute: 1.6). istiod only reads the version that its
        # release was built for.
        Resource("TLSRoute", "tlsroutes", GATEWAY_API, ("v1", "v1alpha3", "v1alpha2")),
        Resource("TCPRoute", "tcproutes", GATEWAY_API, ("v1", "v1alpha2")),
        # `v1` from Gateway API 1.6 on, `v1alpha2` in the experimental channel of older releases.
        Resource("UDPRoute", "udproutes", GATEWAY_API, ("v1", "v1alpha2")),
        Resource("ReferenceGrant", "referencegrants", GATEWAY_API, ("v1", "v1beta1")),
    )
}


def resource_key(manifest: Mapping[str, Any]) -> str:
    """The key in RESOURCES of a manifest's kind."""
    group = str(manifest.get("apiVersion", "")).rpartition("/")[0]
    qualified = f"{manifest['kind']}.{group}"
    return qualified if qualified in RESOURCES else str(manifest["kind"])
