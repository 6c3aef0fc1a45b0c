"""What one look at the cluster saw, before anything is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.model.endpointrules import ANY_ADDRESS, EndpointRules
from kubectl_istio_udp.model.entries import EntrySummary
from kubectl_istio_udp.model.envoyfilter import Claims
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.memory import ProxySize
from kubectl_istio_udp.model.mesh import DEFAULT_MESH, Mesh
from kubectl_istio_udp.model.proxystate import BoundListener
from kubectl_istio_udp.model.service import EndpointSlice, Pod, Service
from kubectl_istio_udp.model.usage import GatewayUsage


@dataclass(frozen=True)
class Snapshot:
    """The state that a decision about one exposure rests on.

    Attributes:
        service: the Service to expose.
        slices: its EndpointSlices.
        pods: its pods.
        gateway: the gateway chosen.
        mesh: the settings of the gateway's mesh.
        namespaces: the labels of the namespaces concerned, as far as they could be read.
        claims: what the EnvoyFilters that may reach this gateway add to it.
        bound: the listeners in the gateway's own Envoy; None where it could not be asked.
        file_limit: how many files that Envoy may open; None where that is not known.
        size: what decides about the memory that a UDP port takes there; None where not known.
        others: what the gateway's other exposures hold of it.
        objects: manifests of the objects there are under the names this exposure would use.
        exposures: the exposures of the same name, wherever they are.
        before: the exposure as its EnvoyFilter at this gateway says; None where there is none.
        entries: all ServiceEntries that could be seen.
        rules: which addresses may be endpoints.
        secret: what only those know who may see the gateway; the same at every look, where that
            is possible.
        workload_entries: the names of the WorkloadEntries that the Service's selector selects.
    """

    service: Service
    slices: tuple[EndpointSlice, ...]
    pods: tuple[Pod, ...]
    gateway: Gateway
    mesh: Mesh = DEFAULT_MESH
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    claims: tuple[Claims, ...] = ()
    bound: tuple[BoundListener, ...] | None = None
    file_limit: int | None = None
    size: ProxySize | None = None
    others: GatewayUsage = field(default_factory=GatewayUsage)
    objects: tuple[Mapping[str, Any], ...] = ()
    exposures: tuple[ExposureSpec, ...] = ()
    before: ExposureSpec | None = None
    entries: tuple[EntrySummary, ...] = ()
    rules: EndpointRules = ANY_ADDRESS
    workload_entries: tuple[str, ...] = ()
    secret: str = ""

    def reads_namespace(self, namespace: str) -> bool:
        """Whether istiod reads the objects of a namespace, as far as its labels are known."""
        labels = self.namespaces.get(namespace)
        return labels is None or self.mesh.reads_namespace(labels)
