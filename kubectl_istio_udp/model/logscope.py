"""Which proxies an access log applies to, and the EnvoyFilters that already set its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.model.accesslog import TCP_PROXY, AccessLogSpec, LogField
from kubectl_istio_udp.model.decoded import as_mapping
from kubectl_istio_udp.model.gateway import PROXY_CONTAINER, selects
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.mesh import Mesh, Version, image_version
from kubectl_istio_udp.model.names import owner_of

_SIDES = {
    "SIDECAR_INBOUND": frozenset({"inbound"}),
    "SIDECAR_OUTBOUND": frozenset({"outbound"}),
    "GATEWAY": frozenset({"gateway"}),
}
_ALL_SIDES = frozenset({"inbound", "outbound", "gateway"})
# Both spellings that protobuf's JSON accepts.
_FIELDS = frozenset(
    {
        LogField.OPTIONS.value,
        LogField.FLUSH_INTERVAL.value,
        "accessLogOptions",
        "accessLogFlushInterval",
    }
)


@dataclass(frozen=True)
class Proxy:
    """A pod with an Istio proxy.

    Attributes:
        namespace, name: of the pod.
        labels: the pod's labels.
        istio: the proxy's Istio version; None if unknown.
    """

    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    istio: Version | None = None


def proxy_of(pod: Mapping[str, Any]) -> Proxy | None:
    """The proxy of a Pod manifest; None if the pod has no proxy or has ended.

    A sidecar may be a restartable init container (Kubernetes' native sidecars).
    """
    spec, metadata = pod.get("spec") or {}, pod["metadata"]
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return None
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    for container in containers:
        if container["name"] == PROXY_CONTAINER:
            labels = metadata.get("labels") or {}
            version = image_version(container)
            return Proxy(metadata["namespace"], metadata["name"], labels, version)
    return None


@dataclass(frozen=True)
class Setting:
    """An EnvoyFilter that sets the interval of periodic TCP access logs.

    Attributes:
        owner: the EnvoyFilter, as `namespace/name`.
        namespace: the EnvoyFilter's namespace.
        selector: the labels of its workloadSelector; empty for all pods.
        sides: the ones of inbound, outbound and gateway that it applies to.
        access_log: (namespace, name) of the access log it belongs to; None if it belongs to none.
    """

    owner: str
    namespace: str
    selector: Mapping[str, str] = field(default_factory=dict)
    sides: frozenset[str] = _ALL_SIDES
    access_log: tuple[str, str] | None = None

    @classmethod
    def from_object(cls, envoy_filter: Mapping[str, Any]) -> Setting | None:
        """Read an EnvoyFilter manifest; None if it does not set the interval."""
        metadata, spec = envoy_filter["metadata"], envoy_filter.get("spec") or {}
        sides: frozenset[str] = frozenset()
        for patch in spec.get("configPatches") or ():
            if patch.get("applyTo") == "NETWORK_FILTER" and _sets_interval(patch):
                context = (patch.get("match") or {}).get("context", "ANY")
                sides |= _SIDES.get(context, _ALL_SIDES)
        if not sides:
            return None
        owner = owner_of(metadata.get("labels") or {})
        return cls(
            owner=f"{metadata['namespace']}/{metadata['name']}",
            namespace=metadata["namespace"],
            selector=(spec.get("workloadSelector") or {}).get("labels") or {},
            sides=sides,
            access_log=owner[1:] if owner and owner[0] is Kind.ACCESS_LOG else None,
        )

    def overlaps(self, other: Setting, root_namespace: str) -> bool:
        """Whether both may apply to some proxy, now or later."""
        places = {self.namespace, other.namespace}
        apart = len(places) == 2 and root_namespace not in places
        shared = set(self.selector) & set(other.selector)
        exclusive = any(self.selector[key] != other.selector[key] for key in shared)
        return not apart and not exclusive and bool(self.sides & other.sides)


def _sets_interval(patch: Mapping[str, Any]) -> bool:
    value = as_mapping(as_mapping(patch.get("patch")).get("value"))
    config = as_mapping(value.get("typed_config", value.get("typedConfig")))
    return value.get("name") == TCP_PROXY and bool(_FIELDS & set(config))


@dataclass(frozen=True)
class AccessLogSnapshot:
    """The state of the cluster for planning one access log.

    Attributes:
        mesh: the mesh's settings and version.
        telemetry_logs: whether a Telemetry that may apply enables access logging.
        settings: the EnvoyFilters in any namespace that set the interval.
        proxies: the pods with a proxy in the selected namespaces.
        objects: manifests of existing objects with the names that this access log would use.
        present: the existing access log with this name; None if there is none.
    """

    mesh: Mesh
    telemetry_logs: bool = False
    settings: tuple[Setting, ...] = ()
    proxies: tuple[Proxy, ...] = ()
    objects: tuple[Mapping[str, Any], ...] = ()
    present: AccessLogSpec | None = None

    def reached(self, spec: AccessLogSpec) -> tuple[Proxy, ...]:
        """The proxies that an access log applies to."""
        everywhere = spec.namespace == self.mesh.root_namespace
        return tuple(
            proxy
            for proxy in self.proxies
            if (everywhere or proxy.namespace == spec.namespace)
            and selects(spec.selector, proxy.labels)
        )
