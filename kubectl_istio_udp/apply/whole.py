"""Write one object so that it ends as it was asked for, whatever somebody has made of it.

A server-side apply changes the fields that it names and leaves those of other managers. So some
edits cannot be undone by it: a field added beside ours stays (a label of a workloadSelector, which
then selects no pod), and where both cannot be together (`endpoints` in place of
`workloadSelector`) the merged object is refused, at every attempt. What is left over is then
removed by a JSON merge patch, which is exact about the object that was seen (its uid) and needs no
more rights than an apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kubectl_istio_udp.kube.client import Api, Applied
from kubectl_istio_udp.model.errors import (
    ApplyConflict,
    Busy,
    ClusterError,
    Conflict,
    Forbidden,
    NotFound,
    NotInstalled,
    Unreachable,
)
from kubectl_istio_udp.model.write import Write

Manifest = Mapping[str, Any]
# What another attempt, or another manifest, does not put right.
_OTHER_CAUSES = (ApplyConflict, Busy, Conflict, Forbidden, NotFound, NotInstalled, Unreachable)
# Kinds to whose spec the API server adds nothing: whatever is there beside ours is somebody's.
_EXACT = ("EnvoyFilter", "ServiceEntry")


def apply_write(
    api: Api, write: Write, *, before: Manifest | None, force: bool, dry_run: bool = False
) -> Applied:
    """Server-side apply; where forced, others' fields that are in its way are removed.

    Args:
        api: the cluster.
        write: what to write.
        before: the object as last seen; None where there was none.
        force: take fields over from other managers.
        dry_run: let the server decide, write nothing.

    Raises:
        ApplyConflict: not forced, and another manager has a field otherwise.
        ClusterError: the server refused.
    """
    # A cache does not keep the version, by which `api.apply` tells whether anything changed.
    read = before if before is not None and "resourceVersion" in before["metadata"] else None

    def apply() -> Applied:
        return api.apply(
            write.manifest, before=read, manager=write.manager, force=force, dry_run=dry_run
        )

    may_remove = force and write.whole and before is not None
    try:
        applied = apply()
    except ClusterError as error:
        if not may_remove or isinstance(error, _OTHER_CAUSES):
            raise
        # Refused together with what others have put there, perhaps.
        there = before or {}
    else:
        if not may_remove or is_exact(write, applied.manifest):
            return applied
        there = applied.manifest
    merged = api.merge(_removal(write, there), manager=write.manager, dry_run=dry_run)
    if dry_run:
        return Applied(merged, "changed")
    applied = apply()
    _own_by_apply(api, applied.manifest, write.manager)
    return Applied(applied.manifest, "changed", applied.warnings)


def is_exact(write: Write, there: Manifest) -> bool:
    """Whether an object has nothing beside what a write says, as far as that can be known."""
    spec, wanted = there.get("spec") or {}, write.manifest.get("spec") or {}
    if write.kind == "Service":
        return len(spec.get("ports") or ()) == len(wanted.get("ports") or ())
    return write.kind not in _EXACT or spec == wanted


def _removal(write: Write, there: Manifest) -> dict[str, Any]:
    """The merge patch that makes an object's spec what a write says, and nothing else of it."""
    manifest = write.manifest
    wanted, spec = manifest["spec"], there.get("spec") or {}
    if write.kind == "Service":
        # What the server has added to the ports that stay (nodePort) stays too.
        patch = {"ports": _with_server_fields(wanted.get("ports") or (), spec.get("ports") or ())}
    else:
        patch = _merge_patch(spec, wanted)
    metadata = {key: manifest["metadata"][key] for key in ("name", "namespace")}
    if "uid" in there["metadata"]:
        metadata["uid"] = there["metadata"]["uid"]
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": metadata,
        "spec": patch,
    }


def _merge_patch(have: Manifest, wanted: Manifest) -> dict[str, Any]:
    """From one mapping to another by RFC 7396: null removes, mappings are merged."""
    patch: dict[str, Any] = {key: None for key in have if key not in wanted}
    for key, value in wanted.items():
        there = have.get(key)
        both = isinstance(value, Mapping) and isinstance(there, Mapping)
        patch[key] = _merge_patch(there, value) if both else value  # type: ignore[arg-type]
    return patch


def _with_server_fields(wanted: Sequence[Manifest], have: Sequence[Manifest]) -> list[Manifest]:
    there = {(port["port"], port.get("protocol", "TCP")): port for port in have}
    return [
        {**there.get((port["port"], port.get("protocol", "TCP")), {}), **port} for port in wanted
    ]


def _own_by_apply(api: Api, manifest: Manifest, manager: str) -> None:
    """Leave the fields to the apply alone: the merge patch counts as another manager's."""
    metadata = manifest["metadata"]
    managed = metadata.get("managedFields") or ()
    kept = [m for m in managed if (m.get("manager"), m.get("operation")) != (manager, "Update")]
    if len(kept) == len(managed):
        return
    about = {key: metadata[key] for key in ("name", "namespace", "resourceVersion")}
    patch = {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": {**about, "managedFields": kept},
    }
    # Somebody else may have written meanwhile; the object is right all the same.
    with suppress(ClusterError):
        api.merge(patch, manager=manager)
