"""The matcher of Envoy's UDP proxy: it selects the cluster of each client.

Envoy runs the matcher for every datagram, before it looks up the client's session. So the result
must only depend on the client, and a change of weights only moves the clients between the old and
the new bounds. Clients without a match get no session: their datagrams are dropped and counted as
`udp.NAME.downstream_sess_no_route`.

Field references: Envoy's `extensions.filters.udp.udp_proxy.v3.UdpProxyConfig`,
`extensions.matching.input_matchers.consistent_hashing.v3.ConsistentHashing`, and
`xds.type.matcher.v3.Matcher`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubectl_istio_udp.model.exposure import Affinity, ExposureSpec
from kubectl_istio_udp.model.ports import MOST_WEIGHT, Backend, ExposedPort

_TYPES = "type.googleapis.com/envoy.extensions"
_INPUTS = f"{_TYPES}.matching.common_inputs.network.v3"
# The hash numbers clients from 0 to this. It is constant, because with the sum of the weights, a
# change of one weight would renumber all clients. It is above the largest sum, so that every weight
# counts.
_NUMBERS = 2**24
assert _NUMBERS >= MOST_WEIGHT


def matcher(spec: ExposureSpec, port: ExposedPort) -> dict[str, Any]:
    """The matcher of a port: it assigns clients to backends in proportion to the weights.

    It hashes the client's source port, so that each new socket is assigned anew; with affinity it
    hashes the client's address.
    """
    serving = [backend for backend in port.backends if backend.weight]
    if not serving:
        return {}
    if len(serving) == 1 and not port.dropped:
        return {"on_no_match": _route(spec, port, serving[0])}
    sticky = spec.options_of(port).affinity is Affinity.SOURCE_IP
    branches = [
        _branch(sticky, first, _route(spec, port, backend))
        for backend, first in zip(serving, _first_numbers(serving, port.dropped), strict=True)
    ]
    return {"matcher_list": {"matchers": branches}}


def _first_numbers(backends: Sequence[Backend], dropped: int) -> list[int]:
    """The lowest number of each backend's clients; lower numbers than the last one are dropped.

    The first matching branch wins, so the first backend has the highest numbers.
    """
    left = total = dropped + sum(backend.weight for backend in backends)
    found = []
    for backend in backends:
        left -= backend.weight
        found.append(left * _NUMBERS // total)
    return found


def _branch(sticky: bool, first: int, on_match: dict[str, Any]) -> dict[str, Any]:
    """Match clients from a number on, by their address if they are sticky."""
    what, type_ = ("source_ip", "SourceIPInput") if sticky else ("source_port", "SourcePortInput")
    return {
        "predicate": {
            "single_predicate": {
                "input": {
                    "name": f"envoy.matching.inputs.{what}",
                    "typed_config": {"@type": f"{_INPUTS}.{type_}"},
                },
                "custom_match": {
                    "name": "envoy.matching.matchers.consistent_hashing",
                    "typed_config": {
                        "@type": f"{_TYPES}.matching.input_matchers.consistent_hashing.v3."
                        "ConsistentHashing",
                        "modulo": _NUMBERS,
                        "threshold": first,
                    },
                },
            }
        },
        "on_match": on_match,
    }


def _route(spec: ExposureSpec, port: ExposedPort, backend: Backend) -> dict[str, Any]:
    return {
        "action": {
            "name": "route",
            "typed_config": {
                "@type": f"{_TYPES}.filters.udp.udp_proxy.v3.Route",
                "cluster": spec.cluster_name(port, backend),
            },
        }
    }
