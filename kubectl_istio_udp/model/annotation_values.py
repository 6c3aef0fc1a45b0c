"""Readers for annotation values: they parse, limit length and reject malformed values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TypeVar

from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError

PREFIX = "kubectl-istio-udp/"
_LONGEST_SHOWN = 60

Choice = TypeVar("Choice", bound=Enum)


def bounded(name: str, text: str, longest: int) -> str:
    """Return the text if it is not too long.

    Raises:
        UsageError: it has more than `longest` characters.
    """
    if len(text) > longest:
        raise UsageError(f"annotation {shown(name)} is longer than {longest} characters")
    return text


def some(texts: Iterable[object], most: int = 3) -> str:
    """The first of several items for a message, and the number of others: `a, b, c and 29 more`."""
    found = [str(text) for text in texts]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def shown(text: str) -> str:
    """Untrusted text for a message: quoted, truncated, and on one line."""
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "...")


def whole(name: str, text: str) -> int:
    """Read a whole number, zero or more.

    Raises:
        UsageError: it is not a whole number.
    """
    if not re.fullmatch("[0-9]{1,10}", text.strip()):
        raise UsageError(f"annotation {name}: {shown(text)} is not a whole number")
    return int(text)


def truth(name: str, text: str) -> bool:
    """Read `true` or `false`.

    Raises:
        UsageError: it is neither.
    """
    if text not in ("true", "false"):
        raise UsageError(f'annotation {name}: {shown(text)} is neither "true" nor "false"')
    return text == "true"


def duration(name: str, text: str) -> Duration:
    """Read a duration such as `10s`.

    Raises:
        UsageError: it is not a duration.
    """
    try:
        return Duration.parse(text)
    except UsageError as error:
        raise UsageError(f"annotation {name}: {error.message}", hints=error.hints) from error


def one_of(values: Iterable[Choice]) -> Callable[[str, str], Choice]:
    """A reader that accepts these enum members by value and raises UsageError for other text."""
    known = {member.value: member for member in values}

    def read(name: str, text: str) -> Choice:
        if text not in known:
            raise UsageError(f"annotation {name}: {shown(text)} is not one of {', '.join(known)}")
        return known[text]

    return read


def parts(text: str) -> list[str]:
    """The items of a comma-separated list, stripped and without empty ones."""
    return [part for each in text.split(",") if (part := each.strip())]
