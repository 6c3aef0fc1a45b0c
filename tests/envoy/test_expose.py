# ruff: noqa: F811
"""`expose --validate`: what Envoy refuses is not written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubectl_istio_udp.envoy import binary
from kubectl_istio_udp.envoy.validate_option import ensure_accepted
from kubectl_istio_udp.model.errors import Refused
from kubectl_istio_udp.model.exposure import Exposure
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from kubectl_istio_udp.render.exposure import writes
from tests.support.apiserver import ApiServer
from tests.support.builders import plan_of
from tests.unit.conftest import Run, api, fakes, kubeconfig, run, server  # noqa: F401

EXPOSE = ("expose", "coredns", "-p", "5300:53")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renderer with a bug: it writes a limit that Envoy rejects."""

    def wrong(exposure: Exposure) -> dict[str, Any]:
        found = envoy_filter(exposure)
        for patch in found["spec"]["configPatches"]:
            if patch["applyTo"] == "LISTENER":
                proxy = patch["patch"]["value"]["listener_filters"][0]["typed_config"]
                proxy["idle_timeout"] = "10"
        return found

    monkeypatch.setattr("kubectl_istio_udp.render.exposure.envoy_filter", wrong)


@pytest.fixture
def no_envoy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binary, "packaged_envoy", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("mode", ["auto", "envoy"])
@pytest.mark.parametrize("more", [(), ("--dry-run=client",), ("--dry-run=server",)])
def test_what_envoy_refuses_is_not_written(
    server: ApiServer, run: Run, broken: Any, mode: str, more: tuple[str, ...]
) -> None:
    done = run(*EXPOSE, f"--validate={mode}", *more)
    assert (done.code, done.out) == (3, "")
    assert "error: Envoy rejects --idle-timeout (" in done.err
    assert "duration must end with a single 's'); nothing was written" in done.err
    assert "--validate=none" in done.err
    assert server.all("EnvoyFilter") == server.all("ServiceEntry") == []


def test_validate_none_does_not_ask(server: ApiServer, run: Run, broken: Any) -> None:
    done = run(*EXPOSE, "--validate=none")
    assert done.code == 0, done.err
    assert len(server.all("EnvoyFilter")) == 1


def test_without_an_envoy_auto_continues_and_envoy_refuses(
    server: ApiServer, run: Run, no_envoy: Any
) -> None:
    done = run(*EXPOSE, "--validate=envoy")
    assert (done.code, "no Envoy found on this machine" in done.err) == (3, True)
    assert server.all("EnvoyFilter") == []
    done = run(*EXPOSE)
    assert done.code == 0, done.err
    assert len(server.all("EnvoyFilter")) == 1


def test_an_envoy_that_cannot_run_is_reported_and_auto_continues(
    server: ApiServer, run: Run, no_envoy: Any, tmp_path: Path
) -> None:
    (tmp_path / "envoy").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "envoy").chmod(0o755)
    done = run(*EXPOSE, "--validate=envoy")
    assert (done.code, "cannot run on this machine" in done.err) == (3, True)
    assert server.all("EnvoyFilter") == []
    done = run(*EXPOSE)
    assert (done.code, "nothing was validated" in done.err) == (0, True)


def test_any_list_of_manifests_can_be_validated(envoy: Path) -> None:
    manifests = [write.manifest for write in writes(plan_of().exposure)]
    virtual_service = {"kind": "VirtualService", "metadata": {"name": "x"}, "spec": {}}
    ensure_accepted([virtual_service, *manifests], "envoy", {}, warn=pytest.fail)
    bad = {"apiVersion": "v1", "kind": "EnvoyFilter", "metadata": {"name": "x"}, "spec": {}}
    with pytest.raises(Refused, match="rejects EnvoyFilter: has no configPatches"):
        ensure_accepted(
            [virtual_service, bad, *manifests], "envoy", {}, str(envoy), warn=pytest.fail
        )
