"""How many sessions a gateway pod can hold without harm, and how many an exposure gets of them.

Every client port is a session, every session an open file of Envoy and an ephemeral port of the
pod. An Envoy that runs out of files while it opens a session dies of a segmentation fault, and all
traffic of the gateway with it (measured with Envoy 1.40: `socket(2) failed, got error: Too many
open files`). So the sessions of all exposures together stay below the process's file limit. An
Envoy that runs out of ephemeral ports only loses the datagrams of further clients (measured).

A number that is granted stays: changing it replaces the cluster and ends its sessions.
docs/limits.md says why a new exposure gets a sixteenth of what is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from kubectl_istio_udp.model.exposure import MOST_USEFUL_SESSIONS

# What a gateway needs files for beside UDP sessions: TCP connections both ways, listeners, logs.
RESERVED_FILES = 2_000
# What a gateway's file limit is taken to be where nobody can read it: the lowest that was met on a
# cluster.
CAREFUL_FILE_LIMIT = 20_000
# A new exposure gets this part of what is left, but at least so many for each port while there are
# as many: 53 exposures of one port fit into a file limit of 20,000.
_NEW_PART = 16
_LEAST_SESSIONS = 100
# Fewer than these, 25 new clients a second at the usual idle timeout, are worth a warning.
FEW_SESSIONS = 250
# Clients do not come evenly: a quarter more than their mean, and some more where they are few.
_RATE_HEADROOM, _RATE_MORE = 1.25, 20


def budget(file_limit: int) -> int:
    """The sessions that all exposures of a gateway may have together, over all of their ports."""
    return max(0, file_limit - RESERVED_FILES)


def room(file_limit: int, elsewhere: int) -> int:
    """The sessions that an exposure may have, over all of its ports.

    Args:
        file_limit: how many files the gateway's Envoy may open.
        elsewhere: the sessions of the gateway's other exposures, over all of their ports.
    """
    return max(0, budget(file_limit) - elsewhere)


def automatic_sessions(file_limit: int | None, elsewhere: int, ports: int, kept: int | None) -> int:
    """The sessions that a port gets when nobody names a number.

    Args:
        file_limit: how many files the gateway's Envoy may open; None where that is not known.
        elsewhere: the sessions of the gateway's other exposures, over all of their ports.
        ports: how many ports the exposure has.
        kept: what each of its ports has now; None for a new exposure.
    """
    limit = CAREFUL_FILE_LIMIT if file_limit is None else file_limit
    free = room(limit, elsewhere)
    if kept and (kept * ports <= free or file_limit is None):
        return kept
    useful = max(0, min(budget(limit), MOST_USEFUL_SESSIONS) - elsewhere)
    return max(1, useful // _NEW_PART // ports, min(_LEAST_SESSIONS, free // ports))


@dataclass(frozen=True)
class SessionLimit:
    """What a namespace allows, beside what the gateway has room for.

    Attributes:
        per_port: the most that one port may have.
        left: what all ports of an exposure may have together, beside the namespace's others.
    """

    per_port: int
    left: int


@dataclass(frozen=True)
class SessionRoom:
    """What decides how many sessions an exposure gets when nobody names a number.

    Attributes:
        file_limit: how many files the gateway's Envoy may open; None where that is not known.
        elsewhere: gives the sessions of the gateway's other exposures, over all of their ports;
            called only if the answer depends on it.
        stays: whether a number stays while the exposure has as many ports, even if the gateway has
            less room by now. For the controller, which decides whenever anything changes: a number
            that changes replaces the cluster and ends its sessions.
        limit: what the namespace allows; None where everything is allowed.
    """

    file_limit: int | None
    elsewhere: Callable[[], int]
    stays: bool = False
    limit: SessionLimit | None = None

    def granted(self, ports: int, before: tuple[int, int] | None) -> int:
        """The sessions that each port gets.

        Args:
            ports: how many ports the exposure is to have.
            before: how many ports and how many sessions for each it has; None for a new one.
        """
        kept = before[1] if before else None
        if self.stays and before is not None and before[0] == ports:
            found = before[1]
        else:
            found = automatic_sessions(self.file_limit, self.elsewhere(), ports, kept)
        if self.limit is None:
            return found
        left = self.limit.left
        if found != kept:
            # Half, so that the namespace's next exposure finds some too.
            left = max(left // 2, min(left, FEW_SESSIONS))
        # Kept numbers too: less may be allowed now.
        return max(1, min(found, self.limit.per_port, left // ports))


def sessions_for_rate(rate: float, idle_seconds: float) -> int:
    """The sessions that so many new clients a second need, with headroom.

    Args:
        rate: new client ports a second, at one exposed port.
        idle_seconds: how long a session outlives its last datagram.
    """
    return math.ceil(rate * idle_seconds * _RATE_HEADROOM) + _RATE_MORE


def rate_for_sessions(sessions: int, idle_seconds: float) -> float:
    """The new clients a second at which so many sessions are all taken, if they come evenly."""
    return sessions / idle_seconds
