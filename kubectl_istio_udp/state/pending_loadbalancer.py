"""Find out why a load balancer has no address: from the newest warning Event of its Service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.pending_loadbalancer import newest_warning

_MOST_EVENTS = 500


def why_pending(api: Api, service: Mapping[str, Any]) -> str:
    """The newest warning Event about a Service; "" if there is none or Events may not be read.

    Events of an earlier Service with the same name are ignored.
    """
    metadata = service["metadata"]
    about = f"involvedObject.kind=Service,involvedObject.name={metadata['name']}"
    try:
        page = api.list_page(
            "Event", metadata["namespace"], limit=_MOST_EVENTS, fieldSelector=about
        )
    except ClusterError:
        return ""
    return newest_warning(
        event
        for event in page.items
        if event["involvedObject"].get("uid") in (None, "", metadata.get("uid"))
    )
