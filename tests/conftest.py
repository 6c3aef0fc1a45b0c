"""For every test: signals do what they do in a terminal."""

from __future__ import annotations

import contextlib
import signal


def pytest_configure() -> None:
    """Undo what a shell that starts the tests in the background does: it has them ignored.

    The plugin respects that, as a program should; the tests that interrupt it need the contrary.
    """
    with contextlib.suppress(ValueError):  # not in a main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
