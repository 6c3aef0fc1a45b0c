"""The waits of the controller: how long exposures and their gateways stay unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kubectl_istio_udp.kube.watch import Key

# The wait for another worker.
RETRY_SECONDS = 0.5
# Until the next step of one change: after the period in which the gateway must not change.
STEP_SECONDS = 0.05


@dataclass(frozen=True)
class Timing:
    """The waits and intervals of the controller, in seconds.

    Attributes:
        listener: between the end of a listener and the deletion of its cluster. istiod pushes a
            change to the gateways within a second, and the controller cannot query them (no exec).
        cooldown: the minimum interval between changes of an exposure's part of a gateway, because
            gateways are shared: someone may toggle an annotation or revert writes. Endpoints are
            not part of it.
        longest_cooldown: the interval grows up to this if changes continue. Envoy keeps a replaced
            listener for 45 s until it is drained: with changes every 5 s there would be nine of
            each.
        watch: a watch that is later than this is considered broken, and lists again.
        replace: a Service may be replaced by deleting and recreating it. Until this has passed, its
            exposure is kept: the load balancer's address, the listener and the endpoints.
        installed: between two checks whether the Gateway API's CRDs are installed.
    """

    listener: float = 5.0
    cooldown: float = 5.0
    longest_cooldown: float = 60.0
    watch: float = 5.0
    replace: float = 10.0
    installed: float = 10.0


@dataclass(frozen=True)
class Cooldown:
    """A period in which an exposure's part of the gateway must not change."""

    until: float
    seconds: float

    @classmethod
    def after(cls, before: Cooldown | None, now: float, timing: Timing) -> Cooldown:
        """The period after a change: twice the previous one, if that was recent."""
        seconds = timing.cooldown
        if before is not None and now < before.until + timing.longest_cooldown:
            seconds = min(2 * before.seconds, timing.longest_cooldown)
        return cls(now + seconds, seconds)


class Waits:
    """Until when each exposure stays as it is; thread-safe for different exposures."""

    def __init__(self, timing: Timing, clock: Callable[[], float]) -> None:
        """Start without waits.

        Args:
            timing: how long each wait takes.
            clock: returns the time in seconds.
        """
        self.timing, self._clock = timing, clock
        self._cooldowns: dict[Key, Cooldown] = {}
        # Until when: the gateways remove listeners; an exposure without a request, or without
        # addresses, is kept.
        self._drained: dict[Key, float] = {}
        self._unrequested: dict[Key, float] = {}
        self._emptied: dict[Key, float] = {}

    def clear(self) -> None:
        """Forget the waits from an earlier time as leader."""
        for until in (self._drained, self._unrequested, self._emptied):
            until.clear()
        self._cooldowns.clear()

    def forget(self, key: Key) -> None:
        """Forget the waits of an exposure that was deleted, except the gateway's."""
        for until in (self._drained, self._unrequested, self._emptied):
            until.pop(key, None)

    # -- an exposure without a request, or without addresses ------------------------------------

    def unrequested_left(self, key: Key) -> float:
        """The seconds to keep an exposure without a request; they start at the first call."""
        return self._left(self._unrequested, key)

    def requested(self, key: Key) -> None:
        """End `unrequested_left`."""
        self._unrequested.pop(key, None)

    def emptied_left(self, key: Key) -> float:
        """The seconds to keep addresses that the Service lost; they start at the first call."""
        return max(0.0, self._left(self._emptied, key))

    def filled(self, key: Key) -> None:
        """End `emptied_left`."""
        self._emptied.pop(key, None)

    def _left(self, until: dict[Key, float], key: Key) -> float:
        now = self._clock()
        return until.setdefault(key, now + self.timing.replace) - now

    # -- the gateway ----------------------------------------------------------------------------

    def drain(self, key: Key) -> None:
        """Start to wait for the gateways to remove an exposure's listeners."""
        self._drained[key] = self._clock() + self.timing.listener

    def drained_left(self, key: Key) -> float:
        """The seconds until the gateways have removed an exposure's listeners.

        A previous leader may have started it just now, so the first call starts the wait too.
        """
        now = self._clock()
        until = self._drained.setdefault(key, now + self.timing.listener)
        return max(0.0, until - now)

    def cooldown_left(self, key: Key) -> float:
        """The seconds for which an exposure's part of the gateway must not change.

        At most 0 if it may change now.
        """
        cooldown = self._cooldowns.get(key)
        return cooldown.until - self._clock() if cooldown else 0.0

    def start_cooldown(self, key: Key, *, next_step: bool) -> None:
        """Begin the period in which an exposure's part of the gateway must not change again.

        Args:
            key: the exposure.
            next_step: whether this is the next step of one change, which does not count as
                another change.
        """
        before, now = self._cooldowns.get(key), self._clock()
        if before is not None and next_step:
            self._cooldowns[key] = Cooldown(now + before.seconds, before.seconds)
        else:
            self._cooldowns[key] = Cooldown.after(before, now, self.timing)

    def cooldown_lasts(self, key: Key) -> Iterator[float]:
        """The seconds for which the last change matters to an exposure that is created again.

        Otherwise an annotation that is removed and set again, or that names one gateway after the
        other, would change the gateways repeatedly.
        """
        left = self.cooldown_left(key) + self.timing.longest_cooldown
        if left > 0 and key in self._cooldowns:
            yield left
        else:
            self._cooldowns.pop(key, None)
