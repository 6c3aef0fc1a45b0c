"""The controller's rights are the least that suffices: each is used, and no other is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kubectl_istio_udp.model.gatewayapi import MIRRORED_ROUTES
from kubectl_istio_udp.model.names import object_name
from kubectl_istio_udp.model.resources import API_GATEWAY, RESOURCES
from kubectl_istio_udp.render.controller import Installation, controller
from kubectl_istio_udp.sources.gateways import child_key, clone_key
from tests.support.apiserver import Exec
from tests.support.builders import endpoint, endpoint_slice
from tests.support.controlling import Running, annotated, space, until
from tests.support.routes import gateway, gateway_class, listener, mirrored_route, route

Right = tuple[str, str, str, str]

EVERYWHERE = ""
MESH = ("plane", "istio")
WANTED = Installation("own", "image", ("istio-system",), ("root",), 65_536, mesh_configs=(MESH,))


def granted(gateway_api: bool) -> set[Right]:
    """(namespace or EVERYWHERE, verb, plural, resource name or "") of each right."""
    found = set()
    for role in controller(replace(WANTED, gateway_api=gateway_api)):
        if role["kind"] in ("Role", "ClusterRole"):
            where = role["metadata"].get("namespace", EVERYWHERE)
            for rule in role["rules"]:
                found |= {
                    (where, verb, plural, name)
                    for verb in rule["verbs"]
                    for plural in rule["resources"]
                    for name in rule.get("resourceNames", [""])
                }
    return found


class Rights:
    """Rights as the API server knows them: what is not granted is refused.

    Attributes:
        granted: those that there are.
        used: those that a request needed.
        refused: the requests that were refused, as `create leases own`.
        double: the rights of requests that another right would have sufficed for.
    """

    def __init__(self, rights: set[Right]) -> None:
        self.granted, self.used = rights, set[Right]()
        self.refused: set[str] = set()
        self.double: set[Right] = set()

    def __call__(self, verb: str, kind: str, namespace: str, name: str) -> bool:
        kind, slash, subresource = kind.partition("/")
        plural = RESOURCES[kind].plural + slash + subresource
        found = {
            (where, verb, plural, only)
            for where in (EVERYWHERE, namespace)
            for only in ("", name)
            if (where, verb, plural, only) in self.granted
        }
        self.used |= found
        self.double |= found if len(found) > 1 else set()
        if not found:
            self.refused.add(f"{verb} {plural} {namespace}")
        return bool(found)


def use_everything(running: Running, rights: Rights, gateway_api: bool) -> None:
    """Let a controller do all that it does, as far as it may."""
    server, most = running.server, 3.0
    allowed = {
        "kubectl-istio-udp/allow-discovery": "endpoints,selector",
        "kubectl-istio-udp/allow-gateway-service": "companion,patch",
    }
    server.put(space("default", **allowed))
    server.permits = rights
    # Another replica creates the Lease at the same moment, so it is read again.
    server.fail("POST", "/leases", 409, times=1)

    def done(check: Any) -> None:
        """Wait for a step; it does not happen without the right for it."""
        until(lambda: check() or rights.refused, most)

    running.start(
        elect=True,
        namespace="own",
        root_namespaces=("root",),
        mesh_configs=(MESH,),
        gateway_api=gateway_api,
    )
    server.put(annotated(options={"discovery": "endpoints"}))
    done(lambda: running.companion() and running.told())
    server.put(endpoint_slice(endpoint("10.244.0.77")))
    done(lambda: running.addresses() == ["10.244.0.77"])
    server.put(annotated(ports="5301:53", options={"discovery": "endpoints"}))
    done(lambda: running.companion() and running.companion()["spec"]["ports"][0]["port"] == 5301)
    patched = {"discovery": "selector", "gateway-service": "patch"}
    server.put(annotated("other", ports="5302:53", options=patched))
    server.put(endpoint_slice(endpoint("10.244.0.21"), of="other"))
    done(lambda: running.entry(object_name("default", "other"), "default"))
    server.remove("Service", "default", "coredns")
    server.remove("Service", "default", "other")
    done(lambda: not running.filter() and not running.entry() and not running.companion())
    if gateway_api:
        use_routes(running, done)
    # It gives the Lease up.
    running.controllers.pop().stop()


def use_routes(running: Running, done: Callable[[Any], None]) -> None:
    """Have a Gateway and a route served; Envoy is asked, and all three statuses are written."""
    server = running.server
    server.run = lambda *_: Exec('{"configs": []}')
    notes = {"kubectl-istio-udp/gateway": "istio-system/istio-ingressgateway"}
    requesting = gateway(namespace="default", annotations=notes)
    server.put(gateway_class(), requesting, route(namespace="default"))
    done(lambda: server.get("GatewayClass", "", "istio-udp").get("status"))
    done(lambda: server.get("UDPRoute", "default", "dns").get("status"))
    done(
        lambda: (
            "does not yet have listener"
            in str(server.get(API_GATEWAY, "default", "udp").get("status"))
        )
    )
    server.remove(API_GATEWAY, "default", "udp")
    done(lambda: not server.all("EnvoyFilter"))
    # One that is made for a Gateway, changed, and deleted.
    server.put(space("istio-system"), gateway(listener(), namespace="istio-system"))
    child = child_key(("istio-system", "udp"))
    done(lambda: server.get(API_GATEWAY, *child))
    server.put(gateway(listener(port=5301), namespace="istio-system"))
    done(lambda: server.get(API_GATEWAY, *child)["spec"]["listeners"][0]["port"] == 5301)
    # Routes of each other kind are copied, the copies changed and deleted, the statuses written.
    for kind in MIRRORED_ROUTES:
        original = mirrored_route(kind, namespace="istio-system")
        clone = clone_key(("istio-system", "web"))
        server.put(gateway(listener("web", 80, "HTTP"), namespace="istio-system"), original)
        done(lambda kind=kind, clone=clone: server.get(kind, *clone))
        done(lambda kind=kind: server.get(kind, "istio-system", "web").get("status"))
        other = server.get(kind, "istio-system", "web")
        other["spec"]["rules"] = []
        server.put(other)
        done(lambda kind=kind, clone=clone: not server.get(kind, *clone)["spec"]["rules"])
        other["spec"]["parentRefs"] = []
        server.put(other)
        done(lambda kind=kind, clone=clone: not server.get(kind, *clone))
    server.put(gateway(namespace="istio-system", annotations=notes))
    done(lambda: not server.get(API_GATEWAY, *child))


@pytest.mark.parametrize("gateway_api", [False, True])
def test_each_right_is_used_and_no_other(running: Running, gateway_api: bool) -> None:
    """Without any one of them, a request is refused that no other right allows."""
    rights = Rights(granted(gateway_api))
    use_everything(running, rights, gateway_api)
    assert rights.refused == set()
    assert rights.granted - rights.used == set()
    assert rights.double == set()
