"""The annotation that stores the spec in each object: versioned JSON.

Anyone who may write the object can write the annotation, so only this module reads it. It limits
length and depth before decoding, checks every field (model/fields.py), and reports every problem
as an error about this one object.
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
# 500 ports take 75 kB, 256 backends of a Gateway 110 kB. The API server allows 256 KiB for all
# annotations of an object.
LONGEST_SPEC_BYTES = 131_072
# The JSON of a spec is nested up to 4 levels.
_DEEPEST = 8
# No field needs more digits, and Python parses very long numbers slowly.
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
    """Serialize a spec: JSON with sorted keys, so equal specs give equal text.

    Args:
        data: the spec's fields.
        version: the version of the format.
    """
    return json.dumps({"version": version, **data}, sort_keys=True, separators=(",", ":"))


def read_spec(
    text: object,
    kind: Kind,
    build: Callable[[Fields], Made],
    versions: Sequence[int] = (SPEC_VERSION,),
) -> Made:
    """Decode the annotation and build the spec.

    Args:
        text: the annotation's value.
        kind: the kind of the spec, for messages.
        build: makes the spec from the decoded fields; fields that it does not read are an error.
        versions: the format versions that `build` supports.

    Raises:
        ClusterError: the format version is not supported.
        Unreadable: the value is not a valid spec.
    """
    try:
        fields = Fields(_decode(text))
        fields.version = _version(kind, fields.take("version", lambda value: value), versions)
        made = build(fields)
        fields.end()
    except ClusterError:
        raise
    except Exception as error:  # One bad object must not break a list.
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
    """The maximum nesting depth of JSON objects and lists, ignoring brackets in strings."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate field")
    return found


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError("a number has too many digits")
    return int(text)


def _refuse(text: str) -> object:
    raise ValueError(f"{shown(text)} is not a whole number")
