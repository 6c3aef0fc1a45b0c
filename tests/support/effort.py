"""How many examples a generated test tries."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    """The number of examples: `count`, times what the environment's EXAMPLES_TIMES names.

    `make test` tries `count` of them; `make fuzz` names a larger factor.
    """
    return count * int(os.environ.get("EXAMPLES_TIMES", "1"))
