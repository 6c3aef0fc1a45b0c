"""Credentials that change while a process runs: tokens in files, and what plugins print."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.kube import kubeconfig
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.credentials import ClientCertificate, TokenFile
from kubectl_istio_udp.kube.kubeconfig import Certificate, ConnectionOptions, User
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.errors import Forbidden, Unreachable
from tests.support.apiserver import ApiServer, Exec
from tests.support.connection import connected
from tests.support.kubeconfig_cases import (
    CERT,
    EXPIRED,
    TLS,
    TOKEN,
    V1,
    VALID,
    config,
    oidc,
    plugin,
)
from tests.support.recording import Recorders, front
from tests.support.situations import filled

# Prints the file `answer` next to it, and records that it ran.
SCRIPT = '#!/bin/sh\ncd "$(dirname "$0")"\necho ran >>runs\ncat answer\n'


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fronted(server: ApiServer, recorded: Recorders) -> Iterator[str]:
    """The API server behind TLS, for credentials go nowhere else."""
    recorded.forget()
    with front(recorded, int(server.url.rpartition(":")[2])) as port:
        yield f"https://127.0.0.1:{port}"


@pytest.fixture
def connect(fronted: str, recorded: Recorders, tmp_path: Path) -> Callable[..., Api]:
    """Connect as a user."""

    def made(user: Any, **cluster: Any) -> Api:
        path = tmp_path / "config"
        text = yaml.safe_dump(config({**TLS, "server": fronted, **cluster}, user))
        path.write_text(filled(text, recorded, tmp_path), encoding="utf-8")
        return connected(path)

    return made


@pytest.fixture
def plugged(connect: Callable[..., Api], tmp_path: Path) -> Callable[..., Api]:
    """Connect by a plugin, which prints what `answer` was given last."""
    script = tmp_path / "plugin"
    script.write_text(SCRIPT, encoding="utf-8")
    script.chmod(0o755)
    return lambda **more: connect(plugin(**more))


def answer(folder: Path, **status: str) -> None:
    found = {"kind": "ExecCredential", "apiVersion": V1, "status": status}
    (folder / "answer").write_text(json.dumps(found), encoding="utf-8")


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text(encoding="utf-8").splitlines())


def tokens(server: ApiServer) -> list[str]:
    return [request.headers["authorization"][0] for request in server.requests]


# -- a token in a file --------------------------------------------------------------------------


def test_a_token_file_is_read_again_after_a_minute(tmp_path: Path) -> None:
    path, clock = tmp_path / "token", Clock()
    path.write_text("one\n")
    found = TokenFile(path, "", clock=clock)
    assert found.current().authorization == "Bearer one"
    path.write_text("two\n")
    clock.now += 59
    assert found.current().authorization == "Bearer one"
    clock.now += 1
    assert found.current().authorization == "Bearer two"
    path.unlink()
    clock.now += 61
    assert found.current().authorization == "Bearer two"
    path.write_text("three")
    assert found.current().authorization == "Bearer three"


def test_a_token_file_is_read_again_after_a_401(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    found = TokenFile(path, "", clock=Clock())
    assert found.current().authorization == "Bearer one"
    path.write_text("two")
    found.rejected(found.current())
    assert found.current().authorization == "Bearer two"


def test_no_request_goes_out_without_a_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"\n")
    found = TokenFile(path, "")
    for _ in range(2):
        with pytest.raises(Unreachable, match="token is empty"):
            found.current()
    assert TokenFile(path, "", lambda: Certificate(b"c", b"k")).current().authorization == ""
    assert TokenFile(path, "fallback").current().authorization == "Bearer fallback"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(Unreachable, match="token is not text"):
        TokenFile(path, "").current()


def test_a_plugin_that_fails_runs_once_for_a_commands_requests(
    plugged: Callable[..., Api], tmp_path: Path
) -> None:
    api = plugged()
    # The plugin reads the file `answer`, which does not exist.
    with pytest.raises(Unreachable, match="failed with exit code"):
        in_parallel([partial(api.list, "Pod", "default")] * 20)
    assert runs(tmp_path) == 1


def test_a_pods_token_is_renewed(
    fronted: str,
    server: ApiServer,
    recorded: Recorders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kubelet replaces it while the controller runs."""
    monkeypatch.setattr(kubeconfig, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", fronted.rpartition(":")[2])
    (tmp_path / "ca.crt").write_bytes(recorded.files["ca.pem"].read_bytes())
    (tmp_path / "token").write_text("one")
    server.run = lambda *_: Exec("ran")
    api = Api.connect(ConnectionOptions())
    api.list("Pod")
    (tmp_path / "token").write_text("two")
    server.fail("GET", "/pods", 401, times=1)
    with pytest.raises(Forbidden):
        api.list("Pod")
    api.list("Pod")
    assert api.exec("default", "coredns-1", "coredns", ["true"], 5).stdout == "ran"
    assert tokens(server) == ["Bearer one", "Bearer one", "Bearer two", "Bearer two"]


def test_a_client_certificate_in_files_is_read_again(
    connect: Callable[..., Api], server: ApiServer, recorded: Recorders, tmp_path: Path
) -> None:
    """Another process renews it; while a file is missing or empty, the last one is used."""
    files = {name: tmp_path / name for name in ("cert", "key")}

    def renew(number: str) -> None:
        for name, path in files.items():
            path.write_bytes(recorded.files[f"{name}{number}.pem"].read_bytes())

    renew("")
    api = connect({"client-certificate": "cert", "client-key": "key"})
    server.run = lambda *_: Exec("ran")
    api.list("Pod")
    renew("2")
    api.list("Pod")
    files["key"].unlink()
    api.exec("default", "coredns-1", "coredns", ["true"], 5)
    renew("")
    files["cert"].write_bytes(b"")
    api.exec("default", "coredns-1", "coredns", ["true"], 5)
    assert recorded.shown == ["client", "other client", "other client", "other client"]


def test_a_certificate_that_does_not_fit_its_key_is_reported_until_it_does(
    connect: Callable[..., Api], recorded: Recorders, tmp_path: Path
) -> None:
    """A process that renews them writes one after the other."""
    files = {name: tmp_path / name for name in ("cert", "key")}
    for name, path in files.items():
        path.write_bytes(recorded.files[f"{name}.pem"].read_bytes())
    api = connect({"client-certificate": "cert", "client-key": "key"})
    api.list("Pod")
    files["cert"].write_bytes(recorded.files["cert2.pem"].read_bytes())
    with pytest.raises(Unreachable, match="they belong to different keys"):
        api.list("Pod")
    files["key"].write_bytes(recorded.files["key2.pem"].read_bytes())
    api.list("Pod")


def test_a_file_that_vanishes_is_reported(
    connect: Callable[..., Api], recorded: Recorders, tmp_path: Path
) -> None:
    """After the kubeconfig was read, and before the first request."""
    authority = tmp_path / "authority"
    authority.write_bytes(recorded.files["ca.pem"].read_bytes())
    api = connect(TOKEN, **{"certificate-authority": "authority"})
    authority.unlink()
    with pytest.raises(Unreachable, match=r"certificate-authority .*authority cannot be read: No"):
        api.list("Pod")
    with pytest.raises(Unreachable, match="client-key /nowhere cannot be read: No"):
        ClientCertificate(User(client_certificate_data=b"c", client_key="/nowhere"))


def test_a_client_certificate_needs_a_temporary_folder(
    connect: Callable[..., Api], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(Unreachable, match="needs a temporary file: No such file") as caught:
        connect(CERT).list("Pod")
    assert caught.value.hints == ("set TMPDIR to a folder where files can be written",)


# -- plugins ------------------------------------------------------------------------------------


def test_a_plugin_runs_once_for_many_requests(
    plugged: Callable[..., Api], server: ApiServer, tmp_path: Path
) -> None:
    answer(tmp_path, token="one", expirationTimestamp="2100-01-01T00:00:00Z")
    api = plugged()
    for _ in range(3):
        api.list("Pod")
    api.exec("default", "coredns-1", "coredns", ["true"], 5)
    assert runs(tmp_path) == 1
    assert tokens(server) == ["Bearer one"] * 4


def test_a_plugin_runs_once_for_a_request(
    plugged: Callable[..., Api], server: ApiServer, tmp_path: Path
) -> None:
    """Also if what it prints has expired already."""
    answer(tmp_path, token="one", expirationTimestamp="2000-01-01T00:00:00Z")
    api = plugged()
    server.run = lambda *_: Exec("ran")
    for number in (1, 2):
        api.list("Pod")
        assert runs(tmp_path) == number
    api.exec("default", "coredns-1", "coredns", ["true"], 5)
    assert runs(tmp_path) == 3


def test_a_plugin_runs_once_after_the_401s_of_parallel_requests(
    plugged: Callable[..., Api], server: ApiServer, tmp_path: Path
) -> None:
    """Each was sent with the same credentials. Some are answered after the plugin has run again."""
    answer(tmp_path, token="one")
    api = plugged()
    source = api._transport
    before = source.credentials()
    answer(tmp_path, token="two")
    source.rejected(before)
    after = source.credentials()
    source.rejected(before)
    assert source.credentials() is after
    assert (after.authorization, runs(tmp_path)) == ("Bearer two", 2)


def test_a_plugin_runs_again_when_its_credentials_expire(
    plugged: Callable[..., Api], server: ApiServer, tmp_path: Path
) -> None:
    answer(tmp_path, token="one", expirationTimestamp="2000-01-01T00:00:00Z")
    api = plugged()
    api.list("Pod")
    answer(tmp_path, token="two", expirationTimestamp="2100-01-01T00:00:00Z")
    api.list("Pod")
    before = runs(tmp_path)
    api.list("Pod")
    assert tokens(server) == ["Bearer one", "Bearer two", "Bearer two"]
    assert runs(tmp_path) == before


@pytest.mark.parametrize("exec_first", [False, True])
def test_a_plugin_runs_again_after_a_401(
    plugged: Callable[..., Api], server: ApiServer, tmp_path: Path, exec_first: bool
) -> None:
    """What it printed may have been withdrawn before it expires."""
    answer(tmp_path, token="one", expirationTimestamp="2100-01-01T00:00:00Z")
    api = plugged()
    api.list("Pod")
    answer(tmp_path, token="two")
    server.fail("GET", "/", 401, times=1)
    with pytest.raises(Forbidden, match="rejected the credentials"):
        if exec_first:
            api.exec("default", "coredns-1", "coredns", ["true"], 5)
        else:
            api.list("Pod")
    api.list("Pod")
    assert tokens(server) == ["Bearer one", "Bearer one", "Bearer two"]
    assert runs(tmp_path) == 2


def test_a_new_certificate_of_a_plugin_is_used(
    plugged: Callable[..., Api], recorded: Recorders, tmp_path: Path
) -> None:
    def pair(number: str) -> dict[str, str]:
        names = {"clientCertificateData": "cert", "clientKeyData": "key"}
        return {
            key: recorded.files[f"{name}{number}.pem"].read_text() for key, name in names.items()
        }

    answer(tmp_path, **pair(""), expirationTimestamp="2000-01-01T00:00:00Z")
    api = plugged()
    api.list("Pod")
    answer(tmp_path, **pair("2"))
    api.list("Pod")
    api.exec("default", "coredns-1", "coredns", ["true"], 5)
    assert recorded.shown == ["client", "other client", "other client"]


COMMAND = [sys.executable, "-c", "from kubectl_istio_udp.cli.main import main; main()"]


def test_a_plugins_prompts_are_seen_when_stdout_is_a_pipe(
    plugged: Callable[..., Api], server: ApiServer, tmp_path: Path
) -> None:
    answer(tmp_path, token="one")
    script = tmp_path / "plugin"
    script.write_text(SCRIPT.replace("cat", "echo 'open https://login.example' >&2\ncat"))
    plugged()
    done = subprocess.run(
        [*COMMAND, "get", "-A", "-o", "json", "--kubeconfig", str(tmp_path / "config")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("open https://login.example\n")
    assert "login.example" not in done.stdout
    assert set(tokens(server)) == {"Bearer one"}


def test_a_plugin_may_prompt_at_a_terminal(
    plugged: Callable[..., Api], server: ApiServer, tmp_path: Path
) -> None:
    script = tmp_path / "plugin"
    script.write_text(
        "#!/bin/sh\nprintf 'code: ' >&2\nread code\ncat <<E\n"
        f'{{"kind": "ExecCredential", "apiVersion": "{V1}", "status": {{"token": "$code"}}}}\nE\n'
    )
    plugged(interactiveMode="Always")
    keyboard, terminal = pty.openpty()
    try:
        os.write(keyboard, b"1234\n")
        done = subprocess.run(
            [*COMMAND, "get", "-A", "--kubeconfig", str(tmp_path / "config")],
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("code: ")
    assert set(tokens(server)) == {"Bearer 1234"}


# -- the auth provider oidc ---------------------------------------------------------------------


@pytest.mark.parametrize("renewed", [True, False])
def test_kubectl_renews_an_id_token(
    fronted: str,
    server: ApiServer,
    recorded: Recorders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    renewed: bool,
) -> None:
    path = tmp_path / "config"
    user = oidc(**{"id-token": EXPIRED, "refresh-token": "s3cret"})
    text = yaml.safe_dump(config({**TLS, "server": fronted}, user))
    path.write_text(filled(text, recorded, tmp_path), encoding="utf-8")
    change = f"sed -i s/{EXPIRED}/{VALID}/ {path}" if renewed else "exit 1"
    (tmp_path / "kubectl").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/words\n{change}\n')
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = ConnectionOptions(str(path), context="c", insecure_skip_tls_verify=True)
    if renewed:
        Api.connect(options).list("Pod")
        assert tokens(server) == [f"Bearer {VALID}"]
    else:
        with pytest.raises(Unreachable, match="id-token has expired") as caught:
            Api.connect(options)
        assert "s3cret" not in caught.value.format()
    assert (tmp_path / "words").read_text().split() == [
        "get", "--raw", "/version", f"--kubeconfig={path}", "--context=c",
        "--insecure-skip-tls-verify",
    ]  # fmt: skip
