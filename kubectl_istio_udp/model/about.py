"""The object that an Event is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class About:
    """The object that a wish stands on; what is told of the wish is told of it.

    Attributes:
        kind, api_version, namespace, name, uid: as Events refer to it.
        since: when it was created, as the API writes it: of two wishes the older wins.
    """

    kind: str
    api_version: str
    namespace: str
    name: str
    uid: str = ""
    since: str = ""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> About:
        """Read an object's metadata."""
        metadata = manifest["metadata"]
        return cls(
            kind=manifest["kind"],
            api_version=manifest.get("apiVersion", "v1"),
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            since=metadata.get("creationTimestamp") or "",
        )

    @property
    def rank(self) -> tuple[str, str, str]:
        """What wishes are ordered by, the older first."""
        return (self.since, self.namespace, self.name)
