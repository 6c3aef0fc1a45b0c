"""Report outcomes as Events: new outcomes, and problems again before their Event expires.

`controller status` reads from a Service's newest Event whether its request is met. So a bad outcome
is reported again before the API server deletes the Event (usually after an hour). Tenants can
change outcomes as fast as they write, so each namespace has a budget of Events.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from kubectl_istio_udp.controller.outcome import Outcome
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.events import write_event
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.reasons import EXPOSED

AGAIN_SECONDS = 1_800.0
# Per namespace: the burst, and the seconds per further Event.
_AT_ONCE, _SECONDS_EACH = 100, 2.0


@dataclass
class _Budget:
    left: float
    since: float


class EventWriter:
    """Writes Events; thread-safe for different exposures."""

    def __init__(
        self,
        api: Api,
        by: str,
        secret: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the cluster, the reporter's name, the source of the signing key, and the clock."""
        self._api, self._by, self._secret, self._clock = api, by, secret, clock
        self._written: dict[Key, tuple[str, str, float]] = {}
        self._budgets: dict[str, _Budget] = {}
        # When waiting Events may be written.
        self._turns: dict[Key, float] = {}
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Forget what was reported: another replica may have reported something else since."""
        self._written.clear()
        with self._lock:
            self._turns.clear()
            self._budgets.clear()

    def forget(self, key: Key) -> None:
        """Forget a deleted exposure."""
        self._written.pop(key, None)
        with self._lock:
            if self._turns.pop(key, None) is not None and key[0] in self._budgets:
                # Another Event may use its slot.
                self._budgets[key[0]].left += 1

    def write(self, key: Key, about: About, outcome: Outcome) -> float | None:
        """Write an Event if an outcome is new, or its last Event is about to expire.

        Returns:
            The seconds until it must be called again; None to wait for a change.

        Raises:
            IstioUdpError: the Event was not written.
        """
        now = self._clock()
        reason, message, when = self._written.get(key, ("", "", 0.0))
        bad = outcome.reason != EXPOSED
        if (reason, message) == (outcome.reason, outcome.message):
            left = when + AGAIN_SECONDS - now
            if not bad or left > 0:
                return left if bad else None
        if (wait := self._turn(key, now)) > 0:
            return wait
        write_event(
            self._api,
            about,
            reason=outcome.reason,
            message=outcome.message,
            warning=bad,
            by=self._by,
            secret=self._secret(),
        )
        self._written[key] = (outcome.reason, outcome.message, now)
        return AGAIN_SECONDS if bad else None

    def _turn(self, key: Key, now: float) -> float:
        """The seconds until an exposure's Event may be written; 0 for now.

        An Event that must wait keeps its position in the order of its namespace.
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
