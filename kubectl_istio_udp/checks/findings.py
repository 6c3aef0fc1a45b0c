"""Findings: what checks report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kubectl_istio_udp.checks.catalog import CHECKS, Check, Severity


@dataclass(frozen=True)
class Finding:
    """One finding of a rule.

    Attributes:
        code: e.g. `U101`, one of CHECKS.
        about: the object that has the problem, e.g. `EnvoyFilter istio-system/http3`.
        message: the problem and the objects concerned.
        hint: what to type or change next; "" if there is nothing to do.
    """

    code: str
    about: str
    message: str
    hint: str = ""

    @property
    def check(self) -> Check:
        """The entry of the code in CHECKS."""
        return CHECKS[self.code]

    @property
    def severity(self) -> Severity:
        """The severity."""
        return self.check.severity

    def __str__(self) -> str:
        """`message [U101]`."""
        return f"{self.message} [{self.code}]"


def errors(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings that prevent the write."""
    return tuple(f for f in findings if f.severity is Severity.ERROR)
