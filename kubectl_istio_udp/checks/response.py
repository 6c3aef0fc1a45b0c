"""The checks of `direct response`: which object would answer, and which other requests change.

A VirtualService gets all requests for its hosts, so one with a single path may leave all other
paths of a host without an answer. Such cases are errors here.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_istio_udp.checks.findings import Finding, Value
from kubectl_istio_udp.checks.refs import gateway_ref, owner_ref, server_hosts, spec_ref
from kubectl_istio_udp.checks.rules import Rule, foreign_objects, rule, run_rules
from kubectl_istio_udp.model.annotation_values import some
from kubectl_istio_udp.model.http_routing import OtherVirtualService, Takes
from kubectl_istio_udp.model.mesh import Version, show_version
from kubectl_istio_udp.model.response import Response, ResponseApi, ResponseSpec, covers
from kubectl_istio_udp.plan.response import (
    DIRECT_RESPONSE_SINCE,
    ResponseSnapshot,
    hosts_of_other,
    own_hosts,
)

# Istio's validation warns above this size (HTTPBody, its API reference).
_LARGE_BODY_BYTES = 100_000
# Envoy's own limit (RouteConfiguration.max_direct_response_body_size_bytes); istiod raises it from
# 1.18 on.
_SMALL_BODY_BYTES = 4096
_LARGE_BODIES_SINCE: Version = (1, 18)
# Istio's documentation, "Ports used by Istio".
_ISTIOS_PORTS = frozenset({15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090})


def check_response(response: Response, snapshot: ResponseSnapshot) -> tuple[Finding, ...]:
    """The findings of all rules about writing this response, errors first."""
    return run_rules(RULES, response, snapshot)


@rule("U101", reads=("objects",))
def _foreign_object(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """An object of the response already exists, and belongs to something else."""
    return foreign_objects(response.spec, snapshot.objects)


@rule("U111", reads=("servers",))
def _no_server(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """No Istio Gateway has an HTTP server on the port that accepts the hosts."""
    spec = response.spec
    if spec.gateway is None or spec.servers or spec.creates_gateway:
        return
    gateway = gateway_ref(spec.gateway)
    http_servers = [
        server for server in snapshot.servers if server.response is None and server.http
    ]
    on_port = [server for server in http_servers if server.port == spec.gateway_port]
    values: dict[str, Value] = {"port": spec.gateway_port}
    if not on_port:
        ports = tuple(map(str, sorted({server.port for server in http_servers})))
        if ports:
            values["ports"] = ports
        yield Finding("U111", gateway, values=values, case="other ports" if ports else "no server")
        return
    values["gateways"] = tuple(sorted({server.gateway for server in on_port}))
    if all(server.redirects for server in on_port):
        yield Finding("U111", gateway, values=values, case="redirects")
        return
    values["accepted"] = tuple(sorted({host for server in on_port for host in server.hosts}))
    values["hosts"] = spec.answer.hosts
    yield Finding("U111", gateway, values=values, case="hosts")


@rule("U118", reads=("servers",))
def _port_taken(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """The port for a new Gateway is used by Istio itself, or by a server without HTTP."""
    spec = response.spec
    if not spec.creates_gateway:
        return
    if spec.gateway_port in _ISTIOS_PORTS:
        values = {"port": spec.gateway_port}
        yield Finding("U118", spec_ref(spec), "spec.gateway_port", values, "Istio")
    for server in snapshot.servers:
        if server.port == spec.gateway_port and (server.tls or not server.http):
            yield Finding(
                "U118",
                owner_ref("Gateway", server.gateway),
                "spec.servers",
                {"port": spec.gateway_port, "gateway": str(spec.gateway)},
                "server",
            )


@rule("U112", reads=("servers",))
def _host_not_taken(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """The port's servers accept only some of the hosts."""
    spec = response.spec
    if not spec.servers:
        return
    servers = [server for server in snapshot.servers if server.gateway in spec.servers]
    for host in spec.answer.hosts:
        if not any(s.admits(host, spec.namespace) for s in servers if s.port == spec.gateway_port):
            yield Finding(
                "U112",
                owner_ref("Gateway", spec.servers[0]),
                server_hosts(spec.gateway_port),
                {"port": spec.gateway_port, "gateway": str(spec.gateway), "host": host},
            )


@rule("U113", "U212", reads=("objects", "others", "servers"))
def _preceded(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """An older VirtualService for the same host takes precedence."""
    spec = response.spec
    if spec.mesh or spec.api is ResponseApi.ENVOY_FILTER:
        return
    made = _made(snapshot)
    bound = own_hosts(spec, snapshot)
    for other, host in _sharing(spec, snapshot):
        # istiod merges the routes of one host by creation time, and puts routes for all paths last.
        older = bool(made) and made < other.created
        if host not in bound or (older and not spec.answer.catches_all):
            continue
        owner = owner_ref("VirtualService", other.owner)
        values = {"path": spec.answer.path, "host": host}
        takes = other.takes(spec.answer)
        if older and takes is Takes.YES:
            takes = Takes.PERHAPS if len(other.routes) > 1 else Takes.NO
        if takes is Takes.YES:
            yield Finding("U113", owner, "spec.http", values)
        elif takes is Takes.PERHAPS:
            yield Finding("U212", owner, "spec.http", values)


@rule("U114", reads=("objects", "others", "servers"))
def _cut_off(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """The response's VirtualService would leave other paths of a host without routes."""
    spec = response.spec
    if spec.mesh:
        if spec.api is ResponseApi.ENVOY_FILTER:
            return
        for other, host in _sharing(spec, snapshot):
            owner = owner_ref("VirtualService", other.owner)
            yield Finding("U114", owner, "spec.hosts", {"host": host}, "mesh")
        return
    for other, host in _sharing(spec, snapshot):
        for narrower in sorted(own_hosts(spec, snapshot) - {host}):
            if not covers(host, narrower) or _has_route(snapshot, spec, narrower):
                continue
            yield Finding(
                "U114",
                owner_ref("VirtualService", other.owner),
                "spec.hosts",
                {"host": host, "narrower": narrower, "path": spec.answer.path},
                "gateway",
            )


@rule("U115", reads=("gateway", "mesh", "proxies"))
def _too_old(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """This Istio does not support directResponse in a VirtualService."""
    version = snapshot.istio
    by_virtual_service = response.spec.api is ResponseApi.VIRTUAL_SERVICE
    if by_virtual_service and version and version < DIRECT_RESPONSE_SINCE:
        yield Finding(
            "U115",
            spec_ref(response.spec),
            "spec.api",
            {
                "istio": show_version(version),
                "versions": snapshot.versions,
                "needed": show_version(DIRECT_RESPONSE_SINCE),
            },
        )


@rule("U116", "U211", reads=("gateway", "mesh", "proxies"))
def _body_size(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """The body is longer than old gateways support, or than Istio recommends."""
    body = response.spec.answer.body
    if body is None:
        return
    version = snapshot.istio
    if body.size > _SMALL_BODY_BYTES and version and version < _LARGE_BODIES_SINCE:
        yield Finding(
            "U116",
            spec_ref(response.spec),
            "spec.answer.body",
            {
                "size": body.size,
                "limit": _SMALL_BODY_BYTES,
                "istio": show_version(version),
                "versions": snapshot.versions,
                "needed": show_version(_LARGE_BODIES_SINCE),
            },
        )
    if body.size > _LARGE_BODY_BYTES:
        values = {"size": body.size, "limit": _LARGE_BODY_BYTES}
        yield Finding("U211", spec_ref(response.spec), "spec.answer.body", values)


@rule("U213", reads=("others", "servers"))
def _takes_over(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """An EnvoyFilter's route takes precedence over a VirtualService that answers now."""
    spec = response.spec
    if spec.api is not ResponseApi.ENVOY_FILTER:
        return
    for other in {other.owner: other for other, _ in _sharing(spec, snapshot)}.values():
        yield Finding(
            "U213",
            owner_ref("VirtualService", other.owner),
            "spec.http",
            {"path": spec.answer.path, "hosts": other.hosts},
        )


@rule("U214", reads=("others", "servers"))
def _answers_elsewhere(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """Other VirtualServices answer for hosts that the response's wildcard covers."""
    spec = response.spec
    if spec.mesh or spec.api is ResponseApi.ENVOY_FILTER:
        return
    bound = own_hosts(spec, snapshot)
    others = {
        host: other.owner
        for other, host in _sharing(spec, snapshot)
        if host not in bound and any(covers(each, host) for each in bound)
    }
    if others:
        shown = some((f"{host} ({owner})" for host, owner in sorted(others.items())), 5)
        values = {"hosts": shown, "host": min(others)}
        yield Finding("U214", spec_ref(spec), "spec.answer.hosts", values)


@rule("U117", "U215", reads=("services",))
def _unknown_service(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """The host has no Service, so sidecars have no route to add an answer to."""
    spec = response.spec
    if not spec.mesh or snapshot.services:
        return
    code = "U117" if spec.api is ResponseApi.ENVOY_FILTER else "U215"
    yield Finding(code, spec_ref(spec), "spec.answer.hosts", {"host": spec.answer.hosts[0]})


def _made(snapshot: ResponseSnapshot) -> str:
    """When the response's VirtualService was created; "" if it does not exist."""
    stamps = [
        str(manifest["metadata"].get("creationTimestamp", ""))
        for manifest in snapshot.objects
        if manifest["kind"] == "VirtualService"
    ]
    return stamps[0] if stamps else ""


def _sharing(
    spec: ResponseSpec, snapshot: ResponseSnapshot
) -> Iterator[tuple[OtherVirtualService, str]]:
    """The VirtualServices at the same Gateways, with each host that both have."""
    bound = own_hosts(spec, snapshot)
    for other in snapshot.others:
        for host in sorted(hosts_of_other(other, spec, snapshot)):
            if any(covers(host, each) or covers(each, host) for each in bound):
                yield other, host


def _has_route(snapshot: ResponseSnapshot, spec: ResponseSpec, host: str) -> bool:
    """Whether a VirtualService for exactly this host exists already."""
    existing = [
        o["spec"].get("hosts") or () for o in snapshot.objects if o["kind"] == "VirtualService"
    ]
    others = [hosts_of_other(other, spec, snapshot) for other in snapshot.others]
    return any(host in hosts for hosts in (*existing, *others))


RULES: tuple[Rule[Response, ResponseSnapshot], ...] = (
    _foreign_object,
    _no_server,
    _port_taken,
    _host_not_taken,
    _preceded,
    _cut_off,
    _too_old,
    _body_size,
    _takes_over,
    _answers_elsewhere,
    _unknown_service,
)
