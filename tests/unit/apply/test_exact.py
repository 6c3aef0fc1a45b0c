"""Whether an object has what was written."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.apply.exact import has_all

DNS = {"port": 53, "protocol": "UDP"}


@pytest.mark.parametrize(
    ("existing", "written", "has"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"b": 2}, {"a": 1}, False),
        ({}, {"a": {}, "b": []}, True),  # not stored
        ({}, {"a": ""}, False),
        (None, {"a": 1}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        # Of a Service's ports others may add one, and the server adds fields.
        ([{"port": 80}, {**DNS, "nodePort": 30053}], [DNS], True),
        ([{"port": 80}], [DNS], False),
        # A list of other objects counts as a whole.
        ([{"name": "a", "uid": "1"}], [{"name": "a"}], False),
    ],
)
def test_an_object_has_what_was_written(existing: Any, written: Any, has: bool) -> None:
    assert has_all(existing, written) is has
