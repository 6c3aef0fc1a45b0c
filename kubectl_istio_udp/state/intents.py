"""The requests of Services, with indexes that keep every decision cheap.

An object of a tenant must not cost more than its own size. So intents are found by port and by
namespace, oldest first, without reading the others.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import TypeVar

from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.ports import PRIVILEGED_PORT_OFFSET
from kubectl_istio_udp.sources.annotations import Intent

Rank = tuple[str, str, str]
_Row = tuple[Rank, Key]
Name = TypeVar("Name", int, str)


class Intents:
    """Intents by exposure. Not thread-safe: the caller must hold a lock for changes."""

    def __init__(self) -> None:
        """Start empty."""
        self._found: dict[Key, Intent | UsageError] = {}
        self._ranks: dict[Key, Rank] = {}
        self._by_port: dict[int, list[_Row]] = {}
        self._by_namespace: dict[str, list[_Row]] = {}

    def __contains__(self, key: object) -> bool:
        """Whether an exposure is requested."""
        return key in self._found

    def __iter__(self) -> Iterator[Key]:
        """The requested exposures, the oldest intent first."""
        return iter(sorted(self._found, key=lambda key: self._ranks[key]))

    def get(self, key: Key) -> Intent | UsageError | None:
        """The intent, or the error from reading it; None if there is none."""
        return self._found.get(key)

    def put(self, key: Key, rank: Rank, intent: Intent | UsageError) -> None:
        """Add or replace an intent.

        Args:
            key: the exposure's (namespace, name).
            rank: the sort key; older intents come first.
            intent: the intent, or the error from reading it.
        """
        self.drop(key)
        self._found[key], self._ranks[key] = intent, rank
        insort(self._by_namespace.setdefault(key[0], []), (rank, key))
        for port in _ports(intent):
            insort(self._by_port.setdefault(port, []), (rank, key))

    def drop(self, key: Key) -> None:
        """Remove an intent, if there is one."""
        intent = self._found.pop(key, None)
        if intent is None:
            return
        row = (self._ranks.pop(key), key)
        _remove(self._by_namespace, key[0], row)
        for port in _ports(intent):
            _remove(self._by_port, port, row)

    def rivals(self, gateway_ports: Iterable[int]) -> Iterator[Intent]:
        """The intents for any of these gateway or listener ports; oldest first, no duplicates."""
        numbers = {
            number
            for port in gateway_ports
            for number in (port, port - PRIVILEGED_PORT_OFFSET, port + PRIVILEGED_PORT_OFFSET)
        }
        # Copies, so that other threads may change the indexes meanwhile.
        rows = [list(self._by_port[number]) for number in numbers if number in self._by_port]
        return self._each_once(heapq.merge(*rows))

    def _each_once(self, rows: Iterable[_Row]) -> Iterator[Intent]:
        before = None
        for row in rows:
            intent = self._found.get(row[1])
            if row != before and isinstance(intent, Intent):
                yield intent
            before = row

    def of(self, namespace: str) -> list[Key]:
        """The requested exposures of a namespace, the oldest intent first."""
        return [key for _, key in self._by_namespace.get(namespace, ())]

    def older(self, key: Key) -> int:
        """How many intents in the same namespace are older."""
        rows, rank = self._by_namespace.get(key[0]), self._ranks.get(key)
        return bisect_left(rows, (rank, key)) if rows and rank else 0

    def at(self, namespace: str, place: int) -> Key | None:
        """The intent at an index of a namespace, by age; None if there are fewer."""
        rows = self._by_namespace.get(namespace, [])
        return rows[place][1] if place < len(rows) else None


def _ports(intent: Intent | UsageError) -> frozenset[int]:
    return frozenset(intent.gateway_ports) if isinstance(intent, Intent) else frozenset()


def _remove(index: dict[Name, list[_Row]], name: Name, row: _Row) -> None:
    rows = index[name]
    del rows[bisect_left(rows, row)]
    if not rows:
        del index[name]
