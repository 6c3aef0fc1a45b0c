"""The work queue: keys that are to be looked at, each once, however often it was asked for.

A key that is being worked on is not given to a second worker; asked for meanwhile, it comes again
afterwards. A key that failed comes again later, each time after a longer while.

Keys belong to groups (exposures of one namespace), and the groups take turns: one that asks for a
thousand keys, or for one key again and again, delays another group's key by one look and no more.
No group has all workers: some are left for whoever comes next.
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

# A refused write is tried again soon, and often enough that what was put right is noticed in time.
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 15.0


def _alone(key: Hashable) -> Hashable:
    return key


class WorkQueue(Generic[Key]):
    """Keys that wait for a worker. Safe to use from several threads."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        group: Callable[[Key], Hashable] = _alone,
        at_once: int | None = None,
    ) -> None:
        """Start empty and closed.

        Args:
            clock: gives seconds.
            group: whose turn a key is, asked when it begins to wait.
            at_once: how many keys of one group may be worked on at the same time; None for any
                number.
        """
        self._clock, self._group, self._at_once = clock, group, at_once
        # The groups in the order of their turns, each with its keys and since when they wait.
        self._ready: dict[Hashable, dict[Key, float]] = {}
        # The group of each key that waits or is worked on: `group` may say another one meanwhile.
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
        """How many keys wait for a worker now."""
        with self._changed:
            return sum(map(len, self._ready.values()))

    def pending(self, key: Key) -> bool:
        """Whether a key waits for a worker, or is being worked on."""
        with self._changed:
            return key in self._groups

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
            self._groups = {key: self._groups[key] for key in self._working}
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
            if key not in self._working:
                self._wait(key, self._clock())
            elif self._working[key] is None:
                self._working[key] = self._clock()

    def _wait(self, key: Key, since: float) -> None:
        group = self._groups.setdefault(key, self._group(key))
        self._ready.setdefault(group, {}).setdefault(key, since)
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

    def failures(self, key: Key) -> int:
        """How often a key has failed since it last succeeded."""
        with self._changed:
            return self._backoffs[key].failures if key in self._backoffs else 0

    def succeeded(self, key: Key) -> None:
        """Forget that a key has failed."""
        with self._changed:
            self._backoffs.pop(key, None)

    def take(self, seconds: float) -> tuple[Key, float] | None:
        """The key that waits longest in the group whose turn it is, and since when.

        The caller must call `done` afterwards. None where there is none for that many seconds.
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
        """Take a key from the first group that has a worker left; its next turn is the last."""
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
        """A worker has finished with a key."""
        with self._changed:
            again, group = self._working.pop(key), self._groups.pop(key)
            self._busy[group] -= 1
            if not self._busy[group]:
                del self._busy[group]
            if again is not None:
                self._wait(key, again)
            elif group in self._ready:
                # One that waited for this group's worker may go on.
                self._changed.notify()

    def _bring_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
