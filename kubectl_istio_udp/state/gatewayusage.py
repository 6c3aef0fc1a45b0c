"""Read how many sessions of each gateway are reserved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from kubectl_istio_udp.kube.client import Api, selector_of
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.gateway import Gateway, GatewayPod, GatewayRef, is_gateway_pod
from kubectl_istio_udp.plan.sessions import budget
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.mesh import read_mesh
from kubectl_istio_udp.state.occupancy import GatewayFilters, Occupancy
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.query_limit import QueryLimit

Place = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Reserved:
    """How many sessions of a gateway are reserved.

    Attributes:
        sessions: the sessions of all exposures, over all their ports.
        most: the maximum by its open-file limit; None if unknown.
    """

    sessions: int
    most: int | None

    def __str__(self) -> str:
        """`9000 of 18000`."""
        return f"{self.sessions} of {'?' if self.most is None else self.most}"


def read_reserved(
    api: Api, found: Sequence[Existing], query_limit: QueryLimit
) -> Mapping[tuple[str, str], Reserved]:
    """The reserved sessions of each exposure's gateway, by the exposure's (namespace, name).

    Gateways that may not be read are left out, and exposures without EnvoyFilter: only a tenant's
    object names their gateway.

    Args:
        api: the cluster.
        found: the exposures; responses and access logs are left out.
        query_limit: limits the queries; one for the whole command.
    """
    specs = [spec for existing in found if (spec := existing.held)]
    refs = {_place(spec.gateway): spec.gateway for spec in specs}
    reserved = for_each(lambda ref: _reserved(api, ref, query_limit), refs.values())
    read = dict(zip(refs, reserved, strict=True))
    pairs = [(spec.key, read[_place(spec.gateway)]) for spec in specs]
    return {key: reserved for key, reserved in pairs if reserved}


def _place(ref: GatewayRef) -> Place:
    return (ref.namespace, tuple(sorted(ref.selector.items())))


def _reserved(api: Api, ref: GatewayRef, query_limit: QueryLimit) -> Reserved | None:
    try:
        filters, pods = in_parallel(
            [
                lambda: api.list("EnvoyFilter", ref.namespace),
                lambda: api.list("Pod", ref.namespace, selector_of(ref.selector)),
            ]
        )
    except ClusterError:
        return None
    gateway = Gateway(ref, tuple(GatewayPod.from_object(p) for p in pods if is_gateway_pod(p)))
    limit = None
    if gateway.ready_pods:
        pod = (ref.namespace, gateway.ready_pods[0].name)
        with suppress(ClusterError):
            limit = query_limit.call(*pod, partial(proxies.file_limit, api, *pod))
    root = read_mesh(api, gateway.control_plane).root_namespace
    if root != ref.namespace:
        with suppress(ClusterError):
            filters = [*filters, *api.list("EnvoyFilter", root)]
    usage = Occupancy(GatewayFilters.of(filters)).usage(gateway, root)
    return Reserved(usage.sessions, None if limit is None else budget(limit))
