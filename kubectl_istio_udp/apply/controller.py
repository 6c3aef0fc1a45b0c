"""Install and uninstall the controller: wait for its Deployment, and delete it in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from kubectl_istio_udp.apply.deletion_order import delete_existing
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import NotInstalled, WaitTimeout
from kubectl_istio_udp.model.gatewayapi import GATEWAY_CLASS
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.render.controller import LEASE, NAME, SELECTOR
from kubectl_istio_udp.state.existing import list_exposures
from kubectl_istio_udp.state.leftovers import read_leftovers
from kubectl_istio_udp.state.ownership import is_declared

# In deletion order: first the Deployment, which writes, then its permissions.
_KINDS = (
    "Deployment",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "RoleBinding",
    "Role",
    "ClusterRoleBinding",
    "ClusterRole",
    "ServiceAccount",
    "GatewayClass",
)


def wait_until_ready(api: Api, namespace: str, replicas: int, timeout: float) -> None:
    """Wait until all replicas of the controller run the latest version and are ready.

    Args:
        api: the cluster.
        namespace: the controller's namespace.
        replicas: how many there will be.
        timeout: in seconds.

    Raises:
        WaitTimeout: they are not ready in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = api.get("Deployment", namespace, NAME)
        status = found.get("status") or {}
        seen = status.get("observedGeneration") == found["metadata"].get("generation")
        counts = [status.get(key) or 0 for key in ("updatedReplicas", "readyReplicas", "replicas")]
        if seen and counts == [replicas] * 3:
            return
        if time.monotonic() >= deadline:
            raise WaitTimeout(
                f"{counts[1]} of {replicas} replicas are ready after {timeout:g}s; the objects "
                "stay applied",
                hints=[
                    f"see why: kubectl describe pods -n {namespace} "
                    f"-l app.kubernetes.io/name={NAME}"
                ],
            )
        time.sleep(api.waits.poll)


def delete_former_rights(
    api: Api,
    manifests: Iterable[Mapping[str, Any]],
    *,
    dry_run: bool,
    report: Callable[[str, str], None],
) -> None:
    """Delete the rights in namespaces that only an earlier installation used.

    Args:
        api: the cluster.
        manifests: the objects of the current installation.
        dry_run: whether to only have the server check it.
        report: called with the kind and name of each deleted object.
    """
    wanted = {ObjectRef.of(manifest) for manifest in manifests}
    for kind in ("RoleBinding", "Role"):
        for manifest in _list(api, kind):
            if ObjectRef.of(manifest) not in wanted and api.delete(manifest, dry_run=dry_run):
                report(kind, manifest["metadata"]["name"])


def uninstall(
    api: Api,
    namespace: str,
    *,
    keep_exposures: bool,
    timeout: float,
    dry_run: str,
    report: Callable[[str, str], None],
    warn: Callable[[str], None],
) -> None:
    """Delete the controller, then its exposures, and then its rights.

    Args:
        api: the cluster.
        namespace: the controller's namespace.
        keep_exposures: keep the exposures.
        timeout: in seconds, for each wait.
        dry_run: as in WriteOptions.
        report: called with the kind and name of each deleted object.
        warn: called with the text of each warning.

    Raises:
        WaitTimeout: a pod of the controller is still running.
    """
    dry = dry_run != "none"
    _delete_objects(api, _KINDS[:1], dry_run=dry, report=report)
    if not dry:
        _wait_until_gone(api, namespace, timeout)
    exposures = () if keep_exposures else tuple(filter(is_declared, list_exposures(api)))
    leftovers = read_leftovers(api, [existing.spec for existing in exposures])
    for existing in exposures:
        warnings = delete_existing(
            api,
            existing,
            leftovers,
            timeout=timeout,
            dry_run=dry_run,
            report=lambda kind, _, name: report(kind, name),
        )
        for text in warnings:
            warn(text)
    _delete_objects(api, _KINDS[1:], dry_run=dry, report=report)
    lease = api.find("Lease", namespace, LEASE)
    if lease is not None and api.delete(lease, dry_run=dry):
        report("Lease", LEASE)


def _delete_objects(
    api: Api, kinds: Sequence[str], *, dry_run: bool, report: Callable[[str, str], None]
) -> None:
    """Delete the controller's objects of these kinds, in all namespaces."""
    for kind in kinds:
        for manifest in _list(api, kind):
            if api.delete(manifest, dry_run=dry_run):
                report(kind, manifest["metadata"]["name"])


def _list(api: Api, kind: str) -> list[dict[str, Any]]:
    """The controller's objects; none if the cluster does not serve the kind (GatewayClass).

    Anybody can copy the labels to an object, so the name must be the controller's too.
    """
    with suppress(NotInstalled):
        names = (NAME, GATEWAY_CLASS)
        found = api.list(kind, None, SELECTOR)
        return [each for each in found if each["metadata"]["name"].startswith(names)]
    return []


def _wait_until_gone(api: Api, namespace: str, timeout: float) -> None:
    """Wait until the controller's pods have ended, so that none of them writes any more.

    Raises:
        WaitTimeout: a pod is still running.
    """
    deadline = time.monotonic() + timeout
    while pods := api.list("Pod", namespace, SELECTOR):
        if time.monotonic() >= deadline:
            name = pods[0]["metadata"]["name"]
            raise WaitTimeout(
                f"pod {namespace}/{name} still runs after {timeout:g}s",
                hints=["to wait longer: --timeout 2m"],
            )
        time.sleep(api.waits.poll)
