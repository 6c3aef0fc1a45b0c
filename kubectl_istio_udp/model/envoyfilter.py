"""What EnvoyFilters of other people already take on a gateway: names and bind ports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model.gateway import Gateway, selects
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.names import owner_of

# In proto's JSON an enum may be its name or its number, and a number may be a string.
_UDP = ("UDP", 1)


@dataclass(frozen=True)
class Claims:
    """The listeners and clusters that one EnvoyFilter adds.

    Attributes:
        owner: the EnvoyFilter, `namespace/name`.
        listeners: names of the listeners it adds.
        clusters: names of the clusters it adds.
        udp_ports: UDP ports its listeners bind.
        exposure: (namespace, name) of the exposure it belongs to, None for other people's.
    """

    owner: str
    listeners: frozenset[str] = frozenset()
    clusters: frozenset[str] = frozenset()
    udp_ports: frozenset[int] = frozenset()
    exposure: tuple[str, str] | None = None

    @classmethod
    def from_object(cls, envoy_filter: Mapping[str, Any]) -> Claims:
        """Read an EnvoyFilter manifest; parts that are not understood claim nothing."""
        metadata = envoy_filter["metadata"]
        owner = owner_of(metadata.get("labels") or {})
        listeners: set[str] = set()
        clusters: set[str] = set()
        ports: set[int] = set()
        for entry in record(envoy_filter.get("spec")).get("configPatches") or ():
            patch = record(record(entry).get("patch"))
            value = record(patch.get("value"))
            name = value.get("name")
            if patch.get("operation") != "ADD" or not isinstance(name, str) or not name:
                continue
            if entry.get("applyTo") == "CLUSTER":
                clusters.add(name)
            if entry.get("applyTo") == "LISTENER":
                listeners.add(name)
                ports.update(_udp_ports(value))
        return cls(
            owner=f"{metadata['namespace']}/{metadata['name']}",
            listeners=frozenset(listeners),
            clusters=frozenset(clusters),
            udp_ports=frozenset(ports),
            exposure=owner[1:] if owner and owner[0] is Kind.EXPOSURE else None,
        )


def record(value: object) -> Mapping[str, Any]:
    """A JSON object as it is, anything else as an empty one: what it says is not understood."""
    return value if isinstance(value, Mapping) else {}


def _udp_ports(listener: Mapping[str, Any]) -> set[int]:
    """The UDP ports of a listener, written in proto's JSON (either spelling of a field)."""
    addresses = [listener.get("address")]
    extra = listener.get("additional_addresses", listener.get("additionalAddresses"))
    if isinstance(extra, list):
        addresses += [record(each).get("address") for each in extra]
    ports = set()
    for address in map(record, addresses):
        socket = record(address.get("socket_address", address.get("socketAddress")))
        number = str(socket.get("port_value", socket.get("portValue", "")))
        if socket.get("protocol") in _UDP and re.fullmatch("[0-9]{1,5}", number):
            ports.add(int(number))
    return ports


def applies_to(envoy_filter: Mapping[str, Any], gateway: Gateway, root_namespace: str) -> bool:
    """Whether istiod may hand an EnvoyFilter to a gateway's pods.

    In the gateway's own namespace and in the root namespace, by workloadSelector (none selects
    all). A targetRefs (Istio 1.27 and newer; ignored before) counts as selecting: too careful
    is right here.
    """
    if envoy_filter["metadata"]["namespace"] not in (gateway.ref.namespace, root_namespace):
        return False
    spec = envoy_filter.get("spec") or {}
    labels = (spec.get("workloadSelector") or {}).get("labels") or {}
    if not gateway.pods:
        return selects(labels, gateway.ref.selector)
    return any(selects(labels, pod.labels) for pod in gateway.pods)
