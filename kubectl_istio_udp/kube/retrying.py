"""Send a request again where the API server asks for that, as kubectl does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from kubectl_istio_udp.model.errors import Broken, Busy, Conflict

Result = TypeVar("Result")

# client-go retries up to 10 times (rest.Request's default), and waits as long as Retry-After says.
MOST_RETRIES = 10
# client-go waits for as long as its caller does; who sits at a terminal wants an answer.
_LONGEST_WAIT_SECONDS = 60.0
# client-go waits a second after each broken connection; the first waits are shorter here.
_FIRST_WAIT_SECONDS, _BROKEN_WAIT_SECONDS = 0.1, 1.0
# A server-side apply that met another write of the same object: it reads the object again itself.
_CONFLICTS, _CONFLICT_SECONDS = 5, 0.05


def tell_nobody(text: str) -> None:
    """Show a retry to nobody."""


@dataclass(frozen=True)
class Retries:
    """How often a request is sent again, and whom to tell.

    Attributes:
        most: how many times; 0 for a caller that has a queue of its own to try again from.
        tell: called with a line of text before each wait that the server asks for.
        detail: the same before the short waits after broken connections.
    """

    most: int = MOST_RETRIES
    tell: Callable[[str], None] = tell_nobody
    detail: Callable[[str], None] = tell_nobody

    def call(
        self, request: Callable[[], Result], *, read: bool = False, harmless: bool = False
    ) -> Result:
        """Make a request, and again where the server asks for that or the connection broke.

        After 429 with a Retry-After the server has done nothing, so that any request may be
        repeated. After 503 with a Retry-After only what is harmless is repeated, and after a broken
        connection only what reads (client-go's rules; it repeats writes after 503 too).

        Args:
            request: the request.
            read: whether it changes nothing.
            harmless: whether the server may act on it twice.

        Raises:
            Busy: the server goes on refusing, names no time to wait, or asks for too long.
            Whatever else the request raises.
        """
        waited = 0.0
        for number in range(1, self.most + 1):
            try:
                return request()
            except Busy as error:
                if error.retry_after is None or not (harmless or error.untouched):
                    raise
                wait, why, tell = error.retry_after, error.message, self.tell
                waited += wait
                if waited > _LONGEST_WAIT_SECONDS:
                    raise
            except Broken as error:
                if not read:
                    raise
                wait = min(_FIRST_WAIT_SECONDS * 2 ** (number - 1), _BROKEN_WAIT_SECONDS)
                why, tell = error.message, self.detail
            tell(f"{why}; trying again in {wait:g}s ({number} of {self.most})")
            time.sleep(wait)
        return request()


def without_conflict(request: Callable[[], Result]) -> Result:
    """Make a request, and again where another write of the same object came in between.

    Only for a request that does not say which version of the object it is about.
    """
    for number in range(1, _CONFLICTS):
        try:
            return request()
        except Conflict:
            time.sleep(number * _CONFLICT_SECONDS)
    return request()
