"""How many ports and sessions exposures use of a gateway."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import Gateway, GatewayRef, selects

Key = tuple[str, str]


@dataclass(frozen=True)
class Holder:
    """What one exposure uses.

    Attributes:
        key: its (namespace, name).
        ports: the number of ports.
        sessions: the number of sessions, over all its ports.
    """

    key: Key
    ports: int
    sessions: int

    def __str__(self) -> str:
        """`namespace/name 9000`."""
        return f"{self.key[0]}/{self.key[1]} {self.sessions}"


@dataclass(frozen=True)
class GatewayUsage:
    """What exposures use of a gateway together.

    Attributes:
        holders: the exposures, in any order.
    """

    holders: tuple[Holder, ...] = ()

    @property
    def ports(self) -> int:
        """The total number of ports."""
        return sum(holder.ports for holder in self.holders)

    @property
    def sessions(self) -> int:
        """The total number of sessions, over all ports."""
        return sum(holder.sessions for holder in self.holders)

    def largest(self, count: int) -> list[Holder]:
        """The exposures with the most sessions, at most this many, the largest first."""
        return heapq.nsmallest(count, self.holders, key=lambda h: (-h.sessions, h.key))

    @classmethod
    def of(
        cls,
        gateway: Gateway,
        root_namespace: str,
        specs: Iterable[ExposureSpec],
        without: Key | None = None,
    ) -> GatewayUsage:
        """Add up what exposures use of a gateway.

        Args:
            gateway: the gateway.
            root_namespace: the mesh's root namespace, whose EnvoyFilters apply to all namespaces.
            specs: the exposures, at any gateway. One may appear twice, as it is and as planned:
                the larger counts.
            without: (namespace, name) of the exposure to leave out.
        """
        labels = {frozenset(pod.labels.items()) for pod in gateway.pods}
        pods = [dict(pairs) for pairs in labels] or [dict(gateway.ref.selector)]
        most: dict[Key, Holder] = {}
        for spec in specs:
            key = spec.key
            if key == without or not _reaches(spec.gateway, gateway, root_namespace, pods):
                continue
            ports, sessions = len(spec.ports), spec.sessions
            if (former := most.get(key)) is not None:
                ports, sessions = max(ports, former.ports), max(sessions, former.sessions)
            most[key] = Holder(key, ports, sessions)
        return cls(tuple(most.values()))


def _reaches(
    ref: GatewayRef, gateway: Gateway, root_namespace: str, pods: Iterable[dict[str, str]]
) -> bool:
    """Whether an exposure's EnvoyFilter applies to one of a gateway's pods.

    Gateways with different names may share pods: the selectors decide.
    """
    if ref.namespace not in (gateway.ref.namespace, root_namespace):
        return False
    # Selectors are nearly always equal, and comparing two dicts takes a tenth of the time.
    if ref.selector == gateway.ref.selector:
        return True
    return any(selects(ref.selector, labels) for labels in pods)
