"""The controller in a cluster: reads for its installation and its status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.events import is_sealed, newest
from kubectl_istio_udp.kube.lease import lease_secret
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model.errors import ClusterError, NotInstalled, UsageError
from kubectl_istio_udp.model.gateway import Gateway, gateways_from
from kubectl_istio_udp.model.kinds import Kind, ObjectRef
from kubectl_istio_udp.model.mesh import DEFAULT_CONTROL_PLANE, Mesh
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.model.ports import bound_as
from kubectl_istio_udp.model.reasons import ENDPOINT_REFUSED, HOST_TAKEN, INVALID, PORT_TAKEN
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.model.service import SERVICE_LABEL
from kubectl_istio_udp.sources.annotations import Intent, is_requested, service_intent
from kubectl_istio_udp.sources.gateways import exposure_key
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.existing import list_exposures
from kubectl_istio_udp.state.failed_conditions import FailedCondition, read_failing
from kubectl_istio_udp.state.mesh import mesh_config_names, read_mesh
from kubectl_istio_udp.state.ownership import Existing, is_declared

# Reasons of warnings about requests that are met.
_EXPOSED_YET = (HOST_TAKEN, ENDPOINT_REFUSED)


def smallest_file_limit(api: Api, namespaces: Sequence[str]) -> int | None:
    """The lowest open-file limit of the gateways' Envoys in these namespaces.

    None if no gateway pod is ready, or none can be queried (no permission to exec, no shell).
    """
    pods = [
        (gateway.ref.namespace, pod.name)
        for gateway in _gateways(api, namespaces)
        for pod in gateway.ready_pods
    ]

    def limit(pod: tuple[str, str]) -> int | None:
        try:
            return proxies.file_limit(api, *pod)
        except ClusterError:
            return None

    known = [found for found in for_each(limit, pods) if found is not None]
    return min(known, default=None)


def read_meshes(api: Api, namespaces: Sequence[str]) -> tuple[Mesh, ...]:
    """The meshes of the gateways in these namespaces; the default mesh if there is no gateway."""
    planes = {gateway.control_plane for gateway in _gateways(api, namespaces)}
    wanted = sorted(planes or {DEFAULT_CONTROL_PLANE}, key=str)
    return tuple(for_each(lambda plane: read_mesh(api, plane), wanted))


def _gateways(api: Api, namespaces: Sequence[str]) -> list[Gateway]:
    return [
        gateway
        for namespace in namespaces
        for gateway in gateways_from(api.list("Pod", namespace), ())
    ]


def mesh_config_maps(api: Api, meshes: Sequence[Mesh]) -> tuple[tuple[str, str], ...]:
    """(namespace, name) of each ConfigMap with settings of one of these meshes."""
    planes = [mesh.control_plane for mesh in meshes]
    found = for_each(lambda plane: mesh_config_names(api, plane), planes)
    return tuple(
        (plane.namespace, name)
        for plane, names in zip(planes, found, strict=True)
        for name in names
    )


def api_ports(api: Api) -> tuple[int, ...]:
    """The ports at which the API server is reached: 443, its Service's port, and its endpoints'.

    NetworkPolicies of some networks see the port before the Service's translation, of others the
    one after it.
    """
    slices = api.list("EndpointSlice", "default", f"{SERVICE_LABEL}=kubernetes")
    found = {port["port"] for each in slices for port in each.get("ports") or ()}
    return tuple(sorted({443, *found}))


@dataclass(frozen=True)
class UnmetRequest:
    """A Service with a latest request that is not met.

    Attributes:
        namespace, name: the Service.
        exposed: whether an earlier request is still exposed.
        reason: why it is not met in one word, that of the controller's Event; "" if the
            controller has not reported it.
        message: the same in a sentence.
    """

    namespace: str
    name: str
    exposed: bool
    reason: str
    message: str


@dataclass(frozen=True)
class ControllerStatus:
    """The status of a controller.

    Attributes:
        deployment: its Deployment; None if there is none.
        holder: the leading replica; "" if there is none.
        exposures: the exposures that it manages.
        unmet: the Services with requests that are not met, sorted.
        failing: the conditions of Gateways and UDPRoutes that are not as they should be.
    """

    deployment: Mapping[str, Any] | None
    holder: str
    exposures: tuple[Existing, ...]
    unmet: tuple[UnmetRequest, ...]
    failing: tuple[FailedCondition, ...] = ()

    @property
    def ready(self) -> int:
        """The number of ready replicas."""
        status = (self.deployment or {}).get("status") or {}
        return int(status.get("readyReplicas") or 0)

    @property
    def is_good(self) -> bool:
        """Whether a replica is ready, one leads, and all requests are met."""
        return bool(self.ready and self.holder and not self.unmet and not self.failing)


def read_controller(api: Api, namespace: str, name: str, lease: str) -> ControllerStatus:
    """Read the status of the controller in a namespace.

    Args:
        api: the cluster.
        namespace, name: the controller's Deployment.
        lease: the name of its Lease.

    Raises:
        Forbidden, Unreachable, ClusterError: one of the kinds cannot be listed.
    """
    deployment, found_lease, exposures, services, events, failing = in_parallel(
        [
            lambda: api.find("Deployment", namespace, name),
            lambda: api.find("Lease", namespace, lease),
            lambda: list_exposures(api),
            lambda: api.list("Service"),
            lambda: api.list("Event"),
            lambda: read_failing(api),
        ]
    )
    made = tuple(existing for existing in exposures if is_declared(existing))
    secret = lease_secret(found_lease)
    events_by_service = newest(event for event in events if is_sealed(event, secret))
    unmet = [
        found
        for service in sorted(services, key=namespaced_name)
        if is_requested(service)
        and (found := _unmet(service, exposures, events_by_service.get(namespaced_name(service))))
    ]
    holder = ((found_lease or {}).get("spec") or {}).get("holderIdentity") or ""
    return ControllerStatus(deployment, holder, made, tuple(unmet), failing)


def _unmet(
    service: Mapping[str, Any], exposures: Sequence[Existing], event: Mapping[str, Any] | None
) -> UnmetRequest | None:
    """The unmet part of a Service's request; None if it is met.

    The existing exposure only counts as the result of the latest request if the controller's
    newest Event says so.
    """
    namespace, name = namespaced_name(service)
    matching = [e for e in exposures if (e.namespace, e.name) == (namespace, name)]
    exposed = any(e.object("EnvoyFilter") and is_declared(e) for e in matching)
    try:
        intent = service_intent(service)
    except UsageError as error:
        return UnmetRequest(namespace, name, exposed, INVALID, error.message)
    reason = str((event or {}).get("reason", ""))
    bad = event is not None and event.get("type") == "Warning" and reason not in _EXPOSED_YET
    if exposed and not bad:
        return None
    message = str((event or {}).get("message", "")) if bad else ""
    if reason == PORT_TAKEN and (holders := _holders(intent, exposures, message)):
        message += f" (by {', '.join(holders)})"
    return UnmetRequest(namespace, name, exposed, reason if bad else "", message)


def _holders(intent: Intent, exposures: Sequence[Existing], message: str) -> list[str]:
    """The exposures that have a port which an intent requests.

    Args:
        intent: the intent.
        exposures: all exposures of the controller.
        message: the controller's Event, which names the gateway.
    """
    named = set(message.replace(":", " ").split())
    wanted = frozenset[int]().union(*map(bound_as, intent.gateway_ports))
    return [
        f"{existing.namespace}/{existing.name}"
        for existing in exposures
        if (existing.namespace, existing.name) != intent.key
        and (spec := existing.exposure)
        and str(spec.gateway) in named
        and wanted & {port.listener_port for port in spec.ports}
    ]


def declaring_object(api: Api, existing: Existing) -> ObjectRef | None:
    """The Service or Gateway that still requests an exposure of a controller; None for others.

    A running controller creates such an exposure again at once after it was deleted. The exposure
    of a Service has the Service's name.

    Raises:
        Forbidden: the Service or Gateway may not be read.
    """
    if existing.kind is not Kind.EXPOSURE or not is_declared(existing):
        return None
    if existing.exposure is not None and not existing.exposure.service:
        return _declaring_gateway(api, existing)
    service = api.find("Service", existing.namespace, existing.name)
    return ObjectRef.of(service) if service is not None and is_requested(service) else None


def _declaring_gateway(api: Api, existing: Existing) -> ObjectRef | None:
    """The Gateway of the Gateway API that an exposure is for.

    Raises:
        Forbidden: Gateways may not be listed, so it may exist.
    """
    try:
        listed = api.list(API_GATEWAY, existing.namespace)
    except NotInstalled:
        return None
    found = (each for each in listed if exposure_key(namespaced_name(each)) == existing.key)
    return next(map(ObjectRef.of, found), None)
