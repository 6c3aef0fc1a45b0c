"""What one run changes, computed before it writes anything.

`expose`, `direct response`, `access-log`, `delete` and the controller all compare what exists with
what is rendered, and get a ChangeSet. Deleting is the same with nothing rendered. So whatever an
earlier run left behind, wherever it stopped, is in the next run's ChangeSet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.ownership import is_managed
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.state.ownership import OBJECT_KINDS

Manifest = Mapping[str, Any]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Release:
    """The ports that an exposure has on a Service which others keep (`--gateway-service patch`).

    Attributes:
        service: the Service's manifest, as it was read.
        manager: the field manager of the exposure's ports; who applies nothing under this name
            takes exactly those ports off.
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
        """The apply configuration that names no port."""
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": self.namespace},
        }


@dataclass(frozen=True)
class ChangeSet:
    """Everything that one run changes for one exposure, response or access log.

    Attributes:
        create: objects that do not exist yet, in the order of writing.
        change: objects that exist and are applied again; the API server says which of them
            really differ.
        delete: objects that exist and are not wanted, in the order of deletion.
        release: Services of others on which ports are no longer wanted.
        writes: `create` and `change` together, in the order of writing.
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
    """Compare what exists with what is wanted.

    Args:
        kind: of what.
        key: its (namespace, name).
        objects: its objects, as they exist; one may come twice.
        services: Services of others, among which those are found that have its ports. Their
            managedFields tell, not what an earlier spec said.
        writes: what is wanted, in the order of writing; nothing deletes it.
    """
    wanted = {write.key for write in writes}
    mine = {key_of(manifest): manifest for manifest in objects}
    exists = {*mine, *map(key_of, services)}
    order = OBJECT_KINDS[kind]
    unwanted = [manifest for place, manifest in mine.items() if place not in wanted]
    # Written last is deleted first: the way for clients, then what Envoy has, then the endpoints.
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
