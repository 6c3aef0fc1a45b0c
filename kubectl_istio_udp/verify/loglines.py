"""Find one TCP connection's lines in a proxy's log, and the time between them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

# Istio's default text format ("Envoy access logs" in its documentation): a TCP connection has no
# request line; its duration in milliseconds follows the bytes received and sent.
_DURATION = re.compile(r'^\[[^\]]+\] "- - -" \d+ \S+ \S+ \S+ "[^"]*" \d+ \d+ (\d+) ')
_FRACTION = re.compile(r"\.(\d{1,6})\d*")


@dataclass(frozen=True)
class Line:
    """One log line of a connection.

    Attributes:
        at: its time in seconds since the epoch; as precise as the proxy's log flushing.
        open_seconds: the age of the connection according to the line; None if its format does not
            contain it.
        text: the text of the line.
    """

    at: float
    open_seconds: float | None
    text: str


def lines_of(log: str, client: str, server: str) -> tuple[Line, ...]:
    """The log lines of one connection; if several match, of the one with the most lines.

    Args:
        log: the log with timestamps.
        client: the client's address; its port distinguishes connections.
        server: the connection's destination `address:port` as this proxy sees it.
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
    """Whether a line contains an address (not just as the end of another one)."""
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
    """The mean time between lines in seconds; None for fewer than two lines.

    Uses the connection's age in the lines if all have it, otherwise the lines' times.
    """
    lines = tuple(lines)
    if len(lines) < 2:
        return None
    ages = [line.open_seconds for line in lines if line.open_seconds is not None]
    moments = ages if len(ages) == len(lines) else [line.at for line in lines]
    return (moments[-1] - moments[0]) / (len(moments) - 1)
