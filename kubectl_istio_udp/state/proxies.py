"""Read the state of a gateway's Envoy, from its admin interface or by commands in its container."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.envoy_log import reason, resource_rejections, route_rejections
from kubectl_istio_udp.model.envoyfilter import revision_in
from kubectl_istio_udp.model.errors import ClusterError, NoAnswer
from kubectl_istio_udp.model.gateway import PROXY_CONTAINER
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.memory import ProxySize
from kubectl_istio_udp.model.mesh import Version, parse_version
from kubectl_istio_udp.model.proxystate import (
    BoundListener,
    ProxyState,
    Refusal,
    UdpStatus,
    read_udp_status,
)
from kubectl_istio_udp.state.admin import Admin

if TYPE_CHECKING:
    # It imports websocket-client, which only exec and port-forward need.
    from kubectl_istio_udp.kube.exec import ExecResult

# The prefix of istiod's own UDP listeners (HTTP/3).
_ISTIOD_UDP = "udp_"
# istiod's listener names: udp_0.0.0.0_8443, 0.0.0.0_8080, 10.0.0.1_80.
_ISTIODS_NAME = re.compile(r"(udp_)?[0-9a-fA-F.:\[\]]+_\d+")
# Read Envoy's own soft limit, because a shell in the container may have another one.
_FILE_LIMIT = (
    "for p in /proc/[0-9]*; do "
    '[ "$(cat $p/comm 2>/dev/null)" = envoy ] && grep "^Max open files" $p/limits; '
    "done | head -n 1 | awk '{print $4}'"
)
# The length of the largest number that the kernel prints there, 2**63 - 1.
_MOST_DIGITS = 19
_UNLIMITED = 2**30
_PROC_NET = [f"/proc/net/{name}" for name in ("udp", "udp6", "snmp", "snmp6")]
_EARLIER_SECONDS = 600


def listeners(api: Api, namespace: str, pod: str) -> tuple[BoundListener, ...]:
    """The listeners of a gateway pod's Envoy.

    Raises:
        Forbidden: no permission to query it.
        ClusterError: the query failed.
    """
    with Admin(api, namespace, pod) as admin:
        return _listeners(admin, pod)


def listeners_and_size(
    api: Api, namespace: str, pod: str
) -> tuple[tuple[BoundListener, ...], ProxySize | None]:
    """The listeners of a gateway pod's Envoy and its size, over one connection.

    The size is None if the stats do not contain it.

    Raises:
        Forbidden: no permission to query it.
        ClusterError: the query failed.
    """
    with Admin(api, namespace, pod) as admin:
        return _listeners(admin, pod), _size(admin)


def _listeners(admin: Admin, pod: str) -> tuple[BoundListener, ...]:
    return admin.read("listeners?format=json", partial(_bound, pod))


def _bound(pod: str, answer: Any) -> tuple[BoundListener, ...]:
    found = []
    for status in answer.get("listener_statuses") or ():
        address = (status.get("local_address") or {}).get("socket_address") or {}
        if "port_value" in address:
            name = status["name"]
            protocol = "UDP" if name.startswith(_ISTIOD_UDP) else "TCP"
            found.append(BoundListener(name, address["port_value"], protocol, pod))
    return tuple(found)


def _size(admin: Admin) -> ProxySize | None:
    names = ("server.concurrency", "cluster_manager.active_clusters")
    pattern = "|".join(name.replace(".", "[.]") for name in names)

    def size(answer: Any) -> ProxySize | None:
        found = {stat.get("name"): stat.get("value") for stat in answer.get("stats") or ()}
        counts = [found[name] for name in names if found.get(name) is not None]
        return ProxySize(*map(int, counts)) if len(counts) == len(names) else None

    return admin.read(f"stats?format=json&filter=^({pattern})$", size)


def with_protocols(
    api: Api, namespace: str, pod: str, bound: Sequence[BoundListener], known: Set[str]
) -> tuple[BoundListener, ...]:
    """The listeners of a gateway pod's Envoy with their real protocols.

    The short list of listeners does not contain protocols. They follow from istiod's names and from
    EnvoyFilters; for other listeners this reads their configuration.

    Args:
        api, namespace, pod: the gateway pod.
        bound: the listeners, from `listeners`.
        known: the names of listeners that EnvoyFilters add.

    Raises:
        ClusterError: the query failed.
    """
    odd = {b.name for b in bound if b.name not in known and not _ISTIODS_NAME.fullmatch(b.name)}
    if not odd:
        return tuple(bound)
    names = quote("|".join(re.escape(name) for name in sorted(odd)), safe="")
    path = f"config_dump?resource=dynamic_listeners&name_regex={names}"
    with Admin(api, namespace, pod) as admin:
        udp = admin.read(path, _udp_listeners)
    return tuple(replace(b, protocol="UDP") if b.name in udp else b for b in bound)


def _udp_listeners(dump: Any) -> frozenset[str]:
    """The names of the UDP listeners in a config dump."""
    found = set()
    for config in dump.get("configs") or ():
        listener = (config.get("active_state") or {}).get("listener") or {}
        socket = (listener.get("address") or {}).get("socket_address") or {}
        if socket.get("protocol") == "UDP":
            found.add(str(listener.get("name")))
    return frozenset(found)


def file_limit(api: Api, namespace: str, pod: str) -> int | None:
    """The open-file limit of a gateway pod's Envoy; None if its image has no shell.

    Raises:
        Forbidden: no permission for exec.
        NoAnswer: it did not end in time.
        ClusterError: exec failed.
    """
    result = _exec(api, namespace, pod, PROXY_CONTAINER, ["sh", "-c", _FILE_LIMIT])
    word = result.stdout.strip()
    if word == "unlimited":
        return _UNLIMITED
    return int(word) if word.isdecimal() and len(word) <= _MOST_DIGITS else None


def _exec(api: Api, namespace: str, pod: str, container: str, command: Sequence[str]) -> ExecResult:
    """Run a command that ends at once in a container."""
    result = api.exec(namespace, pod, container, list(command), api.waits.envoy_answer)
    if result.timed_out:
        raise NoAnswer(f"pod {namespace}/{pod} did not answer in {api.waits.envoy_answer:g}s")
    return result


def proxy_state(api: Api, namespace: str, pod: str, prefix: str) -> ProxyState:
    """The listeners, clusters and hosts with a name prefix in a gateway pod's Envoy.

    Args:
        api: the cluster.
        namespace, pod: the gateway pod.
        prefix: the prefix of the names.

    Raises:
        Forbidden, ClusterError: the query failed.
    """
    with Admin(api, namespace, pod) as admin:
        found = _configuration(admin, prefix)
        if not found["clusters"]:
            return ProxyState(**found, hosts={})
        hosts = admin.read(f"clusters?format=json&filter={prefix}.*", _hosts)
    known = {name: hosts[name] for name in found["clusters"] if name in hosts}
    return ProxyState(**found, hosts=known)


def configuration(
    api: Api, namespace: str, pod: str, prefix: str, seconds: float
) -> tuple[ProxyState, tuple[BoundListener, ...]]:
    """As `proxy_state` without hosts, and all listeners of the Envoy, over one connection.

    Args:
        api, namespace, pod, prefix: as in `proxy_state`.
        seconds: the timeout of each query.

    Raises:
        Forbidden, ClusterError: the query failed.
    """
    with Admin(api, namespace, pod, seconds) as admin:
        return ProxyState(**_configuration(admin, prefix)), _listeners(admin, pod)


def exposed_listeners(api: Api, namespace: str, pod: str) -> ProxyState:
    """The listeners of all exposures in a gateway pod's Envoy, without clusters and hosts.

    Raises:
        Forbidden, ClusterError: the query failed.
    """
    pattern = f"{Kind.EXPOSURE.object_prefix}-.*"
    path = f"config_dump?resource=dynamic_listeners&name_regex={pattern}"
    with Admin(api, namespace, pod) as admin:
        found = admin.read(path, lambda dump: _resources({"configs": [_section(dump)]}))
    return ProxyState(**found)


def _section(dump: Any) -> dict[str, Any]:
    """The listeners in a dump of this resource alone, as in a whole dump."""
    return {"dynamic_listeners": dump.get("configs")}


def _configuration(admin: Admin, prefix: str) -> dict[str, dict[str, Any]]:
    return admin.read(f"config_dump?name_regex={prefix}.*", _resources)


def _hosts(answer: Any) -> dict[str, frozenset[str]]:
    """The addresses by cluster."""
    return {status["name"]: _addresses(status) for status in answer.get("cluster_statuses") or ()}


def _resources(dump: Any) -> dict[str, dict[str, Any]]:
    """The contents of a config dump, as fields of ProxyState."""
    names = ("listeners", "clusters", "refusals", "ports", "targets")
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for section in dump.get("configs") or ():
        for entry in section.get("dynamic_listeners") or ():
            active = (entry.get("active_state") or {}).get("listener")
            if active:
                found["listeners"][active["name"]] = revision_in(active)
                found["ports"][active["name"]] = _bound_port(active)
                found["targets"][active["name"]] = _routed_to(active)
            error = entry.get("error_state") or {}
            failed = error.get("failed_configuration") or {}
            name = entry.get("name") or failed.get("name")
            if error and name:
                found["refusals"][name] = Refusal(
                    reason(error.get("details", "")), revision_in(failed)
                )
        for entry in section.get("dynamic_active_clusters") or ():
            found["clusters"][entry["cluster"]["name"]] = revision_in(entry["cluster"])
    return found


def udp_status(api: Api, namespace: str, pod: str, container: str) -> UdpStatus | None:
    """The UDP sockets and counters of a pod; None if its image has no `cat`, or not on Linux.

    Args:
        api: the cluster.
        namespace, pod, container: a container of the pod; containers share the pod's network.

    Raises:
        Forbidden: no permission for exec.
        NoAnswer: it did not end in time.
        ClusterError: exec failed.
    """
    result = _exec(api, namespace, pod, container, ["cat", *_PROC_NET])
    # Without IPv6 some of the files do not exist, and `cat` exits with 1.
    if "local_address" not in result.stdout:
        return None
    # The `cat` of a tenant's image may print anything.
    with suppress(ValueError, LookupError):
        return read_udp_status(result.stdout)
    return None


def routes(api: Api, namespace: str, pod: str, object_name: str) -> frozenset[str]:
    """The names of a response's HTTP routes that a pod's Envoy received by RDS.

    Args:
        api: the cluster.
        namespace, pod: the gateway pod.
        object_name: the name of the response's objects; routes add a revision to it.

    Raises:
        Forbidden, ClusterError: the query failed.
    """
    # `direct` must not match the routes of `direct-more`.
    pattern = re.compile(f"{re.escape(object_name)}-[0-9a-f]+")

    def names(dump: Any) -> frozenset[str]:
        return frozenset(
            route["name"]
            for entry in dump.get("configs") or ()
            for host in (entry.get("route_config") or {}).get("virtual_hosts") or ()
            for route in host.get("routes") or ()
            if pattern.fullmatch(str(route.get("name", "")))
        )

    with Admin(api, namespace, pod) as admin:
        return admin.read("config_dump?resource=dynamic_route_configs", names)


def istio_version(api: Api, namespace: str, pod: str) -> Version | None:
    """The Istio version that a pod's proxy reports.

    Raises:
        Forbidden, ClusterError: the query failed.
    """

    def version(answer: Any) -> Version | None:
        metadata = (answer.get("node") or {}).get("metadata") or {}
        return parse_version(str(metadata.get("ISTIO_VERSION", "")))

    with Admin(api, namespace, pod) as admin:
        return admin.read("server_info", version)


def refusals_in_log(api: Api, namespace: str, pod: str, since_seconds: int) -> dict[str, str]:
    """Recent errors from Envoy's log about rejected listeners or clusters, by name.

    Envoy's admin interface does not report why it rejected a cluster, or anything about an update
    that it rejected as a whole (measured, Envoy 1.40).

    Args:
        api: the cluster.
        namespace, pod: the gateway pod.
        since_seconds: how many seconds of the log to read.
    """
    return resource_rejections(_log(api, namespace, pod, since_seconds))


def route_refusal_in_log(api: Api, namespace: str, pod: str, since_seconds: int) -> str | None:
    """The error of a recently rejected route configuration from Envoy's log; None without one.

    The log does not name the configuration. An error that Envoy logged earlier is not caused by the
    new configuration.

    Args:
        api: the cluster.
        namespace, pod: the gateway pod.
        since_seconds: how many seconds of the log to read.
    """
    new = route_rejections(_log(api, namespace, pod, since_seconds))
    if not new:
        return None
    before = route_rejections(_log(api, namespace, pod, since_seconds + _EARLIER_SECONDS))
    return None if before.count(new[-1]) > new.count(new[-1]) else new[-1]


def _log(api: Api, namespace: str, pod: str, since_seconds: int) -> str:
    """A proxy's log; "" if it may not be read."""
    try:
        return api.log(namespace, pod, PROXY_CONTAINER, since_seconds)
    except ClusterError:
        return ""


def _bound_port(listener: Mapping[str, Any]) -> int:
    """The port that a listener binds; 0 if it binds none."""
    address = (listener.get("address") or {}).get("socket_address") or {}
    return int(address.get("port_value", 0))


def _routed_to(listener: Mapping[str, Any]) -> str:
    """The cluster that an exposure's UDP listener sends to; "" if it names none."""
    for each in listener.get("listener_filters") or ():
        config = each.get("typed_config") or {}
        action = ((config.get("matcher") or {}).get("on_no_match") or {}).get("action") or {}
        cluster = (action.get("typed_config") or {}).get("cluster") or config.get("cluster")
        if cluster:
            return str(cluster)
    return ""


def _addresses(status: Mapping[str, Any]) -> frozenset[str]:
    sockets = [
        (host.get("address") or {}).get("socket_address") or {}
        for host in status.get("host_statuses") or ()
    ]
    return frozenset(f"{s['address']}:{s['port_value']}" for s in sockets if "port_value" in s)
