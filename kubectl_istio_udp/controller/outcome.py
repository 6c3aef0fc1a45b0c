"""How it stands with an exposure, and the words for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.model.errors import IstioUdpError

# ok: as wished. manual: a person's, of which only listed endpoints are kept true. waiting: for a
# port, a gateway, or because it changed a moment ago. refused: the wish must change. failed: the
# API server did not take a write, which is tried again. leaving: on its way out.
OK, MANUAL, WAITING, REFUSED = "ok", "manual", "waiting", "refused"
FAILED, LEAVING, GONE = "failed", "leaving", ""
STATES = (OK, MANUAL, WAITING, REFUSED, FAILED, LEAVING)

# The reasons of Events.
EXPOSED, FORBIDDEN, INVALID = "Exposed", "ExposeForbidden", "ExposeInvalid"
PORT_TAKEN, NO_GATEWAY, NOT_TAKEN = "PortTaken", "NoGateway", "ExposeRefused"
NOT_WRITTEN, PORT_MISSING = "ExposeFailed", "PortMissing"
# Findings that another exposure's end may put right: a name or a port that is taken, sessions,
# memory.
_MAY_PASS = frozenset({"U101", "U102", "U103", "U108", "U109"})


@dataclass(frozen=True)
class Outcome:
    """How it stands with an exposure.

    Attributes:
        state: one of STATES, GONE where there is no exposure any more.
        reason: in one word, as Events have it; "" where there is nothing to tell.
        message: in a sentence.
        again: seconds after which it must be looked at again; None where a change will tell.
    """

    state: str
    reason: str = ""
    message: str = ""
    again: float | None = None


class Refusal(IstioUdpError):
    """A wish that is not honoured now; carries the outcome."""

    def __init__(self, outcome: Outcome) -> None:
        """Take the outcome."""
        super().__init__(outcome.message)
        self.outcome = outcome


def invalid(error: IstioUdpError) -> Outcome:
    """The wish itself must change."""
    return Outcome(REFUSED, INVALID, "; ".join([error.message, *error.hints[:1]]))


def refused(findings: Sequence[Finding]) -> Outcome:
    """What the checks found; the first says why, and whether time may put it right."""
    first = findings[0]
    state = WAITING if all(finding.code in _MAY_PASS for finding in findings) else REFUSED
    return Outcome(state, PORT_TAKEN if first.code == "U103" else NOT_TAKEN, str(first))
