"""The Gateway API's objects for exposing Services by UDP.

Field reference: https://gateway-api.sigs.k8s.io/reference/spec/. The API server validates objects
by the CRDs' schemas, so a malformed field is from another version of the API, and is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.annotation_values import PREFIX
from kubectl_istio_udp.model.apiconditions import generation_of
from kubectl_istio_udp.model.decoded import as_list, as_mapping
from kubectl_istio_udp.model.envoyfilter import GATEWAY_API_GROUP
from kubectl_istio_udp.model.mesh import REVISION_LABEL, selector_matches

Manifest = Mapping[str, Any]
Key = tuple[str, str]

GROUP = GATEWAY_API_GROUP
# This controller serves GatewayClasses with this controllerName, and their Gateways.
CONTROLLER_NAME = "kubectl-istio-udp.dev/gateway-controller"
# The GatewayClass that `controller install` creates.
GATEWAY_CLASS = "istio-udp"
# The class of Gateways for which istiod creates pods and a Service.
ISTIO_CLASS = "istio"
UDP = "UDP"
# The protocols that a Gateway of class istio serves, and the kinds of their routes.
MIRRORED_PROTOCOLS = ("HTTP", "HTTPS", "TLS", "TCP")
MIRRORED_ROUTES = ("HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute")
# The route kinds that a listener of such a Gateway supports, by protocol.
_ROUTE_KINDS = {UDP: ((GROUP, "UDPRoute"),)}


@dataclass(frozen=True)
class GatewayClass:
    """A GatewayClass.

    Attributes:
        name: its name.
        controller: spec.controllerName: the controller of its Gateways.
        generation: metadata.generation.
        parameters: whether it has a parametersRef.
    """

    name: str
    controller: str
    generation: int = 0
    parameters: bool = False

    @classmethod
    def from_object(cls, manifest: Manifest) -> GatewayClass:
        """Read a GatewayClass manifest."""
        spec = as_mapping(manifest.get("spec"))
        return cls(
            name=manifest["metadata"]["name"],
            controller=str(spec.get("controllerName") or ""),
            generation=generation_of(manifest),
            parameters=bool(spec.get("parametersRef")),
        )

    @property
    def is_ours(self) -> bool:
        """Whether it names this controller."""
        return self.controller == CONTROLLER_NAME

    @property
    def is_served(self) -> bool:
        """Whether this controller manages its Gateways.

        Not if it has the name of istiod's class: each Gateway that the controller creates of that
        class would need another one.
        """
        return self.is_ours and self.name != ISTIO_CLASS


@dataclass(frozen=True)
class Listener:
    """A listener of a Gateway.

    Attributes:
        name: unique within its Gateway.
        port: the port for clients.
        protocol: HTTP, HTTPS, TLS, TCP, UDP, or another controller's.
        namespaces: allowedRoutes.namespaces.from: Same, All, Selector or None.
        selector: the label selector of the namespaces, for Selector; None selects none, {} all.
        kinds: allowedRoutes.kinds as (group, kind); None for the protocol's default.
        raw: the listener in the manifest's form, for the Gateway that mirrors it.
    """

    name: str
    port: int
    protocol: str = UDP
    namespaces: str = "Same"
    selector: Mapping[str, Any] | None = None
    kinds: tuple[tuple[str, str], ...] | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_object(cls, entry: Manifest) -> Listener:
        """Read an entry of spec.listeners and fill in the API's defaults."""
        allowed = as_mapping(entry.get("allowedRoutes"))
        namespaces = as_mapping(allowed.get("namespaces"))
        kinds = [as_mapping(kind) for kind in as_list(allowed.get("kinds"))]
        selector = namespaces.get("selector")
        return cls(
            name=str(entry.get("name") or ""),
            port=int(entry["port"]),
            protocol=str(entry.get("protocol") or ""),
            namespaces=str(namespaces.get("from") or "Same"),
            selector=selector if isinstance(selector, Mapping) else None,
            kinds=tuple((_group(kind), str(kind.get("kind"))) for kind in kinds) or None,
            raw=entry,
        )

    @property
    def is_mirrored(self) -> bool:
        """Whether a Gateway of class istio can serve it."""
        return self.protocol in MIRRORED_PROTOCOLS

    @property
    def supported_kinds(self) -> tuple[tuple[str, str], ...]:
        """The route kinds that it supports, as (group, kind)."""
        by_protocol = _ROUTE_KINDS.get(self.protocol, ())
        if self.kinds is None:
            return by_protocol
        return tuple(dict.fromkeys(kind for kind in self.kinds if kind in by_protocol))

    @property
    def invalid_kinds(self) -> tuple[str, ...]:
        """The unsupported kinds in allowedRoutes.kinds."""
        supported = self.supported_kinds
        return tuple(kind for group, kind in self.kinds or () if (group, kind) not in supported)

    def allows_namespace(
        self, namespace: str, gateway_namespace: str, labels: Mapping[str, str] | None
    ) -> bool:
        """Whether routes in a namespace may attach.

        Args:
            namespace: the route's namespace.
            gateway_namespace: the Gateway's namespace.
            labels: the labels of the route's namespace; None if unknown.
        """
        if self.namespaces == "All":
            return True
        if self.namespaces == "Same":
            return namespace == gateway_namespace
        if self.namespaces != "Selector" or self.selector is None or labels is None:
            return False
        return selector_matches(self.selector, labels)


@dataclass(frozen=True)
class ParametersRef:
    """The object in the Gateway's namespace that spec.infrastructure.parametersRef names."""

    group: str
    kind: str
    name: str


@dataclass(frozen=True)
class _Requesting:
    """The fields that Gateways and routes have in common.

    Attributes:
        about: the reference to the object.
        generation: metadata.generation.
    """

    about: About
    generation: int

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return (self.about.namespace, self.about.name)

    def __str__(self) -> str:
        """`namespace/name`."""
        return f"{self.about.namespace}/{self.about.name}"


@dataclass(frozen=True)
class ApiGateway(_Requesting):
    """A Gateway of the Gateway API.

    Attributes:
        about: the reference to it.
        generation: metadata.generation.
        class_name: the name of its GatewayClass.
        listeners: its listeners, in the same order.
        annotations: its annotations with the plugin's prefix.
        parameters: spec.infrastructure.parametersRef; None if not set.
        labels, infrastructure, tls: its labels that istiod reads, spec.infrastructure and spec.tls,
            for the Gateway that is created for it.
        addresses: whether it requests addresses (spec.addresses).
        leaving: whether it is being deleted.
    """

    class_name: str
    listeners: tuple[Listener, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    parameters: ParametersRef | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    infrastructure: Mapping[str, Any] = field(default_factory=dict)
    tls: Mapping[str, Any] = field(default_factory=dict)
    addresses: bool = False
    leaving: bool = False

    @classmethod
    def from_object(cls, manifest: Manifest) -> ApiGateway:
        """Read a Gateway manifest."""
        spec = as_mapping(manifest.get("spec"))
        infrastructure = as_mapping(spec.get("infrastructure"))
        parameters = as_mapping(infrastructure.get("parametersRef"))
        labels = as_mapping(manifest["metadata"].get("labels"))
        return cls(
            about=About.of(manifest),
            generation=generation_of(manifest),
            class_name=str(spec.get("gatewayClassName") or ""),
            listeners=tuple(Listener.from_object(each) for each in as_list(spec.get("listeners"))),
            annotations=_plugin_annotations(manifest),
            parameters=ParametersRef(
                str(parameters.get("group") or ""),
                str(parameters.get("kind") or ""),
                str(parameters.get("name") or ""),
            )
            if parameters
            else None,
            labels={key: labels[key] for key in (REVISION_LABEL,) if key in labels},
            infrastructure={
                key: infrastructure[key]
                for key in ("labels", "annotations")
                if key in infrastructure
            },
            tls=as_mapping(spec.get("tls")),
            addresses=bool(spec.get("addresses")),
            leaving="deletionTimestamp" in manifest["metadata"],
        )

    @property
    def udp(self) -> tuple[Listener, ...]:
        """Its UDP listeners."""
        return tuple(each for each in self.listeners if each.protocol == UDP)

    @property
    def mirrored(self) -> tuple[Listener, ...]:
        """Its listeners that a Gateway of class istio can serve."""
        return tuple(each for each in self.listeners if each.is_mirrored)


@dataclass(frozen=True)
class ParentRef:
    """The parent that a route requests to attach to.

    Attributes:
        group, kind: of the parent.
        namespace, name: the parent.
        section_name: the listener; "" for any.
        port: the listener's port; None for any.
        raw: the reference in the manifest's form, for the route's status.
    """

    group: str
    kind: str
    namespace: str
    name: str
    section_name: str = ""
    port: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_object(cls, entry: Manifest, namespace: str) -> ParentRef:
        """Read an entry of spec.parentRefs; `namespace` is the route's."""
        port = entry.get("port")
        return cls(
            group=_group(entry),
            kind=str(entry.get("kind") or "Gateway"),
            namespace=str(entry.get("namespace") or namespace),
            name=str(entry.get("name") or ""),
            section_name=str(entry.get("sectionName") or ""),
            port=int(port) if port is not None else None,
            raw=entry,
        )

    def is_gateway(self, key: Key) -> bool:
        """Whether it names this Gateway."""
        return (self.group, self.kind) == (GROUP, "Gateway") and (self.namespace, self.name) == key

    def selects(self, listener: Listener) -> bool:
        """Whether it selects a listener of its Gateway: sectionName and port must both match."""
        return self.section_name in ("", listener.name) and self.port in (None, listener.port)

    @property
    def identity(self) -> tuple[str | int | None, ...]:
        """What distinguishes it from a route's other parents, whatever defaults are written out."""
        return (
            *(self.group, self.kind, self.namespace, self.name),
            *(self.section_name, self.port),
        )

    def renamed(self, name: str) -> ParentRef:
        """The same reference to another Gateway of the namespace."""
        return replace(self, name=name, raw={**self.raw, "name": name})


@dataclass(frozen=True)
class BackendRef:
    """A backend of a route.

    Attributes:
        group, kind: `""` and `Service`, or an unsupported kind.
        namespace, name: the Service.
        port: its port; None if not set.
        weight: its relative weight; 0 for no datagrams.
    """

    group: str
    kind: str
    namespace: str
    name: str
    port: int | None = None
    weight: int = 1

    @classmethod
    def from_object(cls, entry: Manifest, namespace: str) -> BackendRef:
        """Read an entry of backendRefs; `namespace` is the route's."""
        port, weight = entry.get("port"), entry.get("weight")
        kind = entry.get("kind")
        return cls(
            group=str(entry.get("group") or ""),
            kind="Service" if kind is None else str(kind),
            namespace=str(entry.get("namespace") or namespace),
            name=str(entry.get("name") or ""),
            port=int(port) if port is not None else None,
            weight=1 if weight is None else int(weight),
        )


@dataclass(frozen=True)
class Route(_Requesting):
    """A route of any kind.

    Attributes:
        parents: the requested parents.
    """

    parents: tuple[ParentRef, ...] = ()

    @classmethod
    def from_object(cls, manifest: Manifest) -> Route:
        """Read a route manifest."""
        return cls(About.of(manifest), generation_of(manifest), _parents(manifest))

    @property
    def gateways(self) -> set[Key]:
        """The parents that are Gateways."""
        named = {(parent.namespace, parent.name): parent for parent in self.parents}
        return {key for key, parent in named.items() if parent.is_gateway(key)}


@dataclass(frozen=True)
class UdpRoute(Route):
    """A UDPRoute.

    Attributes:
        backends: the backends of its first rule.
        dropped_rules: how many further rules it has. A UDPRoute of version v1 has one rule.
        annotations: its annotations with the plugin's prefix.
    """

    backends: tuple[BackendRef, ...] = ()
    dropped_rules: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_object(cls, manifest: Manifest) -> UdpRoute:
        """Read a UDPRoute manifest."""
        spec, namespace = as_mapping(manifest.get("spec")), manifest["metadata"]["namespace"]
        rules = [as_mapping(rule) for rule in as_list(spec.get("rules"))]
        backends = [
            BackendRef.from_object(as_mapping(entry), namespace)
            for rule in rules[:1]
            for entry in as_list(rule.get("backendRefs"))
        ]
        return cls(
            about=About.of(manifest),
            generation=generation_of(manifest),
            parents=_parents(manifest),
            backends=tuple(backends),
            dropped_rules=len(rules[1:]),
            annotations=_plugin_annotations(manifest),
        )


@dataclass(frozen=True)
class ReferenceGrant:
    """A ReferenceGrant: which kinds and namespaces may refer to objects in its namespace.

    Attributes:
        namespace: its namespace.
        origins: (group, kind, namespace) of each `from`.
        targets: (group, kind, name) of each `to`; the name is "" for all objects of the kind.
    """

    namespace: str
    origins: tuple[tuple[str, str, str], ...] = ()
    targets: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def from_object(cls, manifest: Manifest) -> ReferenceGrant:
        """Read a ReferenceGrant manifest."""
        spec = as_mapping(manifest.get("spec"))
        return cls(
            namespace=manifest["metadata"]["namespace"],
            origins=tuple(_texts(spec.get("from"), "group", "kind", "namespace")),
            targets=tuple(_texts(spec.get("to"), "group", "kind", "name")),
        )

    def permits(self, origin: tuple[str, str, str], backend: BackendRef) -> bool:
        """Whether routes of a kind and namespace may refer to a backend.

        Args:
            origin: (group, kind, namespace) of the route.
            backend: the referenced backend.
        """
        wanted = (backend.group, backend.kind)
        return (
            self.namespace == backend.namespace
            and origin in self.origins
            and any(
                target[:2] == wanted and target[2] in ("", backend.name) for target in self.targets
            )
        )


def _parents(manifest: Manifest) -> tuple[ParentRef, ...]:
    namespace = manifest["metadata"]["namespace"]
    refs = as_list(as_mapping(manifest.get("spec")).get("parentRefs"))
    return tuple(ParentRef.from_object(as_mapping(entry), namespace) for entry in refs)


def _texts(value: object, *names: str) -> Iterable[tuple[str, str, str]]:
    for entry in map(as_mapping, as_list(value)):
        first, second, third = (str(entry.get(name) or "") for name in names)
        yield (first, second, third)


def _group(entry: Manifest) -> str:
    """The group of a reference; "" for the core group."""
    group = entry.get("group")
    return GROUP if group is None else str(group)


def _plugin_annotations(manifest: Manifest) -> dict[str, str]:
    notes = as_mapping(manifest["metadata"].get("annotations"))
    return {key: str(text) for key, text in notes.items() if str(key).startswith(PREFIX)}
