"""The rule that all kinds share: existing objects of others are not overwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.model.kinds import ObjectRef, Spec
from kubectl_istio_udp.state.ownership import belongs

Thing = TypeVar("Thing")
Seen = TypeVar("Seen")


def foreign_objects(spec: Spec, objects: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    """U101: one of our objects would overwrite an existing one that does not belong to it."""
    for manifest in objects:
        ref = ObjectRef.of(manifest)
        if not belongs(manifest, spec):
            yield Finding(
                "U101",
                str(ref),
                f"{ref} already exists and does not belong to {spec.kind.words} {spec.name}",
                f"give the {spec.kind.words} another name: --name",
            )


def run_rules(
    rules: Sequence[Callable[[Thing, Seen], Iterator[Finding]]], thing: Thing, seen: Seen
) -> tuple[Finding, ...]:
    """The findings of all rules, errors first: a code's first digit is its severity."""
    found = [finding for rule in rules for finding in rule(thing, seen)]
    return tuple(sorted(found, key=lambda f: f.code))


def documented_codes(rules: Iterable[Callable[..., Any]]) -> frozenset[str]:
    """The codes in the rules' docstrings (`U113, U212: ...`), which docs/checks.md must have."""
    lines = [(rule.__doc__ or "").partition(":")[0] for rule in rules]
    return frozenset(code.strip() for line in lines for code in line.split(","))
