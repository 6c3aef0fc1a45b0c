"""The annotation in which every object keeps its spec: versioned JSON.

Whoever may write the object can write the annotation, so it is read here and nowhere else: its
length and depth are bounded before it is decoded, every field is checked (model/fields.py), and
whatever goes wrong is an error about this one object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from kubectl_istio_udp.model.errors import ClusterError, IstioUdpError, Unreadable
from kubectl_istio_udp.model.fields import Fields, shown
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.names import SPEC_ANNOTATION

SPEC_VERSION = 1
# 500 ports are 75 kB. The API server allows 256 KiB for all annotations of an object.
LONGEST_SPEC_BYTES = 131_072
# A spec has JSON objects and lists in one another up to 4 deep.
_DEEPEST = 8
# A number of more digits is none of ours; Python takes a long time for very many.
_MOST_DIGITS = 20
_LONGEST_REASON = 200
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_MADE_BY = {
    Kind.EXPOSURE: "expose",
    Kind.RESPONSE: "direct response",
    Kind.ACCESS_LOG: "access-log",
}
Made = TypeVar("Made")


def write_spec(data: Mapping[str, Any], version: int = SPEC_VERSION) -> str:
    """The annotation's text, sorted, so that the same spec is the same text.

    Args:
        data: the spec's fields.
        version: of the format.
    """
    return json.dumps({"version": version, **data}, sort_keys=True, separators=(",", ":"))


def read_spec(
    text: object,
    kind: Kind,
    build: Callable[[Fields], Made],
    versions: Sequence[int] = (SPEC_VERSION,),
) -> Made:
    """Read the annotation.

    Args:
        text: its value.
        kind: whose it is.
        build: makes the spec from the decoded fields; fields that it leaves are an error.
        versions: those that `build` understands.

    Raises:
        ClusterError: another version wrote it.
        Unreadable: it is no such spec, in whatever way.
    """
    try:
        fields = Fields(_decode(text))
        fields.version = _version(kind, fields.take("version", lambda value: value), versions)
        made = build(fields)
        fields.end()
    except ClusterError:
        raise
    except Exception as error:  # Whatever one object makes us raise is about that object.
        raise Unreadable(
            f"the annotation {SPEC_ANNOTATION} cannot be read: {_reason(error)}",
            hints=[f"repair it: kubectl istio-udp {_MADE_BY[kind]} ... --force-conflicts"],
        ) from error
    return made


def _version(kind: Kind, version: object, versions: Sequence[int]) -> int:
    if type(version) is not int or version not in versions:
        raise ClusterError(
            f"this {kind.words} was written in format {shown(version)}; this version reads format "
            f"{', '.join(map(str, versions))}",
            hints=["use the version of kubectl istio-udp that wrote it, or a newer one"],
        )
    return version


def _reason(error: Exception) -> str:
    text = error.message if isinstance(error, IstioUdpError) else str(error)
    return text[:_LONGEST_REASON] or type(error).__name__


def _decode(text: object) -> object:
    if not isinstance(text, str):
        raise ValueError(f"{shown(text)} is not a string")
    if len(text) > LONGEST_SPEC_BYTES or len(text.encode(errors="replace")) > LONGEST_SPEC_BYTES:
        raise ValueError(f"it is longer than {LONGEST_SPEC_BYTES} bytes")
    if _depth(text) > _DEEPEST:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
    return json.loads(
        text,
        object_pairs_hook=_object,
        parse_int=_whole,
        parse_float=_refuse,
        parse_constant=_refuse,
    )


def _depth(text: str) -> int:
    """How deep JSON objects and lists are in one another; strings are passed over."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is there twice")
    return found


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError("a number has too many digits")
    return int(text)


def _refuse(text: str) -> object:
    raise ValueError(f"{shown(text)} is not a whole number")
