"""Write the objects of an exposure, response or access log: all of them, or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from kubectl_istio_udp.apply.changes import Key
from kubectl_istio_udp.apply.exact import apply_write, check_stays, has_all
from kubectl_istio_udp.kube.client import Api, ApplyResult
from kubectl_istio_udp.kube.parallel import for_each
from kubectl_istio_udp.model.errors import (
    ClusterError,
    Conflict,
    Interrupted,
    IstioUdpError,
    Unreachable,
)
from kubectl_istio_udp.model.managed_fields import managed_ports
from kubectl_istio_udp.model.names import MANAGER
from kubectl_istio_udp.model.write import Write

Manifest = Mapping[str, Any]
_IDENTITY = ("name", "namespace")
# Attempts to undo a write of an object that others change at the same time.
_TRIES = 5
_NEWER = "someone else changed it meanwhile"
# The applied fields of a port; the server adds more (nodePort).
_APPLIED_PORT_FIELDS = ("name", "port", "protocol", "targetPort")


class Transaction:
    """Writes that can be rolled back together.

    As a context manager: if an exception (or an interruption) leaves it, the writes are undone in
    reverse order: created objects are deleted, changed ones get their former content. Objects that
    someone else has changed since are left alone. After `keep` the writes so far stay.
    """

    def __init__(self, api: Api, *, force: bool = False, dry_run: bool = False) -> None:
        """Take the client, whether to take fields over, and whether to only do a dry run."""
        self._api, self._force, self._dry_run = api, force, dry_run
        # Each write, with the object before and after it; None if it did not exist, or if there was
        # no response.
        self._undo: list[tuple[Write, Manifest | None, Manifest | None]] = []
        self._before: dict[Key, Manifest | None] = {}

    def __enter__(self) -> Transaction:
        """Begin."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Roll back on any exception; errors of the plugin get a hint that says what was undone."""
        if error is None or not self._undo:
            return
        hints = _hints_after_undo(self._roll_back())
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted("interrupted", hints=hints) from None
        if isinstance(error, IstioUdpError):
            error.hints = (*error.hints, *hints)

    def keep(self) -> None:
        """Keep what has been written, whatever happens next."""
        self._undo.clear()

    def read_existing(self, writes: Iterable[Write]) -> None:
        """Read in parallel the objects that the next writes change, for `apply`.

        Raises:
            BeingDeleted: one of the objects is being deleted.
        """
        found = for_each(lambda w: (w.key, self._api.find(w.kind, w.namespace, w.name)), writes)
        if not self._dry_run:
            for _, manifest in found:
                check_stays(manifest)
        self._before.update(found)

    def apply(self, write: Write) -> ApplyResult:
        """Apply one write (server-side apply).

        Raises:
            ApplyConflict, Forbidden, Unreachable, ClusterError: errors of the API server; this
                write has no effect then.
        """
        if write.key not in self._before:
            self.read_existing([write])
        before = self._before.pop(write.key)
        # Before the request: if the response is lost, the write may still have been executed.
        if not self._dry_run:
            self._undo.append((write, before, None))
        try:
            # An interruption waits for this response: a request that is abandoned could be
            # executed after the rollback.
            with ThreadPoolExecutor(1) as pool:
                applied = pool.submit(
                    apply_write,
                    self._api,
                    write,
                    before=before,
                    force=self._force,
                    dry_run=self._dry_run,
                ).result()
        except Unreachable:
            raise
        except ClusterError:
            self._undo[-1:] = []
            raise
        if applied.verb == "unchanged":
            self._undo[-1:] = []
        elif not self._dry_run:
            self._undo[-1] = (write, before, applied.manifest)
        return applied

    def _roll_back(self) -> list[tuple[Write, str]]:
        """Undo in reverse order; return the writes that were not undone, with the reasons."""
        kept: list[tuple[Write, str]] = []
        for write, before, applied in reversed(self._undo):
            if write.kind == "ServiceEntry" and ("EnvoyFilter", _NEWER) in _reasons(kept):
                kept.append((write, "the EnvoyFilter may use its endpoints"))
                continue
            try:
                if not self._undo_one(write, before, applied):
                    kept.append((write, _NEWER))
            except IstioUdpError as error:
                kept.append((write, error.message))
        self._undo.clear()
        return kept

    def _undo_one(self, write: Write, before: Manifest | None, applied: Manifest | None) -> bool:
        """Undo a write; return False if the object has been changed by someone else since."""
        for _ in range(_TRIES):
            now = self._api.find(write.kind, write.namespace, write.name)
            if now is None:
                return True  # never created, or deleted since
            metadata = now["metadata"]
            if before and metadata["resourceVersion"] == before["metadata"]["resourceVersion"]:
                return True  # never written
            if _is_newer(now, write, applied):
                return False
            # Only this version: a write between the read and this request is newer.
            with suppress(Conflict):
                if before is None and write.whole:
                    self._api.delete(now, unchanged=True)
                else:
                    previous = _previous_manifest(write, before or {})
                    exact = {key: metadata[key] for key in ("uid", "resourceVersion")}
                    previous["metadata"] = {**previous["metadata"], **exact}
                    self._api.apply(previous, before=before, manager=write.manager, force=True)
                return True
        return False


def _reasons(kept: Sequence[tuple[Write, str]]) -> set[tuple[str, str]]:
    return {(write.kind, why) for write, why in kept}


def _is_newer(now: Manifest, write: Write, applied: Manifest | None) -> bool:
    """Whether someone else changed what was written.

    Args:
        now: the object.
        write: what was written.
        applied: the object after the write; None if there was no response.
    """
    # The server may serve another version of the kind.
    wanted = {key: value for key, value in write.manifest.items() if key != "apiVersion"}
    if applied is None:
        return not has_all(now, wanted)
    if now["metadata"]["uid"] != applied["metadata"]["uid"]:
        return True
    return has_all(applied, wanted) and not has_all(now, wanted)


def _previous_manifest(write: Write, before: Mapping[str, Any]) -> dict[str, Any]:
    """The apply configuration that restores the fields that the manager owned."""
    manifest = write.manifest
    previous: dict[str, Any] = {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": {key: value for key, value in manifest["metadata"].items() if key in _IDENTITY},
    }
    if not write.whole:
        previous["spec"] = {
            "ports": [
                {key: entry[key] for key in _APPLIED_PORT_FIELDS if key in entry}
                for entry in managed_ports(before, write.manager)
            ]
        }
        return previous
    for part in ("labels", "annotations"):
        written = manifest["metadata"].get(part) or {}
        old_values = before["metadata"].get(part) or {}
        previous["metadata"][part] = {key: old_values[key] for key in written if key in old_values}
    # Its spec, or the equivalent fields of such a kind (data, rules).
    previous |= {key: before[key] for key in manifest if key not in previous and key in before}
    if manifest["kind"] == "Service":
        previous["spec"] = {k: v for k, v in before["spec"].items() if k in manifest["spec"]}
    return previous


def _hints_after_undo(kept: Sequence[tuple[Write, str]]) -> list[str]:
    if not kept:
        return ["everything that this run wrote was undone"]
    return [
        f"could not be undone and may remain: {write.kind} {write.namespace}/{write.name} ({why})"
        for write, why in kept
    ]


def apply_manifests(api: Api, manifests: Iterable[dict[str, Any]], dry_run: str) -> list[str]:
    """Apply objects that belong together, all or none; return kubectl's word for each.

    Args:
        api: the cluster.
        manifests: the objects.
        dry_run: `none`, `server` or `client`.

    Raises:
        ApplyConflict: an object with such a name belongs to someone else.
        Forbidden, Unreachable, ClusterError: errors of the API server.
    """
    outcomes = []
    with Transaction(api, dry_run=dry_run == "server") as transaction:
        for manifest in manifests:
            verb = "changed"
            if dry_run != "client":
                verb = transaction.apply(Write(manifest, MANAGER)).verb
            outcomes.append("unchanged" if verb == "unchanged" else "serverside-applied")
    return outcomes
