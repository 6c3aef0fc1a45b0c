"""Checks that every finding and every rule must pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

from kubectl_istio_udp.checks.catalog import CHECKS, Surface
from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.rules import Rule, codes_of

Seen = TypeVar("Seen")


def whole(finding: Finding) -> None:
    """Check that the finding has a value for each name in its texts."""
    for text in (finding.message, finding.event, *map(finding.remedy, Surface)):
        assert "{" not in text and "None" not in text
    assert finding.message and finding.event


def texts_of(rules: Iterable[Rule[Any, Any]]) -> set[tuple[str, str]]:
    """The (code, case) of each text that the rules may use."""
    return {(code, case) for code in codes_of(rules) for case in CHECKS[code].texts}


def noted(snapshot: Seen, read: set[str]) -> Seen:
    """The same snapshot, which records the names of the fields that are read."""
    fields = [field.name for field in dataclasses.fields(snapshot)]  # type: ignore[arg-type]
    watched: set[str] = set()

    class Noted(type(snapshot)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name in watched:
                read.add(name)
            return super().__getattribute__(name)

    made: Seen = Noted(**{name: getattr(snapshot, name) for name in fields})
    watched.update(fields)
    return made


def undeclared(
    rules: Iterable[Rule[Any, Any]], seen: Iterable[tuple[str, Any, Any]]
) -> dict[tuple[str, ...], set[str]]:
    """The fields that each rule reads and does not declare, or declares and does not read.

    Args:
        rules: the rules.
        seen: (code, planned object, snapshot) of the cases for each code.
    """
    cases = list(seen)
    found = {}
    for rule in rules:
        read: set[str] = set()
        for code, planned, snapshot in cases:
            if code in rule.codes:
                list(rule.find(planned, noted(snapshot, read)))
        if differing := read ^ set(rule.reads):
            found[rule.codes] = differing
    return found
