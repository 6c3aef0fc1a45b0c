"""An Istio gateway: pods that run Envoy as a router, and the Service in front of them."""

from __future__ import annotations

import itertools
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
from kubectl_istio_udp.model.ports import FIRST_UNPRIVILEGED_PORT
from kubectl_istio_udp.model.quantity import quantity
from kubectl_istio_udp.model.service import IPV4, IPV6

GATEWAY_API_LABEL = "gateway.networking.k8s.io/gateway-name"
ISTIO_LABEL = "istio"
PROXY_CONTAINER = "istio-proxy"
# An administrator's label on a Namespace: gateways are there. Where one has it, only these count.
GATEWAYS_LABEL = "kubectl-istio-udp/gateways"
_UNPRIVILEGED_SYSCTL = "net.ipv4.ip_unprivileged_port_start"
_META_PREFIX = "ISTIO_META_"
_VARIANTS = ("-distroless", "-debug")
# istiod's injection and its template for Gateway API gateways leave one of these on a pod.
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
    """Which gateway, as an exposure's annotation keeps it.

    Attributes:
        namespace: the namespace of its pods; EnvoyFilters for it live there.
        name: its Service's name, or the Gateway API's name for it.
        selector: the pod labels that select it and nothing else.
    """

    namespace: str
    name: str
    selector: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse what could select every pod, or nothing.

        Raises:
            ValueError: a name is missing, or the selector has no label.
        """
        if not (isinstance(self.name, str) and isinstance(self.namespace, str)):
            raise ValueError("a gateway has a namespace and a name")
        if not isinstance(self.selector, Mapping) or not self.selector:
            raise ValueError("a gateway has a selector")

    @classmethod
    def from_fields(cls, fields: Fields) -> GatewayRef:
        """Read the gateway of a spec annotation.

        Raises:
            ValueError: a field is missing or wrong.
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
        """Whether it is the same gateway.

        Its name may have come from a Service that went. Labels are added to its selector when
        another gateway appears from which it must be told.
        """
        if self.namespace != other.namespace:
            return False
        mine, theirs = dict(self.selector).items(), dict(other.selector).items()
        return mine == theirs or (self.name == other.name and (mine <= theirs or mine >= theirs))


@dataclass(frozen=True)
class GatewayPod:
    """One pod of a gateway.

    Attributes:
        name: its name.
        ips: its addresses, one a family; empty before it has any.
        ready: whether its Ready condition is true.
        labels: its labels.
        first_bindable: the lowest port that its Envoy may bind.
        domain: the cluster's DNS domain as the proxy was told.
        version: the version that its proxy tells istiod, from the image's tag; "" where unknown.
        metadata: what its proxy tells istiod besides (ISTIO_META_...), as far as it is known.
        control_plane: the istiod that configures it.
        host_network: whether it uses its node's network: the ports that it binds are the node's.
        owner: the workload that it belongs to: `Deployment edge`; "" where it has none.
        by_istiod: whether istiod made its proxy, as far as its annotations tell.
        memory_limit: the bytes that its proxy may take; None for no limit.
        cpu_limit: the cores that its proxy may take; None for no limit.
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

    @property
    def istio(self) -> Version | None:
        """The Istio version (major, minor) of its proxy, None where it is not known."""
        return parse_version(self.version)

    @classmethod
    def from_object(cls, pod: Mapping[str, Any]) -> GatewayPod:
        """Read a v1 Pod manifest that has a container `istio-proxy`."""
        metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
        proxy = next(c for c in spec["containers"] if c["name"] == PROXY_CONTAINER)
        limits = (proxy.get("resources") or {}).get("limits") or {}
        conditions = status.get("conditions") or ()
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        addresses = [entry["ip"] for entry in status.get("podIPs") or ()]
        return cls(
            name=metadata["name"],
            ips=tuple(addresses or filter(None, [status.get("podIP")])),
            ready=ready,
            labels=metadata.get("labels") or {},
            first_bindable=_first_bindable(spec, proxy),
            domain=_domain(proxy.get("args") or ()),
            version=_version(proxy),
            metadata=_proxy_metadata(metadata, proxy),
            control_plane=ControlPlane.of_proxy(metadata, proxy),
            host_network=bool(spec.get("hostNetwork")),
            owner=_owner(metadata),
            by_istiod=_is_by_istiod(metadata, proxy),
            # Kubernetes takes a limit of 0 for none.
            memory_limit=quantity(limits.get("memory")) or None,
            cpu_limit=quantity(limits.get("cpu")) or None,
        )


def _first_bindable(spec: Mapping[str, Any], proxy: Mapping[str, Any]) -> int:
    """The lowest port that a pod's proxy may bind.

    Linux lets a process with NET_BIND_SERVICE bind any port. Container runtimes give the
    capability to root alone: one that is added for another user does not reach the process
    (capabilities(7); Kubernetes sets no ambient capabilities).
    """
    of_pod, own = spec.get("securityContext") or {}, proxy.get("securityContext") or {}
    for sysctl in of_pod.get("sysctls") or ():
        if sysctl["name"] == _UNPRIVILEGED_SYSCTL:
            return int(sysctl["value"])
    capabilities = own.get("capabilities") or {}
    dropped = {str(name).removeprefix("CAP_") for name in capabilities.get("drop") or ()}
    added = {str(name).removeprefix("CAP_") for name in capabilities.get("add") or ()}
    capable = (
        bool({"NET_BIND_SERVICE", "ALL"} & added)
        or not {"NET_BIND_SERVICE", "ALL"} & dropped
        or bool(own.get("privileged"))
    )
    root = own.get("runAsUser", of_pod.get("runAsUser")) == 0
    return 1 if root and capable else FIRST_UNPRIVILEGED_PORT


def _version(proxy: Mapping[str, Any]) -> str:
    """`1.31.0` of an image tagged `1.31.0-distroless`; "" where the tag is no version."""
    tag = image_tag(proxy)
    for variant in _VARIANTS:
        tag = tag.removesuffix(variant)
    return tag.removeprefix("v") if parse_version(tag) else ""


def _proxy_metadata(metadata: Mapping[str, Any], proxy: Mapping[str, Any]) -> dict[str, str]:
    """What a proxy tells istiod of itself: ISTIO_META_X as X (pkg/bootstrap/config.go)."""
    said = {
        name.removeprefix(_META_PREFIX): value
        for name, value in environment(proxy).items()
        if name.startswith(_META_PREFIX)
    }
    return {**said, "NAME": metadata["name"], "NAMESPACE": metadata.get("namespace", "")}


def _is_by_istiod(metadata: Mapping[str, Any], proxy: Mapping[str, Any]) -> bool:
    """Whether a pod's proxy has what istiod's templates, and Istio's charts, leave on each."""
    notes = metadata.get("annotations") or {}
    return "CA_ADDR" in environment(proxy) or any(key in notes for key in _ISTIOD_ANNOTATIONS)


def _owner(metadata: Mapping[str, Any]) -> str:
    """The workload of a pod, `Deployment edge`; a Deployment's ReplicaSets go by its name."""
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
    """A gateway as it is in the cluster.

    Attributes:
        ref: its namespace, name and selector.
        pods: its pods, by name.
        service: the manifest of the Service in front of it; None where there is none.
        api: whether the Kubernetes Gateway API made it (so that istiod owns its Service).
        service_names: the names of all Services that select its pods.
        also_selected: pods of other gateways that no label tells from its own, `POD (WORKLOAD)`.
    """

    ref: GatewayRef
    pods: tuple[GatewayPod, ...] = ()
    service: Mapping[str, Any] | None = None
    api: bool = False
    service_names: tuple[str, ...] = ()
    also_selected: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`namespace/name (Deployment name)`."""
        return f"{self.ref} ({', '.join(self.owners) or 'pods without a workload'})"

    def kept(self, before: GatewayRef | None) -> Gateway:
        """The same gateway by the name by which an exposure is at it already.

        Args:
            before: the gateway that the exposure is at; None for a new exposure. A gateway's name
                may have come from a Service that went.
        """
        same = before and before.same_pods(self.ref) and before.selector == self.ref.selector
        return replace(self, ref=before) if before and same else self

    @property
    def owners(self) -> tuple[str, ...]:
        """Its workloads: `Deployment edge`."""
        return tuple(sorted({pod.owner for pod in self.pods if pod.owner}))

    @property
    def by_istiod(self) -> bool:
        """Whether istiod made its proxies and a Service is in front of them."""
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
        """The pods that take traffic."""
        return tuple(pod for pod in self.pods if pod.ready)

    @property
    def families(self) -> tuple[str, ...]:
        """The address families that all of its pods have, the primary one first."""
        having = [[IPV6 if ":" in ip else IPV4 for ip in pod.ips] for pod in self.pods if pod.ips]
        if not having:
            return (IPV4,)
        return tuple(family for family in having[0] if all(family in each for each in having))

    @property
    def first_bindable(self) -> int:
        """The lowest port that every one of its pods may bind."""
        return max((pod.first_bindable for pod in self.pods), default=FIRST_UNPRIVILEGED_PORT)

    @property
    def domain(self) -> str:
        """The cluster's DNS domain."""
        return self.pods[0].domain if self.pods else "cluster.local"

    @property
    def istio(self) -> Version | None:
        """The oldest Istio version (major, minor) among its pods, None where no tag tells."""
        return oldest(pod.istio for pod in self.pods)

    @property
    def memory_limit(self) -> int | None:
        """The bytes that every one of its proxies may take; None where none has a limit."""
        limits = [pod.memory_limit for pod in self.pods if pod.memory_limit is not None]
        return int(min(limits)) if limits else None

    @property
    def cores(self) -> float | None:
        """The cores that each of its proxies may take; None where one has no limit."""
        limits = [pod.cpu_limit for pod in self.pods]
        known = [limit for limit in limits if limit is not None]
        return max(known) if known and len(known) == len(limits) else None

    @property
    def service_name(self) -> str | None:
        """The name of the Service in front of it, None where there is none."""
        return self.service["metadata"]["name"] if self.service else None

    def answers_to(self, name: str) -> bool:
        """Whether a user's `--gateway NAME` means this one: by its name, a Service or a workload.

        A Service in front of several gateways means each of them.
        """
        workloads = {owner.partition(" ")[2] for owner in self.owners}
        return name in {self.ref.name, *self.service_names, *workloads}

    def is_labelled(self, name: str) -> bool:
        """Whether its pods have this value in a label that Istio's installations give them."""
        labels = self.pods[0].labels if self.pods else {}
        return name in (labels.get(ISTIO_LABEL), labels.get("app"))


def is_gateway_pod(pod: Mapping[str, Any]) -> bool:
    """Whether a Pod manifest is a gateway's: Istio's proxy in it, run as a router, to stay.

    istiod (label `istio: pilot`) has no such container; an injected workload runs `proxy sidecar`,
    ambient mode's own `proxy waypoint` and `proxy ztunnel`.
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
    """Whether an equality selector (all pairs must match, empty matches all) selects labels."""
    return all(labels.get(key) == value for key, value in selector.items())


def compatible(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether a set of labels may be selected by both of two selectors."""
    return all(other.get(key, value) == value for key, value in one.items())


def gateways_from(
    pods: Iterable[Mapping[str, Any]],
    services: Iterable[Mapping[str, Any]],
    selector: Mapping[str, str] | None = None,
) -> tuple[Gateway, ...]:
    """Group gateway pods into gateways.

    Pods are one gateway that the same Services select, or that are of one workload where no
    Service selects them; those of the Gateway API are by its name for them.

    Args:
        pods: Pod manifests; those that are no gateway's are passed over.
        services: Service manifests of the gateways' namespaces.
        selector: the user's `--gateway-selector`: then every pod it selects belongs to one
            gateway a namespace.
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
        there = in_front.get(namespace, [])
        groups = [members] if selector else _grouped(members, there)
        gateways += [_gateway(namespace, group, members, there, selector) for group in groups]
    return tuple(sorted(gateways, key=lambda gateway: (gateway.ref.namespace, gateway.ref.name)))


def _in_front(services: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The Services that may be gateways', by namespace, the oldest first.

    The oldest is the installation's; what was put beside it later is somebody's extra.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for service in services:
        labels = service["metadata"].get("labels") or {}
        ours = labels.get(MANAGED_BY_LABEL) == MANAGER
        if not ours and (service.get("spec") or {}).get("selector"):
            found.setdefault(service["metadata"]["namespace"], []).append(service)
    for each in found.values():
        each.sort(key=lambda s: (s["metadata"].get("creationTimestamp", ""), s["metadata"]["name"]))
    return found


def _selecting(
    pods: Sequence[GatewayPod], services: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The Services that select every one of some pods."""
    return [s for s in services if all(selects(s["spec"]["selector"], p.labels) for p in pods)]


def _grouped(
    pods: Sequence[GatewayPod], services: Sequence[Mapping[str, Any]]
) -> list[list[GatewayPod]]:
    """The pods of a namespace by gateway."""
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
    """The labels by which Istio's installations select a gateway."""
    if GATEWAY_API_LABEL in labels:
        return {GATEWAY_API_LABEL: labels[GATEWAY_API_LABEL]}
    return {key: labels[key] for key in ("app", ISTIO_LABEL) if key in labels}


def _stable(pods: Sequence[GatewayPod]) -> tuple[tuple[str, str], ...]:
    """The labels that all of some pods have and keep."""
    first, *others = (set(pod.labels.items()) for pod in pods)
    return tuple(sorted(p for p in first.intersection(*others) if p[0] not in _VOLATILE_LABELS))


def _selector_of(
    pods: Sequence[GatewayPod],
    others: Sequence[GatewayPod],
    service: Mapping[str, Any] | None,
) -> dict[str, str]:
    """The labels that select a gateway's pods, and as few of the others as labels can.

    To the usual ones those are added that tell it from another gateway: first what its Service
    selects by, last what changes with an upgrade.
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
    """The gateway that some of a namespace's gateway pods are."""
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
        tuple(s["metadata"]["name"] for s in in_front),
        tuple(f"{p.name} ({p.owner})" for p in others if selects(chosen, p.labels)),
    )
