"""The conditions of the controller's Gateways and routes that report a problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.apiconditions import current_conditions, generation_of
from kubectl_istio_udp.model.decoded import as_list, as_mapping
from kubectl_istio_udp.model.errors import Forbidden, NotInstalled
from kubectl_istio_udp.model.gatewayapi import (
    CONTROLLER_NAME,
    MIRRORED_ROUTES,
    ApiGateway,
    GatewayClass,
    Key,
    Route,
)
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.model.resources import API_GATEWAY

Manifest = Mapping[str, Any]

# Conditions that report a problem if they are true.
_PROBLEMS = ("Conflicted", "PartiallyInvalid", "kubectl-istio-udp.dev/RefusedEndpoints")


@dataclass(frozen=True)
class FailedCondition:
    """A condition that reports a problem.

    Attributes:
        kind: Gateway, UDPRoute, HTTPRoute, GRPCRoute, TLSRoute or TCPRoute.
        namespace, name: the object.
        part: the listener of a Gateway, or the Gateway of a route; "" for the Gateway itself.
        type, reason, message: of the condition; the type is "" if no condition is about the current
            generation of the object.
    """

    kind: str
    namespace: str
    name: str
    part: str
    type: str
    reason: str
    message: str


def read_failing(api: Api) -> tuple[FailedCondition, ...]:
    """The failing conditions in all namespaces; none if the Gateway API cannot be read."""
    with suppress(NotInstalled, Forbidden):
        classes, gateways, routes = in_parallel(
            [
                lambda: api.list("GatewayClass"),
                lambda: api.list(API_GATEWAY),
                lambda: api.list("UDPRoute"),
            ]
        )
        others = in_parallel([partial(_list_if_installed, api, kind) for kind in MIRRORED_ROUTES])
        return failing(classes, gateways, [*routes, *chain.from_iterable(others)])
    return ()


def _list_if_installed(api: Api, kind: str) -> list[dict[str, Any]]:
    """The objects of a kind that a cluster may lack; none if they cannot be read."""
    with suppress(NotInstalled, Forbidden):
        return api.list(kind)
    return []


def failing(
    classes: Iterable[Manifest], gateways: Iterable[Manifest], routes: Iterable[Manifest]
) -> tuple[FailedCondition, ...]:
    """The failing conditions of the Gateways of the controller's classes, and of their routes.

    Args:
        classes, gateways, routes: all GatewayClasses, Gateways and routes.
    """
    class_names = {each.name for each in map(GatewayClass.from_object, classes) if each.is_served}
    served = [each for each in gateways if ApiGateway.from_object(each).class_name in class_names]
    keys = {namespaced_name(each) for each in served}
    found = [
        *(each for gateway in served for each in _of_gateway(gateway)),
        *(each for route in routes for each in _of_route(route, keys)),
    ]
    return tuple(sorted(found, key=lambda each: (each.kind, each.namespace, each.name, each.part)))


def _of_gateway(manifest: Manifest) -> Iterator[FailedCondition]:
    status = as_mapping(manifest.get("status"))
    failed = [*_failed(manifest, status, "")]
    for listener in map(as_mapping, as_list(status.get("listeners"))):
        # A listener that is not programmed yet says the same as its Gateway.
        failed += [
            each
            for each in _failed(manifest, listener, str(listener.get("name")))
            if each.type and not (failed and each.type == "Programmed")
        ]
    yield from failed


def _of_route(manifest: Manifest, gateways: set[Key]) -> Iterator[FailedCondition]:
    namespace = manifest["metadata"]["namespace"]
    wanted = {
        (parent.namespace, parent.name)
        for parent in Route.from_object(manifest).parents
        if parent.is_gateway((parent.namespace, parent.name))
    } & gateways
    for entry in map(as_mapping, as_list(as_mapping(manifest.get("status")).get("parents"))):
        if entry.get("controllerName") != CONTROLLER_NAME:
            continue
        parent = as_mapping(entry.get("parentRef"))
        key = (str(parent.get("namespace") or namespace), str(parent.get("name")))
        if key in wanted:
            wanted.discard(key)
            yield from _failed(manifest, entry, "/".join(key))
    for key in sorted(wanted):
        yield from _failed(manifest, {}, "/".join(key))


def _failed(manifest: Manifest, owner: Manifest, part: str) -> Iterator[FailedCondition]:
    """The failing conditions of a Gateway, listener or route."""
    metadata = manifest["metadata"]
    about = (manifest["kind"], metadata["namespace"], metadata["name"], part)
    current = current_conditions(owner, generation_of(manifest))
    if not current:
        yield FailedCondition(*about, "", "Pending", "the controller has not reported on it yet")
    for each in current:
        bad = "True" if each.get("type") in _PROBLEMS else "False"
        if each.get("status") in (bad, "Unknown"):
            texts = (str(each.get(name) or "") for name in ("type", "reason", "message"))
            yield FailedCondition(*about, *texts)
