"""How a run writes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Writing:
    """How a run writes, and how long it waits.

    Attributes:
        seconds: how long to wait for the proxies; 0 does not wait.
        dry_run: none, client or server.
        force: whether to take over fields that others changed.
        manager: the field manager.
        validate: whether a real Envoy is asked first: auto, envoy or none.
    """

    seconds: float
    dry_run: str
    force: bool
    manager: str
    validate: str

    @property
    def waits(self) -> bool:
        """Whether the proxies are to be asked afterwards."""
        return bool(self.seconds) and self.dry_run == "none"
