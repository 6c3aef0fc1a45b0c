"""What a Pod's status says: whether it is ready, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Manifest = Mapping[str, Any]


def is_ready(pod: Manifest) -> bool:
    """Whether a pod has the condition Ready. One that is being deleted may have it for seconds."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def phase(pod: Manifest) -> str:
    """The pod's phase as kubectl shows it: `Terminating` while it is being deleted."""
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    return str((pod.get("status") or {}).get("phase", "Unknown"))


def waiting_containers(pod: Manifest) -> list[Manifest]:
    """The state `waiting` of each container that has one with a reason."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    states = [(each.get("state") or {}).get("waiting") or {} for each in statuses]
    return [state for state in states if state.get("reason")]
