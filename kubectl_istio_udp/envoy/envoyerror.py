"""Parse Envoy's error about a rejected configuration, and find the field that it concerns. Pure.

Envoy's loader names the field (`invalid JSON in ... @ static_resources.listeners[0].address`), and
its constraints name fields within a message (`UdpProxyConfigValidationError.HashPolicies[0]`).
Other errors contain a value at best.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.envoy.patches import Path, same

# The critical line of the log; everything after this, including further lines, is the reason.
_REASON = re.compile(r"error initializing configuration '[^']*': (.*)", re.DOTALL)
# protobuf varies the white space of its messages between builds, to discourage parsing them. So all
# white space is folded first.
_PLACE = re.compile(
    r"invalid JSON in \S+ @ (?P<place>\S+): .*?\(offset \d+\): (?P<why>.*?)\)"
    r"(?: has unknown fields)?$"
)
_WITHOUT_PLACE = re.compile(r"INVALID_ARGUMENT: (?P<why>.*?)\)(?: has unknown fields)?$")
_CONSTRAINT = re.compile(r"Proto constraint validation failed \((?P<chain>.*)\)$")
_LINK = re.compile(r"(?P<message>\w+)ValidationError\.(?P<field>\w+)(?:\[(?P<index>[^\]]*)\])?: ")
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")
_ONE_OF = re.compile(r'field: "(\w+)", reason: ')
_PART = re.compile(r"<any>|([A-Za-z_0-9]+)|\[(\d+)\]|\[\"?([^\]\"]+)\"?\]")
# Values in a reason: in quotes, or after a colon.
_VALUES = re.compile(r"'([^']+)'|\"([^\"]+)\"|: ([^\s'\"]+?)\.?(?: |$)")
_UNKNOWN_FIELD = re.compile(r"no such field: '([^']+)'")
_UNKNOWN_CLUSTER = re.compile(r"unknown (?:gRPC client |\w+ )?cluster '([^']+)'", re.IGNORECASE)
_UNKNOWN_TYPE = re.compile(
    r"could not find @type '(?:type\.googleapis\.com/)?([^']+)'"
    r"|registered implementation for '([^']+)'"
)
_MISSING_FILE = re.compile(
    r"Invalid path: |(?:from|load|open|read)\w* .*path: |unable to read file"
)


@dataclass(frozen=True)
class EnvoyError:
    """Why Envoy rejects a configuration.

    Attributes:
        why: the reason on one line, without the configuration that Envoy repeats.
        start: the message type that `fields` start from, without its package, for example
            `UdpProxyConfig`; "" for the configuration itself.
        fields: the path of the field in Envoy's spelling; empty if the error has none.
    """

    why: str
    start: str = ""
    fields: Path = ()

    @property
    def unknown_cluster(self) -> str | None:
        """The missing cluster that the configuration refers to, if that is the reason."""
        found = _UNKNOWN_CLUSTER.search(self.why)
        return found[1] if found else None

    @property
    def unknown_type(self) -> str | None:
        """The message type or extension that this Envoy lacks, if that is the reason."""
        found = _UNKNOWN_TYPE.search(self.why)
        return (found[1] or found[2]) if found else None

    @property
    def missing_file(self) -> bool:
        """Whether the reason is a file that does not exist here, but may exist in a gateway."""
        return bool(_MISSING_FILE.search(self.why))


def read_envoy_error(log: str) -> EnvoyError:
    """Parse Envoy's log about a rejected configuration."""
    found = _REASON.search(log)
    text = " ".join((found[1] if found else log).split())
    text = text.partition('): {"node"')[0] + (")" if '): {"node"' in text else "")
    constraint = _CONSTRAINT.search(text)
    if constraint:
        return _constraint(constraint["chain"])
    place = _PLACE.search(text)
    if place:
        why = place["why"]
        unknown = _UNKNOWN_FIELD.search(why)
        fields = tuple(_parts(place["place"])) + ((unknown[1],) if unknown else ())
        return EnvoyError(why, fields=fields)
    bare = _WITHOUT_PLACE.search(text)
    # The configuration follows the debug mark.
    return EnvoyError(bare["why"] if bare else text.partition(": goo.gle/debug")[0][:500])


def _constraint(chain: str) -> EnvoyError:
    links = list(_LINK.finditer(chain))
    fields: list[str | int] = []
    for link in links:
        fields.append(link["field"])
        if link["index"]:
            fields.append(int(link["index"]) if link["index"].isdigit() else link["index"])
    why = chain[links[-1].end() :] if links else chain
    one_of = _ONE_OF.search(chain)
    if one_of:
        why = f"one of the fields for its {one_of[1]} {chain[one_of.end() :]}"
    elif links and why:
        why = why.rpartition("caused by ")[2]
    start = links[0]["message"] if links else ""
    return EnvoyError(why, "" if start == "Bootstrap" else start, tuple(fields))


def _parts(place: str) -> Iterator[str | int]:
    for found in _PART.finditer(place):
        if found[1]:
            yield found[1]
        elif found[2]:
            yield int(found[2])
        elif found[3]:
            yield found[3]


def find_field(error: EnvoyError, configuration: Mapping[str, Any], within: Path) -> Path | None:
    """Find the field that an error concerns.

    Args:
        error: the error.
        configuration: the rejected configuration.
        within: the path of the only part to search.

    Returns:
        The path of the field, which may be missing in its parent; None if unknown.
    """
    if error.fields and not error.start:
        return _walk(configuration, (), error.fields)
    if error.start:
        holders = [
            path
            for path, node in _nodes(configuration, ())
            if isinstance(node, Mapping)
            and str(node.get("@type", "")).rpartition(".")[2] == error.start
            and (path[: len(within)] == within or within[: len(path)] == path)
        ]
        places = [_walk(configuration, path, error.fields) for path in holders]
        # Of several messages with the type, prefer one that lacks the field.
        places.sort(key=lambda place: bool(_at(configuration, place)))
        inside = [place for place in places if place[: len(within)] == within]
        if inside:
            return inside[0]
    values = ["".join(found) for found in _VALUES.findall(error.why)]
    part = _at(configuration, within)
    for value in values:
        for path, node in _nodes(part, within):
            if not isinstance(node, Mapping | list) and str(node) == value:
                return path
    return None


def _walk(configuration: Any, path: Path, fields: Path) -> Path:
    """The path through the fields; missing ones are in the API's spelling."""
    node = _at(configuration, path)
    for wanted in fields:
        if isinstance(node, Mapping):
            keys = list(node)
            if isinstance(wanted, int):
                # An entry of a map, by its position.
                key = keys[wanted] if wanted < len(keys) else wanted
            else:
                found = [k for k in keys if same(str(k)) == same(wanted)]
                key = found[0] if found else _CAPITAL.sub("_", wanted).lower()
        else:
            key = wanted
        path, node = (*path, key), _at(node, (key,))
    return path


def _nodes(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every part of a configuration with its path, outer parts first."""
    yield path, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _nodes(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _nodes(value, (*path, index))


def _at(node: Any, path: Path) -> Any:
    """The part of a configuration at a path; None if it does not exist."""
    for part in path:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return None
    return node
