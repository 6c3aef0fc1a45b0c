"""From what is wanted and what there is to a complete response: decisions of `direct response`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.mesh import Mesh, Version, oldest, show_version
from kubectl_istio_udp.model.response import (
    Answer,
    Response,
    ResponseApi,
    ResponseSpec,
    default_name,
)
from kubectl_istio_udp.model.routing import MESH, Rival, Server
from kubectl_istio_udp.model.service import Service

# Istio 1.15's release notes: directResponse in a VirtualService.
DIRECT_RESPONSE_SINCE: Version = (1, 15)


@dataclass(frozen=True)
class ResponseRequest:
    """What the user asked `direct response` for.

    Attributes:
        namespace: where the response belongs.
        answer: to what, with what.
        content: the body's bytes.
        name: None derives it from the path.
        mesh: whether sidecars are to answer, not a gateway.
        gateway_port: the port at the gateway.
        api: None lets the versions decide.
        create_gateway: whether to make an Istio Gateway where no server is on that port.
    """

    namespace: str
    answer: Answer
    content: bytes = b""
    name: str | None = None
    mesh: bool = False
    gateway_port: int = 80
    api: ResponseApi | None = None
    create_gateway: bool = False

    @property
    def response_name(self) -> str:
        """The response's name."""
        return self.name or default_name(self.answer.path)


@dataclass(frozen=True)
class ResponseSnapshot:
    """The state that a decision about one response rests on.

    Attributes:
        mesh: the mesh's settings and version.
        gateway: the gateway chosen; None inside the mesh.
        proxies: the version of the gateway's own proxies; None where it is not known.
        servers: the gateway's HTTP servers, on any port.
        rivals: other people's VirtualServices, wherever they are bound.
        services: the Services there are of the hosts, inside the mesh.
        objects: manifests of the objects there are under the names this response would use.
        present: the response there is of this name, None where there is none.
    """

    mesh: Mesh
    gateway: Gateway | None = None
    proxies: Version | None = None
    servers: tuple[Server, ...] = ()
    rivals: tuple[Rival, ...] = ()
    services: tuple[Service, ...] = ()
    objects: tuple[Mapping[str, Any], ...] = ()
    present: ResponseSpec | None = None

    @property
    def istio(self) -> Version | None:
        """The older of control plane and proxies."""
        return oldest([self.mesh.istio, self.proxies])

    @property
    def versions(self) -> str:
        """`control plane 1.31, gateway 1.30`."""
        text = f"control plane {show_version(self.mesh.istio)}"
        return f"{text}, gateway {show_version(self.proxies)}" if self.gateway else text


@dataclass(frozen=True)
class ResponsePlan:
    """A decided response, and why it is made by this API."""

    response: Response
    reason: str


def plan_response(request: ResponseRequest, snapshot: ResponseSnapshot) -> ResponsePlan:
    """Decide API, servers and ports of a response.

    Raises:
        UsageError: inside the mesh a host is no single one; or nobody named the response, and the
            name made from its path is another one's.
    """
    answer = request.answer
    if request.mesh and (len(answer.hosts) > 1 or "*" in answer.hosts[0]):
        raise UsageError(
            "inside the mesh a response needs the host of a Service, and one",
            hints=["for example: --mesh --host ratings.prod.svc.cluster.local"],
        )
    api, reason = _api(request, snapshot)
    own = (request.namespace, request.response_name)
    on_port = [server for server in snapshot.servers if server.port == request.gateway_port]
    admitting = [
        server
        for server in on_port
        if server.http
        and not server.redirects
        and any(server.admits(host, request.namespace) for host in answer.hosts)
    ]
    # What another response made goes with it, so that nothing may rest on it.
    others = sorted({server.gateway for server in admitting if server.response is None})
    made = any(server.response == own for server in on_port)
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
    """The virtual hosts that a response has, or puts its route into."""
    if spec.mesh or spec.creates_gateway:
        return frozenset(spec.answer.hosts)
    return _taken(spec.answer.hosts, spec.namespace, spec.servers, snapshot)


def rival_hosts(rival: Rival, spec: ResponseSpec, snapshot: ResponseSnapshot) -> frozenset[str]:
    """The virtual hosts of somebody's VirtualService where a response is bound, and is seen.

    A gateway merges what all Istio Gateways with a server on one port bring; and a VirtualService
    has its hosts on every port of the Gateways that it is bound to.
    """
    if spec.gateway is None:
        return frozenset(rival.hosts) if MESH in rival.gateways else frozenset()
    if rival.exported and spec.gateway.namespace not in rival.exported:
        return frozenset()
    ports = {s.port for s in snapshot.servers if s.gateway in spec.servers} | {spec.gateway_port}
    there = [s.gateway for s in snapshot.servers if s.port in ports]
    namespace = rival.owner.partition("/")[0]
    bound = rival.gateways & set(there)
    return _taken(rival.hosts, namespace, bound, snapshot, ports)


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
    """Any TCP port may carry HTTP (Istio sniffs); naming one that does not is harmless."""
    ports = {p.port for service in snapshot.services for p in service.ports if p.protocol == "TCP"}
    return tuple(sorted(ports))
