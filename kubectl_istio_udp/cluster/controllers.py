"""The controller in a cluster: what an installation must know, how it does, taking it away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.cluster import proxies
from kubectl_istio_udp.cluster.existing import list_exposures
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model.errors import ClusterError, WaitTimeout
from kubectl_istio_udp.model.gateway import gateways_from
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.wish import is_wished
from kubectl_istio_udp.state.ownership import Existing

# From the inside outwards: who writes goes first, then what it was allowed.
KINDS = (
    "Deployment",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "RoleBinding",
    "Role",
    "ClusterRoleBinding",
    "ClusterRole",
    "ServiceAccount",
)
_POLL_SECONDS = 0.5


def smallest_file_limit(api: Api, namespaces: Sequence[str]) -> int | None:
    """How many files the Envoy of every gateway in these namespaces may open.

    None where no gateway pod is ready, or none can be asked (no permission to exec, no shell).
    """
    gateways = [
        gateway
        for namespace in namespaces
        for gateway in gateways_from(api.list("Pod", namespace), ())
        if gateway.ready_pods
    ]

    def limit(gateway: Any) -> int | None:
        try:
            return proxies.file_limit(api, gateway.ref.namespace, gateway.ready_pods[0].name)
        except ClusterError:
            return None

    known = [found for found in for_each(limit, gateways) if found is not None]
    return min(known, default=None)


def api_ports(api: Api) -> tuple[int, ...]:
    """The ports at which the API server itself is reached, beside its Service's."""
    slices = api.list("EndpointSlice", "default", "kubernetes.io/service-name=kubernetes")
    found = {port["port"] for piece in slices for port in piece.get("ports") or ()}
    return tuple(sorted({443, *found}))


@dataclass(frozen=True)
class ControllerStatus:
    """How a controller does.

    Attributes:
        deployment: its Deployment; None where there is none.
        holder: which replica leads, "" where none does.
        exposures: those that it made.
        unmet: the Services that wish for one and have none, each with the last Warning about it.
    """

    deployment: Mapping[str, Any] | None
    holder: str
    exposures: tuple[Existing, ...]
    unmet: tuple[tuple[str, str, str], ...]

    @property
    def ready(self) -> int:
        """How many of its replicas are ready."""
        status = (self.deployment or {}).get("status") or {}
        return int(status.get("readyReplicas") or 0)


def read_controller(api: Api, namespace: str, name: str, lease: str) -> ControllerStatus:
    """How the controller of a namespace does."""
    deployment, found_lease, exposures, services, events = in_parallel(
        [
            lambda: api.find("Deployment", namespace, name),
            lambda: api.find("Lease", namespace, lease),
            lambda: list_exposures(api),
            lambda: api.list("Service"),
            lambda: api.list("Event"),
        ]
    )
    made = tuple(existing for existing in exposures if is_declared(existing))
    have = {(e.namespace, e.name) for e in made if e.object("EnvoyFilter")}
    warnings = {
        (e["involvedObject"].get("namespace"), e["involvedObject"].get("name")): e
        for e in sorted(events, key=lambda e: e.get("lastTimestamp") or "")
        if e.get("type") == "Warning" and e["involvedObject"].get("kind") == "Service"
    }
    wished = {(s["metadata"]["namespace"], s["metadata"]["name"]) for s in services if is_wished(s)}
    unmet = tuple(
        (*key, (warnings.get(key) or {}).get("message", "")) for key in sorted(wished - have)
    )
    holder = ((found_lease or {}).get("spec") or {}).get("holderIdentity") or ""
    return ControllerStatus(deployment, holder, made, unmet)


def is_declared(existing: Existing) -> bool:
    """Whether a controller made an exposure, as the object that decides says (its EnvoyFilter)."""
    return existing.source is not None


def is_still_declared(api: Api, existing: Existing) -> bool:
    """Whether a controller made an exposure, and its Service's annotation still asks for it.

    A running controller makes such an exposure again as soon as somebody deletes it. An exposure
    that a controller declares is named after its Service.
    """
    if existing.kind is not Kind.EXPOSURE or not is_declared(existing):
        return False
    service = api.find("Service", existing.namespace, existing.name)
    return service is not None and is_wished(service)


def remove_controller(
    api: Api,
    selector: str,
    kinds: Sequence[str],
    *,
    dry_run: bool,
    report: Callable[[str, str], None],
) -> None:
    """Delete the controller's objects of these kinds, wherever they are.

    Args:
        api: the cluster.
        selector: the labels that all of them bear.
        kinds: in this order.
        dry_run: ask the server, delete nothing.
        report: called with kind and name of each that went.
    """
    for kind in kinds:
        for manifest in api.list(kind, None, selector):
            metadata = manifest["metadata"]
            if api.delete(kind, metadata.get("namespace"), metadata["name"], dry_run=dry_run):
                report(kind, metadata["name"])


def wait_no_pods(api: Api, namespace: str, selector: str, timeout: float) -> None:
    """Wait until the controller's pods have ended, so that none of them writes any more.

    Raises:
        WaitTimeout: one still runs.
    """
    deadline = time.monotonic() + timeout
    while pods := api.list("Pod", namespace, selector):
        if time.monotonic() >= deadline:
            name = pods[0]["metadata"]["name"]
            raise WaitTimeout(
                f"pod {namespace}/{name} still runs after {timeout:g}s",
                hints=["wait longer: the same command with --timeout 2m"],
            )
        time.sleep(_POLL_SECONDS)
