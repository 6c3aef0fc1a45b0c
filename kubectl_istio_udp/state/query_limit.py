"""Limit how long a command about all gateways waits for pods that do not respond."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from kubectl_istio_udp.model.errors import ClusterError

# A response takes milliseconds, or seconds on a busy machine.
_SLOW_SECONDS, _MOST_SILENT = 5.0, 2
Read = TypeVar("Read")


class QueryLimit:
    """Limits how long a command about all gateways waits for pods that do not respond.

    A tenant can create any number of gateways in its namespace, and pods that pose as gateways and
    never respond. After two silent pods of a namespace its other pods are not queried. So at most
    two are queried at the same time until others have responded. Thread-safe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without any silent pod; `clock` returns seconds."""
        self._clock = clock
        self._silent: Counter[str] = Counter()
        self._responded: Counter[str] = Counter()
        self._queried: Counter[str] = Counter()
        self._changed = threading.Condition()

    def call(self, namespace: str, pod: str, query: Callable[[], Read]) -> Read:
        """Query a pod, unless too many pods of its namespace were silent.

        Raises:
            ClusterError: the query failed, or the pod was not queried.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_silent(namespace) or self._has_room(namespace))
            if self._is_silent(namespace):
                raise ClusterError(
                    f"pod {namespace}/{pod} was not queried: {_MOST_SILENT} pods of the namespace "
                    "did not respond"
                )
            self._queried[namespace] += 1
        begun, answered = self._clock(), False
        try:
            found = query()
            answered = True
            return found
        finally:
            silent = not answered and self._clock() - begun > _SLOW_SECONDS
            with self._changed:
                self._queried[namespace] -= 1
                (self._silent if silent else self._responded)[namespace] += 1
                self._changed.notify_all()

    def _is_silent(self, namespace: str) -> bool:
        return self._silent[namespace] >= _MOST_SILENT

    def _has_room(self, namespace: str) -> bool:
        """Whether there are fewer than two silent pods if none that is queried now responds."""
        unknown = self._queried[namespace] + self._silent[namespace]
        return unknown < _MOST_SILENT + self._responded[namespace]
