"""Hypothesis strategies for forged annotations and objects."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

SPECIAL: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 53, 65535, 65536, 2**32, 2**63, 10**19, 1.5, 1e308),
        *("", "x", "../..", "a/b", "a%2fb", "a\x00b", "\x1b[2J", "\u202eevil", "\ud800", "a" * 300),
        *([], {}, [[]], {"": ""}, "1e999s", "10s", "-1s", "NaN"),
    ]
)
JSON = st.recursive(
    SPECIAL | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in decoded JSON, the whole first."""
    found = [path] if path else []
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            found += paths_of(each, (*path, key))
    return found


@st.composite
def changed_specs(draw: st.DrawFn, good: str) -> str:
    """A good annotation with some of its fields replaced, removed, or joined by others."""
    data = json.loads(good)
    for _ in range(draw(st.integers(1, 3))):
        paths = paths_of(data)
        if not paths:
            break
        *parents, last = draw(st.sampled_from(paths))
        place = data
        for key in parents:
            place = place[key]
        action = draw(st.integers(0, 3))
        if action == 0 and isinstance(place, dict):
            del place[last]
        elif action == 1 and isinstance(place, dict):
            place[draw(st.text(max_size=9))] = copy.deepcopy(draw(JSON))
        else:
            place[last] = copy.deepcopy(draw(JSON))
    return json.dumps(data)


@st.composite
def changed_texts(draw: st.DrawFn, text: str) -> str:
    """A good annotation with a part of its text replaced by other text."""
    begin = draw(st.integers(0, len(text)))
    end = draw(st.integers(begin, min(len(text), begin + 40)))
    middle = draw(st.text(max_size=20) | st.sampled_from(["9" * 5000, "NaN", "Infinity", "1e999"]))
    return text[:begin] + middle + text[end:]


def documents(good: str) -> st.SearchStrategy[str]:
    """Annotations of every sort: almost the good one, other JSON, and text that is not JSON."""
    brackets = st.builds(lambda text, times: text * times, st.sampled_from("[{"), st.just(70_000))
    nested = st.builds(
        lambda text, times: text * times,
        st.sampled_from(['{"a":', "[", '[{"":']),
        st.integers(1, 99),
    )
    return st.one_of(
        changed_specs(good),
        changed_specs(good),
        changed_texts(good),
        JSON.map(json.dumps),
        st.text(max_size=60),
        nested,
        brackets,
    )
