"""Hops: the Services and pods between client and server that `verify` sends probes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Via(str, Enum):
    """The kind of a hop, the nearest to the server first."""

    POD = "pod"
    SIDECAR = "sidecar"
    GATEWAY = "gateway"
    SERVICE = "service"


@dataclass(frozen=True)
class Hop:
    """A Service or pod to send probes to.

    Attributes:
        via: the kind of hop.
        name: the name of its pod or Service.
        address, port: where probes are sent.
        service_port: the port of the exposed Service that this leads to, 0 if it leads to several
            Services; for an HTTP response the port of the requests.
    """

    via: Via
    name: str
    address: str
    port: int
    service_port: int

    @property
    def target(self) -> str:
        """`10.244.0.5:53`, or `[2001:db8::1]:53`."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"
