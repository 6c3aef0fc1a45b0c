"""The plugin in the situations of kubeconfig_cases.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubectl_istio_udp.kube import kubeconfig
from tests.support.kubeconfig_cases import CASES, NAMESPACES, Case
from tests.support.recording import Recorders
from tests.support.situations import expected, observed, place
from tests.unit.conftest import Run


def enter(
    case: Case, recorded: Recorders, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Put this process into a situation; the flags to run a command with."""
    environment, flags = place(case, recorded, folder)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(kubeconfig, "SERVICE_ACCOUNT", folder / "pod")
    # Something may listen at the usual one, which is port 8080 of this machine.
    monkeypatch.setattr(kubeconfig, "DEFAULT_SERVER", "http://localhost:1")
    return flags


def test_requests_of_kubectl_without_a_kubeconfig() -> None:
    assert kubeconfig.DEFAULT_SERVER == "http://localhost:8080"


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sends_the_same_requests_as_kubectl(
    case: Case,
    recorded: Recorders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorded.forget()
    flags = enter(case, recorded, tmp_path, monkeypatch)
    done = Run(capsys)("get", "-A", "--request-timeout=5s", *flags)
    assert observed(recorded) == expected(case), done.err
    if case.server:
        assert done.code == 0, done.err
    else:
        assert done.code == 3, done.err
        assert done.err.startswith("error: ")
        assert case.says and case.says in done.err
        assert "Traceback" not in done.err
    secrets = ("p%40ss", "p@ss", "me:pw", "b:c", "s3cret")
    assert not any(secret in done.err for secret in secrets)


@pytest.mark.parametrize(
    ("case", "namespace"), NAMESPACES, ids=[case.name for case, _ in NAMESPACES]
)
def test_works_in_the_namespace_that_kubectl_works_in(
    case: Case,
    namespace: str,
    recorded: Recorders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = enter(case, recorded, tmp_path, monkeypatch)
    done = Run(capsys)("get", *flags)
    assert f"namespace {namespace}" in done.out + done.err
