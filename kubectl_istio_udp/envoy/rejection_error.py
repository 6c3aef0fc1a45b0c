"""The error for manifests that an Envoy rejects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kubectl_istio_udp.envoy import binary
from kubectl_istio_udp.envoy.patches import Flaw, same
from kubectl_istio_udp.envoy.validate import validate
from kubectl_istio_udp.model.errors import Refused


def refuse_rejected(
    program: Path,
    manifests: Sequence[Mapping[str, Any]],
    flags: Mapping[str, str],
    warn: Callable[[str], None],
) -> None:
    """Validate manifests with an Envoy.

    Args:
        program: the Envoy.
        manifests, flags, warn: as for `ensure_accepted`.

    Raises:
        Refused: it rejects something.
        NoEnvoy: it does not run on this machine.
    """
    report = validate(program, manifests)
    for flaw in report.unchecked:
        warn(f"{flaw.field}: {flaw.message}")
    if report.refused:
        raise _refusal(report.refused, program, flags)


def _refusal(refused: Sequence[Flaw], program: Path, flags: Mapping[str, str]) -> Exception:
    first, *others = [_with_option(flaw, flags) for flaw in refused]
    return Refused(
        f"Envoy rejects {first}; nothing was written",
        hints=[
            *others,
            f"checked with {program} ({binary.version(program)}); if the gateway's Envoy is a "
            "version that accepts it: --validate=none",
        ],
    )


def _with_option(flaw: Flaw, flags: Mapping[str, str]) -> str:
    """A flaw with the option that caused it, if any: the option of the innermost field."""
    known = {same(field): flag for field, flag in flags.items()}
    parts = [part for part in reversed(flaw.path) if isinstance(part, str)]
    flag = next((known[same(part)] for part in parts if same(part) in known), None)
    text = f"{flaw.field or 'EnvoyFilter'}: {flaw.message}"
    return f"{flag} ({text})" if flag else text
