"""For every test: signals do what they do in a terminal, and generated examples repeat."""

from __future__ import annotations

import contextlib
import signal

from hypothesis import settings

# A change must not fail because of an example that was not tried before it. `make fuzz` tries
# others each time, and more of them.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Accept SIGINT, which a shell that starts the tests in the background has ignored.

    The plugin respects that, as a program should; the tests that interrupt it need the contrary.
    """
    with contextlib.suppress(ValueError):  # not in a main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
