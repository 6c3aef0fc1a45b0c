"""Strict readers for decoded JSON from untrusted sources: each field by name, type and range.

A check is a function that takes a decoded value and returns the parsed value, or raises
ValueError with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.names import LONGEST_SUBDOMAIN, is_dns_label

Read = TypeVar("Read")
Choice = TypeVar("Choice", bound=Enum)
Check = Callable[[object], Read]

# Maximum number of entries in a list of ports or labels.
_MOST_ITEMS = 4096
_MOST_LABELS = 64
_LONGEST_DURATION = 64
_SHOWN = 60
# Kubernetes' qualified names: the documentation of labels (syntax and character set).
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(rf"(?:{_QUALIFIED.pattern})?")
_REQUIRED: Any = object()


class Fields:
    """The fields of one JSON object; each is read once.

    Use `record` for a nested object.

    Attributes:
        version: the format version of the outermost object; 0 for nested ones.
    """

    def __init__(self, data: object) -> None:
        """Take a decoded JSON value.

        Raises:
            ValueError: it is not a JSON object.
        """
        if not isinstance(data, dict):
            raise ValueError(f"{shown(data)} is not a JSON object")
        self._left: dict[str, object] = dict(data)
        self.version = 0

    def take(self, name: str, check: Check[Read], default: Read = _REQUIRED) -> Read:
        """Read a field and remove it from the unread ones.

        Args:
            name: the name of the field.
            check: parses its value.
            default: the value if the field is missing; without a default the field is required.

        Raises:
            ValueError: the field is missing or invalid; the message begins with the field's name.
        """
        if name not in self._left:
            if default is _REQUIRED:
                raise ValueError(f"{name} is missing")
            return default
        try:
            return check(self._left.pop(name))
        except UsageError as error:
            raise ValueError(f"{name}: {error.message}") from error
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def end(self) -> None:
        """Check that every field was read.

        Raises:
            ValueError: there is an unknown field.
        """
        if self._left:
            raise ValueError(f"unknown field {shown(next(iter(self._left)))}")


def shown(value: object) -> str:
    """A value for an error message: its repr, truncated if it is long."""
    if isinstance(value, (dict, list)):
        return "a JSON object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def record(build: Callable[[Fields], Read]) -> Check[Read]:
    """A check for a JSON object that has exactly the fields that `build` reads."""

    def check(value: object) -> Read:
        fields = Fields(value)
        found = build(fields)
        fields.end()
        return found

    return check


def items(check: Check[Read]) -> Check[tuple[Read, ...]]:
    """A check for a list in which every entry passes a check."""

    def read(value: object) -> tuple[Read, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{shown(value)} is not a list")
        if len(value) > _MOST_ITEMS:
            raise ValueError(f"has {len(value)} entries, more than {_MOST_ITEMS}")
        return tuple(check(each) for each in value)

    return read


def optional(check: Check[Read]) -> Check[Read | None]:
    """A check that also accepts null."""
    return lambda value: None if value is None else check(value)


def whole_number(least: int, most: int) -> Check[int]:
    """A check for a whole number in a range; booleans are rejected."""

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{shown(value)} is not a whole number from {least} to {most}")
        return value

    return check


port = whole_number(1, 65535)


def flag(value: object) -> bool:
    """A check for true or false; nothing else counts, not even 0 and 1."""
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value


def one_of(choices: type[Choice]) -> Check[Choice]:
    """A check for a value of an Enum."""

    def check(value: object) -> Choice:
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} is not a string")
        for choice in choices:
            if choice.value == value:
                return choice
        raise ValueError(f"{shown(value)} is not one of {', '.join(c.value for c in choices)}")

    return check


def text(pattern: re.Pattern[str], what: str, longest: int = LONGEST_SUBDOMAIN) -> Check[str]:
    """A check for a string of limited length that matches a pattern completely."""

    def check(value: object) -> str:
        if isinstance(value, str) and len(value) <= longest and pattern.fullmatch(value):
            return value
        raise ValueError(f"{shown(value)} is not {what}")

    return check


def dns_label(value: object) -> str:
    """A DNS label (RFC 1123), as namespaces and Services are named."""
    if isinstance(value, str) and is_dns_label(value):
        return value
    raise ValueError(f"{shown(value)} is not a DNS label")


def dns_subdomain(value: object) -> str:
    """DNS labels separated by dots, as in most object names."""
    short = isinstance(value, str) and len(value) <= LONGEST_SUBDOMAIN
    if isinstance(value, str) and short and all(map(is_dns_label, value.split("."))):
        return value
    raise ValueError(f"{shown(value)} is not a DNS name")


def labels(value: object) -> dict[str, str]:
    """A map of Kubernetes labels."""
    if not isinstance(value, Mapping) or len(value) > _MOST_LABELS:
        raise ValueError(f"{shown(value)} is not a map of at most {_MOST_LABELS} labels")
    for key, label in value.items():
        prefix, slash, name = str(key).rpartition("/")
        if slash:
            dns_subdomain(prefix)
        if not _QUALIFIED.fullmatch(name):
            raise ValueError(f"{shown(key)} is not the name of a label")
        if not isinstance(label, str) or not _LABEL_VALUE.fullmatch(label):
            raise ValueError(f"{shown(label)} is not the value of a label")
    return dict(value)


def service_key(value: object) -> tuple[str, str]:
    """A list of two names: a Service's namespace and its name."""
    parts = items(dns_label)(value)
    if len(parts) != 2:
        raise ValueError(f"{shown(value)} is not a namespace and a name")
    return (parts[0], parts[1])


def empty_text(value: object) -> str:
    """A string without characters."""
    if value != "":
        raise ValueError(f"{shown(value)} is not ''")
    return ""


def duration(value: object) -> Duration:
    """A duration as `Duration.parse` reads it."""
    if not isinstance(value, str) or len(value) > _LONGEST_DURATION:
        raise ValueError(f"{shown(value)} is not a duration")
    return Duration.parse(value)


# A gateway's name is that of its Service or a pod, or a value of its pods' labels.
object_or_label = text(
    re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?"), "the name of an object"
)
