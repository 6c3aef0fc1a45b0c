"""A clock that tests move."""

from __future__ import annotations

import threading

from kubectl_istio_udp.kube.clock import Clock

# How often a waiting thread checks whether the clock was moved.
_LOOK_SECONDS = 0.02


class MovedClock(Clock):
    """The real time plus the time that a test has added."""

    def __init__(self) -> None:
        self._moved = 0.0

    def __call__(self) -> float:
        return super().__call__() + self._moved

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        condition.wait(min(seconds, _LOOK_SECONDS))

    def move(self, seconds: float) -> None:
        """Let this much time pass at once."""
        self._moved += seconds
