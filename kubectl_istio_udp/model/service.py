"""A Kubernetes Service with its endpoints and pods."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from kubectl_istio_udp.model.names import QUERY_ANNOTATION

# The label of an EndpointSlice that names its Service.
SERVICE_LABEL = "kubernetes.io/service-name"
IPV4, IPV6 = "IPv4", "IPv6"
# The controller ignores further endpoints of a Service. The Endpoints API has the same limit
# (https://kubernetes.io/docs/concepts/services-networking/service/#over-capacity-endpoints).
MOST_ENDPOINTS = 1_000
EXPORT_TO_ANNOTATION = "networking.istio.io/exportTo"
# The label of pods in ambient mode. For them istiod lists internal HBONE addresses, which a UDP
# cluster cannot use (measured on Istio 1.31).
_AMBIENT_LABEL = "ambient.istio.io/redirection"


@dataclass(frozen=True)
class ServicePort:
    """One entry of a Service's spec.ports.

    Attributes:
        port: the Service's port number.
        name: its name; "" if it has none.
        protocol: UDP, TCP or SCTP.
        target_port: the number (int) or container port name (str) in the pods.
    """

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str = 0

    @classmethod
    def from_object(cls, entry: Mapping[str, Any]) -> ServicePort:
        """Read an entry of spec.ports and fill in the API's defaults."""
        return cls(
            port=entry["port"],
            name=entry.get("name") or "",
            protocol=entry.get("protocol", "TCP"),
            target_port=entry.get("targetPort") or entry["port"],
        )

    def __str__(self) -> str:
        """`53/UDP`, with a name: `53/UDP (dns)`."""
        text = f"{self.port}/{self.protocol}"
        return f"{text} ({self.name})" if self.name else text


@dataclass(frozen=True)
class Service:
    """A Service to expose.

    Attributes:
        namespace, name: of the Service.
        ports: its ports with any protocol.
        selector: its pod labels; empty if its endpoints are managed by hand.
        external_name: the DNS name of an ExternalName Service, else None.
        publish_not_ready: whether it also sends traffic to unready pods.
        query: the DNS name in the annotation `kubectl-istio-udp/query`, which `verify` queries.
        export_to: the namespaces whose proxies see it (Istio's annotation
            networking.istio.io/exportTo); empty if the annotation is missing.
        uid: its uid; "" if it is not in a cluster.
    """

    namespace: str
    name: str
    ports: tuple[ServicePort, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    external_name: str | None = None
    publish_not_ready: bool = False
    query: str | None = None
    export_to: tuple[str, ...] = ()
    uid: str = ""

    @classmethod
    def from_object(cls, service: Mapping[str, Any]) -> Service:
        """Read a v1 Service manifest."""
        metadata, spec = service["metadata"], service.get("spec") or {}
        notes = metadata.get("annotations") or {}
        return cls(
            namespace=metadata.get("namespace", "default"),
            name=metadata["name"],
            ports=tuple(ServicePort.from_object(entry) for entry in spec.get("ports") or ()),
            selector=spec.get("selector") or {},
            external_name=spec.get("externalName") if spec.get("type") == "ExternalName" else None,
            publish_not_ready=bool(spec.get("publishNotReadyAddresses")),
            query=notes.get(QUERY_ANNOTATION),
            export_to=tuple(notes.get(EXPORT_TO_ANNOTATION, "").replace(",", " ").split()),
            uid=metadata.get("uid") or "",
        )

    @property
    def udp_ports(self) -> tuple[ServicePort, ...]:
        """Its UDP ports."""
        return tuple(port for port in self.ports if port.protocol == "UDP")

    def tcp_twin(self, port: ServicePort) -> ServicePort | None:
        """The Service's TCP port with the same number and target; None if there is none."""
        for other in self.ports:
            same = (other.port, other.target_port) == (port.port, port.target_port)
            if other.protocol == "TCP" and same:
                return other
        return None

    def is_exported_to(self, namespace: str, default: Sequence[str]) -> bool:
        """Whether proxies of a namespace see it.

        In exportTo, `*` means every namespace and `.` the Service's own (Istio's reference,
        ServiceEntry.exportTo).

        Args:
            namespace: the proxies' namespace.
            default: meshConfig's defaultServiceExportTo.
        """
        visible = self.export_to or tuple(default) or ("*",)
        return (
            "*" in visible
            or namespace in visible
            or ("." in visible and namespace == self.namespace)
        )

    def __str__(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, order=True)
class Endpoint:
    """One endpoint of a Service's port.

    Attributes:
        address: an IP address.
        port: the port number.
        pod: the pod's name; "" if it is not a pod's address.
        ready: whether it gets new sessions (the EndpointSlice's condition `ready`).
        terminating: whether its pod is being deleted.
        serving: the EndpointSlice's condition `serving`: it answers, even if it is terminating.
    """

    address: str
    port: int
    pod: str = ""
    ready: bool = True
    terminating: bool = False
    serving: bool = True

    @property
    def target(self) -> str:
        """The name for tables: the pod, or the address if there is no pod."""
        return self.pod or self.address


@dataclass(frozen=True)
class EndpointSlice:
    """One discovery.k8s.io/v1 EndpointSlice of a Service.

    Attributes:
        family: IPv4, IPv6 or FQDN.
        ports: the port number by (name, protocol).
        endpoints: the endpoints with port 0 (the slice's ports apply to all of them).
    """

    family: str
    ports: Mapping[tuple[str, str], int]
    endpoints: tuple[Endpoint, ...]

    @classmethod
    def from_object(cls, manifest: Mapping[str, Any]) -> EndpointSlice:
        """Read an EndpointSlice manifest; missing conditions get the API's defaults.

        An endpoint with several addresses is one pod; clients use the first address (the API's
        documentation of `addresses`).
        """
        endpoints = []
        for entry in manifest.get("endpoints") or ():
            conditions = entry.get("conditions") or {}
            reference = entry.get("targetRef") or {}
            ready = conditions.get("ready") is not False
            serving = conditions.get("serving")
            endpoints.append(
                Endpoint(
                    address=_plain(entry["addresses"][0]),
                    port=0,
                    pod=reference.get("name", "") if reference.get("kind") == "Pod" else "",
                    ready=ready,
                    terminating=conditions.get("terminating") is True,
                    serving=ready if serving is None else serving,
                )
            )
        return cls(
            family=manifest.get("addressType", IPV4),
            ports={
                (port.get("name") or "", port.get("protocol", "TCP")): port["port"]
                for port in manifest.get("ports") or ()
                if port.get("port")
            },
            endpoints=tuple(endpoints),
        )


def _plain(address: str) -> str:
    """An address as Envoy writes it: IPv6 in its shortest form. A host name stays as it is."""
    if ":" in address:
        with suppress(ValueError):
            return str(ipaddress.ip_address(address))
    return address


def endpoints_of(
    slices: Iterable[EndpointSlice],
    port_name: str,
    families: Iterable[str],
    protocol: str = "UDP",
) -> tuple[Endpoint, ...]:
    """The endpoints of one port, in the first address family that has any.

    A dual-stack Service lists each pod once per family; using one family counts each pod once.

    Args:
        slices: all of the Service's EndpointSlices.
        port_name: the name of the Service's port; "" if it has none.
        families: the gateway's families (IPv4, IPv6), the preferred one first.
        protocol: UDP or TCP.

    Returns:
        The endpoints sorted by address, ready or not.
    """
    slices = tuple(slices)
    for family in families:
        found = {
            (endpoint.address, number): replace(endpoint, port=number)
            for each in slices
            if each.family == family and (number := each.ports.get((port_name, protocol)))
            for endpoint in each.endpoints
        }
        if found:
            return tuple(sorted(found.values()))
    return ()


@dataclass(frozen=True)
class Pod:
    """A pod of a Service.

    Attributes:
        name: the pod's name.
        ambient: whether it is in Istio's ambient mode.
        sidecar: whether it has an Istio proxy.
        ports: container port number by name.
        addresses: its own addresses while it runs; empty for a pod that has ended (another pod may
            have its address now) or uses the host's network.
        node_addresses: its node's addresses, for a running pod on the host's network.
        ended: whether it has ended (Succeeded or Failed).
    """

    name: str
    ambient: bool = False
    sidecar: bool = False
    ports: Mapping[str, int] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    node_addresses: tuple[str, ...] = ()
    ended: bool = False

    @classmethod
    def from_object(cls, pod: Mapping[str, Any]) -> Pod:
        """Read a v1 Pod manifest."""
        metadata, spec = pod["metadata"], pod.get("spec") or {}
        labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
        containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
        addresses = _addresses_of(pod.get("status") or {})
        on_host = bool(spec.get("hostNetwork"))
        return cls(
            name=metadata["name"],
            ambient="enabled" in (labels.get(_AMBIENT_LABEL), notes.get(_AMBIENT_LABEL)),
            addresses=() if on_host else addresses,
            node_addresses=addresses if on_host else (),
            ended=(pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"),
            sidecar=any(container["name"] == "istio-proxy" for container in containers),
            ports={
                port["name"]: port["containerPort"]
                for container in containers
                for port in container.get("ports") or ()
                if port.get("name") and port.get("protocol", "TCP") == "UDP"
            },
        )


def workload_labels(entry: Mapping[str, Any]) -> Mapping[str, str]:
    """The labels that istiod matches selectors of WorkloadEntries with: spec.labels, else metadata.

    Source: convertWorkloadEntry in istiod (pilot/pkg/serviceregistry/serviceentry).
    """
    spec = entry.get("spec") or {}
    return {**(spec.get("labels") or {}), **(entry["metadata"].get("labels") or {})}


def _addresses_of(status: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses in the status of a running pod."""
    if status.get("phase") != "Running":
        return ()
    listed = [entry["ip"] for entry in status.get("podIPs") or () if entry.get("ip")]
    return tuple(listed or filter(None, [status.get("podIP")]))


def service_port_endpoints(
    service: Service | None,
    slices: Iterable[EndpointSlice],
    port: ServicePort,
    families: Iterable[str],
) -> tuple[Endpoint, ...]:
    """The current endpoints of one UDP port of a Service, even if the port was renamed.

    EndpointSlices identify a port by its name. When the name changes, it changes first in the
    Service and a moment later in the EndpointSlices.

    Args:
        service: the current Service; None if it does not exist.
        slices: its EndpointSlices.
        port: the port as the Service had it before: its number, former name and target port (0 if
            that differs between pods).
        families: the gateway's families, the preferred one first.

    Returns:
        The endpoints sorted by address, ready or not.
    """
    slices, families = tuple(slices), tuple(families)
    all_ports = service.udp_ports if service else ()
    now = [p for p in all_ports if p.port == port.port]
    others = {p.name for p in all_ports if p.port != port.port}
    names = [p.name for p in now]
    # If the Service lacks the number, its port may have a new number.
    if not now or port.name not in others:
        names.append(port.name)
    for name in names:
        if found := endpoints_of(slices, name, families):
            return found
    target = now[0].target_port if now else port.target_port
    names = sorted(
        {
            name
            for each in slices
            for (name, protocol), number in each.ports.items()
            if (protocol, number) == ("UDP", target) and name not in others
        }
    )
    return endpoints_of(slices, names[0], families) if names else ()
