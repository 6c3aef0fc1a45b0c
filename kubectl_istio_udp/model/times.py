"""Times of the Kubernetes API."""

from __future__ import annotations

from datetime import datetime, timezone


def read_time(text: str) -> datetime:
    """Read `2026-11-26T09:45:52Z`.

    Without `strptime`, whose first call imports more than the rest of the command needs.

    Raises:
        ValueError: it is not a time in this format.
    """
    return datetime.fromisoformat(str(text).removesuffix("Z")).replace(tzinfo=timezone.utc)
