"""The endpoints of a Service that a gateway does not send to, because they are not allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.endpointrules import EndpointRules, canonical
from kubectl_istio_udp.model.errors import Forbidden
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec
from kubectl_istio_udp.model.service import EndpointSlice, Pod, Service
from kubectl_istio_udp.render.serviceentry import listed_addresses
from kubectl_istio_udp.state.ownership import Existing

Manifest = Mapping[str, Any]


def refused_endpoints(
    api: Api,
    existing: Existing,
    spec: ExposureSpec,
    namespace: str,
    slices: Iterable[EndpointSlice],
    api_server: Callable[[], frozenset[str]],
) -> dict[str, str]:
    """Find addresses that must not be queried: anyone who can write EndpointSlices chooses them.

    An address that the exposure lists is allowed, except special ones. Reads more only if another
    address is ready: it may be refused, or not listed yet.

    Args:
        api: the cluster.
        existing, spec: the exposure.
        namespace: the namespace of a Service that it sends to.
        slices: the EndpointSlices of this Service.
        api_server: reads the API server's addresses; called at most once.

    Returns:
        {address: why it is refused}, e.g. {"224.0.0.1": "a multicast address"}.

    Raises:
        Unreachable, ClusterError: errors of the API server.
    """
    slices = tuple(slices)
    if spec.discovery is Discovery.SELECTOR:
        return refused_pods(api, namespace, slices, api_server())
    if spec.discovery is not Discovery.ENDPOINTS:
        return EndpointRules(api_server()).objections(slices)
    listed = canonical(listed_addresses(existing.all_of("ServiceEntry")))
    ready = {e.address for each in slices for e in each.endpoints if e.ready}
    if canonical(ready) <= listed:
        return EndpointRules().objections(slices)
    special, pods = in_parallel(
        [
            api_server,
            # `expose` lists what its user may; the controller only pods of the namespace.
            lambda: _pod_addresses(api, namespace) if existing.source else None,
        ]
    )
    return EndpointRules(special, pods).allowing(listed).objections(slices)


def refused_pods(
    api: Api, namespace: str, slices: Iterable[EndpointSlice], api_server: frozenset[str]
) -> dict[str, str]:
    """Find addresses of a Service that must not be queried, if its pods are the endpoints.

    Args:
        api: the cluster.
        namespace: the Service's namespace.
        slices: its EndpointSlices.
        api_server: the API server's addresses. Pods on the host's network may have them.

    Returns:
        As `refused_endpoints`.
    """
    slices = tuple(slices)
    rules = EndpointRules(api_server)
    if not rules.objections(slices):
        return {}
    return rules.following(_pods(api, namespace) or ()).objections(slices)


def refused_name(service: Service, api_server: Callable[[], frozenset[str]]) -> dict[str, str]:
    """The name of an ExternalName Service if it must not be queried, as `refused_endpoints`."""
    name = service.external_name
    if name is None:
        return {}
    objection = EndpointRules(api_server()).name_objection(name)
    return {name: objection} if objection else {}


def without(
    slices: Iterable[EndpointSlice], refused: Mapping[str, str]
) -> tuple[EndpointSlice, ...]:
    """EndpointSlices without the endpoints whose addresses are refused."""
    return tuple(
        replace(each, endpoints=tuple(e for e in each.endpoints if e.address not in refused))
        for each in slices
    )


def _pod_addresses(api: Api, namespace: str) -> frozenset[str] | None:
    """The addresses of a namespace's pods; None if they may not be read."""
    pods = _pods(api, namespace)
    if pods is None:
        return None
    return frozenset(address for pod in pods for address in canonical(pod.addresses))


def _pods(api: Api, namespace: str) -> list[Pod] | None:
    """A namespace's pods; None if they may not be read."""
    try:
        return list(map(Pod.from_object, api.list("Pod", namespace)))
    except Forbidden:
        return None
