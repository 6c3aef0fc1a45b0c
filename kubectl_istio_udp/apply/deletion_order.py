"""Delete what a ChangeSet deletes, in the one order that is safe for clients.

First the Services for clients, then the listeners, and when no gateway pod has the listeners any
more, the clusters and endpoints. After an interruption, run it again: the rest is in the next run's
ChangeSet.

`delete_in_order` has the order; the command line and the controller supply each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kubectl_istio_udp.apply.changes import ChangeSet, Release, change_set
from kubectl_istio_udp.apply.waiting import wait_until_gone
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.errors import Conflict
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.managed_fields import manager_of
from kubectl_istio_udp.model.names import MANAGER
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.state.leftovers import Leftovers
from kubectl_istio_udp.state.ownership import Existing

Manifest = Mapping[str, Any]
# Called with the kind, namespace and name of each deleted object.
OnRemoved = Callable[[str, str, str], None]


# A listener with changed filters is drained (measured: an open connection was closed after 47 s).
_RECONNECTS = (
    "this closes the open TCP connections of the selected proxies within 45s: Envoy drains a "
    "listener when its filters change"
)


def delete_existing(
    api: Api,
    existing: Existing,
    leftovers: Leftovers,
    *,
    timeout: float,
    dry_run: str,
    report: OnRemoved,
) -> tuple[str, ...]:
    """Delete one exposure, response or access log, with all its leftovers.

    Args:
        api: the cluster.
        existing: what to delete.
        leftovers: finds what interrupted runs left behind.
        timeout, dry_run, report: as for `remove`.

    Returns:
        A text for each warning.

    Raises:
        Forbidden, Unreachable, ClusterError: run the command again to delete the rest.
    """
    changes = _deletion_of(existing, leftovers)
    warnings = [_RECONNECTS] if existing.kind is Kind.ACCESS_LOG else []
    return (*warnings, *remove(api, changes, timeout=timeout, dry_run=dry_run, report=report))


def _deletion_of(existing: Existing, leftovers: Leftovers) -> ChangeSet:
    """The ChangeSet that deletes one exposure, response or access log."""
    key = (existing.namespace, existing.name)
    if existing.kind is not Kind.EXPOSURE:
        return change_set(existing.kind, key, existing.objects)
    objects = (*existing.objects, *leftovers.reservations(key))
    return change_set(existing.kind, key, objects, leftovers.services_of([existing.spec]))


class Remover(Protocol):
    """Does each step of a deletion: the command line sends requests, the controller fences them."""

    def delete(self, manifest: Manifest) -> None:
        """Delete an object."""

    def release(self, release: Release) -> None:
        """Remove the exposure's ports from the gateway's own Service."""

    def drain(self, envoy_filter: Manifest) -> float:
        """Remove the listeners of an EnvoyFilter.

        Returns:
            The seconds until the gateways have drained them; 0 if they have.
        """


def delete_in_order(changes: ChangeSet, remover: Remover) -> float:
    """Delete and release everything in a ChangeSet, in the safe order.

    Args:
        changes: what to remove; its writes are ignored.
        remover: carries out each step.

    Returns:
        The seconds after which to call it again for the rest; 0 if everything is removed.
    """
    services = [manifest for manifest in changes.delete if manifest["kind"] == "Service"]
    others = [manifest for manifest in changes.delete if manifest["kind"] != "Service"]
    for service in services:
        remover.delete(service)
    for release in changes.release:
        remover.release(release)
    # A reservation has no patches, so gateways get nothing from it.
    filters = [
        manifest
        for manifest in others
        if manifest["kind"] == "EnvoyFilter" and manifest["spec"].get("configPatches")
    ]
    if left := max(map(remover.drain, filters), default=0.0):
        return left
    for manifest in others:
        remover.delete(manifest)
    return 0.0


def remove(
    api: Api, changes: ChangeSet, *, timeout: float, dry_run: str, report: OnRemoved
) -> tuple[str, ...]:
    """Delete and release everything in a ChangeSet, waiting for the gateways in between.

    Args:
        api: the cluster.
        changes: what to remove; its writes are ignored.
        timeout: seconds to wait for the gateways to drop the listeners; 0 to not wait.
        dry_run: none; client to only report; server to send requests as a server-side dry run.
        report: called with the kind, namespace and name of each deleted object.

    Returns:
        A text for each warning.

    Raises:
        Forbidden, Unreachable, ClusterError: run the command again to remove the rest.
    """
    remover = _ByRequests(api, timeout, dry_run, report)
    delete_in_order(changes, remover)
    return tuple(remover.warnings)


class _ByRequests:
    """Sends one request after the other, and waits for the gateways where necessary."""

    def __init__(self, api: Api, timeout: float, dry_run: str, report: OnRemoved) -> None:
        self._api, self._timeout, self._dry_run, self._report = api, timeout, dry_run, report
        self.warnings: list[str] = []

    def delete(self, manifest: Manifest) -> None:
        kind, metadata = manifest["kind"], manifest["metadata"]
        place = (kind, metadata["namespace"], metadata["name"])
        if self._dry_run == "client" or self._api.delete(manifest, dry_run=self._dry_run != "none"):
            self._report(*place)

    def release(self, release: Release) -> None:
        if self._dry_run != "client":
            self._api.apply(
                release.manifest,
                before=release.service,
                manager=release.manager,
                dry_run=self._dry_run != "none",
            )
        self._report("Service", release.namespace, f"{release.name} (UDP ports of the exposure)")

    def drain(self, envoy_filter: Manifest) -> float:
        if self._timeout and self._dry_run == "none":
            self.warnings += _remove_listeners(self._api, envoy_filter, self._timeout)
        return 0.0


def without_listeners(manifest: Manifest, manager: str) -> Write | None:
    """The write that removes the listeners of an EnvoyFilter; None if it has none.

    Args:
        manifest: the object; only EnvoyFilters have listeners.
        manager: the field manager that wrote it; another one would conflict with the next write
            of the EnvoyFilter.

    The clusters stay until no gateway has the listeners any more: a listener without its cluster
    would drop clients' datagrams.
    """
    if manifest["kind"] != "EnvoyFilter" or not _listeners(manifest):
        return None
    metadata, spec = manifest["metadata"], dict(manifest["spec"])
    patches = spec.get("configPatches") or ()
    spec["configPatches"] = [patch for patch in patches if patch.get("applyTo") != "LISTENER"]
    silent = {
        "apiVersion": manifest["apiVersion"],
        "kind": "EnvoyFilter",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": metadata["labels"],
            "annotations": metadata.get("annotations") or {},
        },
        "spec": spec,
    }
    return Write(silent, manager)


def _remove_listeners(api: Api, manifest: Manifest, timeout: float) -> list[str]:
    """Remove the listeners of an EnvoyFilter and wait until no gateway has them."""
    write = without_listeners(manifest, manager_of(manifest) or MANAGER)
    if write is None:
        return []
    # With the uid it is not created again if it was deleted since.
    metadata = {**write.manifest["metadata"], "uid": manifest["metadata"]["uid"]}
    silent = {**write.manifest, "metadata": metadata}
    try:
        api.apply(silent, before=manifest, manager=write.manager, force=True)
    except Conflict:
        if api.find("EnvoyFilter", metadata["namespace"], metadata["name"]) is None:
            return []
        raise
    selector = (manifest["spec"].get("workloadSelector") or {}).get("labels") or {}
    problem = wait_until_gone(
        api, manifest["metadata"]["namespace"], selector, _listeners(manifest), timeout
    )
    return [problem] if problem else []


def _listeners(manifest: Manifest) -> list[str]:
    return sorted(Footprint.from_object(manifest).listeners)
