"""Rules: functions that yield findings, with their codes and what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.model.kinds import ObjectRef, Spec
from kubectl_istio_udp.state.ownership import belongs

Planned = TypeVar("Planned")
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Rule(Generic[Planned, Seen]):
    """A rule over a planned object and a snapshot, wherever the snapshot comes from.

    Attributes:
        find: yields the findings.
        codes: the codes of the findings.
        reads: the fields of the snapshot that it reads.
    """

    find: Callable[[Planned, Seen], Iterator[Finding]]
    codes: tuple[str, ...]
    reads: tuple[str, ...]


def rule(
    *codes: str, reads: Sequence[str] = ()
) -> Callable[[Callable[[Planned, Seen], Iterator[Finding]]], Rule[Planned, Seen]]:
    """Make a rule of a function.

    Args:
        codes: the codes of its findings.
        reads: the fields of the snapshot that it reads.
    """

    def made(find: Callable[[Planned, Seen], Iterator[Finding]]) -> Rule[Planned, Seen]:
        return Rule(find, codes, tuple(reads))

    return made


def run_rules(
    rules: Iterable[Rule[Planned, Seen]], planned: Planned, snapshot: Seen
) -> tuple[Finding, ...]:
    """The findings of all rules, each once, errors first: a code's first digit is its severity."""
    found: dict[object, Finding] = {}
    for finding in (finding for rule in rules for finding in rule.find(planned, snapshot)):
        # Several gateway ports may lead to one port of a Service; one finding about it is enough.
        same = (finding.code, finding.object, finding.field, finding.message)
        found.setdefault(same, finding)
    return tuple(sorted(found.values(), key=lambda f: f.code))


def codes_of(rules: Iterable[Rule[Any, Any]]) -> frozenset[str]:
    """The codes of rules."""
    return frozenset(code for rule in rules for code in rule.codes)


def foreign_objects(spec: Spec, objects: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    """U101: an object of the plan exists, and does not belong to the planned spec."""
    for manifest in objects:
        if not belongs(manifest, spec):
            yield Finding(
                "U101",
                ObjectRef.of(manifest),
                "metadata.name",
                {"kind": spec.kind.words, "name": spec.name},
            )
