"""The status of GatewayClasses, Gateways and UDPRoutes: computed here, written by reporting.py.

Each function takes an existing object and returns its new status. The status is equal if nothing
needs to be written: other controllers' entries are kept, and the time of a condition only changes
with its status (the Gateway API's documentation of conditions).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model.envoyfilter import items, record
from kubectl_istio_udp.model.gatewayapi import (
    CONTROLLER_NAME,
    UDP,
    ApiGateway,
    GatewayClass,
    Listener,
    ParentRef,
)
from kubectl_istio_udp.sources.routes import Attachment, Backends

Manifest = Mapping[str, Any]

# The supported features of a GatewayClass, sorted.
FEATURES = ("Gateway", "ReferenceGrant", "UDPRoute")
ACCEPTED, PROGRAMMED, RESOLVED = "Accepted", "Programmed", "ResolvedRefs"
CONFLICTED, PARTIALLY_INVALID = "Conflicted", "PartiallyInvalid"
# The API's limits.
_MOST_PARENTS, _MOST_ADDRESSES, _LONGEST_MESSAGE = 32, 16, 32_768


@dataclass(frozen=True)
class Said:
    """One condition.

    Attributes:
        type, holds, reason, message: as in the API; `holds` is the status.
    """

    type: str
    holds: bool
    reason: str
    message: str = ""


def conditions(
    there: object, said: Iterable[Said], generation: int, now: str
) -> list[dict[str, Any]]:
    """Merge new conditions into existing ones; other types are kept.

    Args:
        there: the object's existing conditions.
        said: the new conditions.
        generation: the generation of the object.
        now: the current time in the API's format.
    """
    found = {str(each.get("type")): dict(each) for each in map(record, items(there))}
    for each in said:
        before = found.get(each.type, {})
        status = "True" if each.holds else "False"
        since = before.get("lastTransitionTime") if before.get("status") == status else None
        found[each.type] = {
            "type": each.type,
            "status": status,
            "reason": each.reason,
            "message": each.message[:_LONGEST_MESSAGE],
            "observedGeneration": generation,
            "lastTransitionTime": since or now,
        }
    return list(found.values())


# -- GatewayClass -----------------------------------------------------------------------------


def class_status(manifest: Manifest, now: str) -> dict[str, Any]:
    """The status of a GatewayClass of our controller."""
    found, status = GatewayClass.from_object(manifest), record(manifest.get("status"))
    said = Said(ACCEPTED, True, ACCEPTED)
    if found.parameters:
        said = Said(ACCEPTED, False, "InvalidParameters", "this class takes no parametersRef")
    return {
        **status,
        "conditions": conditions(status.get("conditions"), [said], found.generation, now),
        "supportedFeatures": [{"name": name} for name in FEATURES],
    }


# -- UDPRoute ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParentReport:
    """The status of a route at one of our Gateways.

    Attributes:
        parent, attachment, backends: the parent, and what the route's spec results in there.
        options_problem: why the route's annotations do not apply; "" if they do.
    """

    parent: ParentRef
    attachment: Attachment
    backends: Backends
    options_problem: str = ""

    @property
    def said(self) -> tuple[Said, ...]:
        """The conditions; PartiallyInvalid only if it is true, as the API demands."""
        attachment, backends = self.attachment, self.backends
        usual = (
            Said(ACCEPTED, attachment.accepted, attachment.reason, attachment.message),
            Said(RESOLVED, backends.resolved, backends.reason, backends.message),
        )
        if not self.options_problem:
            return usual
        # The API wants the message to begin so.
        message = f"Fall Back: {self.options_problem}; the settings before apply"
        return (*usual, Said(PARTIALLY_INVALID, True, "UnsupportedValue", message))


def route_status(manifest: Manifest, reports: Sequence[ParentReport], now: str) -> dict[str, Any]:
    """The status of a UDPRoute: other controllers' entries are kept, ours are replaced."""
    status, metadata = record(manifest.get("status")), manifest["metadata"]
    namespace, generation = metadata["namespace"], int(metadata.get("generation") or 0)
    wanted = {_identity(report.parent): report for report in reports}
    parents: list[Any] = []
    for entry in map(record, items(status.get("parents"))):
        if entry.get("controllerName") != CONTROLLER_NAME:
            parents.append(entry)
            continue
        ref = ParentRef.from_object(record(entry.get("parentRef")), namespace)
        report = wanted.pop(_identity(ref), None)
        if report is not None:
            parents.append(_parent(report, entry.get("conditions"), generation, now))
    parents += [_parent(report, (), generation, now) for report in wanted.values()]
    if not parents and not status.get("parents"):
        return dict(status)
    return {**status, "parents": parents[:_MOST_PARENTS]}


def _identity(parent: ParentRef) -> tuple[Any, ...]:
    return (
        parent.group,
        parent.kind,
        parent.namespace,
        parent.name,
        parent.section_name,
        parent.port,
    )


def _parent(report: ParentReport, there: object, generation: int, now: str) -> dict[str, Any]:
    found = conditions(there, report.said, generation, now)
    said = {each.type for each in report.said}
    return {
        "parentRef": dict(report.parent.raw),
        "controllerName": CONTROLLER_NAME,
        "conditions": [
            each for each in found if each["type"] in said or each["type"] != PARTIALLY_INVALID
        ],
    }


# -- Gateway ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """The progress of a Gateway.

    Attributes:
        problem: reason and message of a problem with the Gateway itself; None if there is none.
        unavailable: why a listener cannot get its port, by the listener's name.
        programmed: whether every ready gateway pod has the listeners.
        reason, message: why it is not programmed.
        addresses: the addresses for clients, as (type, value).
    """

    problem: tuple[str, str] | None = None
    unavailable: Mapping[str, str] | None = None
    programmed: bool = False
    reason: str = "Pending"
    message: str = ""
    addresses: tuple[tuple[str, str], ...] = ()


def gateway_status(
    manifest: Manifest, attached: Mapping[str, int], progress: Progress, now: str
) -> dict[str, Any]:
    """The status of a Gateway of our class.

    Args:
        manifest: the Gateway.
        attached: the number of routes attached to each listener, by its name.
        progress: the Gateway's progress.
        now: the current time in the API's format.
    """
    gateway, status = ApiGateway.from_object(manifest), record(manifest.get("status"))
    before = {each.get("name"): each for each in map(record, items(status.get("listeners")))}
    listeners = [
        {
            "name": listener.name,
            "supportedKinds": [
                {"group": group, "kind": kind} for group, kind in listener.supported_kinds
            ],
            "attachedRoutes": attached.get(listener.name, 0),
            "conditions": conditions(
                record(before.get(listener.name)).get("conditions"),
                _of_listener(listener, progress),
                gateway.generation,
                now,
            ),
        }
        for listener in gateway.listeners
    ]
    addresses = [{"type": kind, "value": value} for kind, value in progress.addresses]
    found = {
        **{key: value for key, value in status.items() if key != "addresses"},
        "conditions": conditions(
            status.get("conditions"), _of_gateway(gateway, progress), gateway.generation, now
        ),
        "listeners": listeners,
    }
    return {**found, "addresses": addresses[:_MOST_ADDRESSES]} if addresses else found


def is_valid(listener: Listener, progress: Progress) -> bool:
    """Whether a listener can be served."""
    return listener.protocol == UDP and listener.name not in (progress.unavailable or {})


def _of_listener(listener: Listener, progress: Progress) -> tuple[Said, ...]:
    taken = (progress.unavailable or {}).get(listener.name)
    accepted, resolved = Said(ACCEPTED, True, ACCEPTED), Said(RESOLVED, True, RESOLVED)
    conflicted = Said(CONFLICTED, False, "NoConflicts")
    if listener.protocol != UDP:
        accepted = Said(
            ACCEPTED,
            False,
            "UnsupportedProtocol",
            f"this class has no listeners for protocol {listener.protocol}, only for UDP",
        )
    elif taken:
        accepted = Said(ACCEPTED, False, "PortUnavailable", taken)
        conflicted = Said(CONFLICTED, True, "PortUnavailable", taken)
    if listener.invalid_kinds:
        kinds = ", ".join(listener.invalid_kinds)
        resolved = Said(
            RESOLVED, False, "InvalidRouteKinds", f"a UDP listener takes no routes of kind {kinds}"
        )
    if progress.programmed and accepted.holds:
        programmed = Said(PROGRAMMED, True, PROGRAMMED)
    elif accepted.holds:
        programmed = Said(PROGRAMMED, False, progress.reason, progress.message)
    else:
        programmed = Said(PROGRAMMED, False, "Invalid", accepted.message)
    return (accepted, programmed, resolved, conflicted)


def _of_gateway(gateway: ApiGateway, progress: Progress) -> tuple[Said, Said]:
    invalid = [each.name for each in gateway.listeners if not is_valid(each, progress)]
    some = len(invalid) < len(gateway.listeners)
    if progress.problem:
        accepted = Said(ACCEPTED, False, *progress.problem)
    elif invalid:
        message = f"not valid: {', '.join(invalid)}"
        accepted = Said(ACCEPTED, some, "ListenersNotValid", message)
    else:
        accepted = Said(ACCEPTED, True, ACCEPTED)
    if not accepted.holds:
        return accepted, Said(PROGRAMMED, False, "Invalid", accepted.message)
    if progress.programmed and not progress.addresses:
        return accepted, Said(
            PROGRAMMED, False, "AddressNotAssigned", "the Service for clients has no address yet"
        )
    if progress.programmed:
        return accepted, Said(PROGRAMMED, True, PROGRAMMED)
    return accepted, Said(PROGRAMMED, False, progress.reason, progress.message)
