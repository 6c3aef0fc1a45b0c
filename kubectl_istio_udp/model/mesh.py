"""The settings of a mesh: root namespace, access log, and what its control plane reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
# Booleans in istiod's environment (Go's strconv.ParseBool).
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
# The first Istio that informs gateways with filtered clusters about changed endpoints (measured:
# 1.30.4 does not, 1.31.0 does).
_FIRST_TO_TELL_CHANGES = (1, 31)


def parse_version(text: str) -> Version | None:
    """(1, 31) for `1.31.0-distroless`, `v1.31` and similar; None for other text."""
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2])) if found else None


def image_tag(container: Mapping[str, Any]) -> str:
    """The tag of a container's image; "" if it has none."""
    tagged = str(container.get("image", "")).partition("@")[0]
    return tagged.rpartition(":")[2] if ":" in tagged.rpartition("/")[2] else ""


def image_version(container: Mapping[str, Any]) -> Version | None:
    """The Istio version in a container's image tag; None if the tag is not a version."""
    return parse_version(image_tag(container))


def oldest(versions: Iterable[Version | None]) -> Version | None:
    """The oldest of the known versions; None if none is known."""
    return min((version for version in versions if version), default=None)


def show_version(version: Version | None) -> str:
    """`1.31`, or `unknown`."""
    return f"{version[0]}.{version[1]}" if version else "unknown"


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables of a container that have literal values in its manifest."""
    pairs = ((v["name"], v.get("value")) for v in container.get("env") or ())
    return {name: value for name, value in pairs if isinstance(value, str) and "$(" not in value}


@dataclass(frozen=True)
class ControlPlane:
    """The istiod that configures a gateway.

    Attributes:
        namespace: its namespace; "" if it runs outside the cluster.
        revision: its revision; "" for the default one.
        address: the address that its proxies connect to, if known.
    """

    namespace: str = DEFAULT_ROOT_NAMESPACE
    revision: str = ""
    address: str = field(default="", compare=False)

    @property
    def config_name(self) -> str:
        """The ConfigMap with the mesh configuration (istiod's getMeshConfigMapName)."""
        return f"istio-{self.revision}" if self.revision else "istio"

    @classmethod
    def of_proxy(cls, metadata: Mapping[str, Any], container: Mapping[str, Any]) -> ControlPlane:
        """The control plane of a pod's proxy.

        istiod's injection templates give a proxy addresses with istiod's namespace and revision;
        older pods only have the revision, in annotations and labels.

        Args:
            metadata: the pod's metadata.
            container: its container `istio-proxy`.
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
        """The text for messages."""
        if not self.namespace:
            return self.address or "outside the cluster"
        return f"istiod{'-' + self.revision if self.revision else ''}.{self.namespace}"


DEFAULT_CONTROL_PLANE = ControlPlane()


def _revision(name: Any) -> str:
    return str(name) if name and name != _DEFAULT_REVISION else ""


def _decoded(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Mesh:
    """The settings of the mesh (meshConfig) and of its control plane.

    Attributes:
        root_namespace: the namespace whose EnvoyFilters apply to every proxy.
        writes_access_log: whether meshConfig enables an access log (accessLogFile, or a default
            provider).
        istio: the version of the oldest istiod; None if unknown.
        control_plane: the istiod.
        assumed: whether the settings could not be read, so these are Istio's defaults.
        discovery_selectors: the label selectors of the namespaces that istiod reads; empty for all.
        service_export_to: the namespaces that see a Service without its own setting (meshConfig's
            defaultServiceExportTo); empty for all.
        selects_pods: whether a ServiceEntry's workloadSelector selects pods.
        selectors_for_gateway_api: whether a workloadSelector selects Gateway API gateways.
        filters_gateway_clusters: whether gateways only get clusters of Services they route to.
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
            config: the meshConfig; None if it could not be read.
            istio: the version of the oldest istiod.
            control_plane: the istiod.
            variables: istiod's environment variables, if known.
        """
        known, variables = config or {}, variables or {}
        providers = (known.get("defaultProviders") or {}).get("accessLogging")
        # Istio's Helm chart uses istiod's own namespace if its values set no root namespace.
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

    def with_root_namespace(self, root_namespace: str | None) -> Mesh:
        """The settings with a root namespace named by the user, because they cannot be read."""
        if not self.assumed or not root_namespace:
            return self
        return replace(self, root_namespace=root_namespace, assumed=False)

    @property
    def hides_changes(self) -> bool:
        """Whether gateways are not informed when an exposure's endpoints change."""
        return self.filters_gateway_clusters and (self.istio or (0, 0)) < _FIRST_TO_TELL_CHANGES

    def reads_namespace(self, labels: Mapping[str, str]) -> bool:
        """Whether istiod reads the objects of a namespace with these labels.

        One matching selector suffices (istiod's pkg/kube/namespace/filter.go). The API server sets
        the label kubernetes.io/metadata.name.
        """
        return not self.discovery_selectors or any(
            selector_matches(selector, labels) for selector in self.discovery_selectors
        )


DEFAULT_MESH = Mesh()


def selector_matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels and matchExpressions) matches labels."""
    pairs = (selector.get("matchLabels") or {}).items()
    return all(labels.get(key) == value for key, value in pairs) and all(
        _expression_matches(expression, labels)
        for expression in selector.get("matchExpressions") or ()
    )


def _expression_matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression.get("key", ""), expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return bool(values) and labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    # The API server would not accept it in its own objects (LabelSelectorAsSelector).
    return False


def _mappings(value: Any) -> tuple[Mapping[str, Any], ...]:
    found = value if isinstance(value, list) else ()
    return tuple(each for each in found if isinstance(each, Mapping))


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
