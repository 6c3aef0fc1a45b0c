"""What others wrote reaches the terminal as text, and as nothing else."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.output.escape import EscapingStream, escape, escaping
from tests.support.apiserver import ApiServer
from tests.unit.conftest import Run

FORGED = "x\x1b[2J\x1b]0;owned\x07\r\u202eevil\u2066\x9b31m\x7f\u2028"


def harmless(text: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain - text_1", "plain - text_1"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\u202eevil", r"\u202eevil"),
        ("\u00e9\u4e2d", "\u00e9\u4e2d"),
        ("\ud800", r"\ud800"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(st.text())
def test_no_output_moves_the_cursor(text: str) -> None:
    inner = io.StringIO()
    EscapingStream(inner).write(text)
    assert harmless(inner.getvalue())
    assert inner.getvalue().count("\n") == text.count("\n")


def test_characters_that_the_terminal_cannot_show_are_escaped() -> None:
    raw = io.BytesIO()
    inner = io.TextIOWrapper(raw, encoding="ascii")
    EscapingStream(inner).write("caf\u00e9 \ud800\n")
    inner.flush()
    assert raw.getvalue() == b"caf\\xe9 \\ud800\n"


def test_an_unused_stream_leaves_the_other_one_alone() -> None:
    """It ends without an error, even if the underlying one was closed before."""
    inner = io.StringIO()
    stream = EscapingStream(inner)
    inner.close()
    stream.close()
    open_one = io.StringIO()
    EscapingStream(open_one).close()
    assert not open_one.closed


def test_a_cell_cannot_look_like_a_row() -> None:
    text = printing.table([["a", "b\nforged   row"], ["c", "d"]], ["one", "two"])
    assert len(text.splitlines()) == 3


def test_a_message_cannot_look_like_two(capsys: pytest.CaptureFixture[str]) -> None:
    printing.warn("odd\nerror: everything was deleted")
    printing.note("odd\nerror: everything was deleted")
    printing.error(ClusterError("odd\nerror: forged", hints=["run\n  kubectl delete ns a"]))
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error:")] == ["error: odd"]
    assert lines[-1] == "      kubectl delete ns a"


def test_every_way_out_of_the_command_line_escapes(run: Run, server: ApiServer) -> None:
    """In tables, in an error of the API server, in an annotation that cannot be read."""
    run("expose", "coredns", "-p", "5300:53")
    name = "udp-default-coredns"
    found = server.get("EnvoyFilter", "istio-system", name)
    found["metadata"]["annotations"]["kubectl-istio-udp/spec"] = '{"version":"' + FORGED + '"}'
    server.put(found)
    for words in (["get", "-A"], ["describe"], ["get", FORGED], ["delete", f"response/{FORGED}"]):
        done = run(*words)
        assert harmless(done.out) and harmless(done.err), words
        assert "\x1b" not in done.out + done.err


def test_the_streams_are_as_before_afterwards() -> None:
    before = (sys.stdout, sys.stderr)
    with pytest.raises(SystemExit), escaping():
        assert isinstance(sys.stdout, EscapingStream)
        sys.exit(0)
    assert (sys.stdout, sys.stderr) == before
