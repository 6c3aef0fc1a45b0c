"""`--validate`: check rendered manifests with a real Envoy before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kubectl_istio_udp.envoy import binary


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
    # Imported here because most machines have no Envoy.
    from kubectl_istio_udp.envoy.rejection_error import refuse_rejected

    try:
        refuse_rejected(program, manifests, flags, warn)
    except binary.NoEnvoy as error:
        if mode == "envoy":
            raise
        warn(f"{error.message}; nothing was validated")
