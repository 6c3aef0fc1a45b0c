"""The object that requests an exposure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class About:
    """The object that requests an exposure; Events about the request refer to it.

    Attributes:
        kind, api_version, namespace, name, uid: as in an Event's reference.
        since: its creationTimestamp; the older of two conflicting requests wins.
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
        """The sort key of requests: the older first, then by `namespace/name` as one text."""
        return (self.since, f"{self.namespace}/", self.name)
