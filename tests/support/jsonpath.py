"""The part of kubectl's JSONPath that findings use: `spec.ports[?(@.port==443)].name`."""

from __future__ import annotations

import json
import re
from typing import Any

_STEP = re.compile(r'\.?([^.\[\]]+)|\[\?\(@\.([\w.]+)==("[^"]*"|\d+)\)\]|\[(\d+)\]')


def select(value: Any, path: str) -> list[Any]:
    """The values at a path; empty if there are none."""
    found, at = [value], 0
    while at < len(path):
        step = _STEP.match(path, at)
        assert step, f"cannot read {path[at:]!r}"
        at = step.end()
        name, field, wanted, index = step.groups()
        if name:
            found = [each[name] for each in found if isinstance(each, dict) and name in each]
        elif field:
            entries = [entry for each in found for entry in each]
            found = [entry for entry in entries if json.loads(wanted) in select(entry, field)]
        else:
            found = [each[int(index)] for each in found if len(each) > int(index)]
    return found
