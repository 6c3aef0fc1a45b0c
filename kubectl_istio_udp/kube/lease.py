"""Leader election with a Lease, as in Kubernetes' own components.

The holder renews the Lease. The other candidates watch it. A candidate takes it when the holder
has released it, or has not renewed it for its duration by the candidate's clock. If two candidates
write at the same time, the resourceVersion decides. The holder stops before another one can begin:
it must renew within `_RENEW_WITHIN`, and a write that `holds` allowed must end within the rest of
the Lease's duration (`connections.within`), however many requests it sends.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.clock import Clock
from kubectl_istio_udp.kube.watch import Cache, Key
from kubectl_istio_udp.model.errors import Conflict, IstioUdpError, Unreachable
from kubectl_istio_udp.model.names import MANAGER

# Seconds; the defaults of client-go's leaderelection.
DURATION_SECONDS = 15
_RENEW_WITHIN = 10.0
_RENEW_EVERY = 5.0
_RETRY = 1.0
_log = logging.getLogger(__name__)


class Election:
    """One candidate for a Lease, in a thread.

    Attributes:
        identity: this candidate's name.
        holder: the Lease's current holder, as last seen.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        *,
        began: Callable[[], None],
        ended: Callable[[], None],
        connection_suspect: Callable[[], None],
        clock: Clock,
    ) -> None:
        """Prepare the election; `start` begins it.

        Args:
            api: the cluster; its requests must time out within five seconds
                (DURATION_SECONDS - _RENEW_WITHIN).
            namespace, name: the Lease; it is created if it is missing.
            identity: this candidate's unique name.
            began, ended: called in the election's thread when this candidate starts and stops
                holding the Lease.
            connection_suspect: called in the election's thread when the server did not answer, or
                returned a newer Lease than the watch: other watches may have stalled too.
            clock: the time.
        """
        self.identity = identity
        self._api, self._namespace, self._name = api, namespace, name
        self._began, self._ended, self._connection_suspect = began, ended, connection_suspect
        self._clock = clock
        self._until = 0.0
        self._leading = False
        self._stopping = False
        self._seen: Mapping[str, Any] | None = None
        self._seen_at = self._clock()
        self._wakeup = threading.Condition()
        self._cache: Cache[Mapping[str, Any]] = Cache(
            api,
            "Lease",
            namespace=namespace,
            field_selector=f"metadata.name={name}",
            keep=lambda manifest: manifest,
            changed=self._changed,
        )
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)

    def start(self) -> None:
        """Start the election's thread."""
        self._cache.start()
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Release the Lease, so that another candidate can take it immediately; end the thread.

        Args:
            seconds: how long to wait for the thread's end; a request may be in progress.
        """
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify()
        self._thread.join(seconds)
        self._cache.stop()

    @property
    def alive(self) -> bool:
        """Whether the election's thread runs."""
        return self._thread.is_alive() and self._cache.alive

    @property
    def holder(self) -> str:
        """The Lease's holder, "" for none."""
        return _holder(self._seen)

    @property
    def secret(self) -> str:
        """The Lease's uid, known only to those who may read the Lease; "" if there is no Lease."""
        return lease_secret(self._seen)

    def holds(self) -> bool:
        """Whether a write may begin: it will end before another candidate can take the Lease."""
        return self._leading and self._clock() < self._until

    def _changed(
        self, _key: Key, _before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
    ) -> None:
        with self._wakeup:
            self._see(now)
            self._wakeup.notify()

    def _see(self, lease: Mapping[str, Any] | None) -> None:
        self._seen, self._seen_at = lease, self._clock()

    def _run(self) -> None:
        self._cache.wait_synced(DURATION_SECONDS)
        while not self._stopping:
            try:
                wait = self._turn()
            except IstioUdpError as error:
                _log.warning("the lease could not be written: %s", error.message)
                if isinstance(error, (Unreachable, Conflict)):
                    self._cache.reconnect()
                    self._connection_suspect()
                self._read_again()
                wait = random.uniform(_RETRY / 2, _RETRY)
            if self._leading and not self.holds():
                self._end("the lease could not be renewed in time")
            with self._wakeup:
                if not self._stopping and wait > 0:
                    self._clock.wait(self._wakeup, wait)
        if self._leading:
            self._end("stopped")
            self._give_up()

    def _turn(self) -> float:
        """Renew or take the Lease if it is time; return the seconds until the next turn."""
        if self._leading:
            left = self._until - _RENEW_WITHIN + _RENEW_EVERY - self._clock()
            if left > 0:
                return left
            self._write(self._seen)
            return _RENEW_EVERY
        if not self._cache.synced:
            return _RETRY
        left = self._free_in()
        if left > 0:
            return left
        self._write(self._seen)
        self._leading = True
        _log.info("leading", extra={"identity": self.identity})
        self._began()
        return _RENEW_EVERY

    def _free_in(self) -> float:
        """Seconds until this candidate may take the Lease, by this process's monotonic clock."""
        holder = _holder(self._seen)
        if not holder or holder == self.identity:
            return 0.0
        spec = (self._seen or {}).get("spec") or {}
        duration = float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)
        return self._seen_at + duration - self._clock()

    def _write(self, seen: Mapping[str, Any] | None) -> None:
        """Take or renew the Lease, unless it was modified since this candidate read it."""
        begun = self._clock()
        former = (seen or {}).get("spec") or {}
        holds = former.get("holderIdentity") == self.identity
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": former.get("acquireTime") if holds else now,
            "renewTime": now,
            "leaseTransitions": (former.get("leaseTransitions") or 0) + (0 if holds else 1),
        }
        self._store(seen, spec)
        self._until = begun + _RENEW_WITHIN

    def _store(self, seen: Mapping[str, Any] | None, spec: Mapping[str, Any]) -> None:
        metadata = {"name": self._name, "namespace": self._namespace}
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
        if seen is None:
            written = self._api.create({**lease, "metadata": metadata}, manager=MANAGER)
        else:
            written = self._api.update({**lease, "metadata": seen["metadata"]}, manager=MANAGER)
        with self._wakeup:
            self._see(written)

    def _read_again(self) -> None:
        """Read the Lease after a failed write, because the watch may be behind."""
        try:
            found = self._api.find("Lease", self._namespace, self._name)
        except IstioUdpError:
            return
        with self._wakeup:
            if _version(found) != _version(self._seen):
                self._see(found)

    def _give_up(self) -> None:
        """Release the Lease, so that others do not have to wait."""
        spec = dict((self._seen or {}).get("spec") or {})
        if spec.get("holderIdentity") != self.identity:
            return
        try:
            self._store(self._seen, {**spec, "holderIdentity": "", "leaseDurationSeconds": 1})
        except IstioUdpError as error:
            _log.warning("the lease could not be released: %s", error.message)

    def _end(self, why: str) -> None:
        self._leading = False
        _log.info("no longer leading: %s", why, extra={"identity": self.identity})
        self._ended()


def lease_secret(lease: Mapping[str, Any] | None) -> str:
    """The uid of a Lease, which the API server chose at random; "" for no Lease."""
    return str(((lease or {}).get("metadata") or {}).get("uid") or "")


def _holder(lease: Mapping[str, Any] | None) -> str:
    return str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")


def _version(lease: Mapping[str, Any] | None) -> str:
    return str(((lease or {}).get("metadata") or {}).get("resourceVersion") or "")
