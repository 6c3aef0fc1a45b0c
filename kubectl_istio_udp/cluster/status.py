"""How things are doing: address, ready endpoints, age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from kubectl_istio_udp.cluster import proxies
from kubectl_istio_udp.cluster.addresses import Addresses, client_addresses
from kubectl_istio_udp.cluster.existing import exposure_of
from kubectl_istio_udp.cluster.snapshot import service_slices
from kubectl_istio_udp.cluster.waiting import ready_pods
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import (
    Discovery,
    ExposureSpec,
    GatewayServiceMode,
    exposed_endpoints,
)
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.service import IPV4, IPV6, EndpointSlice, Service
from kubectl_istio_udp.state.ownership import Existing

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


@dataclass(frozen=True)
class Status:
    """What a list shows of an exposure beside its spec.

    Attributes:
        address: where clients reach an exposure, "" where that is not known (yet).
        ready: ready endpoints of all there are, `2/3`; "" where the gateway resolves a name.
        age: time since its oldest object was made, as kubectl writes it.
        state: `ok`, or in a word or two what is wrong: `no EnvoyFilter`, `no Service coredns`.
    """

    address: str
    ready: str
    age: str
    state: str = "ok"


def read_status(api: Api, things: Sequence[Existing]) -> list[Status]:
    """The status of each thing, read in parallel."""
    return for_each(lambda existing: _status(api, existing), things)


def _status(api: Api, existing: Existing) -> Status:
    made = age(min(o["metadata"]["creationTimestamp"] for o in existing.objects))
    if existing.spec is None:
        return Status("", "", made, "unreadable")
    lacks = [lack.partition(" ")[0] for lack in existing.missing]
    address, ready = "", ""
    spec = exposure_of(existing)
    if spec:
        addresses, slices, service = in_parallel(
            [
                lambda: client_addresses(api, spec),
                lambda: service_slices(api, spec.namespace, spec.service),
                lambda: api.find("Service", spec.namespace, spec.service),
            ]
        )
        ready = _ready(spec, Service.from_object(service) if service else None, slices)
        address = _shown(addresses, spec)
        if service is None:
            lacks.append(f"Service {spec.service}")
    return Status(address, ready, made, f"no {', '.join(lacks)}" if lacks else "ok")


def _shown(addresses: Addresses, spec: ExposureSpec) -> str:
    if not addresses.service and spec.options.gateway_service is not GatewayServiceMode.NONE:
        return "<none>"
    if addresses.pending:
        return "<pending>"
    first = addresses.of(spec.ports[0])
    return first[0].rpartition(":")[0] if first else ""


def _ready(spec: ExposureSpec, service: Service | None, slices: tuple[EndpointSlice, ...]) -> str:
    """Counted by address: an endpoint is ready for all ports of a Service or for none."""
    if spec.discovery is Discovery.DNS:
        return ""
    found = exposed_endpoints(spec, service, slices, (IPV4, IPV6))
    endpoints = {e.address: e for each in found.values() for e in each}
    ready = sum(endpoint.ready for endpoint in endpoints.values())
    return f"{ready}/{len(endpoints)}"


def age(timestamp: str, now: datetime | None = None) -> str:
    """The time since an API timestamp, in its largest unit: `12s`, `5m`, `3h`, `9d`."""
    made = datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    seconds = max(0, int(((now or datetime.now(timezone.utc)) - made).total_seconds()))
    for size, unit in _UNITS:
        # kubectl changes to the larger unit at two of them.
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def proxy_rows(api: Api, existing: Existing) -> list[list[str]]:
    """What each ready gateway pod's Envoy has of a thing: pod, what, and the cluster's hosts.

    Nothing for what is not at a gateway. A pod that cannot be asked says why.
    """
    spec = existing.spec
    gateway: GatewayRef | None = getattr(spec, "gateway", None)
    if spec is None or gateway is None:
        return []
    rows = []
    for pod in ready_pods(api, gateway.namespace, gateway.selector):
        try:
            if isinstance(spec, ExposureSpec):
                prefix = f"{spec.object_name}-"
                state = proxies.proxy_state(api, gateway.namespace, pod.name, prefix)
                for port in spec.ports:
                    name = spec.proxy_name(port)
                    has = [
                        f"{kind} {name}" if name in there else f"no {kind} {name}"
                        for kind, there in (
                            ("listener", state.listeners),
                            ("cluster", state.clusters),
                        )
                    ]
                    hosts = ", ".join(sorted(state.hosts.get(name, ())))
                    rows.append([pod.name, ", ".join(has), hosts])
            else:
                routes = proxies.routes(api, gateway.namespace, pod.name, spec.object_name)
                has = [f"route {route}" for route in sorted(routes)]
                rows.append([pod.name, ", ".join(has) or "no route", ""])
        except ClusterError as error:
            rows.append([pod.name, error.message, ""])
    return rows
