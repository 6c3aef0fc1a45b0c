"""Write one object so that it has exactly the wanted content, whatever others changed in it.

Server-side apply changes the named fields and leaves those of other managers. So it cannot undo
some edits: an added field stays (such as a label in a workloadSelector, which then selects no pod),
and if two fields exclude each other (`endpoints` and `workloadSelector`), every apply is rejected.
A JSON merge patch then removes what is left. The patch only applies to the object that was read
(its uid), and needs no more rights than an apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kubectl_istio_udp.kube.client import Api, ApplyResult
from kubectl_istio_udp.model.deletion import BeingDeleted, is_being_deleted
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
from kubectl_istio_udp.model.mesh import REVISION_LABEL
from kubectl_istio_udp.model.write import Write

Manifest = Mapping[str, Any]
# Errors that another attempt or another manifest does not fix.
_OTHER_CAUSES = (ApplyConflict, Busy, Conflict, Forbidden, NotFound, NotInstalled, Unreachable)
# Kinds with specs that the API server does not default: any additional field is someone's edit.
_EXACT = ("EnvoyFilter", "ServiceEntry")


def apply_write(
    api: Api, write: Write, *, before: Manifest | None, force: bool, dry_run: bool = False
) -> ApplyResult:
    """Server-side apply; if forced, also remove fields of others that prevent it.

    Args:
        api: the cluster.
        write: what to write.
        before: the object as last read; None if there was none.
        force: take fields over from other managers.
        dry_run: only do a server-side dry run.

    Raises:
        ApplyConflict: not forced, and another manager owns a field with another value.
        BeingDeleted: the object is being deleted, so the write is lost with it.
        ClusterError: the API server rejected it.
    """
    if not dry_run:
        check_stays(before)
    applied = _apply(api, write, before=before, force=force, dry_run=dry_run)
    if not dry_run:
        check_stays(applied.manifest)
    return applied


def check_stays(existing: Manifest | None) -> None:
    """Raise BeingDeleted if an object is being deleted."""
    if existing is not None and is_being_deleted(existing):
        raise BeingDeleted(existing)


def _apply(
    api: Api, write: Write, *, before: Manifest | None, force: bool, dry_run: bool
) -> ApplyResult:
    # Cached objects have no resourceVersion, which `api.apply` needs to detect a change.
    read = before if before is not None and "resourceVersion" in before["metadata"] else None

    def apply() -> ApplyResult:
        return api.apply(
            write.manifest, before=read, manager=write.manager, force=force, dry_run=dry_run
        )

    may_remove = force and write.whole and before is not None
    try:
        applied = apply()
    except ClusterError as error:
        if not may_remove or isinstance(error, _OTHER_CAUSES):
            if not isinstance(error, _OTHER_CAUSES) and (edit := edit_text(write, before)):
                error.hints += (edit,)
            raise
        # Rejected, possibly because of fields that others added.
        existing = before or {}
    else:
        if not may_remove or is_exact(write, applied.manifest):
            return applied
        existing = applied.manifest
    merged = api.merge(_removal(write, existing), manager=write.manager, dry_run=dry_run)
    if dry_run:
        return ApplyResult(merged, "changed")
    applied = apply()
    _own_by_apply(api, applied.manifest, write.manager)
    return ApplyResult(applied.manifest, "changed", applied.warnings)


def is_exact(write: Write, existing: Manifest) -> bool:
    """Whether an object has no fields besides those of a write, as far as can be determined.

    The API server adds fields to Services, so only ports and the selector are compared. Of labels
    only the revision counts: istiod ignores objects with another one.
    """
    if _edited_field(write, existing):
        return False
    return write.kind not in _EXACT or revision_label(existing) == revision_label(write.manifest)


def edit_text(write: Write, existing: Manifest | None) -> str:
    """The edit that an apply without force leaves in an object, with the remedy; "" if none."""
    field = _edited_field(write, existing) if write.whole and existing is not None else ""
    if not field:
        return ""
    return (
        f"{write.kind} {write.namespace}/{write.name} was edited ({field}); to undo this: "
        "--force-conflicts"
    )


def _edited_field(write: Write, existing: Manifest) -> str:
    """The first field of an object's spec that a write does not have like this; "" if none."""
    spec, wanted = existing.get("spec") or {}, write.manifest.get("spec") or {}
    if write.kind == "Service":
        if (spec.get("selector") or {}) != (wanted.get("selector") or {}):
            return "spec.selector"
        same_ports = len(spec.get("ports") or ()) == len(wanted.get("ports") or ())
        return "" if same_ports else "spec.ports"
    return _difference("spec", spec, wanted) if write.kind in _EXACT else ""


def _difference(path: str, have: Any, wanted: Any) -> str:
    """The path of the first difference of two values; "" if they are equal."""
    if have == wanted:
        return ""
    if not (isinstance(have, Mapping) and isinstance(wanted, Mapping)):
        return path
    for key in sorted({*have, *wanted}):
        if found := _difference(f"{path}.{key}", have.get(key), wanted.get(key)):
            return found
    # One has a null where the other one has nothing.
    return path


def has_all(existing: Any, written: Any) -> bool:
    """Whether an object has everything that was written, besides fields of others.

    The ports of a Service are compared each alone, other lists as a whole.
    """
    if isinstance(written, Mapping):
        if not written and existing is None:
            return True  # an empty mapping or list is not stored
        return isinstance(existing, Mapping) and all(
            has_all(existing.get(key), value) for key, value in written.items()
        )
    if isinstance(written, Sequence) and not isinstance(written, str):
        if not isinstance(existing, Sequence) or isinstance(existing, str):
            return not written and existing is None
        if all(isinstance(each, Mapping) and "port" in each for each in written):
            return all(any(has_all(has, each) for has in existing) for each in written)
        return list(existing) == list(written)
    return bool(existing == written)


def revision_label(manifest: Manifest) -> str | None:
    """The revision of istiod that reads an object; None if all do."""
    label: str | None = (manifest["metadata"].get("labels") or {}).get(REVISION_LABEL)
    return label


def _removal(write: Write, existing: Manifest) -> dict[str, Any]:
    """The merge patch that reduces an object to a write's spec and revision."""
    manifest = write.manifest
    wanted, spec = manifest["spec"], existing.get("spec") or {}
    if write.kind == "Service":
        # Fields that the server added to remaining ports (nodePort) stay.
        ports = _with_server_fields(wanted.get("ports") or (), spec.get("ports") or ())
        selector = merge_patch(spec.get("selector") or {}, wanted.get("selector") or {})
        patch = {"ports": ports, **({"selector": selector} if selector else {})}
    else:
        patch = merge_patch(spec, wanted)
    metadata = {key: manifest["metadata"][key] for key in ("name", "namespace")}
    if write.kind in _EXACT:
        metadata["labels"] = {REVISION_LABEL: revision_label(manifest)}
    if "uid" in existing["metadata"]:
        metadata["uid"] = existing["metadata"]["uid"]
    return {
        "apiVersion": manifest["apiVersion"],
        "kind": manifest["kind"],
        "metadata": metadata,
        "spec": patch,
    }


def merge_patch(have: Manifest, wanted: Manifest) -> dict[str, Any]:
    """The RFC 7396 merge patch from one mapping to another: null removes, mappings are merged."""
    patch: dict[str, Any] = {key: None for key in have if key not in wanted}
    for key, value in wanted.items():
        existing = have.get(key)
        both = isinstance(value, Mapping) and isinstance(existing, Mapping)
        patch[key] = merge_patch(existing, value) if both else value  # type: ignore[arg-type]
    return patch


def _with_server_fields(wanted: Sequence[Manifest], have: Sequence[Manifest]) -> list[Manifest]:
    existing = {(port["port"], port.get("protocol", "TCP")): port for port in have}
    return [
        {**existing.get((port["port"], port.get("protocol", "TCP")), {}), **port} for port in wanted
    ]


def _own_by_apply(api: Api, manifest: Manifest, manager: str) -> None:
    """Give the fields back to the apply's manager: the merge patch counts as another manager."""
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
    # A concurrent write may win; the object is correct anyway.
    with suppress(ClusterError):
        api.merge(patch, manager=manager)
