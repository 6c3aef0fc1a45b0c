from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubectl_istio_udp.envoy.binary import need_envoy
from tests.unit.conftest import Run, _nobodys_cluster  # noqa: F401


@pytest.fixture(scope="session")
def envoy() -> Path:
    """The real Envoy, or the one that E2E_ENVOY names; without one these tests fail."""
    return need_envoy(os.environ.get("E2E_ENVOY"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line, in this process and without a cluster."""
    return Run(capsys)
