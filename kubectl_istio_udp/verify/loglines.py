"""The lines that a proxy's log has of one TCP connection, and the time between them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

# Istio's default text format ("Envoy access logs" in its documentation): a TCP connection has no
# request line, and its duration in milliseconds stands after the bytes received and sent.
_DURATION = re.compile(r'^\[[^\]]+\] "- - -" \d+ \S+ \S+ \S+ "[^"]*" \d+ \d+ (\d+) ')
_FRACTION = re.compile(r"\.(\d{1,6})\d*")


@dataclass(frozen=True)
class Line:
    """One line of a connection.

    Attributes:
        at: when it came, in seconds of the epoch: as exact as the proxy's flushing of its log.
        open_seconds: how long the connection had been open, by the line itself; None where its
            format does not tell.
        text: the line.
    """

    at: float
    open_seconds: float | None
    text: str


def lines_of(log: str, client: str, server: str) -> tuple[Line, ...]:
    """The lines of one connection in a log with timestamps: of several the one that has most.

    Args:
        log: what the API server gave.
        client: the client's address; its ports tell connections apart.
        server: the `address:port` that the connection was made to, as this proxy sees it.
    """
    found: dict[tuple[str, ...], list[Line]] = {}
    for raw in log.splitlines():
        stamp, _, text = raw.partition(" ")
        ports = tuple(sorted(set(re.findall(rf"(?<![\d.]){re.escape(client)}:(\d+)", text))))
        if ports and _has(text, server):
            found.setdefault(ports, []).append(Line(_seconds(stamp), _open_seconds(text), text))
    longest: list[Line] = max(found.values(), key=len, default=[])
    return tuple(longest)


def _has(text: str, socket: str) -> bool:
    """Whether an address stands in a line, not as the end of another one."""
    return re.search(rf"(?<![\d.]){re.escape(socket)}(?!\d)", text) is not None


def _seconds(stamp: str) -> float:
    plain = _FRACTION.sub(lambda match: f".{match[1]:0<6}", stamp).replace("Z", "+00:00")
    return datetime.fromisoformat(plain).timestamp()


def _open_seconds(text: str) -> float | None:
    if text.startswith("{"):
        try:
            value = json.loads(text).get("duration")
            return float(value) / 1000 if value is not None else None
        except (ValueError, TypeError):
            return None
    found = _DURATION.match(text)
    return int(found[1]) / 1000 if found else None


def interval(lines: Iterable[Line]) -> float | None:
    """The mean time between lines in seconds; None where there are fewer than two.

    By the proxy's own count of the connection's age where every line has it, else by when the
    lines came.
    """
    lines = tuple(lines)
    if len(lines) < 2:
        return None
    ages = [line.open_seconds for line in lines if line.open_seconds is not None]
    moments = ages if len(ages) == len(lines) else [line.at for line in lines]
    return (moments[-1] - moments[0]) / (len(moments) - 1)
