"""What is printed where the cluster cannot be used: a row for each situation."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.apiserver import ApiServer, Exec
from tests.support.kubeconfig_cases import (
    BETA,
    CERT,
    EXPIRED,
    PROXIED,
    config,
    oidc,
    plugin,
    printing,
    secure,
)
from tests.support.recording import Recorders, answering
from tests.support.situations import filled
from tests.unit.conftest import Run

PASSWORD = "s3cret-pw"
LIST, QUERY = ("get", "-A"), ("direct", "query", "coredns")


def closed() -> str:
    """An address without a listener."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


Arrange = Callable[[ApiServer, Path, Recorders], None]


def answers(status: int, body: str = "", path: str = ".", **headers: str) -> Arrange:
    def arrange(server: ApiServer, _: Path, __: Recorders) -> None:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        server.fail("GET", path, status, body, headers=named)

    return arrange


def leads_to(url: str, **cluster: str) -> Arrange:
    def arrange(server: ApiServer, kubeconfig: Path, _: Recorders) -> None:
        text = kubeconfig.read_text(encoding="utf-8").replace(server.url, url)
        for key, value in cluster.items():
            name = key.replace("_", "-")
            text = text.replace('"server":', f'"{name}": "{value}", "server":')
        kubeconfig.write_text(text, encoding="utf-8")

    return arrange


def configured(content: Any, script: str = "") -> Arrange:
    """A kubeconfig, and the plugin in the same folder."""

    def arrange(_: ApiServer, kubeconfig: Path, recorded: Recorders) -> None:
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        kubeconfig.write_text(filled(text, recorded, kubeconfig.parent), encoding="utf-8")
        if script:
            plugin_file = kubeconfig.parent / "plugin"
            plugin_file.write_text(script, encoding="utf-8")
            plugin_file.chmod(0o755)

    return arrange


def behind_proxy(scheme: str, *replies: bytes) -> Arrange:
    """A server behind a proxy that answers like this."""

    def arrange(_: ApiServer, kubeconfig: Path, recorded: Recorders) -> None:
        port = recorded.stack.enter_context(answering(*replies))
        url = f"{scheme}://me:{PASSWORD}@127.0.0.1:{port}"
        configured(config({**PROXIED, "proxy-url": url}, SECRET))(_, kubeconfig, recorded)

    return arrange


SECRET = {"token": PASSWORD}
TOLD = printing(f'{{"token": "{PASSWORD}"}}')
HTML = "<html>Please log in</html>"
ROWS = [
    ("unknown credentials", LIST, answers(401), "rejected the credentials", "log in again"),
    ("no permission", LIST, answers(403), "no permission to list", "kubectl auth can-i list"),
    ("no such path", LIST, answers(404, HTML), "CRDs are not installed", "right cluster"),
    (
        "a login page",
        LIST,
        answers(200, HTML),
        "does not answer like a Kubernetes API server",
        "a login page",
    ),
    ("a redirect", LIST, answers(302, HTML), "rejected the request to list", ""),
    ("too many requests", LIST, answers(429), "rejected the request to list", ""),
    ("an internal error", LIST, answers(500), "told to answer 500", ""),
    ("a proxy's error", LIST, answers(502, HTML), "Please log in", ""),
    # How Python reads an argument in Latin-1.
    (
        "a user in Latin-1",
        (*LIST, "--as", "J\udcfcrgen"),
        lambda *_: None,
        "the header Impersonate-User cannot be sent",
        "kubectl config view --raw",
    ),
    ("a closed connection", LIST, answers(0), "cannot be reached", "kubectl version"),
    (
        "no answer",
        (*LIST, "--request-timeout", "100ms"),
        answers(-1),
        "did not answer within 0.1s",
        "--request-timeout",
    ),
    (
        "nobody listens",
        LIST,
        leads_to(f"http://{closed()}"),
        "cannot be reached: Connection refused",
        "--context or --kubeconfig",
    ),
    ("an unknown name", LIST, leads_to("http://api.invalid"), "http://api.invalid cannot", ""),
    (
        "a password in the URL",
        LIST,
        leads_to(f"http://me:{PASSWORD}@{closed()}"),
        "cannot be reached",
        "",
    ),
    (
        "a proxy that is not there",
        LIST,
        leads_to("https://api.invalid", proxy_url=f"http://me:{PASSWORD}@{closed()}"),
        "through the proxy http://127.0.0.1:",
        "",
    ),
    (
        "a proxy of another kind",
        LIST,
        leads_to("https://api.invalid", proxy_url=f"ftp://me:{PASSWORD}@proxy"),
        "the proxy 'proxy' (proxy-url) cannot be used",
        "",
    ),
    (
        "HTTP where TLS is expected",
        LIST,
        lambda server, *more: leads_to(server.url.replace("http", "https"))(server, *more),
        "cannot be reached",
        "",
    ),
    ("exec without permission", QUERY, answers(403, path="/exec"), "pods/exec", "can-i create"),
    (
        "a front without websockets",
        QUERY,
        answers(200, HTML, "/exec"),
        "blocks websockets (it answered 200)",
        "expose --no-wait",
    ),
    *(
        (
            f"a front that answers an exec with {status}",
            QUERY,
            answers(status, HTML, "/exec", Location="https://login.example"),
            f"in front of the API server answered {status} {phrase}",
            "a login page",
        )
        for status, phrase in [
            (302, "Found"),
            (407, "Proxy Authentication Required"),
            (500, "Internal Server Error"),
            (502, "Bad Gateway"),
            (503, "Service Unavailable"),
        ]
    ),
    (
        "a front that wants other credentials for an exec",
        QUERY,
        answers(401, HTML, "/exec"),
        "rejected the credentials",
        "log in again",
    ),
    (
        "a front that speaks no websockets",
        QUERY,
        answers(501, HTML, "/exec"),
        "blocks websockets (it answered 501)",
        "expose --no-wait",
    ),
    ("busy", LIST, answers(429, Retry_After="0"), "told to answer 429", ""),
    ("not available", LIST, answers(503, Retry_After="0"), "told to answer 503", ""),
    ("busy for long", LIST, answers(429, Retry_After="3600"), "told to answer 429", ""),
    (
        "no kubeconfig",
        (*LIST, "--kubeconfig", "none"),
        answers(200),
        "no such file",
        "--kubeconfig",
    ),
    ("no YAML", LIST, configured("a: [b"), "cannot be used: ", "kubectl config view"),
    ("no kubeconfig but another object", LIST, configured("kind: Secret"), "it is a Secret", ""),
    ("a missing context", (*LIST, "--context=x"), answers(200), "no context 'x'", "get-contexts"),
    ("a missing cluster", LIST, configured(config(clusters=[])), "no cluster 'k'", "context 'c'"),
    ("a missing user", LIST, configured(config(users=[])), "no user 'u'", "context 'c'"),
    ("no credentials", LIST, configured(secure({})), "no credentials for https://", "--token"),
    (
        "a missing certificate",
        LIST,
        configured(secure({"client-certificate": "none", "client-key": "none"})),
        "client-certificate",
        "none cannot be read: No such file",
    ),
    (
        "the key of another certificate",
        LIST,
        configured(secure({**CERT, "client-key": "$FILE_key2.pem"})),
        "belong to different keys",
        "config view --raw",
    ),
    (
        "a missing authority",
        LIST,
        configured(secure(SECRET, **{"certificate-authority": "none"})),
        "none cannot be read: No such file",
        "kubectl config view",
    ),
    (
        "an unknown authority",
        LIST,
        configured(secure(SECRET, **{"certificate-authority": "$FILE_old-ca.pem"})),
        "certificate is not trusted: ",
        "",
    ),
    (
        "another host's certificate",
        LIST,
        configured(secure(SECRET, server="$elsewhere")),
        "not valid for '127.0.0.1'",
        "",
    ),
    (
        "an expired certificate",
        LIST,
        configured(secure(SECRET, server="$expired")),
        "certificate has expired",
        "",
    ),
    (
        "a missing plugin",
        LIST,
        configured(secure(plugin(command="cloud-login", installHint="get it from X"))),
        "credential plugin cloud-login was not found",
        "get it from X",
    ),
    (
        "a plugin that fails",
        LIST,
        configured(secure(plugin(installHint="log in")), "#!/bin/sh\nexit 3\n"),
        "failed with exit code 3",
        "log in",
    ),
    (
        "a plugin that prints something else",
        LIST,
        configured(secure(plugin()), f"#!/bin/sh\necho {PASSWORD}\n"),
        "did not print an ExecCredential",
        "",
    ),
    (
        "a plugin that prints more",
        LIST,
        configured(secure(plugin()), TOLD + f"echo {PASSWORD}\n"),
        "did not print an ExecCredential",
        "",
    ),
    (
        "a plugin of another version",
        LIST,
        configured(secure(plugin()), printing(f'{{"token": "{PASSWORD}"}}', BETA)),
        "the kubeconfig has client.authentication.k8s.io/v1",
        "",
    ),
    (
        "a plugin that must ask, without a terminal",
        LIST,
        configured(secure(plugin(interactiveMode="Always")), TOLD),
        "standard input is not a terminal",
        "",
    ),
    (
        "a plugin of an old version",
        LIST,
        configured(secure(plugin("client.authentication.k8s.io/v1alpha1")), TOLD),
        "use client.authentication.k8s.io/v1 or",
        "",
    ),
    (
        "an auth provider that was removed",
        LIST,
        configured(secure({"auth-provider": {"name": "gcp"}})),
        "removed from kubectl in 1.26",
        "gke-gcloud-auth-plugin",
    ),
    (
        "an expired id-token",
        LIST,
        configured(secure(oidc(**{"id-token": EXPIRED, "client-secret": PASSWORD}))),
        "its id-token has expired",
        "log in again",
    ),
    (
        "a token with a line break",
        LIST,
        configured(secure({"token": f"{PASSWORD}\nx"})),
        "the header Authorization cannot be sent",
        "",
    ),
    (
        "a token and a password",
        LIST,
        configured(secure({**SECRET, "username": "me", "password": PASSWORD})),
        "both a token and a username",
        "",
    ),
    (
        "a proxy that wants a user",
        LIST,
        behind_proxy("http", b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
        "through the proxy http://127.0.0.1:",
        "407 Proxy Authentication Required",
    ),
    (
        "a proxy that refuses",
        LIST,
        behind_proxy("http", b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        "through the proxy http://127.0.0.1:",
        "403 Forbidden",
    ),
    (
        "a socks5 proxy that wants another user",
        LIST,
        behind_proxy("socks5", b"\x05\x02", b"\x01\x01"),
        "through the proxy socks5://127.0.0.1:",
        "SOCKS5 authentication failed",
    ),
    (
        "a socks5 proxy that cannot reach the server",
        LIST,
        behind_proxy("socks5", b"\x05\x00", b"\x05\x05\x00\x01\0\0\0\0\0\0"),
        "through the proxy socks5://127.0.0.1:",
        "Connection refused",
    ),
    (
        "a front that takes the upgrade away",
        QUERY,
        answers(400, '{"kind": "Status", "message": "Upgrade request required"}', "/exec"),
        "blocks websockets (it answered 400)",
        "commands work without websockets",
    ),
]


@pytest.mark.parametrize(
    ("words", "arrange", "message", "hint"),
    [row[1:] for row in ROWS],
    ids=[row[0] for row in ROWS],
)
def test_an_error_says_what_is_wrong_and_what_to_do(
    words: tuple[str, ...],
    arrange: Arrange,
    message: str,
    hint: str,
    run: Run,
    server: ApiServer,
    kubeconfig: Path,
    recorded: Recorders,
) -> None:
    server.run = lambda *_: Exec()
    with ExitStack() as recorded.stack:
        arrange(server, kubeconfig, recorded)
        done = run(*words)
    said = done.out + done.err
    assert done.code == 3, said
    assert "error: " in [line[:7] for line in said.splitlines()], said
    assert message in said
    assert hint in said
    assert "Traceback" not in said
    assert "unexpected" not in said
    assert PASSWORD not in said


def test_a_read_is_repeated_after_a_broken_connection(run: Run, server: ApiServer) -> None:
    server.fail("GET", "/envoyfilters", 0, times=2)
    assert run("get", "-A").code == 0
    server.fail("GET", "/envoyfilters", 0, times=1)
    assert "trying again" in run("get", "-A", "-v").err


def test_a_write_is_not_repeated_after_a_broken_connection(run: Run, server: ApiServer) -> None:
    server.fail("PATCH", "/envoyfilters/udp-default-coredns", 0, times=1)
    before = len(server.requests)
    assert run("expose", "coredns", "-p", "5300:53", "--no-wait").code == 3
    patches = [
        r
        for r in server.requests[before:]
        if r.method == "PATCH" and "/envoyfilters/" in r.path and "dryRun" not in r.query
    ]
    assert len(patches) == 1
