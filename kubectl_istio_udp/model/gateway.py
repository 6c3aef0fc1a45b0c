"""An Istio gateway: pods that run Envoy as a router, and the Service in front of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.model.errors import NotFound, UsageError
from kubectl_istio_udp.model.fields import Fields, dns_label, labels, object_or_label
from kubectl_istio_udp.model.mesh import Version, image_version, oldest
from kubectl_istio_udp.model.names import MANAGED_BY_LABEL, MANAGER
from kubectl_istio_udp.model.ports import FIRST_UNPRIVILEGED_PORT
from kubectl_istio_udp.model.quantity import quantity
from kubectl_istio_udp.model.service import IPV4, IPV6

GATEWAY_API_LABEL = "gateway.networking.k8s.io/gateway-name"
ISTIO_LABEL = "istio"
PROXY_CONTAINER = "istio-proxy"
# The values of label `istio` that Istio's own installations give an ingress gateway: istioctl's
# and that of `helm install istio-ingress istio/gateway`.
_INGRESS_VALUES = frozenset({"ingressgateway", "ingress"})
_UNPRIVILEGED_SYSCTL = "net.ipv4.ip_unprivileged_port_start"


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
        """Whether it is the same gateway; its name may have come from a Service that went."""
        return self.namespace == other.namespace and dict(self.selector) == dict(other.selector)


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
        istio: the Istio version (major, minor) its image tag tells, None where it does not.
        memory_limit: the bytes that its proxy may take; None for no limit.
        cpu_limit: the cores that its proxy may take; None for no limit.
    """

    name: str
    ips: tuple[str, ...] = ()
    ready: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    first_bindable: int = FIRST_UNPRIVILEGED_PORT
    domain: str = "cluster.local"
    istio: Version | None = None
    memory_limit: float | None = None
    cpu_limit: float | None = None

    @classmethod
    def from_object(cls, pod: Mapping[str, Any]) -> GatewayPod:
        """Read a v1 Pod manifest that has a container `istio-proxy`."""
        metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
        proxy = next(c for c in spec["containers"] if c["name"] == PROXY_CONTAINER)
        sysctls = (spec.get("securityContext") or {}).get("sysctls") or ()
        first = [int(s["value"]) for s in sysctls if s["name"] == _UNPRIVILEGED_SYSCTL]
        limits = (proxy.get("resources") or {}).get("limits") or {}
        conditions = status.get("conditions") or ()
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        addresses = [entry["ip"] for entry in status.get("podIPs") or ()]
        return cls(
            name=metadata["name"],
            ips=tuple(addresses or filter(None, [status.get("podIP")])),
            ready=ready,
            labels=metadata.get("labels") or {},
            first_bindable=first[0] if first else FIRST_UNPRIVILEGED_PORT,
            domain=_domain(proxy.get("args") or ()),
            istio=image_version(proxy),
            # Kubernetes takes a limit of 0 for none.
            memory_limit=quantity(limits.get("memory")) or None,
            cpu_limit=quantity(limits.get("cpu")) or None,
        )


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
    """

    ref: GatewayRef
    pods: tuple[GatewayPod, ...] = ()
    service: Mapping[str, Any] | None = None
    api: bool = False

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
        """Whether a user's `--gateway NAME` means this one."""
        labels = self.pods[0].labels if self.pods else {}
        names = {self.ref.name, self.service_name, labels.get(ISTIO_LABEL), labels.get("app")}
        return name in names


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


def gateways_from(
    pods: Iterable[Mapping[str, Any]],
    services: Iterable[Mapping[str, Any]],
    selector: Mapping[str, str] | None = None,
) -> tuple[Gateway, ...]:
    """Group gateway pods into gateways.

    Args:
        pods: Pod manifests; those that are no gateway's are passed over.
        services: Service manifests of the gateways' namespaces.
        selector: the user's `--gateway-selector`: then every pod it selects belongs to one
            gateway a namespace. Otherwise pods go together by their Gateway API name, or by
            their labels `app` and `istio`.
    """
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[GatewayPod]] = {}
    for pod in pods:
        labels = pod["metadata"].get("labels") or {}
        if not is_gateway_pod(pod) or (selector and not selects(selector, labels)):
            continue
        key = (pod["metadata"]["namespace"], tuple((selector or _own_selector(labels)).items()))
        groups.setdefault(key, []).append(GatewayPod.from_object(pod))
    found = [
        _gateway(namespace, dict(pairs), members, services)
        for (namespace, pairs), members in groups.items()
    ]
    return tuple(sorted(found, key=lambda gateway: (gateway.ref.namespace, gateway.ref.name)))


def _own_selector(labels: Mapping[str, str]) -> dict[str, str]:
    if GATEWAY_API_LABEL in labels:
        return {GATEWAY_API_LABEL: labels[GATEWAY_API_LABEL]}
    return {key: labels[key] for key in ("app", ISTIO_LABEL) if key in labels}


def _gateway(
    namespace: str,
    selector: Mapping[str, str],
    members: Sequence[GatewayPod],
    services: Iterable[Mapping[str, Any]],
) -> Gateway:
    pods = tuple(sorted(members, key=lambda pod: pod.name))
    in_front = [
        service
        for service in services
        if service["metadata"]["namespace"] == namespace
        and (service["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) != MANAGER
        and (service.get("spec") or {}).get("selector")
        and all(selects(service["spec"]["selector"], pod.labels) for pod in pods)
    ]
    # The oldest is the installation's own; what was put beside it later is somebody's extra.
    in_front.sort(key=lambda s: (s["metadata"].get("creationTimestamp", ""), s["metadata"]["name"]))
    service = in_front[0] if in_front else None
    labels = pods[0].labels
    api_name = labels.get(GATEWAY_API_LABEL)
    name = api_name or (service["metadata"]["name"] if service else None)
    name = name or labels.get("app") or labels.get(ISTIO_LABEL) or pods[0].name
    return Gateway(GatewayRef(namespace, name, selector), pods, service, api_name is not None)


def choose_gateway(
    gateways: Sequence[Gateway], name: str | None, *, selector_given: bool = False
) -> Gateway:
    """Pick the gateway a command is about.

    Args:
        gateways: all that were found.
        name: the user's `--gateway`, `NAME` or `NAMESPACE/NAME`, or None.
        selector_given: whether `--gateway-selector` found them, so that any kind counts.

    Raises:
        NotFound: there is none, or none of that name.
        UsageError: there are several and nothing chooses one; the message lists them.
    """
    if name:
        namespace, _, plain = name.rpartition("/")
        matching = [
            gateway
            for gateway in gateways
            if gateway.answers_to(plain) and namespace in ("", gateway.ref.namespace)
        ]
    else:
        matching = [g for g in gateways if selector_given or _is_ingress(g)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        listed = ", ".join(str(gateway.ref) for gateway in matching)
        raise UsageError(
            f"there are several gateways: {listed}",
            hints=[f"choose one: --gateway {matching[0].ref}"],
        )
    wanted = (
        f"no gateway named {name} has a running pod"
        if name
        else "no Istio ingress gateway has a running pod"
    )
    others = [str(gateway.ref) for gateway in gateways]
    raise NotFound(
        wanted,
        hints=[
            f"gateways there are: {', '.join(others)}; choose one with --gateway"
            if others
            else "look for gateway pods: kubectl get pods -A -l istio; "
            "name them with --gateway-selector KEY=VALUE"
        ],
    )


def _is_ingress(gateway: Gateway) -> bool:
    labels = gateway.pods[0].labels if gateway.pods else {}
    return gateway.api or labels.get(ISTIO_LABEL) in _INGRESS_VALUES
