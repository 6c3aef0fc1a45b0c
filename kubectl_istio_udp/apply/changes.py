"""ChangeSet: all changes of a run, computed before anything is written.

`expose`, `direct response`, `access-log`, `delete` and the controller compare the existing objects
with the rendered ones to get a ChangeSet. A deletion renders nothing. So leftovers of an earlier
run, wherever it stopped, are in the next run's ChangeSet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.managed_fields import is_managed
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.state.ownership import OBJECT_KINDS

Manifest = Mapping[str, Any]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Release:
    """The ports of an exposure on the gateway's own Service (`--gateway-service patch`).

    Attributes:
        service: the Service's manifest, as read.
        manager: the field manager of the exposure's ports; an apply by it without ports removes
            exactly these.
    """

    service: Manifest
    manager: str

    @property
    def namespace(self) -> str:
        """The Service's namespace."""
        return str(self.service["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """The Service's name."""
        return str(self.service["metadata"]["name"])

    @property
    def manifest(self) -> dict[str, Any]:
        """The apply configuration without ports."""
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": self.namespace},
        }


@dataclass(frozen=True)
class ChangeSet:
    """All changes of a run for one exposure, response or access log.

    Attributes:
        create: objects that do not exist yet, in writing order.
        change: existing objects that are applied again; the API server reports which of them
            change.
        delete: existing objects that are no longer needed, in deletion order.
        release: Services with ports that are no longer needed.
        writes: `create` and `change` together, in writing order.
    """

    create: tuple[Write, ...] = ()
    change: tuple[Write, ...] = ()
    delete: tuple[Manifest, ...] = ()
    release: tuple[Release, ...] = ()
    writes: tuple[Write, ...] = ()


def change_set(
    kind: Kind,
    key: tuple[str, str],
    objects: Sequence[Manifest],
    services: Sequence[Manifest] = (),
    writes: Sequence[Write] = (),
) -> ChangeSet:
    """Compare the existing objects with the wanted ones.

    Args:
        kind: the kind.
        key: its (namespace, name).
        objects: its existing objects; duplicates are allowed.
        services: Services that may have its ports. Their managedFields decide, not an earlier
            spec.
        writes: the wanted objects, in writing order; empty for a deletion.
    """
    wanted = {write.key for write in writes}
    existing = {key_of(manifest): manifest for manifest in objects}
    exists = {*existing, *map(key_of, services)}
    order = OBJECT_KINDS[kind]
    unwanted = [manifest for place, manifest in existing.items() if place not in wanted]
    # In reverse writing order: the Service for clients, Envoy's configuration, the endpoints.
    unwanted.sort(key=lambda manifest: order.index(manifest["kind"]), reverse=True)
    return ChangeSet(
        create=tuple(write for write in writes if write.key not in exists),
        change=tuple(write for write in writes if write.key in exists),
        delete=tuple(unwanted),
        release=tuple(_releases(kind, key, services, wanted)),
        writes=tuple(writes),
    )


def _releases(
    kind: Kind, key: tuple[str, str], services: Sequence[Manifest], wanted: set[Key]
) -> list[Release]:
    if kind is not Kind.EXPOSURE:
        return []
    manager = names.service_manager(*key)
    return [
        Release(service, manager)
        for service in services
        if is_managed(service, manager) and key_of(service) not in wanted
    ]


def key_of(manifest: Manifest) -> Key:
    """(kind, namespace, name) of an object."""
    metadata = manifest["metadata"]
    return (manifest["kind"], metadata.get("namespace", ""), metadata["name"])
