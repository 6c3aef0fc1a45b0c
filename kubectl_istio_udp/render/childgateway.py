"""The Gateway of class istio that the controller creates for a Gateway of its class.

It mirrors the listeners that Istio can serve. Without any it has a placeholder, because a Gateway
needs a listener; a TCP listener without a route does not become a listener in Envoy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl_istio_udp.model.gatewayapi import ISTIO_CLASS, ApiGateway
from kubectl_istio_udp.model.resources import API_GATEWAY, RESOURCES
from kubectl_istio_udp.render.metadata import owned_by
from kubectl_istio_udp.sources.gateways import child_key


def child_gateway(gateway: ApiGateway) -> dict[str, Any]:
    """The manifest, for a Gateway with a listener that can be served.

    Its owner reference makes the garbage collector delete it.
    """
    namespace, name = child_key(gateway.key)
    spec: dict[str, Any] = {
        "gatewayClassName": ISTIO_CLASS,
        "listeners": [each.raw for each in gateway.mirrored] or [_placeholder(gateway)],
    }
    if gateway.infrastructure:
        spec["infrastructure"] = dict(gateway.infrastructure)
    if gateway.tls:
        spec["tls"] = dict(gateway.tls)
    return {
        **RESOURCES[API_GATEWAY].type_meta,
        "metadata": {
            "name": name,
            "namespace": namespace,
            # No labels of the plugin: istiod copies the labels to the Service and the pods, and
            # they would count as an exposure's.
            "labels": dict(gateway.labels),
            "ownerReferences": [owned_by(gateway.about)],
        },
        "spec": spec,
    }


def _placeholder(gateway: ApiGateway) -> Mapping[str, Any]:
    """A listener for a Gateway with UDP listeners only, as the API server stores it."""
    return {
        "name": "placeholder",
        "port": gateway.udp[0].port,
        "protocol": "TCP",
        "allowedRoutes": {"namespaces": {"from": "Same"}},
    }
