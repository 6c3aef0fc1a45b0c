"""The status of GatewayClasses, Gateways and routes: computed here, written by reporting.py.

Each function takes an existing object and returns its new status. The status is equal if nothing
needs to be written: other controllers' entries are kept, and the time of a condition only changes
with its status (the Gateway API's documentation of conditions).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kubectl_istio_udp.controller.outcome import Unavailable
from kubectl_istio_udp.model.decoded import as_list, as_mapping
from kubectl_istio_udp.model.gatewayapi import (
    CONTROLLER_NAME,
    UDP,
    ApiGateway,
    GatewayClass,
    Listener,
    ParentRef,
)
from kubectl_istio_udp.model.reasons import ENDPOINT_REFUSED
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.sources.routes import Attachment, Backends

Manifest = Mapping[str, Any]
# The reason and the message of a condition.
Why = tuple[str, str]

# The supported features of a GatewayClass, sorted, with the kinds that they need. Those of HTTP,
# GRPC and TLS are istiod's (1.30 and later). TCPRoute is not among them, because istiod 1.30 does
# not serve it.
FEATURES = {
    "GRPCRoute": "GRPCRoute",
    "Gateway": API_GATEWAY,
    "HTTPRoute": "HTTPRoute",
    "ReferenceGrant": "ReferenceGrant",
    "TLSRoute": "TLSRoute",
    "TLSRouteModeMixed": "TLSRoute",
    "TLSRouteModeTerminate": "TLSRoute",
    "UDPRoute": "UDPRoute",
}
ACCEPTED, PROGRAMMED, RESOLVED = "Accepted", "Programmed", "ResolvedRefs"
CONFLICTED, PARTIALLY_INVALID = "Conflicted", "PartiallyInvalid"
# Another Gateway serves some of the listeners, so policies must target that Gateway.
MIRRORED = "kubectl-istio-udp.dev/Mirrored"
# A route's backends have endpoints that the gateway may not send to.
REFUSED_ENDPOINTS = "kubectl-istio-udp.dev/RefusedEndpoints"
# The API's conditions of listeners.
LISTENER_TYPES = (ACCEPTED, PROGRAMMED, RESOLVED, CONFLICTED, "OverlappingTLSConfig")
# Conditions of the created Gateway that its Gateway repeats.
REPEATED = (RESOLVED, "InsecureFrontendValidationMode")
_STATUS = {True: "True", False: "False", None: "Unknown"}
# The API's limits.
_MOST_PARENTS, _MOST_ADDRESSES, _MOST_CONDITIONS, _LONGEST_MESSAGE = 32, 16, 8, 32_768


@dataclass(frozen=True)
class ApiCondition:
    """One condition.

    Attributes:
        type, holds, reason, message: as in the API; `holds` is the status, None for Unknown.
    """

    type: str
    holds: bool | None
    reason: str
    message: str = ""


def merged_conditions(
    existing: object,
    conditions: Iterable[ApiCondition],
    generation: int,
    now: str,
    ended: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Merge new conditions into existing ones; other types are kept.

    Args:
        existing: the object's existing conditions.
        conditions: the new conditions, the most important first. The last ones are left out if
            there would be more than the API allows.
        generation: the generation of the object.
        now: the current time in the API's format.
        ended: the types to remove if they are not among the new conditions.
    """
    new = {each.type: each for each in conditions}
    found = {str(each.get("type")): dict(each) for each in map(as_mapping, as_list(existing))}
    stay = found.keys() - new.keys() - set(ended)
    for each in tuple(new.values())[: max(0, _MOST_CONDITIONS - len(stay))]:
        stay.add(each.type)
        before = found.get(each.type, {})
        status = _STATUS[each.holds]
        since = before.get("lastTransitionTime") if before.get("status") == status else None
        found[each.type] = {
            "type": each.type,
            "status": status,
            "reason": each.reason,
            "message": each.message[:_LONGEST_MESSAGE],
            "observedGeneration": generation,
            "lastTransitionTime": since or now,
        }
    return [each for kind, each in found.items() if kind in stay]


# -- GatewayClass -----------------------------------------------------------------------------


def class_status(manifest: Manifest, kinds: Collection[str], now: str) -> dict[str, Any]:
    """The status of a GatewayClass of this controller.

    Args:
        manifest: the class.
        kinds: the kinds of the Gateway API that the cluster has.
        now: the current time in the API's format.
    """
    found, status = GatewayClass.from_object(manifest), as_mapping(manifest.get("status"))
    accepted = ApiCondition(ACCEPTED, True, ACCEPTED)
    if not found.is_served:
        text = f"istiod must serve class {found.name}: this controller creates Gateways of it"
        accepted = ApiCondition(ACCEPTED, False, "Unsupported", text)
    elif found.parameters:
        accepted = ApiCondition(
            ACCEPTED, False, "InvalidParameters", "this class does not support parametersRef"
        )
    return {
        **status,
        "conditions": merged_conditions(
            status.get("conditions"), [accepted], found.generation, now
        ),
        "supportedFeatures": [{"name": name} for name, kind in FEATURES.items() if kind in kinds],
    }


# -- routes -----------------------------------------------------------------------------------


class Report(Protocol):
    """The status of a route at a Gateway of this controller."""

    @property
    def parent(self) -> ParentRef:
        """The route's reference to the Gateway."""

    @property
    def conditions(self) -> Sequence[ApiCondition] | None:
        """The conditions; None to keep the existing ones, if there are any."""

    @property
    def unknown(self) -> tuple[str, ...]:
        """The types of conditions to keep until they are known."""


@dataclass(frozen=True)
class ParentReport:
    """The status of a UDPRoute at a Gateway of this controller.

    Attributes:
        parent, attachment, backends: the parent, and the result of the route's spec there.
        options_problem: why the route's annotations do not apply; "" if they do.
        dropped_rules: how many of its rules are ignored.
        refused: the endpoints of its backends that the gateway does not send to, with the reasons;
            "" if there are none; None if this is not known yet.
    """

    parent: ParentRef
    attachment: Attachment
    backends: Backends
    options_problem: str = ""
    dropped_rules: int = 0
    refused: str | None = ""

    @property
    def unknown(self) -> tuple[str, ...]:
        """The types of conditions to keep until they are known."""
        return (REFUSED_ENDPOINTS,) if self.refused is None else ()

    @property
    def conditions(self) -> tuple[ApiCondition, ...]:
        """The conditions; PartiallyInvalid only if it is true and the route is accepted.

        The API requires both.
        """
        attachment, backends = self.attachment, self.backends
        found = [
            ApiCondition(ACCEPTED, attachment.accepted, attachment.reason, attachment.message),
            ApiCondition(RESOLVED, backends.resolved, backends.reason, backends.message),
        ]
        # The API requires these beginnings of the message.
        partly = []
        if self.dropped_rules:
            partly.append("Dropped Rule: only the first rule is served")
        if self.options_problem:
            partly.append(f"Fall Back: {self.options_problem}; the earlier settings stay in effect")
        if partly and attachment.accepted:
            message = "; ".join(partly)
            found.append(ApiCondition(PARTIALLY_INVALID, True, "UnsupportedValue", message))
        if self.refused:
            message = f"the gateway does not send to endpoints of {self.refused}"
            found.append(ApiCondition(REFUSED_ENDPOINTS, True, ENDPOINT_REFUSED, message))
        return tuple(found)


@dataclass(frozen=True)
class MirrorReport:
    """The status of a route of another kind at a Gateway of this controller; see Report."""

    parent: ParentRef
    conditions: Sequence[ApiCondition] | None
    unknown: tuple[str, ...] = ()


def route_status(
    manifest: Manifest, reports: Sequence[Report], now: str, undecided: Sequence[ParentRef] = ()
) -> dict[str, Any]:
    """The status of a route: replaces this controller's entries and keeps all others.

    Args:
        manifest: the route.
        reports: its statuses at the Gateways of this controller.
        now: the current time in the API's format.
        undecided: its parents that may be Gateways of this controller; their entries are kept.
    """
    status, metadata = as_mapping(manifest.get("status")), manifest["metadata"]
    namespace, generation = metadata["namespace"], int(metadata.get("generation") or 0)
    wanted = {report.parent.identity: report for report in reports}
    kept = {parent.identity for parent in undecided}
    parents: list[Any] = []
    for entry in map(as_mapping, as_list(status.get("parents"))):
        ref = ParentRef.from_object(as_mapping(entry.get("parentRef")), namespace)
        if entry.get("controllerName") != CONTROLLER_NAME or ref.identity in kept:
            parents.append(entry)
            continue
        report = wanted.pop(ref.identity, None)
        if report is not None and report.conditions is None:
            parents.append(entry)
        elif report is not None:
            parents.append(_parent(report, entry.get("conditions"), generation, now))
    parents += [_parent(report, (), generation, now) for report in wanted.values()]
    if not parents and not status.get("parents"):
        return dict(status)
    return {**status, "parents": parents[:_MOST_PARENTS]}


def _parent(report: Report, existing: object, generation: int, now: str) -> dict[str, Any]:
    conditions = report.conditions
    if conditions is None:
        conditions = [
            ApiCondition(ACCEPTED, None, "Pending", "istiod has not accepted or rejected it yet")
        ]
    types = {str(each.get("type")) for each in map(as_mapping, as_list(existing))}
    return {
        "parentRef": dict(report.parent.raw),
        "controllerName": CONTROLLER_NAME,
        # This controller writes all conditions of the entry.
        "conditions": merged_conditions(
            existing, conditions, generation, now, ended=types.difference(report.unknown)
        ),
    }


# -- Gateway ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ListenerStatus:
    """The status of a listener.

    Attributes:
        kinds: its supportedKinds.
        attached: its attachedRoutes.
        conditions: its conditions.
    """

    kinds: tuple[Manifest, ...]
    attached: int
    conditions: tuple[ApiCondition, ...]

    @property
    def accepted(self) -> bool:
        """Whether it is accepted."""
        return any(each.type == ACCEPTED and each.holds for each in self.conditions)


@dataclass(frozen=True)
class Mirror:
    """The status of the Gateway of class istio that was created for a Gateway.

    Attributes:
        name: its name.
        pending: why its status is not that of the Gateway's current generation; "" if it is.
        conditions: its conditions by type, if its status is current.
        listeners: its listeners by name, if their status is current.
        addresses: its addresses, as (type, value).
    """

    name: str
    pending: str = ""
    conditions: Mapping[str, ApiCondition] = field(default_factory=dict)
    listeners: Mapping[str, ListenerStatus] = field(default_factory=dict)
    addresses: tuple[tuple[str, str], ...] = ()

    @property
    def repeated(self) -> tuple[ApiCondition, ...]:
        """The conditions that the Gateway repeats, and the one about policies."""
        about_policies = ApiCondition(
            MIRRORED,
            True,
            "Mirrored",
            f"Gateway {self.name} serves all listeners except the UDP listeners. A policy that "
            f"targets this Gateway does not apply to them; it must target Gateway {self.name}",
        )
        return (
            *(self.conditions[kind] for kind in REPEATED if kind in self.conditions),
            about_policies,
        )


@dataclass(frozen=True)
class Progress:
    """The progress of a Gateway.

    Attributes:
        problem: reason and message of a problem with the Gateway itself; None if there is none.
        unavailable: why a listener cannot have its port, by the listener's name.
        lacking: reason and message why a UDP listener is not programmed, by the listener's name;
            every ready gateway pod has the others.
        obstacle: reason and message why the Gateway is not programmed, whatever its listeners are.
        addresses: the addresses for clients, as (type, value).
        mirror: the Gateway of class istio with its listeners for other protocols; None if it has
            none of these, or if it names a gateway.
    """

    problem: Why | None = None
    unavailable: Mapping[str, Unavailable] = field(default_factory=dict)
    lacking: Mapping[str, Why] = field(default_factory=dict)
    obstacle: Why | None = None
    addresses: tuple[tuple[str, str], ...] = ()
    mirror: Mirror | None = None

    def is_mirrored(self, listener: Listener) -> bool:
        """Whether the Gateway of class istio serves a listener."""
        return self.mirror is not None and listener.is_mirrored

    def mirrored(self, listener: Listener) -> ListenerStatus | None:
        """The status of a listener at the Gateway of class istio; None if there is none yet."""
        return self.mirror.listeners.get(listener.name) if self.mirror else None


def gateway_status(
    manifest: Manifest, attached: Mapping[str, int], progress: Progress, now: str
) -> dict[str, Any]:
    """The status of a Gateway of this controller's class.

    Args:
        manifest: the Gateway.
        attached: the number of routes attached to each listener, by its name.
        progress: the Gateway's progress.
        now: the current time in the API's format.
    """
    gateway, status = ApiGateway.from_object(manifest), as_mapping(manifest.get("status"))
    before = {each.get("name"): each for each in map(as_mapping, as_list(status.get("listeners")))}
    listeners: list[dict[str, Any]] = []
    for listener in gateway.listeners:
        existing = as_mapping(before.get(listener.name))
        if not progress.is_mirrored(listener):
            seen = ListenerStatus(
                tuple(_kind(*each) for each in listener.supported_kinds),
                attached.get(listener.name, 0),
                _of_listener(listener, progress),
            )
        elif found := progress.mirrored(listener):
            seen = found
        else:
            # A condition about an earlier generation keeps its observedGeneration.
            listeners += [dict(existing)] if existing else []
            continue
        merged = merged_conditions(
            existing.get("conditions"), seen.conditions, gateway.generation, now, LISTENER_TYPES
        )
        listeners.append(
            {
                "name": listener.name,
                "supportedKinds": list(seen.kinds),
                "attachedRoutes": seen.attached,
                "conditions": merged,
            }
        )
    addresses = [{"type": kind, "value": value} for kind, value in progress.addresses]
    repeated = progress.mirror.repeated if progress.mirror else ()
    conditions = (*_of_gateway(gateway, progress), *repeated)
    of_gateway = merged_conditions(
        status.get("conditions"), conditions, gateway.generation, now, (MIRRORED, *REPEATED)
    )
    result = {
        **{key: value for key, value in status.items() if key != "addresses"},
        "conditions": of_gateway,
        "listeners": listeners,
    }
    return {**result, "addresses": addresses[:_MOST_ADDRESSES]} if addresses else result


def without_own_condition(manifest: Manifest) -> dict[str, Any]:
    """The status of a Gateway that is another controller's now: without our own condition type."""
    status = as_mapping(manifest.get("status"))
    conditions = list(map(as_mapping, as_list(status.get("conditions"))))
    others = [each for each in conditions if each.get("type") != MIRRORED]
    return {**status, "conditions": others} if len(others) < len(conditions) else dict(status)


def _kind(group: str, kind: str) -> dict[str, str]:
    return {"group": group, "kind": kind}


def _is_valid(listener: Listener, progress: Progress) -> bool:
    """Whether a listener can be served; True for one that istiod has not decided about."""
    if progress.is_mirrored(listener):
        seen = progress.mirrored(listener)
        return seen is None or seen.accepted
    return listener.protocol == UDP and listener.name not in progress.unavailable


def _of_listener(listener: Listener, progress: Progress) -> tuple[ApiCondition, ...]:
    unavailable = progress.unavailable.get(listener.name)
    accepted, resolved = (
        ApiCondition(ACCEPTED, True, ACCEPTED),
        ApiCondition(RESOLVED, True, RESOLVED),
    )
    conflicted = ApiCondition(CONFLICTED, False, "NoConflicts")
    # There is no Gateway of class istio whose listener would decide.
    undecided = progress.problem if listener.is_mirrored else None
    if undecided:
        accepted = ApiCondition(ACCEPTED, None, "Pending", undecided[1])
    elif listener.protocol != UDP:
        message = f"this class does not support listeners of protocol {listener.protocol}"
        if listener.is_mirrored:
            message = (
                f"{listener.protocol} is not supported on a Gateway that names an existing "
                "gateway; add the listener to the Gateway of class istio"
            )
        accepted = ApiCondition(ACCEPTED, False, "UnsupportedProtocol", message)
    elif unavailable:
        accepted = ApiCondition(ACCEPTED, False, "PortUnavailable", unavailable.message)
        if unavailable.conflicts:
            conflicted = ApiCondition(CONFLICTED, True, "PortUnavailable", unavailable.message)
    if listener.invalid_kinds and not undecided:
        kinds = ", ".join(listener.invalid_kinds)
        resolved = ApiCondition(
            RESOLVED, False, "InvalidRouteKinds", f"this listener does not support {kinds}"
        )
    if accepted.holds is False:
        programmed = ApiCondition(PROGRAMMED, False, "Invalid", accepted.message)
    elif progress.problem:
        programmed = ApiCondition(PROGRAMMED, False, "Pending", progress.problem[1])
    elif why := progress.lacking.get(listener.name):
        programmed = ApiCondition(PROGRAMMED, False, *why)
    else:
        programmed = ApiCondition(PROGRAMMED, True, PROGRAMMED)
    return (accepted, programmed, resolved, conflicted)


def _of_gateway(gateway: ApiGateway, progress: Progress) -> tuple[ApiCondition, ...]:
    invalid = [each.name for each in gateway.listeners if not _is_valid(each, progress)]
    some = len(invalid) < len(gateway.listeners)
    if progress.problem:
        accepted = ApiCondition(ACCEPTED, False, *progress.problem)
    elif progress.mirror and progress.mirror.pending:
        # It is not known yet whether its listeners are accepted.
        return (ApiCondition(PROGRAMMED, False, "Pending", progress.mirror.pending),)
    elif invalid:
        message = f"invalid listeners: {', '.join(_with_cause(each, progress) for each in invalid)}"
        accepted = ApiCondition(ACCEPTED, some, "ListenersNotValid", message)
    else:
        accepted = ApiCondition(ACCEPTED, True, ACCEPTED)
    if not accepted.holds:
        return accepted, ApiCondition(PROGRAMMED, False, "Invalid", accepted.message)
    return accepted, _programmed(gateway, progress)


def _with_cause(listener: str, progress: Progress) -> str:
    """The name of a listener, and why it cannot have its port if that is why it is not valid."""
    unavailable = progress.unavailable.get(listener)
    return f"{listener} ({unavailable.message})" if unavailable else listener


def _programmed(gateway: ApiGateway, progress: Progress) -> ApiCondition:
    """Whether a Gateway that is accepted is programmed: all its accepted listeners must be."""
    if why := progress.obstacle or _first_lacking(gateway, progress):
        return ApiCondition(PROGRAMMED, False, *why)
    mirrored = progress.mirror.conditions.get(PROGRAMMED) if progress.mirror else None
    if mirrored is not None and not mirrored.holds:
        return mirrored
    if not progress.addresses:
        message = "the Service for clients has no address yet"
        return ApiCondition(PROGRAMMED, False, "AddressNotAssigned", message)
    return ApiCondition(PROGRAMMED, True, PROGRAMMED)


def _first_lacking(gateway: ApiGateway, progress: Progress) -> Why | None:
    """Why a Gateway lacks a UDP listener, first one that cannot become programmed; else None."""
    found = [
        progress.lacking[each.name]
        for each in gateway.udp
        if each.name in progress.lacking and each.name not in progress.unavailable
    ]
    return min(found, key=lambda why: why[0] == "Pending", default=None)
