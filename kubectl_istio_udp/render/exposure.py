"""All objects of an exposure, in the order in which they must be written."""

from __future__ import annotations

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.exposure import Exposure, GatewayServiceMode
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from kubectl_istio_udp.render.gatewayservice import companion_service, gateway_service_patch
from kubectl_istio_udp.render.serviceentry import service_entries


def writes(exposure: Exposure, manager: str = names.MANAGER) -> tuple[Write, ...]:
    """The writes that make an exposure true.

    The endpoints first, then the cluster that asks for them with its listener (one EnvoyFilter;
    istiod sends clusters before listeners), then the way for clients.

    Args:
        exposure: what to render.
        manager: the field manager of the objects that are all ours.
    """
    mode = exposure.spec.options.gateway_service
    found = [Write(entry, manager) for entry in service_entries(exposure)]
    found.append(Write(envoy_filter(exposure), manager))
    if mode is GatewayServiceMode.COMPANION:
        found.append(Write(companion_service(exposure), manager))
    elif mode is GatewayServiceMode.PATCH:
        own = names.service_manager(*exposure.spec.key)
        found.append(Write(gateway_service_patch(exposure), own, whole=False))
    return tuple(found)
