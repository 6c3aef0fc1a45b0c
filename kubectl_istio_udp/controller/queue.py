"""The work queue: keys to process, each at most once however often it was added.

No two workers get the same key: a key that is added while a worker has it is queued again
afterwards. A failed key is queued again after a delay that grows with each failure.

Keys belong to groups (the exposures of a namespace), and groups take turns: a group that adds a
thousand keys, or one key again and again, delays another group by at most one key. No group gets
all workers.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from kubectl_istio_udp.kube.watch import Backoff

Key = TypeVar("Key", bound=Hashable)

# Retry soon, and at intervals short enough to notice when the cause is fixed.
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 15.0


def _alone(key: Hashable) -> Hashable:
    return key


def _ignore(key: Hashable) -> None:
    pass


class WorkQueue(Generic[Key]):
    """A queue of keys for workers. Thread-safe."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        group: Callable[[Key], Hashable] = _alone,
        at_once: int | None = None,
        due: Callable[[Key], None] = _ignore,
    ) -> None:
        """Create an empty and closed queue.

        Args:
            clock: returns the time in seconds.
            group: returns the group of a key, called when it is queued.
            at_once: how many keys of one group may be processed at the same time; None for no
                limit.
            due: called with a key whose delay has ended, before it is queued.
        """
        self._clock, self._group, self._at_once, self._at_due = clock, group, at_once, due
        # The groups in order of their turns, each with its keys and the time they were queued.
        self._ready: dict[Hashable, dict[Key, float]] = {}
        # The group of each queued or processed key, because `group` may return another one later.
        self._groups: dict[Key, Hashable] = {}
        self._working: dict[Key, float | None] = {}
        self._busy: Counter[Hashable] = Counter()
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._backoffs: dict[Key, Backoff] = {}
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._open = False
        self._ended = False

    def __len__(self) -> int:
        """The number of queued keys."""
        with self._changed:
            return sum(map(len, self._ready.values()))

    def pending(self, key: Key) -> bool:
        """Whether a key is queued or being processed."""
        with self._changed:
            return key in self._groups

    def open(self) -> None:
        """Begin to give keys to workers."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop all keys, and accept none until it is opened again."""
        with self._changed:
            self._open = False
            self._ready.clear()
            self._later.clear()
            self._due.clear()
            self._backoffs.clear()
            self._working = dict.fromkeys(self._working)
            self._groups = {key: self._groups[key] for key in self._working}
            self._changed.notify_all()

    def end(self) -> None:
        """Close permanently: waiting workers return at once."""
        self.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def add(self, key: Key) -> None:
        """Queue a key."""
        with self._changed:
            if key not in self._working:
                self._wait(key, self._clock())
            elif self._working[key] is None:
                self._working[key] = self._clock()

    def _wait(self, key: Key, since: float) -> None:
        group = self._groups.setdefault(key, self._group(key))
        self._ready.setdefault(group, {}).setdefault(key, since)
        self._changed.notify()

    def add_later(self, key: Key, seconds: float) -> None:
        """Queue a key after a delay; of several delays the shortest counts."""
        with self._changed:
            due = self._clock() + seconds
            if self._due.get(key, float("inf")) <= due:
                return
            self._due[key] = due
            heapq.heappush(self._later, (due, next(self._count), key))
            self._changed.notify()

    def failed(self, key: Key, error: BaseException | None = None) -> float:
        """Queue a key after its back-off; return the seconds until then."""
        with self._changed:
            backoff = self._backoffs.setdefault(key, Backoff(_FIRST_RETRY, _LONGEST_RETRY))
            seconds = backoff.seconds(error)
        self.add_later(key, seconds)
        return seconds

    def failures(self, key: Key) -> int:
        """How often a key has failed since it last succeeded."""
        with self._changed:
            return self._backoffs[key].failures if key in self._backoffs else 0

    def succeeded(self, key: Key) -> None:
        """Reset the back-off of a key."""
        with self._changed:
            self._backoffs.pop(key, None)

    def take(self, seconds: float) -> tuple[Key, float] | None:
        """Take the longest-waiting key of the group whose turn it is, with the time it was queued.

        The caller must call `done` afterwards. None if there is no key within this many seconds.
        """
        deadline = self._clock() + seconds
        with self._changed:
            while True:
                now = self._clock()
                self._bring_due(now)
                if self._open and (found := self._next()):
                    return found
                if self._ended or now >= deadline:
                    return None
                until = min(deadline, self._later[0][0]) if self._later else deadline
                self._changed.wait(max(0.0, until - now))

    def _next(self) -> tuple[Key, float] | None:
        """Take a key of the first group with a free worker, and move the group to the end."""
        for group, keys in self._ready.items():
            if self._at_once is not None and self._busy[group] >= self._at_once:
                continue
            key = next(iter(keys))
            since = keys.pop(key)
            del self._ready[group]
            if keys:
                self._ready[group] = keys
            self._working[key] = None
            self._busy[group] += 1
            return key, since
        return None

    def done(self, key: Key) -> None:
        """Report that a worker has finished a key."""
        with self._changed:
            again, group = self._working.pop(key), self._groups.pop(key)
            self._busy[group] -= 1
            if not self._busy[group]:
                del self._busy[group]
            if again is not None:
                self._wait(key, again)
            elif group in self._ready:
                # A key that waited for a worker of this group may proceed.
                self._changed.notify()

    def _bring_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self._at_due(key)
                self.add(key)
