"""`expose` has one path, and a short one: no code of cli/ runs between its plan and its report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import kubectl_istio_udp
from tests.unit.conftest import Run

PACKAGE = str(Path(kubectl_istio_udp.__file__).parent)


# What is done with `-p 5300:53`, from the command line to the printed line.
STAGES = (
    "model/ports.py:parse_port_requests",
    "plan/exposure.py:plan",
    "checks/expose.py:check_expose",
    "render/exposure.py:writes",
    "apply/changes.py:change_set",
    "apply/transaction.py:apply",
    "cli/run/printed.py:written",
    "output/printing.py:object_line",
)
# So that a reader can follow it.
MOST_BOUNDARIES = 25


def function_of(frame: FrameType) -> str:
    """`plan/exposure.py:plan`; "" outside the package."""
    code = frame.f_code
    inside = code.co_filename.startswith(PACKAGE)
    return f"{code.co_filename[len(PACKAGE) + 1 :]}:{code.co_name}" if inside else ""


def callers_of(frame: FrameType) -> list[str]:
    """The functions of the package that led to a call, the first caller first, and the callee."""
    found = []
    at: FrameType | None = frame
    while at is not None:
        found.append(function_of(at))
        at = at.f_back
    return [name for name in reversed(found) if name]


@contextmanager
def profiled(note: Callable[[FrameType], object]) -> Iterator[None]:
    """Call something with the frame of each call in the package, in this thread."""

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and function_of(frame):
            note(frame)

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_expose_does_not_return_to_the_command_line_before_its_report(run: Run) -> None:
    calls: list[str] = []
    with profiled(lambda frame: calls.append(function_of(frame))):
        done = run("expose", "coredns", "-p", "5300:53", "--wait", "--validate", "none")
    assert done.code == 0, done.err
    first = calls.index("plan/exposure.py:plan")
    last = calls.index("cli/run/printed.py:decided")
    between = {call for call in calls[first:last] if call.startswith("cli/")}
    assert between == set()
    after = {call for call in calls[last:] if call.startswith("cli/")}
    reporting = ("cli/run/printed.py:", "cli/run/expose.py:", "cli/applying.py:", "cli/main.py:")
    assert {call for call in after if not call.startswith(reporting)} == set()


def test_a_port_crosses_few_function_boundaries_from_the_command_line_to_the_printed_line(
    run: Run,
) -> None:
    """A boundary is a caller and the function that it calls, on the way to one of the stages."""
    reached: set[str] = set()
    boundaries: set[tuple[str, str]] = set()

    def note(frame: FrameType) -> None:
        if function_of(frame) in STAGES:
            callers = callers_of(frame)
            reached.add(callers[-1])
            boundaries.update(pairwise(callers))

    with profiled(note):
        done = run("expose", "coredns", "-p", "5300:53", "--wait", "--validate", "none")
    assert done.code == 0, done.err
    assert reached == set(STAGES)
    assert len(boundaries) <= MOST_BOUNDARIES, sorted(boundaries)
