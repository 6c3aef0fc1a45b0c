"""What others wrote reaches the terminal as text, and as nothing else.

Names, annotations, Events, the words of Envoy and of pods may hold control characters, which a
terminal obeys, and characters that turn the direction of writing. `escaping` replaces them in
everything that is written, whatever part of the program writes it.
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
    r"""One line of text: characters that are not printable become `\n`, `\x1b`, `\u202e`."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _checked(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else _escaped(found[0])


class EscapingStream(io.TextIOBase):
    """A text stream that writes to another one, with everything but tabs and line ends escaped."""

    def __init__(self, inner: TextIO) -> None:
        """Take the stream to write to."""
        self._inner = inner
        self._charset = getattr(inner, "encoding", None) or "utf-8"

    # click makes a stream of its own, around ours, where this is ASCII.
    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Write text, with what is not printable escaped, and what cannot be encoded too."""
        safe = _SUSPECT.sub(_checked, text)
        self._inner.write(safe.encode(self._charset, "backslashreplace").decode(self._charset))
        return len(text)

    def write_control(self, text: str) -> None:
        """Write the program's own control characters."""
        self._inner.write(text)

    def flush(self) -> None:
        """Flush the stream beneath."""
        self._inner.flush()

    def fileno(self) -> int:
        """The file descriptor beneath."""
        return self._inner.fileno()

    def isatty(self) -> bool:
        """Whether a terminal is beneath."""
        return self._inner.isatty()

    def writable(self) -> bool:
        """It is."""
        return True


@contextlib.contextmanager
def escaping() -> Iterator[None]:
    """Escape what is written to stdout and stderr meanwhile."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = EscapingStream(out), EscapingStream(err)
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        sys.stdout, sys.stderr = out, err


def write_control(text: str) -> None:
    """Write control characters of the program's own to stderr: a colour, the start of the line."""
    stream = sys.stderr
    if isinstance(stream, EscapingStream):
        stream.write_control(text)
    else:
        stream.write(text)
