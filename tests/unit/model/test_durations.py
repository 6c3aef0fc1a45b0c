from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds", "envoy"),
    [
        ("10s", 10, "10s"),
        ("1m30s", 90, "90s"),
        ("500ms", 0.5, "0.5s"),
        ("1h2m3s4ms", 3723.004, "3723.004s"),
        ("1.5m", 90, "90s"),
        ("5", 5, "5s"),
        ("0.25", 0.25, "0.25s"),
        (" 30s ", 30, "30s"),
        ("0", 0, "0s"),
        ("0s", 0, "0s"),
        ("100s", 100, "100s"),
        ("9223372035s", 9_223_372_035, "9223372035s"),
    ],
)
def test_reads_what_kubectl_writes_and_writes_what_envoy_reads(
    text: str, seconds: float | int, envoy: str
) -> None:
    found = Duration.parse(text)
    assert found.seconds == pytest.approx(seconds)
    assert found.envoy() == envoy == str(found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        "10x",
        "-1s",
        "+1s",
        "1 s",
        "1s 2s",
        "1e3s",
        ".5s",
        "5.s",
        "nan",
        "inf",
        "10S",
        "ms",
        "\u0661\u0660s",
    ],
)
def test_rejects_invalid_durations(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration") as caught:
        Duration.parse(text)
    assert "10s" in caught.value.hints[0]


@pytest.mark.parametrize("text", ["9223372036s", "9" * 400 + "h"])
def test_rejects_durations_that_protobuf_cannot_hold(text: str) -> None:
    with pytest.raises(UsageError, match="292 years"):
        Duration.parse(text)


def test_rejects_a_negative_duration() -> None:
    with pytest.raises(UsageError, match="not between"):
        Duration(-0.001)


@given(st.integers(min_value=0, max_value=10**12))
def test_every_whole_millisecond_survives_a_round_trip(milliseconds: int) -> None:
    there = Duration.parse(f"{milliseconds}ms")
    assert Duration.parse(there.envoy()).envoy() == there.envoy()
    assert round(Duration.parse(there.envoy()).seconds * 1000) == milliseconds


def test_orders_by_length() -> None:
    assert Duration.parse("1m") > Duration.parse("59s")
