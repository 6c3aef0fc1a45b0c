"""How it stands with an exposure, and the words for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.model.errors import IstioUdpError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.reasons import INVALID, NOT_TAKEN, PORT_TAKEN

# ok: as wished. manual: a person's, of which only listed endpoints are kept true. waiting: for a
# port, a gateway, or because it changed a moment ago. refused: the wish must change. failed: the
# API server did not take a write, which is tried again. leaving: on its way out.
OK, MANUAL, WAITING, REFUSED = "ok", "manual", "waiting", "refused"
FAILED, LEAVING, GONE = "failed", "leaving", ""
STATES = (OK, MANUAL, WAITING, REFUSED, FAILED, LEAVING)


@dataclass(frozen=True)
class Outcome:
    """How it stands with an exposure.

    Attributes:
        state: one of STATES, GONE where there is no exposure any more.
        reason: in one word, as Events have it; "" where there is nothing to tell.
        message: in a sentence, for whoever may read the Service's Events: it names nobody else's
            objects.
        detail: the same for administrators, who see it in the log; "" where there is no more.
        after: the exposure whose next look may put it right; None where none may.
        again: seconds after which it must be looked at again; None where a change will tell.
    """

    state: str
    reason: str = ""
    message: str = ""
    detail: str = ""
    after: tuple[str, str] | None = None
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


def refused(findings: Sequence[Finding], spec: ExposureSpec) -> Outcome:
    """What the checks found; the first says why, and whether time may put it right.

    Args:
        findings: the checks' errors, at least one.
        spec: what they were found about.
    """
    first = findings[0]
    state = WAITING if all(finding.check.may_pass for finding in findings) else REFUSED
    reason = PORT_TAKEN if first.code == "U103" else NOT_TAKEN
    ports = ", ".join(f"{port.listener_port}/UDP" for port in spec.ports)
    said = first.check.tenants.format(gateway=spec.gateway, ports=ports, message=first.message)
    message, full = f"{said} [{first.code}]", str(first)
    return Outcome(state, reason, message, full if full != message else "")


def taken(ports: Iterable[int], gateway: object, by: str) -> Outcome:
    """An older request comes first; only administrators are told whose it is."""
    said = f"port {min(ports)}/UDP of gateway {gateway} is already requested by "
    return Outcome(WAITING, PORT_TAKEN, f"{said}an older Service", f"{said}the older {by}")
