"""A controller that serves the Gateway API, queries about the cluster, and istiod's objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.names import object_name
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.sources.gateways import exposure_key
from tests.support import builders
from tests.support.apiserver import ApiServer
from tests.support.builders import endpoint, endpoint_slice
from tests.support.controlling import Running, until
from tests.support.fakes import Fakes
from tests.support.routes import gateway_class

KEY = exposure_key(("team", "udp"))
NAME = object_name(*KEY)
# The annotation of a Gateway that names the gateway of `routed`.
TARGET = {"kubectl-istio-udp/gateway": "istio-system/istio-ingressgateway"}
# The annotation of a Gateway that names the gateway of `edge`.
AT_EDGE = {"kubectl-istio-udp/gateway": "istio-system/edge"}
_EDGE = {"istio": "edge"}


class Routed(Running):
    """A controller that serves the Gateway API, and queries about the cluster."""

    def __init__(self, api: Api, server: ApiServer) -> None:
        super().__init__(api, server)
        self.envoys = Fakes(server)

    def begin(self, *manifests: Any, **settings: Any) -> Any:
        self.server.run = self.envoys.run
        self.server.put(*manifests)
        return self.start(gateway_api=True, **settings)

    def status(self, kind: str, name: str, namespace: str = "team") -> Any:
        found = self.server.get(kind, namespace, name)
        return (found or {}).get("status") or {}

    def conditions(self, name: str = "udp") -> dict[str, tuple[str, str]]:
        return read(self.status(API_GATEWAY, name).get("conditions", ()))

    def route_conditions(self, name: str = "dns", parent: int = 0) -> dict[str, tuple[str, str]]:
        parents = self.status("UDPRoute", name).get("parents", ())
        return read(parents[parent]["conditions"]) if len(parents) > parent else {}

    def programmed(self, name: str = "udp") -> None:
        until(lambda: self.conditions(name).get("Programmed") == ("True", "Programmed"))

    def attached(self, name: str = "udp") -> list[int]:
        return [
            each["attachedRoutes"] for each in self.status(API_GATEWAY, name).get("listeners", ())
        ]

    def routed(self) -> ExposureSpec:
        return self.spec(NAME)

    def weights(self) -> list[tuple[str, int]]:
        return [(b.service[1], b.weight) for b in self.routed().backends if b.service]


@contextmanager
def routed(api: Api, server: ApiServer, *manifests: Any) -> Iterator[Routed]:
    """A controller that the test starts, with a gateway, a class and further objects."""
    server.put(builders.gateway_pod(), builders.gateway_service(), gateway_class(), *manifests)
    found = Routed(api, server)
    found.wait_for(installed=0.05)
    try:
        yield found
    finally:
        found.stop()


def edge() -> tuple[Any, ...]:
    """A second gateway: its pod and its Service."""
    return (
        builders.gateway_pod("edge-1", labels=_EDGE, ips=("10.244.0.8",)),
        builders.gateway_service("edge", selector=_EDGE),
    )


def read(conditions: Any) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in conditions}


def services(namespace: str, *names: str) -> Iterator[Any]:
    for number, name in enumerate(names):
        address = f"10.1.{len(namespace)}.{number + 1}"
        yield builders.service(name, namespace=namespace)
        yield endpoint_slice(endpoint(address, f"{name}-1"), of=name, namespace=namespace)


def made_by_istiod(running: Routed, name: str) -> None:
    """The pod and the Service that istiod creates for a Gateway of class istio."""
    labels = {"gateway.networking.k8s.io/gateway-name": name}
    running.server.put(
        builders.gateway_pod(f"{name}-1", labels=labels, ips=("10.244.0.9",)),
        {
            **builders.gateway_service(f"{name}-istio", selector=labels),
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}},
        },
    )
