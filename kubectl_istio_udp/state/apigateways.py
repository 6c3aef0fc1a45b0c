"""The caches of the Gateway API's objects, and the references between them.

Only Gateways of the controller's classes are included. Changes are reported for the dependent
exposures, and for the statuses of Gateways and routes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import Cache, Key
from kubectl_istio_udp.model.decoded import as_list, as_mapping
from kubectl_istio_udp.model.gatewayapi import (
    CONTROLLER_NAME,
    GROUP,
    ISTIO_CLASS,
    MIRRORED_ROUTES,
    UDP,
    ApiGateway,
    GatewayClass,
    ParametersRef,
    ParentRef,
    ReferenceGrant,
    Route,
    UdpRoute,
)
from kubectl_istio_udp.model.mesh import REVISION_LABEL
from kubectl_istio_udp.model.names import MANAGED_BY_LABEL
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.sources.gateways import child_key, clone_key, needs_child
from kubectl_istio_udp.sources.mirrors import (
    MirroredParent,
    certificates,
    copied_parents,
    mirrored_parents,
    unpermitted_certificate,
)
from kubectl_istio_udp.sources.routes import (
    Backends,
    allowing_listeners,
    attached,
    forbidden,
    is_permitted,
    resolve,
)
from kubectl_istio_udp.state.trimming import Packed, plugin_annotations

Manifest = Mapping[str, Any]
Read = TypeVar("Read")
Noted = TypeVar("Noted", bound=tuple[str, ...])

CLASS, GATEWAY, ROUTE = "GatewayClass", API_GATEWAY, "UDPRoute"
Subject = tuple[str, str, str]
# The controllerName of istiod (its default).
_ISTIO_CONTROLLER = "istio.io/gateway-controller"
_LABELS = (REVISION_LABEL, MANAGED_BY_LABEL)
# Bytes of an object of the cache, of a mapping and of a text, with what the indexes and the model
# types have of them (measured).
_OVERHEAD, _MAPPING, _TEXT = 800, 250, 70
_METADATA = (
    *("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp"),
    *("deletionTimestamp", "ownerReferences"),
)


@dataclass(frozen=True)
class Kept(Generic[Read]):
    """An object, reduced to what decisions need.

    Attributes:
        packed: its manifest, compressed.
        read: the object as a model type.
        weight: the bytes that it needs in the cache, about.
    """

    packed: Packed
    read: Read
    weight: int

    @property
    def manifest(self) -> Manifest:
        """The parts of its manifest that its status is computed from."""
        return self.packed.unpacked()


@dataclass(frozen=True)
class KeptRoute:
    """An HTTPRoute, GRPCRoute, TLSRoute or TCPRoute, most of which are for other Gateways.

    Attributes:
        packed: its manifest, compressed.
        read: its parents.
        owner: the name of the route that it was created for; "" if there is none.
        reported: whether its status has an entry of this controller.
        weight: the bytes that it needs in the cache, about.
    """

    packed: Packed
    read: Route
    weight: int
    owner: str = ""
    reported: bool = False

    @property
    def manifest(self) -> Manifest:
        """The parts of its manifest that its copy and its status are computed from."""
        return self.packed.unpacked()


@dataclass(frozen=True)
class RouteWatch:
    """How the Gateway API's objects are watched.

    Attributes:
        report: called with (kind, namespace, name) of each object with a status that may change.
        installed: the seconds between two checks whether the CRDs are installed.
    """

    report: Callable[[Subject], None]
    installed: float


class ApiGateways:
    """The caches of the Gateway API's objects, and lookups in them. Readable from every thread."""

    def __init__(
        self,
        api: Api,
        *,
        service: Callable[[str, str], Service | None],
        labels: Callable[[str], Mapping[str, str] | None],
        changed: Callable[[Key], None],
        grants_changed: Callable[[str], None],
        permitted: Callable[[], None],
        creates_in: Container[str],
        watch: RouteWatch,
    ) -> None:
        """Prepare the caches.

        Args:
            api: the cluster.
            service: returns a Service.
            labels: returns a namespace's labels.
            changed: called with each Gateway with an exposure that may change.
            grants_changed: called with a namespace whose ReferenceGrants changed.
            permitted: called when another kind may be listed (`lacks_rights`).
            creates_in: the namespaces in which Gateways may be created.
            watch: how to watch.
        """
        self._service, self._labels = service, labels
        self._changed, self._report = changed, watch.report
        self._grants_changed, self._permitted = grants_changed, permitted
        self._creates_in = creates_in
        self._lock = threading.RLock()
        self._by_parent: dict[Key, set[Key]] = {}
        self._mirrored_by_parent: dict[Key, set[Subject]] = {}
        self._by_service: dict[Key, set[Key]] = {}

        def cache(kind: str, read: Callable[[Manifest], Read], follow: Any) -> Cache[Kept[Read]]:
            def keep(manifest: Manifest) -> Kept[Read]:
                kept = _kept(manifest)
                packed = Packed.of(kept)
                return Kept(packed, read(kept), _weight(packed, kept["spec"]))

            return Cache(
                api,
                kind,
                keep=keep,
                changed=follow,
                weigh=lambda kept: kept.weight,
                list_again_after=watch.installed,
                permitted=self._permission_granted,
                installation_changed=self._features_changed,
            )

        self.classes = cache(CLASS, GatewayClass.from_object, self._class_changed)
        self.gateways = cache(GATEWAY, ApiGateway.from_object, self._gateway_changed)
        self.routes = cache(ROUTE, UdpRoute.from_object, self._route_changed)
        self.grants = cache("ReferenceGrant", ReferenceGrant.from_object, self._grant_changed)
        self.mirrored: dict[str, Cache[KeptRoute]] = {
            kind: Cache(
                api,
                kind,
                keep=_kept_route,
                changed=partial(self._mirrored_changed, kind),
                weigh=lambda kept: kept.weight,
                list_again_after=watch.installed,
                installation_changed=self._features_changed,
            )
            for kind in MIRRORED_ROUTES
        }

    @property
    def caches(self) -> tuple[Cache[Any], ...]:
        """All caches."""
        return (self.classes, self.gateways, self.routes, self.grants, *self.mirrored.values())

    # -- lookups ------------------------------------------------------------------------------

    @property
    def lacks_rights(self) -> bool:
        """Whether a kind that decides about Gateways may not be listed.

        Routes of other kinds are only copied, each kind independently of the others.
        """
        deciding = (self.classes, self.gateways, self.routes, self.grants)
        return any(cache.refusal for cache in deciding)

    @property
    def installed(self) -> frozenset[str]:
        """The kinds that the cluster has."""
        return frozenset(cache.kind for cache in self.caches if cache.installed)

    def gateway(self, key: Key) -> ApiGateway | None:
        """A Gateway of the controller's classes; None for others."""
        found = self.gateways.get(*key)
        if found is None:
            return None
        of = self.classes.get("", found.read.class_name)
        return found.read if of is not None and of.read.is_served else None

    def subjects(self) -> Iterator[Subject]:
        """All objects with a status; routes that are copied from the oldest to the youngest.

        istiod gives precedence to older routes, and a copy has an age of its own.
        """
        for cache in (self.classes, self.gateways, self.routes):
            for namespace, name in cache.names():
                yield (cache.kind, namespace, name)
        for kind, mirrored in self.mirrored.items():
            for route in sorted(mirrored.values(), key=lambda kept: kept.read.about.rank):
                yield (kind, *route.read.key)

    def is_undecided(self, key: Key) -> bool:
        """Whether a Gateway may be the controller's, but not all of it can be read.

        Its class does not exist, or the controller may not list a kind that Gateways depend on.
        """
        if self.lacks_rights:
            return True
        found = self.gateways.get(*key)
        return found is not None and self.classes.get("", found.read.class_name) is None

    def undecided_parents(self, route: Route) -> list[ParentRef]:
        """The parents of a route that are Gateways as in `is_undecided`."""
        return [
            parent
            for parent in route.parents
            if parent.is_gateway(key := (parent.namespace, parent.name)) and self.is_undecided(key)
        ]

    def has_child(self, gateway: ApiGateway) -> bool:
        """Whether the controller creates a Gateway of class istio for a Gateway."""
        return gateway.about.namespace in self._creates_in and needs_child(gateway)

    def child(self, key: Key) -> Manifest | None:
        """The Gateway with the name of the one that is created for a Gateway."""
        found = self.gateways.get(*child_key(key))
        return found.manifest if found else None

    def mirrored_parents(self, route: Route) -> tuple[MirroredParent, ...]:
        """The parents of a route that are Gateways of the controller's classes."""
        return mirrored_parents(route, self.gateway, self.has_child)

    def copied_parents(self, kind: str, route: Route) -> tuple[ParentRef, ...] | None:
        """The references of a route's copy; None if it stays as it is."""
        copy = self.mirrored[kind].get(*clone_key(route.key))
        return copied_parents(
            route,
            self.mirrored_parents(route),
            self.undecided_parents(route),
            copy.read if copy else None,
        )

    def unpermitted(self, gateway: ApiGateway) -> dict[str, str]:
        """Why listeners may not use certificates of other namespaces, by the listener's name."""
        grants = self._all_grants()
        found = {
            each.name: unpermitted_certificate(gateway, each, grants) for each in gateway.mirrored
        }
        return {name: why for name, why in found.items() if why}

    def clone(self, kind: str, key: Key) -> Manifest | None:
        """The route with the name of a route's copy."""
        found = self.mirrored[kind].get(*clone_key(key))
        return found.manifest if found else None

    def istio_controller(self) -> str:
        """The controllerName of the class istio."""
        found = self.classes.get("", ISTIO_CLASS)
        return found.read.controller if found else _ISTIO_CONTROLLER

    def routes_at(self, key: Key) -> list[UdpRoute]:
        """The routes with a Gateway as parent."""
        with self._lock:
            keys = tuple(self._by_parent.get(key, ()))
        return [found.read for each in keys if (found := self.routes.get(*each))]

    def attached(self, gateway: ApiGateway) -> dict[str, tuple[UdpRoute, ...]]:
        """The routes at each listener of a Gateway, the oldest first."""
        return attached(gateway, self.routes_at(gateway.key), self._labels)

    def backends(self, route: UdpRoute) -> Backends:
        """The resolved backends of a route."""
        return resolve(route, self._service, self._all_grants())

    def forbidden(self, gateway: ApiGateway, services: Iterable[Key]) -> set[Key]:
        """The Services of a Gateway's exposure that it must not send to any longer."""
        return forbidden(services, gateway, self.attached(gateway), self._all_grants())

    def _all_grants(self) -> list[ReferenceGrant]:
        return [grant.read for grant in self.grants.values()]

    def ports(self, gateway: ApiGateway) -> list[tuple[str, int, Backends]]:
        """Name, port and backends of each UDP listener; without a route there are no backends."""
        routes = self.attached(gateway)
        return [
            (
                listener.name,
                listener.port,
                self.backends(routes[listener.name][0])
                if routes[listener.name]
                else Backends((), 0),
            )
            for listener in gateway.listeners
            if listener.protocol == UDP
        ]

    def served(self, gateway: ApiGateway) -> dict[int, UdpRoute]:
        """The route that gets the datagrams of each port of a Gateway that has one."""
        routes = self.attached(gateway)
        return {
            listener.port: routes[listener.name][0]
            for listener in gateway.listeners
            if listener.protocol == UDP and routes[listener.name]
        }

    def gateways_of_service(self, service: Key) -> set[Key]:
        """The Gateways with a route that refers to a Service."""
        return self._admitting(self._permitted_routes(service))

    def gateways_using(self, namespace: str) -> set[Key]:
        """The Gateways with a route that refers to a Service of a namespace."""
        with self._lock:
            found = {
                r for key, routes in self._by_service.items() if key[0] == namespace for r in routes
            }
        return self._admitting(found)

    def _permitted_routes(self, service: Key) -> list[Key]:
        """The routes that refer to a Service and may do so: anybody can refer to it."""
        with self._lock:
            routes = tuple(self._by_service.get(service, ()))
        grants = [each for each in self._all_grants() if each.namespace == service[0]]
        namespaces = {namespace for namespace, _ in routes}
        permitted = {each for each in namespaces if is_permitted(each, service, grants)}
        return [key for key in routes if key[0] in permitted]

    def _parents(self, routes: Iterable[Key]) -> set[Key]:
        """The Gateways that are parents of routes; there may be none with the name of a parent."""
        kept = [found for key in routes if (found := self.routes.get(*key))]
        parents = {parent for found in kept for parent in found.read.gateways}
        return {parent for parent in parents if self.gateways.get(*parent)}

    def _admitting(self, routes: Iterable[Key]) -> set[Key]:
        """The parents of routes that admit them: routes of others do not affect a Gateway."""
        kept = [found.read for key in routes if (found := self.routes.get(*key))]
        pairs = {(each.key[0], parent) for each in kept for parent in each.gateways}
        return {parent for namespace, parent in pairs if self._admits(parent, namespace)}

    def _admits(self, gateway: Key, namespace: str) -> bool:
        """Whether a Gateway exists, and a listener of it allows UDPRoutes of a namespace."""
        found = self.gateways.get(*gateway)
        return found is not None and bool(allowing_listeners(found.read, namespace, self._labels))

    # -- changes ------------------------------------------------------------------------------

    def service_changed(self, service: Key) -> None:
        """Report what depends on a changed Service."""
        self._routes_affected(self._permitted_routes(service))

    def parameter_changed(self, named: ParametersRef, namespace: str) -> None:
        """Report the Gateways whose parametersRef is to an object that was created or deleted."""
        for kept in self.gateways.values():
            if kept.read.parameters == named and kept.read.about.namespace == namespace:
                self._report((GATEWAY, *kept.read.key))

    def report_gateways(self, gateways: Iterable[Key]) -> None:
        """Report Gateways because the pods or the addresses of their gateways are others now."""
        for key in gateways:
            self._report((GATEWAY, *key))

    def namespace_changed(self, namespace: str) -> None:
        """Report what depends on a namespace's changed labels."""
        routes = [key for key in self.routes.names() if key[0] == namespace]
        self._report_routes(routes)
        # Also those that no longer admit the routes.
        self._affected(self._parents(routes))

    def permission_changed(self, namespace: str) -> None:
        """Report the routes whose settings may be permitted now, or no longer."""
        for gateway in self.gateways.values():
            if gateway.read.key[0] == namespace:
                for route in self.routes_at(gateway.read.key):
                    self._report((ROUTE, *route.key))

    def _permission_granted(self) -> None:
        """Report all objects: without one kind, none of them could be decided."""
        for kept in self.gateways.values():
            self._changed(kept.read.key)
        for subject in self.subjects():
            self._report(subject)
        self._permitted()

    def _features_changed(self) -> None:
        """Report the classes, whose features depend on the kinds that there are."""
        for kept in self.classes.values():
            self._report((CLASS, "", kept.read.name))

    def _routes_affected(self, routes: Collection[Key]) -> None:
        self._report_routes(routes)
        self._affected(self._admitting(routes))

    def _report_routes(self, routes: Iterable[Key]) -> None:
        for key in routes:
            self._report((ROUTE, *key))

    def _affected(self, gateways: Iterable[Key]) -> None:
        for key in gateways:
            self._report((GATEWAY, *key))
            self._changed(key)

    def _class_changed(self, key: Key, _before: object, _now: object) -> None:
        self._report((CLASS, *key))
        for found in self.gateways.values():
            if found.read.class_name == key[1]:
                self._gateway_affected(found.read.key)
                self._mirrored_affected(found.read.key)

    def _gateway_changed(
        self, key: Key, before: Kept[ApiGateway] | None, now: Kept[ApiGateway] | None
    ) -> None:
        versions = [kept for kept in (before, now) if kept is not None]
        for owner in {_owner(kept.manifest) for kept in versions} - {""}:
            self._report((GATEWAY, key[0], owner))
        if len(versions) < len((before, now)):
            self.parameter_changed(ParametersRef(GROUP, "Gateway", key[1]), key[0])
        # Not when its status alone changes: there may be many routes, and each that attaches
        # changes the status.
        if _reads_same(before, now):
            self._report((GATEWAY, *key))
        else:
            self._gateway_affected(key)
            self._mirrored_affected(key)

    def _gateway_affected(self, key: Key) -> None:
        self._affected([key])
        for route in self.routes_at(key):
            self._report((ROUTE, *route.key))

    def _mirrored_affected(self, gateway: Key) -> None:
        with self._lock:
            subjects = tuple(self._mirrored_by_parent.get(gateway, ()))
        for subject in subjects:
            self._report(subject)

    def _mirrored_changed(
        self, kind: str, key: Key, before: KeptRoute | None, now: KeptRoute | None
    ) -> None:
        subject = (kind, *key)
        with self._lock:
            for kept, gone in ((before, True), (now, False)):
                if kept is not None:
                    _note(self._mirrored_by_parent, kept.read.gateways, subject, gone)
        self._report(subject)
        for owner in {kept.owner for kept in (before, now) if kept is not None} - {""}:
            self._report((kind, key[0], owner))

    def _route_changed(
        self, key: Key, before: Kept[UdpRoute] | None, now: Kept[UdpRoute] | None
    ) -> None:
        parents: set[Key] = set()
        with self._lock:
            for kept, gone in ((before, True), (now, False)):
                if kept is not None:
                    parents |= kept.read.gateways
                    _note(self._by_parent, kept.read.gateways, key, gone)
                    _note(self._by_service, _services(kept.read), key, gone)
        self._report((ROUTE, *key))
        if not _reads_same(before, now):
            self._affected(parent for parent in parents if self._admits(parent, key[0]))

    def _grant_changed(
        self, key: Key, before: Kept[ReferenceGrant] | None, now: Kept[ReferenceGrant] | None
    ) -> None:
        if _reads_same(before, now):
            return
        with self._lock:
            services = [each for each in self._by_service if each[0] == key[0]]
            routes = {route for each in services for route in self._by_service[each]}
        self._routes_affected([route for route in routes if route[0] != key[0]])
        self._grants_changed(key[0])
        for gateway in (kept.read for kept in self.gateways.values()):
            refs = (ref for each in gateway.mirrored for ref in certificates(gateway, each))
            if any(ref.namespace == key[0] for ref in refs):
                self._report((GATEWAY, *gateway.key))


def _reads_same(before: Kept[Read] | None, now: Kept[Read] | None) -> bool:
    """Whether an object changed in nothing but its status and the like."""
    return before is not None and now is not None and before.read == now.read


def _services(route: UdpRoute) -> set[Key]:
    """The Services that a route refers to, with or without permission."""
    return {(ref.namespace, ref.name) for ref in route.backends}


def _note(index: dict[Key, set[Noted]], places: Iterable[Key], key: Noted, gone: bool) -> None:
    for place in places:
        keys = index.setdefault(place, set())
        (keys.discard if gone else keys.add)(key)
        if not keys:
            del index[place]


def _kept(manifest: Manifest) -> dict[str, Any]:
    """An object reduced to what decisions need; the CRDs limit spec and status."""
    metadata = manifest["metadata"]
    about = {key: metadata[key] for key in _METADATA if key in metadata}
    notes = plugin_annotations(manifest)
    labels = metadata.get("labels") or {}
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": {
            **about,
            "annotations": notes,
            "labels": {key: labels[key] for key in _LABELS if key in labels},
        },
        "spec": manifest.get("spec") or {},
        "status": manifest.get("status") or {},
    }


def _kept_route(manifest: Manifest) -> KeptRoute:
    parents = as_list(as_mapping(manifest.get("status")).get("parents"))
    packed, read = Packed.of(_kept(manifest)), Route.from_object(manifest)
    return KeptRoute(
        packed,
        read,
        _weight(packed, [parent.raw for parent in read.parents]),
        _owner(manifest),
        any(as_mapping(entry).get("controllerName") == CONTROLLER_NAME for entry in parents),
    )


def _weight(packed: Packed, read: object) -> int:
    """The bytes that an object needs, with its model type and its entries in the indexes.

    Args:
        packed: its manifest.
        read: the part of its manifest that the model type is made from.
    """
    return _OVERHEAD + len(packed.content) + _memory(read)


def _memory(read: object) -> int:
    """The bytes of a decoded value, about: each reference is an object in its own right."""
    if isinstance(read, Mapping):
        return _MAPPING + sum(_TEXT + len(key) + _memory(each) for key, each in read.items())
    if isinstance(read, list):
        return _MAPPING + sum(map(_memory, read))
    return _TEXT + len(str(read))


def _owner(manifest: Manifest) -> str:
    """The name of the Gateway or route that another one was created for; "" if there is none."""
    owners = as_list(manifest["metadata"].get("ownerReferences"))
    names = [str(each.get("name")) for each in owners if each.get("kind") == manifest["kind"]]
    return names[0] if names else ""
