"""Write and delete objects as the leader.

Each write has the uid of the object that was read, so that it does not overwrite or recreate an
object that someone replaced meanwhile. It ends, with all its requests, within REQUEST_SECONDS: it
must have ended before another replica may lead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from kubectl_istio_udp.apply.exact import apply_write
from kubectl_istio_udp.controller.objects import is_applied
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.connections import within
from kubectl_istio_udp.kube.parallel import for_each
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model.errors import IstioUdpError
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.state.caches import Caches, PlannedWrite

# What kube/lease.py leaves for a write: the duration of the Lease, less the time to renew it.
REQUEST_SECONDS = 5.0
Manifest = Mapping[str, Any]

# All Services of a Gateway may get new endpoints at once. With one write after the other the last
# one waited for up to 3 s, at 100 ms a write; more at once would delay other exposures' writes.
_AT_ONCE = 4


class NotLeading(IstioUdpError):
    """Another replica leads, or may start to lead before this write has ended."""


class Fence:
    """Lets write requests pass while this replica leads, and ends them in time."""

    def __init__(self, *, may_write: Callable[[], bool], wrote: Callable[[str, str], None]) -> None:
        """Take the dependencies.

        Args:
            may_write: whether this replica leads.
            wrote: called with the verb and kind of each write request.
        """
        self._may_write, self.count = may_write, wrote

    def check(self) -> None:
        """Check that a write may begin.

        Raises:
            NotLeading: this replica does not lead, or not long enough.
        """
        if not self._may_write():
            raise NotLeading("another replica leads")

    @contextmanager
    def passing(self, verb: str, kind: str) -> Iterator[None]:
        """Count a write request; all requests in the context end within REQUEST_SECONDS.

        Raises:
            NotLeading: as `check`.
        """
        with within(REQUEST_SECONDS):
            self.check()
            self.count(verb, kind)
            yield


class Writer:
    """Writes objects while this replica leads; updates the caches with each result at once."""

    def __init__(self, api: Api, caches: Caches, fence: Fence) -> None:
        """Take the dependencies.

        Args:
            api: the cluster.
            caches: get the result of each write.
            fence: lets the writes pass.
        """
        self.api, self._caches, self._fence = api, caches, fence

    def apply(
        self, write: Write, only: Manifest | None = None, reconciles: Key | None = None
    ) -> None:
        """Server-side apply, of a new object or only of the object that was read.

        Args:
            write: what to write.
            only: the object to change. If it was deleted since, it is not created again.
            reconciles: the exposure that is being reconciled. It is queued again only if the object
                does not become as planned.

        Raises:
            Conflict: the object was replaced or does not exist.
        """
        self.fence("patch", write.kind)
        self._apply(write, only, reconciles)

    def apply_all(self, writes: Sequence[tuple[Write, Manifest | None]], reconciles: Key) -> None:
        """Apply several objects of an exposure in parallel, each with its `only`, as `apply` does.

        Raises:
            Conflict: an object was replaced or does not exist.
        """
        # Counted in the thread that reconciles the exposure.
        for write, _ in writes:
            self.fence("patch", write.kind)
        for_each(lambda each: self._apply(*each, reconciles), writes, _AT_ONCE)

    def _apply(self, write: Write, only: Manifest | None, reconciles: Key | None) -> None:
        existing = only or self._caches.find(write.kind, write.namespace, write.name)
        manifest = dict(write.manifest)
        if existing is not None and write.whole and "uid" in existing["metadata"]:
            manifest["metadata"] = {**manifest["metadata"], "uid": existing["metadata"]["uid"]}
        meanwhile = nullcontext() if reconciles is None else self._planning(write, reconciles)
        with within(REQUEST_SECONDS), meanwhile:
            self._fence.check()
            applied = apply_write(
                self.api,
                replace(write, manifest=manifest),
                before=existing,
                force=existing is not None and write.whole,
            )
            self._caches.learn(applied.manifest)

    def _planning(self, write: Write, key: Key) -> AbstractContextManager[None]:
        planned = PlannedWrite(key, lambda found: is_applied(write, found))
        return self._caches.planning(write.kind, (write.namespace, write.name), planned)

    def delete(self, manifest: Manifest) -> None:
        """Delete an object."""
        with self._fence.passing("delete", manifest["kind"]):
            self.api.delete(manifest)
        self._caches.forget(manifest)

    def fence(self, verb: str, kind: str) -> None:
        """Count a write request that is about to be sent.

        Raises:
            NotLeading: this replica does not lead, or not long enough.
        """
        self._fence.check()
        self._fence.count(verb, kind)

    def count(self, verb: str, kind: str) -> None:
        """Count a write request that needs no fence."""
        self._fence.count(verb, kind)
