"""What is printed where the cluster cannot be used: a row for each situation."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.apiserver import ApiServer, Exec
from tests.unit.conftest import Run

PASSWORD = "s3cret-pw"
LIST, QUERY = ("get", "-A"), ("direct", "query", "coredns")


def closed() -> str:
    """An address where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


def answers(status: int, body: str = "", path: str = ".") -> Callable[[ApiServer, Path], None]:
    def arrange(server: ApiServer, _: Path) -> None:
        server.fail("GET", path, status, body)

    return arrange


def leads_to(url: str, **cluster: str) -> Callable[[ApiServer, Path], None]:
    def arrange(server: ApiServer, kubeconfig: Path) -> None:
        text = kubeconfig.read_text(encoding="utf-8").replace(server.url, url)
        for key, value in cluster.items():
            name = key.replace("_", "-")
            text = text.replace('"server":', f'"{name}": "{value}", "server":')
        kubeconfig.write_text(text, encoding="utf-8")

    return arrange


HTML = "<html>Please log in</html>"
ROWS = [
    ("unknown credentials", LIST, answers(401), "does not know these credentials", "log in again"),
    ("no permission", LIST, answers(403), "no permission to list", "kubectl auth can-i list"),
    ("no such path", LIST, answers(404, HTML), "CRDs are not installed", "right cluster?"),
    ("a login page", LIST, answers(200, HTML), "is no Kubernetes API server", "a login page"),
    ("a redirect", LIST, answers(302, HTML), "refused to list", ""),
    ("too many requests", LIST, answers(429), "refused to list", ""),
    ("an internal error", LIST, answers(500), "told to answer 500", ""),
    ("a proxy's error", LIST, answers(502, HTML), "Please log in", ""),
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
        "cannot be reached: [Errno 111] Connection refused",
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
        lambda server, kubeconfig: leads_to(server.url.replace("http", "https"))(
            server, kubeconfig
        ),
        "cannot be reached",
        "",
    ),
    ("exec without permission", QUERY, answers(403, path="/exec"), "pods/exec", "can-i create"),
    (
        "a front without websockets",
        QUERY,
        answers(200, HTML, "/exec"),
        "does not let websockets through (it answered 200)",
        "expose --no-wait",
    ),
    (
        "a front that takes the upgrade away",
        QUERY,
        answers(400, '{"kind": "Status", "message": "Upgrade request required"}', "/exec"),
        "does not let websockets through (it answered 400)",
        "without exec work",
    ),
]


@pytest.mark.parametrize(
    ("words", "arrange", "message", "hint"),
    [row[1:] for row in ROWS],
    ids=[row[0] for row in ROWS],
)
def test_an_error_says_what_is_wrong_and_what_to_do(
    words: tuple[str, ...],
    arrange: Callable[[ApiServer, Path], None],
    message: str,
    hint: str,
    run: Run,
    server: ApiServer,
    kubeconfig: Path,
) -> None:
    server.run = lambda *_: Exec()
    arrange(server, kubeconfig)
    done = run(*words)
    said = done.out + done.err
    assert done.code in (1, 3), said
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
