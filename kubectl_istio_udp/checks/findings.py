"""What a check reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """ERROR refuses the write; WARNING is told and goes on; INFO is worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Finding:
    """One thing a rule found.

    Attributes:
        code: `U101` and so on.
        severity: how bad it is.
        message: what, and where: names the object concerned.
        hint: what to type or change next, "" where there is nothing to do.
    """

    code: str
    severity: Severity
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """`message [U101]`."""
        return f"{self.message} [{self.code}]"


def errors(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Those that refuse the write."""
    return tuple(f for f in findings if f.severity is Severity.ERROR)
