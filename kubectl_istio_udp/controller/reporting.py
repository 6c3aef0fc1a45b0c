"""Write the statuses of GatewayClasses, Gateways and routes that have changed.

A report is requested whenever something changes that a status depends on; a status that is already
correct is not written. What mirrors a Gateway or a route is written first (mirroring.py). If the
object was modified concurrently (resourceVersion), the status is computed again.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from kubectl_istio_udp.controller.conditions import (
    ACCEPTED,
    PROGRAMMED,
    ApiCondition,
    Mirror,
    MirrorReport,
    ParentReport,
    Progress,
    Why,
    class_status,
    gateway_status,
    route_status,
    without_own_condition,
)
from kubectl_istio_udp.controller.mirrored import mirror, parent_conditions
from kubectl_istio_udp.controller.mirroring import PASSING, Mirroring
from kubectl_istio_udp.controller.objects import MANAGER
from kubectl_istio_udp.controller.outcome import (
    FAILED,
    OK,
    REFUSED,
    WAITING,
    Outcome,
    Unavailable,
)
from kubectl_istio_udp.controller.programming import Programmer
from kubectl_istio_udp.controller.queue import WorkQueue
from kubectl_istio_udp.controller.writing import Fence, NotLeading
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.clock import Clock
from kubectl_istio_udp.kube.watch import Cache, Key
from kubectl_istio_udp.model.apiconditions import current_condition, generation_of
from kubectl_istio_udp.model.decoded import as_list, as_mapping
from kubectl_istio_udp.model.endpointrules import summary
from kubectl_istio_udp.model.errors import (
    ClusterError,
    Conflict,
    IstioUdpError,
    NotFound,
)
from kubectl_istio_udp.model.exposure import ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.gatewayapi import ApiGateway, UdpRoute
from kubectl_istio_udp.model.reasons import FORBIDDEN, NO_GATEWAY, NOT_TAKEN
from kubectl_istio_udp.plan.routes import RefusedEndpoints
from kubectl_istio_udp.render.childgateway import child_gateway
from kubectl_istio_udp.render.routeclone import route_clone
from kubectl_istio_udp.sources.gateways import (
    InvalidParameters,
    UnsupportedAddress,
    exposure_key,
    not_accepted,
)
from kubectl_istio_udp.sources.mirrors import MirroredParent
from kubectl_istio_udp.sources.permission import Permission
from kubectl_istio_udp.sources.routes import Backends, attach, route_options
from kubectl_istio_udp.state.addresses import addresses_of
from kubectl_istio_udp.state.apigateways import CLASS, GATEWAY, ROUTE, ApiGateways, Subject
from kubectl_istio_udp.state.caches import Caches

What = TypeVar("What")

# Each may wait for a pod that does not respond. One namespace gets at most half of them.
_WORKERS = 4
_log = logging.getLogger(__name__)


class Reporter:
    """Writes statuses of the Gateway API's objects; thread-safe."""

    def __init__(
        self,
        api: Api,
        caches: Caches,
        *,
        outcome: Callable[[Key], Outcome | None],
        unavailable: Callable[[Key], Mapping[int, Unavailable]],
        at_former_gateway: Callable[[Key], bool],
        refused: Callable[[Key], RefusedEndpoints | None],
        permission: Callable[[Key], Permission | None],
        leads: Callable[[], bool],
        fence: Fence,
        clock: Clock,
    ) -> None:
        """Create the reporter; `start` starts it.

        Args:
            api: the cluster, for writes and for queries to gateways' Envoys.
            caches: the state of the cluster.
            outcome: returns the latest outcome of an exposure.
            unavailable: returns why listeners of a Gateway cannot have their ports, by port.
            at_former_gateway: whether an exposure is at another gateway than it requests.
            refused: returns the addresses of an exposure's Services that may not be endpoints;
                None if its current request has not been decided.
            permission: returns what an exposure may use; None if its namespace does not say.
            leads: whether this replica leads, also while the renewal of its Lease is late.
            fence: lets the writes pass.
            clock: the time.
        """
        self._api, self._caches = api, caches
        self._outcome, self._unavailable = outcome, unavailable
        self._at_former_gateway = at_former_gateway
        self._refused, self._permission = refused, permission
        self._leads, self._fence = leads, fence
        self._mirroring = (
            Mirroring(
                api,
                caches.api_gateways,
                requested=caches.intent,
                held=lambda key: caches.existing(key).held,
                is_written=lambda key: caches.is_planned_by("EnvoyFilter", key),
                fence=fence,
            )
            if caches.api_gateways
            else None
        )
        self._queue: WorkQueue[Subject] = WorkQueue(
            clock, group=lambda subject: subject[1], at_once=_WORKERS // 2
        )
        self._ended = threading.Event()
        self._programmer = Programmer(api, caches)
        self.workers = [
            threading.Thread(target=self._work, name=f"reporter {number}", daemon=True)
            for number in range(_WORKERS)
        ]

    def start(self) -> None:
        """Start the threads; they report once `lead` has been called."""
        for worker in self.workers:
            worker.start()

    def stop(self, seconds: float) -> None:
        """End the threads; wait at most this many seconds for each."""
        self._ended.set()
        self._queue.end()
        for worker in self.workers:
            if worker.is_alive():
                worker.join(seconds)

    def lead(self) -> None:
        """Report on all objects, and then on requested ones."""
        self._programmer.clear()
        self._queue.open()
        gateways = self._caches.api_gateways
        for subject in gateways.subjects() if gateways else ():
            self.request(subject)

    def pause(self) -> None:
        """Stop reporting, because another replica leads."""
        self._queue.close()

    def request(self, subject: Subject) -> None:
        """Request a report on an object."""
        if self._leads():
            self._queue.add(subject)

    def request_gateway(self, key: Key) -> None:
        """Request a report on a Gateway."""
        self.request((GATEWAY, *key))

    def request_routes(self, key: Key) -> None:
        """Request a report on each UDPRoute of a Gateway."""
        gateways = self._caches.api_gateways
        for route in gateways.routes_at(key) if gateways else ():
            self.request((ROUTE, *route.key))

    def _work(self) -> None:
        while not self._ended.is_set():
            taken = self._queue.take(1.0)
            if taken is None:
                continue
            subject = taken[0]
            try:
                self._report(subject)
            except NotLeading:
                # A late renewal may still succeed; if it does not, the queue is emptied.
                self._queue.failed(subject)
            except IstioUdpError as error:
                wait = self._queue.failed(subject, error)
                level = logging.DEBUG if isinstance(error, Conflict) else logging.WARNING
                message = "status not written, will retry: %s"
                _log.log(level, message, error.message, extra={"key": subject[1:], "wait": wait})
            except Exception:
                self._queue.failed(subject)
                _log.exception("internal error", extra={"key": subject[1:]})
            finally:
                self._queue.done(subject)

    def _report(self, subject: Subject) -> None:
        gateways, mirroring = self._caches.api_gateways, self._mirroring
        if gateways is None or mirroring is None:
            return
        kind, key, done = subject[0], subject[1:], True
        if kind == CLASS:
            self._report_class(gateways, key[1])
        elif gateways.lacks_rights:
            # What cannot be listed would count as not there. All reports are requested again
            # when everything may be listed.
            pass
        elif kind == GATEWAY:
            done = self._report_gateway(gateways, key, mirroring.keep_gateway(key))
        elif kind == ROUTE:
            self._report_route(gateways, key)
        else:
            done = self._report_mirrored(gateways, kind, key, mirroring.keep_route(kind, key))
        if done:
            self._queue.succeeded(subject)
        else:
            self._queue.failed(subject)

    # -- one object ---------------------------------------------------------------------------

    def _report_class(self, gateways: ApiGateways, name: str) -> None:
        kept = gateways.classes.get("", name)
        if kept is not None and kept.read.is_ours:
            status = class_status(kept.manifest, gateways.installed, _now())
            try:
                self._write(gateways.classes, kept.manifest, status)
            except PASSING:
                raise
            except ClusterError:
                # Gateway API 1.0 and 1.1 (experimental channel) have another format of features.
                del status["supportedFeatures"]
                self._write(gateways.classes, kept.manifest, status)

    def _report_route(self, gateways: ApiGateways, key: Key) -> None:
        kept = gateways.routes.get(*key)
        if kept is not None:
            reports = self._parents(gateways, kept.read)
            undecided = gateways.undecided_parents(kept.read)
            status = route_status(kept.manifest, reports, _now(), undecided)
            self._write(gateways.routes, kept.manifest, status)

    def _parents(self, gateways: ApiGateways, route: UdpRoute) -> list[ParentReport]:
        backends = gateways.backends(route)
        found = []
        for parent in route.parents:
            gateway = gateways.gateway((parent.namespace, parent.name))
            if gateway is not None and parent.is_gateway(gateway.key):
                attachment = attach(route, parent, gateway, self._caches.labels_of_namespace)
                problem = self._options_problem(route, gateway)
                refused = self._refused_endpoints(backends, gateway)
                found.append(
                    ParentReport(
                        parent,
                        attachment,
                        backends,
                        options_problem=problem,
                        dropped_rules=route.dropped_rules,
                        refused=refused,
                    )
                )
        return found

    def _refused_endpoints(self, backends: Backends, gateway: ApiGateway) -> str | None:
        """Why a Gateway sends nothing to endpoints of a route's backends; "" if it sends to all.

        None until its current request has been decided; then the route is reported again.
        """
        key = exposure_key(gateway.key)
        refused, outcome = self._refused(key), self._outcome(key)
        if refused is None:
            # Nothing is decided about endpoints if the request was rejected before.
            rejected = outcome is not None and outcome.is_about(self._caches.intent(key))
            return "" if rejected else None
        services = dict.fromkeys(each.service for each in backends.backends)
        return "; ".join(
            f"Service {'/'.join(of)}: {summary(refused[of])}" for of in services if of in refused
        )

    def _options_problem(self, route: UdpRoute, gateway: ApiGateway) -> str:
        """Why the annotations of a route do not apply at a Gateway; "" if they do."""
        permission = self._permission(exposure_key(gateway.key))
        return route_options(route, gateway, permission).problem if permission else ""

    def _report_mirrored(self, gateways: ApiGateways, kind: str, key: Key, blocked: str) -> bool:
        """Report on a route of another kind than UDPRoute; return whether it is complete.

        Args:
            gateways: the caches.
            kind, key: the route.
            blocked: why its copy cannot be written; "" if it can.
        """
        cache = gateways.mirrored[kind]
        kept = cache.get(*key)
        parents = gateways.mirrored_parents(kept.read) if kept else ()
        if kept is not None and (parents or kept.reported):
            manifest, clone = kept.manifest, gateways.clone(kind, key)
            controller = gateways.istio_controller()
            copied = gateways.copied_parents(kind, kept.read)
            wanted = route_clone(manifest, copied) if copied else None
            reports = [
                MirrorReport(
                    each.parent, _status_conditions(each, clone, wanted, controller, blocked)
                )
                for each in parents
            ]
            undecided = gateways.undecided_parents(kept.read)
            self._write(cache, manifest, route_status(manifest, reports, _now(), undecided))
        return not blocked

    def _report_gateway(self, gateways: ApiGateways, key: Key, blocked: str) -> bool:
        """Report on a Gateway; return whether it is complete.

        Args:
            gateways: the caches.
            key: the Gateway.
            blocked: why the Gateway of class istio for it cannot be written; "" if it can.
        """
        kept, gateway = gateways.gateways.get(*key), gateways.gateway(key)
        if kept is None or gateway is None or gateway.leaving:
            self._programmer.forget(exposure_key(key))
            if kept is not None and gateway is None and not gateways.is_undecided(key):
                self._write(gateways.gateways, kept.manifest, without_own_condition(kept.manifest))
            return True
        requested = self._caches.intent(exposure_key(key))
        outcome = self._outcome(exposure_key(key))
        problem = _problem(gateway, requested)
        if problem is not None:
            progress, done = self._not_accepted(gateway, problem), True
        elif requested is None and not gateway.udp:
            progress, done = Progress(), True
        elif requested is None or outcome is None or not outcome.is_about(requested):
            # The report is requested again after the next reconciliation. Until then there is
            # nothing to say about this generation, and what was said before may still be true.
            # A Gateway of a class that was just read has no request for a moment.
            return True
        elif problem := self._missing_parameters(gateway, outcome):
            progress, done = self._not_accepted(gateway, problem), True
        else:
            progress, done = self._progress(gateway, outcome, kept.manifest)
        progress = self._mirrored(gateways, gateway, progress, blocked)
        attached = {name: len(routes) for name, routes in gateways.attached(gateway).items()}
        status = gateway_status(kept.manifest, attached, progress, _now())
        self._write(gateways.gateways, kept.manifest, status)
        return done and not blocked

    def _missing_parameters(self, gateway: ApiGateway, outcome: Outcome) -> tuple[str, str] | None:
        """The problem of a parametersRef to a Service or Gateway that does not exist.

        The controller does not read workloads, only the owners of gateway pods.
        """
        named, gateways = gateway.parameters, self._caches.api_gateways
        if named is None or gateways is None or outcome.reason != NO_GATEWAY:
            return None
        caches: dict[str, Cache[Any]] = {
            "Service": self._caches.services,
            "Gateway": gateways.gateways,
        }
        cache = caches.get(named.kind)
        if cache is None or cache.get(gateway.about.namespace, named.name) is not None:
            return None
        place = f"{gateway.about.namespace}/{named.name}"
        return "InvalidParameters", f"{named.kind} {place} does not exist"

    def _write(self, cache: Cache[Any], manifest: Mapping[str, Any], status: Any) -> None:
        """Write a status, if it differs.

        Raises:
            Conflict: the object was modified concurrently.
            NotLeading: this replica does not lead, or not long enough.
        """
        before, metadata = manifest["status"], manifest["metadata"]
        if status == before:
            return
        identity = ("name", "namespace", "resourceVersion")
        gone = {name: None for name in before if name not in status}
        patch = {
            "apiVersion": manifest["apiVersion"],
            "kind": manifest["kind"],
            "metadata": {name: metadata[name] for name in identity if name in metadata},
            "status": {**gone, **status},
        }
        # A deleted object needs no status.
        with suppress(NotFound), self._fence.passing("patch", manifest["kind"]):
            cache.learn(self._api.merge(patch, manager=MANAGER, subresource="status"))

    # -- the progress of a Gateway ------------------------------------------------------------

    def _not_accepted(self, gateway: ApiGateway, problem: Why) -> Progress:
        """The progress of a Gateway with a problem; an exposure that it had before goes on."""
        held = self._caches.existing(exposure_key(gateway.key)).held
        return Progress(problem, addresses=self._addresses(held) if held else ())

    def _progress(
        self, gateway: ApiGateway, outcome: Outcome, manifest: Mapping[str, Any]
    ) -> tuple[Progress, bool]:
        """The progress of a Gateway, and whether it is complete.

        Args:
            gateway: the Gateway.
            outcome: the outcome of what it requests now.
            manifest: it with its status.
        """
        key, before = exposure_key(gateway.key), _programmed_listeners(manifest)
        existing, why = self._caches.existing(key), _why_not(outcome)
        held, unavailable = existing.held, _by_name(gateway, self._unavailable(key))
        addresses = self._addresses(held) if held else ()
        progress = Progress(unavailable=unavailable, addresses=addresses)
        if held is None or not _may_work(outcome) or self._moves(key, outcome):
            self._programmer.forget(key)
            return replace(progress, lacking={each.name: why for each in gateway.udp}), True
        try:
            found = self._programmer.read(existing, held)
        except ClusterError as error:
            why = ("Pending", f"a gateway pod could not be queried: {error.message}")
            rest = {each.name: why for each in gateway.udp if each.name not in before}
            return replace(progress, lacking=rest), False
        unwritten = dict.fromkeys(self._unwritten(gateway, held, outcome, before), why)
        progress = replace(
            progress,
            unavailable={**_by_name(gateway, found.taken), **unavailable},
            lacking={**_by_name(gateway, found.lacking), **unwritten},
        )
        # No event tells when a gateway has the rest, or another listener no longer has a port.
        return progress, not (found.lacking or found.taken)

    def _unwritten(
        self, gateway: ApiGateway, held: ExposureSpec, outcome: Outcome, before: Collection[str]
    ) -> Iterator[str]:
        """The UDP listeners whose port, or the backends of it, are not written yet.

        Args:
            gateway: the Gateway.
            held: its exposure.
            outcome: the outcome of what it requests now.
            before: its listeners that were programmed in this generation: a change of their routes
                does not end that.
        """
        written = {
            port.gateway_port: {each.key for each in port.backends if each.weight}
            for port in held.ports
        }
        unfinished = outcome.state != OK or outcome.again is not None
        gateways = self._caches.api_gateways
        for name, port, backends in gateways.ports(gateway) if gateways else ():
            wanted = {(each.service, each.port) for each in backends.backends if each.weight}
            changing = unfinished and name not in before
            if port not in written or (changing and written[port] != wanted):
                yield name

    def _moves(self, key: Key, outcome: Outcome) -> bool:
        """Whether an exposure is still at a gateway that is not requested any longer."""
        return outcome.state != OK and self._at_former_gateway(key)

    def _mirrored(
        self, gateways: ApiGateways, gateway: ApiGateway, progress: Progress, blocked: str
    ) -> Progress:
        """A Gateway's progress, with that of the Gateway of class istio for it."""
        if not gateways.has_child(gateway):
            return progress
        if blocked and progress.problem is None:
            progress = replace(progress, obstacle=("NoResources", blocked))
        if not gateway.mirrored:
            return progress
        child, unpermitted = gateways.child(gateway.key), gateways.unpermitted(gateway)
        found: Mirror = mirror(child, child_gateway(gateway), blocked, unpermitted)
        addresses = dict.fromkeys((*progress.addresses, *found.addresses))
        return replace(progress, mirror=found, addresses=tuple(addresses))

    def _addresses(self, spec: ExposureSpec) -> tuple[tuple[str, str], ...]:
        """The addresses for an exposure's clients, as types and values of a Gateway's addresses."""
        if spec.options.gateway_service is GatewayServiceMode.NONE:
            gateways = self._caches.gateways_at(spec.gateway)
            found = [pod.ips[0] for g in gateways for pod in g.ready_pods if pod.ips]
        else:
            addresses = addresses_of(self._caches.client_service(spec))
            inside = [addresses.cluster_ip] if addresses.cluster_ip else []
            found = list(addresses.external) or ([] if addresses.pending else inside)
        return tuple((_address_type(each), each) for each in found)


def _status_conditions(
    parent: MirroredParent,
    clone: Mapping[str, Any] | None,
    wanted: Mapping[str, Any] | None,
    controller: str,
    blocked: str,
) -> Sequence[ApiCondition] | None:
    """The conditions of a route at a parent, from its copy; None if istiod has not reported any."""
    if parent.refusal is not None:
        return [ApiCondition(ACCEPTED, False, parent.refusal.reason, parent.refusal.message)]
    if blocked:
        return [ApiCondition(ACCEPTED, None, "Pending", blocked)]
    if parent.copied is None or wanted is None:
        return None
    return parent_conditions(clone, wanted, parent.copied, controller)


def _problem(gateway: ApiGateway, requested: object) -> Why | None:
    """The reason and message of a problem with a Gateway itself; None if there is none.

    Args:
        gateway: the Gateway.
        requested: its intent, or the error from reading it; None without UDP listeners.
    """
    error = not_accepted(gateway, requested)
    if error is None:
        return None
    reasons = {UnsupportedAddress: "UnsupportedAddress", InvalidParameters: "InvalidParameters"}
    return reasons.get(type(error), "Invalid"), "; ".join([error.message, *error.hints[:1]])


def _may_work(outcome: Outcome) -> bool:
    """Whether the gateway may have the configuration that is requested.

    Without NOT_TAKEN: an exposure that may not change, e.g. because of a limit, stays as it was.
    """
    if outcome.reason in (NO_GATEWAY, NOT_TAKEN):
        return False
    return outcome.state in (OK, WAITING, FAILED)


def _programmed_listeners(manifest: Mapping[str, Any]) -> set[str]:
    """The listeners that a Gateway's status reports as programmed in this generation."""
    generation = generation_of(manifest)
    return {
        str(each.get("name"))
        for each in map(as_mapping, as_list(manifest["status"].get("listeners")))
        if current_condition(each, generation, PROGRAMMED).get("status") == "True"
    }


def _by_name(gateway: ApiGateway, by_port: Mapping[int, What]) -> dict[str, What]:
    """What concerns a Gateway's UDP listeners, by the listener's name."""
    return {each.name: by_port[each.port] for each in gateway.udp if each.port in by_port}


def _why_not(outcome: Outcome) -> Why:
    """Why a Gateway is not programmed: reason and message."""
    if outcome.reason == NO_GATEWAY:
        return "NoResources", outcome.message
    if outcome.state == REFUSED or outcome.reason == FORBIDDEN:
        return "Invalid", outcome.message
    # The message of a success is about what the gateway had before.
    message = "" if outcome.state == OK else outcome.message
    return "Pending", message or "the gateway does not have this change yet"


def _address_type(address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return "Hostname"
    return "IPAddress"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
