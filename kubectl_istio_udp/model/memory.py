"""How much of a gateway's memory its UDP listeners take.

Envoy's UDP proxy keeps, in each worker, a record of every cluster that comes or changes while its
listener is there, not only of its own (`UdpProxyFilter::onClusterAddOrUpdate`, since the matcher of
envoyproxy/envoy#18791; Envoy 1.40 still). So memory grows as ports times workers times clusters. A
gateway limited to 1 GiB was killed for it at some 900 ports, and all of its traffic with it
(measured; after a restart, when the clusters come first, the same takes a quarter).
"""

from __future__ import annotations

from dataclasses import dataclass

# Of one cluster, for one port in one worker; and of a port with its own cluster (both measured).
_RECORD_BYTES = 400
_PORT_BYTES = 180_000
# Where nobody can say how many workers there are.
CAREFUL_WORKERS = 8
# The rest of a gateway's memory is for the traffic and the clusters of others.
_UDP_SHARE = 0.5


@dataclass(frozen=True)
class ProxySize:
    """How big a gateway's Envoy is: what decides how much memory a UDP listener takes there.

    Attributes:
        workers: its worker threads.
        clusters: how many clusters it has.
    """

    workers: int
    clusters: int

    def udp_bytes(self, ports: int) -> int:
        """The most that so many exposed ports take, in bytes."""
        return ports * (_PORT_BYTES + self.workers * self.clusters * _RECORD_BYTES)


def udp_budget(limit: int) -> int:
    """The bytes that UDP listeners may take of a gateway pod's memory limit (bytes)."""
    return int(limit * _UDP_SHARE)
