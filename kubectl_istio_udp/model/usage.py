"""How many ports and sessions exposures use together, e.g. all exposures of one gateway."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from kubectl_istio_udp.model.exposure import ExposureSpec

Key = tuple[str, str]


@dataclass(frozen=True)
class Holder:
    """What one exposure uses.

    Attributes:
        key: its (namespace, name).
        ports: the number of ports.
        sessions: the number of sessions, over all its ports.
    """

    key: Key
    ports: int
    sessions: int

    @classmethod
    def of(cls, spec: ExposureSpec) -> Holder:
        """What an exposure uses."""
        return cls(spec.key, len(spec.ports), spec.sessions)

    def or_more(self, other: Holder) -> Holder:
        """The larger numbers of two states of the same exposure."""
        ports, sessions = max(self.ports, other.ports), max(self.sessions, other.sessions)
        return Holder(self.key, ports, sessions)

    def __str__(self) -> str:
        """`namespace/name 9000`."""
        return f"{self.key[0]}/{self.key[1]} {self.sessions}"


@dataclass(frozen=True)
class Usage:
    """What exposures use together.

    Attributes:
        holders: the exposures, in any order.
        ports: the total number of ports.
        sessions: the total number of sessions, over all ports.
    """

    holders: tuple[Holder, ...] = ()
    ports: int = 0
    sessions: int = 0

    def largest(self, count: int) -> list[Holder]:
        """The exposures with the most sessions, at most this many, the largest first."""
        return heapq.nsmallest(count, self.holders, key=lambda h: (-h.sessions, h.key))


class Holders:
    """Exposures, with sums that follow each change.

    Adding up a thousand exposures again for each decision would take most of the controller's time.

    Attributes:
        ports: the total number of ports.
        sessions: the total number of sessions, over all ports.
    """

    def __init__(self) -> None:
        """Start without exposures."""
        self._by_key: dict[Key, Holder] = {}
        self.ports = self.sessions = 0

    def __len__(self) -> int:
        """The number of exposures."""
        return len(self._by_key)

    def put(self, key: Key, now: Holder | None) -> None:
        """Add or replace an exposure; None removes it."""
        before = self._by_key.pop(key, None)
        if before is not None:
            self.ports -= before.ports
            self.sessions -= before.sessions
        if now is not None:
            self._by_key[key] = now
            self.ports += now.ports
            self.sessions += now.sessions

    def add(self, holder: Holder) -> None:
        """Add an exposure; if it is there already, the larger numbers count."""
        before = self._by_key.get(holder.key)
        self.put(holder.key, holder.or_more(before) if before else holder)

    def copy(self) -> Holders:
        """The same exposures; changes of the copy do not affect this one."""
        copy = Holders()
        copy._by_key, copy.ports, copy.sessions = self._by_key.copy(), self.ports, self.sessions
        return copy

    def usage(self) -> Usage:
        """What the exposures use together, at this moment."""
        return Usage(tuple(self._by_key.values()), self.ports, self.sessions)


def used_by(
    groups: Iterable[Holders] = (), more: Iterable[Holder] = (), without: Key | None = None
) -> Usage:
    """What groups of exposures use together.

    One exposure may appear several times, e.g. as it is and as planned: the larger numbers count.

    Args:
        groups: the exposures. The sums of the largest group are used as they are; the exposures of
            the others are added one by one.
        more: further exposures.
        without: (namespace, name) of the exposure to leave out.
    """
    largest, *others = sorted(groups, key=len, reverse=True) or [Holders()]
    found = largest.copy()
    for holder in (*(h for group in others for h in group.usage().holders), *more):
        found.add(holder)
    if without is not None:
        found.put(without, None)
    return found.usage()
