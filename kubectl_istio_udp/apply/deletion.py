"""Carry out the deletions of a ChangeSet, in the one order that is safe for clients.

First the way for clients goes (the Services), then the listeners, and only when no gateway pod
listens any more the clusters and the endpoints behind them. A run that is interrupted can be
repeated: what is left is in the next run's ChangeSet.

`carry_out` has the order; the command line and the controller hand in how each step is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kubectl_istio_udp.apply.changes import ChangeSet, Release, change_set
from kubectl_istio_udp.apply.waiting import wait_until_gone
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.envoyfilter import Claims
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.names import MANAGER
from kubectl_istio_udp.model.ownership import manager_of
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.state.leftovers import Leftovers
from kubectl_istio_udp.state.ownership import Existing

Manifest = Mapping[str, Any]
# Called with the kind, namespace and name of each object that went.
OnRemoved = Callable[[str, str, str], None]


# A listener whose filters change is drained (measured: 47 s until an open connection was closed).
_RECONNECTS = (
    "the TCP connections that the proxies in reach have open now are closed within 45s: Envoy "
    "drains a listener whose filters change"
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
    """Delete one exposure, response or access log, with everything that was left of it.

    Args:
        api: the cluster.
        existing: what to delete, as found.
        leftovers: where to look for what runs that stopped half-way left of it.
        timeout, dry_run, report: as for `remove`.

    Returns:
        What is worth a warning, one text each.

    Raises:
        Forbidden, Unreachable, ClusterError: the same command deletes what is left.
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
    return change_set(existing.kind, key, objects, leftovers.services)


class Remover(Protocol):
    """How a loop carries out the steps of a removal: with requests, or fenced, or only told."""

    def delete(self, manifest: Manifest) -> None:
        """Delete an object."""

    def release(self, release: Release) -> None:
        """Take the exposure's ports off a Service that others keep."""

    def drain(self, envoy_filter: Manifest) -> float:
        """End the listeners of an EnvoyFilter.

        Returns:
            The seconds until the gateways must have done so; 0 if they have.
        """


def carry_out(changes: ChangeSet, remover: Remover) -> float:
    """Delete and release what a ChangeSet says, in the one order that is safe.

    Args:
        changes: what to remove; its writes are not looked at.
        remover: carries out each step.

    Returns:
        The seconds after which to call it again with what is left then; 0 when all is removed.
    """
    services = [manifest for manifest in changes.delete if manifest["kind"] == "Service"]
    others = [manifest for manifest in changes.delete if manifest["kind"] != "Service"]
    for service in services:
        remover.delete(service)
    for release in changes.release:
        remover.release(release)
    filters = [manifest for manifest in others if manifest["kind"] == "EnvoyFilter"]
    if left := max(map(remover.drain, filters), default=0.0):
        return left
    for manifest in others:
        remover.delete(manifest)
    return 0.0


def remove(
    api: Api, changes: ChangeSet, *, timeout: float, dry_run: str, report: OnRemoved
) -> tuple[str, ...]:
    """Delete and release what a ChangeSet says, and wait for the gateways in between.

    Args:
        api: the cluster.
        changes: what to remove; its writes are not looked at.
        timeout: seconds to wait for the gateways to drop the listeners; 0 does not wait.
        dry_run: none; client to report only; server to ask the server and change nothing.
        report: called with kind, namespace and name of each object that went.

    Returns:
        What is worth a warning, one text each.

    Raises:
        Forbidden, Unreachable, ClusterError: the same command removes what is left.
    """
    remover = _AtOnce(api, timeout, dry_run, report)
    carry_out(changes, remover)
    return tuple(remover.warnings)


class _AtOnce:
    """Deletes by one request after the other, and waits for the gateways where it must."""

    def __init__(self, api: Api, timeout: float, dry_run: str, report: OnRemoved) -> None:
        self._api, self._timeout, self._dry_run, self._report = api, timeout, dry_run, report
        self.warnings: list[str] = []

    def delete(self, manifest: Manifest) -> None:
        kind, metadata = manifest["kind"], manifest["metadata"]
        place = (kind, metadata["namespace"], metadata["name"])
        if self._dry_run == "client" or self._api.delete(*place, dry_run=self._dry_run != "none"):
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
            self.warnings += _silence(self._api, envoy_filter, self._timeout)
        return 0.0


def silenced(manifest: Manifest, manager: str) -> Write | None:
    """The write that takes the listeners out of an EnvoyFilter; None where it has none.

    Args:
        manifest: the object as it is; of another kind it has no listeners.
        manager: the field manager that wrote it. Under another one, whoever writes the EnvoyFilter
            again would meet a conflict.

    The clusters stay until no gateway has the listeners any more: a listener without its cluster
    would drop what clients send.
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


def _silence(api: Api, manifest: Manifest, timeout: float) -> list[str]:
    """Take the listeners out of an EnvoyFilter and wait until no gateway has them."""
    write = silenced(manifest, manager_of(manifest) or MANAGER)
    if write is None:
        return []
    api.apply(write.manifest, before=manifest, manager=write.manager, force=True)
    selector = (manifest["spec"].get("workloadSelector") or {}).get("labels") or {}
    problem = wait_until_gone(
        api, manifest["metadata"]["namespace"], selector, _listeners(manifest), timeout
    )
    return [problem] if problem else []


def _listeners(manifest: Manifest) -> list[str]:
    return sorted(Claims.from_object(manifest).listeners)
