"""The objects of a response: a VirtualService, or an EnvoyFilter with a VirtualService.

Field references: Istio's API reference of VirtualService (HTTPDirectResponse) and EnvoyFilter,
Envoy's API documentation of `config.route.v3.Route`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.http_routing import MESH
from kubectl_istio_udp.model.resources import RESOURCES
from kubectl_istio_udp.model.response import Response, ResponseApi, ResponseSpec
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.render.metadata import metadata, revision

# A route with a fault needs a destination, but never uses it.
_NOWHERE = f"nowhere.{names.MANAGER}.internal"


def response_writes(response: Response, manager: str = names.MANAGER) -> tuple[Write, ...]:
    """The writes of a response: first the Gateway, then the answer.

    Args:
        response: the response.
        manager: the field manager of the objects.
    """
    spec = response.spec
    rendered = {
        "Gateway": _gateway,
        "VirtualService": _virtual_service,
        "EnvoyFilter": _envoy_filter,
    }
    kinds = [ref.kind for ref in spec.objects]
    return tuple(Write(rendered[kind](response), manager) for kind in kinds)


def route_name(response: Response) -> str:
    """The name of the answer's route in Envoy; it changes with the answer.

    A waiting command distinguishes its own route from earlier ones by this name.
    """
    route = _route(response)
    return f"{response.spec.object_name}-{revision(route)}"


def read_content(objects: Iterable[Mapping[str, Any]], spec: ResponseSpec) -> bytes | None:
    """The body of an existing response, from its objects.

    Returns:
        None if no object has the body, because it was edited.
    """
    body = spec.answer.body
    if body is None:
        return b""
    for found in _bodies(list(objects)):
        text, raw = (found.get(key) for key in ("string", "bytes"))
        text, raw = text or found.get("inline_string"), raw or found.get("inline_bytes")
        try:
            content = base64.b64decode(raw) if isinstance(raw, str) else str(text or "").encode()
        except ValueError:
            continue
        if hashlib.sha256(content).hexdigest() == body.sha256:
            return content
    return None


def _bodies(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every `body` in manifests, of a VirtualService's directResponse or an Envoy route."""
    if isinstance(value, Mapping):
        if isinstance(value.get("body"), Mapping):
            yield value["body"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _bodies(each)


def _gateway(response: Response) -> dict[str, Any]:
    spec = response.spec
    assert spec.gateway is not None
    port = {"number": spec.gateway_port, "name": f"http-{spec.gateway_port}", "protocol": "HTTP"}
    return {
        **RESOURCES["Gateway"].type_meta,
        "metadata": metadata(spec, spec.gateway.namespace),
        "spec": {
            "selector": dict(spec.gateway.selector),
            "servers": [{"port": port, "hosts": list(spec.answer.hosts)}],
        },
    }


def _virtual_service(response: Response) -> dict[str, Any]:
    spec = response.spec
    routes = [_answer(response)]
    if spec.mesh:
        # Sidecars route a host with a VirtualService by nothing else: without this, every other
        # path of the Service would return 404.
        host = spec.answer.hosts[0]
        routes.append({"name": "others", "route": [{"destination": {"host": host}}]})
    return {
        **RESOURCES["VirtualService"].type_meta,
        "metadata": metadata(spec, spec.namespace),
        "spec": {
            "hosts": list(spec.answer.hosts),
            "gateways": [MESH] if spec.mesh else _bound_to(spec),
            "http": routes,
        },
    }


def _bound_to(spec: ResponseSpec) -> list[str]:
    created = []
    if spec.creates_gateway and spec.gateway:
        created = [f"{spec.gateway.namespace}/{spec.object_name}"]
    return [*spec.servers, *created]


def _answer(response: Response) -> dict[str, Any]:
    """The route of the VirtualService for the path."""
    answer = response.spec.answer
    route: dict[str, Any] = {
        "name": route_name(response),
        "match": [{"uri": {"prefix" if answer.prefix else "exact": answer.path}}],
    }
    if not response.spec.mesh:
        # Its Gateways may have servers on other ports.
        route["match"][0]["port"] = response.spec.gateway_port
    if response.spec.api is ResponseApi.ENVOY_FILTER:
        # Without a virtual host for the request's host Envoy returns 404. This one creates it. The
        # EnvoyFilter's route comes before it and gets the requests.
        abort = {"httpStatus": answer.status, "percentage": {"value": 100}}
        return {
            **route,
            "name": "held",
            "fault": {"abort": abort},
            "route": [{"destination": {"host": _NOWHERE}}],
        }
    direct: dict[str, Any] = {"status": answer.status}
    if answer.body:
        direct["body"] = _body(response, "string", "bytes")
    route["directResponse"] = direct
    if answer.headers:
        route["headers"] = {"response": {"set": dict(_headers(response))}}
    return route


def _envoy_filter(response: Response) -> dict[str, Any]:
    spec = response.spec
    body: dict[str, Any] = {"configPatches": [_insert(response, m) for m in _matches(response)]}
    if spec.gateway:
        body = {"workloadSelector": {"labels": dict(spec.gateway.selector)}, **body}
    return {
        **RESOURCES["EnvoyFilter"].type_meta,
        "metadata": metadata(spec, spec.gateway.namespace if spec.gateway else spec.root_namespace),
        "spec": body,
    }


def _matches(response: Response) -> list[dict[str, Any]]:
    """The virtual hosts to patch; istiod names them HOST:PORT."""
    spec, hosts = response.spec, response.virtual_hosts
    if spec.mesh:
        return [
            _match("SIDECAR_OUTBOUND", {"vhost": {"name": f"{host}:{port}"}})
            for host in spec.answer.hosts
            for port in spec.mesh_ports
        ]
    port = {"portNumber": spec.gateway_port}
    if "*" in spec.answer.hosts:
        return [_match("GATEWAY", port)]
    return [
        _match("GATEWAY", {**port, "vhost": {"name": f"{host}:{spec.gateway_port}"}})
        for host in hosts
    ]


def _match(context: str, routes: dict[str, Any]) -> dict[str, Any]:
    return {"context": context, "routeConfiguration": routes}


def _insert(response: Response, match: dict[str, Any]) -> dict[str, Any]:
    value = {"name": route_name(response), **_route(response)}
    return {
        "applyTo": "HTTP_ROUTE",
        "match": match,
        "patch": {"operation": "INSERT_FIRST", "value": value},
    }


def _route(response: Response) -> dict[str, Any]:
    """Envoy's route, without its name."""
    answer = response.spec.answer
    direct: dict[str, Any] = {"status": answer.status}
    if answer.body:
        direct["body"] = _body(response, "inline_string", "inline_bytes")
    route: dict[str, Any] = {
        "match": {"prefix" if answer.prefix else "path": answer.path},
        "direct_response": direct,
    }
    if answer.headers:
        route["response_headers_to_add"] = [
            {"header": {"key": name, "value": value}, "append": False}
            for name, value in _headers(response)
        ]
    return route


def _body(response: Response, text: str, raw: str) -> dict[str, str]:
    body = response.spec.answer.body
    if body and body.binary:
        return {raw: base64.b64encode(response.content).decode()}
    return {text: response.content.decode()}


def _headers(response: Response) -> list[tuple[str, str]]:
    """The headers for Envoy's formatter, in which % begins a variable."""
    return [(name, value.replace("%", "%%")) for name, value in response.spec.answer.headers]
