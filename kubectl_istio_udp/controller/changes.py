"""What has changed about each queued exposure: anything, or only endpoints of some Services."""

from __future__ import annotations

import threading

from kubectl_istio_udp.kube.watch import Key


class Changes:
    """The changes since each exposure was last reconciled; thread-safe.

    Report a change before queueing the exposure, and take it before reading the caches.
    """

    def __init__(self) -> None:
        """Start without changes."""
        self._lock = threading.Lock()
        # The Services whose endpoints changed; None for any change.
        self._changed: dict[Key, set[Key] | None] = {}

    def anything(self, key: Key) -> None:
        """Report a change that the whole exposure may depend on."""
        with self._lock:
            self._changed[key] = None

    def endpoints(self, key: Key, service: Key) -> None:
        """Report a change of a Service's endpoints."""
        with self._lock:
            changed = self._changed.setdefault(key, set())
            if changed is not None:
                changed.add(service)

    def take(self, key: Key) -> frozenset[Key] | None:
        """The Services whose endpoints changed, if nothing else did; None for any change.

        Forgets the changes.
        """
        with self._lock:
            changed = self._changed.pop(key, None)
        return None if changed is None else frozenset(changed)
