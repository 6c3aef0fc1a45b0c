"""The state of the cluster that `expose` decides from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.model.endpointrules import ANY_ADDRESS, EndpointRules
from kubectl_istio_udp.model.entries import EntryIndex
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.memory import ProxySize
from kubectl_istio_udp.model.mesh import DEFAULT_MESH, Mesh
from kubectl_istio_udp.model.proxystate import BoundListener
from kubectl_istio_udp.model.service import EndpointSlice, Pod, Service
from kubectl_istio_udp.model.usage import Usage


@dataclass(frozen=True)
class Snapshot:
    """The state of the cluster for planning one exposure.

    Attributes:
        service: the Service to expose.
        slices: its EndpointSlices.
        pods: its pods.
        gateway: the chosen gateway.
        mesh: the settings of the gateway's mesh.
        namespaces: the labels of the relevant namespaces that could be read.
        footprints: what the EnvoyFilters that may apply to this gateway add to it.
        bound: the active listeners in the gateway's Envoy; None if it could not be queried.
        file_limit: the open-file limit of that Envoy; None if unknown.
        size: the size of that Envoy, for the memory estimate; None if unknown.
        others: what the gateway's other exposures use of it.
        objects: manifests of existing objects with the names that this exposure would use.
        exposures: the exposures with the same name, at any gateway.
        before: the current exposure, from its EnvoyFilter at this gateway; None if there is none.
        entries: all ServiceEntries that could be read.
        rules: which addresses may be endpoints.
        secret: a value known only to users who can read the gateway; stable between runs if
            possible.
        workload_entries: the names of WorkloadEntries that the Service's selector matches.
        others_addresses: the endpoints of the Service that are pods of other namespaces or nodes,
            each as (address, owner).
    """

    service: Service
    slices: tuple[EndpointSlice, ...]
    pods: tuple[Pod, ...]
    gateway: Gateway
    mesh: Mesh = DEFAULT_MESH
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    footprints: tuple[Footprint, ...] = ()
    bound: tuple[BoundListener, ...] | None = None
    file_limit: int | None = None
    size: ProxySize | None = None
    others: Usage = field(default_factory=Usage)
    objects: tuple[Mapping[str, Any], ...] = ()
    exposures: tuple[ExposureSpec, ...] = ()
    before: ExposureSpec | None = None
    entries: EntryIndex = field(default_factory=EntryIndex)
    rules: EndpointRules = ANY_ADDRESS
    workload_entries: tuple[str, ...] = ()
    others_addresses: tuple[tuple[str, str], ...] = ()
    secret: str = ""

    def reads_namespace(self, namespace: str) -> bool:
        """Whether istiod reads the objects of a namespace; True if its labels are unknown."""
        labels = self.namespaces.get(namespace)
        return labels is None or self.mesh.reads_namespace(labels)
