"""The Gateway and the UDPRoutes that request the exposure of a Service from the controller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kubectl_istio_udp.model.gatewayapi import UDP, Key
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.resources import API_GATEWAY, RESOURCES

# The API's limit.
MOST_LISTENERS = 64


def gateway(
    key: Key, class_name: str, ports: Iterable[ExposedPort], annotations: Mapping[str, str]
) -> dict[str, Any]:
    """A Gateway with a listener for each port.

    Args:
        key: its (namespace, name).
        class_name: its GatewayClass.
        ports: the exposed ports.
        annotations: its gateway and its options.
    """
    return {
        **RESOURCES[API_GATEWAY].type_meta,
        "metadata": _metadata(key, annotations=dict(annotations)),
        "spec": {
            "gatewayClassName": class_name,
            "listeners": [
                {"name": listener_name(port), "port": port.gateway_port, "protocol": UDP}
                for port in ports
            ],
        },
    }


def routes(key: Key, service: str, ports: Iterable[ExposedPort]) -> list[dict[str, Any]]:
    """A UDPRoute for each port of a Service, because a UDPRoute has one rule.

    Args:
        key: (namespace, name) of the Gateway.
        service: the Service.
        ports: the exposed ports.
    """
    by_target: dict[int, list[ExposedPort]] = {}
    for port in ports:
        by_target.setdefault(port.service_port, []).append(port)
    return [
        {
            **RESOURCES["UDPRoute"].type_meta,
            "metadata": _metadata((key[0], route_name(key[1], number))),
            "spec": {
                "parentRefs": [
                    {"name": key[1], "sectionName": listener_name(port)} for port in leading
                ],
                "rules": [{"backendRefs": [{"name": service, "port": number}]}],
            },
        }
        for number, leading in by_target.items()
    ]


def listener_name(port: ExposedPort) -> str:
    """The name of a port's listener."""
    return f"udp-{port.gateway_port}"


def route_name(gateway_name: str, service_port: int) -> str:
    """The name of the UDPRoute to a port of the Service."""
    return f"{gateway_name}-{service_port}"


def _metadata(key: Key, **more: Any) -> dict[str, Any]:
    return {"name": key[1], "namespace": key[0], **more}
