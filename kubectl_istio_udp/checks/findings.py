"""What a check reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kubectl_istio_udp.checks.catalog import CHECKS, Check, Severity


@dataclass(frozen=True)
class Finding:
    """One thing a rule found.

    Attributes:
        code: `U101` and so on, one of CHECKS.
        about: the object it was found about: `EnvoyFilter istio-system/http3`.
        message: what, and where: names the object concerned.
        hint: what to type or change next, "" where there is nothing to do.
    """

    code: str
    about: str
    message: str
    hint: str = ""

    @property
    def check(self) -> Check:
        """What is always true of findings with this code."""
        return CHECKS[self.code]

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return self.check.severity

    def __str__(self) -> str:
        """`message [U101]`."""
        return f"{self.message} [{self.code}]"


def errors(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Those that refuse the write."""
    return tuple(f for f in findings if f.severity is Severity.ERROR)
