"""How many sessions a gateway pod can hold safely, and how many an exposure gets.

Each client port is a session, and each session is an open file of Envoy and an ephemeral port of
the pod. An Envoy without free files crashes with a segmentation fault when it opens a session,
which breaks all traffic of the gateway (measured with Envoy 1.40: `socket(2) failed, got error: Too
many open files`). So the sessions of all exposures together stay below the process's file limit.
Without free ephemeral ports Envoy only drops the datagrams of additional clients (measured).

An exposure keeps its number of sessions: a new number replaces the cluster and ends its sessions.
docs/limits.md explains why a new exposure gets a sixteenth of what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from kubectl_istio_udp.model.exposure import MOST_USEFUL_SESSIONS

# Files that a gateway needs besides UDP sessions: for TCP connections both ways, listeners, logs.
RESERVED_FILES = 2_000
# The assumed file limit if it cannot be read: the lowest found on a cluster.
CAREFUL_FILE_LIMIT = 20_000
# A new exposure gets this fraction of what is left, but at least _LEAST_SESSIONS per port while
# they last: 53 exposures with one port fit into a file limit of 20,000.
_NEW_PART = 16
_LEAST_SESSIONS = 100
# Fewer sessions than this (25 new clients per second at the default idle timeout) get a warning.
FEW_SESSIONS = 250
# Clients do not arrive evenly: add a quarter to their mean, and a constant for small numbers.
_RATE_HEADROOM, _RATE_MORE = 1.25, 20


def budget(file_limit: int) -> int:
    """The sessions that all exposures of a gateway may have together, over all their ports."""
    return max(0, file_limit - RESERVED_FILES)


def room(file_limit: int, elsewhere: int) -> int:
    """The sessions that one exposure may have, over all its ports.

    Args:
        file_limit: the open-file limit of the gateway's Envoy.
        elsewhere: the sessions of the gateway's other exposures, over all their ports.
    """
    return max(0, budget(file_limit) - elsewhere)


def automatic_sessions(file_limit: int | None, elsewhere: int, ports: int, kept: int | None) -> int:
    """The default number of sessions per port.

    Args:
        file_limit: the open-file limit of the gateway's Envoy; None if unknown.
        elsewhere: the sessions of the gateway's other exposures, over all their ports.
        ports: the number of ports of the exposure.
        kept: the current number per port; None for a new exposure.
    """
    limit = CAREFUL_FILE_LIMIT if file_limit is None else file_limit
    free = room(limit, elsewhere)
    if kept and (kept * ports <= free or file_limit is None):
        return kept
    useful = max(0, min(budget(limit), MOST_USEFUL_SESSIONS) - elsewhere)
    return max(1, useful // _NEW_PART // ports, min(_LEAST_SESSIONS, free // ports))


@dataclass(frozen=True)
class SessionLimit:
    """The limit of a namespace, in addition to the gateway's.

    Attributes:
        per_port: the maximum for one port.
        left: the maximum for all ports of an exposure together, less the namespace's others.
    """

    per_port: int
    left: int


@dataclass(frozen=True)
class SessionRoom:
    """The limits that determine the default number of sessions.

    Attributes:
        file_limit: the open-file limit of the gateway's Envoy; None if unknown.
        elsewhere: returns the sessions of the gateway's other exposures, over all their ports;
            only called if the result depends on it.
        stays: whether an exposure keeps its number while its number of ports is unchanged, even if
            the gateway has fewer left now. Set by the controller, which decides on every change: a
            new number replaces the cluster and ends its sessions.
        limit: returns the namespace's limit; None for no limit.
    """

    file_limit: int | None
    elsewhere: Callable[[], int]
    stays: bool = False
    limit: Callable[[], SessionLimit] | None = None

    def granted(self, ports: int, before: tuple[int, int] | None) -> int:
        """The number of sessions for each port.

        Args:
            ports: the number of ports that the exposure will have.
            before: its current number of ports, and of sessions per port; None for a new exposure.
        """
        kept = before[1] if before else None
        if self.stays and before is not None and before[0] == ports:
            found = before[1]
        else:
            found = automatic_sessions(self.file_limit, self.elsewhere(), ports, kept)
        if self.limit is None:
            return found
        limit = self.limit()
        left = limit.left
        if found != kept:
            left = new_share(left)
        # This applies to kept numbers too: the limit may be lower now.
        return max(1, min(found, limit.per_port, left // ports))


def new_share(left: int) -> int:
    """The sessions that one exposure may newly get of those that its namespace has left.

    Half of them, so that some are left for the next exposure; all of them if they are few.
    """
    return max(left // 2, min(left, FEW_SESSIONS))


def sessions_for_rate(rate: float, idle_seconds: float) -> int:
    """The sessions needed for a rate of new clients, with headroom.

    Args:
        rate: new client ports per second, at one exposed port.
        idle_seconds: the idle timeout in seconds.
    """
    return math.ceil(rate * idle_seconds * _RATE_HEADROOM) + _RATE_MORE


def rate_for_sessions(sessions: int, idle_seconds: float) -> float:
    """The rate of new clients per second that uses all sessions, if clients arrive evenly."""
    return sessions / idle_seconds
