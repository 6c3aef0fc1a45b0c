"""Fixtures for the real cluster: kubectl with the plugin, a namespace for each test, load.

Runs against whatever cluster KUBECONFIG names (`make e2e` starts one and enters its network).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.preloaded import Preloaded

HERE = Path(__file__).parent
GATEWAY_NAMESPACE = os.environ.get("E2E_GATEWAY_NAMESPACE", "istio-system")
LOAD_IMAGE = os.environ.get("E2E_LOAD_IMAGE", "python:3-slim")
COMMAND_SECONDS = 120
# Each query of a load has a port of its own.
MOST_QUERIES = 40_000
# The first port of a load beside another one in the same pod; it sends at most 20,000 queries.
SECOND_FIRST_PORT, MOST_SECOND_QUERIES = 40_000, 20_000
PORTS_APART = 10


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse to run where pytest-xdist does not keep the tests of a group in one process."""
    if not config.getoption("loadgroup", False):
        return
    loose = [i for i in items if i.get_closest_marker("xdist_group") and "@" not in i.nodeid]
    if loose:
        raise pytest.UsageError(f"this pytest-xdist does not keep groups together: {loose[0]}")


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def both(self) -> str:
        return self.out + self.err


def run(*words: str, stdin: str | None = None, seconds: float = COMMAND_SECONDS) -> Result:
    done = subprocess.run(
        words, input=stdin, capture_output=True, text=True, timeout=seconds, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


@functools.cache
def _preloaded() -> Preloaded | None:
    """The process that runs commands in forks; None if the plugin on PATH is of another Python."""
    found = shutil.which("kubectl-istio_udp")
    if found is None or Path(found).parent != Path(sys.executable).parent:
        return None
    made = Preloaded()
    atexit.register(made.stop)
    return made


def plugin(*words: str, seconds: float = COMMAND_SECONDS) -> Result:
    """`kubectl istio-udp ...`, without the time that kubectl and the plugin's imports take."""
    preloaded = _preloaded()
    if preloaded is None:
        return run("kubectl", "istio-udp", *words, seconds=seconds)
    return Result(*preloaded.run(words, seconds))


def kubectl(*words: str, stdin: str | None = None, ok: bool = True) -> str:
    """Run kubectl and return stdout. If it fails, so does the test, unless `ok` is False."""
    result = run("kubectl", *words, stdin=stdin)
    assert result.code == 0 or not ok, f"kubectl {' '.join(words)}: {result.both}"
    return result.out


def get(*words: str) -> Any:
    """`kubectl get ... -o json`, decoded."""
    return json.loads(kubectl("get", *words, "-o", "json"))


def eventually(what: str, check: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until check() is truthy and return it; fail the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g}s: {what}"
        time.sleep(0.2)


def wait_answered(space: Space, name: str, seconds: float = 30) -> str:
    """Wait until `verify` of an exposure succeeds; its output."""
    last = Result(1, "", "")

    def verified() -> bool:
        nonlocal last
        last = space.verify(name)
        return last.code == 0

    try:
        eventually(f"{name} answers", verified, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{last.both}") from None
    return last.out


@dataclass(frozen=True)
class Space:
    """A namespace of one test, and the plugin working in it.

    Attributes:
        name: the namespace.
        tool: the network-tool pod, `NAMESPACE/NAME`.
        gateway: the namespace of the gateway at which it exposes something.
    """

    name: str
    tool: str
    gateway: str = GATEWAY_NAMESPACE

    def plugin(self, *words: str) -> Result:
        """`kubectl istio-udp ... -n NAMESPACE`."""
        return plugin(*words, "-n", self.name)

    def expose(self, *words: str, code: int = 0) -> Result:
        """`expose`, which must exit with `code`."""
        beside_others = "PYTEST_XDIST_WORKER" in os.environ
        if beside_others and not {"--max-sessions", "--expect-rate"} & set(words):
            # Many tests share what the gateway can hold; `alone` ones get the default.
            words = (*words, "--max-sessions", "500")
        result = self.plugin("expose", *words)
        assert result.code == code, result.both
        assert "Traceback" not in result.both
        return result

    def verify(self, *words: str) -> Result:
        """`verify` from the session's network-tool pod."""
        return self.plugin("verify", *words, "--tool-pod", self.tool)

    def respond(self, *words: str, code: int = 0) -> Result:
        """`direct response`, which must exit with `code`."""
        result = self.plugin("direct", "response", *words)
        assert result.code == code, result.both
        assert "Traceback" not in result.both
        return result

    def curl(self, pod: str, *words: str) -> str:
        """What curl prints in a pod (`NAMESPACE/NAME`)."""
        namespace, _, name = pod.partition("/")
        command = ["curl", "-sS", "-m", "5", *words]
        return kubectl("exec", "-n", namespace, name, "-c", "network-tool", "--", *command)

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Apply manifests to this namespace and wait for their Deployments."""
        kubectl("apply", "-n", self.name, "-f", "-", stdin=yaml.safe_dump_all(manifests))
        for manifest in manifests:
            if manifest["kind"] == "Deployment":
                name = manifest["metadata"]["name"]
                kubectl("rollout", "status", "-n", self.name, f"deploy/{name}", "--timeout=90s")


@pytest.fixture(scope="session")
def tool() -> Iterator[str]:
    """A namespace with the samples, for its network-tool pod: `NAMESPACE/network-tool`."""
    with _namespace("tool") as name:
        result = run("kubectl", "istio-udp", "samples", "apply", "-n", name, "--timeout", "90s")
        assert result.code == 0, result.both
        yield f"{name}/network-tool"


@pytest.fixture
def space(tool: str) -> Iterator[Space]:
    """A namespace for one test; its exposures are deleted with the product's own command."""
    with _namespace("e2e") as name:
        made = Space(name, tool)
        yield made
        deleted = made.plugin("delete", "--all")
        assert deleted.code == 0, deleted.both


@contextlib.contextmanager
def _namespace(prefix: str) -> Iterator[str]:
    name = f"{prefix}{secrets.token_hex(3)}"
    kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


def dns_server(
    name: str = "dns", replicas: int = 1, ports: tuple[int, ...] = (53,), **labels: str
) -> list[dict[str, Any]]:
    """CoreDNS that answers foo.bar.com on each port, with readiness and a graceful shutdown.

    Readiness by the plugin `ready`, and 5 s of lameduck: a pod that is told to go answers on
    until the gateway has heard of it.
    """
    corefile = "".join(
        f"foo.bar.com:{port} {{\n  whoami\n}}\n.:{port} {{\n"
        "  hosts {\n    192.0.2.1 plain.example\n    fallthrough\n  }\n"
        f"  ready :{8181 + index}\n  health :{8080 + index} {{\n    lameduck 5s\n  }}\n}}\n"
        for index, port in enumerate(ports)
    )
    container = {
        "name": "coredns",
        "image": "coredns/coredns",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": f"dns-{port}", "containerPort": port, "protocol": "UDP"} for port in ports
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "conf", "mountPath": "/etc/coredns"}],
    }
    pods = {"app": name, **labels}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "data": {"Corefile": corefile},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": pods},
                    "spec": {
                        "containers": [container],
                        "volumes": [{"name": "conf", "configMap": {"name": name}}],
                        "terminationGracePeriodSeconds": 15,
                    },
                },
            },
        },
        service(name, ports),
    ]


def service(
    name: str, ports: tuple[int, ...] = (53,), app: str | None = None, **spec: Any
) -> dict[str, Any]:
    """A Service with UDP ports, annotated with a query that its server answers."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "annotations": {"kubectl-istio-udp/query": "foo.bar.com"}},
        "spec": {
            "selector": {"app": app or name},
            "ports": [
                {"name": f"dns-{port}", "port": port, "protocol": "UDP", "targetPort": port}
                for port in ports
            ],
            **spec,
        },
    }


@pytest.fixture(scope="session")
def _ports() -> Iterator[int]:
    """Port numbers that only this worker uses; a test may add up to 200 to one.

    Exposures of the previous test at the next nine ports may not be deleted yet.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return iter(range(20_000 + worker * 3_000, 22_700 + worker * 3_000, PORTS_APART))


@pytest.fixture
def port(_ports: Iterator[int]) -> int:
    """A gateway port that no other test of this run uses."""
    return next(_ports)


def start_load_pod(namespace: str) -> None:
    """Start the pod `load`, in which load.py runs: outside the mesh, with python3."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "load", "labels": {"sidecar.istio.io/inject": "false"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "load",
                    "image": LOAD_IMAGE,
                    "command": ["sleep", "infinity"],
                    # Its clients use ports below the ephemeral ones.
                    "securityContext": {"runAsUser": 0},
                }
            ],
        },
    }
    kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(pod))
    kubectl("wait", "-n", namespace, "pod/load", "--for=condition=Ready", "--timeout=120s")


@dataclass(frozen=True)
class LoadPod:
    """A pod in which load.py runs: load_pod(address, port, *flags) gives its running process."""

    namespace: str
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, address: str, port: int, *flags: str) -> subprocess.Popen[str]:
        words = ["kubectl", "exec", "-i", "-n", self.namespace, "load", "--"]
        words += ["python3", "-", address, str(port), "foo.bar.com", *flags]
        with (HERE / "load.py").open() as program:
            process = subprocess.Popen(
                words, stdin=program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        self.running.append(process)
        return process

    def shell(self, *words: str, stdin: str | None = None) -> Result:
        """Run a command in the pod."""
        pod = ("-n", self.namespace, "load", "--")
        return run("kubectl", "exec", "-i", *pod, *words, stdin=stdin)

    @contextlib.contextmanager
    def asking(
        self, target: tuple[str, int], rate: int, *, beside: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Query continuously, each time as another client; the counts are complete at the end.

        `beside`: beside another load.
        """
        counts: dict[str, Any] = {}
        end = f"/tmp/{secrets.token_hex(4)}"
        most = MOST_SECOND_QUERIES if beside else MOST_QUERIES
        flags = ["--queries", str(most), "--rate", str(rate), "--until", end]
        flags += ["--first-port", str(SECOND_FIRST_PORT)] if beside else []
        process = self(*target, *flags)
        try:
            yield counts
            assert process.poll() is None, "the load ended before it was told to"
        finally:
            self.shell("touch", end)
        counts.update(finish(process))


@pytest.fixture(scope="session")
def load_pod() -> Iterator[LoadPod]:
    """A pod that queries DNS servers."""
    with _namespace("load") as namespace:
        start_load_pod(namespace)
        made = LoadPod(namespace)
        yield made
        for process in made.running:
            process.kill()
            process.wait()


def finish(process: subprocess.Popen[str], seconds: float = 120) -> dict[str, Any]:
    """The counts of a load that was started, once it has ended."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return dict(json.loads(out))


def companion(space: Space, name: str) -> tuple[str, int]:
    """Cluster address and port of an exposure's companion Service."""
    labels = f"kubectl-istio-udp/exposure={name},kubectl-istio-udp/namespace={space.name}"
    found = get("service", "-n", space.gateway, "-l", labels)["items"][0]["spec"]
    return found["clusterIP"], found["ports"][0]["port"]


_KINDS = (
    "envoyfilters",
    "serviceentries",
    "services",
    "virtualservices.networking.istio.io",
    "gateways.networking.istio.io",
)


def own_objects(space: Space) -> list[str]:
    """Every object that a test created, anywhere: `KIND namespace/name resourceVersion`."""
    found = []
    for kind in _KINDS:
        items = get(kind, "-A", "-l", f"kubectl-istio-udp/namespace={space.name}")["items"]
        found += [
            f"{kind} {i['metadata']['namespace']}/{i['metadata']['name']} "
            f"{i['metadata']['resourceVersion']}"
            for i in items
        ]
    return sorted(found)


def inventory(space: Space, everyone: bool = False) -> list[str]:
    """Names of all objects where a test could leave something.

    Those in the gateway's namespace that bear the test's name; with `everyone` all of them, for
    a test that has the cluster to itself.
    """
    found = []
    for kind in _KINDS:
        for namespace in (GATEWAY_NAMESPACE, space.name):
            names = [item["metadata"]["name"] for item in get(kind, "-n", namespace)["items"]]
            found += [
                f"{kind} {namespace}/{name}"
                for name in names
                if everyone or namespace == space.name or space.name in name
            ]
    return sorted(found)


def gateway_pods(selector: str = "istio=ingressgateway") -> list[str]:
    """Names of a gateway's pods that are not being deleted."""
    items = get("pods", "-n", GATEWAY_NAMESPACE, "-l", selector)["items"]
    return [i["metadata"]["name"] for i in items if "deletionTimestamp" not in i["metadata"]]


def gateway_restarts() -> int:
    """The total number of restarts of all gateway pods' containers."""
    items = get("pods", "-n", GATEWAY_NAMESPACE, "-l", "istio=ingressgateway")["items"]
    statuses = [s for i in items for s in i["status"].get("containerStatuses", ())]
    return sum(status["restartCount"] for status in statuses)


def envoy(pod: str, path: str) -> str:
    """The response of a gateway pod's Envoy at its admin interface."""
    return kubectl(
        "exec", "-n", GATEWAY_NAMESPACE, pod, "-c", "istio-proxy", "--",
        "pilot-agent", "request", "GET", path,
    )  # fmt: skip
