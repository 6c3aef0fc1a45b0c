"""Which of a port's clusters a client gets: the matcher of Envoy's UDP proxy.

Envoy asks the matcher for every datagram, before it looks for the client's session. So the answer
depends on the client's address alone, and a change of weights moves only the clients between the
old and the new bounds. Clients that nothing matches get no session: their datagrams are dropped,
and counted as `udp.NAME.downstream_sess_no_route`.

Field references: Envoy's `extensions.filters.udp.udp_proxy.v3.UdpProxyConfig`,
`extensions.matching.input_matchers.consistent_hashing.v3.ConsistentHashing`, and
`xds.type.matcher.v3.Matcher`.
"""

from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model.exposure import Affinity, ExposureSpec
from kubectl_istio_udp.model.ports import MOST_WEIGHT, Backend, ExposedPort

_TYPES = "type.googleapis.com/envoy.extensions"
_INPUTS = f"{_TYPES}.matching.common_inputs.network.v3"
# A hash numbers clients from 0 to this. A constant: were it the sum of the weights, a change of one
# weight would number all clients anew. No less than the largest sum, so that each weight counts.
_NUMBERS = 2**24
assert _NUMBERS >= MOST_WEIGHT


def matcher(spec: ExposureSpec, port: ExposedPort) -> dict[str, Any]:
    """The matcher of a port: each client to one backend, in proportion to the weights.

    A client is told by its source port, so that each new socket is another draw; with affinity by
    its address.
    """
    if not port.backends:
        return {}
    if len(port.backends) == 1 and not port.dropped:
        return {"on_no_match": _route(spec, port, port.backends[0])}
    branches = [
        _branch(spec, first, _route(spec, port, backend))
        for backend, first in zip(port.backends, _first_numbers(port), strict=True)
    ]
    return {"matcher_list": {"matchers": branches}}


def _first_numbers(port: ExposedPort) -> list[int]:
    """The lowest number of each backend's clients; those below the last one's are dropped.

    The first branch that matches counts, so the first backend has the highest numbers.
    """
    left = total = port.dropped + sum(backend.weight for backend in port.backends)
    found = []
    for backend in port.backends:
        left -= backend.weight
        found.append(left * _NUMBERS // total)
    return found


def _branch(spec: ExposureSpec, first: int, on_match: dict[str, Any]) -> dict[str, Any]:
    """Matches clients from a number on."""
    sticky = spec.options.affinity is Affinity.SOURCE_IP
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
