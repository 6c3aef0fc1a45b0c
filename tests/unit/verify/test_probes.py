"""The answers/ directory holds what a real dig printed; answers/capture.py says how."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import pytest

from kubectl_istio_udp.model.errors import ClusterError, UsageError
from kubectl_istio_udp.verify.probes import DatagramProbe, DnsProbe, argv, parse_probe
from kubectl_istio_udp.verify.tool_output import Answer, read_answer

ANSWERS = Path(__file__).parents[2] / "support" / "answers"
DNS, DATAGRAM = DnsProbe("foo.bar.com"), DatagramProbe(b"HELLO")


def captured(name: str) -> tuple[str, str]:
    paths = [ANSWERS / f"{name}.{stream}.txt" for stream in ("stdout", "stderr")]
    out, err = (path.read_text(encoding="utf-8") if path.exists() else "" for path in paths)
    return out, err


def read(name: str, exit_code: int = 0, error: str = "") -> Answer:
    return read_answer(DNS, *captured(name), exit_code, error, "default/network-tool")


@pytest.mark.parametrize(
    ("name", "answered", "outcome", "text"),
    [
        ("noerror", True, "NOERROR", "A 192.0.2.1, A 192.0.2.2"),
        ("txt", True, "NOERROR", 'TXT "two words" "and more"'),
        ("whoami", True, "NOERROR", "A 10.244.0.21, SRV 0 0 47318 ."),
        ("empty", True, "NOERROR", ""),
        ("nxdomain", True, "NXDOMAIN", ""),
        ("servfail", False, "SERVFAIL", ""),
        ("refused", False, "REFUSED", ""),
        ("truncated", True, "NOERROR", ""),
    ],
)
def test_reads_the_answer_of_a_name_server(
    name: str, answered: bool, outcome: str, text: str
) -> None:
    found = read(name)
    assert (found.answered, found.outcome, found.text) == (answered, outcome, text)
    assert found.arrived
    assert found.truncated == (name == "truncated")
    assert found.milliseconds is not None


@pytest.mark.parametrize(
    ("name", "exit_code", "outcome", "arrived"),
    [("timeout", 9, "timeout", False), ("closed", 9, "unreachable", False)],
)
def test_reads_a_missing_answer(name: str, exit_code: int, outcome: str, arrived: bool) -> None:
    found = read(name, exit_code)
    assert found == Answer(False, outcome)
    assert found.arrived is arrived


@pytest.mark.parametrize(
    ("stdout", "stderr", "error", "outcome"),
    [
        ("", "", "timed out", "timeout"),
        ("", ";; connection timed out; no servers could be reached", "", "timeout"),
        ("", "network unreachable", "", "unreachable"),
        ("what is this\n", "", "", "garbled"),
    ],
)
def test_reads_other_output_of_dig(stdout: str, stderr: str, error: str, outcome: str) -> None:
    found = read_answer(DNS, stdout, stderr, None if error else 9, error, "pod")
    assert found.outcome == outcome
    assert not found.answered


def test_an_answer_without_a_time_counts() -> None:
    header = ";; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1\n;; flags: qr;\n"
    assert read_answer(DNS, header, "", 0, "", "p") == Answer(True, "NOERROR")


@pytest.mark.parametrize(
    ("stdout", "stderr", "expected"),
    [
        (" 48 45 0a\n", "", Answer(True, "answer", text="HE", size=3)),
        (" 00\n 01\n", "", Answer(True, "answer", text="0001", size=2)),
        ("", "", Answer(False, "timeout")),
        ("", "nc: Connection refused", Answer(False, "unreachable")),
        ("", "nc: Network is unreachable", Answer(False, "unreachable")),
    ],
)
def test_reads_the_output_of_nc(stdout: str, stderr: str, expected: Answer) -> None:
    assert read_answer(DATAGRAM, stdout, stderr, 0, "", "pod") == expected


NOT_FOUND = 'exec: "dig": executable file not found in $PATH'


@pytest.mark.parametrize(
    ("probe", "exit_code", "stderr", "error", "tool"),
    [
        (DNS, None, "", NOT_FOUND, "dig"),
        (DNS, 127, "sh: dig: not found", "", "dig"),
        (DNS, 126, "", "", "dig"),
        (DATAGRAM, 127, "", "", "nc"),
    ],
)
def test_a_missing_tool_is_no_answer(
    probe: DatagramProbe | DnsProbe, exit_code: int | None, stderr: str, error: str, tool: str
) -> None:
    with pytest.raises(ClusterError, match=f"pod default/x cannot run {tool}: ") as caught:
        read_answer(probe, "", stderr, exit_code, error, "default/x")
    assert "--create-tool" in caught.value.hints[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("foo.bar.com", DnsProbe("foo.bar.com", "A")),
        ("foo.bar.com TXT", DnsProbe("foo.bar.com", "TXT")),
        ("  foo.bar.com   aaaa ", DnsProbe("foo.bar.com", "AAAA")),
        (".", DnsProbe(".", "A")),
        ("foo.bar.com type65", DnsProbe("foo.bar.com", "TYPE65")),
        (f"{'a' * 63}.com.", DnsProbe(f"{'a' * 63}.com.", "A")),
    ],
)
def test_reads_a_query(text: str, expected: DnsProbe) -> None:
    assert DnsProbe.parse(text) == expected


@pytest.mark.parametrize("name", ["a" * 64, f"{'a' * 64}.com", "a." * 127 + "b"])
def test_refuses_a_name_that_dns_cannot_hold(name: str) -> None:
    with pytest.raises(UsageError, match="is not a DNS name: it is longer than 253 characters"):
        DnsProbe.parse(name)


@pytest.mark.parametrize("kind", ["ZZZ", "TYPE", "AXFR", "ixfr=1", "OPT"])
def test_refuses_a_type_that_dig_would_take_otherwise(kind: str) -> None:
    """It queries A for a type that it does not know, and transfers zones over TCP."""
    with pytest.raises(UsageError, match=f"has the type '{kind.upper()}', which cannot be queried"):
        DnsProbe.parse(f"foo.bar.com {kind}")


@pytest.mark.parametrize(
    "text", ["", "  ", "a b c", "-f /etc/passwd", "+short", "@8.8.8.8", "x +trace", "x -t", "x @y"]
)
def test_refuses_a_query_that_dig_would_misread(text: str) -> None:
    with pytest.raises(UsageError, match="is not a DNS name with an optional type"):
        DnsProbe.parse(text)


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("dns", "foo.bar.com", DNS),
        ("text:HELLO", None, DATAGRAM),
        ("text:a:b", None, DatagramProbe(b"a:b")),
        ("text:é", None, DatagramProbe("é".encode())),
        ("hex:00ff", None, DatagramProbe(b"\x00\xff")),
        ("hex:00 FF", None, DatagramProbe(b"\x00\xff")),
    ],
)
def test_reads_a_probe(text: str, query: str | None, expected: DatagramProbe | DnsProbe) -> None:
    assert parse_probe(text, query) == expected


@pytest.mark.parametrize(
    ("text", "query", "message"),
    [
        ("dns", None, "a DNS probe needs a name"),
        ("dns", "", "is not a DNS name"),
        ("dns:foo", "x", "is not one of dns, text:..., hex:..."),
        ("", None, "is not one of dns"),
        ("text", None, "is not one of dns"),
        ("text:", None, "is not one of dns"),
        ("hex:", None, "is not one of dns"),
        ("udp:x", None, "is not one of dns"),
        ("hex:0", None, "'0' is not hexadecimal"),
        ("hex:xy", None, "'xy' is not hexadecimal"),
        ("text:\udcff", None, "is not text"),
    ],
)
def test_refuses_a_bad_probe(text: str, query: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_probe(text, query)
    assert caught.value.hints


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.2, "1"), (0, "1"), (1, "1"), (1.5, "2"), (2, "2"), (59.01, "60")]
)
def test_tools_count_whole_seconds(seconds: float | int, expected: str) -> None:
    assert f"+time={expected}" in argv(DNS, "10.0.0.1", 53, seconds)
    assert argv(DATAGRAM, "10.0.0.1", 53, seconds)[-1] == expected


def test_dig_queries_once_over_udp() -> None:
    words = argv(DnsProbe("foo.bar.com", "TXT"), "fd00::1", 5300, 2)
    assert words[:4] == ["dig", "@fd00::1", "-p", "5300"]
    assert {"foo.bar.com", "TXT", "+tries=1", "+notcp", "+ignore", "+nosearch"} <= set(words)


@pytest.mark.parametrize("payload", [b"HELLO\n", b"%s\\n'\"$(id)`", bytes(range(256))])
def test_every_byte_is_sent_and_received(payload: bytes) -> None:
    def echo() -> None:
        data, client = server.recvfrom(65_535)
        received.append(data)
        server.sendto(data[::-1], client)

    received: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        thread = threading.Thread(target=echo)
        thread.start()
        command = argv(DatagramProbe(payload), "127.0.0.1", server.getsockname()[1], 1)
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        thread.join()
    found = read_answer(DATAGRAM, done.stdout, done.stderr, done.returncode, "", "pod")
    assert received == [payload]
    answer = payload[::-1]
    shown = answer.decode() if answer.isascii() and answer.decode().isprintable() else answer.hex()
    assert found == Answer(True, "answer", text=shown, size=len(answer))


def test_a_message_that_is_not_a_response_is_not_an_answer() -> None:
    """dig reports NOERROR for its own query sent back, by an echo server or a loop."""
    assert not read_answer(DnsProbe("foo.bar.com"), *captured("echoed"), 0, "", "p").answered


def test_a_malformed_message_is_garbled() -> None:
    answer = read_answer(DnsProbe("foo.bar.com"), *captured("cut"), 0, "", "p")
    assert answer.outcome == "garbled" and not answer.answered


def test_a_malformed_message_counts_as_arrived() -> None:
    """dig drops it, waits for another one, and reports that: the path works."""
    assert read_answer(DnsProbe("foo.bar.com"), *captured("garbled"), 9, "", "p").arrived


def test_a_name_that_does_not_resolve_sends_nothing() -> None:
    answer = read_answer(DnsProbe("foo.bar.com"), *captured("unresolved"), 1, "", "p")
    assert not answer.arrived


def test_a_connection_that_breaks_is_not_a_missing_tool() -> None:
    broken = "the connection ended before the command did"
    with pytest.raises(ClusterError) as caught:
        read_answer(DnsProbe("foo.bar.com"), "", "", None, broken, "default/network-tool")
    assert "cannot run dig" not in caught.value.message


def test_a_name_that_looks_like_a_type_is_queried() -> None:
    command = argv(DnsProbe("mx", "A"), "10.0.0.1", 53, 1)
    assert command[command.index("mx") - 1] == "-q"


def test_distinguishes_a_closed_port_from_silence() -> None:
    """nc of OpenBSD says nothing when the port is closed, unless -v."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    probe = parse_probe("text:x", None)
    done = subprocess.run(
        argv(probe, "127.0.0.1", port, 1), capture_output=True, text=True, check=False
    )
    assert read_answer(probe, done.stdout, done.stderr, 0, "", "p").outcome == "unreachable"
