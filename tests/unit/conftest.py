from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from kubectl_istio_udp.cli.main import main
from kubectl_istio_udp.envoy import binary
from kubectl_istio_udp.kube.client import Api
from tests.support.apiserver import ApiServer
from tests.support.builders import cluster, namespace, pod, service
from tests.support.connection import connected
from tests.support.controlling import Running, space
from tests.support.fakes import Fakes
from tests.support.mesh_builders import mesh_config
from tests.support.recording import Recorders, recorders
from tests.support.waits import QUICK

settings.register_profile("quick", max_examples=50, deadline=None)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="Write tests/unit/golden/*.out.yaml anew."
    )


def pytest_configure() -> None:
    """Keep each of several workers on one CPU.

    Its servers and clients are threads of one process. Where they run on several CPUs, two fifths
    of the time go into handing Python's lock from one to another.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[int(worker.removeprefix("gw")) % len(cpus)]})


@pytest.fixture(autouse=True)
def _no_envoy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests here do not run the machine's Envoy; those in tests/envoy do."""
    monkeypatch.setattr(binary, "find_envoy", lambda _: None)


@pytest.fixture(autouse=True)
def _nobodys_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reaches a cluster that this machine may have access to."""
    for name in [n for n in os.environ if n.startswith("KUBE")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorders]:
    """Servers and proxies that record their requests."""
    with recorders(tmp_path_factory.mktemp("certificates")) as made:
        yield made


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A cluster with the DNS Service, two pods of it, a gateway and a network-tool pod."""
    found = ApiServer()
    tool = pod("network-tool", app="network-tool")
    dns = service(annotations={"kubectl-istio-udp/query": "foo.bar.com"})
    spaces = [namespace(name) for name in ("default", "istio-system", "lab")]
    found.put(*spaces, *cluster(service=dns), tool, mesh_config())
    yield found
    found.stop()


@pytest.fixture
def fakes(server: ApiServer) -> Fakes:
    """The fakes that answer exec in this cluster."""
    made = Fakes(server)
    server.run = made.run
    return made


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kubeconfig that is used by default."""
    path = server.kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


@pytest.fixture
def api(kubeconfig: Path) -> Api:
    return connected(kubeconfig)


class Run:
    """The command line, in this process.

    Attributes:
        waits: how long commands wait that are run from now on.
        code, out, err: how the last one ended, and what it printed.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.waits = QUICK
        self.code = 0
        self.out = self.err = ""

    def __call__(self, *words: str) -> Run:
        handlers = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGHUP)}
        try:
            with pytest.raises(SystemExit) as ended:
                main(list(words), self.waits)
        finally:
            for which, handler in handlers.items():
                signal.signal(which, handler)
        self.out, self.err = self._capsys.readouterr()
        code: Any = ended.value.code
        self.code = code or 0
        return self

    def wait_for(self, **seconds: float) -> None:
        """Let commands wait for other times from now on."""
        self.waits = replace(self.waits, **seconds)


@pytest.fixture
def run(kubeconfig: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def running(api: Api, server: ApiServer) -> Iterator[Running]:
    server.put(space("default"))
    found = Running(api, server)
    yield found
    found.stop()
