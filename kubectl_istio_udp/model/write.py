"""Planned writes: what render/ returns and apply/ executes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model.resources import resource_key


@dataclass(frozen=True)
class Write:
    """One server-side apply.

    Attributes:
        manifest: the fields to apply.
        manager: the field manager.
        whole: whether the plugin creates the whole object, so that a rollback may delete it; False
            for fields of an object that belongs to someone else.
    """

    manifest: Mapping[str, Any]
    manager: str
    whole: bool = True

    @property
    def kind(self) -> str:
        """The object's kind, as in requests: its key in RESOURCES."""
        return resource_key(self.manifest)

    @property
    def namespace(self) -> str:
        """The object's namespace; "" for cluster-scoped kinds."""
        return str(self.manifest["metadata"].get("namespace", ""))

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.manifest["metadata"]["name"])

    @property
    def key(self) -> tuple[str, str, str]:
        """(kind, namespace, name)."""
        return (self.kind, self.namespace, self.name)
