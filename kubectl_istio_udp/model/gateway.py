"""An Istio gateway: pods that run Envoy as a router, and the Service in front of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kubectl_istio_udp.model.fields import Fields, dns_label, labels, object_or_label
from kubectl_istio_udp.model.mesh import (
    DEFAULT_CONTROL_PLANE,
    ControlPlane,
    Version,
    environment,
    image_tag,
    oldest,
    parse_version,
)
from kubectl_istio_udp.model.names import MANAGED_BY_LABEL, MANAGER
from kubectl_istio_udp.model.podstatus import is_ready
from kubectl_istio_udp.model.ports import FIRST_UNPRIVILEGED_PORT
from kubectl_istio_udp.model.quantity import quantity
from kubectl_istio_udp.model.service import IPV4, IPV6

GATEWAY_API_LABEL = "gateway.networking.k8s.io/gateway-name"
ISTIO_LABEL = "istio"
PROXY_CONTAINER = "istio-proxy"
# Administrators set this label on Namespaces with gateways; if one has it, only these count.
GATEWAYS_LABEL = "kubectl-istio-udp/gateways"
_UNPRIVILEGED_SYSCTL = "net.ipv4.ip_unprivileged_port_start"
_PORT = re.compile("[0-9]{1,5}")
_META_PREFIX = "ISTIO_META_"
_VARIANTS = ("-distroless", "-debug")
# istiod's injection and its template for Gateway API gateways add one of these to a pod.
_ISTIOD_ANNOTATIONS = ("sidecar.istio.io/status", "istio.io/rev")
# Labels that differ between pods of one workload, or change with every upgrade.
_VOLATILE_LABELS = frozenset(
    {
        "pod-template-hash",
        "pod-template-generation",
        "controller-revision-hash",
        "rollouts-pod-template-hash",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "service.istio.io/canonical-revision",
        "istio.io/rev",
    }
)
_UPGRADED_LABELS = ("version", "app.kubernetes.io/version", "helm.sh/chart", "chart")


@dataclass(frozen=True)
class GatewayRef:
    """The identity of a gateway, as stored in an exposure's annotation.

    Attributes:
        namespace: the namespace of its pods, and of the EnvoyFilters for it.
        name: the name of its Service, or of its Gateway (Gateway API).
        selector: the pod labels that select only this gateway.
    """

    namespace: str
    name: str
    selector: Mapping[str, str]

    def __post_init__(self) -> None:
        """Reject a selector that would select every pod, and empty names.

        Raises:
            ValueError: a name is empty, or the selector has no label.
        """
        if not (isinstance(self.name, str) and isinstance(self.namespace, str)):
            raise ValueError("a gateway has a namespace and a name")
        if not isinstance(self.selector, Mapping) or not self.selector:
            raise ValueError("a gateway has a selector")

    @classmethod
    def from_fields(cls, fields: Fields) -> GatewayRef:
        """Read the gateway from the spec annotation.

        Raises:
            ValueError: a field is missing or invalid.
        """
        return cls(
            namespace=fields.take("namespace", dns_label),
            name=fields.take("name", object_or_label),
            selector=fields.take("selector", labels),
        )

    def __str__(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    def same_pods(self, other: GatewayRef) -> bool:
        """Whether both refer to the same gateway.

        Names may differ if a Service was deleted. Selectors may differ, because labels are added
        when another gateway with the same labels appears.
        """
        if self.namespace != other.namespace:
            return False
        labels, other_labels = dict(self.selector).items(), dict(other.selector).items()
        return labels == other_labels or (
            self.name == other.name and (labels <= other_labels or labels >= other_labels)
        )


@dataclass(frozen=True)
class GatewayPod:
    """One pod of a gateway.

    Attributes:
        name: the pod's name.
        ips: its addresses, one per family; empty until it has one.
        ready: whether its Ready condition is true.
        labels: the pod's labels.
        first_bindable: the lowest port that its Envoy may bind.
        domain: the cluster's DNS domain, from the proxy's arguments.
        version: the version that its proxy reports to istiod, from the image's tag; "" if unknown.
        metadata: other metadata that its proxy reports to istiod (ISTIO_META_...), if known.
        control_plane: the istiod that configures it.
        host_network: whether it uses its node's network, so that it binds the node's ports.
        owner: its workload, e.g. `Deployment edge`; "" if it has none.
        by_istiod: whether its annotations show that istiod injected its proxy.
        memory_limit: the proxy's memory limit in bytes; None for no limit.
        cpu_limit: the proxy's CPU limit in cores; None for no limit.
        uid: the pod's uid; "" if unknown.
    """

    name: str
    ips: tuple[str, ...] = ()
    ready: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    first_bindable: int = FIRST_UNPRIVILEGED_PORT
    domain: str = "cluster.local"
    version: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    control_plane: ControlPlane = DEFAULT_CONTROL_PLANE
    host_network: bool = False
    owner: str = ""
    by_istiod: bool = False
    memory_limit: float | None = None
    cpu_limit: float | None = None
    uid: str = ""

    @property
    def istio(self) -> Version | None:
        """The Istio version (major, minor) of its proxy; None if unknown."""
        return parse_version(self.version)

    @classmethod
    def from_object(cls, pod: Mapping[str, Any]) -> GatewayPod:
        """Read a v1 Pod manifest that has a container `istio-proxy`."""
        metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
        proxy = next(c for c in spec["containers"] if c["name"] == PROXY_CONTAINER)
        limits = (proxy.get("resources") or {}).get("limits") or {}
        addresses = [entry["ip"] for entry in status.get("podIPs") or ()]
        return cls(
            name=metadata["name"],
            ips=tuple(addresses or filter(None, [status.get("podIP")])),
            ready=is_ready(pod),
            labels=metadata.get("labels") or {},
            first_bindable=_first_bindable(spec, proxy),
            domain=_domain(proxy.get("args") or ()),
            version=_version(proxy),
            metadata=_proxy_metadata(metadata, proxy),
            control_plane=ControlPlane.of_proxy(metadata, proxy),
            host_network=bool(spec.get("hostNetwork")),
            owner=_owner(metadata),
            by_istiod=_is_by_istiod(metadata, proxy),
            # In Kubernetes a limit of 0 means no limit.
            memory_limit=quantity(limits.get("memory")) or None,
            cpu_limit=quantity(limits.get("cpu")) or None,
            uid=str(metadata.get("uid") or ""),
        )


def _first_bindable(spec: Mapping[str, Any], proxy: Mapping[str, Any]) -> int:
    """The lowest port that a pod's proxy may bind.

    Linux lets a process with NET_BIND_SERVICE bind any port. Container runtimes only give the
    capability to root: if it is added for another user, the process does not get it
    (capabilities(7); Kubernetes sets no ambient capabilities).
    """
    of_pod, of_proxy = spec.get("securityContext") or {}, proxy.get("securityContext") or {}
    for sysctl in of_pod.get("sysctls") or ():
        if sysctl["name"] == _UNPRIVILEGED_SYSCTL and _PORT.fullmatch(str(sysctl["value"])):
            return int(sysctl["value"])
    capabilities = of_proxy.get("capabilities") or {}
    dropped = {str(name).removeprefix("CAP_") for name in capabilities.get("drop") or ()}
    added = {str(name).removeprefix("CAP_") for name in capabilities.get("add") or ()}
    capable = (
        bool({"NET_BIND_SERVICE", "ALL"} & added)
        or not {"NET_BIND_SERVICE", "ALL"} & dropped
        or bool(of_proxy.get("privileged"))
    )
    root = of_proxy.get("runAsUser", of_pod.get("runAsUser")) == 0
    return 1 if root and capable else FIRST_UNPRIVILEGED_PORT


def _version(proxy: Mapping[str, Any]) -> str:
    """`1.31.0` for an image tagged `1.31.0-distroless`; "" if the tag is not a version."""
    tag = image_tag(proxy)
    for variant in _VARIANTS:
        tag = tag.removesuffix(variant)
    return tag.removeprefix("v") if parse_version(tag) else ""


def _proxy_metadata(metadata: Mapping[str, Any], proxy: Mapping[str, Any]) -> dict[str, str]:
    """What a proxy reports to istiod about itself: ISTIO_META_X as X (pkg/bootstrap/config.go)."""
    known = {
        name.removeprefix(_META_PREFIX): value
        for name, value in environment(proxy).items()
        if name.startswith(_META_PREFIX)
    }
    return {**known, "NAME": metadata["name"], "NAMESPACE": metadata.get("namespace", "")}


def _is_by_istiod(metadata: Mapping[str, Any], proxy: Mapping[str, Any]) -> bool:
    """Whether a pod has the marks that istiod's templates and Istio's charts leave."""
    notes = metadata.get("annotations") or {}
    return "CA_ADDR" in environment(proxy) or any(key in notes for key in _ISTIOD_ANNOTATIONS)


def _owner(metadata: Mapping[str, Any]) -> str:
    """The workload of a pod: `Deployment edge` (for a ReplicaSet the name of its Deployment)."""
    for reference in metadata.get("ownerReferences") or ():
        if not reference.get("controller"):
            continue
        kind, name = str(reference.get("kind")), str(reference.get("name"))
        suffix = f"-{(metadata.get('labels') or {}).get('pod-template-hash')}"
        if kind == "ReplicaSet" and name.endswith(suffix):
            return f"Deployment {name.removesuffix(suffix)}"
        return f"{kind} {name}"
    return ""


def _domain(arguments: Sequence[str]) -> str:
    """The cluster domain in `--domain $(POD_NAMESPACE).svc.cluster.local`."""
    for flag, value in itertools.pairwise(arguments):
        if flag == "--domain" and ".svc." in value:
            return value.partition(".svc.")[2]
    return "cluster.local"


@dataclass(frozen=True)
class Gateway:
    """A gateway in the cluster.

    Attributes:
        ref: its namespace, name and selector.
        pods: its pods, by name.
        service: the manifest of its Service; None if it has none.
        api: whether the Kubernetes Gateway API created it, so that istiod owns its Service.
        services: the manifests of all Services that select its pods, the oldest first.
        also_selected: other gateways' pods that its selector also matches, as `POD (WORKLOAD)`.
    """

    ref: GatewayRef
    pods: tuple[GatewayPod, ...] = ()
    service: Mapping[str, Any] | None = None
    api: bool = False
    services: tuple[Mapping[str, Any], ...] = ()
    also_selected: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`namespace/name (Deployment name)`."""
        return f"{self.ref} ({', '.join(self.owners) or 'pods without a workload'})"

    def fronted_by(self, name: str) -> Gateway:
        """The same gateway with the Service of this name in front; itself if it has none.

        Several Services may select its pods, for example a public and an internal one.
        """
        named = [s for s in self.services if s["metadata"]["name"] == name]
        if self.api or not named:
            return self
        return replace(self, ref=replace(self.ref, name=name), service=named[0])

    def is_at(self, ref: GatewayRef) -> bool:
        """Whether this is the gateway of an exposure, which may have named any of its Services."""
        return self.fronted_by(ref.name).ref.same_pods(ref)

    def kept(self, before: GatewayRef | None, named: str | None = None) -> Gateway:
        """The same gateway with the name and the Service that an exposure already uses.

        Args:
            before: the exposure's current gateway; None for a new exposure. Its name may be that
                of a deleted Service.
            named: the user's choice, `NAME` or `NAMESPACE/NAME`. A Service's name takes precedence.
        """
        same = before and self.is_at(before) and before.selector == self.ref.selector
        if not before or not same or (named or "").rpartition("/")[2] in self.service_names:
            return self
        return replace(self.fronted_by(before.name), ref=before)

    @property
    def owners(self) -> tuple[str, ...]:
        """Its workloads, e.g. `Deployment edge`."""
        return tuple(sorted({pod.owner for pod in self.pods if pod.owner}))

    @property
    def by_istiod(self) -> bool:
        """Whether istiod injected its proxies and it has a Service."""
        return self.service is not None and all(pod.by_istiod for pod in self.pods)

    @property
    def control_plane(self) -> ControlPlane:
        """The istiod that configures it."""
        return self.pods[0].control_plane if self.pods else DEFAULT_CONTROL_PLANE

    @property
    def host_network(self) -> bool:
        """Whether one of its pods uses its node's network."""
        return any(pod.host_network for pod in self.pods)

    @property
    def ready_pods(self) -> tuple[GatewayPod, ...]:
        """The pods that receive traffic."""
        return tuple(pod for pod in self.pods if pod.ready)

    @property
    def has_addresses(self) -> bool:
        """Whether any of its pods has an address; before that its address families are unknown."""
        return any(pod.ips for pod in self.pods)

    @property
    def families(self) -> tuple[str, ...]:
        """The address families common to all of its pods, the primary one first."""
        return families_of(self.pods) if self.has_addresses else (IPV4,)

    @property
    def first_bindable(self) -> int:
        """The lowest port that all of its pods may bind."""
        return max((pod.first_bindable for pod in self.pods), default=FIRST_UNPRIVILEGED_PORT)

    @property
    def domain(self) -> str:
        """The cluster's DNS domain."""
        return self.pods[0].domain if self.pods else "cluster.local"

    @property
    def istio(self) -> Version | None:
        """The oldest Istio version (major, minor) of its pods; None if unknown."""
        return oldest(pod.istio for pod in self.pods)

    @property
    def memory_limit(self) -> int | None:
        """The lowest memory limit of its proxies, in bytes; None if none has a limit."""
        limits = [pod.memory_limit for pod in self.pods if pod.memory_limit is not None]
        return int(min(limits)) if limits else None

    @property
    def cores(self) -> float | None:
        """The highest CPU limit of its proxies, in cores; None if one has no limit."""
        limits = [pod.cpu_limit for pod in self.pods]
        known = [limit for limit in limits if limit is not None]
        return max(known) if known and len(known) == len(limits) else None

    @property
    def service_name(self) -> str | None:
        """The name of its Service; None if it has none."""
        return self.service["metadata"]["name"] if self.service else None

    @property
    def service_names(self) -> tuple[str, ...]:
        """The names of all Services that select its pods."""
        return tuple(service["metadata"]["name"] for service in self.services)

    def answers_to(self, name: str) -> bool:
        """Whether `--gateway NAME` is its name, or the name of a Service or workload of it.

        A Service that selects several gateways matches each of them.
        """
        workloads = {owner.partition(" ")[2] for owner in self.owners}
        return name in {self.ref.name, *self.service_names, *workloads}

    def is_of(self, kind: str, name: str) -> bool:
        """Whether it is the gateway of an object: of a Gateway, a Service or a workload.

        Args:
            kind: Gateway (Gateway API), Service, or the kind of a workload.
            name: the name of the object, in the gateway's namespace.
        """
        if kind == "Gateway":
            return self.api and self.ref.name == name
        if kind == "Service":
            return name in self.service_names
        return f"{kind} {name}" in self.owners

    def is_labelled(self, name: str) -> bool:
        """Whether its pods have this value in one of the labels that Istio's installations set."""
        labels = self.pods[0].labels if self.pods else {}
        return name in (labels.get(ISTIO_LABEL), labels.get("app"))


def families_of(pods: Sequence[GatewayPod]) -> tuple[str, ...]:
    """The address families common to pods, the primary one first; none if none has an address."""
    having = [[IPV6 if ":" in ip else IPV4 for ip in pod.ips] for pod in pods if pod.ips]
    first = having[0] if having else []
    return tuple(family for family in first if all(family in each for each in having))


def is_gateway_pod(pod: Mapping[str, Any]) -> bool:
    """Whether a Pod manifest is of a gateway: it runs Istio's proxy as a router and does not end.

    istiod (label `istio: pilot`) has no such container. Injected workloads run `proxy sidecar`,
    ambient mode runs `proxy waypoint` and `proxy ztunnel`.
    """
    if pod["metadata"].get("deletionTimestamp"):
        return False
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return False
    containers = (pod.get("spec") or {}).get("containers") or ()
    return any(
        c["name"] == PROXY_CONTAINER and "router" in (c.get("args") or ()) for c in containers
    )


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a selector (all labels must match; an empty one matches all) selects labels."""
    return all(labels.get(key) == value for key, value in selector.items())


def compatible(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether some set of labels matches both selectors."""
    return all(other.get(key, value) == value for key, value in one.items())


def gateways_from(
    pods: Iterable[Mapping[str, Any]],
    services: Iterable[Mapping[str, Any]],
    selector: Mapping[str, str] | None = None,
) -> tuple[Gateway, ...]:
    """Group gateway pods into gateways.

    Pods belong to one gateway if the same Services select them. Without a Service, pods of one
    workload do. For the Gateway API the Gateway's name decides.

    Args:
        pods: Pod manifests; pods that are not gateways are ignored.
        services: Service manifests of the gateways' namespaces.
        selector: the user's `--gateway-selector`; all pods that it selects in a namespace are
            one gateway.
    """
    by_namespace: dict[str, list[GatewayPod]] = {}
    for pod in pods:
        labels = pod["metadata"].get("labels") or {}
        if is_gateway_pod(pod) and (not selector or selects(selector, labels)):
            found = by_namespace.setdefault(pod["metadata"]["namespace"], [])
            found.append(GatewayPod.from_object(pod))
    in_front = _in_front(services)
    gateways: list[Gateway] = []
    for namespace, members in by_namespace.items():
        members.sort(key=lambda pod: pod.name)
        of_namespace = in_front.get(namespace, [])
        groups = [members] if selector else _grouped(members, of_namespace)
        gateways += [
            _gateway(namespace, group, members, of_namespace, selector) for group in groups
        ]
    return tuple(sorted(gateways, key=lambda gateway: (gateway.ref.namespace, gateway.ref.name)))


def _in_front(services: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The Services that may be in front of gateways, by namespace, the oldest first.

    The oldest one comes from the installation; later ones are additions.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for service in services:
        labels = service["metadata"].get("labels") or {}
        managed = labels.get(MANAGED_BY_LABEL) == MANAGER
        if not managed and (service.get("spec") or {}).get("selector"):
            found.setdefault(service["metadata"]["namespace"], []).append(service)
    for each in found.values():
        each.sort(key=lambda s: (s["metadata"].get("creationTimestamp", ""), s["metadata"]["name"]))
    return found


def _selecting(
    pods: Sequence[GatewayPod], services: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The Services that select all of these pods."""
    return [s for s in services if all(selects(s["spec"]["selector"], p.labels) for p in pods)]


def _grouped(
    pods: Sequence[GatewayPod], services: Sequence[Mapping[str, Any]]
) -> list[list[GatewayPod]]:
    """Group the gateway pods of a namespace by gateway."""
    workloads: dict[Any, list[GatewayPod]] = {}
    for pod in pods:
        api = pod.labels.get(GATEWAY_API_LABEL)
        labels = tuple(sorted(_usual_selector(pod.labels).items()))
        workloads.setdefault((api,) if api else pod.owner or labels, []).append(pod)
    groups: dict[Any, list[GatewayPod]] = {}
    for key, members in workloads.items():
        names = frozenset(s["metadata"]["name"] for s in _selecting(members, services))
        by_name = isinstance(key, tuple) and len(key) == 1
        alone = key if by_name else ("labels", _stable(members))
        groups.setdefault(alone if by_name or not names else names, []).extend(members)
    return list(groups.values())


def _usual_selector(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that Istio's installations use to select a gateway."""
    if GATEWAY_API_LABEL in labels:
        return {GATEWAY_API_LABEL: labels[GATEWAY_API_LABEL]}
    return {key: labels[key] for key in ("app", ISTIO_LABEL) if key in labels}


def _stable(pods: Sequence[GatewayPod]) -> tuple[tuple[str, str], ...]:
    """The labels that all of these pods share, without volatile ones."""
    first, *others = (set(pod.labels.items()) for pod in pods)
    return tuple(sorted(p for p in first.intersection(*others) if p[0] not in _VOLATILE_LABELS))


def _selector_of(
    pods: Sequence[GatewayPod],
    others: Sequence[GatewayPod],
    service: Mapping[str, Any] | None,
) -> dict[str, str]:
    """The labels that select a gateway's pods and as few other pods as possible.

    Starts with the usual labels and adds those that distinguish it from other gateways: first
    those in its Service's selector, last those that change with an upgrade.
    """
    stable = dict(_stable(pods))
    by_service = (service or {}).get("spec", {}).get("selector") or {}
    selector = _usual_selector(stable) or dict(by_service)
    rest = sorted(set(stable) - set(by_service), key=lambda key: (key in _UPGRADED_LABELS, key))
    remaining = [pod for pod in others if selects(selector, pod.labels)]
    for key in [*sorted(by_service), *rest]:
        if remaining and any(pod.labels.get(key) != stable.get(key) for pod in remaining):
            selector[key] = stable[key]
            remaining = [pod for pod in remaining if pod.labels.get(key) == stable[key]]
    return selector or stable


def _gateway(
    namespace: str,
    pods: Sequence[GatewayPod],
    everyone: Sequence[GatewayPod],
    services: Sequence[Mapping[str, Any]],
    selector: Mapping[str, str] | None = None,
) -> Gateway:
    """Make a Gateway of some of a namespace's gateway pods."""
    names = {pod.name for pod in pods}
    others = [pod for pod in everyone if pod.name not in names]
    in_front = _selecting(pods, services)
    alone = [
        s for s in in_front if not any(selects(s["spec"]["selector"], p.labels) for p in others)
    ]
    service = next(iter(alone or in_front), None)
    chosen = dict(selector) if selector else _selector_of(pods, others, service)
    labels = pods[0].labels
    api_name = labels.get(GATEWAY_API_LABEL)
    name = api_name or (alone[0]["metadata"]["name"] if alone else pods[0].owner.partition(" ")[2])
    if not name:
        name = service["metadata"]["name"] if service else labels.get("app")
    return Gateway(
        GatewayRef(namespace, name or labels.get(ISTIO_LABEL) or pods[0].name, chosen),
        tuple(pods),
        service,
        api_name is not None,
        tuple(in_front),
        tuple(f"{p.name} ({p.owner})" for p in others if selects(chosen, p.labels)),
    )
