"""Which clients move to another backend when weights change."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from kubectl_istio_udp.model.ports import Backend, ExposedPort
from kubectl_istio_udp.model.shares import MOST_SHARES, NUMBERS
from kubectl_istio_udp.plan.shares import with_kept_shares

# The tested clients' numbers: enough for each share of a few per cent.
SEEN = range(0, NUMBERS, NUMBERS // 1000)


def port(dropped: int = 0, **weights: int) -> ExposedPort:
    backends = tuple(Backend(53, weight=w, service=("team", name)) for name, w in weights.items())
    return ExposedPort(5300, 5300, backends, dropped)


def owners(found: ExposedPort) -> list[str]:
    """The name of the backend of each client; "" if its datagrams are dropped."""
    shares = found.shares or found.usual_shares
    services = [None if s.backend is None else found.backends[s.backend].service for s in shares]
    names = [service[1] if service else "" for service in services]
    return [
        next(name for share, name in zip(shares, names, strict=True) if share.first <= number)
        for number in SEEN
    ]


def moves(before: ExposedPort, after: ExposedPort) -> dict[tuple[str, str], float]:
    """The part of the clients that moves, by its backends before and after."""
    pairs = list(zip(owners(before), owners(after), strict=True))
    return {pair: pairs.count(pair) / len(pairs) for pair in set(pairs) if pair[0] != pair[1]}


def sizes(found: ExposedPort) -> dict[str, float]:
    names = owners(found)
    return {name: names.count(name) / len(names) for name in set(names)}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # The one between two others keeps all its clients.
        (port(a=50, b=30, c=20), port(a=40, b=30, c=30), {("a", "c"): 0.1}),
        (port(a=50, b=30, c=20), port(a=50, b=20, c=30), {("b", "c"): 0.1}),
        (port(a=20, b=30, c=50), port(a=30, b=30, c=40), {("c", "a"): 0.1}),
        # One comes, one goes, or takes the place of another.
        (port(a=60, b=40), port(a=60, b=40, c=100), {("a", "c"): 0.3, ("b", "c"): 0.2}),
        (port(a=50, b=30, c=20), port(b=30, c=20), {("a", "b"): 0.3, ("a", "c"): 0.2}),
        (port(a=50, b=30, c=20), port(d=50, b=30, c=20), {("a", "d"): 0.5}),
        # Only the share of an invalid backend is dropped.
        (port(a=50, b=30, c=20), port(50, b=30, c=20), {("a", ""): 0.5}),
        (port(50, b=30, c=20), port(a=50, b=30, c=20), {("", "a"): 0.5}),
    ],
)
def test_no_more_clients_move_than_must(
    before: ExposedPort, after: ExposedPort, expected: dict[tuple[str, str], float]
) -> None:
    found = with_kept_shares(after, before)
    assert moves(before, found) == pytest.approx(expected, abs=0.005)
    # And back again: those that have moved return, or others of the same number.
    back = with_kept_shares(before, found)
    assert sum(moves(found, back).values()) == pytest.approx(sum(expected.values()), abs=0.005)
    assert sizes(back) == pytest.approx(sizes(before), abs=0.005)


@pytest.mark.parametrize(
    "after", [port(a=5, b=3, c=2), port(c=20, b=30, a=50), port(b=300, a=500, c=200)]
)
def test_equal_shares_move_nobody(after: ExposedPort) -> None:
    """Whatever the order of the backends, and the sum of their weights."""
    before = with_kept_shares(port(a=50, b=30, c=20), port(a=20, b=60, c=20))
    assert moves(before, with_kept_shares(after, before)) == {}


def test_without_clients_there_is_nothing_to_keep() -> None:
    for before, after in ((port(a=0), port(a=1, b=1)), (port(a=1, b=1), port(a=0, b=0))):
        assert with_kept_shares(after, before) == after
    assert with_kept_shares(port(a=1, b=1), port(a=1, b=1)).shares == ()


@pytest.mark.parametrize("seed", range(5))
def test_many_changes(seed: int) -> None:
    """Each change moves few clients; the shares are only assigned again when there are many."""
    chosen = random.Random(seed)
    found, anew = port(a=1), 0
    for _ in range(100):
        weights = {name: chosen.choice((0, 1, 10, 35, 500)) for name in "abcdef"}
        wanted = port(chosen.choice((0, 0, 7)), **weights)
        if not any(weights.values()):
            continue
        before, found = found, with_kept_shares(wanted, found)
        total = wanted.dropped + sum(weights.values())
        expected = {name: weight / total for name, weight in weights.items() if weight}
        expected |= {"": wanted.dropped / total} if wanted.dropped else {}
        had, has = sizes(before), sizes(found)
        assert {**dict.fromkeys(expected, 0.0), **has} == pytest.approx(expected, abs=0.04)
        least = sum(max(0.0, size - had.get(name, 0.0)) for name, size in has.items())
        assert len(found.shares) <= MOST_SHARES
        if sum(moves(before, found).values()) > least + 0.05:
            assert not found.shares
            anew += 1
    assert anew <= 3


def test_the_spec_keeps_the_shares() -> None:
    found = with_kept_shares(port(50, b=30, c=20), port(a=50, b=30, c=20))
    assert found.shares and found.to_routed_data()["shares"] == "8388608 3355444:0 0:1"
    assert "shares" not in replace(found, shares=()).to_routed_data()
