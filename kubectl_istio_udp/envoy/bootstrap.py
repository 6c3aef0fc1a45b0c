"""Build a complete Envoy configuration from patches (plain dicts). Pure.

istiod inserts patches into configuration that it generates. Here each patch gets the smallest
context in which Envoy reads it at the same place: a route within a virtual host of an HTTP
connection manager, a filter in the chain of a listener, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.envoy.patches import Patch, Path, field, same

_TYPES = "type.googleapis.com/envoy.extensions"
_ROUTER_TYPE = f"{_TYPES}.filters.http.router.v3.Router"
_TCP_TYPE = f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy"
_HTTP_TYPE = f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_UDP_TYPE = f"{_TYPES}.filters.udp.udp_proxy.v3.UdpProxyConfig"
_HTTP2_TYPE = f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions"
# The name of every stand-in for istiod's configuration; nothing else has this name.
STAND_IN = "kubectl-istio-udp-stand-in"
# The limit of istiod from Istio 1.18 on (route.DefaultMaxDirectResponseBodySizeBytes); Envoy's own
# is 4,096.
_LARGEST_BODY_BYTES = 1024 * 1024

# Network filters that end a chain; all others need one of these after them.
_TERMINAL = (
    "TcpProxy", "HttpConnectionManager", "RedisProxy", "ThriftProxy", "DubboProxy", "GenericProxy",
    "Echo", "network.direct_response.v3.Config",
)  # fmt: skip
# Alternative fields of a message (protobuf's oneof): setting one removes the others.
_ONE_OF = tuple(
    frozenset(map(same, names))
    for names in (
        ("route_config", "rds", "scoped_routes"),
        ("route", "redirect", "direct_response", "filter_action", "non_forwarding_action"),
        ("prefix", "path", "safe_regex", "connect_matcher", "path_separated_prefix",
         "path_match_policy"),
        ("cluster", "weighted_clusters", "cluster_header", "inline_cluster_specifier_plugin"),
        ("type", "cluster_type"),
        ("socket_address", "pipe", "envoy_internal_address"),
    )
)  # fmt: skip


class NotCovered(Exception):
    """The context of a patch is unknown; the message names it."""


class Unfit(Exception):
    """istiod cannot apply a patch; has the path in the patch's value, and the reason."""

    def __init__(self, path: Path, why: str) -> None:
        """Take the path and the reason."""
        super().__init__(why)
        self.path, self.why = path, why


@dataclass(frozen=True)
class PatchLocation:
    """The place of a patch's value.

    Attributes:
        patch: the patch.
        path: the path of its value in the bootstrap.
    """

    patch: Patch
    path: Path


def assemble(
    patches: Sequence[Patch], stand_ins: Sequence[str] = ()
) -> tuple[dict[str, Any], list[PatchLocation]]:
    """Build a bootstrap that contains all patches.

    Args:
        patches: the patches.
        stand_ins: names of clusters that istiod would generate.

    Returns:
        The bootstrap, and the place of each patch's value in it.

    Raises:
        NotCovered: the context of a patch is unknown.
        Unfit: istiod could not apply a patch.
    """
    resources: dict[str, list[Any]] = {
        "listeners": [],
        "clusters": [_stand_in_cluster(name) for name in (STAND_IN, *stand_ins)],
    }
    whole: dict[str, Any] = {
        "node": {"id": STAND_IN, "cluster": STAND_IN},
        "static_resources": resources,
        # Endpoints, secrets and routes over ADS are not checked; istiod would provide them.
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": STAND_IN}}],
            }
        },
    }
    placed = []
    for patch in patches:
        if patch.apply_to == "BOOTSTRAP":
            whole = laid_over(whole, patch.value)
            placed.append(PatchLocation(patch, ()))
            continue
        kind = "clusters" if patch.apply_to == "CLUSTER" else "listeners"
        number = len(resources[kind])
        resource, path = _surround(patch, number)
        resources[kind].append(resource)
        placed.append(PatchLocation(patch, ("static_resources", kind, number, *path)))
    return whole, placed


def _surround(patch: Patch, number: int) -> tuple[Any, Path]:
    """The listener or cluster that contains a patch's value, and the value's path in it."""
    value = patch.value
    if patch.apply_to == "CLUSTER":
        return (laid_over(_cluster(number, value), value) if patch.merges else value), ()
    if patch.apply_to == "LISTENER":
        base = _listener(number, _chain(_tcp_proxy()))
        return (laid_over(base, value) if patch.merges else value), ()
    if patch.apply_to == "LISTENER_FILTER":
        return _with_listener_filter(patch, number)
    if patch.apply_to == "FILTER_CHAIN":
        chain = laid_over(_chain(_tcp_proxy()), value) if patch.merges else value
        return _listener(number, chain), ("filter_chains", 0)
    if patch.apply_to == "NETWORK_FILTER":
        filters: list[Any] = [_merged_filter(patch, value) if patch.merges else value]
        if not _type(filters[0]).endswith(_TERMINAL):
            filters.append(_tcp_proxy())
        return _listener(number, {"filters": filters}), ("filter_chains", 0, "filters", 0)
    manager, path = _http(patch)
    return _listener(number, _chain(manager)), ("filter_chains", 0, "filters", 0, *path)


def _with_listener_filter(patch: Patch, number: int) -> tuple[Any, Path]:
    value = _merged_filter(patch, patch.value) if patch.merges else patch.value
    listener = _listener(number, _chain(_tcp_proxy()))
    if ".filters.udp." in _type(value):
        listener = {"name": f"{STAND_IN}-{number}", "address": _udp_address(number)}
    return {**listener, "listener_filters": [value]}, ("listener_filters", 0)


def _http(patch: Patch) -> tuple[Any, Path]:
    """The HTTP connection manager that contains a patch's value."""
    value, kind = patch.value, patch.apply_to
    routes: Any = _routes(_virtual_host(_route()))
    filters: list[Any] = [_router()]
    path: Path
    if kind in ("HTTP_FILTER", "EXTENSION_CONFIG"):
        merged = _merged_filter(patch, value) if patch.merges else value
        filters = [merged] if _type(merged) == _ROUTER_TYPE else [merged, *filters]
        path = ("http_filters", 0)
    elif kind == "ROUTE_CONFIGURATION":
        routes = laid_over(routes, value) if patch.merges else value
        path = ("route_config",)
    elif kind == "VIRTUAL_HOST":
        routes = _routes(laid_over(_virtual_host(_route()), value) if patch.merges else value)
        path = ("route_config", "virtual_hosts", 0)
    else:
        routes = _routes(_virtual_host(laid_over(_route(), value) if patch.merges else value))
        path = ("route_config", "virtual_hosts", 0, "routes", 0)
    return _connection_manager(routes, filters), ("typed_config", *path)


def _merged_filter(patch: Patch, value: Mapping[str, Any]) -> Any:
    """The filter that a patch's match names, merged with the patch's value.

    Raises:
        NotCovered: the match names no filter, or an unknown one.
        Unfit: the value has another type than that filter.
    """
    name = _matched_filter(patch) or field(value, "name")
    base = _known_filters().get(str(name))
    if base is None:
        raise NotCovered(f"{patch.operation} into {name or 'a filter without a name'}")
    value_type, base_type = _type(value), _type(base)
    if value_type and value_type != base_type:
        why = (
            f"is not the type of {name}, {base_type.rpartition('/')[2]}; istiod drops such a patch"
        )
        raise Unfit(("typed_config", "@type"), why)
    return laid_over(base, value)


def _matched_filter(patch: Patch) -> str | None:
    """The name of the filter that a patch's match selects; None without one."""
    listener = field(patch.match, "listener")
    if patch.apply_to == "LISTENER_FILTER":
        found = field(listener, "listener_filter")
    elif patch.apply_to == "HTTP_FILTER":
        found = field(listener, "filter_chain", "filter", "sub_filter", "name")
    else:
        found = field(listener, "filter_chain", "filter", "name")
    return str(found) if found else None


def _known_filters() -> dict[str, dict[str, Any]]:
    """The filters that istiod generates and users patch, with their required fields."""
    udp_proxy = {
        "@type": _UDP_TYPE,
        "stat_prefix": STAND_IN,
        "matcher": {
            "on_no_match": {
                "action": {
                    "name": "route",
                    "typed_config": {
                        "@type": f"{_TYPES}.filters.udp.udp_proxy.v3.Route",
                        "cluster": STAND_IN,
                    },
                }
            }
        },
    }
    known = [
        _tcp_proxy(),
        _connection_manager(_routes(_virtual_host(_route())), [_router()]),
        _router(),
        {"name": "envoy.filters.udp_listener.udp_proxy", "typed_config": udp_proxy},
    ]
    return {str(each["name"]): each for each in known}


def laid_over(base: Any, value: Any) -> Any:
    """Merge a value into another one as protobuf merges messages, but with list entries first.

    (protobuf appends them. If they come first they keep their indexes, so that Envoy's errors about
    them can be located.)

    Args:
        base: the existing value.
        value: the value to merge in; its fields may have either spelling.
    """
    if isinstance(base, list) and isinstance(value, list):
        return [*value, *base]
    if not isinstance(base, Mapping) or not isinstance(value, Mapping):
        return value
    replaced = _replaced(value)
    # The value itself must have the type of a message in an Any, because istiod compares them.
    kept = {key: each for key, each in base.items() if same(key) not in replaced and key != "@type"}
    merged = dict(kept)
    by_name = {same(key): key for key in kept}
    for key, each in value.items():
        known = by_name.get(same(str(key)), key)
        merged[known] = laid_over(merged[known], each) if known in merged else each
    return merged


def _replaced(value: Mapping[str, Any]) -> frozenset[str]:
    """The alternatives of a value's fields, which merging removes."""
    given = frozenset(same(str(key)) for key in value)
    return frozenset().union(*(group - given for group in _ONE_OF if group & given))


def _type(value: Any) -> str:
    return str(field(value, "typed_config", "@type") or "")


def _stand_in_cluster(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP2_TYPE,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


def _cluster(number: int, value: Mapping[str, Any]) -> dict[str, Any]:
    """The cluster that a cluster's patch is merged into: most of istiod's have type EDS."""
    named = {"name": f"{STAND_IN}-{number}"}
    if field(value, "type") not in (None, "EDS") or field(value, "cluster_type"):
        return named
    eds = {"eds_config": {"ads": {}, "resource_api_version": "V3"}}
    return {**named, "type": "EDS", "eds_cluster_config": eds}


def _listener(number: int, chain: Any) -> dict[str, Any]:
    # A path, so that no port conflicts.
    address = {"pipe": {"path": f"{STAND_IN}-{number}"}}
    return {"name": f"{STAND_IN}-{number}", "address": address, "filter_chains": [chain]}


def _udp_address(number: int) -> dict[str, Any]:
    socket = {"protocol": "UDP", "address": "127.255.255.254", "port_value": number + 1}
    return {"socket_address": socket}


def _chain(network_filter: Any) -> dict[str, Any]:
    return {"filters": [network_filter]}


def _tcp_proxy() -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {"@type": _TCP_TYPE, "stat_prefix": STAND_IN, "cluster": STAND_IN},
    }


def _connection_manager(routes: Any, filters: list[Any]) -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": _HTTP_TYPE,
            "stat_prefix": STAND_IN,
            "route_config": routes,
            "http_filters": filters,
        },
    }


def _router() -> dict[str, Any]:
    return {"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER_TYPE}}


def _routes(virtual_host: Any) -> dict[str, Any]:
    return {
        "name": STAND_IN,
        "validate_clusters": False,
        "max_direct_response_body_size_bytes": _LARGEST_BODY_BYTES,
        "virtual_hosts": [virtual_host],
    }


def _virtual_host(route: Any) -> dict[str, Any]:
    return {"name": STAND_IN, "domains": [f"{STAND_IN}.invalid"], "routes": [route]}


def _route() -> dict[str, Any]:
    return {"match": {"prefix": "/"}, "route": {"cluster": STAND_IN}}
