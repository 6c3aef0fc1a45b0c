"""Reading the state that `expose` decides on, in two rounds of parallel requests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kubectl_istio_udp.cluster import proxies
from kubectl_istio_udp.cluster.existing import exposure_of
from kubectl_istio_udp.cluster.gateways import GatewayChoice, gateway_among, gateway_pods
from kubectl_istio_udp.cluster.mesh import root_namespace
from kubectl_istio_udp.kube.client import Api, selector_of
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.envoyfilter import Claims, applies_to
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NotFound
from kubectl_istio_udp.model.exposure import Discovery, Exposure, ExposureSpec
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.manifests import SERVICE_LABEL
from kubectl_istio_udp.model.memory import ProxySize
from kubectl_istio_udp.model.plan import ExposeRequest
from kubectl_istio_udp.model.service import EndpointSlice, Pod, Service, endpoints_of
from kubectl_istio_udp.model.snapshot import BoundListener, Snapshot
from kubectl_istio_udp.model.usage import GatewayUsage
from kubectl_istio_udp.state.ownership import Existing, readable


def read_snapshot(
    api: Api,
    request: ExposeRequest,
    choice: GatewayChoice,
    existing: Existing,
    *,
    need_proxy: bool,
) -> Snapshot:
    """Read everything that decides about an exposure.

    Args:
        api: the cluster.
        request: what is to be exposed.
        choice: at which gateway.
        existing: the exposure as it is; one without objects where there is none.
        need_proxy: whether it is an error that no gateway pod's Envoy may be asked (by exec).

    Raises:
        NotFound, Forbidden, Unreachable, UsageError: something needed is missing or ambiguous.
    """
    namespace, name = request.namespace, request.service
    service_object, slices, pods_of_gateways, root = in_parallel(
        [
            lambda: _service(api, namespace, name),
            lambda: service_slices(api, namespace, name),
            lambda: gateway_pods(api, choice),
            lambda: root_namespace(api),
        ]
    )
    service = Service.from_object(service_object)
    gateway = gateway_among(api, pods_of_gateways, choice)
    before = exposure_of(existing) if existing.object("EnvoyFilter") else None
    if before and before.gateway.same_pods(gateway.ref):
        # Whatever the gateway is called by now, the exposure is at it already.
        gateway = replace(gateway, ref=before.gateway)
    own_name = names.object_name(namespace, request.exposure_name)
    selector = selector_of(service.selector)
    calls: list[Callable[[], Any]] = [
        lambda: _envoy_filters(api, gateway, root),
        lambda: api.list("Pod", namespace, selector) if selector else [],
        lambda: api.find("ServiceEntry", namespace, own_name),
        lambda: api.find("Service", gateway.ref.namespace, own_name),
        lambda: _ask_proxy(api, gateway, need_proxy),
    ]
    filters, pods, entry, companion, (bound, file_limit, size) = in_parallel(calls)
    own_filter = [
        f
        for f in filters
        if f["metadata"]["name"] == own_name and f["metadata"]["namespace"] == gateway.ref.namespace
    ]
    return Snapshot(
        service=service,
        slices=slices,
        pods=tuple(Pod.from_object(pod) for pod in pods),
        gateway=gateway,
        claims=tuple(Claims.from_object(f) for f in filters if applies_to(f, gateway, root)),
        bound=bound,
        file_limit=file_limit,
        size=size,
        others=GatewayUsage.of(
            gateway,
            root,
            [spec for f in filters if (spec := readable(f, ExposureSpec))],
            (namespace, request.exposure_name),
        ),
        objects=tuple(manifest for manifest in (*own_filter, entry, companion) if manifest),
        # Where we may not look everywhere, the one in the gateway's own namespace is known.
        exposures=(before,)
        if before
        else tuple(spec for f in own_filter if (spec := readable(f, ExposureSpec))),
    )


def _service(api: Api, namespace: str, name: str) -> dict[str, Any]:
    """The Service's manifest; where it is missing for want of its namespace, the error says so."""
    try:
        return api.get("Service", namespace, name)
    except NotFound as error:
        with contextlib.suppress(Forbidden):
            if api.find("Namespace", None, namespace) is None:
                raise NotFound(
                    f"there is no namespace {namespace}",
                    hints=["see those there are: kubectl get namespaces"],
                ) from error
        raise


def ready_addresses(api: Api, exposure: Exposure) -> dict[str, frozenset[str]]:
    """The addresses (`10.0.0.1:53`) that each of an exposure's clusters should have by now.

    What is written down (static, endpoints) is what was written; what istiod finds is read anew.
    """
    spec = exposure.spec
    if spec.discovery is Discovery.SELECTOR:
        slices = service_slices(api, spec.namespace, spec.service)
        endpoints = {
            port.service_port: endpoints_of(slices, port.service_port_name, exposure.families)
            for port in spec.ports
        }
        exposure = replace(exposure, endpoints=endpoints)
    return {
        spec.proxy_name(port): frozenset(
            f"{endpoint.address}:{endpoint.port}" for endpoint in exposure.ready_endpoints(port)
        )
        for port in spec.ports
    }


def service_slices(api: Api, namespace: str, service: str) -> tuple[EndpointSlice, ...]:
    """A Service's EndpointSlices."""
    found = api.list("EndpointSlice", namespace, f"{SERVICE_LABEL}={service}")
    return tuple(EndpointSlice.from_object(piece) for piece in found)


def _envoy_filters(api: Api, gateway: Gateway, root: str) -> list[dict[str, Any]]:
    namespaces = sorted({gateway.ref.namespace, root})
    lists = for_each(lambda namespace: api.list("EnvoyFilter", namespace), namespaces)
    return [found for each in lists for found in each]


def _ask_proxy(
    api: Api, gateway: Gateway, needed: bool
) -> tuple[tuple[BoundListener, ...] | None, int | None, ProxySize | None]:
    """Listeners, file limit and size of one ready gateway pod's Envoy; None for what is unknown."""
    if not gateway.ready_pods:
        return None, None, None
    namespace, pod = gateway.ref.namespace, gateway.ready_pods[0].name
    try:
        bound, limit, size = in_parallel(
            [
                lambda: proxies.listeners(api, namespace, pod),
                lambda: proxies.file_limit(api, namespace, pod),
                lambda: proxies.size(api, namespace, pod),
            ]
        )
    except ClusterError as error:
        if needed:
            error.hints += ("or do not wait for the gateway: --no-wait",)
            raise
        return None, None, None
    return bound, limit, size
