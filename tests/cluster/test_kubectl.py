"""kubectl in the situations of tests/support/kubeconfig_cases.py.

The plugin must handle them alike. kubectl asks servers of this process, and needs no cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.kubeconfig_cases import CASES, EXPIRED, NAMESPACES, VALID, Case, oidc, secure
from tests.support.recording import Recorders, recorders
from tests.support.situations import expected, observed, place

# Give a command the service account of a pod, for which it looks in one place only.
_IN_POD = """
mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount &&
mount --bind pod /run/secrets/kubernetes.io/serviceaccount && exec "$@"
"""


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorders]:
    with recorders(tmp_path_factory.mktemp("certificates")) as made:
        yield made


def kubectl(
    case: Case, recorded: Recorders, folder: Path, *words: str
) -> subprocess.CompletedProcess[str]:
    recorded.forget()
    environment, flags = place(case, recorded, folder)
    command = ["kubectl", *words, *flags]
    if case.pod:
        command = ["unshare", "-rm", "sh", "-c", _IN_POD, "sh", *command]
    else:
        # With a --request-timeout, kubectl does not detect that it runs in a pod.
        command.append("--request-timeout=5s")
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kubectl_sends_the_expected_requests(
    case: Case, recorded: Recorders, tmp_path: Path
) -> None:
    done = kubectl(case, recorded, tmp_path, "version")
    seen = observed(recorded)
    if case.kubectl:
        # The plugin differs there; docs/connecting.md says so.
        assert seen.get("server", "elsewhere") == case.kubectl, done.stderr
    else:
        assert seen == expected(case), done.stderr
        assert (done.returncode == 0) == bool(case.server), done.stderr


@pytest.mark.parametrize(
    ("case", "namespace"), NAMESPACES, ids=[case.name for case, _ in NAMESPACES]
)
def test_kubectl_works_in_the_namespace_that_is_expected(
    case: Case, namespace: str, recorded: Recorders, tmp_path: Path
) -> None:
    done = kubectl(case, recorded, tmp_path, "auth", "can-i", "get", "pods")
    # Field 1 of ResourceAttributes, before the verb in field 2; JSON in other versions of kubectl.
    ways = f"\n{chr(len(namespace))}{namespace}\x12", f'"namespace":"{namespace}"'
    assert any(way in recorded.posted[0] for way in ways), done.stderr


def test_kubectl_renews_an_id_token_for_the_plugin(recorded: Recorders, tmp_path: Path) -> None:
    """An identity provider accepts a refresh token once; kubectl stores the next one."""
    provider = recorded.urls["tls"]
    found = {"issuer": provider, "token_endpoint": f"{provider}/token"}
    given = {"id_token": VALID, "refresh_token": "next", "token_type": "Bearer"}
    recorded.answers["/.well-known/openid-configuration"] = json.dumps(found).encode()
    recorded.answers["/token"] = json.dumps({**given, "access_token": "a"}).encode()
    user = oidc(
        **{
            "idp-issuer-url": provider,
            "idp-certificate-authority": "$FILE_ca.pem",
            "id-token": EXPIRED,
            "refresh-token": "first",
        }
    )
    recorded.forget()
    environment, _ = place(Case("", {"config": secure(user)}), recorded, tmp_path)
    try:
        done = subprocess.run(
            ["kubectl-istio_udp", "get", "-A"],
            env={**environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        recorded.answers.clear()
    assert done.returncode == 0, done.stderr
    assert "refresh_token=first" in recorded.posted[0]
    assert all(("authorization", f"Bearer {VALID}") in each.headers for each in recorded.seen)
    settings = yaml.safe_load((tmp_path / "config").read_text())["users"][0]["user"]
    assert settings["auth-provider"]["config"]["refresh-token"] == "next"
