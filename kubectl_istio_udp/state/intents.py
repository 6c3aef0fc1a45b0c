"""The requests of Services, with indexes that keep every decision cheap.

An object of a tenant must not cost more than its own size. So intents are found by port and by
namespace, oldest first, without reading the others. A Service of 400 bytes may request 500 ports,
so only the port numbers of an intent are kept; the rest is read from the Service when needed.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import TypeVar

from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.ports import PRIVILEGED_PORT_OFFSET

Rank = tuple[str, str, str]
Row = tuple[Rank, Key]
Name = TypeVar("Name", int, str)


class Intents:
    """Intents by exposure. Not thread-safe: the caller must hold a lock for changes."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows: dict[Key, Row] = {}
        self._ports: dict[Key, array[int]] = {}
        self._by_port: dict[int, list[Row]] = {}
        self._by_namespace: dict[str, list[Row]] = {}

    def __contains__(self, key: object) -> bool:
        """Whether an exposure is requested."""
        return key in self._rows

    def __iter__(self) -> Iterator[Key]:
        """The requested exposures, the oldest intent first."""
        return iter(sorted(self._rows, key=lambda key: self._rows[key]))

    def put(self, key: Key, rank: Rank, gateway_ports: Iterable[int]) -> None:
        """Add or replace an intent.

        Args:
            key: the exposure's (namespace, name).
            rank: the sort key; older intents come first.
            gateway_ports: the requested gateway ports; none if the intent cannot be read.
        """
        self.drop(key)
        row = self._rows[key] = (rank, key)
        insort(self._by_namespace.setdefault(key[0], []), row)
        ports = self._ports[key] = array("H", sorted(set(gateway_ports)))
        for port in ports:
            insort(self._by_port.setdefault(port, []), row)

    def drop(self, key: Key) -> bool:
        """Remove an intent; return whether there was one."""
        row = self._rows.pop(key, None)
        if row is None:
            return False
        _remove(self._by_namespace, key[0], row)
        for port in self._ports.pop(key):
            _remove(self._by_port, port, row)
        return True

    def requests_for(self, gateway_ports: Iterable[int]) -> Iterator[Row]:
        """Rank and key of the intents for any of these gateway or listener ports.

        The oldest first, without duplicates.
        """
        numbers = {
            number
            for port in gateway_ports
            for number in (port, port - PRIVILEGED_PORT_OFFSET, port + PRIVILEGED_PORT_OFFSET)
        }
        # Copies, so that other threads may change the indexes meanwhile.
        rows = [list(self._by_port[number]) for number in numbers if number in self._by_port]
        return _each_once(heapq.merge(*rows))

    def first(self, namespace: str, most: int | None = None) -> list[Key]:
        """The requested exposures of a namespace, the oldest intent first.

        Args:
            namespace: the namespace.
            most: the number of exposures; None for all.
        """
        return [key for _, key in self._by_namespace.get(namespace, [])[:most]]

    def older(self, key: Key) -> int:
        """How many intents in the same namespace are older."""
        rows, row = self._by_namespace.get(key[0]), self._rows.get(key)
        return bisect_left(rows, row) if rows and row else 0

    def at(self, namespace: str, place: int) -> Key | None:
        """The intent at an index of a namespace, by age; None if there are fewer."""
        rows = self._by_namespace.get(namespace, [])
        return rows[place][1] if place < len(rows) else None


def _each_once(rows: Iterable[Row]) -> Iterator[Row]:
    before = None
    for row in rows:
        if row != before:
            yield row
        before = row


def _remove(index: dict[Name, list[Row]], name: Name, row: Row) -> None:
    rows = index[name]
    del rows[bisect_left(rows, row)]
    if not rows:
        del index[name]
