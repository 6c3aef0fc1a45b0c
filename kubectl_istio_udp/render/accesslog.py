"""The EnvoyFilter of an access log: the interval, merged into every selected tcp_proxy.

Field references: Envoy's API documentation of
`extensions.filters.network.tcp_proxy.v3.TcpProxy` (access_log_options, access_log_flush_interval).
"""

from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.accesslog import (
    TCP_PROXY,
    AccessLogSpec,
    Direction,
    LogField,
    LogScope,
)
from kubectl_istio_udp.model.resources import RESOURCES
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.render.metadata import metadata

_TYPE = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_CONTEXTS = {
    Direction.ANY: "ANY",
    Direction.INBOUND: "SIDECAR_INBOUND",
    Direction.OUTBOUND: "SIDECAR_OUTBOUND",
}


def access_log_writes(spec: AccessLogSpec, manager: str = names.MANAGER) -> tuple[Write, ...]:
    """The only write of an access log.

    Args:
        spec: the access log.
        manager: the field manager of the EnvoyFilter.
    """
    context = "GATEWAY" if spec.scope is LogScope.GATEWAY else _CONTEXTS[spec.direction]
    patch = {
        "applyTo": "NETWORK_FILTER",
        "match": {
            "context": context,
            "listener": {"filterChain": {"filter": {"name": TCP_PROXY}}},
        },
        "patch": {
            "operation": "MERGE",
            "value": {"name": TCP_PROXY, "typed_config": {"@type": _TYPE, **_interval(spec)}},
        },
    }
    body: dict[str, Any] = {"configPatches": [patch]}
    if spec.selector:
        body = {"workloadSelector": {"labels": dict(spec.selector)}, **body}
    manifest = {
        **RESOURCES["EnvoyFilter"].type_meta,
        "metadata": metadata(spec, spec.namespace),
        "spec": body,
    }
    return (Write(manifest, manager),)


def _interval(spec: AccessLogSpec) -> dict[str, Any]:
    every = {LogField.FLUSH_INTERVAL.value: spec.every.envoy()}
    return {spec.log_field.value: every} if spec.log_field is LogField.OPTIONS else every
