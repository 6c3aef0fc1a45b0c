"""All objects of an exposure, in writing order."""

from __future__ import annotations

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.exposure import Exposure, GatewayServiceMode
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from kubectl_istio_udp.render.gatewayservice import companion_service, gateway_service_patch
from kubectl_istio_udp.render.serviceentry import service_entries


def writes(exposure: Exposure, manager: str = names.MANAGER) -> tuple[Write, ...]:
    """The writes of an exposure.

    The endpoints come first, then the clusters with their listeners (one EnvoyFilter; istiod sends
    clusters before listeners), then the Service for clients.

    Args:
        exposure: the exposure.
        manager: the field manager of objects that the plugin creates.
    """
    mode = exposure.spec.options.gateway_service
    found = [Write(entry, manager) for entry in service_entries(exposure)]
    found.append(Write(envoy_filter(exposure), manager))
    if mode is GatewayServiceMode.COMPANION:
        found.append(Write(companion_service(exposure), manager))
    elif mode is GatewayServiceMode.PATCH:
        manager_name = names.service_manager(*exposure.spec.key)
        found.append(Write(gateway_service_patch(exposure), manager_name, whole=False))
    return tuple(found)
