"""Read the addresses of the API server, which are never endpoints."""

from __future__ import annotations

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.endpointrules import API_SERVER_SERVICE, api_server_addresses
from kubectl_istio_udp.model.errors import Forbidden, NotFound
from kubectl_istio_udp.state.services import read_service_objects


def read_api_server_addresses(api: Api) -> frozenset[str]:
    """The addresses of the API server and its Service; empty if they may not be read."""
    try:
        service, slices = read_service_objects(api, *API_SERVER_SERVICE)
    except (Forbidden, NotFound):
        return frozenset()
    return api_server_addresses(service, slices)
