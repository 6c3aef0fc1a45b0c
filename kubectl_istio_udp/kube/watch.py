"""A kind's objects, kept as they are in the cluster: listed once, then watched.

The list gives a version, the watch goes on from there. A version that is too old (410) means list
again; silence and broken connections mean watch again from the last version seen; every failure
waits longer than the one before, by chance, so that many clients of a server that comes back do not
come at once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from kubectl_istio_udp.kube.client import Api, PageTooLong, Watch
from kubectl_istio_udp.model.errors import Busy, Expired, IstioUdpError
from kubectl_istio_udp.model.names import namespaced_name

Kept = TypeVar("Kept")
Key = tuple[str, str]

# The server ends each watch by itself after so long; by chance, so that not all come back at once.
# One that does not do so has hung; who asks it something else knows sooner (`reconnect`). Bookmarks
# are no sign of life: none came in 90 s of quiet (measured). A connection whose other end has gone
# is noticed by its keepalive.
_WATCH_SECONDS = (240.0, 480.0)
_GRACE_SECONDS = 15.0
# Whoever may create objects decides how long they are: pages are bounded in bytes. All kinds are
# listed at the same time, and a page takes several times its length while it is read.
_MOST_A_PAGE, _PAGE_BYTES = 500, 2_000_000
_SHORT_SECONDS = 1.0
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0
_log = logging.getLogger(__name__)


class Backoff:
    """How long to wait after each failure: longer each time, by chance, until one succeeds.

    Attributes:
        failures: how many there were since the last success.
    """

    def __init__(self, first: float = _FIRST_WAIT, longest: float = _LONGEST_WAIT) -> None:
        """Take the bounds of the waits, in seconds."""
        self._first, self._longest = first, longest
        self.failures = 0

    def succeeded(self) -> None:
        """Begin anew."""
        self.failures = 0

    def seconds(self, error: BaseException | None = None) -> float:
        """How long to wait now; at least what the server asks for, within bounds."""
        # A power beyond 2**30 would be no float in the end, and is far over any bound.
        ceiling = min(self._longest, self._first * 2 ** min(self.failures, 30))
        self.failures += 1
        asked = (error.retry_after or 0.0) if isinstance(error, Busy) else 0.0
        return max(random.uniform(ceiling / 2, ceiling), min(asked, self._longest))


class Cache(Generic[Kept]):
    """The objects of a kind, as last heard of. Readable from every thread.

    Attributes:
        kind, namespace: what it holds; None holds those of all namespaces.
        failures: how often watching failed.
    """

    def __init__(
        self,
        api: Api,
        kind: str,
        *,
        keep: Callable[[Mapping[str, Any]], Kept | None],
        changed: Callable[[Key, Kept | None, Kept | None], None],
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        """Say what to hold.

        Args:
            api: the cluster.
            kind: e.g. `Pod`.
            keep: what of a manifest is kept; None where nothing of it is.
            changed: called with name, what was kept and what is now (None for nothing), where these
                differ; by one thread at a time.
            namespace, label_selector, field_selector: which objects.
        """
        self.kind, self.namespace = kind, namespace
        self._api, self._keep, self._changed = api, keep, changed
        self._selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._objects: dict[Key, Kept] = {}
        self._versions: dict[Key, int] = {}
        self._lock = threading.RLock()
        self._synced = threading.Event()
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        where = namespace or "all namespaces"
        self._thread = threading.Thread(
            target=self._run, name=f"watch {kind} in {where}", daemon=True
        )
        self.failures = 0
        self._version = ""

    # -- reading ------------------------------------------------------------------------------

    def get(self, namespace: str, name: str) -> Kept | None:
        """One object; None where there is none."""
        return self._objects.get((namespace, name))

    def values(self) -> tuple[Kept, ...]:
        """All of them."""
        return tuple(self._objects.values())

    @property
    def synced(self) -> bool:
        """Whether the first list is complete."""
        return self._synced.is_set()

    @property
    def alive(self) -> bool:
        """Whether somebody still watches."""
        return self._thread.is_alive()

    def wait_synced(self, seconds: float) -> bool:
        """Wait for the first list; whether it came."""
        return self._synced.wait(seconds)

    # -- being kept up to date ----------------------------------------------------------------

    def start(self) -> None:
        """List and watch from now on, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End it, soon."""
        self._stopping.set()
        self.reconnect()

    def reconnect(self) -> None:
        """Watch anew, from the last version seen: a connection that says nothing may be dead.

        A server that has hung answers the kernel's keepalive, and looks as if all were quiet.
        """
        if self._watch is not None:
            self._watch.stop()

    def _run(self) -> None:
        backoff = Backoff()
        version = ""
        while not self._stopping.is_set():
            try:
                if not version:
                    version = self._list()
                    backoff.succeeded()
                version = self._follow(version, backoff)
            except Expired:
                _log.info("a version is no longer kept: listing again", extra={"kind": self.kind})
                version = ""
                self._stopping.wait(backoff.seconds())
            except IstioUdpError as error:
                if self._stopping.is_set():
                    return
                self.failures += 1
                version = self._version or version
                wait = backoff.seconds(error)
                _log.warning(
                    "watching failed: %s", error.message, extra={"kind": self.kind, "wait": wait}
                )
                self._stopping.wait(wait)
            except Exception:
                # The thread goes on, whatever it met: without it every change is missed.
                self.failures += 1
                version = ""
                _log.exception("watching failed", extra={"kind": self.kind})
                self._stopping.wait(backoff.seconds())

    def _list(self) -> str:
        """Take the whole list; what it does not have any more is gone. Its version."""
        found: set[Key] = set()
        continue_, limit = "", _MOST_A_PAGE
        while True:
            try:
                page = self._api.list_page(
                    self.kind,
                    self.namespace,
                    limit=limit,
                    continue_=continue_,
                    most_bytes=_PAGE_BYTES,
                    **self._selectors,
                )
            except PageTooLong:
                limit = max(1, limit // 4)
                continue
            for manifest in page.items:
                found.add(namespaced_name(manifest))
                self.learn(manifest)
            continue_ = page.continue_
            if not continue_:
                break
            # Three quarters of what would fit, if the next ones are as long.
            fitting = 3 * _PAGE_BYTES * len(page.items) // (4 * max(1, page.size))
            limit = max(1, min(_MOST_A_PAGE, 2 * limit, fitting))
        for key in [key for key in tuple(self._objects) if key not in found]:
            self._put(key, None, _number(page.version))
        self._version = page.version
        self._synced.set()
        return page.version

    def _follow(self, version: str, backoff: Backoff) -> str:
        """Watch until the server ends it; the last version seen."""
        self._version = version
        seconds = random.uniform(*_WATCH_SECONDS)
        self._watch = self._api.watch(
            self.kind,
            self.namespace,
            version,
            seconds=seconds,
            silence=seconds + _GRACE_SECONDS,
            **self._selectors,
        )
        if self._stopping.is_set():
            self._watch.stop()
        begun = time.monotonic()
        for event, manifest in self._watch:
            self._version = manifest["metadata"]["resourceVersion"]
            if event == "DELETED":
                self._put(namespaced_name(manifest), None, _number(self._version))
            elif event != "BOOKMARK":
                self.learn(manifest)
            backoff.succeeded()
        if time.monotonic() - begun < _SHORT_SECONDS:
            # Something in between that ends every watch at once must not be asked without pause.
            self._stopping.wait(backoff.seconds())
        return self._version

    def learn(self, manifest: Mapping[str, Any]) -> None:
        """Take an object as it is now: from a watch, or as the answer to a write of our own.

        What is older than what is held, or the same (the echo of a write), is passed over.
        """
        key, version = (
            namespaced_name(manifest),
            _number(manifest["metadata"].get("resourceVersion")),
        )
        if 0 < version <= self._versions.get(key, 0):
            return
        try:
            kept = self._keep(manifest)
        except Exception as error:  # One odd object must not hide all others, whatever it raises.
            self._odd("an object cannot be read", key, error)
            kept = None
        self._put(key, kept, version)

    def forget(self, namespace: str, name: str) -> None:
        """Take an object as gone: what a deletion of our own says, before the watch does."""
        with self._lock:
            self._put((namespace, name), None, self._versions.get((namespace, name), 0))

    def _put(self, key: Key, now: Kept | None, version: int) -> None:
        with self._lock:
            if version < self._versions.get(key, 0):
                return
            before = self._objects.get(key)
            if now is None:
                self._objects.pop(key, None)
                self._versions.pop(key, None)
            else:
                self._objects[key] = now
                self._versions[key] = version
            if before == now:
                return
            try:
                self._changed(key, before, now)
            except Exception as error:  # Nor may it end the watch of all others.
                self._odd("what follows from an object failed", key, error)

    def _odd(self, what: str, key: Key, error: Exception) -> None:
        _log.warning("%s: %.200r", what, error, extra={"kind": self.kind, "object": "/".join(key)})


def _number(version: str | None) -> int:
    """A resourceVersion as a number, which it is since Kubernetes 1.35 and was for etcd always."""
    return int(version) if version and version.isdigit() else 0
