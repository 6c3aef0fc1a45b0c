"""What a gateway's own Envoy says it has: asked by exec at its admin interface.

`pilot-agent request GET PATH` works in distroless images, where there is no shell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.gateway import PROXY_CONTAINER
from kubectl_istio_udp.model.memory import ProxySize
from kubectl_istio_udp.model.mesh import Version, parse_version
from kubectl_istio_udp.model.names import MANAGER
from kubectl_istio_udp.model.snapshot import BoundListener

# One question to an admin interface on the same host takes milliseconds; the rest is exec.
_ADMIN_SECONDS = 10.0
# istiod's names for the UDP listeners that it makes itself, for HTTP/3.
_ISTIOD_UDP = "udp_"
# Envoy's own soft limit: that of a shell started beside it may differ.
_FILE_LIMIT = (
    "for p in /proc/[0-9]*; do "
    '[ "$(cat $p/comm 2>/dev/null)" = envoy ] && grep "^Max open files" $p/limits; '
    "done | head -n 1 | awk '{print $4}'"
)
_UNLIMITED = 2**30
_LOG_ENTRY = re.compile(r"^(?=\d{4}-\d\d-\d\dT\S+\t)", re.MULTILINE)


@dataclass(frozen=True)
class ProxyState:
    """What one Envoy has of an exposure's listeners and clusters.

    Attributes:
        listeners: revision by name, of those that are active; a listener that is not ours, or
            has none, counts with revision "".
        clusters: likewise, of the clusters that are active (not still warming).
        hosts: addresses (`10.0.0.1:53`) by cluster.
        refusals: what Envoy said of configuration that it refused, by listener.
    """

    listeners: Mapping[str, str] = field(default_factory=dict)
    clusters: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)


def listeners(api: Api, namespace: str, pod: str) -> tuple[BoundListener, ...]:
    """The listeners of a gateway pod's Envoy.

    Raises:
        Forbidden: no permission to exec there.
        ClusterError: it did not answer.
    """
    data = _ask(api, namespace, pod, "listeners?format=json")
    found = []
    for status in data.get("listener_statuses") or ():
        address = (status.get("local_address") or {}).get("socket_address") or {}
        if "port_value" in address:
            name = status["name"]
            protocol = "UDP" if name.startswith(_ISTIOD_UDP) else "TCP"
            found.append(BoundListener(name, address["port_value"], protocol, pod))
    return tuple(found)


def file_limit(api: Api, namespace: str, pod: str) -> int | None:
    """How many files a gateway pod's Envoy may open; None where its image has no shell to ask.

    Raises:
        Forbidden: no permission to exec there.
        ClusterError: exec failed.
    """
    command = ["sh", "-c", _FILE_LIMIT]
    result = api.exec(namespace, pod, PROXY_CONTAINER, command, _ADMIN_SECONDS)
    word = result.stdout.strip()
    if word == "unlimited":
        return _UNLIMITED
    return int(word) if word.isdigit() else None


def size(api: Api, namespace: str, pod: str) -> ProxySize | None:
    """The workers and clusters of a gateway pod's Envoy; None where its stats leave them out.

    Raises:
        Forbidden: no permission to exec there.
        ClusterError: it did not answer.
    """
    names = ("server.concurrency", "cluster_manager.active_clusters")
    pattern = "|".join(name.replace(".", "[.]") for name in names)
    stats = _ask(api, namespace, pod, f"stats?format=json&filter=^({pattern})$").get("stats") or ()
    found = {stat.get("name"): stat.get("value") for stat in stats}
    workers, clusters = (found.get(name) for name in names)
    return None if workers is None or clusters is None else ProxySize(int(workers), int(clusters))


def proxy_state(
    api: Api, namespace: str, pod: str, prefix: str, *, hosts: bool = True
) -> ProxyState:
    """What a gateway pod's Envoy has under a prefix of names.

    Args:
        api: the cluster.
        namespace, pod: the gateway pod.
        prefix: what the names of the listeners and clusters begin with.
        hosts: whether to ask for the clusters' hosts too (a second question).

    Raises:
        Forbidden, ClusterError: it could not be asked.
    """
    pattern = f"{prefix}.*"
    dump = _ask(api, namespace, pod, f"config_dump?name_regex={pattern}")
    found: dict[str, dict[str, str]] = {"listeners": {}, "clusters": {}, "refusals": {}}
    for section in dump.get("configs") or ():
        for entry in section.get("dynamic_listeners") or ():
            active = (entry.get("active_state") or {}).get("listener")
            if active:
                found["listeners"][active["name"]] = _revision(active)
            if entry.get("error_state") and entry.get("name"):
                found["refusals"][entry["name"]] = entry["error_state"].get("details", "")
        for entry in section.get("dynamic_active_clusters") or ():
            found["clusters"][entry["cluster"]["name"]] = _revision(entry["cluster"])
    addresses = {}
    if hosts and found["clusters"]:
        answer = _ask(api, namespace, pod, f"clusters?format=json&filter={pattern}")
        addresses = {
            status["name"]: _addresses(status)
            for status in answer.get("cluster_statuses") or ()
            if status["name"] in found["clusters"]
        }
    return ProxyState(**found, hosts=addresses)


def routes(api: Api, namespace: str, pod: str, object_name: str) -> frozenset[str]:
    """The names of the HTTP routes that a pod's Envoy got by RDS for one response.

    Args:
        api: the cluster.
        namespace, pod: the gateway pod.
        object_name: the name of the response's objects, which a revision follows in the routes'.

    Raises:
        Forbidden, ClusterError: it could not be asked.
    """
    dump = _ask(api, namespace, pod, "config_dump?resource=dynamic_route_configs")
    # `direct` is not to be taken for the beginning of `direct-more`.
    own = re.compile(f"{re.escape(object_name)}-[0-9a-f]+")
    return frozenset(
        route["name"]
        for entry in dump.get("configs") or ()
        for host in (entry.get("route_config") or {}).get("virtual_hosts") or ()
        for route in host.get("routes") or ()
        if own.fullmatch(str(route.get("name", "")))
    )


def istio_version(api: Api, namespace: str, pod: str) -> Version | None:
    """The Istio version that a pod's proxy says of itself.

    Raises:
        Forbidden, ClusterError: it could not be asked.
    """
    node = _ask(api, namespace, pod, "server_info").get("node") or {}
    return parse_version(str((node.get("metadata") or {}).get("ISTIO_VERSION", "")))


def refusal_in_log(
    api: Api, namespace: str, pod: str, prefix: str, since_seconds: int
) -> str | None:
    """What Envoy wrote of a refused configuration with such a name in it; None if nothing.

    A refused cluster, and whatever fails validation as a whole, shows nowhere else.
    """
    try:
        log = api.log(namespace, pod, PROXY_CONTAINER, since_seconds)
    except ClusterError:
        return None
    for entry in reversed(_LOG_ENTRY.split(log)):
        if " rejected: " in entry and prefix in entry:
            return _reason(entry)
    return None


def _reason(entry: str) -> str:
    """The reason at the end of a log entry, without the configuration that may precede it."""
    text = entry.partition(" rejected: ")[2]
    text = re.split(r"\tthread=\d+", text)[0]
    return " ".join(text.rpartition("\n: ")[2].split())


def _ask(api: Api, namespace: str, pod: str, path: str) -> Any:
    command = ["pilot-agent", "request", "GET", path]
    result = api.exec(namespace, pod, PROXY_CONTAINER, command, _ADMIN_SECONDS)
    try:
        return json.loads(result.stdout)
    except ValueError as error:
        said = result.error or result.stderr.strip() or result.stdout.strip() or "nothing"
        raise ClusterError(
            f"the Envoy of gateway pod {namespace}/{pod} could not be asked for {path}: "
            f"{said.splitlines()[-1]}",
            hints=[f"look at it: kubectl logs -n {namespace} {pod} -c {PROXY_CONTAINER}"],
        ) from error


def _revision(resource: Mapping[str, Any]) -> str:
    marks = (resource.get("metadata") or {}).get("filter_metadata") or {}
    return str((marks.get(MANAGER) or {}).get("revision", ""))


def _addresses(status: Mapping[str, Any]) -> frozenset[str]:
    sockets = [
        (host.get("address") or {}).get("socket_address") or {}
        for host in status.get("host_statuses") or ()
    ]
    return frozenset(f"{s['address']}:{s['port_value']}" for s in sockets if "port_value" in s)
