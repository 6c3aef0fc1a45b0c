"""From what is wanted and what there is to a complete response: decisions of `direct response`."""

from __future__ import annotations

from collections.abc import Mapping
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
    """

    mesh: Mesh
    gateway: Gateway | None = None
    proxies: Version | None = None
    servers: tuple[Server, ...] = ()
    rivals: tuple[Rival, ...] = ()
    services: tuple[Service, ...] = ()
    objects: tuple[Mapping[str, Any], ...] = ()

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
        UsageError: inside the mesh a host is a pattern, or there are several.
    """
    answer = request.answer
    if request.mesh and any("*" in host for host in answer.hosts):
        raise UsageError(
            "inside the mesh a response needs the host of a Service",
            hints=["say it: --mesh --host ratings.prod.svc.cluster.local"],
        )
    if request.mesh and len(answer.hosts) > 1:
        # Its VirtualService routes all other paths on: to which of them?
        raise UsageError(
            "inside the mesh a response is for one host",
            hints=["make one for each host: --name NAME"],
        )
    api, reason = _api(request, snapshot)
    own = (request.namespace, request.response_name)
    on_port = [server for server in snapshot.servers if server.port == request.gateway_port]
    admitting = [
        server
        for server in on_port
        if any(server.admits(host, request.namespace) for host in answer.hosts)
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
    return ResponsePlan(Response(spec, request.content), reason)


def _api(request: ResponseRequest, snapshot: ResponseSnapshot) -> tuple[ResponseApi, str]:
    if request.api:
        return request.api, "as asked"
    version = snapshot.istio
    old = version is not None and version < DIRECT_RESPONSE_SINCE
    api = ResponseApi.ENVOY_FILTER if old else ResponseApi.VIRTUAL_SERVICE
    return api, snapshot.versions


def _mesh_ports(snapshot: ResponseSnapshot) -> tuple[int, ...]:
    """Any TCP port may carry HTTP (Istio sniffs); naming one that does not is harmless."""
    ports = {p.port for service in snapshot.services for p in service.ports if p.protocol == "TCP"}
    return tuple(sorted(ports))


def bound(rival: Rival, spec: ResponseSpec, snapshot: ResponseSnapshot) -> bool:
    """Whether a VirtualService is bound, and seen, where a response is.

    A gateway merges what all Istio Gateways with a server on one port bring.
    """
    if spec.gateway is None:
        return MESH in rival.gateways
    seen = not rival.exported or spec.gateway.namespace in rival.exported
    there = {s.gateway for s in snapshot.servers if s.port == spec.gateway_port}
    return seen and bool(rival.gateways & there)
