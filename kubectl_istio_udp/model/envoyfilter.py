"""What other EnvoyFilters add to a gateway, by istiod's own rules.

The rules come from istiod's sources, release 1.31. Which filters a proxy gets, and in which form:
pilot/pkg/model/envoyfilter.go (convertToEnvoyFilterWrapper, proxyMatch), push_context.go
(EnvoyFilters, getMatchedEnvoyFilters) and policyattachment.go (ShouldAttachPolicy). What a patch
does: pilot/pkg/networking/core/envoyfilter/listener_patch.go (patchListeners) and
cluster_patch.go (InsertedClusters).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.model.decoded import as_list, as_mapping
from kubectl_istio_udp.model.gateway import (
    GATEWAY_API_LABEL,
    Gateway,
    GatewayPod,
    compatible,
    selects,
)
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.mesh import DEFAULT_ROOT_NAMESPACE, Mesh, Version, show_version
from kubectl_istio_udp.model.names import MANAGER, owner_of
from kubectl_istio_udp.model.service import IPV4, IPV6

# The first Istio that supports targetRefs in EnvoyFilters (its release notes).
FIRST_TARGET_REFS: Version = (1, 27)
GATEWAY_API_GROUP = "gateway.networking.k8s.io"
# For LISTENER and CLUSTER istiod treats all of these as ADD (convertToEnvoyFilterWrapper).
ADDING = ("ADD", "INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER")
_MERGING = ("MERGE", "MERGE_AND_REPLACE_LIST")
# An ADD without a context applies to gateways and to the outbound side of sidecars.
_GATEWAY_CONTEXTS = (None, "", "ANY", "GATEWAY", 0, 3)
# In protobuf's JSON an enum is a name or a number, and a number may be a string.
_UDP = ("UDP", 1)
# Sample versions of all existing releases and some future ones.
_SAMPLE_VERSIONS = tuple(f"1.{minor}.{patch}" for minor in range(10, 60) for patch in (0, 1, 5))
# Syntax of Go's regular expressions that Python lacks or interprets differently.
_GO_ONLY = re.compile(r"\[\[:|\\[QEzpPC]|\(\?[a-zA-Z]*U")
# istiod treats longer expressions as matching no version (maxProxyVersionLen).
_LONGEST_VERSION_MATCH = 1024


@dataclass(frozen=True)
class Attachment:
    """Whether istiod attaches an EnvoyFilter or a patch to a proxy.

    Attributes:
        possible: whether it may attach.
        doubt: why that is uncertain; "" if it is certain.
    """

    possible: bool
    doubt: str = ""

    @property
    def certain(self) -> bool:
        """Whether it attaches for certain."""
        return self.possible and not self.doubt

    def __and__(self, other: Attachment) -> Attachment:
        """The conjunction of two conditions."""
        if not (self.possible and other.possible):
            return Attachment(False)
        return Attachment(True, " and ".join(filter(None, (self.doubt, other.doubt))))


ATTACHES, IGNORED = Attachment(True), Attachment(False)
# The doubt about an EnvoyFilter of another namespace, which may be the root namespace.
ROOT_UNKNOWN = "the mesh's root namespace is not known"


def _any(several: Iterable[Attachment]) -> Attachment:
    """The disjunction: the most certain of several; IGNORED if there are none."""
    return max(several, key=lambda a: (a.possible, not a.doubt), default=IGNORED)


@dataclass(frozen=True)
class Footprint:
    """The listeners and clusters that one EnvoyFilter adds.

    Attributes:
        owner: the EnvoyFilter, as `namespace/name`.
        listeners: names of the listeners it adds.
        clusters: names of the clusters it adds.
        udp_ports: the UDP ports that its listeners bind.
        exposure: (namespace, name) of the exposure it belongs to; None if it belongs to none.
        doubt: why it is uncertain that the gateway gets these; "" if it is certain.
    """

    owner: str
    listeners: frozenset[str] = frozenset()
    clusters: frozenset[str] = frozenset()
    udp_ports: frozenset[int] = frozenset()
    exposure: tuple[str, str] | None = None
    doubt: str = ""

    def __bool__(self) -> bool:
        """Whether it adds anything."""
        return bool(self.used)

    @property
    def used(self) -> frozenset[int | str]:
        """The UDP ports, and the names of listeners and clusters."""
        return self.udp_ports | self.listeners | self.clusters

    def is_certain(self, bound: Set[str] = frozenset()) -> bool:
        """Whether the gateway certainly has these.

        Args:
            bound: the names of its Envoy's listeners, if they are known.
        """
        return not self.doubt or bool(self.listeners & bound)

    def blocks(
        self, used: int | str, held: Set[int | str] = frozenset(), bound: Set[str] = frozenset()
    ) -> bool:
        """Whether it prevents another exposure from using a port or a name at the gateway.

        If only the mesh's root namespace is unknown, it does: the gateway gets both if the
        EnvoyFilter is in it. EnvoyFilters of exposures only apply to gateways of their namespace.

        Args:
            used: the UDP port, or the name of a listener or cluster; one of `self.used`.
            held: those that the other exposure has. They do not prevent a change.
            bound: as for `is_certain`.
        """
        if self.is_certain(bound):
            return True
        return self.doubt == ROOT_UNKNOWN and self.exposure is None and used not in held

    @classmethod
    def from_object(cls, envoy_filter: Mapping[str, Any]) -> Footprint:
        """What an EnvoyFilter manifest may add to any gateway.

        Parts with an unknown format are ignored.
        """
        return _footprint(envoy_filter, _additions(envoy_filter), (IPV4, IPV6))


@dataclass(frozen=True)
class _Addition:
    """A patch that adds a listener or a cluster, or changes a listener's address.

    Attributes:
        kind: LISTENER or CLUSTER.
        name: the name of the added resource; "" for a patch that changes an existing one.
        sockets: the (family, port) pairs that it binds for UDP.
        proxy: the patch's match.proxy.
        merges: whether it changes a listener that istiod generates.
    """

    kind: str
    name: str
    sockets: frozenset[tuple[str, int]]
    proxy: Mapping[str, Any] = field(default_factory=dict)
    merges: bool = False


def _additions(envoy_filter: Mapping[str, Any]) -> Iterator[_Addition]:
    """The patches that add something to gateways.

    istiod drops added listeners without a name. REMOVE and MERGE only affect what istiod itself
    generates, because it applies ADD patches afterwards (patchListeners).
    """
    for entry in as_list(as_mapping(envoy_filter.get("spec")).get("configPatches")):
        kind, match = as_mapping(entry).get("applyTo"), as_mapping(as_mapping(entry).get("match"))
        patch = as_mapping(as_mapping(entry).get("patch"))
        operation, value = patch.get("operation"), as_mapping(patch.get("value"))
        if kind not in ("LISTENER", "CLUSTER") or match.get("context") not in _GATEWAY_CONTEXTS:
            continue
        name = value.get("name") if isinstance(value.get("name"), str) else ""
        sockets = frozenset(_udp_sockets(value)) if kind == "LISTENER" else frozenset()
        proxy = as_mapping(match.get("proxy"))
        if operation in ADDING and name:
            yield _Addition(kind, name, sockets, proxy)
        elif operation in _MERGING and sockets:
            yield _Addition(kind, "", sockets, proxy, merges=True)


def _footprint(
    envoy_filter: Mapping[str, Any],
    additions: Iterable[_Addition],
    families: Iterable[str],
    doubt: str = "",
) -> Footprint:
    metadata = envoy_filter["metadata"]
    owner = owner_of(metadata.get("labels") or {})
    names: dict[str, set[str]] = {"LISTENER": set(), "CLUSTER": set()}
    ports: set[int] = set()
    for addition in additions:
        if addition.name:
            names[addition.kind].add(addition.name)
        ports |= {port for family, port in addition.sockets if family in families}
    return Footprint(
        owner=f"{metadata['namespace']}/{metadata['name']}",
        listeners=frozenset(names["LISTENER"]),
        clusters=frozenset(names["CLUSTER"]),
        udp_ports=frozenset(ports),
        exposure=owner[1:] if owner and owner[0] is Kind.EXPOSURE else None,
        doubt=doubt,
    )


def footprints_at(
    envoy_filter: Mapping[str, Any], gateway: Gateway, mesh: Mesh
) -> tuple[Footprint, ...]:
    """What an EnvoyFilter adds to a gateway.

    Returns:
        The certain additions and the uncertain additions, as separate elements; empty ones are
        left out.
    """
    certain, possible, doubt = [], [], ""
    attached = [(pod, _filter_attaches(envoy_filter, pod, gateway, mesh)) for pod in _pods(gateway)]
    for addition in _additions(envoy_filter):
        attachment = _any(whole & _proxy_attaches(addition.proxy, pod) for pod, whole in attached)
        if addition.merges:
            attachment &= Attachment(True, "it changes the address of one of Istio's own listeners")
        if attachment.certain:
            certain.append(addition)
        elif attachment.possible:
            possible.append(addition)
            doubt = attachment.doubt
    found = (
        _footprint(envoy_filter, certain, gateway.families),
        _footprint(envoy_filter, possible, gateway.families, doubt),
    )
    return tuple(footprint for footprint in found if footprint)


def attaches(envoy_filter: Mapping[str, Any], gateway: Gateway, mesh: Mesh) -> Attachment:
    """Whether istiod attaches an EnvoyFilter to a gateway, regardless of its patches' matches."""
    return _any(_filter_attaches(envoy_filter, pod, gateway, mesh) for pod in _pods(gateway))


def _pods(gateway: Gateway) -> tuple[GatewayPod, ...]:
    """The gateway's pods; if it has none, a placeholder with the labels of its selector."""
    return gateway.pods or (GatewayPod("", labels=gateway.ref.selector),)


def _filter_attaches(
    envoy_filter: Mapping[str, Any], pod: GatewayPod, gateway: Gateway, mesh: Mesh
) -> Attachment:
    """Whether istiod attaches an EnvoyFilter to a gateway pod (ShouldAttachPolicy).

    It must be in the pod's namespace or the root namespace. targetRefs select the pod if there are
    any, otherwise workloadSelector does (none selects all).
    """
    namespace = envoy_filter["metadata"]["namespace"]
    if namespace in (gateway.ref.namespace, mesh.root_namespace):
        near = ATTACHES
    elif mesh.assumed:
        near = Attachment(True, ROOT_UNKNOWN)
    else:
        return IGNORED
    spec = as_mapping(envoy_filter.get("spec"))
    labels = as_mapping(as_mapping(spec.get("workloadSelector")).get("labels"))
    selected = ATTACHES if selects(labels, pod.labels) else IGNORED
    targets = [as_mapping(target) for target in as_list(spec.get("targetRefs"))]
    if not targets:
        ignored = GATEWAY_API_LABEL in pod.labels and not mesh.selectors_for_gateway_api
        return IGNORED if ignored else near & selected
    targeted = (
        ATTACHES
        if namespace == gateway.ref.namespace
        and any(_targets(target, pod.labels, namespace) for target in targets)
        else IGNORED
    )
    return near & _by_version(mesh.istio or _at_least(pod.istio), targeted, selected)


def _at_least(proxy: Version | None) -> Version | None:
    """The oldest version istiod can have, from a proxy's: it is never older than its proxies."""
    return proxy if proxy and proxy >= FIRST_TARGET_REFS else None


def _by_version(istio: Version | None, since: Attachment, before: Attachment) -> Attachment:
    """The result for an Istio with or without targetRefs support; uncertain if unknown."""
    if istio is not None:
        return since if istio >= FIRST_TARGET_REFS else before
    if since == before:
        return since
    why = f"Istio before {show_version(FIRST_TARGET_REFS)} ignores its targetRefs"
    return Attachment(True, f"{why}, and the version of istiod is not known")


def _targets(target: Mapping[str, Any], labels: Mapping[str, str], namespace: str) -> bool:
    """Whether a targetRef names this gateway: a Gateway of the Gateway API, by its name.

    Service, ServiceEntry and GatewayClass targets only apply to waypoints.
    """
    return (
        target.get("group") == GATEWAY_API_GROUP
        and target.get("kind") == "Gateway"
        and target.get("name") == labels.get(GATEWAY_API_LABEL)
        and target.get("namespace") in (None, "", namespace)
    )


def _proxy_attaches(proxy: Mapping[str, Any], pod: GatewayPod) -> Attachment:
    """Whether a patch's match.proxy matches a pod's proxy (proxyMatch)."""
    attachment = version_attaches(str(proxy.get("proxyVersion") or ""), pod.version)
    for key, value in as_mapping(proxy.get("metadata")).items():
        known = pod.metadata.get(key)
        if known is None:
            attachment &= Attachment(
                True,
                f"it selects proxies by metadata {key}={value}, and the gateway's value is "
                "not known",
            )
        elif known != value:
            return IGNORED
    return attachment


def version_attaches(expression: str, version: str) -> Attachment:
    """Whether a proxyVersion expression matches an Istio proxy version ("" if unknown).

    istiod uses Go's regular expressions; the result is uncertain for syntax that Python differs in.
    """
    if not expression:
        return ATTACHES
    if len(expression) > _LONGEST_VERSION_MATCH:
        return IGNORED
    if not version:
        return Attachment(
            True, f"it selects proxyVersion {expression!r}, and the gateway's version is not known"
        )
    doubt = Attachment(True, f"it selects proxyVersion {expression!r}, which may or may not match")
    if _GO_ONLY.search(expression):
        return doubt
    try:
        found = re.search(expression, version)
    except (ValueError, re.error, RecursionError):
        return doubt
    return ATTACHES if found else IGNORED


@dataclass(frozen=True)
class Scope:
    """The proxies that a patch applies to, as far as its manifest shows.

    Attributes:
        envoy_filter: the EnvoyFilter, as `namespace/name`.
        copy: the index among manifests with the same name; each replaces the one before it.
        namespace: the EnvoyFilter's namespace.
        selectors: alternative sets of pod labels; a pod needs to match one.
        proxy_version: the patch's match.proxy.proxyVersion; "" for every version.
    """

    envoy_filter: str
    copy: int
    namespace: str
    selectors: tuple[tuple[tuple[str, str], ...], ...]
    proxy_version: str = ""

    @classmethod
    def of(
        cls, envoy_filter: Mapping[str, Any], copy: int = 0, proxy: Mapping[str, Any] | None = None
    ) -> Scope:
        """The scope of a patch with this match.proxy."""
        metadata, spec = (
            as_mapping(envoy_filter.get("metadata")),
            as_mapping(envoy_filter.get("spec")),
        )
        namespace = str(metadata.get("namespace") or "")
        targets = [as_mapping(target) for target in as_list(spec.get("targetRefs"))]
        selectors = [{GATEWAY_API_LABEL: str(target.get("name"))} for target in targets]
        if not selectors:
            selectors = [as_mapping(as_mapping(spec.get("workloadSelector")).get("labels"))]  # type: ignore[list-item]
        return cls(
            f"{namespace}/{metadata.get('name')}",
            copy,
            namespace,
            tuple(tuple(sorted((str(k), str(v)) for k, v in s.items())) for s in selectors),
            str(as_mapping(proxy).get("proxyVersion") or ""),
        )

    def meets(self, other: Scope) -> bool:
        """Whether some proxy may get both patches, if the root namespace is Istio's default."""
        if self.envoy_filter == other.envoy_filter and self.copy != other.copy:
            return False
        namespaces = {self.namespace, other.namespace}
        return (
            (len(namespaces) == 1 or DEFAULT_ROOT_NAMESPACE in namespaces)
            and any(compatible(dict(a), dict(b)) for a in self.selectors for b in other.selectors)
            and _versions_meet(self.proxy_version, other.proxy_version)
        )


def _versions_meet(one: str, other: str) -> bool:
    """Whether some Istio version matches both expressions."""
    if one == other or not (one and other):
        return True
    return any(
        version_attaches(one, version).possible and version_attaches(other, version).possible
        for version in _SAMPLE_VERSIONS
    )


def revisions(envoy_filter: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The revision of each listener and cluster that an EnvoyFilter adds; "" if it has none.

    Returns:
        {"LISTENER": {name: revision}, "CLUSTER": {name: revision}}
    """
    found: dict[str, dict[str, str]] = {"LISTENER": {}, "CLUSTER": {}}
    patches = as_list(as_mapping(envoy_filter.get("spec")).get("configPatches"))
    for patch in map(as_mapping, patches):
        value = as_mapping(as_mapping(patch.get("patch")).get("value"))
        kind, name = patch.get("applyTo"), value.get("name")
        if kind in found and name:
            found[kind][str(name)] = revision_in(value)
    return found


def revision_in(resource: Mapping[str, Any]) -> str:
    """The revision in the metadata of a listener or cluster; "" if it has none."""
    marks = as_mapping(as_mapping(resource.get("metadata")).get("filter_metadata"))
    return str(as_mapping(marks.get(MANAGER)).get("revision", ""))


def _udp_sockets(listener: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The (family, port) pairs that a listener binds for UDP; accepts both spellings of fields.

    Loopback addresses are left out, because no client can send to them.
    """
    more = listener.get("additional_addresses", listener.get("additionalAddresses"))
    addresses = [
        listener.get("address"),
        *(as_mapping(each).get("address") for each in as_list(more)),
    ]
    for address in map(as_mapping, addresses):
        socket = as_mapping(address.get("socket_address", address.get("socketAddress")))
        number = str(socket.get("port_value", socket.get("portValue", "")))
        if socket.get("protocol") in _UDP and re.fullmatch("[0-9]{1,5}", number):
            both = socket.get("ipv4_compat", socket.get("ipv4Compat"))
            for family in _families(str(socket.get("address", "")), both=bool(both)):
                yield family, int(number)


def _families(address: str, *, both: bool) -> tuple[str, ...]:
    """The address families a socket receives; both if the address has an unknown format."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return (IPV4, IPV6)
    if found.is_loopback:
        return ()
    if found.version == 4:
        return (IPV4,)
    return (IPV4, IPV6) if both else (IPV6,)
