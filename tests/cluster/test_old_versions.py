"""A real API server with an Istio so old that it only serves the first versions of its API."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import eventually, get, run

from tests.support import builders

KINDS = ("serviceentries", "virtualservices", "gateways", "envoyfilters", "workloadentries")
GROUP = "networking.istio.io"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True)
class Old:
    """An API server beside the cluster's own; nothing runs in it.

    Attributes:
        kubeconfig: how to reach it.
        version: the version of Istio's API that it serves.
    """

    kubeconfig: Path
    version: str

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        done = run("kubectl", "--kubeconfig", str(self.kubeconfig), *words, stdin=stdin)
        assert done.code == 0, done.both
        return done.out

    def plugin(self, *words: str) -> str:
        done = run("kubectl", "istio-udp", *words, "--kubeconfig", str(self.kubeconfig))
        assert done.code == 0, done.both
        assert "Traceback" not in done.both
        return done.both

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Apply manifests, status included."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))
        for manifest in manifests:
            if "status" in manifest:
                metadata = manifest["metadata"]
                patch = json.dumps({"status": manifest["status"]})
                self.kubectl(
                    "patch", manifest["kind"], "-n", metadata["namespace"], metadata["name"],
                    "--subresource=status", "--type=merge", "-p", patch,
                )  # fmt: skip

    def versions(self, kind: str) -> set[str]:
        found = json.loads(self.kubectl("get", f"{kind}.{GROUP}", "-A", "-o", "json"))["items"]
        return {each["apiVersion"] for each in found}


def served_only(crd: dict[str, Any], version: str) -> dict[str, Any]:
    """A CRD reduced to one version, or to its oldest if it lacks that one."""
    versions = crd["spec"]["versions"]
    kept = [each for each in versions if each["name"] == version] or versions[-1:]
    return {
        "apiVersion": crd["apiVersion"],
        "kind": crd["kind"],
        "metadata": {"name": crd["metadata"]["name"]},
        "spec": {**crd["spec"], "versions": [{**kept[0], "served": True, "storage": True}]},
    }


@pytest.fixture(params=["v1alpha3", "v1beta1"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Old]:
    own = Path(os.environ["KUBECONFIG"])
    server, pki = own.parents[1] / "bin" / "kube-apiserver", own.parent / "pki"
    if not server.exists():
        pytest.skip("this cluster's API server is not on this machine")
    etcd = shutil.which("etcd")
    assert etcd, "the cluster's own etcd is on PATH"
    store, peers, port = (free_port() for _ in range(3))
    at = f"http://127.0.0.1:{store}"
    keys = ("ca.crt", "apiserver.crt", "apiserver.key", "sa.pub", "sa.key")
    ca, cert, key, public, private = (str(pki / name) for name in keys)
    commands = [
        [
            etcd, "--data-dir", str(tmp_path / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", at, "--advertise-client-urls", at,
            "--listen-peer-urls", f"http://127.0.0.1:{peers}",
        ],
        [
            str(server), "--etcd-servers", at, "--bind-address", "127.0.0.1",
            "--advertise-address", "10.200.0.2", "--secure-port", str(port),
            "--client-ca-file", ca, "--tls-cert-file", cert, "--tls-private-key-file", key,
            "--service-account-key-file", public, "--service-account-signing-key-file", private,
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "RBAC",
            # No controller creates service accounts here, and no pod runs.
            "--disable-admission-plugins", "ServiceAccount",
        ],
    ]  # fmt: skip
    config = yaml.safe_load(own.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    made = Old(kubeconfig, request.param)
    with (tmp_path / "log").open("w") as log:
        running = [subprocess.Popen(words, stdout=log, stderr=log) for words in commands]
    try:
        ready = ("kubectl", "--kubeconfig", str(kubeconfig), "get", "--raw", "/readyz")
        eventually("the API server is ready", lambda: run(*ready).code == 0, 60)
        crds = [served_only(get("crd", f"{kind}.{GROUP}"), made.version) for kind in KINDS]
        made.apply(*crds)
        made.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield made
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def test_everything_is_written_read_and_deleted(old: Old) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": "rootNamespace: istio-system\n"},
    }
    http = {
        "apiVersion": f"{GROUP}/{old.version}",
        "kind": "Gateway",
        "metadata": {"name": "shop", "namespace": "istio-system"},
        "spec": {
            "selector": {"istio": "ingressgateway"},
            "servers": [
                {"hosts": ["*"], "port": {"name": "http", "number": 80, "protocol": "HTTP"}}
            ],
        },
    }
    old.apply(builders.namespace("istio-system"))
    old.apply(*builders.cluster(), config, http)
    made = old.plugin("expose", "coredns", "-p", "5300:53", "--no-wait")
    assert "serverside-applied" in made
    assert old.versions("serviceentries") == {f"{GROUP}/{old.version}"}
    again = old.plugin("expose", "coredns", "-p", "5300:53", "--no-wait")
    assert "unchanged" in again and "serverside-applied" not in again
    assert "coredns" in old.plugin("get", "-A")
    assert "NoAddress" in old.plugin("describe", "coredns")
    words = ("direct", "response", "/hello", "--body", "x", "--host", "a.example", "--no-wait")
    assert "serverside-applied" in old.plugin(*words)
    assert old.versions("virtualservices") == {f"{GROUP}/{old.version}"}
    assert "unchanged" in old.plugin(*words)
    old.plugin("delete", "--all", "--no-wait")
    for kind in ("serviceentries", "virtualservices", "envoyfilters"):
        assert old.versions(kind) == set()
