"""The running controller: watches, leader election, workers, and its status."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kubectl_istio_udp.controller.changes import Changes
from kubectl_istio_udp.controller.events import EventWriter
from kubectl_istio_udp.controller.health import HealthServer
from kubectl_istio_udp.controller.metrics import Metrics
from kubectl_istio_udp.controller.outcome import DELETING, FAILED, GONE, STATES, WAITING, Outcome
from kubectl_istio_udp.controller.queue import WorkQueue
from kubectl_istio_udp.controller.reconcile import Reconciler
from kubectl_istio_udp.controller.reporting import Reporter
from kubectl_istio_udp.controller.waits import Timing
from kubectl_istio_udp.controller.writing import REQUEST_SECONDS, Fence, NotLeading
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.clock import Clock
from kubectl_istio_udp.kube.lease import Election
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.errors import Busy, Conflict, IstioUdpError, Unreachable
from kubectl_istio_udp.model.reasons import NOT_TAKEN, NOT_WRITTEN
from kubectl_istio_udp.render.controller import LEASE
from kubectl_istio_udp.state.apigateways import RouteWatch, Subject
from kubectl_istio_udp.state.caches import Caches

# Temporary errors: they are retried, and only reported after this many failures in a row.
_TOLD_FAILURES = 5
_EVENT_RETRY_SECONDS = 30.0
_PASSING = (Unreachable, Busy, Conflict, NotLeading)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The settings of a running controller.

    Attributes:
        identity: the unique name of this replica.
        namespace: the namespace of its Lease.
        gateway_namespaces: the namespaces with gateways.
        root_namespaces: the meshes' root namespaces, whose EnvoyFilters apply to every proxy.
        mesh_configs: (namespace, name) of each ConfigMap with mesh settings.
        file_limit: the open-file limit of the gateways' Envoys.
        allow_all: whether every namespace may expose every port.
        defaults: defaults for settings that Namespaces do not set, by setting name.
        gateway_api: whether to serve Gateways and UDPRoutes of the Gateway API.
        elect: whether to use leader election; False for a single replica.
        workers: how many exposures are reconciled at the same time.
        port: the port for health and metrics; 0 for any free one, None for none.
        timing: the waits and intervals.
    """

    identity: str
    namespace: str
    gateway_namespaces: tuple[str, ...]
    root_namespaces: tuple[str, ...]
    file_limit: int
    allow_all: bool = False
    defaults: Mapping[str, str] = field(default_factory=dict)
    mesh_configs: tuple[Key, ...] = ()
    gateway_api: bool = False
    elect: bool = True
    workers: int = 16
    port: int | None = 8080
    timing: Timing = field(default_factory=Timing)


class Controller:
    """One replica: call `start`, `wait` until it ends, then `stop`."""

    def __init__(self, api: Api, settings: Settings, clock: Clock | None = None) -> None:
        """Create the parts; no request is sent yet.

        Args:
            api: the cluster.
            settings: the settings.
            clock: the clock; None for this machine's.
        """
        clock = clock or Clock()
        self._api, self._settings = api, settings
        self.metrics = Metrics()
        self._changes = Changes()
        self._queue: WorkQueue[Key] = WorkQueue(
            clock,
            group=self._turn,
            at_once=max(1, settings.workers * 3 // 4),
            # What waited is the next step of a whole exposure; only its endpoints may have
            # changed since.
            due=self._changes.anything,
        )
        self._outcomes: dict[Key, Outcome] = {}
        # Exposures that wait for a name, sessions or memory, and those that wait for an older one.
        self._waiting_for_capacity: set[Key] = set()
        self._waiting_for_older: dict[Key, set[Key]] = {}
        self._events = EventWriter(api, settings.identity, lambda: self._election.secret, clock)
        self._ended = threading.Event()
        self._leading = threading.Event()
        self._changing = threading.Lock()
        # Per worker: whether its current reconciliation has written anything.
        self._writing = threading.local()
        self.caches = Caches(
            api,
            settings.gateway_namespaces,
            settings.root_namespaces,
            settings.mesh_configs,
            enqueue=self._enqueue,
            endpoints_changed=self._endpoints_changed,
            may_enqueue=self._leading.is_set,
            footprint_changed=self._footprint_changed,
            routes=RouteWatch(self._report, settings.timing.installed)
            if settings.gateway_api
            else None,
        )
        self._reconciler = Reconciler(
            api,
            self.caches,
            file_limit=settings.file_limit,
            allow_all=settings.allow_all,
            defaults=settings.defaults,
            may_take=self._may_take,
            fence=Fence(may_write=self._may_write, wrote=self._wrote),
            freed=lambda footprint: self._footprint_changed(footprint, None),
            clock=clock,
            timing=settings.timing,
        )
        self._reporter = Reporter(
            api,
            self.caches,
            outcome=self._outcomes.get,
            unavailable=self._reconciler.unavailable,
            at_former_gateway=self._reconciler.is_at_former_gateway,
            refused=self._reconciler.refused,
            permission=self._reconciler.permission,
            leads=self._leading.is_set,
            fence=Fence(
                may_write=self._may_write,
                wrote=lambda verb, kind: self.metrics.writes.labels(verb, kind).inc(),
            ),
            clock=clock,
        )
        self._election = Election(
            api,
            settings.namespace,
            LEASE,
            settings.identity,
            began=self._elect,
            ended=self._pause,
            connection_suspect=self._reconnect_watches,
            clock=clock,
        )
        self._workers = [
            threading.Thread(target=self._work, name=f"worker {number}", daemon=True)
            for number in range(settings.workers)
        ]
        self.health = HealthServer(settings.port, self.metrics.text, self.why_unhealthy, self.ready)
        self._describe()

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the watches, the leader election, and work when elected."""
        self.health.start()
        for cache in self.caches.all:
            cache.start()
        for worker in self._workers:
            worker.start()
        if self._settings.gateway_api:
            self._reporter.start()
        if self._settings.elect:
            self._election.start()
        else:
            self._elect()

    def stop(self) -> None:
        """Finish current writes, release the Lease, and end."""
        self._leading.clear()
        self._ended.set()
        self._queue.end()
        for worker in self._workers:
            if worker.is_alive():
                worker.join(REQUEST_SECONDS)
        self._reporter.stop(REQUEST_SECONDS)
        if self._settings.elect:
            self._election.stop()
        for cache in self.caches.all:
            cache.stop()
        self.health.stop()

    def _elect(self) -> None:
        """This replica leads; runs outside the election's thread, which must renew the Lease."""
        threading.Thread(target=self._begin, name="begin", daemon=True).start()

    def _begin(self) -> None:
        """Queue all exposures, when the caches are complete."""
        for cache in self.caches.all:
            while not cache.wait_synced(1.0):
                if self._ended.is_set() or not self._elected():
                    return
        with self._changing:
            if self._ended.is_set() or not self._elected():
                return
            self._leading.set()
            self._outcomes.clear()
            self._waiting_for_capacity.clear()
            self._waiting_for_older.clear()
            self._reconciler.begin()
            self._events.begin()
            self._queue.open()
            self._reporter.lead()
        # Changes that the caches receive from here on are queued as they come.
        everything = self.caches.exposures()
        _log.info("reconciling %d exposures", len(everything))
        for key in everything:
            self._add(key)

    def _pause(self) -> None:
        with self._changing:
            self._leading.clear()
            self._queue.close()
            self._reporter.pause()

    def _reconnect_watches(self) -> None:
        for cache in self.caches.all:
            cache.reconnect()

    def _elected(self) -> bool:
        return not self._settings.elect or self._election.holds()

    def _may_write(self) -> bool:
        return self._leading.is_set() and self._elected()

    # -- queueing -----------------------------------------------------------------------------

    def _enqueue(self, key: Key) -> None:
        if self._leading.is_set():
            self._add(key)

    def _endpoints_changed(self, key: Key, service: Key) -> None:
        if self._leading.is_set():
            self._changes.endpoints(key, service)
            self._queue.add(key)

    def _add(self, key: Key) -> None:
        """Queue an exposure, to be reconciled as a whole."""
        self._changes.anything(key)
        self._queue.add(key)

    def _report(self, subject: Subject) -> None:
        self._reporter.request(subject)

    def _turn(self, key: Key) -> str:
        """The group of a key: its namespace; "" for all namespaces without permission.

        So hundreds of namespaces without permission share the turns of one.
        """
        namespace = key[0]
        everybody = self._settings.allow_all or "allow" in self._settings.defaults
        return namespace if everybody or self.caches.may_expose(namespace) else ""

    def _footprint_changed(
        self, before: Footprint | None, now: Footprint | None, planned_by: Key | None = None
    ) -> None:
        """An EnvoyFilter changed: queue those that wait for what it had."""
        if not self._leading.is_set():
            return
        ports = {port for footprint in (before, now) if footprint for port in footprint.udp_ports}
        for _, key in self.caches.requests_for(ports):
            if key != planned_by:
                self._add(key)
        if before is not None:
            for key in tuple(self._waiting_for_capacity):
                self._add(key)

    def _may_take(self, key: Key) -> bool:
        """Whether an intent may still get what it requests.

        It may if it has no outcome, is queued, or leaves one gateway to be at another one.
        """
        outcome = self._outcomes.get(key)
        if outcome is None or self._queue.pending(key):
            return True
        return outcome.state == FAILED or (
            outcome.state in (WAITING, DELETING) and not outcome.reason
        )

    # -- work ---------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._ended.is_set():
            taken = self._queue.take(1.0)
            if taken is None:
                continue
            key, since = taken
            try:
                self._process(key, since)
            finally:
                self._queue.done(key)
                self._wake(key)

    def _wake(self, key: Key) -> None:
        """Queue those that wait for this exposure."""
        with self._changing:
            younger = self._waiting_for_older.pop(key, set())
        for each in younger:
            self._add(each)

    def _process(self, key: Key, since: float) -> None:
        """Reconcile one exposure; an error does not affect others."""
        begun = time.monotonic()
        self._writing.done = False
        requested = None
        try:
            refreshed = self._refreshed(key)
            if refreshed is None:
                requested = self.caches.intent(key)
            outcome = refreshed or self._reconciler.reconcile(key, requested)
        except NotLeading:
            # A late renewal may still succeed; if it does not, the queue is emptied.
            self._queue.failed(key)
            return
        except IstioUdpError as error:
            outcome = Outcome(FAILED, NOT_WRITTEN, error.message).about(requested)
            wait = self._queue.failed(key, error)
            self.metrics.errors.labels(type(error).__name__).inc()
            _log.warning(
                "write failed, will retry: %s", error.message, extra={"key": key, "wait": wait}
            )
            if isinstance(error, _PASSING) and self._queue.failures(key) < _TOLD_FAILURES:
                self._outcomes[key] = outcome
                return
        except Exception as error:
            text = "internal error; the controller's log has more"
            outcome = Outcome(FAILED, NOT_WRITTEN, text).about(requested)
            wait = self._queue.failed(key)
            self.metrics.errors.labels("InternalError").inc()
            _log.exception("internal error: %r", error, extra={"key": key, "wait": wait})
        else:
            # A key that waits for its turn at the gateway may be about to fail again.
            if outcome.state != WAITING:
                self._queue.succeeded(key)
        now = time.monotonic()
        self.metrics.duration.observe(now - begun)
        if self._writing.done and outcome.state != FAILED:
            self.metrics.latency.observe(now - since)
        self.metrics.reconciles.labels(outcome.state or "gone").inc()
        self._note(key, outcome)

    def _refreshed(self, key: Key) -> Outcome | None:
        """Update an exposure if only endpoints changed; None if it must be reconciled."""
        services, before = self._changes.take(key), self._outcomes.get(key)
        if not services or before is None or not before.is_settled:
            return None
        left = self._reconciler.refresh(key, services)
        if left:
            self._queue.add_later(key, left)
        return before if left is not None else None

    def _wrote(self, verb: str, kind: str) -> None:
        self._writing.done = True
        self.metrics.writes.labels(verb, kind).inc()

    def _note(self, key: Key, outcome: Outcome) -> None:
        before = self._outcomes.get(key)
        if outcome.again is not None:
            self._queue.add_later(key, outcome.again)
        if outcome.state == GONE:
            self._outcomes.pop(key, None)
            self._events.forget(key)
        else:
            self._outcomes[key] = outcome
        if outcome.state == WAITING and outcome.reason == NOT_TAKEN:
            self._waiting_for_capacity.add(key)
        else:
            self._waiting_for_capacity.discard(key)
        if outcome.after is not None:
            with self._changing:
                self._waiting_for_older.setdefault(outcome.after, set()).add(key)
            if not self._may_take(outcome.after):
                # It was reconciled meanwhile.
                self._wake(outcome.after)
        if before != outcome and outcome.message:
            message = outcome.detail or outcome.message
            values = [finding.to_data() for finding in outcome.findings]
            extra = {"key": key, "state": outcome.state}
            _log.info(message, extra={**extra, "findings": values} if values else extra)
        self._write_event(key, outcome)
        if outcome is not before and (gateway := self.caches.gateway_of(key)):
            self._reporter.request_gateway(gateway.key)
            if outcome != before:
                self._reporter.request_routes(gateway.key)

    def _write_event(self, key: Key, outcome: Outcome) -> None:
        """Write the Event of an outcome, now or as soon as the budget allows."""
        about = self._reconciler.about(key)
        if not outcome.reason or about is None:
            return
        try:
            again = self._events.write(key, about, outcome)
        except IstioUdpError as error:
            again = _EVENT_RETRY_SECONDS
            _log.warning("could not write an Event: %s", error.message, extra={"key": key})
        if again is not None:
            self._queue.add_later(key, again)

    # -- status and metrics -------------------------------------------------------------------

    def why_unhealthy(self) -> str:
        """Why this replica needs a restart; "" if it does not."""
        workers = [*self._workers, *(self._reporter.workers if self._settings.gateway_api else ())]
        threads = [worker.name for worker in workers if not worker.is_alive()]
        threads += [f"watch {cache.kind}" for cache in self.caches.all if not cache.alive]
        if self._settings.elect and not self._election.alive:
            threads.append("election")
        return f"threads stopped: {', '.join(threads)}" if threads else ""

    def ready(self) -> bool:
        """Whether all initial lists are complete, so that this replica could lead."""
        return all(cache.synced for cache in self.caches.all)

    def states(self) -> Counter[str]:
        """The number of exposures in each state."""
        return Counter(outcome.state for outcome in tuple(self._outcomes.values()))

    def outcomes(self) -> Iterable[tuple[Key, Outcome]]:
        """The outcome of each exposure."""
        return tuple(self._outcomes.items())

    def _describe(self) -> None:
        metrics = self.metrics
        metrics.gauge("queue_depth", "Exposures that wait for a worker.", lambda: len(self._queue))
        metrics.gauge("leading", "Whether this replica leads.", self._leading.is_set)
        metrics.gauge(
            "watch_failures",
            "Watches that broke.",
            lambda: sum(cache.failures for cache in self.caches.all),
        )
        metrics.states(STATES, lambda state: self.states()[state])
