"""Write the objects of an exposure, response or access log: all of them, or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kubectl_istio_udp.apply.changes import Key
from kubectl_istio_udp.apply.exact import apply_write
from kubectl_istio_udp.kube.client import Api, ApplyResult
from kubectl_istio_udp.kube.parallel import for_each
from kubectl_istio_udp.model.errors import ClusterError, Interrupted, IstioUdpError, Unreachable
from kubectl_istio_udp.model.managed_fields import managed_ports
from kubectl_istio_udp.model.write import Write

_IDENTITY = ("name", "namespace")
# The applied fields of a port; the server adds more (nodePort).
_APPLIED_PORT_FIELDS = ("name", "port", "protocol", "targetPort")


class Transaction:
    """Writes that can be rolled back together.

    As a context manager: if an exception (or an interruption) leaves it, the writes are undone in
    reverse order: created objects are deleted, changed ones get their former content. After `keep`
    the writes so far stay.
    """

    def __init__(self, api: Api, *, force: bool = False, dry_run: bool = False) -> None:
        """Take the client, whether to take fields over, and whether to only do a dry run."""
        self._api, self._force, self._dry_run = api, force, dry_run
        self._undo: list[tuple[Write, Mapping[str, Any] | None]] = []
        self._before: dict[Key, Mapping[str, Any] | None] = {}

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

    def look(self, writes: Iterable[Write]) -> None:
        """Read in parallel what the next writes change, for `apply`."""
        found = for_each(lambda w: (w.key, self._api.find(w.kind, w.namespace, w.name)), writes)
        self._before.update(found)

    def apply(self, write: Write) -> ApplyResult:
        """Apply one write (server-side apply).

        Raises:
            ApplyConflict, Forbidden, Unreachable, ClusterError: errors of the API server; this
                write has no effect then.
        """
        if write.key not in self._before:
            self.look([write])
        before = self._before.pop(write.key)
        # Before the request: if the response is lost, the write may still have been executed.
        if not self._dry_run:
            self._undo.append((write, before))
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
        return applied

    def _roll_back(self) -> list[tuple[Write, IstioUdpError]]:
        """Undo in reverse order; return the writes that could not be undone, with the errors."""
        remaining = []
        for write, before in reversed(self._undo):
            try:
                if before is None and write.whole:
                    self._api.delete(write.kind, write.namespace, write.name)
                else:
                    previous = _previous_manifest(write, before or {})
                    self._api.apply(previous, before=before, manager=write.manager, force=True)
            except IstioUdpError as error:
                remaining.append((write, error))
        self._undo.clear()
        return remaining


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


def _hints_after_undo(remaining: Sequence[tuple[Write, IstioUdpError]]) -> list[str]:
    if not remaining:
        return ["everything that this run wrote was undone"]
    return [
        f"could not be undone and may remain: {write.kind} {write.namespace}/{write.name} "
        f"({error.message})"
        for write, error in remaining
    ]
