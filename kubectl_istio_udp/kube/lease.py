"""Leader election on a Lease, as Kubernetes' own components do it.

Whoever holds the Lease renews it; whoever waits watches it, and takes it when it has been given
up, or not been renewed for its duration by the waiter's own clock. A write with the resourceVersion
that was read decides between two who try at once. The holder stops before the others may begin: it
must renew within `_RENEW_WITHIN`, and no request of its may last longer than what is left till the
end.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import Cache, Key
from kubectl_istio_udp.model.errors import Conflict, IstioUdpError, Unreachable
from kubectl_istio_udp.model.names import MANAGER

# client-go's usual figures (leaderelection's documentation).
DURATION_SECONDS = 15
_RENEW_WITHIN = 10.0
_RENEW_EVERY = 5.0
_RETRY = 1.0
_log = logging.getLogger(__name__)


class Election:
    """One candidate for a Lease, in a thread of its own.

    Attributes:
        identity: this candidate's name.
        holder: who holds the Lease, as last heard of.
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
        doubted: Callable[[], None],
    ) -> None:
        """Say for which Lease, and what to call.

        Args:
            api: the cluster; its requests must time out within five seconds.
            namespace, name: the Lease, made where it is missing.
            identity: this candidate's name, which no other has.
            began, ended: called, in the election's thread, when it begins and ends to hold it.
            doubted: called there when the server did not answer, or knew of a Lease that its watch
                had not told of: other watches may have gone silent too.
        """
        self.identity = identity
        self._api, self._namespace, self._name = api, namespace, name
        self._began, self._ended, self._doubted = began, ended, doubted
        self._until = 0.0
        self._leading = False
        self._stopping = False
        self._seen: Mapping[str, Any] | None = None
        self._seen_at = time.monotonic()
        self._stirred = threading.Condition()
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
        """Stand for election from now on."""
        self._cache.start()
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Give the Lease up, if it is held, so that another takes it at once; and end."""
        with self._stirred:
            self._stopping = True
            self._stirred.notify()
        self._thread.join(seconds)
        self._cache.stop()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive() and self._cache.alive

    @property
    def holder(self) -> str:
        """Who holds the Lease, "" where nobody does."""
        return _holder(self._seen)

    @property
    def secret(self) -> str:
        """What only those who may read the Lease know: its uid; "" where there is no Lease."""
        return lease_secret(self._seen)

    def holds(self) -> bool:
        """Whether a write may begin now: nobody else can hold the Lease before it has ended."""
        return self._leading and time.monotonic() < self._until

    def _changed(
        self, _key: Key, _before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
    ) -> None:
        with self._stirred:
            self._see(now)
            self._stirred.notify()

    def _see(self, lease: Mapping[str, Any] | None) -> None:
        self._seen, self._seen_at = lease, time.monotonic()

    def _run(self) -> None:
        self._cache.wait_synced(DURATION_SECONDS)
        while not self._stopping:
            try:
                wait = self._turn()
            except IstioUdpError as error:
                _log.warning("the lease could not be written: %s", error.message)
                if isinstance(error, (Unreachable, Conflict)):
                    self._cache.reconnect()
                    self._doubted()
                self._read_again()
                wait = random.uniform(_RETRY / 2, _RETRY)
            if self._leading and not self.holds():
                self._end("the lease could not be renewed in time")
            with self._stirred:
                if not self._stopping and wait > 0:
                    self._stirred.wait(wait)
        if self._leading:
            self._end("told to end")
            self._give_up()

    def _turn(self) -> float:
        """Renew, take, or wait; the seconds until it is to be done again."""
        if self._leading:
            left = self._until - _RENEW_WITHIN + _RENEW_EVERY - time.monotonic()
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
        """Seconds until the Lease may be taken, by this process's own clock."""
        holder = _holder(self._seen)
        if not holder or holder == self.identity:
            return 0.0
        spec = (self._seen or {}).get("spec") or {}
        duration = float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)
        return self._seen_at + duration - time.monotonic()

    def _write(self, seen: Mapping[str, Any] | None) -> None:
        """Hold it from now on, if it is still as seen."""
        begun = time.monotonic()
        former = (seen or {}).get("spec") or {}
        mine = former.get("holderIdentity") == self.identity
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": former.get("acquireTime") if mine else now,
            "renewTime": now,
            "leaseTransitions": (former.get("leaseTransitions") or 0) + (0 if mine else 1),
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
        with self._stirred:
            self._see(written)

    def _read_again(self) -> None:
        """After a refused write: what was seen may be old."""
        try:
            found = self._api.find("Lease", self._namespace, self._name)
        except IstioUdpError:
            return
        with self._stirred:
            if _version(found) != _version(self._seen):
                self._see(found)

    def _give_up(self) -> None:
        """Let others take it without waiting."""
        spec = dict((self._seen or {}).get("spec") or {})
        if spec.get("holderIdentity") != self.identity:
            return
        try:
            self._store(self._seen, {**spec, "holderIdentity": "", "leaseDurationSeconds": 1})
        except IstioUdpError as error:
            _log.warning("the lease could not be given up: %s", error.message)

    def _end(self, why: str) -> None:
        self._leading = False
        _log.info("leading no more: %s", why, extra={"identity": self.identity})
        self._ended()


def lease_secret(lease: Mapping[str, Any] | None) -> str:
    """The uid of a Lease, which the API server chose at random; "" for no Lease."""
    return str(((lease or {}).get("metadata") or {}).get("uid") or "")


def _holder(lease: Mapping[str, Any] | None) -> str:
    return str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")


def _version(lease: Mapping[str, Any] | None) -> str:
    return str(((lease or {}).get("metadata") or {}).get("resourceVersion") or "")
