"""Start-up is felt at every command: none imports what it does not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.apiserver import ApiServer
from tests.unit.fakes import Fakes

_CODE = """
import sys
from kubectl_istio_udp.cli.main import main
try:
    main()
finally:
    print(__import__("json").dumps(sorted(sys.modules)), file=sys.stderr)
"""
# The Kubernetes client takes a quarter of a second, and is for an old way to log in alone.
_NEVER = ("kubernetes", "pydantic", "requests", "tabulate", "certifi", "prometheus_client")
_CLUSTER = ("urllib3", "yaml", "http", "ssl", "concurrent", "kubectl_istio_udp.kube")
_EXEC = ("websocket", "kubectl_istio_udp.probe", "kubectl_istio_udp.verify")
_ELSEWHERE = ("kubectl_istio_udp.controller", "kubectl_istio_udp.envoy")


@pytest.mark.parametrize(
    ("words", "needless"),
    [
        (["--help"], (*_NEVER, *_CLUSTER, *_EXEC, *_ELSEWHERE)),
        (["version"], (*_NEVER, *_CLUSTER, *_EXEC, *_ELSEWHERE)),
        (["expose", "--help"], (*_NEVER, *_CLUSTER, *_EXEC, *_ELSEWHERE)),
        (["get", "-A"], (*_NEVER, "yaml", "websocket", *_ELSEWHERE)),
        (["delete", "--all"], (*_NEVER, "yaml", "websocket", *_ELSEWHERE)),
        (
            ["expose", "coredns", "-p", "5300:53", "--no-wait", "--validate", "none"],
            # The mesh's configuration is YAML in a ConfigMap.
            (*_NEVER, "kubectl_istio_udp.controller"),
        ),
        (["direct", "coredns"], (*_NEVER, "kubectl_istio_udp.controller")),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_command_imports_what_it_needs(
    words: list[str], needless: tuple[str, ...], server: ApiServer, fakes: Fakes, kubeconfig: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *words],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stderr.splitlines()[-1])
    found = [m for m in imported if any(m == n or m.startswith(f"{n}.") for n in needless)]
    assert found == []
