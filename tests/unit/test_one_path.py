"""`expose` has one path: no code of cli/ runs between its plan and its report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import kubectl_istio_udp
from tests.unit.conftest import Run

PACKAGE = str(Path(kubectl_istio_udp.__file__).parent)


@contextmanager
def calls_in_the_package() -> Iterator[list[str]]:
    """The functions that are called meanwhile, in this thread: `plan/exposure.py:plan`."""
    found: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            found.append(f"{code.co_filename[len(PACKAGE) + 1 :]}:{code.co_name}")

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


def test_expose_does_not_return_to_the_command_line_before_its_report(run: Run) -> None:
    with calls_in_the_package() as calls:
        done = run("expose", "coredns", "-p", "5300:53", "--wait", "--validate", "none")
    assert done.code == 0, done.err
    first = calls.index("plan/exposure.py:plan")
    last = calls.index("cli/run/printed.py:decided")
    between = {call for call in calls[first:last] if call.startswith("cli/")}
    assert between == set()
    after = {call for call in calls[last:] if call.startswith("cli/")}
    reporting = ("cli/run/printed.py:", "cli/run/expose.py:", "cli/applying.py:", "cli/main.py:")
    assert {call for call in after if not call.startswith(reporting)} == set()
