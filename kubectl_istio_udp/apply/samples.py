"""The samples: apply all of them or none, and delete those that the plugin created."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kubectl_istio_udp.apply.transaction import apply_manifests
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ApplyConflict, NotInstalled, WaitTimeout
from kubectl_istio_udp.model.names import MANAGED_BY_LABEL, MANAGER, namespaced_name
from kubectl_istio_udp.model.resources import resource_key
from kubectl_istio_udp.model.service import SERVICE_LABEL
from kubectl_istio_udp.state.services import service_slices

Manifest = Mapping[str, Any]


def apply_samples(api: Api, manifests: Sequence[dict[str, Any]], dry_run: str) -> list[str]:
    """Apply the samples; return kubectl's word for each.

    Args:
        api: the cluster.
        manifests: the samples.
        dry_run: `none`, `server` or `client`.

    Raises:
        ApplyConflict: an object with a sample's name belongs to someone else.
        Forbidden, Unreachable, ClusterError: errors of the API server.
    """
    try:
        return apply_manifests(api, manifests, dry_run)
    except ApplyConflict as error:
        error.hints = (
            "it does not belong to the samples; use another namespace: -n NAMESPACE",
            *error.hints[2:],
        )
        raise


def wait_for_endpoints(api: Api, namespace: str, service: str, timeout: float) -> None:
    """Wait until a Service has a ready endpoint; it gets it a moment after its pods are ready.

    Args:
        api: the cluster.
        namespace, service: the Service.
        timeout: in seconds.

    Raises:
        WaitTimeout: it has none yet.
        Forbidden, Unreachable, ClusterError: errors of the API server.
    """
    deadline = time.monotonic() + timeout
    while not any(
        endpoint.ready
        for each in service_slices(api, namespace, service)
        for endpoint in each.endpoints
    ):
        if time.monotonic() >= deadline:
            selector = f"{SERVICE_LABEL}={service}"
            raise WaitTimeout(
                f"Service {namespace}/{service} has no ready endpoint after {timeout:g}s",
                hints=[f"see them: kubectl get endpointslices -n {namespace} -l {selector}"],
            )
        time.sleep(api.waits.poll)


def delete_samples(
    api: Api,
    manifests: Sequence[Manifest],
    dry_run: str,
    deleted: Callable[[str, str], None],
    kept: Callable[[str, str], None],
) -> None:
    """Delete the samples, the last one first, except objects of others with the same names.

    Args:
        api: the cluster.
        manifests: the samples.
        dry_run: `none`, `server` or `client`.
        deleted, kept: called with kind and name of each object that exists.

    Raises:
        Forbidden, Unreachable, ClusterError: errors of the API server.
    """
    for manifest in reversed(manifests):
        kind, (namespace, name) = resource_key(manifest), namespaced_name(manifest)
        existing = None
        with suppress(NotInstalled):
            existing = api.find(kind, namespace, name)
        if existing is None:
            continue
        if (existing["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) != MANAGER:
            kept(kind, name)
            continue
        if dry_run != "client":
            api.delete(existing, dry_run=dry_run == "server")
        deleted(kind, name)
