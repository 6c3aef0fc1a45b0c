"""A cache of what was read from texts, bounded by their length."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class TextCache(Generic[Made]):
    """Reads texts, and remembers the results for the texts that were used last; thread-safe.

    `functools.lru_cache` bounds the number of texts alone, and tenants decide how long theirs are.
    """

    def __init__(self, read: Callable[[str], Made], most: int) -> None:
        """Take the function that reads a text.

        Args:
            read: reads a text. If it raises, nothing is remembered.
            most: how many characters the remembered texts may have together.
        """
        self._read, self._most = read, most
        self._lock = threading.Lock()
        # The texts in the order of their last use.
        self._made: dict[str, Made] = {}
        self._length = 0

    def __call__(self, text: str) -> Made:
        """What a text says.

        Raises:
            Any error that `read` raises.
        """
        with self._lock:
            if text in self._made:
                self._made[text] = made = self._made.pop(text)
                return made
        made = self._read(text)
        with self._lock:
            self._length += len(text) if text not in self._made else 0
            self._made[text] = made
            while self._length > self._most:
                oldest = next(iter(self._made))
                del self._made[oldest]
                self._length -= len(oldest)
        return made
