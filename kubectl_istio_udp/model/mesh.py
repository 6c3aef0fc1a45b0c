"""What the mesh as a whole is set to: its root namespace, its access log, its Istio version."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Version = tuple[int, int]

DEFAULT_ROOT_NAMESPACE = "istio-system"
_VERSION = re.compile(r"^v?(\d+)\.(\d+)")


def parse_version(text: str) -> Version | None:
    """(1, 31) of `1.31.0-distroless`, `v1.31` and the like; None of anything else."""
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2])) if found else None


def image_version(container: Mapping[str, Any]) -> Version | None:
    """The Istio version that a container's image tag tells; None where it has none."""
    tagged = str(container.get("image", "")).partition("@")[0]
    return parse_version(tagged.rpartition(":")[2])


def oldest(versions: Iterable[Version | None]) -> Version | None:
    """The oldest of the versions that are known, None where none is."""
    return min((version for version in versions if version), default=None)


def show_version(version: Version | None) -> str:
    """`1.31`, or `unknown`."""
    return f"{version[0]}.{version[1]}" if version else "unknown"


@dataclass(frozen=True)
class Mesh:
    """The mesh's own settings (meshConfig) and its control plane.

    Attributes:
        root_namespace: where an EnvoyFilter reaches every proxy.
        writes_access_log: whether meshConfig makes proxies write a log (accessLogFile, or a
            default provider for it).
        istio: the version of the oldest istiod, None where no image tag tells.
    """

    root_namespace: str = DEFAULT_ROOT_NAMESPACE
    writes_access_log: bool = False
    istio: Version | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], istio: Version | None = None) -> Mesh:
        """Read a decoded meshConfig."""
        providers = (config.get("defaultProviders") or {}).get("accessLogging")
        return cls(
            root_namespace=str(config.get("rootNamespace") or DEFAULT_ROOT_NAMESPACE),
            writes_access_log=bool(config.get("accessLogFile") or providers),
            istio=istio,
        )
