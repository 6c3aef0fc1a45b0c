"""The Gateway of class istio that the controller keeps for a Gateway of its own class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl_istio_udp.controller.objects import MANAGER, contains
from kubectl_istio_udp.controller.writing import Writer
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.render.childgateway import child_gateway
from kubectl_istio_udp.sources.annotations import Intent
from kubectl_istio_udp.state.apigateways import ApiGateways
from kubectl_istio_udp.state.caches import Caches

Manifest = Mapping[str, Any]


class ChildGateways:
    """Writes and deletes child Gateways."""

    def __init__(self, caches: Caches, writer: Writer) -> None:
        """Take the dependencies."""
        self._caches, self._writer = caches, writer

    def keep(self, intent: Intent) -> None:
        """Write the Gateway of class istio for a Gateway, or delete a former one."""
        asking, gateways = self._caches.gateway_of(intent.key), self._caches.api_gateways
        if asking is None or gateways is None:
            return
        existing = gateways.child(asking.key)
        if intent.own_gateway:
            self._write(gateways, child_gateway(asking), existing)
        elif existing is not None:
            metadata = existing["metadata"]
            place = (metadata["namespace"], metadata["name"])
            self._writer.fence("delete", existing["kind"])
            self._writer.api.delete(API_GATEWAY, *place, uid=metadata["uid"])
            gateways.gateways.forget(*place)

    def _write(self, gateways: ApiGateways, wanted: Manifest, existing: Manifest | None) -> None:
        """Write the Gateway of class istio for a Gateway, if it differs."""
        if existing is not None and contains(existing, wanted):
            return
        if existing is None:
            self._writer.fence("create", wanted["kind"])
            written = self._writer.api.create(wanted, manager=MANAGER)
        else:
            metadata = {**wanted["metadata"], "uid": existing["metadata"]["uid"]}
            self._writer.fence("patch", wanted["kind"])
            written = self._writer.api.apply(
                {**wanted, "metadata": metadata}, before=None, manager=MANAGER, force=True
            ).manifest
        gateways.gateways.learn(written)
