"""Retry requests when the API server tells the client to, as kubectl does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from kubectl_istio_udp.model.errors import Broken, Busy, Conflict
from kubectl_istio_udp.model.waits import Waits

Result = TypeVar("Result")

# client-go retries up to 10 times (rest.Request's default), after the time in Retry-After.
MOST_RETRIES = 10
# Seconds. client-go has no limit, but a user at a terminal wants an answer.
_LONGEST_WAIT_SECONDS = 60.0
# Retries of a server-side apply that conflicted with a concurrent write of the same object.
_CONFLICTS, _CONFLICT_SECONDS = 5, 0.05


def ignore(text: str) -> None:
    """Ignore the text about a retry; the default of `notify` and `detail`."""


@dataclass(frozen=True)
class Retries:
    """How often requests are retried, and who is informed.

    Attributes:
        most: the maximum number of retries; 0 for a caller that retries from its own queue.
        notify: called with a line of text before each wait that the server asked for.
        detail: called with a line of text before each wait after a broken connection.
        first_wait, longest_wait: seconds to wait after a broken connection; each wait doubles the
            one before. client-go always waits one second.
    """

    most: int = MOST_RETRIES
    notify: Callable[[str], None] = ignore
    detail: Callable[[str], None] = ignore
    first_wait: float = Waits.first_retry
    longest_wait: float = Waits.longest_retry

    def call(
        self, request: Callable[[], Result], *, read: bool = False, harmless: bool = False
    ) -> Result:
        """Send a request, and retry it if the server asks for that or the connection broke.

        After 429 with Retry-After every request is retried, because the server has done nothing.
        After 5xx with Retry-After only harmless requests are retried, and after a broken connection
        only reads; never after a timeout. These are the rules of client-go (rest.withRetry and
        rest.Request; kubectl 1.34 was observed to follow them), but client-go also retries writes
        after 5xx, and does not limit the waits together.

        Args:
            request: sends the request.
            read: whether the request changes nothing.
            harmless: whether the server may execute the request twice.

        Raises:
            Busy: the server still rejects the request after all retries, sent no Retry-After, or
                asked for a longer wait than the limit.
            Any other error that the request raises.
        """
        waited = 0.0
        for number in range(1, self.most + 1):
            try:
                return request()
            except Busy as error:
                if error.retry_after is None or not (harmless or error.untouched):
                    raise
                wait, why, notify = error.retry_after, error.message, self.notify
                waited += wait
                if waited > _LONGEST_WAIT_SECONDS:
                    raise
            except Broken as error:
                if not read:
                    raise
                wait = min(self.first_wait * 2 ** (number - 1), self.longest_wait)
                why, notify = error.message, self.detail
            notify(f"{why}; trying again in {wait:g}s ({number} of {self.most})")
            time.sleep(wait)
        return request()


def without_conflict(request: Callable[[], Result]) -> Result:
    """Send a request, and retry it if it conflicts with a concurrent write of the same object.

    Only for requests without a resourceVersion.
    """
    for number in range(1, _CONFLICTS):
        try:
            return request()
        except Conflict:
            time.sleep(number * _CONFLICT_SECONDS)
    return request()
