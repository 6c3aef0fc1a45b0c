from __future__ import annotations

import json

import pytest

from kubectl_istio_udp.verify.loglines import Line, interval, lines_of

CLIENT, SERVER = "10.244.0.8", "10.244.0.11:9000"


def text(
    milliseconds: int,
    client: str = f"{CLIENT}:34330",
    server: str = SERVER,
    own: str = f"{CLIENT}:34340",
) -> str:
    """A line as Istio's default format has it at a client's sidecar."""
    return (
        f'[2026-11-24T09:36:30.138Z] "- - -" 0 - - - "-" 0 0 {milliseconds} - "-" "-" "-" "-" '
        f'"{server}" PassthroughCluster {own} {server} {client} - -'
    )


def log(*entries: tuple[int, str]) -> str:
    """(seconds, line) as the kubelet stamps them."""
    return "".join(f"2026-11-24T09:36:{at:02}.123456789Z {line}\n" for at, line in entries)


LINES = [(35, text(4999)), (40, text(10001)), (45, text(15003))]


def test_reads_the_lines_of_a_connection() -> None:
    first, second, third = lines_of(log(*LINES), CLIENT, SERVER)
    assert first.text == text(4999)
    assert [line.open_seconds for line in (first, second, third)] == [4.999, 10.001, 15.003]
    assert second.at - first.at == pytest.approx(5)
    assert first.at % 60 == pytest.approx(35.123456, abs=1e-5)


def test_the_proxys_own_count_gives_the_interval() -> None:
    """The kubelet's timestamps are from when the lines are flushed: late, and all at once."""
    late = [(46, line) for _, line in LINES]
    assert interval(lines_of(log(*late), CLIENT, SERVER)) == pytest.approx(5.002)


def test_other_lines_do_not_count() -> None:
    """Among them are what the proxy itself says, other clients and servers, and empty lines."""
    others = [
        (33, "2026-11-24T09:36:33.1Z\tinfo\txdsproxy\tconnected to upstream XDS server"),
        (34, text(7, server="10.244.0.12:9000")),
        (34, text(7, client="10.244.0.9:34330", own="10.244.0.9:34340")),
        (34, ""),
    ]
    assert len(lines_of(log(*others, *LINES), CLIENT, SERVER)) == 3
    assert lines_of(log(*others), CLIENT, SERVER) == ()
    assert lines_of("", CLIENT, SERVER) == ()


@pytest.mark.parametrize(
    ("client", "server"),
    [
        ("10.244.0.8", "10.244.0.11:900"),
        ("10.244.0.8", "0.244.0.11:9000"),
        ("0.244.0.8", SERVER),
        ("44.0.8", SERVER),
        ("10.244.0", SERVER),
        ("10x244y0z8", SERVER),
        ("10.244.0.80", SERVER),
    ],
)
def test_a_part_of_an_address_is_another_address(client: str, server: str) -> None:
    assert lines_of(log(*LINES), client, server) == ()


def test_of_several_connections_the_one_with_most_lines_counts() -> None:
    other = text(100, client=f"{CLIENT}:40000", own=f"{CLIENT}:40010")
    mixed = [(34, other), *LINES, (46, other)]
    found = lines_of(log(*mixed), CLIENT, SERVER)
    assert [line.open_seconds for line in found] == [4.999, 10.001, 15.003]


def test_reads_json_lines() -> None:
    def line(milliseconds: int) -> str:
        return json.dumps(
            {
                "duration": milliseconds,
                "downstream_remote_address": f"{CLIENT}:34330",
                "upstream_host": SERVER,
            }
        )

    found = lines_of(log((35, line(5000)), (40, line(10000))), CLIENT, SERVER)
    assert [entry.open_seconds for entry in found] == [5, 10]
    assert interval(found) == 5


@pytest.mark.parametrize(
    "line",
    [
        f"{CLIENT}:34330 -> {SERVER}",
        f'{{"from": "{CLIENT}:34330", "to": "{SERVER}"}}',
        f'{{"duration": null, "from": "{CLIENT}:34330", "to": "{SERVER}"}}',
        f'{{"duration": "-", "from": "{CLIENT}:34330", "to": "{SERVER}"}}',
        f'{{"duration": [], "from": "{CLIENT}:34330", "to": "{SERVER}"}}',
        f'{{"cut": "{CLIENT}:34330 {SERVER}',
        f'[x] "GET / HTTP/1.1" 200 - - - "-" 0 0 5 - "{CLIENT}:34330" "{SERVER}"',
    ],
)
def test_lines_in_another_format_use_their_timestamps(line: str) -> None:
    found = lines_of(log((30, line), (33, line), (36, line)), CLIENT, SERVER)
    assert [entry.open_seconds for entry in found] == [None, None, None]
    assert interval(found) == pytest.approx(3)


def test_one_line_without_an_age_makes_all_use_timestamps() -> None:
    odd = f"{CLIENT}:34330 {CLIENT}:34340 {SERVER}"
    found = lines_of(log((30, text(1000)), (34, odd)), CLIENT, SERVER)
    assert len(found) == 2
    assert interval(found) == pytest.approx(4)


@pytest.mark.parametrize("stamp", ["2026-11-24T09:36:30Z", "2026-11-24T09:36:30.5Z"])
def test_stamps_with_fewer_digits(stamp: str) -> None:
    (found,) = lines_of(f"{stamp} {text(1)}\n", CLIENT, SERVER)
    assert found.at % 60 == (30.5 if "." in stamp else 30)


@pytest.mark.parametrize("lines", [(), (Line(1.0, 1.0, "x"),)])
def test_fewer_than_two_lines_have_no_interval(lines: tuple[Line, ...]) -> None:
    assert interval(lines) is None
