"""Limit how long a command about all gateways waits for pods that do not respond."""

from __future__ import annotations

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
    never respond. After two silent pods of a namespace its other pods are not queried. Thread-safe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without any silent pod; `clock` returns seconds."""
        self._clock = clock
        self._silent: Counter[str] = Counter()

    def call(self, namespace: str, pod: str, query: Callable[[], Read]) -> Read:
        """Query a pod, unless too many pods of its namespace were silent.

        Raises:
            ClusterError: the query failed, or the pod was not queried.
        """
        if self._silent[namespace] >= _MOST_SILENT:
            raise ClusterError(
                f"pod {namespace}/{pod} was not queried: {_MOST_SILENT} pods of the namespace did "
                "not respond"
            )
        begun = self._clock()
        try:
            return query()
        except ClusterError:
            if self._clock() - begun > _SLOW_SECONDS:
                self._silent[namespace] += 1
            raise
