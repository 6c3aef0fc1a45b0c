"""Options for writing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WriteOptions:
    """How a command writes, and how long it waits.

    Attributes:
        seconds: how long to wait for the proxies, in seconds; 0 to not wait.
        dry_run: none, client or server.
        force: whether to take over fields that other field managers own.
        manager: the field manager.
        validate: whether to check with a real Envoy first: auto, envoy or none.
    """

    seconds: float
    dry_run: str
    force: bool
    manager: str
    validate: str

    @property
    def waits(self) -> bool:
        """Whether to wait for the proxies after writing."""
        return bool(self.seconds) and self.dry_run == "none"
