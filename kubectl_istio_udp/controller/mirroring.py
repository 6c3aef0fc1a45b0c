"""Write the Gateways and routes of class istio that mirror those of our class.

A Gateway that names no gateway gets a Gateway of class istio, for which istiod creates pods. HTTP,
GRPC, TLS and TCP routes at the former are copied to the latter. Objects of others with the same
names are never changed. The API server's garbage collector deletes copies with their originals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kubectl_istio_udp.apply.exact import merge_patch
from kubectl_istio_udp.controller.mirrored import COPY_LABELS, is_current
from kubectl_istio_udp.controller.objects import MANAGER
from kubectl_istio_udp.controller.writing import Fence
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import Cache, Key
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.deletion import is_being_deleted
from kubectl_istio_udp.model.errors import Busy, ClusterError, Conflict, Unreachable
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gatewayapi import ApiGateway
from kubectl_istio_udp.render.childgateway import child_gateway
from kubectl_istio_udp.render.routeclone import route_clone
from kubectl_istio_udp.sources.gateways import (
    exposure_key,
    is_child_of,
    needs_child,
    not_accepted,
)
from kubectl_istio_udp.state.apigateways import ApiGateways
from kubectl_istio_udp.state.ownership import is_copy_of

Manifest = Mapping[str, Any]
# Errors that another attempt fixes.
PASSING = (Busy, Conflict, Unreachable)


class Mirroring:
    """Writes and deletes copies; thread-safe for different originals."""

    def __init__(
        self,
        api: Api,
        gateways: ApiGateways,
        *,
        requested: Callable[[Key], object],
        held: Callable[[Key], ExposureSpec | None],
        is_written: Callable[[Key], bool],
        fence: Fence,
    ) -> None:
        """Take the dependencies.

        Args:
            api: the cluster, for writes.
            gateways: the caches of Gateways and routes.
            requested: returns the intent of an exposure, or the error from reading it.
            held: returns an exposure as it is; None if it does not exist.
            is_written: whether an exposure's EnvoyFilter is being written.
            fence: lets the writes pass.
        """
        self._api, self._gateways, self._fence = api, gateways, fence
        self._requested, self._held, self._is_written = requested, held, is_written

    def keep_gateway(self, key: Key) -> str:
        """Write the Gateway of class istio for a Gateway, or delete a former one.

        Returns:
            Why it cannot be written; "" if there is no problem.

        Raises:
            ClusterError, NotLeading: a write failed; it must be retried.
        """
        gateways, gateway = self._gateways, self._gateways.gateway(key)
        kept, existing = gateways.gateways.get(*key), gateways.child(key)
        if kept is None or kept.read.leaving or gateways.is_undecided(key):
            return ""
        is_copy = existing is not None and is_copy_of(existing, kept.read.about)
        if gateway is None or not needs_child(gateway):
            if existing is not None and is_copy and not self._is_used(gateway):
                self._delete(gateways.gateways, existing)
            return ""
        # One that is not accepted gets none, and keeps one that it has.
        accepted = not_accepted(gateway, self._requested(exposure_key(key))) is None
        if not gateways.has_child(gateway) or not (accepted or existing is not None):
            return ""
        wanted = child_gateway(gateway)
        if existing is not None and not is_copy:
            return _taken(wanted, str(gateway))
        return self._write(gateways.gateways, wanted, existing)

    def _is_used(self, gateway: ApiGateway | None) -> bool:
        """Whether a Gateway that may name another one still has its exposure at the created one."""
        if gateway is None:
            return False
        key = exposure_key(gateway.key)
        # In this order: a write that has just ended has changed what is held.
        if self._is_written(key):
            return True
        held = self._held(key)
        return held is not None and is_child_of(held.gateway, gateway.key)

    def keep_route(self, kind: str, key: Key) -> str:
        """Write the copy of a route, or delete a former one; as `keep_gateway`."""
        gateways, cache = self._gateways, self._gateways.mirrored[kind]
        kept, existing = cache.get(*key), gateways.clone(kind, key)
        if kept is None:
            return ""
        copied = gateways.copied_parents(kind, kept.read)
        if copied is None or not (copied or existing):
            return ""
        original = kept.manifest
        if is_being_deleted(original):
            return ""
        is_copy = existing is not None and is_copy_of(existing, About.of(original))
        if not copied:
            if existing is not None and is_copy:
                self._delete(cache, existing)
            return ""
        wanted = route_clone(original, copied)
        if existing is not None and not is_copy:
            return _taken(wanted, f"{key[0]}/{key[1]}")
        return self._write(cache, wanted, existing)

    def _write(self, cache: Cache[Any], wanted: Manifest, existing: Manifest | None) -> str:
        if is_current(existing, wanted):
            return ""
        try:
            cache.learn(
                self._create(wanted) if existing is None else self._change(wanted, existing)
            )
        except PASSING:
            raise
        except ClusterError as error:
            return f"{wanted['kind']} {wanted['metadata']['name']}: {error.message}"
        return ""

    def _create(self, wanted: Manifest) -> Manifest:
        with self._fence.passing("create", wanted["kind"]):
            return self._api.create(dict(wanted), manager=MANAGER)

    def _change(self, wanted: Manifest, existing: Manifest) -> Manifest:
        """Change an object so that it has exactly the wanted spec, whatever others changed."""
        labels = {**dict.fromkeys(COPY_LABELS), **wanted["metadata"]["labels"]}
        uid = existing["metadata"]["uid"]
        patch = {
            **wanted,
            "metadata": {**wanted["metadata"], "labels": labels, "uid": uid},
            "spec": merge_patch(existing.get("spec") or {}, wanted["spec"]),
        }
        with self._fence.passing("patch", wanted["kind"]):
            return self._api.merge(patch, manager=MANAGER)

    def _delete(self, cache: Cache[Any], existing: Manifest) -> None:
        metadata = existing["metadata"]
        with self._fence.passing("delete", existing["kind"]):
            self._api.delete(existing)
        cache.forget(metadata["namespace"], metadata["name"])


def _taken(wanted: Manifest, original: str) -> str:
    kind, metadata = wanted["kind"], wanted["metadata"]
    place = f"{metadata['namespace']}/{metadata['name']}"
    return f"{kind} {place} already exists and was not created for {kind} {original}"
