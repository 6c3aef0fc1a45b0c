"""Decide everything about a response from a request and a snapshot of the cluster."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.http_routing import MESH, OtherVirtualService, Server
from kubectl_istio_udp.model.mesh import Mesh, Version, oldest, show_version
from kubectl_istio_udp.model.request import ResponseRequest
from kubectl_istio_udp.model.response import (
    Response,
    ResponseApi,
    ResponseSpec,
)
from kubectl_istio_udp.model.service import Service

# Istio 1.15's release notes: directResponse in a VirtualService.
DIRECT_RESPONSE_SINCE: Version = (1, 15)


@dataclass(frozen=True)
class ResponseSnapshot:
    """The state of the cluster for planning one response.

    Attributes:
        mesh: the mesh's settings and version.
        gateway: the gateway; None inside the mesh.
        proxies: the version of the gateway's proxies; None if unknown.
        servers: the gateway's HTTP servers, on any port.
        others: VirtualServices that the plugin did not create.
        services: inside the mesh, the existing Services of the hosts.
        objects: manifests of existing objects with the names that this response would use.
        present: the existing response with this name; None if there is none.
    """

    mesh: Mesh
    gateway: Gateway | None = None
    proxies: Version | None = None
    servers: tuple[Server, ...] = ()
    others: tuple[OtherVirtualService, ...] = ()
    services: tuple[Service, ...] = ()
    objects: tuple[Mapping[str, Any], ...] = ()
    present: ResponseSpec | None = None

    @property
    def istio(self) -> Version | None:
        """The older of the control plane's and the proxies' versions."""
        return oldest([self.mesh.istio, self.proxies])

    @property
    def versions(self) -> str:
        """`control plane 1.31, gateway 1.30`."""
        text = f"control plane {show_version(self.mesh.istio)}"
        return f"{text}, gateway {show_version(self.proxies)}" if self.gateway else text


@dataclass(frozen=True)
class ResponsePlan:
    """A planned response, and why it uses this API."""

    response: Response
    reason: str


def plan_response(request: ResponseRequest, snapshot: ResponseSnapshot) -> ResponsePlan:
    """Decide API, servers and ports of a response.

    Raises:
        UsageError: inside the mesh there is not exactly one host; or the name was derived from the
            path and belongs to a response with other settings.
    """
    answer = request.answer
    if request.mesh and (len(answer.hosts) > 1 or "*" in answer.hosts[0]):
        raise UsageError(
            "inside the mesh a response needs exactly one host: the DNS name of a Service",
            hints=["for example: --mesh --host ratings.prod.svc.cluster.local"],
        )
    api, reason = _api(request, snapshot)
    key = (request.namespace, request.response_name)
    on_port = [server for server in snapshot.servers if server.port == request.gateway_port]
    admitting = [
        server
        for server in on_port
        if server.http
        and not server.redirects
        and any(server.admits(host, request.namespace) for host in answer.hosts)
    ]
    # A Gateway of another response is deleted with it, so nothing may depend on it.
    others = sorted({server.gateway for server in admitting if server.response is None})
    made = any(server.response == key for server in on_port)
    spec = ResponseSpec(
        namespace=request.namespace,
        name=request.response_name,
        answer=answer,
        api=api,
        gateway=snapshot.gateway.ref if snapshot.gateway else None,
        gateway_port=request.gateway_port,
        servers=tuple(others),
        creates_gateway=not others and (request.create_gateway or made),
        root_namespace=snapshot.mesh.root_namespace if request.mesh else "",
        mesh_ports=_mesh_ports(snapshot) if request.mesh else (),
    )
    _check_name(request, spec, snapshot.present)
    hosts = own_hosts(spec, snapshot)
    return ResponsePlan(Response(spec, request.content, tuple(sorted(hosts))), reason)


def _check_name(request: ResponseRequest, spec: ResponseSpec, present: ResponseSpec | None) -> None:
    if request.name or present is None:
        return

    def identity(one: ResponseSpec) -> tuple[Any, ...]:
        return (one.answer.path, one.answer.hosts, one.gateway, one.gateway_port)

    if identity(present) != identity(spec):
        hosts, where = ", ".join(present.answer.hosts), present.gateway or "the mesh"
        raise UsageError(
            f"response {spec.name} already exists, for {present.answer.path} of {hosts} at {where}",
            hints=[f"to change it: --name {spec.name}; to create another one: --name NAME"],
        )


def own_hosts(spec: ResponseSpec, snapshot: ResponseSnapshot) -> frozenset[str]:
    """The virtual hosts that a response creates or adds a route to."""
    if spec.mesh or spec.creates_gateway:
        return frozenset(spec.answer.hosts)
    return _taken(spec.answer.hosts, spec.namespace, spec.servers, snapshot)


def hosts_of_other(
    other: OtherVirtualService, spec: ResponseSpec, snapshot: ResponseSnapshot
) -> frozenset[str]:
    """The virtual hosts that a VirtualService shares with a response.

    A gateway merges the servers of all Istio Gateways on one port; and a VirtualService has its
    hosts on every port of its Gateways.
    """
    if spec.gateway is None:
        return frozenset(other.hosts) if MESH in other.gateways else frozenset()
    if other.exported and spec.gateway.namespace not in other.exported:
        return frozenset()
    ports = {s.port for s in snapshot.servers if s.gateway in spec.servers} | {spec.gateway_port}
    on_ports = [s.gateway for s in snapshot.servers if s.port in ports]
    namespace = other.owner.partition("/")[0]
    bound = other.gateways & set(on_ports)
    return _taken(other.hosts, namespace, bound, snapshot, ports)


def _taken(
    hosts: Iterable[str],
    namespace: str,
    gateways: Collection[str],
    snapshot: ResponseSnapshot,
    ports: Collection[int] | None = None,
) -> frozenset[str]:
    return frozenset(
        taken
        for server in snapshot.servers
        if server.gateway in gateways and server.http and (ports is None or server.port in ports)
        for host in hosts
        for taken in server.taken(host, namespace)
    )


def _api(request: ResponseRequest, snapshot: ResponseSnapshot) -> tuple[ResponseApi, str]:
    if request.api:
        return request.api, "as set for this response"
    version = snapshot.istio
    old = version is not None and version < DIRECT_RESPONSE_SINCE
    api = ResponseApi.ENVOY_FILTER if old else ResponseApi.VIRTUAL_SERVICE
    return api, snapshot.versions


def _mesh_ports(snapshot: ResponseSnapshot) -> tuple[int, ...]:
    """The TCP ports of the hosts' Services: any may carry HTTP (Istio detects it)."""
    ports = {p.port for service in snapshot.services for p in service.ports if p.protocol == "TCP"}
    return tuple(sorted(ports))
