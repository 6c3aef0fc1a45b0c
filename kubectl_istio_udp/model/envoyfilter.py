"""What EnvoyFilters of other people add to a gateway, by istiod's own rules.

The rules were read in istiod's sources, release 1.31: which filters a proxy gets and in which
form in pilot/pkg/model/envoyfilter.go (convertToEnvoyFilterWrapper, proxyMatch), push_context.go
(EnvoyFilters, getMatchedEnvoyFilters) and policyattachment.go (ShouldAttachPolicy); what a patch
does in pilot/pkg/networking/core/envoyfilter/listener_patch.go (patchListeners) and
cluster_patch.go (InsertedClusters).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.model.gateway import (
    GATEWAY_API_LABEL,
    Gateway,
    GatewayPod,
    compatible,
    selects,
)
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.mesh import DEFAULT_ROOT_NAMESPACE, Mesh, Version, show_version
from kubectl_istio_udp.model.names import owner_of
from kubectl_istio_udp.model.service import IPV4, IPV6

# The first Istio whose EnvoyFilters have targetRefs (its release notes); older ones ignore them.
FIRST_TARGET_REFS: Version = (1, 27)
GATEWAY_API_GROUP = "gateway.networking.k8s.io"
# Of a LISTENER or a CLUSTER istiod takes each of these for ADD (convertToEnvoyFilterWrapper).
ADDING = ("ADD", "INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER")
_MERGING = ("MERGE", "MERGE_AND_REPLACE_LIST")
# An ADD without a context is for gateways and for the outbound side of sidecars.
_GATEWAY_CONTEXTS = (None, "", "ANY", "GATEWAY", 0, 3)
# In proto's JSON an enum may be its name or its number, and a number may be a string.
_UDP = ("UDP", 1)
# Some of each release that there is, or may come.
_SAMPLE_VERSIONS = tuple(f"1.{minor}.{patch}" for minor in range(10, 60) for patch in (0, 1, 5))
# Go's regular expressions have what Python's lack, or read otherwise.
_GO_ONLY = re.compile(r"\[\[:|\\[QEzpPC]|\(\?[a-zA-Z]*U")
# istiod takes a longer expression for one that no version matches (maxProxyVersionLen).
_LONGEST_VERSION_MATCH = 1024


@dataclass(frozen=True)
class Attachment:
    """Whether istiod attaches something to a proxy.

    Attributes:
        possible: whether it may.
        doubt: why that is not certain; "" where it is.
    """

    possible: bool
    doubt: str = ""

    @property
    def certain(self) -> bool:
        """Whether it does, as far as anybody can know."""
        return self.possible and not self.doubt

    def __and__(self, other: Attachment) -> Attachment:
        """Whether both conditions hold."""
        if not (self.possible and other.possible):
            return Attachment(False)
        return Attachment(True, self.doubt or other.doubt)


ATTACHES, IGNORED = Attachment(True), Attachment(False)


def _any(several: Iterable[Attachment]) -> Attachment:
    """The surest of several; IGNORED where there are none."""
    return max(several, key=lambda a: (a.possible, not a.doubt), default=IGNORED)


@dataclass(frozen=True)
class Claims:
    """The listeners and clusters that one EnvoyFilter adds.

    Attributes:
        owner: the EnvoyFilter, `namespace/name`.
        listeners: names of the listeners it adds.
        clusters: names of the clusters it adds.
        udp_ports: UDP ports its listeners bind.
        exposure: (namespace, name) of the exposure it belongs to, None for other people's.
        doubt: why it is not certain that the gateway gets these; "" where it is.
    """

    owner: str
    listeners: frozenset[str] = frozenset()
    clusters: frozenset[str] = frozenset()
    udp_ports: frozenset[int] = frozenset()
    exposure: tuple[str, str] | None = None
    doubt: str = ""

    def __bool__(self) -> bool:
        """Whether it adds anything."""
        return bool(self.listeners or self.clusters or self.udp_ports)

    @classmethod
    def from_object(cls, envoy_filter: Mapping[str, Any]) -> Claims:
        """What an EnvoyFilter manifest may add to a gateway, whichever gateway it is.

        Parts that are not understood claim nothing.
        """
        return _claims(envoy_filter, _additions(envoy_filter), (IPV4, IPV6))


@dataclass(frozen=True)
class _Addition:
    """A patch that adds a listener or a cluster, or gives a listener another address.

    Attributes:
        kind: LISTENER or CLUSTER.
        name: the name that it adds; "" for a patch that changes what is there.
        sockets: the (family, port) pairs that it binds for UDP.
        proxy: its match.proxy.
        merges: whether it changes a listener of istiod's.
    """

    kind: str
    name: str
    sockets: frozenset[tuple[str, int]]
    proxy: Mapping[str, Any] = field(default_factory=dict)
    merges: bool = False


def _additions(envoy_filter: Mapping[str, Any]) -> Iterator[_Addition]:
    """The patches for gateways that add something.

    istiod drops an added listener without a name. REMOVE and MERGE are for what istiod itself has
    made: it adds what filters add afterwards (patchListeners).
    """
    for entry in items(record(envoy_filter.get("spec")).get("configPatches")):
        kind, match = record(entry).get("applyTo"), record(record(entry).get("match"))
        patch = record(record(entry).get("patch"))
        operation, value = patch.get("operation"), record(patch.get("value"))
        if kind not in ("LISTENER", "CLUSTER") or match.get("context") not in _GATEWAY_CONTEXTS:
            continue
        name = value.get("name") if isinstance(value.get("name"), str) else ""
        sockets = frozenset(_udp_sockets(value)) if kind == "LISTENER" else frozenset()
        proxy = record(match.get("proxy"))
        if operation in ADDING and name:
            yield _Addition(kind, name, sockets, proxy)
        elif operation in _MERGING and sockets:
            yield _Addition(kind, "", sockets, proxy, merges=True)


def _claims(
    envoy_filter: Mapping[str, Any],
    additions: Iterable[_Addition],
    families: Iterable[str],
    doubt: str = "",
) -> Claims:
    metadata = envoy_filter["metadata"]
    owner = owner_of(metadata.get("labels") or {})
    names: dict[str, set[str]] = {"LISTENER": set(), "CLUSTER": set()}
    ports: set[int] = set()
    for addition in additions:
        if addition.name:
            names[addition.kind].add(addition.name)
        ports |= {port for family, port in addition.sockets if family in families}
    return Claims(
        owner=f"{metadata['namespace']}/{metadata['name']}",
        listeners=frozenset(names["LISTENER"]),
        clusters=frozenset(names["CLUSTER"]),
        udp_ports=frozenset(ports),
        exposure=owner[1:] if owner and owner[0] is Kind.EXPOSURE else None,
        doubt=doubt,
    )


def claims_at(envoy_filter: Mapping[str, Any], gateway: Gateway, mesh: Mesh) -> tuple[Claims, ...]:
    """What an EnvoyFilter adds to a gateway.

    Returns:
        What it certainly adds, and what it may add for all that can be known, each apart; neither
        where that is nothing.
    """
    certain, possible, doubt = [], [], ""
    attached = [(pod, _filter_attaches(envoy_filter, pod, gateway, mesh)) for pod in _pods(gateway)]
    for addition in _additions(envoy_filter):
        attachment = _any(whole & _proxy_attaches(addition.proxy, pod) for pod, whole in attached)
        if addition.merges:
            attachment &= Attachment(True, "it changes the address of a listener that Istio makes")
        if attachment.certain:
            certain.append(addition)
        elif attachment.possible:
            possible.append(addition)
            doubt = attachment.doubt
    found = (
        _claims(envoy_filter, certain, gateway.families),
        _claims(envoy_filter, possible, gateway.families, doubt),
    )
    return tuple(claims for claims in found if claims)


def attaches(envoy_filter: Mapping[str, Any], gateway: Gateway, mesh: Mesh) -> Attachment:
    """Whether istiod attaches an EnvoyFilter to a gateway, whatever each of its patches is for."""
    return _any(_filter_attaches(envoy_filter, pod, gateway, mesh) for pod in _pods(gateway))


def _pods(gateway: Gateway) -> tuple[GatewayPod, ...]:
    """The pods of a gateway; where it has none, one as its selector says."""
    return gateway.pods or (GatewayPod("", labels=gateway.ref.selector),)


def _filter_attaches(
    envoy_filter: Mapping[str, Any], pod: GatewayPod, gateway: Gateway, mesh: Mesh
) -> Attachment:
    """Whether istiod attaches an EnvoyFilter to a gateway's pod (ShouldAttachPolicy).

    One in the pod's namespace or in the root namespace; by targetRefs where it has some, else by
    workloadSelector (none selects all).
    """
    namespace = envoy_filter["metadata"]["namespace"]
    if namespace in (gateway.ref.namespace, mesh.root_namespace):
        near = ATTACHES
    elif mesh.assumed:
        near = Attachment(True, "the mesh's root namespace is not known")
    else:
        return IGNORED
    spec = record(envoy_filter.get("spec"))
    labels = record(record(spec.get("workloadSelector")).get("labels"))
    selected = ATTACHES if selects(labels, pod.labels) else IGNORED
    targets = [record(target) for target in items(spec.get("targetRefs"))]
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
    """The control plane's version as the proxy's tells: it is never older than its proxies."""
    return proxy if proxy and proxy >= FIRST_TARGET_REFS else None


def _by_version(istio: Version | None, since: Attachment, before: Attachment) -> Attachment:
    """What holds from the first Istio with targetRefs on, or before it."""
    if istio is not None:
        return since if istio >= FIRST_TARGET_REFS else before
    if since == before:
        return since
    why = f"Istio before {show_version(FIRST_TARGET_REFS)} ignores its targetRefs"
    return Attachment(True, f"{why}, and the version of istiod is not known")


def _targets(target: Mapping[str, Any], labels: Mapping[str, str], namespace: str) -> bool:
    """Whether a targetRef is a gateway's own: a Gateway of the Gateway API, by its name.

    Service, ServiceEntry and GatewayClass are for waypoints.
    """
    return (
        target.get("group") == GATEWAY_API_GROUP
        and target.get("kind") == "Gateway"
        and target.get("name") == labels.get(GATEWAY_API_LABEL)
        and target.get("namespace") in (None, "", namespace)
    )


def _proxy_attaches(proxy: Mapping[str, Any], pod: GatewayPod) -> Attachment:
    """Whether a patch's match.proxy takes a pod's proxy in (proxyMatch)."""
    attachment = version_attaches(str(proxy.get("proxyVersion") or ""), pod.version)
    for key, value in record(proxy.get("metadata")).items():
        known = pod.metadata.get(key)
        if known is None:
            attachment &= Attachment(
                True, f"it is for proxies with {key}={value}, which is not known"
            )
        elif known != value:
            return IGNORED
    return attachment


def version_attaches(expression: str, version: str) -> Attachment:
    """Whether a proxyVersion takes in a version of Istio's proxy, "" for an unknown one.

    istiod's expressions are Go's; one that Python reads otherwise is left in doubt.
    """
    if not expression:
        return ATTACHES
    if len(expression) > _LONGEST_VERSION_MATCH:
        return IGNORED
    if not version:
        return Attachment(True, f"it is for proxyVersion {expression!r}; the proxies' is not known")
    doubt = Attachment(True, f"it is for proxyVersion {expression!r}")
    if _GO_ONLY.search(expression):
        return doubt
    try:
        found = re.search(expression, version)
    except (ValueError, re.error, RecursionError):
        return doubt
    return ATTACHES if found else IGNORED


@dataclass(frozen=True)
class Scope:
    """The proxies that a patch is for, as far as its manifest alone tells.

    Attributes:
        envoy_filter: `namespace/name` of its EnvoyFilter.
        copy: which of the manifests of that name it is in; each replaces those before it.
        namespace: the EnvoyFilter's namespace.
        selectors: the pod labels that it selects by, any of which suffices.
        proxy_version: its match.proxy.proxyVersion, "" for every version.
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
        """The scope of an EnvoyFilter's patch with this match.proxy."""
        metadata, spec = record(envoy_filter.get("metadata")), record(envoy_filter.get("spec"))
        namespace = str(metadata.get("namespace") or "")
        targets = [record(target) for target in items(spec.get("targetRefs"))]
        selectors = [{GATEWAY_API_LABEL: str(target.get("name"))} for target in targets]
        if not selectors:
            selectors = [record(record(spec.get("workloadSelector")).get("labels"))]  # type: ignore[list-item]
        return cls(
            f"{namespace}/{metadata.get('name')}",
            copy,
            namespace,
            tuple(tuple(sorted((str(k), str(v)) for k, v in s.items())) for s in selectors),
            str(record(proxy).get("proxyVersion") or ""),
        )

    def meets(self, other: Scope, root_namespace: str = DEFAULT_ROOT_NAMESPACE) -> bool:
        """Whether there may be a proxy that gets both."""
        if self.envoy_filter == other.envoy_filter and self.copy != other.copy:
            return False
        apart = self.namespace != other.namespace and root_namespace not in (
            self.namespace,
            other.namespace,
        )
        return (
            not apart
            and any(compatible(dict(a), dict(b)) for a in self.selectors for b in other.selectors)
            and _versions_meet(self.proxy_version, other.proxy_version)
        )


def _versions_meet(one: str, other: str) -> bool:
    """Whether some version of Istio is taken in by both of two expressions."""
    if one == other or not (one and other):
        return True
    return any(
        version_attaches(one, version).possible and version_attaches(other, version).possible
        for version in _SAMPLE_VERSIONS
    )


def record(value: object) -> Mapping[str, Any]:
    """A JSON object as it is, anything else as an empty one: what it says is not understood."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> list[Any]:
    """A JSON array as it is, anything else as an empty one."""
    return value if isinstance(value, list) else []


def _udp_sockets(listener: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The (family, port) pairs that a listener binds for UDP, in either spelling of a field.

    Not those on loopback, where no client's datagram arrives.
    """
    more = listener.get("additional_addresses", listener.get("additionalAddresses"))
    addresses = [listener.get("address"), *(record(each).get("address") for each in items(more))]
    for address in map(record, addresses):
        socket = record(address.get("socket_address", address.get("socketAddress")))
        number = str(socket.get("port_value", socket.get("portValue", "")))
        if socket.get("protocol") in _UDP and re.fullmatch("[0-9]{1,5}", number):
            both = socket.get("ipv4_compat", socket.get("ipv4Compat"))
            for family in _families(str(socket.get("address", "")), both=bool(both)):
                yield family, int(number)


def _families(address: str, *, both: bool) -> tuple[str, ...]:
    """The families of the datagrams that come to an address; both where it is not understood."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return (IPV4, IPV6)
    if found.is_loopback:
        return ()
    if found.version == 4:
        return (IPV4,)
    return (IPV4, IPV6) if both else (IPV6,)
