"""The time that passes, as a value that is handed in, so that tests need not wait for it."""

from __future__ import annotations

import threading
import time


class Clock:
    """This machine's monotonic clock. Called, it gives seconds since some moment in the past."""

    def __call__(self) -> float:
        """The seconds now; only differences mean anything."""
        return time.monotonic()

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Wait until a condition is notified, for at most this long; it may return earlier.

        Args:
            condition: held by the caller, as for `Condition.wait`.
            seconds: how long; more than 0.
        """
        condition.wait(seconds)
