"""The EnvoyFilter of an exposure: for each port a UDP listener and the cluster behind it.

Field references: Envoy's API documentation of `config.listener.v3.Listener`,
`config.cluster.v3.Cluster` and `extensions.filters.udp.udp_proxy.v3.UdpProxyConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    Exposure,
    ExposureSpec,
    LoadBalancing,
)
from kubectl_istio_udp.model.ports import Backend, ExposedPort
from kubectl_istio_udp.model.resources import RESOURCES
from kubectl_istio_udp.model.service import IPV4, IPV6
from kubectl_istio_udp.render.metadata import metadata, revision
from kubectl_istio_udp.render.shares import matcher

_TYPES = "type.googleapis.com/envoy.extensions"
_LB_POLICIES = {
    LoadBalancing.ROUND_ROBIN: "ROUND_ROBIN",
    LoadBalancing.LEAST_REQUEST: "LEAST_REQUEST",
    LoadBalancing.RANDOM: "RANDOM",
    LoadBalancing.MAGLEV: "MAGLEV",
    LoadBalancing.RING_HASH: "RING_HASH",
}
# With PILOT_FILTER_GATEWAY_CLUSTER_CONFIG istiod tells a gateway only of the Services that it
# routes to, and of their endpoints. It counts those that an EnvoyFilter names here, from Istio
# 1.26 on (pilot/pkg/model/push_context.go, extraServicesForProxy).
_REFERENCED = "envoyfilter.istio.io/referenced-services"
_DNS_FAMILIES = {IPV4: "V4_ONLY", IPV6: "V6_ONLY"}
_RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
# One line for each session that has ended; the counters are udp_proxy's dynamic metadata
# (its documentation, "Access log extensions").
_SESSION_LINE = (
    "[%START_TIME%] udp_session listener={name} client=%DOWNSTREAM_REMOTE_ADDRESS% "
    "upstream=%UPSTREAM_HOST% duration_ms=%DURATION% "
    "datagrams_received=%DYNAMIC_METADATA(udp.proxy.session:datagrams_received)% "
    "datagrams_sent=%DYNAMIC_METADATA(udp.proxy.session:datagrams_sent)% "
    "bytes_received=%DYNAMIC_METADATA(udp.proxy.session:bytes_received)% "
    "bytes_sent=%DYNAMIC_METADATA(udp.proxy.session:bytes_sent)%\n"
)


def envoy_filter(exposure: Exposure) -> dict[str, Any]:
    """The EnvoyFilter manifest; the exposure's endpoints matter for static discovery only."""
    spec = exposure.spec
    patches = []
    for port in spec.ports:
        clusters = (_cluster(exposure, port, backend) for backend in port.backends)
        patches += [_add("CLUSTER", cluster) for cluster in clusters]
        patches.append(_add("LISTENER", _listener(exposure, port)))
    # istiod makes a cluster of its own from our ServiceEntry, of which only the endpoint list is
    # needed; and each cluster costs memory for every UDP listener (model/memory.py).
    needless = {
        f"outbound|{number}||{entry.host}" for entry in spec.entries for number in entry.ports
    }
    patches += [_remove_cluster(name) for name in sorted(needless)]
    about = metadata(spec, spec.gateway.namespace)
    services = filter(None, map(spec.eds_service, spec.backends))
    if hosts := {service.split("|")[3] for service in services}:
        about["annotations"][_REFERENCED] = ",".join(sorted(hosts))
    return {
        **RESOURCES["EnvoyFilter"].type_meta,
        "metadata": about,
        "spec": {
            "workloadSelector": {"labels": dict(spec.gateway.selector)},
            "configPatches": patches,
        },
    }


def _add(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "applyTo": kind,
        "match": {"context": "GATEWAY"},
        "patch": {"operation": "ADD", "value": value},
    }


def _remove_cluster(name: str) -> dict[str, Any]:
    return {
        "applyTo": "CLUSTER",
        "match": {"context": "GATEWAY", "cluster": {"name": name}},
        "patch": {"operation": "REMOVE"},
    }


def _listener(exposure: Exposure, port: ExposedPort) -> dict[str, Any]:
    spec = exposure.spec
    name = spec.proxy_name(port)
    size = spec.options.max_datagram_size
    proxy: dict[str, Any] = {
        "@type": f"{_TYPES}.filters.udp.udp_proxy.v3.UdpProxyConfig",
        "stat_prefix": name,
        "idle_timeout": spec.options.idle_timeout.envoy(),
        "upstream_socket_config": {"max_rx_datagram_size": size},
        "matcher": matcher(spec, port),
    }
    if spec.options.affinity is Affinity.SOURCE_IP:
        proxy["hash_policies"] = [{"source_ip": True}]
    if spec.options.session_log:
        proxy["access_log"] = [_session_log(name)]
    return _marked(
        spec,
        {
            "name": name,
            "address": {"socket_address": _bind_address(exposure, port.listener_port)},
            "socket_options": _socket_options(exposure),
            "udp_listener_config": {"downstream_socket_config": {"max_rx_datagram_size": size}},
            "listener_filters": [
                {"name": "envoy.filters.udp_listener.udp_proxy", "typed_config": proxy}
            ],
        },
    )


def _marked(spec: ExposureSpec, resource: dict[str, Any]) -> dict[str, Any]:
    """A listener or cluster with a mark in its metadata that Envoy's config dump shows.

    By its revision a waiting `expose` tells what it has just written from what was there before.
    """
    mark = {"exposure": f"{spec.namespace}/{spec.name}", "revision": revision(resource)}
    return {**resource, "metadata": {"filter_metadata": {names.MANAGER: mark}}}


def revisions(envoy_filter: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The revision of each listener and cluster in a rendered EnvoyFilter.

    Returns:
        {"LISTENER": {name: revision}, "CLUSTER": {name: revision}}
    """
    found: dict[str, dict[str, str]] = {"LISTENER": {}, "CLUSTER": {}}
    for patch in envoy_filter["spec"]["configPatches"]:
        value = patch["patch"].get("value")
        if value is None:
            continue
        mark = value["metadata"]["filter_metadata"][names.MANAGER]
        found[patch["applyTo"]][value["name"]] = mark["revision"]
    return found


def _socket_options(exposure: Exposure) -> list[dict[str, Any]]:
    """What the listener's socket must allow: bursts, and answers longer than one packet.

    Receive buffer: Linux's default holds about 250 small datagrams; at 5,000 new sessions a second
    on a busy machine it lost 212 to 1,881 of 14,000 queries, this size 0 to 111 (measured). What is
    asked beyond net.core.rmem_max is silently cut to it (socket(7)), so that asking never fails.

    MTU discovery: Envoy forbids the kernel to fragment what its UDP listeners send (for QUIC's
    sake), so that answers over 1,472 bytes would be lost; IP_PMTUDISC_DONT allows it again (ip(7)).
    Envoy sets its own after STATE_PREBIND, so ours comes at STATE_BOUND (measured).

    Never change these: a listener whose socket options change gets new sockets, and until the old
    ones have drained (45 s) the kernel still hands them half of the datagrams (measured).
    """
    buffer = _socket_option("SO_RCVBUF", 1, 8, _RECEIVE_BUFFER_BYTES, "STATE_PREBIND")
    fragments = {
        IPV4: _socket_option("IP_MTU_DISCOVER", 0, 10, 0, "STATE_BOUND"),
        IPV6: _socket_option("IPV6_MTU_DISCOVER", 41, 23, 0, "STATE_BOUND"),
    }
    return [buffer, *(fragments[family] for family in sorted(exposure.families or (IPV4,)))]


def _socket_option(
    description: str, level: int, name: int, value: int, state: str
) -> dict[str, Any]:
    """A socket option by Linux's numbers."""
    return {
        "description": description,
        "level": level,
        "name": name,
        "int_value": value,
        "state": state,
    }


def _bind_address(exposure: Exposure, port: int) -> dict[str, Any]:
    address: dict[str, Any] = {"protocol": "UDP", "address": "0.0.0.0", "port_value": port}
    if IPV6 in exposure.families:
        address["address"] = "::"
        if IPV4 in exposure.families:
            address["ipv4_compat"] = True
    return address


def _session_log(name: str) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": f"{_TYPES}.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {
                "text_format_source": {"inline_string": _SESSION_LINE.format(name=name)}
            },
        },
    }


def _cluster(exposure: Exposure, port: ExposedPort, backend: Backend) -> dict[str, Any]:
    spec = exposure.spec
    name = spec.cluster_name(port, backend)
    cluster: dict[str, Any] = {
        "name": name,
        "lb_policy": _LB_POLICIES[spec.options.load_balancing],
        # Each session counts as a connection; the circuit breaker's own default is 1,024.
        "circuit_breakers": {"thresholds": [{"max_connections": spec.options.max_sessions}]},
    }
    if spec.discovery is Discovery.STATIC:
        addresses = [(e.address, e.port) for e in exposure.ready_endpoints(backend)]
        hashed = spec.options.affinity is Affinity.SOURCE_IP
        cluster |= {"type": "STATIC", "load_assignment": _assignment(name, addresses, hashed)}
    elif spec.discovery is Discovery.DNS:
        target = [(exposure.external_name or "", backend.port)]
        cluster |= {"type": "STRICT_DNS", "load_assignment": _assignment(name, target)}
        # Envoy's own choice prefers IPv6 addresses, which not every gateway can reach.
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
    return _marked(spec, cluster)


def _assignment(
    name: str, addresses: list[tuple[str, int]], by_address: bool = False
) -> dict[str, Any]:
    """The hosts of a cluster.

    Args:
        name: the cluster's.
        addresses: their addresses and ports.
        by_address: whether a hash chooses among them by the address alone, so that each port of an
            exposure leads a client to the same pod; else the port counts too (Envoy's ring hash
            and Maglev balancers: a host's key is metadata envoy.lb, hash_key).
    """
    hosts: list[dict[str, Any]] = []
    for address, number in addresses:
        socket_address = {"address": address, "port_value": number}
        hosts.append({"endpoint": {"address": {"socket_address": socket_address}}})
        if by_address:
            hosts[-1]["metadata"] = {"filter_metadata": {"envoy.lb": {"hash_key": address}}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}
