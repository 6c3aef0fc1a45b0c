"""Parse Envoy's log messages about rejected configuration. Pure.

There are two formats: lines of text that begin with a time, some with continuation lines, and one
JSON object per line (Istio's values.global.logAsJson, Envoy's --log-format).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

_TEXT_ENTRY = re.compile(r"^(?=\d{4}-\d\d-\d\dT\S+\t|\[\d{4}-\d\d-\d\d |\{)", re.MULTILINE)
_TEXT_END = re.compile(r"\tthread=\d+")
# One message per resource (cds_api_helper.cc, lds_api.cc).
_ONE = re.compile(
    r"\b[cl]ds: (?:cluster|listener) '(?P<name>[^']+)' config rejected: (?P<why>.*)", re.S
)
# One message for the whole update, from Envoys that do not write the former.
_ALL = re.compile(r" rejected: Error adding/updating (?:cluster|listener)\(s\) (?P<list>.*)", re.S)
_NEXT = re.compile(r"(?:^|, |\n)(?P<name>[^\s,:|]\S*?): ", re.M)
# If a resource violates a constraint, Envoy rejects the whole update and prints the resource.
_PRINTED = re.compile(r" rejected: .*?^name: \"(?P<name>[^\"]+)\"$(?P<why>.*)", re.S | re.M)
_DUPLICATE = re.compile(r" rejected: .*\b(?P<why>duplicate \w+ (?P<name>\S+) found)", re.S)
_ROUTES = re.compile(r"\.RouteConfiguration rejected: (?P<why>.*)", re.S)


def resource_rejections(log: str) -> dict[str, str]:
    """The newest error for each listener and cluster that Envoy rejected, by name.

    Args:
        log: the lines of an Envoy's log, oldest first, in either format.
    """
    rejected = (pair for message in _messages(log) for pair in _rejected(message))
    return {name: reason(why) for name, why in rejected}


def route_rejections(log: str) -> list[str]:
    """The errors of rejected route configurations; they do not name the route configuration."""
    matches = (_ROUTES.search(message) for message in _messages(log))
    return [reason(match["why"]) for match in matches if match]


def _messages(log: str) -> Iterator[str]:
    for entry in _TEXT_ENTRY.split(log):
        if entry.startswith("{"):
            for line in entry.splitlines():
                yield _json_message(line)
        else:
            yield _TEXT_END.split(entry)[0]


def _json_message(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return ""
    message = entry.get("msg") or entry.get("message") if isinstance(entry, dict) else None
    return message if isinstance(message, str) else ""


def _rejected(message: str) -> Iterator[tuple[str, str]]:
    for pattern in (_ONE, _DUPLICATE, _PRINTED):
        if found := pattern.search(message):
            yield found["name"], found["why"]
            return
    every = _ALL.search(message)
    if every:
        # name, reason, name, reason, ...
        parts = _NEXT.split(every["list"])[1:]
        yield from zip(parts[::2], parts[1::2], strict=False)


def reason(text: str) -> str:
    """Envoy's error on one line, without the printed configuration that may precede it."""
    return " ".join(text.rpartition("\n: ")[2].split())
