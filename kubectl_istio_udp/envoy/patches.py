"""EnvoyFilter manifests as a list of patches, and what is wrong with their form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubectl_istio_udp.model.envoyfilter import ADDING, Scope

Path = tuple[str | int, ...]

# Istio's API, networking/v1alpha3/envoy_filter.proto: EnvoyFilter.ApplyTo, Patch.Operation and
# PatchContext, without INVALID.
APPLY_TO = (
    "LISTENER", "FILTER_CHAIN", "NETWORK_FILTER", "HTTP_FILTER", "ROUTE_CONFIGURATION",
    "VIRTUAL_HOST", "HTTP_ROUTE", "CLUSTER", "EXTENSION_CONFIG", "BOOTSTRAP", "LISTENER_FILTER",
)  # fmt: skip
_OPERATIONS = (
    "MERGE", "ADD", "REMOVE", "INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST", "REPLACE",
    "MERGE_AND_REPLACE_LIST",
)  # fmt: skip
_CONTEXTS = ("ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY", "WAYPOINT")
# Both contexts of a sidecar are in one proxy.
_SIDES = {"SIDECAR_INBOUND": "SIDECAR", "SIDECAR_OUTBOUND": "SIDECAR"}
MERGES = ("MERGE", "MERGE_AND_REPLACE_LIST")


@dataclass(frozen=True)
class Finding:
    """Something said of one place of one manifest.

    Attributes:
        manifest: which of the manifests given, from 0.
        path: the field in it, for example ("spec", "configPatches", 0, "applyTo").
        message: what is wrong there.
    """

    manifest: int
    path: Path
    message: str

    @property
    def field(self) -> str:
        """The path as people write it: `configPatches[0].patch.value.address`."""
        text = ""
        for part in self.path[1:] if self.path[:1] == ("spec",) else self.path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}"
        return text.lstrip(".")


@dataclass(frozen=True)
class Patch:
    """One entry of an EnvoyFilter's configPatches that has a value.

    Attributes:
        manifest: which of the manifests given, from 0.
        path: where its value is in that manifest.
        scope: which proxies get it, and with which others.
        context: which of their sides, as the API names it.
        apply_to, operation: as the API names them.
        match: its match, {} where it has none.
        value: the piece of Envoy configuration.
    """

    manifest: int
    path: Path
    scope: Scope
    context: str
    apply_to: str
    operation: str
    match: Mapping[str, Any]
    value: Mapping[str, Any]

    @property
    def merges(self) -> bool:
        """Whether the value is laid over something that istiod has made."""
        return self.operation in MERGES

    def with_value(self, value: Mapping[str, Any]) -> Patch:
        """The same patch with another value."""
        return replace(self, value=value)


def field(mapping: Any, *names: str) -> Any:
    """A field of a message in proto's JSON, by its snake_case name; camelCase is the same field.

    Args:
        mapping: where to look; anything but a mapping has no field.
        names: the fields to go down through.
    """
    for name in names:
        mapping = mapping.get(_spelt(mapping, name)) if isinstance(mapping, Mapping) else None
    return mapping


def same(name: str) -> str:
    """What the spellings of a field's name have in common (`stat_prefix`, `statPrefix`)."""
    return name.replace("_", "").lower()


def _spelt(mapping: Mapping[str, Any], name: str) -> str:
    """The key under which a mapping has a field, or the name itself where it has it not."""
    return next((key for key in mapping if same(str(key)) == same(name)), name)


def read_patches(manifests: Sequence[Mapping[str, Any]]) -> tuple[list[Patch], list[Finding]]:
    """The patches of every EnvoyFilter among the manifests, and what is wrong with their form.

    Other kinds are passed over.
    """
    patches: list[Patch] = []
    findings: list[Finding] = []
    met: Counter[str] = Counter()
    for index, manifest in enumerate(manifests):
        if manifest.get("kind") != "EnvoyFilter":
            continue
        name = _name(manifest)
        for found in _read(index, manifest, met[name]):
            (patches if isinstance(found, Patch) else findings).append(found)  # type: ignore[arg-type]
        met[name] += 1
    return patches, findings


def _name(manifest: Mapping[str, Any]) -> str:
    metadata = manifest.get("metadata")
    return f"{field(metadata, 'namespace')}/{field(metadata, 'name')}"


def _read(index: int, manifest: Mapping[str, Any], version: int) -> Iterator[Patch | Finding]:
    """One manifest's; `version` counts those before it with its name, which it would replace."""
    spec = manifest.get("spec")
    entries = field(spec, "config_patches")
    if not isinstance(entries, list) or not entries:
        yield Finding(index, ("spec",), "it has no configPatches, and changes nothing")
        return
    assert isinstance(spec, Mapping)
    base = ("spec", _spelt(spec, "config_patches"))
    for number, entry in enumerate(entries):
        yield from _read_patch(index, (*base, number), manifest, version, entry)


def _read_patch(
    index: int, path: Path, manifest: Mapping[str, Any], version: int, entry: Any
) -> Iterator[Patch | Finding]:
    if not isinstance(entry, Mapping):
        yield Finding(index, path, "is no patch (applyTo, match, patch)")
        return
    strange = [key for key in entry if same(str(key)) not in ("applyto", "match", "patch")]
    for key in strange:
        yield Finding(index, (*path, key), f"no such field: {key!r}")
    patch = entry.get("patch")
    match = entry.get("match") or {}
    context = field(match, "context")
    choices = (
        (entry, path, "applyTo", APPLY_TO, True),
        (patch, (*path, "patch"), "operation", _OPERATIONS, True),
        (match, (*path, "match"), "context", _CONTEXTS, context is not None),
    )
    wrong = False
    for mapping, where, name, allowed, needed in choices:
        value = field(mapping, name)
        if needed and value not in allowed:
            wrong = True
            key = _spelt(mapping, name) if isinstance(mapping, Mapping) else name
            said = "is missing" if value is None else f"is {value!r}"
            yield Finding(index, (*where, key), f"{said}; it is one of {', '.join(allowed)}")
    if wrong or strange:
        return
    assert isinstance(patch, Mapping)
    for key in patch:
        if same(str(key)) not in ("operation", "value", "filterclass"):
            yield Finding(index, (*path, "patch", key), f"no such field: {key!r}")
            return
    value, operation = patch.get("value"), patch["operation"]
    if operation == "REMOVE":
        return
    if not isinstance(value, Mapping) or not value:
        yield Finding(
            index, (*path, "patch", "value"), f"is missing or empty, and {operation} needs one"
        )
        return
    yield Patch(
        manifest=index,
        path=(*path, "patch", "value"),
        scope=Scope.of(manifest, version, field(match, "proxy")),
        context=_SIDES.get(str(context), str(context or "ANY")),
        apply_to=str(field(entry, "apply_to")),
        operation=_as_istiod_reads(str(field(entry, "apply_to")), str(operation)),
        match=match if isinstance(match, Mapping) else {},
        value=value,
    )


def _as_istiod_reads(apply_to: str, operation: str) -> str:
    """Istiod takes INSERT_... for ADD where there is no order to insert in."""
    return "ADD" if apply_to in ("LISTENER", "CLUSTER") and operation in ADDING else operation
