from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import MOST_USEFUL_SESSIONS
from kubectl_istio_udp.model.request import rate
from kubectl_istio_udp.plan.sessions import (
    RESERVED_FILES,
    SessionLimit,
    SessionRoom,
    automatic_sessions,
    budget,
    room,
    sessions_for_rate,
)
from tests.support.builders import cluster, plan_of, usage

SMALL, USUAL = 20_000, 2**20


@pytest.mark.parametrize(
    ("limit", "elsewhere", "ports", "kept", "expected"),
    [
        (SMALL, 0, 1, None, 1_125),
        (SMALL, 0, 2, None, 562),
        (SMALL, 9_000, 1, None, 562),
        (SMALL, 17_000, 1, None, 100),
        (SMALL, 17_950, 1, None, 50),
        (SMALL, 17_900, 2, None, 50),
        (SMALL, 18_000, 1, None, 1),
        (SMALL, 0, 2, 9_000, 9_000),
        (SMALL, 0, 2, 9_001, 562),
        (USUAL, 0, 1, None, 1_750),
        (USUAL, 28_000, 1, None, 100),
        (USUAL, 500_000, 1, 28_000, 28_000),
        (None, 0, 1, None, 1_125),
        (None, 90_000, 1, 7, 7),
        (0, 0, 1, None, 1),
    ],
)
def test_the_sessions_of_an_exposure(
    limit: int | None, elsewhere: int, ports: int, kept: int | None, expected: int
) -> None:
    assert automatic_sessions(limit, elsewhere, ports, kept) == expected


@given(
    st.integers(0, 2**21),
    st.integers(0, 2**20),
    st.integers(1, 20),
    st.none() | st.integers(1, 2**20),
)
def test_never_more_sessions_than_are_left(
    limit: int, elsewhere: int, ports: int, kept: int | None
) -> None:
    found = automatic_sessions(limit, elsewhere, ports, kept)
    free = room(limit, elsewhere)
    assert found >= 1
    assert found * ports <= free or found == 1


def test_a_plan_respects_the_limits_of_the_gateway() -> None:
    facts = {"file_limit": RESERVED_FILES + 8_000, "others": usage(sessions=2_000)}
    assert plan_of(facts=facts).exposure.spec.options.max_sessions == 375


def test_a_plan_keeps_what_the_exposure_has() -> None:
    before = plan_of(max_sessions=77).exposure.spec
    facts = {"file_limit": 2**20, "exposures": (before,)}
    assert plan_of(facts=facts).exposure.spec.options.max_sessions == 77


def test_a_plan_uses_the_requested_number() -> None:
    plan = plan_of(cluster(), facts={"file_limit": 2**20}, max_sessions=5)
    assert plan.exposure.spec.options.max_sessions == 5


@pytest.mark.parametrize("limit", [20_000, 65_536, 1_048_576])
def test_fifty_exposures_fit(limit: int) -> None:
    """Each of the first fifty gets 100 sessions at least, and none is asked to give any up."""
    reserved, given = 0, []
    for _ in range(50):
        given.append(automatic_sessions(limit, reserved, 1, None))
        reserved += given[-1]
    assert min(given) >= 100
    assert reserved <= min(budget(limit), MOST_USEFUL_SESSIONS)
    assert given[0] > 1_024  # Envoy's own default
    assert given == sorted(given, reverse=True)


@pytest.mark.parametrize(
    ("rate", "idle", "expected"), [(100, 10, 1_270), (0.5, 60, 58), (800, 10, 10_020)]
)
def test_sessions_for_an_expected_rate(rate: float | int, idle: int, expected: int) -> None:
    assert sessions_for_rate(rate, idle) == expected


def test_a_plan_follows_the_expected_rate() -> None:
    plan = plan_of(facts={"file_limit": 2**20}, expect_rate=100)
    assert plan.exposure.spec.options.max_sessions == 1_270


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "many", ""])
def test_invalid_rates(text: str) -> None:
    with pytest.raises(UsageError, match="new clients a second"):
        rate(text)


def fails() -> int:
    pytest.fail("nothing depends on the gateway's other exposures")


@pytest.mark.parametrize(
    ("room_", "ports", "before", "expected"),
    [
        # A number is kept as long as it fits, also if a port is added.
        (SessionRoom(SMALL, lambda: 0), 2, (1, 500), 500),
        (SessionRoom(SMALL, lambda: 0, stays=True), 2, (1, 500), 500),
        # With `stays` and the same ports it is kept, whatever others use.
        (SessionRoom(SMALL, lambda: 18_000), 1, (1, 500), 1),
        (SessionRoom(SMALL, fails, stays=True), 1, (1, 500), 500),
        (SessionRoom(SMALL, lambda: 18_000, stays=True), 2, (1, 500), 1),
        # The namespace's limit: half for a new exposure, all for an existing one.
        (SessionRoom(SMALL, lambda: 0, limit=lambda: SessionLimit(4_000, 1_000)), 1, None, 500),
        (SessionRoom(SMALL, lambda: 0, limit=lambda: SessionLimit(300, 1_000)), 1, None, 300),
        (SessionRoom(SMALL, lambda: 0, limit=lambda: SessionLimit(4_000, 1_000)), 2, (1, 500), 500),
        (
            SessionRoom(SMALL, fails, stays=True, limit=lambda: SessionLimit(4_000, 600)),
            2,
            (2, 500),
            300,
        ),
    ],
)
def test_the_sessions_that_are_granted(
    room_: SessionRoom, ports: int, before: tuple[int, int] | None, expected: int
) -> None:
    assert room_.granted(ports, before) == expected
