"""Delete the objects of an exposure, response or access log, in the order that clients need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kubectl_istio_udp.cluster.existing import exposure_of
from kubectl_istio_udp.cluster.waiting import wait_until_gone
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.envoyfilter import Claims
from kubectl_istio_udp.model.exposure import ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.ownership import is_managed
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.state.ownership import OBJECT_KINDS, Existing

Report = Callable[[str, str, str], None]
# A listener whose filters change is drained (measured: 47 s until an open connection was closed).
_RECONNECTS = (
    "the TCP connections that the proxies in reach have open now are closed within 45s: Envoy "
    "drains a listener whose filters change"
)


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
            _delete_all(api, existing.all_of(kind), dry_run=dry_run, report=report)
    return tuple(warnings)


def _close_the_way(api: Api, existing: Existing, *, dry_run: bool, report: Report) -> None:
    spec = exposure_of(existing)
    _delete_all(api, existing.all_of("Service"), dry_run=dry_run, report=report)
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
    listeners = sorted(Claims.from_object(envoy_filter).listeners)
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
    spec["configPatches"] = [p for p in patches if p.get("applyTo") != "LISTENER"]
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


def _delete_all(
    api: Api, manifests: Iterable[Mapping[str, Any]], *, dry_run: bool, report: Report
) -> None:
    for manifest in manifests:
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
            _delete_all(
                api,
                [manifest],
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
