"""The checks of `direct response` before it writes: who will answer, and which requests change?

A VirtualService gets all requests for its hosts, so one with a single path may leave all other
paths of a host without an answer. Such cases are errors here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.objects import foreign_objects, run_rules
from kubectl_istio_udp.model.mesh import Version, show_version
from kubectl_istio_udp.model.response import Response, ResponseApi, ResponseSpec, covers
from kubectl_istio_udp.model.routing import Rival, Takes
from kubectl_istio_udp.model.values import some
from kubectl_istio_udp.plan.response import (
    DIRECT_RESPONSE_SINCE,
    ResponseSnapshot,
    own_hosts,
    rival_hosts,
)

Rule = Callable[[Response, ResponseSnapshot], Iterator[Finding]]

# Istio's validation warns above this size (HTTPBody, its API reference).
_LARGE_BODY_BYTES = 100_000
# Envoy's own limit (RouteConfiguration.max_direct_response_body_size_bytes); istiod raises it from
# 1.18 on.
_SMALL_BODY_BYTES = 4096
_LARGE_BODIES_SINCE: Version = (1, 18)
# Istio's documentation, "Ports used by Istio".
_ISTIOS_PORTS = frozenset({15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090})
_OTHER_API = "take precedence over all VirtualServices: --api envoyfilter"


def check_response(response: Response, snapshot: ResponseSnapshot) -> tuple[Finding, ...]:
    """The findings of all rules about writing this response, errors first."""
    return run_rules(RULES, response, snapshot)


def _foreign_object(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """U101: one of our objects would overwrite an existing one that does not belong to it."""
    return foreign_objects(response.spec, snapshot.objects)


def _no_server(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """U111: no Istio Gateway has an HTTP server on the port that accepts the hosts."""
    spec = response.spec
    if spec.mesh or spec.servers or spec.creates_gateway:
        return
    where = f"port {spec.gateway_port} of gateway {spec.gateway}"
    standing = [server for server in snapshot.servers if server.response is None and server.http]
    there = [server for server in standing if server.port == spec.gateway_port]
    if not there:
        ports = sorted({server.port for server in standing})
        others = f"; ports with one: {', '.join(map(str, ports))}" if ports else ""
        yield Finding(
            "U111",
            f"gateway {spec.gateway}",
            f"no Istio Gateway has an HTTP server on {where}{others}",
            "create one: --create-gateway"
            + ("; or use another port: --gateway-port" if ports else ""),
        )
        return
    owners = ", ".join(sorted({server.gateway for server in there}))
    if all(server.redirects for server in there):
        yield Finding(
            "U111",
            f"gateway {spec.gateway}",
            f"{where} redirects every request to https ({owners})",
            "answer at its https port: --gateway-port 443",
        )
        return
    taken = sorted({host for server in there for host in server.hosts})
    yield Finding(
        "U111",
        f"gateway {spec.gateway}",
        f"{where} accepts {', '.join(taken)}, not {', '.join(spec.answer.hosts)} ({owners})",
        "use one of its hosts: --host",
    )


def _port_taken(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """U118: the port for a new Gateway is used by Istio itself, or by a server without HTTP."""
    spec = response.spec
    if not spec.creates_gateway:
        return
    if spec.gateway_port in _ISTIOS_PORTS:
        yield Finding(
            "U118",
            f"gateway {spec.gateway}",
            f"port {spec.gateway_port} is used by Istio's proxies themselves",
            "use another port: --gateway-port",
        )
    for server in snapshot.servers:
        if server.port == spec.gateway_port and (server.tls or not server.http):
            yield Finding(
                "U118",
                f"Gateway {server.gateway}",
                f"port {spec.gateway_port} of gateway {spec.gateway} has a server of Gateway "
                f"{server.gateway} that is not plain HTTP",
                "use another port: --gateway-port",
            )


def _host_not_taken(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """U112: the port's servers accept only some of the hosts."""
    spec = response.spec
    if not spec.servers:
        return
    there = [server for server in snapshot.servers if server.gateway in spec.servers]
    for host in spec.answer.hosts:
        if not any(s.admits(host, spec.namespace) for s in there if s.port == spec.gateway_port):
            yield Finding(
                "U112",
                f"gateway {spec.gateway}",
                f"port {spec.gateway_port} of gateway {spec.gateway} does not accept host {host}",
                f"add the host to Gateway {spec.servers[0]}, or omit it",
            )


def _preceded(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """U113, U212: an older VirtualService for the same host takes precedence."""
    spec = response.spec
    if spec.mesh or spec.api is ResponseApi.ENVOY_FILTER:
        return
    made = _made(snapshot)
    own = own_hosts(spec, snapshot)
    for rival, host in _sharing(spec, snapshot):
        # istiod merges the routes of one host by creation time, and puts routes for all paths last.
        older = bool(made) and made < rival.created
        if host not in own or (older and not spec.answer.catches_all):
            continue
        takes = rival.takes(spec.answer)
        if older and takes is Takes.YES:
            takes = Takes.PERHAPS if len(rival.routes) > 1 else Takes.NO
        if takes is Takes.YES:
            yield Finding(
                "U113",
                f"VirtualService {rival.owner}",
                f"VirtualService {rival.owner} is older and takes precedence for "
                f"{spec.answer.path} of host {host}; this response would never be used",
                _OTHER_API,
            )
        elif takes is Takes.PERHAPS:
            yield Finding(
                "U212",
                f"VirtualService {rival.owner}",
                f"VirtualService {rival.owner} is older and, depending on its conditions, takes "
                f"precedence for some requests for {spec.answer.path} of host {host}",
                _OTHER_API,
            )


def _cut_off(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """U114: our VirtualService would leave other paths of a host without their routes."""
    spec = response.spec
    if spec.mesh:
        if spec.api is ResponseApi.ENVOY_FILTER:
            return
        for rival, host in _sharing(spec, snapshot):
            yield Finding(
                "U114",
                f"VirtualService {rival.owner}",
                f"VirtualService {rival.owner} routes host {host} inside the mesh, where Istio "
                "uses only one VirtualService for each host: one of the two would be ignored",
                _OTHER_API,
            )
        return
    for rival, host in _sharing(spec, snapshot):
        for narrower in sorted(own_hosts(spec, snapshot) - {host}):
            if not covers(host, narrower) or _has_own(snapshot, spec, narrower):
                continue
            yield Finding(
                "U114",
                f"VirtualService {rival.owner}",
                f"VirtualService {rival.owner} serves {narrower} by its host {host}; a response "
                f"for {narrower} would make all paths but {spec.answer.path} unreachable",
                f"use the same host, so that Istio merges both: --host '{host}'",
            )


def _too_old(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """U115: this Istio does not support directResponse in a VirtualService."""
    version = snapshot.istio
    asked = response.spec.api is ResponseApi.VIRTUAL_SERVICE
    if asked and version and version < DIRECT_RESPONSE_SINCE:
        yield Finding(
            "U115",
            _response(response),
            f"Istio {show_version(version)} does not support directResponse in a VirtualService "
            f"({snapshot.versions}); this needs {show_version(DIRECT_RESPONSE_SINCE)} or newer",
            "use --api envoyfilter or --api auto",
        )


def _body_size(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """U116, U211: the body is longer than old gateways support, or than Istio recommends."""
    body = response.spec.answer.body
    if body is None:
        return
    version = snapshot.istio
    if body.size > _SMALL_BODY_BYTES and version and version < _LARGE_BODIES_SINCE:
        yield Finding(
            "U116",
            _response(response),
            f"the body has {body.size} bytes, but Istio {show_version(version)} "
            f"({snapshot.versions}) answers at most {_SMALL_BODY_BYTES}",
            f"shorten it, or upgrade to Istio {show_version(_LARGE_BODIES_SINCE)}",
        )
    if body.size > _LARGE_BODY_BYTES:
        yield Finding(
            "U211",
            _response(response),
            f"the body has {body.size} bytes, and every proxy that answers keeps it in memory; "
            f"Istio advises against more than {_LARGE_BODY_BYTES}",
        )


def _takes_over(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """U213: an EnvoyFilter's route takes precedence over a VirtualService that answers now."""
    spec = response.spec
    if spec.api is not ResponseApi.ENVOY_FILTER:
        return
    for rival in {rival.owner: rival for rival, _ in _sharing(spec, snapshot)}.values():
        yield Finding(
            "U213",
            f"VirtualService {rival.owner}",
            f"this response takes precedence over VirtualService {rival.owner}, which no longer "
            f"gets requests for {spec.answer.path} of {', '.join(rival.hosts)}",
        )


def _answers_elsewhere(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """U214: other VirtualServices answer for hosts that our wildcard covers."""
    spec = response.spec
    if spec.mesh or spec.api is ResponseApi.ENVOY_FILTER:
        return
    mine = own_hosts(spec, snapshot)
    theirs = {
        host: rival.owner
        for rival, host in _sharing(spec, snapshot)
        if host not in mine and any(covers(own, host) for own in mine)
    }
    if theirs:
        shown = some((f"{host} ({owner})" for host, owner in sorted(theirs.items())), 5)
        yield Finding(
            "U214",
            _response(response),
            f"other VirtualServices, not this response, get the requests for these hosts: {shown}",
            f"create another response for one: --host {min(theirs)} --name NAME; or {_OTHER_API}",
        )


def _unknown_service(response: Response, snapshot: ResponseSnapshot) -> Iterator[Finding]:
    """U117, U215: the host has no Service, so sidecars have no route to add an answer to."""
    spec = response.spec
    if not spec.mesh or snapshot.services:
        return
    host = spec.answer.hosts[0]
    if spec.api is ResponseApi.ENVOY_FILTER:
        yield Finding(
            "U117",
            _response(response),
            f"host {host} has no Service; an EnvoyFilter must name the Service's ports",
            "create the Service first, or use --api virtualservice",
        )
    else:
        yield Finding(
            "U215",
            _response(response),
            f"host {host} has no Service; sidecars route it only if a ServiceEntry defines it",
        )


def _made(snapshot: ResponseSnapshot) -> str:
    """When our VirtualService was created; "" if it does not exist."""
    stamps = [
        str(manifest["metadata"].get("creationTimestamp", ""))
        for manifest in snapshot.objects
        if manifest["kind"] == "VirtualService"
    ]
    return stamps[0] if stamps else ""


def _sharing(spec: ResponseSpec, snapshot: ResponseSnapshot) -> Iterator[tuple[Rival, str]]:
    """The VirtualServices bound to the same Gateways, with each host they share with ours."""
    mine = own_hosts(spec, snapshot)
    for rival in snapshot.rivals:
        for host in sorted(rival_hosts(rival, spec, snapshot)):
            if any(covers(host, own) or covers(own, host) for own in mine):
                yield rival, host


def _has_own(snapshot: ResponseSnapshot, spec: ResponseSpec, host: str) -> bool:
    """Whether a VirtualService for exactly this host exists already."""
    mine = [o["spec"].get("hosts") or () for o in snapshot.objects if o["kind"] == "VirtualService"]
    theirs = [rival_hosts(rival, spec, snapshot) for rival in snapshot.rivals]
    return any(host in hosts for hosts in (*mine, *theirs))


def _response(response: Response) -> str:
    return f"response {response.spec.namespace}/{response.spec.name}"


RULES: tuple[Rule, ...] = (
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
