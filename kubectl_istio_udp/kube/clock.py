"""A clock that is passed as a value, so that tests do not have to wait."""

from __future__ import annotations

import threading
import time


class Clock:
    """This machine's monotonic clock. Calling it returns the seconds since an arbitrary time."""

    def __call__(self) -> float:
        """The current time in seconds; only differences are meaningful."""
        return time.monotonic()

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Wait until a condition is notified, at most this long; may return earlier.

        Args:
            condition: the condition; the caller holds its lock.
            seconds: the maximum, more than 0.
        """
        condition.wait(seconds)
