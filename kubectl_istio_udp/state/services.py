"""Read a Service, its EndpointSlices, and ServiceEntries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model.errors import Forbidden
from kubectl_istio_udp.model.service import SERVICE_LABEL, EndpointSlice


def service_slices(api: Api, namespace: str, service: str) -> tuple[EndpointSlice, ...]:
    """A Service's EndpointSlices.

    Raises:
        Forbidden, Unreachable, ClusterError: they cannot be listed.
    """
    found = api.list("EndpointSlice", namespace, f"{SERVICE_LABEL}={service}")
    return tuple(EndpointSlice.from_object(each) for each in found)


def read_service_objects(
    api: Api, namespace: str, name: str
) -> tuple[dict[str, Any], tuple[EndpointSlice, ...]]:
    """A Service's manifest and its EndpointSlices.

    Raises:
        NotFound, Forbidden, Unreachable: errors of the API server.
    """
    found, slices = in_parallel(
        [lambda: api.get("Service", namespace, name), lambda: service_slices(api, namespace, name)]
    )
    return found, slices


def service_entries(api: Api, namespaces: Sequence[str]) -> list[dict[str, Any]]:
    """All ServiceEntries, or those of some namespaces if the others may not be listed.

    Raises:
        Forbidden: these may not be listed either.
    """
    try:
        return api.list("ServiceEntry")
    except Forbidden:
        lists = for_each(lambda name: api.list("ServiceEntry", name), sorted({*namespaces}))
        return [entry for each in lists for entry in each]
