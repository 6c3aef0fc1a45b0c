"""Durations, written as kubectl's flags (`30s`, `1m30s`, `500ms`) or as Envoy's JSON."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kubectl_istio_udp.model.errors import UsageError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
# Envoy stores nanoseconds in 64 bits and rejects longer durations (292 years; measured).
_LONGEST_SECONDS = 9_223_372_035.0


@dataclass(frozen=True, order=True)
class Duration:
    """A duration, zero or longer.

    Attributes:
        seconds: the length in seconds, with millisecond resolution.
    """

    seconds: float

    def __post_init__(self) -> None:
        """Reject durations that Envoy cannot store.

        Raises:
            UsageError: below zero or over 292 years.
        """
        if not 0 <= self.seconds <= _LONGEST_SECONDS:
            raise UsageError(f"duration {self.seconds:g}s is not between 0s and 292 years")

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read `1h2m3s`, `500ms`, or a bare number of seconds.

        Args:
            text: what the user typed.

        Raises:
            UsageError: it is not a duration.
        """
        text = text.strip()
        if _NUMBER.fullmatch(text):
            return cls(float(text))
        if not _WHOLE.fullmatch(text):
            raise UsageError(
                f"{text!r} is not a duration",
                hints=["write it like 10s, 1m30s or 500ms"],
            )
        return cls(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))

    def envoy(self) -> str:
        """The JSON form of google.protobuf.Duration, e.g. `10s` or `0.5s`."""
        return f"{self.seconds:.3f}".rstrip("0").rstrip(".") + "s"

    def __str__(self) -> str:
        """The same text as `envoy`."""
        return self.envoy()
