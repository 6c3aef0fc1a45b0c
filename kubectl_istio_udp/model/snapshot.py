"""What one look at the cluster saw, before anything is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.model.envoyfilter import Claims
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.memory import ProxySize
from kubectl_istio_udp.model.service import EndpointSlice, Pod, Service
from kubectl_istio_udp.model.usage import GatewayUsage


@dataclass(frozen=True)
class BoundListener:
    """A listener that a gateway's Envoy has right now.

    Attributes:
        name: its name.
        port: the port it binds.
        protocol: UDP or TCP.
        pod: the gateway pod that was asked.
    """

    name: str
    port: int
    protocol: str
    pod: str


@dataclass(frozen=True)
class Snapshot:
    """The state that a decision about one exposure rests on.

    Attributes:
        service: the Service to expose.
        slices: its EndpointSlices.
        pods: its pods.
        gateway: the gateway chosen.
        claims: what the EnvoyFilters that may reach this gateway add to it.
        bound: the listeners in the gateway's own Envoy; None where it could not be asked.
        file_limit: how many files that Envoy may open; None where that is not known.
        size: what decides about the memory that a UDP port takes there; None where not known.
        others: what the gateway's other exposures hold of it.
        objects: manifests of the objects there are under the names this exposure would use.
        exposures: the exposures of the same name, wherever they are.
    """

    service: Service
    slices: tuple[EndpointSlice, ...]
    pods: tuple[Pod, ...]
    gateway: Gateway
    claims: tuple[Claims, ...] = ()
    bound: tuple[BoundListener, ...] | None = None
    file_limit: int | None = None
    size: ProxySize | None = None
    others: GatewayUsage = field(default_factory=GatewayUsage)
    objects: tuple[Mapping[str, Any], ...] = ()
    exposures: tuple[ExposureSpec, ...] = ()
