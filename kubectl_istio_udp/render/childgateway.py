"""The Gateway of class istio that the controller creates for a Gateway of our class.

It needs a listener. A TCP listener without a route does not become a listener in Envoy.
"""

from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model.gatewayapi import UDP, ApiGateway
from kubectl_istio_udp.model.resources import API_GATEWAY, RESOURCES
from kubectl_istio_udp.sources.gateways import ISTIO_CLASS, child_key


def child_gateway(gateway: ApiGateway) -> dict[str, Any]:
    """The manifest; its owner reference makes the garbage collector delete it."""
    namespace, name = child_key(gateway.key)
    port = next(listener.port for listener in gateway.listeners if listener.protocol == UDP)
    spec: dict[str, Any] = {
        "gatewayClassName": ISTIO_CLASS,
        "listeners": [{"name": "placeholder", "port": port, "protocol": "TCP"}],
    }
    if gateway.infrastructure:
        spec["infrastructure"] = dict(gateway.infrastructure)
    return {
        **RESOURCES[API_GATEWAY].type_meta,
        "metadata": {
            "name": name,
            "namespace": namespace,
            # No labels of ours: istiod copies the labels to the Service and the pods, and they
            # would count as an exposure's.
            "labels": dict(gateway.labels),
            "ownerReferences": [
                {
                    "apiVersion": gateway.about.api_version,
                    "kind": gateway.about.kind,
                    "name": gateway.about.name,
                    "uid": gateway.about.uid,
                    "controller": True,
                }
            ],
        },
        "spec": spec,
    }
