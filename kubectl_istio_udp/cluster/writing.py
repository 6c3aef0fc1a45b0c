"""Writing a thing's objects, all or none; and taking them away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kubectl_istio_udp.cluster.existing import OBJECT_KINDS, Existing, exposure_of
from kubectl_istio_udp.cluster.waiting import wait_until_gone
from kubectl_istio_udp.kube.client import Api, Applied
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.errors import ClusterError, Interrupted, IstioUdpError, Unreachable
from kubectl_istio_udp.model.exposure import ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.ownership import is_managed, managed_ports
from kubectl_istio_udp.model.write import Write

Report = Callable[[str, str, str], None]
_IDENTITY = ("name", "namespace")
# What we apply of a port; the server adds more (nodePort).
_APPLIED_PORT_FIELDS = ("name", "port", "protocol", "targetPort")
# A listener whose filters change is drained (measured: 47 s until an open connection was closed).
_RECONNECTS = (
    "the TCP connections that the proxies in reach have open now are closed within 45s: Envoy "
    "drains a listener whose filters change"
)


class Transaction:
    """Writes that can be taken back together.

    Used as a context: leaving it by an exception (an interruption too) takes back, in reverse
    order, what it wrote: created objects are deleted, changed ones get their former content.
    `keep` ends that: what is written by then stays.
    """

    def __init__(self, api: Api, *, force: bool = False, dry_run: bool = False) -> None:
        """Take the cluster, whether to take fields over, and whether only to ask the server."""
        self._api, self._force, self._dry_run = api, force, dry_run
        self._undo: list[tuple[Write, Mapping[str, Any] | None]] = []

    def __enter__(self) -> Transaction:
        """Begin."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Take back on any exception; the message of one of ours says what became of it."""
        if error is None or not self._undo:
            return
        aftermath = _aftermath(self._take_back())
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted("interrupted", hints=aftermath) from None
        if isinstance(error, IstioUdpError):
            error.hints = (*error.hints, *aftermath)

    def keep(self) -> None:
        """What has been written stays, whatever happens next."""
        self._undo.clear()

    def apply(self, write: Write) -> Applied:
        """Server-side apply one write.

        Raises:
            ApplyConflict, Forbidden, Unreachable, ClusterError: as the server says; nothing of
                this write is there then.
        """
        before = self._api.find(write.kind, write.namespace, write.name)
        # Beforehand: an answer that never comes may be to a write that was done.
        if not self._dry_run:
            self._undo.append((write, before))
        try:
            # Who interrupts waits for this one answer: a request under way that is only forgotten
            # could be carried out after it has been taken back.
            with ThreadPoolExecutor(1) as pool:
                applied = pool.submit(
                    self._api.apply,
                    write.manifest,
                    before=before,
                    manager=write.manager,
                    force=self._force,
                    dry_run=self._dry_run,
                ).result()
        except Unreachable:
            raise
        except ClusterError:
            self._undo[-1:] = []
            raise
        if applied.verb == "unchanged":
            self._undo[-1:] = []
        return applied

    def _take_back(self) -> list[tuple[Write, IstioUdpError]]:
        """Undo in reverse order; what could not be undone, and why."""
        remaining = []
        for write, before in reversed(self._undo):
            try:
                if before is None and write.whole:
                    self._api.delete(write.kind, write.namespace, write.name)
                else:
                    former = _former(write, before or {})
                    self._api.apply(former, before=before, manager=write.manager, force=True)
            except IstioUdpError as error:
                remaining.append((write, error))
        self._undo.clear()
        return remaining


def _former(write: Write, before: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that gives an object its former content, as far as it was ours."""
    manifest = write.manifest
    former: dict[str, Any] = {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": {key: value for key, value in manifest["metadata"].items() if key in _IDENTITY},
    }
    if not write.whole:
        former["spec"] = {
            "ports": [
                {key: entry[key] for key in _APPLIED_PORT_FIELDS if key in entry}
                for entry in managed_ports(before, write.manager)
            ]
        }
        return former
    for part in ("labels", "annotations"):
        mine = manifest["metadata"].get(part) or {}
        theirs = before["metadata"].get(part) or {}
        former["metadata"][part] = {key: theirs[key] for key in mine if key in theirs}
    # Its spec, or what such a kind has in place of one (data, rules).
    former |= {key: before[key] for key in manifest if key not in former and key in before}
    if manifest["kind"] == "Service":
        former["spec"] = {k: v for k, v in before["spec"].items() if k in manifest["spec"]}
    return former


def _aftermath(remaining: Sequence[tuple[Write, IstioUdpError]]) -> list[str]:
    if not remaining:
        return ["what this run had written was taken back"]
    return [
        f"could not be taken back and may remain: {write.kind} {write.namespace}/{write.name} "
        f"({error.message})"
        for write, error in remaining
    ]


def delete_existing(
    api: Api, existing: Existing, *, timeout: float, dry_run: bool, report: Report
) -> tuple[str, ...]:
    """Take exactly one thing's objects away, from the outside inwards.

    Of an exposure the way for clients first, then the listener, then (when no gateway listens any
    more) the cluster, at last the endpoints. A run that was interrupted can be repeated.

    Args:
        api: the cluster.
        existing: the thing, as found.
        timeout: seconds to wait for the gateways to drop the listener; 0 does not wait.
        dry_run: ask the server, delete nothing.
        report: called with kind, namespace and name of each object that went.

    Returns:
        What is worth a warning, one text each.

    Raises:
        Forbidden, Unreachable, ClusterError: what is left can be deleted by the same command.
    """
    warnings: list[str] = [_RECONNECTS] if existing.kind is Kind.ACCESS_LOG else []
    _close_the_way(api, existing, dry_run=dry_run, report=report)
    envoy_filter = existing.object("EnvoyFilter")
    if envoy_filter is not None and timeout and not dry_run:
        warnings += _silence(api, existing, envoy_filter, timeout)
    for kind in reversed(OBJECT_KINDS[existing.kind]):
        if kind != "Service":
            _delete(api, existing.object(kind), dry_run=dry_run, report=report)
    return tuple(warnings)


def _close_the_way(api: Api, existing: Existing, *, dry_run: bool, report: Report) -> None:
    spec = exposure_of(existing)
    _delete(api, existing.object("Service"), dry_run=dry_run, report=report)
    if spec is not None and spec.options.gateway_service is GatewayServiceMode.PATCH:
        release_gateway_ports(api, spec, dry_run=dry_run, report=report)


def release_gateway_ports(api: Api, spec: ExposureSpec, *, dry_run: bool, report: Report) -> None:
    """Take an exposure's ports off the gateway's own Service, whichever Service bears them."""
    manager = names.service_manager(*spec.key)
    for service in api.list("Service", spec.gateway.namespace):
        metadata = service["metadata"]
        if not is_managed(service, manager):
            continue
        nothing = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        }
        api.apply(nothing, before=service, manager=manager, dry_run=dry_run)
        report("Service", metadata["namespace"], f"{metadata['name']} (its UDP ports of ours)")


def _silence(
    api: Api, existing: Existing, envoy_filter: Mapping[str, Any], timeout: float
) -> list[str]:
    """Take the listeners out of the EnvoyFilter and wait until no gateway has them."""
    metadata, spec = envoy_filter["metadata"], envoy_filter["spec"]
    patches = spec.get("configPatches") or ()
    listeners = [p["patch"]["value"]["name"] for p in patches if p["applyTo"] == "LISTENER"]
    if not listeners:
        return []
    silent = without_listeners(envoy_filter)
    api.apply(silent, before=envoy_filter, manager=names.MANAGER, force=True)
    selector = (spec.get("workloadSelector") or {}).get("labels") or {}
    problem = wait_until_gone(api, metadata["namespace"], selector, listeners, timeout)
    return [problem] if problem else []


def without_listeners(envoy_filter: Mapping[str, Any]) -> dict[str, Any]:
    """An EnvoyFilter, as it is to be applied, with the clusters of what it is and nothing else."""
    metadata, spec = envoy_filter["metadata"], dict(envoy_filter["spec"])
    patches = spec.get("configPatches") or ()
    spec["configPatches"] = [p for p in patches if p["applyTo"] != "LISTENER"]
    return {
        "apiVersion": envoy_filter["apiVersion"],
        "kind": "EnvoyFilter",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": metadata["labels"],
            "annotations": metadata.get("annotations") or {},
        },
        "spec": spec,
    }


def _delete(api: Api, manifest: Mapping[str, Any] | None, *, dry_run: bool, report: Report) -> None:
    if manifest is None:
        return
    metadata = manifest["metadata"]
    if api.delete(manifest["kind"], metadata["namespace"], metadata["name"], dry_run=dry_run):
        report(manifest["kind"], metadata["namespace"], metadata["name"])


def prune(
    api: Api, objects: Sequence[Mapping[str, Any]], kept: Sequence[Write], *, dry_run: bool
) -> tuple[tuple[str, str], ...]:
    """Take away what an earlier run made and this one no longer wants.

    For example the ServiceEntry after a change to static discovery, or the companion Service
    after a change to patch.

    Args:
        api: the cluster.
        objects: the thing's objects, as they were before this run.
        kept: what this run wrote.
        dry_run: ask the server, delete nothing.

    Returns:
        (kind, name) of each object that went.
    """
    gone: list[tuple[str, str]] = []
    keys = {write.key for write in kept}
    for manifest in objects:
        metadata = manifest["metadata"]
        if (manifest["kind"], metadata["namespace"], metadata["name"]) not in keys:
            _delete(
                api,
                manifest,
                dry_run=dry_run,
                report=lambda kind, _, name: gone.append((kind, name)),
            )
    return tuple(gone)


def prune_gateway_ports(
    api: Api, before: Sequence[ExposureSpec], spec: ExposureSpec, *, dry_run: bool
) -> tuple[tuple[str, str], ...]:
    """Take ports off the gateway's own Service where an earlier `expose` patched it.

    Returns:
        (kind, name) of each Service that lost ports.
    """
    gone: list[tuple[str, str]] = []
    patched = any(e.options.gateway_service is GatewayServiceMode.PATCH for e in before)
    if patched and spec.options.gateway_service is not GatewayServiceMode.PATCH:
        release_gateway_ports(
            api, spec, dry_run=dry_run, report=lambda kind, _, name: gone.append((kind, name))
        )
    return tuple(gone)
