"""Read istiod's status of the Gateways and routes that the controller created.

It applies to the originals only if the copy is current, and if istiod has seen that
(observedGeneration).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from kubectl_istio_udp.apply.exact import has_all
from kubectl_istio_udp.controller.conditions import (
    ACCEPTED,
    LISTENER_TYPES,
    PROGRAMMED,
    REPEATED,
    RESOLVED,
    ApiCondition,
    ListenerStatus,
    Mirror,
)
from kubectl_istio_udp.model.apiconditions import current_conditions, generation_of
from kubectl_istio_udp.model.decoded import as_list, as_mapping
from kubectl_istio_udp.model.gatewayapi import ParentRef
from kubectl_istio_udp.model.mesh import REVISION_LABEL
from kubectl_istio_udp.model.names import MANAGED_BY_LABEL

Manifest = Mapping[str, Any]
COPY_LABELS = (REVISION_LABEL, MANAGED_BY_LABEL)
_HOLDS = {"True": True, "False": False}


def is_current(existing: Manifest | None, wanted: Manifest) -> bool:
    """Whether a copy is current: its spec has exactly the fields of the wanted one."""
    if existing is None or (existing.get("spec") or {}) != wanted["spec"]:
        return False
    same_labels = _copy_labels(existing["metadata"]) == _copy_labels(wanted["metadata"])
    return same_labels and _has_owner(existing, wanted)


def _has_owner(existing: Manifest, wanted: Manifest) -> bool:
    """Whether an object is a copy of the same original as the wanted one."""
    owners = existing["metadata"].get("ownerReferences")
    return has_all(owners, wanted["metadata"]["ownerReferences"])


def _copy_labels(metadata: Manifest) -> dict[str, str]:
    """The labels of a copy that the controller sets."""
    labels = metadata.get("labels") or {}
    return {key: labels[key] for key in COPY_LABELS if key in labels}


def mirror(
    existing: Manifest | None,
    wanted: Manifest,
    problem: str = "",
    unpermitted: Mapping[str, str] = MappingProxyType({}),
) -> Mirror:
    """The status of the Gateway of class istio that was created for a Gateway.

    Args:
        existing: the created Gateway; None if it is missing.
        wanted: the content that it should have.
        problem: why it cannot be written; "" if it can.
        unpermitted: why listeners may not use their certificates, by the listener's name.
    """
    name = str(wanted["metadata"]["name"])
    addresses = _addresses(existing, wanted)
    if existing is None or not is_current(existing, wanted):
        pending = problem or f"Gateway {name} is being written"
        return Mirror(name, pending, addresses=addresses)
    generation = generation_of(existing)
    status = as_mapping(existing.get("status"))
    types = (ACCEPTED, PROGRAMMED, *REPEATED)
    current = {each.type: each for each in _current(status, generation, types)}
    listeners = {}
    for entry in map(as_mapping, as_list(status.get("listeners"))):
        if found := _current(entry, generation, LISTENER_TYPES):
            kinds = tuple(map(as_mapping, as_list(entry.get("supportedKinds"))))
            attached = int(entry.get("attachedRoutes") or 0)
            listener = str(entry.get("name"))
            if why := unpermitted.get(listener):
                refused = ApiCondition(RESOLVED, False, "RefNotPermitted", why)
                found = (*(each for each in found if each.type != RESOLVED), refused)
            listeners[listener] = ListenerStatus(kinds, attached, found)
    names = {str(listener["name"]) for listener in wanted["spec"]["listeners"]}
    pending = "" if PROGRAMMED in current and names <= listeners.keys() else _unseen(name)
    return Mirror(name, pending, current, listeners, addresses)


def _addresses(existing: Manifest | None, wanted: Manifest) -> tuple[tuple[str, str], ...]:
    """The addresses of a created Gateway, which serves clients although it is not current."""
    if existing is None or not _has_owner(existing, wanted):
        return ()
    found = as_list(as_mapping(existing.get("status")).get("addresses"))
    return tuple(
        (str(each.get("type") or "IPAddress"), str(each.get("value")))
        for each in map(as_mapping, found)
    )


def _unseen(name: str) -> str:
    return f"istiod has not reported on Gateway {name} yet"


def parent_conditions(
    existing: Manifest | None, wanted: Manifest, parent: ParentRef, controller: str
) -> tuple[ApiCondition, ...] | None:
    """The conditions that istiod reports for a copy of a route at a parent; None before that.

    Args:
        existing: the copy; None if it is missing.
        wanted: the content that it should have.
        parent: its reference to the created Gateway.
        controller: the controllerName of istiod.
    """
    if existing is None or not is_current(existing, wanted):
        return None
    metadata = existing["metadata"]
    for entry in map(as_mapping, as_list(as_mapping(existing.get("status")).get("parents"))):
        ref = ParentRef.from_object(as_mapping(entry.get("parentRef")), metadata["namespace"])
        if entry.get("controllerName") == controller and ref.identity == parent.identity:
            return _current(entry, generation_of(existing)) or None
    return None


def _current(
    owner: Manifest, generation: int, types: Collection[str] | None = None
) -> tuple[ApiCondition, ...]:
    """The conditions of an object or entry; empty if one of them is of a former generation.

    Args:
        owner: the status or the entry.
        generation: the object's generation.
        types: the types to read, because others may be another controller's; None for all.
    """

    def wanted(found: Iterable[Manifest]) -> list[Manifest]:
        return [each for each in found if not types or each.get("type") in types]

    current = wanted(current_conditions(owner, generation))
    if len(current) < len(wanted(map(as_mapping, as_list(owner.get("conditions"))))):
        return ()
    return tuple(
        ApiCondition(
            str(each.get("type")),
            _HOLDS.get(str(each.get("status"))),
            str(each.get("reason")),
            str(each.get("message") or ""),
        )
        for each in current
    )
