"""The outcome of a reconciliation, and its texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kubectl_istio_udp.checks.catalog import Surface
from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.errors import IstioUdpError, UsageError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.reasons import EXPOSED, FORBIDDEN, INVALID, NOT_TAKEN, PORT_TAKEN
from kubectl_istio_udp.plan.routes import RefusedEndpoints
from kubectl_istio_udp.sources.annotations import Intent

# ok: as requested. manual: created on the command line; only its endpoints are updated. waiting:
# for a port, a gateway, or the next allowed change. refused: the request must change. failed: the
# API server rejected a write; it is retried. deleting: is being deleted.
OK, MANUAL, WAITING, REFUSED = "ok", "manual", "waiting", "refused"
FAILED, DELETING, GONE = "failed", "deleting", ""
STATES = (OK, MANUAL, WAITING, REFUSED, FAILED, DELETING)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a reconciliation.

    Attributes:
        state: one of STATES; GONE if the exposure does not exist any more.
        reason: the reason of the Event, in one word; "" for no Event.
        message: a sentence for all readers of the Service's Events: it names no objects of other
            tenants.
        detail: a more detailed message for administrators, in the log; "" if there is none.
        findings: the findings of the checks that refused the request, for the log.
        after: the exposure that may have to be reconciled first to fix it; None if there is none.
        again: seconds until it must be reconciled again; None to wait for a change.
        intent: what a Gateway requested when it was reconciled; None for others.
        refused_endpoints: the addresses that may not be endpoints, by Service, which a Gateway's
            routes report; None if they were not decided, and for others.
    """

    state: str
    reason: str = ""
    message: str = ""
    detail: str = ""
    findings: tuple[Finding, ...] = ()
    after: tuple[str, str] | None = None
    again: float | None = None
    intent: Intent | None = field(default=None, compare=False)
    refused_endpoints: RefusedEndpoints | None = None

    def about(self, requested: Intent | UsageError | None) -> Outcome:
        """The same outcome of what is requested."""
        if isinstance(requested, Intent) and not requested.request.service:
            return replace(self, intent=requested)
        return self

    def is_about(self, requested: object) -> bool:
        """Whether it is the outcome of a Gateway's current request.

        An invalid request is not compared: each reading of it makes a new error.
        """
        return isinstance(requested, UsageError) or self.intent == requested

    @property
    def is_settled(self) -> bool:
        """Whether the exposure is as requested, and nothing is to follow."""
        return self.state == OK and self.reason == EXPOSED and self.again is None


@dataclass(frozen=True)
class Unavailable:
    """Why a listener of a Gateway cannot have its port.

    Attributes:
        message: the reason, for the listener's condition.
        conflicts: whether something else has the port.
    """

    message: str
    conflicts: bool = False


class Refusal(IstioUdpError):
    """A request that is refused or has to wait; carries the outcome."""

    def __init__(self, outcome: Outcome) -> None:
        """Take the outcome."""
        super().__init__(outcome.message)
        self.outcome = outcome


def invalid(error: IstioUdpError) -> Outcome:
    """The outcome for a request that must be corrected."""
    return Outcome(REFUSED, INVALID, "; ".join([error.message, *error.hints[:1]]))


def refused(findings: Sequence[Finding], spec: ExposureSpec) -> Outcome:
    """The outcome for errors of the checks; the first one sets the reason and whether it may pass.

    Args:
        findings: the checks' errors, at least one.
        spec: the checked exposure.
    """
    first = findings[0]
    state = WAITING if all(finding.check.may_pass for finding in findings) else REFUSED
    reason = PORT_TAKEN if first.code == "U103" else NOT_TAKEN
    remedy = first.remedy(Surface.ANNOTATION if spec.service else Surface.LISTENER)
    text = f"{first.event}; {remedy}" if remedy else first.event
    message, full = f"{text} [{first.code}]", str(first)
    detail = full if full != message else ""
    return Outcome(state, reason, message, detail, tuple(findings))


def taken(ports: Iterable[int], gateway: object, older: About) -> Outcome:
    """The outcome for a port of an older request; only administrators see whose it is.

    Args:
        ports: the requested ports.
        gateway: the gateway.
        older: the Service or Gateway with the older request.
    """
    text = f"port {min(ports)}/UDP of gateway {gateway} is already requested by"
    name = f"{older.kind} {older.namespace}/{older.name}"
    message, detail = f"{text} an older {older.kind}", f"{text} the older {name}"
    return Outcome(WAITING, PORT_TAKEN, message, detail)


def no_listener(unavailable: Mapping[int, Unavailable], gateway: object) -> Outcome:
    """The outcome for a Gateway if none of its listeners can have its port.

    Args:
        unavailable: why, by port.
        gateway: the gateway.
    """
    taken = sorted(port for port, why in unavailable.items() if why.conflicts)
    if not taken:
        return Outcome(REFUSED, FORBIDDEN, "; ".join(why.message for why in unavailable.values()))
    *others, last = [f"{port}/UDP" for port in taken]
    listed = f"ports {', '.join(others)} and {last}" if others else f"port {last}"
    verb = "are" if others else "is"
    return Outcome(WAITING, PORT_TAKEN, f"{listed} of gateway {gateway} {verb} taken")
