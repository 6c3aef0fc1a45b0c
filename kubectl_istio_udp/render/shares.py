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

from collections.abc import Iterator, Sequence
from typing import Any

from kubectl_istio_udp.model.exposure import Affinity, ExposureSpec
from kubectl_istio_udp.model.ports import MOST_WEIGHT, Backend, ExposedPort
from kubectl_istio_udp.model.shares import NUMBERS, Share

_TYPES = "type.googleapis.com/envoy.extensions"
_INPUTS = f"{_TYPES}.matching.common_inputs.network.v3"
assert NUMBERS >= MOST_WEIGHT


def matcher(spec: ExposureSpec, port: ExposedPort) -> dict[str, Any]:
    """The matcher of a port: it assigns clients to backends in proportion to the weights.

    It hashes the client's source port, so that each new socket is assigned again; with affinity it
    hashes the client's address.
    """
    shares = port.shares or port.usual_shares
    if not any(backend.weight for backend in port.backends):
        return {}
    if len(shares) == 1 and shares[0].backend is not None:
        return {"on_no_match": _route(spec, port, port.backends[shares[0].backend])}
    sticky = spec.options_of(port).affinity is Affinity.SOURCE_IP
    branches = [
        {"predicate": predicate, "on_match": _route(spec, port, port.backends[share.backend])}
        for share, predicate in zip(shares, _predicates(shares, sticky), strict=True)
        if share.backend is not None
    ]
    return {"matcher_list": {"matchers": branches}}


def _predicates(shares: Sequence[Share], sticky: bool) -> Iterator[dict[str, Any]]:
    """What matches the clients of each share, but for those that an earlier branch has matched.

    A share whose datagrams are dropped has no branch, so those after it need an upper bound.
    """
    bounded = False
    for end, share in zip([NUMBERS, *(share.first for share in shares)], shares, strict=False):
        below = [{"not_matcher": _from(end, sticky)}] if bounded else []
        bounded = bounded or share.backend is None
        yield (
            {"and_matcher": {"predicate": [_from(share.first, sticky), *below]}}
            if below
            else (_from(share.first, sticky))
        )


def _from(first: int, sticky: bool) -> dict[str, Any]:
    """Match clients from a number on, by their address if they are sticky."""
    what, type_ = ("source_ip", "SourceIPInput") if sticky else ("source_port", "SourcePortInput")
    return {
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
                    "modulo": NUMBERS,
                    "threshold": first,
                },
            },
        }
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
