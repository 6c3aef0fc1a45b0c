"""What a mesh is set to: its root namespace, its access log, what its control plane reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Version = tuple[int, int]

DEFAULT_ROOT_NAMESPACE = "istio-system"
ISTIOD_CONTAINER = "discovery"
REVISION_LABEL = "istio.io/rev"
_DEFAULT_REVISION = "default"
_STATUS_ANNOTATION = "sidecar.istio.io/status"
_VERSION = re.compile(r"^v?(\d+)\.(\d+)")
# istiod's Service is istiod, or istiod-REVISION (its Helm chart, templates/service.yaml).
_ISTIOD_HOST = re.compile(r"istiod(?:-(?P<revision>[a-z0-9-]+))?\.(?P<namespace>[a-z0-9-]+)\.svc\b")
# What goes for a boolean in istiod's environment (Go's strconv.ParseBool).
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
# The first Istio that tells a gateway with filtered clusters of endpoints that change (measured:
# 1.30.4 does not, 1.31.0 does).
_FIRST_TO_TELL_CHANGES = (1, 31)


def parse_version(text: str) -> Version | None:
    """(1, 31) of `1.31.0-distroless`, `v1.31` and the like; None of anything else."""
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2])) if found else None


def image_tag(container: Mapping[str, Any]) -> str:
    """The tag of a container's image; "" where it has none."""
    tagged = str(container.get("image", "")).partition("@")[0]
    return tagged.rpartition(":")[2] if ":" in tagged.rpartition("/")[2] else ""


def image_version(container: Mapping[str, Any]) -> Version | None:
    """The Istio version that a container's image tag tells; None where it has none."""
    return parse_version(image_tag(container))


def oldest(versions: Iterable[Version | None]) -> Version | None:
    """The oldest of the versions that are known, None where none is."""
    return min((version for version in versions if version), default=None)


def show_version(version: Version | None) -> str:
    """`1.31`, or `unknown`."""
    return f"{version[0]}.{version[1]}" if version else "unknown"


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables of a container whose values its manifest says."""
    pairs = ((v["name"], v.get("value")) for v in container.get("env") or ())
    return {name: value for name, value in pairs if isinstance(value, str) and "$(" not in value}


@dataclass(frozen=True)
class ControlPlane:
    """The istiod that configures a gateway.

    Attributes:
        namespace: where it runs; "" where it is outside of the cluster.
        revision: its revision, "" for the default one.
        address: where its proxies find it, as far as they tell.
    """

    namespace: str = DEFAULT_ROOT_NAMESPACE
    revision: str = ""
    address: str = field(default="", compare=False)

    @property
    def config_name(self) -> str:
        """The ConfigMap with its mesh configuration (istiod's getMeshConfigMapName)."""
        return f"istio-{self.revision}" if self.revision else "istio"

    @classmethod
    def of_proxy(cls, metadata: Mapping[str, Any], container: Mapping[str, Any]) -> ControlPlane:
        """The control plane of a pod's proxy.

        The addresses that istiod's injection templates give a proxy say where its istiod is and
        of which revision; the annotations and labels of older ones say the revision alone.

        Args:
            metadata: the pod's metadata.
            container: its container istio-proxy.
        """
        variables = environment(container)
        config = _decoded(variables.get("PROXY_CONFIG", ""))
        addresses = [str(config.get("discoveryAddress") or ""), variables.get("CA_ADDR", "")]
        for address in filter(None, addresses):
            found = _ISTIOD_HOST.match(address)
            if found:
                return cls(found["namespace"], _revision(found["revision"]), address)
        if addresses[0]:
            return cls("", address=addresses[0])
        notes, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
        status = _decoded(notes.get(_STATUS_ANNOTATION, ""))
        found_revision = (
            status.get("revision") or notes.get(REVISION_LABEL) or labels.get(REVISION_LABEL)
        )
        return cls(revision=_revision(found_revision))

    def __str__(self) -> str:
        """How messages name it."""
        if not self.namespace:
            return self.address or "outside of the cluster"
        return f"istiod{'-' + self.revision if self.revision else ''}.{self.namespace}"


DEFAULT_CONTROL_PLANE = ControlPlane()


def _revision(name: Any) -> str:
    return str(name) if name and name != _DEFAULT_REVISION else ""


def _decoded(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Mesh:
    """The mesh's own settings (meshConfig) and its control plane.

    Attributes:
        root_namespace: where an EnvoyFilter reaches every proxy.
        writes_access_log: whether meshConfig makes proxies write a log (accessLogFile, or a
            default provider for it).
        istio: the version of the oldest istiod, None where no image tag tells.
        control_plane: which istiod it is about.
        assumed: whether the settings could not be read, so that these are Istio's defaults.
        discovery_selectors: the label selectors of the namespaces that istiod reads; empty for all.
        service_export_to: the namespaces that see a Service that does not say (meshConfig's
            defaultServiceExportTo); empty for all.
        selects_pods: whether a ServiceEntry's workloadSelector selects pods.
        selectors_for_gateway_api: whether a workloadSelector selects Gateway API gateways.
        filters_gateway_clusters: whether gateways are told only of the Services they route to.
    """

    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    writes_access_log: bool = False
    istio: Version | None = None
    control_plane: ControlPlane = DEFAULT_CONTROL_PLANE
    assumed: bool = False
    discovery_selectors: tuple[Mapping[str, Any], ...] = ()
    service_export_to: tuple[str, ...] = ()
    selects_pods: bool = True
    selectors_for_gateway_api: bool = True
    filters_gateway_clusters: bool = False

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | None,
        istio: Version | None = None,
        control_plane: ControlPlane = DEFAULT_CONTROL_PLANE,
        variables: Mapping[str, str] | None = None,
    ) -> Mesh:
        """Read a decoded meshConfig.

        Args:
            config: the meshConfig; None where it could not be read.
            istio: the version of the oldest istiod.
            control_plane: which istiod it is.
            variables: istiod's environment, as far as it is known.
        """
        known, variables = config or {}, variables or {}
        providers = (known.get("defaultProviders") or {}).get("accessLogging")
        # Istio's Helm chart writes istiod's own namespace where its values name none.
        usual = control_plane.namespace or DEFAULT_ROOT_NAMESPACE
        return cls(
            root_namespace=str(known.get("rootNamespace") or usual),
            writes_access_log=bool(known.get("accessLogFile") or providers),
            istio=istio,
            control_plane=control_plane,
            assumed=config is None,
            discovery_selectors=_mappings(known.get("discoverySelectors")),
            service_export_to=_texts(known.get("defaultServiceExportTo")),
            selects_pods=variables.get("PILOT_ENABLE_SERVICEENTRY_SELECT_PODS") not in _FALSE,
            filters_gateway_clusters=variables.get("PILOT_FILTER_GATEWAY_CLUSTER_CONFIG") in _TRUE,
            selectors_for_gateway_api=(
                variables.get("ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY") not in _FALSE
            ),
        )

    @property
    def hides_changes(self) -> bool:
        """Whether a gateway is not told of endpoints that change behind an exposure."""
        return self.filters_gateway_clusters and (self.istio or (0, 0)) < _FIRST_TO_TELL_CHANGES

    def reads_namespace(self, labels: Mapping[str, str]) -> bool:
        """Whether istiod reads the objects of a namespace with these labels.

        Any one selector suffices (istiod's pkg/kube/namespace/filter.go); the label
        kubernetes.io/metadata.name is the API server's own.
        """
        return not self.discovery_selectors or any(
            selector_matches(selector, labels) for selector in self.discovery_selectors
        )


DEFAULT_MESH = Mesh()


def selector_matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels and matchExpressions) selects labels."""
    pairs = (selector.get("matchLabels") or {}).items()
    return all(labels.get(key) == value for key, value in pairs) and all(
        _expression_matches(expression, labels)
        for expression in selector.get("matchExpressions") or ()
    )


def _expression_matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression.get("key", ""), expression.get("values") or ()
    operator = expression.get("operator")
    if operator == "In":
        return labels.get(key) in values
    if operator == "NotIn":
        return labels.get(key) not in values
    return (key in labels) is (operator == "Exists")


def _mappings(value: Any) -> tuple[Mapping[str, Any], ...]:
    found = value if isinstance(value, list) else ()
    return tuple(each for each in found if isinstance(each, Mapping))


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
