"""Values of annotations that people write: read into types, bounded, refused where malformed."""

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
    """The text, if it is not too long.

    Raises:
        UsageError: it has more than `longest` characters.
    """
    if len(text) > longest:
        raise UsageError(f"annotation {shown(name)} is longer than {longest} characters")
    return text


def some(texts: Iterable[object], most: int = 3) -> str:
    """The first of several, for a message, and how many more there are: `a, b, c and 29 more`."""
    found = [str(text) for text in texts]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def shown(text: str) -> str:
    """A text that somebody else wrote, for a message: quoted, short, and on one line."""
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "...")


def whole(name: str, text: str) -> int:
    """A whole number, zero or more.

    Raises:
        UsageError: it is none.
    """
    if not re.fullmatch("[0-9]{1,10}", text.strip()):
        raise UsageError(f"annotation {name}: {shown(text)} is not a whole number")
    return int(text)


def truth(name: str, text: str) -> bool:
    """`true` or `false`.

    Raises:
        UsageError: it is neither.
    """
    if text not in ("true", "false"):
        raise UsageError(f'annotation {name}: {shown(text)} is neither "true" nor "false"')
    return text == "true"


def duration(name: str, text: str) -> Duration:
    """A duration such as `10s`.

    Raises:
        UsageError: it is none.
    """
    try:
        return Duration.parse(text)
    except UsageError as error:
        raise UsageError(f"annotation {name}: {error.message}", hints=error.hints) from error


def one_of(values: Iterable[Choice]) -> Callable[[str, str], Choice]:
    """A reader for one of these members, by its value; it raises UsageError for other texts."""
    known = {member.value: member for member in values}

    def read(name: str, text: str) -> Choice:
        if text not in known:
            raise UsageError(f"annotation {name}: {shown(text)} is not one of {', '.join(known)}")
        return known[text]

    return read


def parts(text: str) -> list[str]:
    """The parts of a list with commas, without blanks around them and without empty ones."""
    return [part for each in text.split(",") if (part := each.strip())]
