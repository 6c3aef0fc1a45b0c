"""Manifests of a mesh: sidecars, istiod, Istio's Gateways and VirtualServices, and the plugin's
objects."""

from __future__ import annotations

from typing import Any

import yaml

from kubectl_istio_udp.model.accesslog import AccessLogSpec, LogScope
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.logscope import Setting
from kubectl_istio_udp.model.response import Answer, Body, Response, ResponseApi, ResponseSpec
from kubectl_istio_udp.render.accesslog import access_log_writes
from kubectl_istio_udp.render.response import response_writes
from tests.support.apiserver import ApiServer
from tests.support.builders import CREATED, GATEWAY_LABELS, Manifest, metadata, pod

GATEWAY = GatewayRef("istio-system", "istio-ingressgateway", GATEWAY_LABELS)
RATINGS = "ratings.default.svc.cluster.local"


def sidecar_pod(
    name: str,
    *,
    namespace: str = "default",
    app: str = "web",
    ip: str = "10.244.0.30",
    version: str = "1.31.0",
    native: bool = False,
    **more: Any,
) -> Manifest:
    """A pod with Istio's proxy beside its application; `native` as an init container."""
    proxy = {"name": "istio-proxy", "image": f"docker.io/istio/proxyv2:{version}"}
    containers = [{"name": app, "image": "own/app"}, *([] if native else [proxy])]
    found = pod(name, namespace=namespace, app=app, containers=containers, **more)
    if native:
        found["spec"]["initContainers"] = [proxy]
    found["status"]["podIP"] = ip
    return found


def istiod_pod(
    name: str = "istiod-1",
    version: str = "1.31.0",
    revision: str = "default",
    namespace: str = "istio-system",
) -> Manifest:
    containers = [
        {"name": "discovery", "image": f"docker.io/istio/pilot:{version}"},
        {"name": "other", "image": "docker.io/other:0.1"},
    ]
    labels = {"istio.io/rev": revision}
    return pod(name, namespace=namespace, app="istiod", labels=labels, containers=containers)


def mesh_config(name: str = "istio", **config: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata("istio-system", name),
        "data": {"mesh": yaml.safe_dump(config)},
    }


def istio_gateway(
    name: str = "edge",
    *,
    namespace: str = "istio-system",
    port: int = 80,
    hosts: tuple[str, ...] = ("*",),
    protocol: str = "HTTP",
    selector: Any = None,
    **server: Any,
) -> Manifest:
    numbered = {"number": port, "name": f"p{port}", "protocol": protocol}
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "Gateway",
        "metadata": metadata(namespace, name),
        "spec": {
            "selector": dict(GATEWAY_LABELS if selector is None else selector),
            "servers": [{"port": numbered, "hosts": list(hosts), **server}],
        },
    }


def virtual_service(
    name: str = "shop",
    *,
    namespace: str = "default",
    hosts: tuple[str, ...] = ("shop.example.com",),
    gateways: tuple[str, ...] = ("istio-system/edge",),
    http: Any = (),
    created: str = CREATED,
) -> Manifest:
    found: Manifest = {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "VirtualService",
        "metadata": metadata(namespace, name),
        "spec": {"hosts": list(hosts), "gateways": list(gateways), "http": list(http)},
    }
    found["metadata"]["creationTimestamp"] = created
    return found


def envoy_filter(name: str, *, namespace: str = "istio-system") -> Manifest:
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": metadata(namespace, name),
        "spec": {"configPatches": []},
    }


def response(
    path: str = "/hello",
    *,
    body: bytes = b"hi",
    status: int = 200,
    hosts: tuple[str, ...] = ("*",),
    mesh: bool = False,
    api: ResponseApi = ResponseApi.VIRTUAL_SERVICE,
    name: str = "hello",
    **spec: Any,
) -> Response:
    answer = Answer(path, status, Body.of(body, False) if body else None, hosts=hosts)
    where = {"root_namespace": "istio-system"} if mesh else {"gateway": GATEWAY}
    given = {"servers": () if mesh else ("istio-system/edge",), **where, **spec}
    return Response(ResponseSpec("default", name, answer, api, **given), body)


def access_log(name: str = "namespace", **spec: Any) -> AccessLogSpec:
    given = {"namespace": "default", "every": Duration(5), "scope": LogScope.NAMESPACE, **spec}
    return AccessLogSpec(name=name, **given)


def setting_of(spec: AccessLogSpec) -> Setting:
    """The interval that the EnvoyFilter of an access log sets."""
    found = Setting.from_object(access_log_writes(spec)[0].manifest)
    assert found is not None
    return found


def manifests_of(thing: Response | AccessLogSpec) -> list[Manifest]:
    """The objects that a response or an access log consists of."""
    if isinstance(thing, Response):
        return [dict(write.manifest) for write in response_writes(thing)]
    return [dict(write.manifest) for write in access_log_writes(thing)]


def put(server: ApiServer, *things: Response | AccessLogSpec) -> None:
    """Store the objects of these exposures, responses and access logs."""
    for thing in things:
        server.put(*manifests_of(thing))
