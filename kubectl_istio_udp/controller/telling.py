"""What is told of each exposure by Events: what is new, again before it is forgotten, not too much.

`controller status` knows from the newest Event of a Service whether its request is met, so an
outcome that is still bad is told again before the API server forgets it (after an hour, usually).
Tenants can make outcomes change as fast as they write: a namespace has a budget of Events.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from kubectl_istio_udp.controller.outcome import Outcome
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.events import tell
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.reasons import EXPOSED

AGAIN_SECONDS = 1_800.0
# Of a namespace: so many at once, and one more in so many seconds.
_AT_ONCE, _SECONDS_EACH = 100, 2.0


@dataclass
class _Budget:
    left: float
    since: float


class Teller:
    """Writes Events; safe to use from several threads, each with another exposure."""

    def __init__(
        self,
        api: Api,
        by: str,
        secret: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the cluster, who says it, what gives the secret that seals it, and seconds."""
        self._api, self._by, self._secret, self._clock = api, by, secret, clock
        self._told: dict[Key, tuple[str, str, float]] = {}
        self._budgets: dict[str, _Budget] = {}
        # When those may be told that wait.
        self._turns: dict[Key, float] = {}
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Forget what was told: another replica may have told something else since."""
        self._told.clear()
        with self._lock:
            self._turns.clear()
            self._budgets.clear()

    def forget(self, key: Key) -> None:
        """Forget an exposure that there is not any more."""
        self._told.pop(key, None)
        with self._lock:
            if self._turns.pop(key, None) is not None and key[0] in self._budgets:
                # Somebody else may have its place.
                self._budgets[key[0]].left += 1

    def tell(self, key: Key, about: About, outcome: Outcome) -> float | None:
        """Write an Event, where there is something new to tell, or something old to repeat.

        Returns:
            The seconds after which it is to be called again; None where a change will do.

        Raises:
            IstioUdpError: it was not written.
        """
        now = self._clock()
        reason, message, when = self._told.get(key, ("", "", 0.0))
        bad = outcome.reason != EXPOSED
        if (reason, message) == (outcome.reason, outcome.message):
            left = when + AGAIN_SECONDS - now
            if not bad or left > 0:
                return left if bad else None
        if (wait := self._turn(key, now)) > 0:
            return wait
        tell(
            self._api,
            about,
            reason=outcome.reason,
            message=outcome.message,
            warning=bad,
            by=self._by,
            secret=self._secret(),
        )
        self._told[key] = (outcome.reason, outcome.message, now)
        return AGAIN_SECONDS if bad else None

    def _turn(self, key: Key, now: float) -> float:
        """The seconds until an exposure's Event may be written; 0 for now.

        One that must wait keeps its place in the line of its namespace.
        """
        with self._lock:
            if key not in self._turns:
                budget = self._budgets.setdefault(key[0], _Budget(_AT_ONCE, now))
                budget.left = min(_AT_ONCE, budget.left + (now - budget.since) / _SECONDS_EACH)
                budget.since = now
                budget.left -= 1
                self._turns[key] = now + max(0.0, -budget.left * _SECONDS_EACH)
            if self._turns[key] > now:
                return self._turns[key] - now
            del self._turns[key]
            return 0.0
