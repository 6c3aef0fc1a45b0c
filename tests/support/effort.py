"""The number of examples of a generated test."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    """`count` times the environment variable EXAMPLES_TIMES.

    `make test` tries `count` of them; `make fuzz` names a larger factor.
    """
    return count * int(os.environ.get("EXAMPLES_TIMES", "1"))
