"""A cache of a kind's objects: listed once, then updated by a watch.

The watch starts from the list's resourceVersion. If the version is too old (410), the cache lists
again. After silence or a broken connection, it watches again from the last version that it saw.
The wait after each failure is longer than the last one and has jitter, so that clients of a
restarted server do not all reconnect at the same time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from kubectl_istio_udp.kube.client import Api, PageTooLong, Watch
from kubectl_istio_udp.model.errors import Busy, Expired, Forbidden, IstioUdpError, NotInstalled
from kubectl_istio_udp.model.names import namespaced_name

Kept = TypeVar("Kept")
Key = tuple[str, str]

# The server ends each watch after a random time in this range (seconds), so that not all watches
# reconnect at the same time. A server that does not end it has hung; a failed request may show that
# sooner (`reconnect`). Bookmarks do not show that a watch is alive: none came in 90 s without
# changes (measured). TCP keepalive finds dead connections.
_WATCH_SECONDS = (240.0, 480.0)
_GRACE_SECONDS = 15.0
# Tenants decide how long their objects are, so pages have a limit in bytes. All kinds are listed at
# the same time, and parsing a page needs several times its length in memory.
_MOST_A_PAGE, _PAGE_BYTES = 500, 2_000_000
_SHORT_SECONDS = 1.0
# What the objects of one namespace may need in a cache that weighs them, in bytes.
NAMESPACE_BYTES = 8_000_000
# More than the number of writes that can be in progress at the same time.
_DELETIONS_KEPT = 256
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0
_log = logging.getLogger(__name__)


class Backoff:
    """The wait after a failure: exponential, with jitter.

    Attributes:
        failures: the number of failures since the last success.
    """

    def __init__(self, first: float = _FIRST_WAIT, longest: float = _LONGEST_WAIT) -> None:
        """Take the first and the longest wait, in seconds."""
        self._first, self._longest = first, longest
        self.failures = 0

    def succeeded(self) -> None:
        """Reset the wait."""
        self.failures = 0

    def seconds(self, error: BaseException | None = None) -> float:
        """The next wait in seconds; at least the error's Retry-After, at most the longest wait."""
        # Limit the exponent: a power of many thousands does not fit in a float.
        ceiling = min(self._longest, self._first * 2 ** min(self.failures, 30))
        self.failures += 1
        asked = (error.retry_after or 0.0) if isinstance(error, Busy) else 0.0
        return max(random.uniform(ceiling / 2, ceiling), min(asked, self._longest))


class Room:
    """What the objects of each namespace need in a cache, up to a limit for each namespace."""

    def __init__(self, most: int) -> None:
        """Take the limit in bytes."""
        self._most = most
        self._used: Counter[str] = Counter()
        # The namespaces with objects that did not fit.
        self._crowded: set[str] = set()

    def fits(self, namespace: str, more: int) -> bool:
        """Whether a namespace may need so many bytes more."""
        return more <= 0 or self._used[namespace] + more <= self._most

    def use(self, namespace: str, more: int) -> None:
        """Note that a namespace needs so many bytes more, or fewer if negative."""
        self._used[namespace] += more
        if not self._used[namespace]:
            del self._used[namespace]

    def turn_away(self, namespace: str) -> bool:
        """Note that an object did not fit; return whether it is the namespace's first one."""
        first = namespace not in self._crowded
        self._crowded.add(namespace)
        return first

    def made_room(self) -> bool:
        """Whether objects that did not fit may fit now: half of their namespace's room is free."""
        found = {each for each in self._crowded if self._used[each] <= self._most // 2}
        self._crowded -= found
        return bool(found)


class Cache(Generic[Kept]):
    """A cache of the objects of a kind. May be read from every thread.

    Attributes:
        kind, namespace: the objects; namespace is None for all namespaces.
        failures: how often the watch failed.
        refusal: why the objects may not be listed, for an optional kind that never could be.
        installed: whether the server has the kind, as far as is known.
    """

    def __init__(
        self,
        api: Api,
        kind: str,
        *,
        keep: Callable[[Mapping[str, Any]], Kept | None],
        changed: Callable[[Key, Kept | None, Kept | None], None],
        weigh: Callable[[Kept], int] = lambda _: 0,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        list_again_after: float | None = None,
        permitted: Callable[[], None] = lambda: None,
        installation_changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the cache; `start` begins to list and watch.

        Args:
            api: the cluster.
            kind: e.g. `Pod`.
            keep: makes the cached value from a manifest; None to cache nothing of it.
            changed: called with the object's key, the old and the new value (None for none) when
                they differ; never by two threads at the same time.
            weigh: the bytes that a value needs. Objects of a namespace that together need more than
                NAMESPACE_BYTES are left out; tenants decide how many there are.
            namespace, label_selector, field_selector: the objects to cache.
            list_again_after: for an optional kind: the seconds after which to list again while the
                server lacks the kind or, since the start, forbids to list it, and the cache is
                empty; None for a kind that is required.
            permitted: called when the objects of an optional kind may be listed, after they could
                not be. There may be none, and so no call of `changed`.
            installation_changed: called when `installed` has changed.
        """
        self.kind, self.namespace = kind, namespace
        self._api, self._keep, self._changed = api, keep, changed
        self._weigh, self._room = weigh, Room(NAMESPACE_BYTES)
        self._selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._list_again_after = list_again_after
        self._permitted, self._installation_changed = permitted, installation_changed
        self._objects: dict[Key, Kept] = {}
        self._versions: dict[Key, int] = {}
        # The versions at which objects were deleted lately. The response to a write may arrive
        # after the watch event for a deletion by somebody else, and is older.
        self._deleted: dict[Key, int] = {}
        self._lock = threading.RLock()
        self._synced = threading.Event()
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        where = namespace or "all namespaces"
        self._thread = threading.Thread(
            target=self._run, name=f"watch {kind} in {where}", daemon=True
        )
        self.failures = 0
        self.refusal: Forbidden | None = None
        self.installed = True
        self._listed = False
        self._version = ""

    # -- reading ------------------------------------------------------------------------------

    def get(self, namespace: str, name: str) -> Kept | None:
        """The value of one object; None if it is not in the cache."""
        return self._objects.get((namespace, name))

    def names(self) -> tuple[Key, ...]:
        """(namespace, name) of each object."""
        return tuple(self._objects)

    def values(self) -> tuple[Kept, ...]:
        """The values of all objects."""
        return tuple(self._objects.values())

    @property
    def synced(self) -> bool:
        """Whether the first list is complete."""
        return self._synced.is_set()

    @property
    def alive(self) -> bool:
        """Whether the cache's thread runs."""
        return self._thread.is_alive()

    def wait_synced(self, seconds: float) -> bool:
        """Wait up to this many seconds for the first list; return whether it is complete."""
        return self._synced.wait(seconds)

    # -- updating -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start a thread that lists and watches."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, without waiting for its end."""
        self._stopping.set()
        self.reconnect()

    def reconnect(self) -> None:
        """Watch again from the last version, because the silent connection may be dead.

        A server that hangs still answers TCP keepalive, and looks as if nothing changed.
        """
        if self._watch is not None:
            self._watch.stop()

    def _run(self) -> None:
        backoff = Backoff()
        version = ""
        while not self._stopping.is_set():
            try:
                if self._room.made_room():
                    # Both, so that a list that fails is tried again.
                    version = self._version = ""
                if not version:
                    version = self._list()
                    backoff.succeeded()
                version = self._follow(version, backoff)
            except Expired:
                _log.info("the version has expired: listing again", extra={"kind": self.kind})
                version = ""
                self._stopping.wait(backoff.seconds())
            except IstioUdpError as error:
                if self._stopping.is_set():
                    return
                if self._goes_on_without(error):
                    version = ""
                    self._stopping.wait(self._list_again_after)
                    continue
                self.failures += 1
                version = self._version or version
                wait = backoff.seconds(error)
                _log.warning(
                    "watching failed: %s", error.message, extra={"kind": self.kind, "wait": wait}
                )
                self._stopping.wait(wait)
            except Exception:
                # The thread must survive every error: without it the cache gets no changes.
                self.failures += 1
                version = ""
                _log.exception("watching failed", extra={"kind": self.kind})
                self._stopping.wait(backoff.seconds())

    def _goes_on_without(self, error: IstioUdpError) -> bool:
        """Go on without a kind that is not installed or not permitted; False if it is needed."""
        if self._list_again_after is None:
            return False
        if isinstance(error, NotInstalled):
            self._clear()
            return True
        # Rights that are lost later, maybe for a moment, leave the cache as it is.
        if isinstance(error, Forbidden) and not self._listed:
            self._do_without(error)
            return True
        return False

    def _clear(self) -> None:
        """Treat a kind that the server does not have like one without objects."""
        for key in tuple(self._objects):
            self.forget(*key)
        self._version = ""
        self._complete(installed=False)

    def _do_without(self, refusal: Forbidden) -> None:
        """Go on without a kind that may not be listed, so that the others are served."""
        if self.refusal is None:
            _log.error(
                "working without %s: %s; update the rights: kubectl istio-udp controller install",
                self.kind,
                refusal.message,
                extra={"kind": self.kind},
            )
        self.refusal = refusal
        self._synced.set()

    def _list(self) -> str:
        """Replace the cache's content by a new list; return the list's version."""
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
            # Three quarters of the objects that would fit if the next ones have the same length.
            fitting = 3 * _PAGE_BYTES * len(page.items) // (4 * max(1, page.size))
            limit = max(1, min(_MOST_A_PAGE, 2 * limit, fitting))
        for key in [key for key in tuple(self._objects) if key not in found]:
            self._put(key, None, _number(page.version))
        self._version = page.version
        self._listed = True
        self._complete(installed=True)
        return page.version

    def _complete(self, *, installed: bool) -> None:
        """Note that the cache has everything that there is."""
        refused, self.refusal = self.refusal, None
        changed = installed != self.installed
        self.installed = installed
        self._synced.set()
        if refused is not None:
            self._permitted()
        if changed:
            self._installation_changed()

    def _follow(self, version: str, backoff: Backoff) -> str:
        """Watch until the server ends the watch; return the last version seen."""
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
            # A proxy that ends every watch immediately must not cause a busy loop.
            self._stopping.wait(backoff.seconds())
        return self._version

    def learn(self, manifest: Mapping[str, Any]) -> None:
        """Update the cache with an object from a watch event or from the response to a write.

        A version that is not newer than the cached one is ignored.
        """
        key, version = (
            namespaced_name(manifest),
            _number(manifest["metadata"].get("resourceVersion")),
        )
        # Another thread may still handle this version: the caller may rely on its effects.
        with self._lock:
            if 0 < version <= self._versions.get(key, 0):
                return
        try:
            kept = self._keep(manifest)
        except Exception as error:  # An error in one object must not stop the cache of the others.
            self._warn("an object cannot be read", key, error)
            kept = None
        self._put(key, kept, version)

    def forget(self, namespace: str, name: str) -> None:
        """Remove an object that this process has deleted, before the watch event arrives."""
        with self._lock:
            self._put((namespace, name), None, self._versions.get((namespace, name), 0))

    def _put(self, key: Key, now: Kept | None, version: int) -> None:
        with self._lock:
            if version < self._versions.get(key, 0):
                return
            if now is not None and 0 < version <= self._deleted.get(key, 0):
                return
            if now is None:
                self._note_deletion(key, version)
            before = self._objects.get(key)
            now = self._fitting(key, before, now)
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
            except Exception as error:  # An error in one object must not end the watch.
                self._warn("handling a change failed", key, error)

    def _fitting(self, key: Key, before: Kept | None, now: Kept | None) -> Kept | None:
        """The new value of an object; None if its namespace has no room for it."""
        needed = self._weigh(before) if before is not None else 0
        more = (self._weigh(now) if now is not None else 0) - needed
        if not self._room.fits(key[0], more):
            if self._room.turn_away(key[0]):
                _log.warning(
                    "a namespace has more objects than the cache has room for; some are ignored",
                    extra={"kind": self.kind, "object": "/".join(key)},
                )
            now, more = None, -needed
        self._room.use(key[0], more)
        return now

    def _note_deletion(self, key: Key, version: int) -> None:
        self._deleted.pop(key, None)
        self._deleted[key] = version
        if len(self._deleted) > _DELETIONS_KEPT:
            del self._deleted[next(iter(self._deleted))]

    def _warn(self, what: str, key: Key, error: Exception) -> None:
        _log.warning("%s: %.200r", what, error, extra={"kind": self.kind, "object": "/".join(key)})


def _number(version: str | None) -> int:
    """A resourceVersion as a number; Kubernetes 1.35 defines it so, and with etcd it always was."""
    return int(version) if version and version.isdigit() else 0
