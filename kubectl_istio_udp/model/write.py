"""Intended writes: what rendering hands to the cluster room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Write:
    """One server-side apply.

    Attributes:
        manifest: the fields that are to be ours.
        manager: the field manager that is to own them.
        whole: whether the object is all ours, so that taking the write back may delete it;
            False for fields on an object that somebody else keeps.
    """

    manifest: Mapping[str, Any]
    manager: str
    whole: bool = True

    @property
    def kind(self) -> str:
        """The object's kind."""
        return str(self.manifest["kind"])

    @property
    def namespace(self) -> str:
        """The object's namespace; "" for a kind that has none."""
        return str(self.manifest["metadata"].get("namespace", ""))

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.manifest["metadata"]["name"])

    @property
    def key(self) -> tuple[str, str, str]:
        """(kind, namespace, name)."""
        return (self.kind, self.namespace, self.name)
