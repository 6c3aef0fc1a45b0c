"""Lenient access to decoded JSON: parts of an unknown format count as empty.

fields.py has the strict readers, which reject such parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a JSON object, else {}."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: object) -> list[Any]:
    """The value if it is a JSON array, else []."""
    return value if isinstance(value, list) else []
