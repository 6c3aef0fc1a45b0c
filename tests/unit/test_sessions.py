from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model.sessions import (
    CAREFUL_SESSIONS,
    FEW_SESSIONS,
    MOST_USEFUL_SESSIONS,
    RESERVED_FILES,
    automatic_sessions,
    room,
)
from kubectl_istio_udp.model.snapshot import Others
from tests.unit.builders import cluster, plan_of


@pytest.mark.parametrize(
    ("limit", "elsewhere", "ports", "kept", "expected"),
    [
        (None, 0, 1, None, CAREFUL_SESSIONS),
        (None, 0, 1, 7, 7),
        (2**30, 0, 1, None, MOST_USEFUL_SESSIONS),
        (RESERVED_FILES + 8_000, 0, 1, None, 4_000),
        (RESERVED_FILES + 8_000, 0, 2, None, 2_000),
        (RESERVED_FILES + 8_000, 6_000, 1, None, 1_000),
        (RESERVED_FILES + 8_000, 0, 2, 4_000, 4_000),
        (RESERVED_FILES + 8_000, 0, 2, 4_001, 2_000),
        (RESERVED_FILES + 1_500, 0, 1, None, FEW_SESSIONS),
        (RESERVED_FILES + 1_500, 0, 2, None, 750),
        (RESERVED_FILES + 600, 0, 1, None, 600),
        (RESERVED_FILES, 0, 1, None, 1),
        (0, 0, 1, None, 1),
    ],
)
def test_the_sessions_of_an_exposure(limit, elsewhere, ports, kept, expected):
    assert automatic_sessions(limit, elsewhere, ports, kept) == expected


@given(
    st.integers(0, 2**21),
    st.integers(0, 2**20),
    st.integers(1, 20),
    st.none() | st.integers(1, 2**20),
)
def test_never_more_than_there_is_room_for(limit, elsewhere, ports, kept):
    found = automatic_sessions(limit, elsewhere, ports, kept)
    free = room(limit, elsewhere)
    assert found >= 1
    assert found * ports <= free or found == 1


def test_a_plan_takes_what_the_gateway_can_hold():
    facts = {"file_limit": RESERVED_FILES + 8_000, "others": Others(sessions=2_000)}
    assert plan_of(facts=facts).exposure.spec.options.max_sessions == 3_000


def test_a_plan_keeps_what_the_exposure_has():
    before = plan_of(max_sessions=77).exposure.spec
    facts = {"file_limit": 2**20, "exposures": (before,)}
    assert plan_of(facts=facts).exposure.spec.options.max_sessions == 77


def test_a_plan_does_as_it_is_told():
    plan = plan_of(cluster(), facts={"file_limit": 2**20}, max_sessions=5)
    assert plan.exposure.spec.options.max_sessions == 5
