"""The Envoy cluster of an exposed port's backend."""

from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    Exposure,
    LoadBalancing,
)
from kubectl_istio_udp.model.ports import Backend, ExposedPort
from kubectl_istio_udp.model.service import IPV4, IPV6
from kubectl_istio_udp.render.envoy import marked

_LB_POLICIES = {
    LoadBalancing.ROUND_ROBIN: "ROUND_ROBIN",
    LoadBalancing.LEAST_REQUEST: "LEAST_REQUEST",
    LoadBalancing.RANDOM: "RANDOM",
    LoadBalancing.MAGLEV: "MAGLEV",
    LoadBalancing.RING_HASH: "RING_HASH",
}


_DNS_FAMILIES = {IPV4: "V4_ONLY", IPV6: "V6_ONLY"}


def cluster(exposure: Exposure, port: ExposedPort, backend: Backend) -> dict[str, Any]:
    """The cluster of a backend of an exposed port."""
    spec = exposure.spec
    options, name = spec.options_of(port), spec.cluster_name(port, backend)
    cluster: dict[str, Any] = {
        "name": name,
        "lb_policy": _LB_POLICIES[options.load_balancing],
        # Each session counts as a connection; the circuit breaker's default is 1,024.
        "circuit_breakers": {"thresholds": [{"max_connections": options.max_sessions}]},
    }
    if spec.discovery is Discovery.STATIC:
        addresses = [(e.address, e.port) for e in exposure.ready_endpoints(backend)]
        hashed = options.affinity is Affinity.SOURCE_IP
        cluster |= {"type": "STATIC", "load_assignment": _assignment(name, addresses, hashed)}
    elif spec.discovery is Discovery.DNS:
        target = [(exposure.external_name or "", backend.port)]
        cluster |= {"type": "STRICT_DNS", "load_assignment": _assignment(name, target)}
        # Envoy's default prefers IPv6 addresses, which not every gateway can connect to.
        if len(exposure.families) == 1:
            cluster["dns_lookup_family"] = _DNS_FAMILIES[exposure.families[0]]
    else:
        cluster |= {
            "type": "EDS",
            "eds_cluster_config": {
                "eds_config": {"ads": {}, "resource_api_version": "V3"},
                "service_name": spec.eds_service(backend),
            },
        }
    return marked(spec, cluster)


def _assignment(
    name: str, addresses: list[tuple[str, int]], by_address: bool = False
) -> dict[str, Any]:
    """The endpoints of a cluster.

    Args:
        name: the cluster's name.
        addresses: the endpoints' addresses and ports.
        by_address: whether a hash policy should ignore the port, so that all ports of an exposure
            send a client to the same pod (Envoy's ring hash and Maglev balancers: the hash key of a
            host is its metadata envoy.lb, hash_key).
    """
    hosts: list[dict[str, Any]] = []
    for address, number in addresses:
        socket_address = {"address": address, "port_value": number}
        hosts.append({"endpoint": {"address": {"socket_address": socket_address}}})
        if by_address:
            hosts[-1]["metadata"] = {"filter_metadata": {"envoy.lb": {"hash_key": address}}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}
