"""The work queue: keys that are to be looked at, each once, however often it was asked for.

A key that is being worked on is not given to a second worker; asked for meanwhile, it comes again
afterwards. A key that failed comes again later, each time after a longer while.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from kubectl_istio_udp.kube.watch import Backoff

Key = TypeVar("Key", bound=Hashable)

# A refused write is tried again soon, and often enough that what was put right is noticed in time.
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 15.0


class WorkQueue(Generic[Key]):
    """Keys that wait for a worker. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """An empty queue; `clock` gives seconds."""
        self._clock = clock
        self._ready: dict[Key, float] = {}
        self._working: dict[Key, float | None] = {}
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._backoffs: dict[Key, Backoff] = {}
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._open = False
        self._ended = False

    def __len__(self) -> int:
        """How many keys wait for a worker now."""
        return len(self._ready)

    def open(self) -> None:
        """Give keys to workers from now on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def close(self) -> None:
        """Forget all keys, and give none until it is opened again."""
        with self._changed:
            self._open = False
            self._ready.clear()
            self._later.clear()
            self._due.clear()
            self._backoffs.clear()
            self._working = dict.fromkeys(self._working)
            self._changed.notify_all()

    def end(self) -> None:
        """Close for good: workers that wait get nothing, at once."""
        self.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def add(self, key: Key) -> None:
        """Ask for a key, now."""
        with self._changed:
            if key in self._working:
                if self._working[key] is None:
                    self._working[key] = self._clock()
            elif key not in self._ready:
                self._ready[key] = self._clock()
                self._changed.notify()

    def add_later(self, key: Key, seconds: float) -> None:
        """Ask for a key after a while; asked for twice, the sooner counts."""
        with self._changed:
            due = self._clock() + seconds
            if self._due.get(key, float("inf")) <= due:
                return
            self._due[key] = due
            heapq.heappush(self._later, (due, next(self._count), key))
            self._changed.notify()

    def failed(self, key: Key, error: BaseException | None = None) -> float:
        """Ask for a key again after its back-off; the seconds until then."""
        with self._changed:
            backoff = self._backoffs.setdefault(key, Backoff(_FIRST_RETRY, _LONGEST_RETRY))
            seconds = backoff.seconds(error)
        self.add_later(key, seconds)
        return seconds

    def succeeded(self, key: Key) -> None:
        """Forget that a key has failed."""
        with self._changed:
            self._backoffs.pop(key, None)

    def take(self, seconds: float) -> tuple[Key, float] | None:
        """The key that has waited longest, and since when (the clock's seconds).

        The caller must call `done` afterwards. None where there is none for that many seconds.
        """
        deadline = self._clock() + seconds
        with self._changed:
            while True:
                now = self._clock()
                self._bring_due(now)
                if self._open and self._ready:
                    key = next(iter(self._ready))
                    since = self._ready.pop(key)
                    self._working[key] = None
                    return key, since
                if self._ended or now >= deadline:
                    return None
                until = min(deadline, self._later[0][0]) if self._later else deadline
                self._changed.wait(max(0.0, until - now))

    def done(self, key: Key) -> None:
        """A worker has finished with a key."""
        with self._changed:
            again = self._working.pop(key)
            if again is not None:
                self._ready[key] = again
                self._changed.notify()

    def _bring_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
