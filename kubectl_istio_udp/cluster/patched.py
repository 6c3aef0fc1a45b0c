"""The Services of others on which exposures may have ports (`--gateway-service patch`)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from kubectl_istio_udp.cluster.existing import USUAL_GATEWAY_NAMESPACE
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import Forbidden
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.kinds import Spec


def services_near(api: Api, specs: Iterable[Spec | None]) -> list[dict[str, Any]]:
    """The Services among which those with an exposure's ports are; their managedFields tell which.

    No object names them reliably: a run that stopped half-way may have left a port on the Service
    of a gateway that nothing else points to any more. So these are the Services of all namespaces.
    A user who may not list those gets those of the namespaces where the exposures' gateways are,
    as far as allowed.

    Args:
        api: the cluster.
        specs: the exposures; None for one that cannot be read.
    """
    try:
        return api.list("Service")
    except Forbidden:
        places = [spec.gateway.namespace for spec in specs if isinstance(spec, ExposureSpec)]
        namespaces = {USUAL_GATEWAY_NAMESPACE, *places}
    found: list[dict[str, Any]] = []
    for namespace in sorted(namespaces):
        with suppress(Forbidden):
            found += api.list("Service", namespace)
    return found
