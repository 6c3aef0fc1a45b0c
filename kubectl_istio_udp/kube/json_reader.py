"""Read the API server's JSON, however deeply its objects are nested."""

from __future__ import annotations

import json
import re
from typing import Any

# Deeper than any object that the plugin needs.
_DEEPEST = 100
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{\]}]', re.DOTALL)


def decoded(text: bytes) -> Any:
    """Decode JSON; values that are nested too deeply are null.

    The API server accepts 10,000 levels, but Python 3.12 only about 1,000. A tenant can write such
    an EnvoyFilter. Without this, it would hide all others in the same list.

    Raises:
        ValueError: it is not JSON in UTF-8.
    """
    try:
        return json.loads(text)
    except RecursionError:
        return json.loads(_without_depths(text))


def _without_depths(text: bytes) -> bytes:
    """JSON with null in place of objects and lists that are nested too deeply.

    Raises:
        ValueError: the brackets do not match.
    """
    kept: list[bytes] = []
    depth = begin = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        if token[0] in (b"[", b"{"):
            depth += 1
            if depth == _DEEPEST + 1:
                kept += [text[begin : token.start()], b"null"]
        elif token[0] in (b"]", b"}"):
            if depth == _DEEPEST + 1:
                begin = token.end()
            depth -= 1
    if depth:
        raise ValueError("the brackets do not match")
    return b"".join([*kept, text[begin:]])
