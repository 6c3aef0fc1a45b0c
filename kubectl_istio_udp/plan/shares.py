"""Divide a port's clients again when its backends or their weights change.

A client that changes its backend loses its session. So each backend keeps the clients that it has,
apart from those that it must hand over, and no more clients move than the change of weights needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.shares import MOST_SHARES, NUMBERS, Share

# The key of a backend; None for the clients whose datagrams are dropped.
Owner = tuple[tuple[str, str] | None, int] | None


@dataclass(frozen=True)
class _Range:
    """The clients' numbers from `first` up to `end`, without `end`."""

    first: int
    end: int
    owner: Owner

    @property
    def size(self) -> int:
        return self.end - self.first


def with_kept_shares(port: ExposedPort, before: ExposedPort) -> ExposedPort:
    """A port whose clients keep the backends that they had before, as far as the weights allow.

    Args:
        port: the port with its new backends and weights, and with usual shares.
        before: the port as the gateway has it.
    """
    old, new = _weights(before), _weights(port)
    if not old or not new:
        return port
    found = _ranges(before)
    if not _are_proportional(old, new):
        found = _merged(_moved(found, _sizes(new)))
    index = {backend.key: number for number, backend in enumerate(port.backends)}
    shares = tuple(
        Share(each.first, None if each.owner is None else index[each.owner]) for each in found
    )
    if len(shares) > MOST_SHARES or shares == port.usual_shares:
        return port
    return replace(port, shares=shares)


def _weights(port: ExposedPort) -> dict[Owner, int]:
    """The weights above 0 by backend, and the dropped weight, in an order of their own."""
    found = sorted((backend.key, backend.weight) for backend in port.backends if backend.weight)
    return {**dict(found), **({None: port.dropped} if port.dropped else {})}


def _are_proportional(old: Mapping[Owner, int], new: Mapping[Owner, int]) -> bool:
    totals = sum(old.values()), sum(new.values())
    return old.keys() == new.keys() and all(
        weight * totals[1] == new[owner] * totals[0] for owner, weight in old.items()
    )


def _sizes(weights: Mapping[Owner, int]) -> dict[Owner, int]:
    """How many numbers each owner gets; together exactly all."""
    total, passed, found = sum(weights.values()), 0, {}
    for owner, weight in weights.items():
        bounds = (passed * NUMBERS // total, (passed + weight) * NUMBERS // total)
        found[owner] = bounds[1] - bounds[0]
        passed += weight
    return found


def _ranges(port: ExposedPort) -> list[_Range]:
    """The ranges of a port, the highest first."""
    shares = port.shares or port.usual_shares
    ends = pairwise([NUMBERS, *(share.first for share in shares)])
    return [
        _Range(first, end, None if share.backend is None else port.backends[share.backend].key)
        for share, (end, first) in zip(shares, ends, strict=True)
    ]


def _moved(ranges: Iterable[_Range], sizes: Mapping[Owner, int]) -> list[_Range]:
    """Ranges of these sizes: each owner gives what it has too much to those who need it."""
    kept, free = _split(ranges, sizes)
    needs = {owner: size - _total(kept, owner) for owner, size in sizes.items()}
    for piece in free:
        left = piece
        while left.size:
            owner = _taker(left, kept, needs)
            taken = min(left.size, needs[owner])
            needs[owner] -= taken
            kept.append(_Range(left.first, left.first + taken, owner))
            left = replace(left, first=left.first + taken)
    return kept


def _split(
    ranges: Iterable[_Range], sizes: Mapping[Owner, int]
) -> tuple[list[_Range], list[_Range]]:
    """What owners keep, and what they give; they give short ranges first, so that few are left."""
    kept, free = [], []
    ranges = sorted(ranges, key=lambda each: (each.size, each.first))
    surplus = {owner: _total(ranges, owner) for owner in {each.owner for each in ranges}}
    surplus = {owner: max(0, has - sizes.get(owner, 0)) for owner, has in surplus.items()}
    for each in ranges:
        given = min(each.size, surplus[each.owner])
        surplus[each.owner] -= given
        bound = each.first + given
        if given:
            free.append(replace(each, end=bound))
        if given < each.size:
            kept.append(replace(each, first=bound))
    return kept, free


def _total(ranges: Iterable[_Range], owner: Owner) -> int:
    return sum(each.size for each in ranges if each.owner == owner)


def _taker(piece: _Range, kept: Iterable[_Range], needs: Mapping[Owner, int]) -> Owner:
    """Who gets a free range: a neighbour that needs it, or else who needs most."""
    beside = [each.owner for each in kept if piece.first == each.end or piece.end == each.first]
    neighbours = [owner for owner in beside if needs.get(owner, 0) > 0]
    return neighbours[0] if neighbours else max(needs, key=lambda owner: needs[owner])


def _merged(ranges: Iterable[_Range]) -> list[_Range]:
    """The highest range first; neighbours of one owner are one range."""
    found: list[_Range] = []
    for each in sorted(ranges, key=lambda each: each.first, reverse=True):
        if found and found[-1].owner == each.owner:
            found[-1] = replace(found[-1], first=each.first)
        else:
            found.append(each)
    return found
