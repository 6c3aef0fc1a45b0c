"""`--validate`: check rendered manifests with a real Envoy before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kubectl_istio_udp.envoy import binary
from kubectl_istio_udp.envoy.patches import Finding, same
from kubectl_istio_udp.envoy.validate import validate
from kubectl_istio_udp.model.errors import Refused


def ensure_accepted(
    manifests: Sequence[Mapping[str, Any]],
    mode: str,
    flags: Mapping[str, str],
    envoy: str | None = None,
    *,
    warn: Callable[[str], None],
) -> None:
    """Raise an error if a real Envoy on this machine rejects manifests.

    Args:
        manifests: the manifests to be written; only EnvoyFilters are checked.
        mode: `--validate`: auto, envoy or none.
        flags: the option for each Envoy field, by field name (`idle_timeout`).
        envoy: `--envoy`, if the command has this option.
        warn: called with a text about each part that could not be checked.

    Raises:
        Refused: Envoy rejects something; nothing was written.
        NoEnvoy: there is no working Envoy, and the mode is `envoy`.
    """
    if mode == "none":
        return
    program = binary.need_envoy(envoy) if mode == "envoy" else binary.find_envoy(envoy)
    if program is None:
        return
    try:
        report = validate(program, manifests)
    except binary.NoEnvoy as error:
        if mode == "envoy":
            raise
        warn(f"{error.message}; nothing was validated")
        return
    for finding in report.unchecked:
        warn(f"{finding.field}: {finding.message}")
    if report.refused:
        raise _refusal(report.refused, program, flags)


def _refusal(refused: Sequence[Finding], program: Path, flags: Mapping[str, str]) -> Exception:
    first, *others = [_told(finding, flags) for finding in refused]
    return Refused(
        f"Envoy rejects {first}; nothing was written",
        hints=[
            *others,
            f"checked with {program} ({binary.version(program)}); if the gateway's Envoy is a "
            "version that accepts it: --validate=none",
        ],
    )


def _told(finding: Finding, flags: Mapping[str, str]) -> str:
    """A finding with the option that caused it, if there is one: that of the innermost field."""
    known = {same(field): flag for field, flag in flags.items()}
    parts = [part for part in reversed(finding.path) if isinstance(part, str)]
    flag = next((known[same(part)] for part in parts if same(part) in known), None)
    said = f"{finding.field}: {finding.message}"
    return f"{flag} ({said})" if flag else said
