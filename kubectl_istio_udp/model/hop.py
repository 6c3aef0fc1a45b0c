"""The hops that a datagram or a request takes, as places to send probes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Via(str, Enum):
    """By what hop a probe goes, nearest to the server first."""

    POD = "pod"
    SIDECAR = "sidecar"
    GATEWAY = "gateway"
    SERVICE = "service"


@dataclass(frozen=True)
class Hop:
    """One place to send probes to.

    Attributes:
        via: which kind of hop.
        name: its pod or Service.
        address, port: where the probes go.
        service_port: the exposed Service's port that this leads to; of an HTTP response the port
            that requests are for.
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
