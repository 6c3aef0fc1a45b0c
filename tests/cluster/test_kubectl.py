"""kubectl in the situations of tests/unit/kubeconfig_cases.py, which the plugin is held to."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.kubeconfig_cases import CASES, Case
from tests.unit.recording import Recorders, recorders
from tests.unit.situations import expected, observed, place


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorders]:
    with recorders(tmp_path_factory.mktemp("certificates")) as made:
        yield made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kubectl_does_what_is_expected(case: Case, recorded: Recorders, tmp_path: Path) -> None:
    recorded.forget()
    environment, flags = place(case, recorded, tmp_path)
    done = subprocess.run(
        ["kubectl", "version", "--request-timeout=5s", *flags],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    seen = observed(recorded)
    if case.kubectl:
        # The plugin refuses what kubectl does not; docs/connecting.md says so.
        assert seen.get("server", "elsewhere") == case.kubectl, done.stderr
    else:
        assert seen == expected(case), done.stderr
        assert (done.returncode == 0) == bool(case.server), done.stderr
