"""Escape untrusted text before it is written to the terminal.

Names, annotations, Events and messages of Envoy and pods may contain control characters, which a
terminal executes, and characters that change the text direction. `escaping` replaces them in all
output, whichever part of the program writes it.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from typing import TextIO

_SUSPECT = re.compile(r"[^\n\t\x20-\x7e]")


def escape(text: str) -> str:
    r"""Escape a line of text: non-printable characters become `\n`, `\x1b`, `\u202e`."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _checked(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else _escaped(found[0])


class EscapingStream(io.TextIOBase):
    """A text stream that escapes everything but tabs and line ends and writes to another stream."""

    def __init__(self, inner: TextIO) -> None:
        """Take the stream to write to."""
        self._inner = inner
        self._charset = getattr(inner, "encoding", None) or "utf-8"

    # If this is ASCII, click wraps the stream in its own one.
    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Write text, escaping characters that are not printable or cannot be encoded."""
        safe = _SUSPECT.sub(_checked, text)
        self._inner.write(safe.encode(self._charset, "backslashreplace").decode(self._charset))
        return len(text)

    def write_control(self, text: str) -> None:
        """Write the program's own control characters."""
        self._inner.write(text)

    def flush(self) -> None:
        """Flush the underlying stream."""
        self._inner.flush()

    def close(self) -> None:
        """Do nothing: the underlying stream belongs to the caller.

        Python calls this when nothing refers to the stream any more. The underlying one may be
        closed by then, and a flush would fail, which Python reports from 3.13 on.
        """

    def fileno(self) -> int:
        """The underlying file descriptor."""
        return self._inner.fileno()

    def isatty(self) -> bool:
        """Whether the underlying stream is a terminal."""
        return self._inner.isatty()

    def writable(self) -> bool:
        """Always True."""
        return True


@contextlib.contextmanager
def escaping() -> Iterator[None]:
    """Escape what is written to stdout and stderr inside the context."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = EscapingStream(out), EscapingStream(err)
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        sys.stdout, sys.stderr = out, err


def write_control(text: str) -> None:
    """Write the program's own control characters to stderr: a colour, the start of the line."""
    stream = sys.stderr
    if isinstance(stream, EscapingStream):
        stream.write_control(text)
    else:
        stream.write(text)
