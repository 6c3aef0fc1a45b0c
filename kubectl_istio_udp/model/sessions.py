"""How many sessions a gateway pod can hold without harm, and how many an exposure may have of them.

Every client port is a session, and every session an open file of Envoy. When an Envoy runs out of
files while it opens a session it does not drop the datagram: it dies of a segmentation fault, and
all traffic of the gateway with it (measured with Envoy 1.40: `socket(2) failed, got error: Too many
open files`). So the sessions of all exposures together stay below the process's file limit.
"""

from __future__ import annotations

# What a gateway needs files for beside UDP sessions: TCP connections both ways, listeners, logs.
RESERVED_FILES = 2_000
# Linux gives a pod 28,232 ephemeral ports (net.ipv4.ip_local_port_range) for sessions to come from.
MOST_USEFUL_SESSIONS = 28_000
# Where the limit cannot be read (an image without a shell).
CAREFUL_SESSIONS = 4_000
# What a controller takes a gateway's file limit to be where nobody has measured it: the lowest that
# was met on a cluster.
CAREFUL_FILE_LIMIT = 20_000
# Fewer than these (Envoy's own default of 1,024, in round figures) and busy clients notice.
FEW_SESSIONS = 1_000


def room(file_limit: int, elsewhere: int) -> int:
    """The sessions that an exposure may have, over all of its ports.

    Args:
        file_limit: how many files the gateway's Envoy may open.
        elsewhere: the sessions of the gateway's other exposures, over all of their ports.
    """
    return max(0, file_limit - RESERVED_FILES - elsewhere)


def automatic_sessions(file_limit: int | None, elsewhere: int, ports: int, kept: int | None) -> int:
    """The sessions a port gets when the user names no number.

    An exposure keeps the number it has as long as it fits: changing it would end its sessions. A
    new one takes half of the room, so that the next one finds some too, but not fewer than
    FEW_SESSIONS where there are as many.

    Args:
        file_limit: how many files the gateway's Envoy may open; None where that is not known.
        elsewhere: the sessions of the gateway's other exposures, over all of their ports.
        ports: how many ports the exposure has.
        kept: what each of its ports has now; None for a new exposure.
    """
    if file_limit is None:
        return kept or CAREFUL_SESSIONS
    free = room(file_limit, elsewhere)
    if kept and kept * ports <= free:
        return kept
    half = min(MOST_USEFUL_SESSIONS, free // 2 // ports)
    return max(1, half, min(FEW_SESSIONS, free // ports))
