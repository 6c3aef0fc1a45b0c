"""Start-up is felt at every command: none imports what it does not need."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kubectl_istio_udp
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.render.exposure import writes
from tests.support.builders import plan_of
from tests.support.fakes import Fakes

_CODE = """
import sys
from kubectl_istio_udp.cli.main import main
try:
    main()
finally:
    print(__import__("json").dumps(sorted(sys.modules)), file=sys.stderr)
"""
# The Kubernetes client takes a quarter of a second to import, and others are not needed either.
_NEVER = ("kubernetes", "pydantic", "requests", "tabulate", "certifi", "prometheus_client")
_CLUSTER = ("urllib3", "yaml", "http", "ssl", "concurrent", "kubectl_istio_udp.kube")
# `options` has the values of `verify`'s options; the rest sends probes.
_EXEC = (
    "websocket",
    *(
        f"kubectl_istio_udp.verify.{path.stem}"
        for path in (Path(kubectl_istio_udp.__file__).parent / "verify").glob("*.py")
        if path.stem not in ("__init__", "options")
    ),
)
_ELSEWHERE = ("kubectl_istio_udp.controller", "kubectl_istio_udp.envoy")
# What only a command that decides about an exposure needs.
_DECIDING = tuple(
    f"kubectl_istio_udp.{name}"
    for name in (
        *("apply", "checks", "render", "state.gateways", "state.snapshot"),
        *("model.endpointrules", "model.request", "model.snapshot", "model.usage"),
        *("plan", "sources"),
    )
)
# The pod that --create-tool makes is rendered like a sample; endpoints that are not allowed are not
# queried.
_NOT_BY_VERIFY = tuple(
    name
    for name in _DECIDING
    if name not in ("kubectl_istio_udp.render", "kubectl_istio_udp.model.endpointrules")
)
# What only clusters with responses or access logs need.
_OTHER_KINDS = ("kubectl_istio_udp.model.accesslog", "kubectl_istio_udp.model.response")
# What only a command that queries an Envoy needs.
_ENVOYS = tuple(
    f"kubectl_istio_udp.{name}"
    for name in (
        *("apply.waiting", "state.admin", "state.proxies"),
        *("model.memory", "model.proxystate", "model.envoy_log"),
    )
)


@pytest.mark.parametrize(
    ("words", "needless"),
    [
        (["--help"], (*_NEVER, *_CLUSTER, *_EXEC, *_ELSEWHERE, "logging", "traceback")),
        (["version"], (*_NEVER, *_CLUSTER, *_EXEC, *_ELSEWHERE, "logging", "traceback")),
        (
            ["get", "--help"],
            (*_NEVER, *_CLUSTER, *_EXEC, *_ELSEWHERE, "kubectl_istio_udp.model.mesh"),
        ),
        (["expose", "--help"], (*_NEVER, *_CLUSTER, *_EXEC, *_ELSEWHERE)),
        (
            ["get", "-A"],
            (
                *(*_NEVER, "_strptime", "websocket", *_ELSEWHERE),
                *(*_DECIDING, *_ENVOYS, *_OTHER_KINDS),
            ),
        ),
        (["delete", "--all", "--no-wait"], (*_NEVER, "websocket", *_ELSEWHERE)),
        (
            ["expose", "coredns", "-p", "5300:53", "--no-wait", "--validate", "none"],
            (
                *(*_NEVER, "_strptime", "kubectl_istio_udp.controller"),
                *("kubectl_istio_udp.state.controllers", "kubectl_istio_udp.envoy.validate"),
            ),
        ),
        (["verify", "coredns"], (*_NEVER, *_ELSEWHERE, *_NOT_BY_VERIFY, *_OTHER_KINDS)),
        (["direct", "coredns"], (*_NEVER, "kubectl_istio_udp.controller")),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_command_imports_what_it_needs(
    words: list[str], needless: tuple[str, ...], api: Api, fakes: Fakes, kubeconfig: Path
) -> None:
    for write in writes(plan_of(ports=parse_port_requests(["5300:53"])).exposure):
        api.apply(write.manifest, before=None, manager=write.manager)
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *words],
        env={**_without_coverage(), "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stderr.splitlines()[-1])
    found = [m for m in imported if any(m == n or m.startswith(f"{n}.") for n in needless)]
    assert found == []


def _without_coverage() -> dict[str, str]:
    """The environment, without what makes coverage import itself and its modules."""
    return {key: os.environ[key] for key in os.environ if not key.startswith("COVERAGE_")}


def test_every_module_that_may_not_be_imported_exists() -> None:
    ours = [
        name
        for name in (*_CLUSTER, *_EXEC, *_ELSEWHERE, *_DECIDING, *_ENVOYS, *_OTHER_KINDS)
        if name.startswith("kubectl_istio_udp.")
    ]
    assert [name for name in ours if importlib.util.find_spec(name) is None] == []


def test_completion_imports_what_the_options_need() -> None:
    code = _CODE.replace("cli.main", "cli.completion")
    done = subprocess.run(
        [sys.executable, "-c", code, "expose", "--gatew"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("--gateway")
    imported = json.loads(done.stderr.splitlines()[-1])
    needless = (*_NEVER, *_CLUSTER, *_EXEC, *_ELSEWHERE, *_DECIDING, *_ENVOYS)
    assert [m for m in imported if any(m == n or m.startswith(f"{n}.") for n in needless)] == []
