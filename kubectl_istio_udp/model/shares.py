"""How a port's clients are divided among its backends.

A hash gives each client a number (render/shares.py). A share is a range of these numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# The numbers of clients go from 0 to this. It is constant, because with the sum of the weights, a
# change of one weight would renumber all clients. It is above the largest sum, so that every weight
# counts.
NUMBERS = 2**24
# Each is a branch of a matcher, and takes ten bytes in the spec.
MOST_SHARES = 32
_SHARE = re.compile(r"([0-9]{1,8})(?::([0-9]{1,4}))?")
_LONGEST_TEXT = MOST_SHARES * 14


@dataclass(frozen=True)
class Share:
    """A range of clients' numbers; it ends where the share before it begins.

    Attributes:
        first: its lowest number.
        backend: the index of the backend of its clients; None if their datagrams are dropped.
    """

    first: int
    backend: int | None


def usual_shares(weights: Sequence[int], dropped: int) -> tuple[Share, ...]:
    """The shares of a port whose clients have no backend yet.

    Args:
        weights: the weight of each backend; the first one gets the highest numbers.
        dropped: the weight of clients without a backend, who get the lowest numbers.
    """
    left = total = dropped + sum(weights)
    found = []
    for index, weight in enumerate(weights):
        left -= weight
        if weight:
            found.append(Share(left * NUMBERS // total, index))
    return (*found, Share(0, None)) if dropped or not found else tuple(found)


def check_shares(shares: Sequence[Share], backends: int) -> None:
    """Reject shares that do not cover all numbers.

    Raises:
        ValueError: they overlap, leave a number out, or name a backend that does not exist.
    """
    bounds = [NUMBERS, *(share.first for share in shares)]
    descending = all(upper > lower for upper, lower in pairwise(bounds))
    known = all(share.backend is None or share.backend < backends for share in shares)
    if not descending or bounds[-1] or not known or len(shares) > MOST_SHARES:
        raise ValueError("the shares do not divide the clients among the backends")


def write_shares(shares: Sequence[Share]) -> str:
    """The shares as text: `8388608:0 4194304:1 0`, the last one without a backend."""
    return " ".join(
        str(share.first) + ("" if share.backend is None else f":{share.backend}")
        for share in shares
    )


def read_shares(text: object) -> tuple[Share, ...]:
    """Read what `write_shares` has written.

    Raises:
        ValueError: it is something else.
    """
    words = text.split(" ") if isinstance(text, str) and len(text) <= _LONGEST_TEXT else []
    found = [_SHARE.fullmatch(word) for word in words]
    if not words or not all(found):
        raise ValueError("the shares cannot be read")
    parts = (match.groups() for match in found if match)
    return tuple(
        Share(int(first), int(backend) if backend is not None else None) for first, backend in parts
    )
