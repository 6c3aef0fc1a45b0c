"""Check EnvoyFilters with a real Envoy, without a gateway: `envoy --mode validate`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from kubectl_istio_udp.envoy import binary, envoyerror
from kubectl_istio_udp.envoy.binary import TEMPORARY_PREFIX, NoEnvoy
from kubectl_istio_udp.envoy.bootstrap import NotCovered, PatchLocation, Unfit, assemble
from kubectl_istio_udp.envoy.envoyerror import EnvoyError
from kubectl_istio_udp.envoy.patches import Flaw, Patch, Path, field, read_patches
from kubectl_istio_udp.model.envoyfilter import Scope

# A run takes 0.05 s, but may take long on a busy machine.
_RUN_SECONDS = 60
_RUNS_AT_ONCE = 4
# The limit when removing fields one by one to find the culprit.
_MOST_TRIES = 80
# If more clusters of istiod are missing than this, they are not the problem.
_MOST_STAND_INS = 50
# Filters and types that only Istio's build of Envoy has.
_ISTIOS_OWN = ("istio", "io.istio.", "stats.PluginConfig", "envoy.tcp.metadataexchange")

Run = Callable[[Mapping[str, Any]], EnvoyError | None]
# Envoy's error (None if it accepts), the configuration, and the places of patches in it.
ValidationRun = tuple[EnvoyError | None, dict[str, Any], list[PatchLocation]]


@dataclass(frozen=True)
class Report:
    """The result of checking a list of manifests.

    Attributes:
        refused: what Envoy rejects, or what violates the EnvoyFilter's own format.
        unchecked: what could not be checked, and why; it may be valid or not.
    """

    refused: tuple[Flaw, ...]
    unchecked: tuple[Flaw, ...]


def validate(envoy: File, manifests: Sequence[Mapping[str, Any]]) -> Report:
    """Check with Envoy whether it accepts all EnvoyFilters in the manifests.

    First checks all together, which takes one run if everything is valid. If not, checks each patch
    alone, and then the valid ones together, to find conflicts.

    Args:
        envoy: the program.
        manifests: EnvoyFilters; other kinds are ignored.

    Raises:
        NoEnvoy: the program does not run on this machine.
    """
    patches, flaws = read_patches(manifests)
    twice = list(_twice(patches))
    refused = [*flaws, *twice]
    with (
        tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX) as folder,
        ThreadPoolExecutor(_RUNS_AT_ONCE) as pool,
    ):
        run = _Runner(envoy, File(folder))
        if not twice and all(pool.map(lambda group: _accepted(group, run), _meeting(patches))):
            return Report(_ordered(refused), ())
        results = list(pool.map(lambda patch: _alone(patch, run), patches))
        known = {(each.manifest, each.path[:-1]) for each in twice}
        passed = [
            patch
            for patch, (_, flaw) in zip(patches, results, strict=True)
            if not flaw and (patch.manifest, patch.path) not in known
        ]
        refused += [flaw for kind, flaw in results if flaw and kind == "refused"]
        unchecked = [flaw for kind, flaw in results if flaw and kind == "unchecked"]
        for found in pool.map(lambda group: list(_conflicts(group, run)), _meeting(passed)):
            refused += found
    return Report(_ordered(refused), _ordered(unchecked))


def _ordered(flaws: Sequence[Flaw]) -> tuple[Flaw, ...]:
    """Without duplicates, in the order of their manifests."""

    def place(flaw: Flaw) -> tuple[int, list[str]]:
        return flaw.manifest, [f"{p:09}" if isinstance(p, int) else p for p in flaw.path]

    return tuple(sorted(dict.fromkeys(flaws), key=place))


class _Runner:
    """Runs Envoy on a configuration, with a file for each run."""

    def __init__(self, envoy: File, folder: File) -> None:
        self._envoy, self._folder = envoy, folder
        self._count = iter(range(10**9))

    def __call__(self, configuration: Mapping[str, Any]) -> EnvoyError | None:
        """None if Envoy accepts the configuration, otherwise the error."""
        path = self._folder / f"{next(self._count)}.json"
        path.write_text(json.dumps(configuration), encoding="utf-8")
        arguments = [
            "--mode", "validate", "-c", str(path), "--disable-hot-restart",
            "--log-level", "critical", "--concurrency", "1",
        ]  # fmt: skip
        done = binary.run(self._envoy, arguments, _RUN_SECONDS)
        if done.returncode == 0:
            return None
        if "error initializing configuration" not in done.stderr:
            output = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
            raise NoEnvoy(
                f"{self._envoy} ended before it accepted or rejected the configuration: {output}",
                hints=binary.USE_ANOTHER,
            )
        return envoyerror.read_envoy_error(done.stderr)


def _meeting(patches: Sequence[Patch]) -> Iterator[list[Patch]]:
    """Groups of patches that may apply to one proxy: by scope, and by context (ANY is in each).

    BOOTSTRAP patches form a separate group, because they are read once when a proxy starts.
    """
    for patch in patches:
        if patch.apply_to == "BOOTSTRAP":
            yield [patch]
    rest = [patch for patch in patches if patch.apply_to != "BOOTSTRAP"]
    for together in _together(list(dict.fromkeys(patch.scope for patch in rest))):
        here = [patch for patch in rest if patch.scope in together]
        contexts = dict.fromkeys(patch.context for patch in here if patch.context != "ANY")
        for context in contexts or ("ANY",):
            yield [patch for patch in here if patch.context in (context, "ANY")]


def _together(scopes: Sequence[Scope]) -> Iterator[frozenset[Scope]]:
    """Sets of scopes that all overlap; every two scopes that overlap are in one of them."""
    found: list[frozenset[Scope]] = []
    for number, one in enumerate(scopes):
        for other in scopes[number:]:
            if not one.meets(other) or any({one, other} <= group for group in found):
                continue
            group = [one, other]
            group += [s for s in scopes if s not in group and all(s.meets(g) for g in group)]
            found.append(_all_meeting(group))
            yield found[-1]


def _all_meeting(scopes: Sequence[Scope]) -> frozenset[Scope]:
    """The first of these scopes, and all following ones that overlap with all before."""
    kept: list[Scope] = []
    for scope in scopes:
        if all(scope.meets(other) for other in kept):
            kept.append(scope)
    return frozenset(kept)


def _validate_once(patches: Sequence[Patch], run: Run) -> ValidationRun:
    """Run Envoy; clusters that only istiod generates are replaced by stand-ins.

    Raises:
        NotCovered: as in assemble.
    """
    stand_ins: list[str] = []
    while True:
        configuration, placed = assemble(patches, stand_ins)
        rejection = run(configuration)
        missing = rejection.unknown_cluster if rejection else None
        if not missing or missing in stand_ins or len(stand_ins) >= _MOST_STAND_INS:
            return rejection, configuration, placed
        stand_ins.append(missing)


def _accepted(patches: Sequence[Patch], run: Run) -> bool:
    """Whether all patches are covered and Envoy accepts them."""
    try:
        return _validate_once(patches, run)[0] is None
    except (NotCovered, Unfit):
        return False


def _alone(patch: Patch, run: Run) -> tuple[str, Flaw | None]:
    """The result for one patch: ("refused" or "unchecked", flaw); None as flaw if valid."""
    try:
        rejection, configuration, placed = _validate_once([patch], run)
    except NotCovered as error:
        text = f"not checked: {patch.apply_to} {error}: validate does not know this filter"
        return "unchecked", Flaw(patch.manifest, patch.path, text)
    except Unfit as error:
        return "refused", Flaw(patch.manifest, (*patch.path, *error.path), error.why)
    if rejection is None:
        return "", None
    base = placed[0].path
    found = envoyerror.find_field(rejection, configuration, base)
    if found is not None and found[: len(base)] == base:
        inner = found[len(base) :]
    else:
        inner = _narrow(patch, run)
    flaw = Flaw(patch.manifest, (*patch.path, *inner), _sentence(rejection))
    if rejection.missing_file:
        return "unchecked", _because(
            flaw, "a gateway may have a file that this machine does not have"
        )
    if rejection.unknown_type and rejection.unknown_type.startswith(_ISTIOS_OWN):
        return "unchecked", _because(flaw, "Istio's own build of Envoy may support it")
    return "refused", flaw


def _because(flaw: Flaw, why: str) -> Flaw:
    return Flaw(flaw.manifest, flaw.path, f"not checked, {why}: {flaw.message}")


def _sentence(rejection: EnvoyError) -> str:
    if "no such field" in rejection.why:
        return f"{rejection.why} (istiod drops it silently)"
    return rejection.why


def _narrow(patch: Patch, run: Run) -> Path:
    """The innermost part of a value without which Envoy accepts the patch; () if there is none."""
    path: Path = ()
    tries = 0
    while True:
        for inner in _parts(_at(patch.value, path)):
            tries += 1
            if tries > _MOST_TRIES:
                return path
            rest = _without(patch.value, (*path, *inner))
            if rest and _accepted([patch.with_value(rest)], run):
                path = (*path, *inner)
                break
        else:
            return path


def _parts(node: Any) -> Iterator[Path]:
    """The parts of a value, the outer ones first; a type is not separated from its message."""
    level: list[Path] = [()]
    while level:
        level = [(*path, key) for path in level for key in _removable(_at(node, path))]
        yield from level


def _removable(node: Any) -> list[str | int]:
    if isinstance(node, Mapping):
        return [key for key in node if key != "@type"]
    return list(range(len(node))) if isinstance(node, list) else []


def _without(node: Any, path: Path) -> Any:
    """A copy of a value without one part."""
    first, *rest = path
    if isinstance(node, list):
        assert isinstance(first, int)
        middle = [_without(node[first], tuple(rest))] if rest else []
        return [*node[:first], *middle, *node[first + 1 :]]
    return {
        key: _without(each, tuple(rest)) if key == first else each
        for key, each in node.items()
        if rest or key != first
    }


def _at(node: Any, path: Path) -> Any:
    for part in path:
        node = node[part]
    return node


def _conflicts(patches: list[Patch], run: Run) -> Iterator[Flaw]:
    """Conflicts between patches that are valid alone: each that fails with those before it."""
    while patches:
        rejection, configuration, placed = _validate_once(patches, run)
        if rejection is None:
            return
        # The shortest prefix that fails ends with the culprit.
        low, high = 1, len(patches)
        while low < high:
            middle = (low + high) // 2
            if _validate_once(patches[:middle], run)[0] is None:
                low = middle + 1
            else:
                high = middle
        rejection, configuration, placed = _validate_once(patches[:low], run)
        assert rejection is not None
        culprit, base = patches[low - 1], placed[low - 1].path
        found = envoyerror.find_field(rejection, configuration, base)
        inner = found[len(base) :] if found and found[: len(base)] == base else ()
        yield Flaw(culprit.manifest, (*culprit.path, *inner), _sentence(rejection))
        patches = [*patches[: low - 1], *patches[low:]]


def _twice(patches: Sequence[Patch]) -> Iterator[Flaw]:
    """Listeners and clusters that are added twice with one name.

    Envoy treats the second of two static listeners as an update of the first, but rejects both from
    istiod (a delta response may name a resource only once).
    """
    reported = set()
    for group in _meeting(patches):
        seen: set[Any] = set()
        for patch in group:
            key = (patch.apply_to, field(patch.value, "name"))
            if patch.operation != "ADD" or key[0] not in ("LISTENER", "CLUSTER") or not key[1]:
                continue
            if key in seen and (patch.manifest, patch.path) not in reported:
                reported.add((patch.manifest, patch.path))
                text = f"{patch.apply_to.lower()} {key[1]!r} is added twice"
                yield Flaw(patch.manifest, (*patch.path, "name"), text)
            seen.add(key)
