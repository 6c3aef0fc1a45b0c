"""The versions of Istio, and the settings of a mesh."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.model.mesh import Mesh, image_version, oldest, parse_version, show_version


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.31.0", (1, 31)),
        ("v1.9", (1, 9)),
        ("1.18.2-asm.1", (1, 18)),
        ("latest", None),
        ("", None),
    ],
)
def test_versions(text: str, expected: tuple[int, ...] | None) -> None:
    assert parse_version(text) == expected
    assert image_version({"image": f"r.io:5000/istio/pilot:{text}"}) == expected
    assert image_version({"image": f"r.io:5000/istio/pilot:{text}@sha256:00"}) == expected
    assert show_version(expected) == (f"{expected[0]}.{expected[1]}" if expected else "unknown")


def test_the_oldest_known_version() -> None:
    assert oldest([(1, 31), None, (1, 9)]) == (1, 9)
    assert oldest([None]) is None


@pytest.mark.parametrize(
    ("config", "writes", "root"),
    [
        ({}, False, "istio-system"),
        ({"accessLogFile": "/dev/stdout", "rootNamespace": "root"}, True, "root"),
        ({"accessLogFile": ""}, False, "istio-system"),
        ({"defaultProviders": {"accessLogging": ["envoy"]}}, True, "istio-system"),
        ({"defaultProviders": {"tracing": ["x"]}}, False, "istio-system"),
    ],
)
def test_reads_the_meshs_settings(config: dict[str, Any], writes: bool, root: str) -> None:
    found = Mesh.from_config(config)
    assert (found.writes_access_log, found.root_namespace) == (writes, root)
