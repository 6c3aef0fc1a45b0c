"""Read from managedFields which field manager owns which fields.

The format is that of server-side apply (structured-merge-diff's FieldsV1): an entry of spec.ports
has the key `k:{"port":53,"protocol":"UDP"}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kubectl_istio_udp.model.kinds import MANAGER
from kubectl_istio_udp.model.times import read_time


def is_managed(service: Mapping[str, Any], manager: str) -> bool:
    """Whether a field manager owns any field of a Service manifest."""
    return any(
        owner.get("manager") == manager for owner in service["metadata"].get("managedFields") or ()
    )


def exposure_managers(service: Mapping[str, Any]) -> frozenset[str]:
    """The field managers of exposures that own fields of a Service manifest."""
    owners = (service.get("metadata") or {}).get("managedFields") or ()
    managers = (str(owner.get("manager") or "") for owner in owners)
    return frozenset(name for name in managers if name.startswith(f"{MANAGER}/"))


def manager_of(manifest: Mapping[str, Any]) -> str | None:
    """The field manager that applied an object's spec; None if it was not applied."""
    for owner in manifest["metadata"].get("managedFields") or ():
        if owner.get("operation") == "Apply" and "f:spec" in (owner.get("fieldsV1") or {}):
            return str(owner["manager"])
    return None


def last_written(manifest: Mapping[str, Any]) -> datetime | None:
    """When anybody last wrote an object's fields; None if managedFields does not show it.

    Writes of its status count too.
    """
    owners = manifest["metadata"].get("managedFields") or ()
    return max((read_time(owner["time"]) for owner in owners if owner.get("time")), default=None)


def managed_ports(service: Mapping[str, Any], manager: str) -> list[Mapping[str, Any]]:
    """The entries of a Service's spec.ports that a field manager owns."""
    owned = {
        key
        for owner in service["metadata"].get("managedFields") or ()
        if owner.get("manager") == manager
        for key in ((owner.get("fieldsV1") or {}).get("f:spec") or {}).get("f:ports", {})
    }
    return [entry for entry in service["spec"].get("ports") or () if _key(entry) in owned]


def conflicting_ports(
    service: Mapping[str, Any], manager: str, port: int
) -> list[Mapping[str, Any]]:
    """The entries of a Service's spec.ports that prevent a field manager from adding a UDP port.

    They have the same port, or the name of the added entry.
    """
    owned = managed_ports(service, manager)
    return [
        entry
        for entry in service["spec"].get("ports") or ()
        if entry not in owned
        and (
            (entry["port"], entry.get("protocol")) == (port, "UDP")
            or entry.get("name") == f"udp-{port}"
        )
    ]


def has_other_ports(service: Mapping[str, Any]) -> bool:
    """Whether a Service manifest has a port that no exposure's field manager owns."""
    owned = {
        _key(port)
        for manager in exposure_managers(service)
        for port in managed_ports(service, manager)
    }
    return any(_key(port) not in owned for port in service["spec"].get("ports") or ())


def _key(entry: Mapping[str, Any]) -> str:
    return f'k:{{"port":{entry["port"]},"protocol":"{entry.get("protocol", "TCP")}"}}'
