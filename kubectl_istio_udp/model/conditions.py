"""How an exposure, response or access log does, in the words of Kubernetes' conditions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class ConditionType(str, Enum):
    """What a condition is about; the names that the Gateway API has are its own.

    ACCEPTED: its objects are readable, complete, and nothing else claims the same of the gateway.
    RESOLVED_REFS: the Service exists and has ready endpoints.
    PROGRAMMED: the gateway runs and has the listeners.
    ADDRESSED: clients have an address to send to.
    READY: all of these.
    """

    ACCEPTED = "Accepted"
    RESOLVED_REFS = "ResolvedRefs"
    PROGRAMMED = "Programmed"
    ADDRESSED = "Addressed"
    READY = "Ready"


class Truth(str, Enum):
    """Whether a condition holds; UNKNOWN where nobody could be asked."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Condition:
    """One condition.

    Attributes:
        type, status: which, and whether it holds.
        reason: why, in one word that scripts may compare, such as `NoEndpoints`.
        message: why, in a sentence; "" where there is nothing to add.
    """

    type: ConditionType
    status: Truth
    reason: str
    message: str = ""

    @classmethod
    def holds(cls, type_: ConditionType) -> Condition:
        """A condition that is met; its reason is its type, as in the Gateway API."""
        return cls(type_, Truth.TRUE, type_.value)

    @classmethod
    def fails(cls, type_: ConditionType, reason: str, message: str) -> Condition:
        """A condition that is not met."""
        return cls(type_, Truth.FALSE, reason, message)

    @classmethod
    def unknown(cls, type_: ConditionType, message: str) -> Condition:
        """A condition about which nobody could be asked."""
        return cls(type_, Truth.UNKNOWN, "Unknown", message)

    def to_data(self) -> dict[str, str]:
        """As Kubernetes' JSON has it."""
        found = {"type": self.type.value, "status": self.status.value, "reason": self.reason}
        return {**found, "message": self.message}


def with_ready(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """The conditions, with READY in front: false for the first that fails, unknown likewise."""
    found = tuple(conditions)
    for truth in (Truth.FALSE, Truth.UNKNOWN):
        for condition in found:
            if condition.status is truth:
                summary = Condition(ConditionType.READY, truth, condition.reason, condition.message)
                return (summary, *found)
    return (Condition.holds(ConditionType.READY), *found)


def summary(conditions: Iterable[Condition]) -> str:
    """The reasons of the conditions that fail, as a table shows them; `ok` where none does."""
    reasons = [
        condition.reason
        for condition in conditions
        if condition.status is Truth.FALSE and condition.type is not ConditionType.READY
    ]
    return ",".join(dict.fromkeys(reasons)) or "ok"
