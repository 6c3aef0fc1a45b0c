"""Read EnvoyFilter manifests as lists of patches, with errors in their format."""

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


def json_path(path: Path) -> str:
    """A path as text: `spec.configPatches[0].applyTo`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).lstrip(".")


@dataclass(frozen=True)
class Flaw:
    """A problem at one place of a manifest.

    Attributes:
        manifest: the index of the manifest.
        path: the path of the field, e.g. ("spec", "configPatches", 0, "applyTo").
        message: the problem.
    """

    manifest: int
    path: Path
    message: str

    @property
    def field(self) -> str:
        """The path as text: `configPatches[0].patch.value.address`."""
        return json_path(self.path[1:] if self.path[:1] == ("spec",) else self.path)


@dataclass(frozen=True)
class Patch:
    """One entry of configPatches with a value.

    Attributes:
        manifest: the index of the manifest.
        path: the path of its value in the manifest.
        scope: the proxies it applies to.
        context: the context, in the API's spelling.
        apply_to, operation: in the API's spelling.
        match: its match; {} without one.
        value: the part of Envoy's configuration.
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
        """Whether the value is merged into something that istiod generates."""
        return self.operation in MERGES

    def with_value(self, value: Mapping[str, Any]) -> Patch:
        """The same patch with another value."""
        return replace(self, value=value)


def field(mapping: Any, *names: str) -> Any:
    """A field of a message in protobuf's JSON by its snake_case name; accepts camelCase too.

    Args:
        mapping: the message; {} if it is not a mapping.
        names: the names of nested fields.
    """
    for name in names:
        mapping = mapping.get(_spelt(mapping, name)) if isinstance(mapping, Mapping) else None
    return mapping


def same(name: str) -> str:
    """The common form of the spellings of a field's name (`stat_prefix`, `statPrefix`)."""
    return name.replace("_", "").lower()


def _spelt(mapping: Mapping[str, Any], name: str) -> str:
    """The key of a field in a mapping; the name itself if the field is missing."""
    return next((key for key in mapping if same(str(key)) == same(name)), name)


def read_patches(manifests: Sequence[Mapping[str, Any]]) -> tuple[list[Patch], list[Flaw]]:
    """The patches of all EnvoyFilters in the manifests, and the errors in their format.

    Other kinds are ignored.
    """
    patches: list[Patch] = []
    flaws: list[Flaw] = []
    met: Counter[str] = Counter()
    for index, manifest in enumerate(manifests):
        if manifest.get("kind") != "EnvoyFilter":
            continue
        name = _name(manifest)
        for found in _read(index, manifest, met[name]):
            (patches if isinstance(found, Patch) else flaws).append(found)  # type: ignore[arg-type]
        met[name] += 1
    return patches, flaws


def _name(manifest: Mapping[str, Any]) -> str:
    metadata = manifest.get("metadata")
    return f"{field(metadata, 'namespace')}/{field(metadata, 'name')}"


def _read(index: int, manifest: Mapping[str, Any], version: int) -> Iterator[Patch | Flaw]:
    """Read one manifest; `version` counts earlier ones with its name, which it replaces."""
    spec = manifest.get("spec")
    entries = field(spec, "config_patches")
    if not isinstance(entries, list) or not entries:
        yield Flaw(index, ("spec",), "has no configPatches, so it changes nothing")
        return
    assert isinstance(spec, Mapping)
    base = ("spec", _spelt(spec, "config_patches"))
    for number, entry in enumerate(entries):
        yield from _read_patch(index, (*base, number), manifest, version, entry)


def _read_patch(
    index: int, path: Path, manifest: Mapping[str, Any], version: int, entry: Any
) -> Iterator[Patch | Flaw]:
    if not isinstance(entry, Mapping):
        yield Flaw(index, path, "is not a patch (applyTo, match, patch)")
        return
    strange = [key for key in entry if same(str(key)) not in ("applyto", "match", "patch")]
    for key in strange:
        yield Flaw(index, (*path, key), f"no such field: {key!r}")
    wrong = [Flaw(index, *found) for found in _wrong_choices(entry, path)]
    yield from wrong
    if wrong or strange:
        return
    patch, match = entry["patch"], entry.get("match") or {}
    context = field(match, "context")
    for key in patch:
        if same(str(key)) not in ("operation", "value", "filterclass"):
            yield Flaw(index, (*path, "patch", key), f"no such field: {key!r}")
            return
    value, operation = patch.get("value"), patch["operation"]
    if operation == "REMOVE":
        return
    if not isinstance(value, Mapping) or not value:
        yield Flaw(
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


def _wrong_choices(entry: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, str]]:
    """The fields of a patch that must have one of a few values, and have none of them."""
    match = entry.get("match") or {}
    choices = (
        (entry, path, "applyTo", APPLY_TO, True),
        (entry.get("patch"), (*path, "patch"), "operation", _OPERATIONS, True),
        (match, (*path, "match"), "context", _CONTEXTS, field(match, "context") is not None),
    )
    for mapping, where, name, allowed, needed in choices:
        value = field(mapping, name)
        if needed and value not in allowed:
            key = _spelt(mapping, name) if isinstance(mapping, Mapping) else name
            problem = "is missing" if value is None else f"is {value!r}"
            yield (*where, key), f"{problem}; must be one of {', '.join(allowed)}"


def _as_istiod_reads(apply_to: str, operation: str) -> str:
    """The operation as istiod reads it: INSERT_... is ADD if there is no order."""
    return "ADD" if apply_to in ("LISTENER", "CLUSTER") and operation in ADDING else operation
