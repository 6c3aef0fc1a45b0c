"""Estimate the memory that UDP listeners take in a gateway.

Every worker of Envoy's UDP proxy keeps a record of each cluster that is added or changed while its
listener exists, not only of its own cluster (`UdpProxyFilter::onClusterAddOrUpdate`, since the
matcher of envoyproxy/envoy#18791; still in Envoy 1.40). So memory grows with ports x workers x
clusters. A gateway with a limit of 1 GiB was killed at about 900 ports, which broke all of its
traffic (measured; after a restart, when clusters come first, it takes a quarter).
"""

from __future__ import annotations

from dataclasses import dataclass

# Per cluster, port and worker; and per port with its cluster (both measured).
_RECORD_BYTES = 400
_PORT_BYTES = 180_000
# The number of workers to assume if it is unknown.
CAREFUL_WORKERS = 8
# The rest of a gateway's memory is for other traffic and clusters.
_UDP_SHARE = 0.5


@dataclass(frozen=True)
class ProxySize:
    """The size of a gateway's Envoy, which determines the memory of a UDP listener.

    Attributes:
        workers: the number of worker threads.
        clusters: the number of clusters.
    """

    workers: int
    clusters: int

    def udp_bytes(self, ports: int) -> int:
        """The maximum memory of this many exposed ports, in bytes."""
        return ports * (_PORT_BYTES + self.workers * self.clusters * _RECORD_BYTES)


def udp_budget(limit: int) -> int:
    """The part of a gateway pod's memory limit (bytes) that UDP listeners may use, in bytes."""
    return int(limit * _UDP_SHARE)
