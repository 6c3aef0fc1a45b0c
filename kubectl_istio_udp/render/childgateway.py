"""The Gateway of class istio that is made for a Gateway of our class: istiod makes pods for it.

It needs a listener. One for TCP without a route becomes no listener in Envoy.
"""

from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model.gatewayapi import UDP, ApiGateway
from kubectl_istio_udp.model.resources import API_GATEWAY, RESOURCES
from kubectl_istio_udp.sources.gateways import ISTIO_CLASS, child_key


def child_gateway(gateway: ApiGateway) -> dict[str, Any]:
    """The manifest; the garbage collector deletes it with its Gateway."""
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
            # None of ours: istiod gives the Service and the pods the same labels, and they would
            # count as an exposure's.
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
