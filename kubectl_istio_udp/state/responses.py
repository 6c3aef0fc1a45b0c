"""Read the cluster's state for `direct response`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NotFound
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.http_routing import OtherVirtualService, servers_from
from kubectl_istio_udp.model.kinds import Kind, ObjectRef
from kubectl_istio_udp.model.mesh import Version
from kubectl_istio_udp.model.request import ResponseRequest
from kubectl_istio_udp.model.response import ResponseSpec
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.plan.response import ResponseSnapshot
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.existing import list_existing
from kubectl_istio_udp.state.gateways import find_gateway
from kubectl_istio_udp.state.mesh import read_mesh
from kubectl_istio_udp.state.ownership import readable, remaining


def read_response_snapshot(
    api: Api, request: ResponseRequest, choice: GatewayChoice
) -> ResponseSnapshot:
    """Read everything that a decision about a response needs.

    Args:
        api: the cluster.
        request: the request.
        choice: the gateway; ignored inside the mesh.

    Raises:
        NotFound, Forbidden, Unreachable, UsageError: something required is missing or ambiguous.
    """
    namespaces = sorted(filter(None, {request.namespace, choice.namespace}))
    mesh, gateway, services, virtual_services, gateways, existing = in_parallel(
        [
            lambda: read_mesh(api),
            lambda: None if request.mesh else find_gateway(api, choice),
            lambda: _services(api, request) if request.mesh else (),
            lambda: _everywhere(api, "VirtualService", namespaces),
            lambda: [] if request.mesh else _everywhere(api, "Gateway", namespaces),
            lambda: list_existing(api, request.namespace, (Kind.RESPONSE,)),
        ]
    )
    own_name = names.object_name(request.namespace, request.response_name, Kind.RESPONSE)
    proxies_space = gateway.ref.namespace if gateway else mesh.root_namespace
    calls: list[Callable[[], Any]] = [
        lambda: api.find("EnvoyFilter", proxies_space, own_name),
        lambda: _proxy_version(api, gateway) if gateway else None,
    ]
    envoy_filter, version = in_parallel(calls)
    own = [found for found in existing if found.name == request.response_name]
    own_keys = {ObjectRef.of(manifest) for found in own for manifest in found.objects}
    same_response = [manifest for found in own for manifest in remaining(found).objects]
    same_named = [
        manifest
        for manifest in (*virtual_services, *gateways, *([envoy_filter] if envoy_filter else ()))
        if manifest["metadata"]["name"] == own_name
        and manifest["metadata"]["namespace"]
        == (request.namespace if manifest["kind"] == "VirtualService" else proxies_space)
    ]
    return ResponseSnapshot(
        mesh=mesh,
        gateway=gateway,
        proxies=version,
        servers=servers_from(gateways, gateway) if gateway else (),
        others=tuple(
            OtherVirtualService.from_object(manifest)
            for manifest in virtual_services
            if ObjectRef.of(manifest) not in own_keys
        ),
        services=services,
        present=next((spec for o in same_response if (spec := readable(o, ResponseSpec))), None),
        objects=(*same_response, *(m for m in same_named if ObjectRef.of(m) not in own_keys)),
    )


def _everywhere(api: Api, kind: str, namespaces: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of all namespaces, or of these if the others may not be listed."""
    try:
        return api.list(kind)
    except Forbidden:
        lists = for_each(lambda namespace: api.list(kind, namespace), namespaces)
        return [manifest for found in lists for manifest in found]


def _services(api: Api, request: ResponseRequest) -> tuple[Service, ...]:
    """The existing Services of hosts like `ratings.prod.svc.cluster.local`."""
    found = for_each(lambda host: _service(api, host.split(".")), request.answer.hosts)
    return tuple(Service.from_object(service) for service in found if service)


def _service(api: Api, labels: Sequence[str]) -> dict[str, Any] | None:
    if len(labels) > 2 and labels[2] == "svc":
        try:
            return api.find("Service", labels[1], labels[0])
        except (Forbidden, NotFound):
            return None
    return None


def _proxy_version(api: Api, gateway: Gateway) -> Version | None:
    """The oldest proxy version of the gateway; queries one proxy if no image tag has it."""
    if gateway.istio or not gateway.ready_pods:
        return gateway.istio
    try:
        return proxies.istio_version(api, gateway.ref.namespace, gateway.ready_pods[0].name)
    except ClusterError:
        return None
