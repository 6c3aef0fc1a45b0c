"""The status of an exposure, response or access log, as Kubernetes conditions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class ConditionType(str, Enum):
    """The type of a condition; ACCEPTED, RESOLVED_REFS and PROGRAMMED are Gateway API types.

    ACCEPTED: its objects are readable and complete, and nothing conflicts on the gateway.
    RESOLVED_REFS: the Service exists and has ready endpoints.
    PROGRAMMED: the gateway runs and has the listeners.
    ADDRESSED: clients have an address.
    READY: all of the above.
    """

    ACCEPTED = "Accepted"
    RESOLVED_REFS = "ResolvedRefs"
    PROGRAMMED = "Programmed"
    ADDRESSED = "Addressed"
    READY = "Ready"


class Truth(str, Enum):
    """The status of a condition; UNKNOWN if it could not be determined."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        type, status: as in Kubernetes.
        reason: the cause in one CamelCase word that scripts may compare, such as `NoEndpoints`.
        message: the cause in a sentence; "" if the reason says it all.
    """

    type: ConditionType
    status: Truth
    reason: str
    message: str = ""

    @classmethod
    def holds(cls, type_: ConditionType) -> Condition:
        """A condition with status True; its reason is its type, as in the Gateway API."""
        return cls(type_, Truth.TRUE, type_.value)

    @classmethod
    def fails(cls, type_: ConditionType, reason: str, message: str) -> Condition:
        """A condition with status False."""
        return cls(type_, Truth.FALSE, reason, message)

    @classmethod
    def unknown(cls, type_: ConditionType, message: str) -> Condition:
        """A condition with status Unknown."""
        return cls(type_, Truth.UNKNOWN, "Unknown", message)

    def to_data(self) -> dict[str, str]:
        """The condition as Kubernetes' JSON."""
        found = {"type": self.type.value, "status": self.status.value, "reason": self.reason}
        return {**found, "message": self.message}


def with_ready(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """Prepend READY: False if any condition is False, else Unknown if any is Unknown."""
    found = tuple(conditions)
    for truth in (Truth.FALSE, Truth.UNKNOWN):
        for condition in found:
            if condition.status is truth:
                summary = Condition(ConditionType.READY, truth, condition.reason, condition.message)
                return (summary, *found)
    return (Condition.holds(ConditionType.READY), *found)


def summary(conditions: Iterable[Condition]) -> str:
    """The reasons of the conditions that are False, for a table; `ok` if none is."""
    reasons = [
        condition.reason
        for condition in conditions
        if condition.status is Truth.FALSE and condition.type is not ConditionType.READY
    ]
    return ",".join(dict.fromkeys(reasons)) or "ok"
