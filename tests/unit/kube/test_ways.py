"""Requests and exec take the same way to the API server: TLS, proxies, who asks."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.kube import tls
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.http_proxy import proxy_for
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.errors import Unreachable
from tests.support.apiserver import ApiServer, Exec
from tests.support.connection import connected
from tests.support.kubeconfig_cases import CERT, NAMED, PROXIED, TLS, TOKEN, config
from tests.support.recording import Recorders, answering, front
from tests.support.situations import filled

Connect = Callable[..., Api]
HTTP, SOCKS = "127.0.0.1:$PORT_proxy", "127.0.0.1:$PORT_socks"
INSECURE = {"server": "https://api.example:6443", "insecure-skip-tls-verify": True}


@pytest.fixture
def fronted(server: ApiServer, recorded: Recorders) -> Iterator[int]:
    """The API server behind TLS, with the certificate of the recorder `tls`."""
    recorded.forget()
    server.run = lambda *_: Exec("ran")
    with front(recorded, int(server.url.rpartition(":")[2])) as port:
        yield port


@pytest.fixture
def connect(
    fronted: int, recorded: Recorders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Connect:
    """Connect by a cluster and a user of a kubeconfig, in an environment."""

    def made(cluster: Any, user: Any = TOKEN, environment: Any = None, **options: Any) -> Api:
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, filled(value, recorded, tmp_path))
        path = tmp_path / "config"
        text = yaml.safe_dump(config({"server": f"https://127.0.0.1:{fronted}", **cluster}, user))
        path.write_text(filled(text, recorded, tmp_path), encoding="utf-8")
        return connected(path, **options)

    return made


def test_connections_do_not_change_each_others_tls_settings(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL frees what another thread may be reading then."""
    times = []
    really = ssl.SSLContext.set_alpn_protocols

    def counted(context: ssl.SSLContext, protocols: Iterable[str]) -> None:
        times.append(protocols)
        really(context, protocols)

    monkeypatch.setattr(ssl.SSLContext, "set_alpn_protocols", counted)
    api = connect({"certificate-authority": "$FILE_ca.pem"})
    calls = [lambda: api.exec("default", "coredns-1", "c", ["x"], 5), lambda: api.list("Pod")]
    in_parallel(calls * 2)
    assert len(times) == 1


WAYS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, str], str]] = [
    # what is special, the cluster, the user, the environment, what the proxy is asked for
    ("an authority", {"certificate-authority": "$FILE_ca.pem"}, TOKEN, {}, ""),
    ("the system's authorities", {}, TOKEN, {"SSL_CERT_FILE": "$FILE_ca.pem"}, ""),
    ("a client certificate", {"certificate-authority": "$FILE_ca.pem"}, CERT, {}, ""),
    ("insecure", {"insecure-skip-tls-verify": True}, TOKEN, {}, ""),
    (
        "tls-server-name",
        {"certificate-authority": "$FILE_ca.pem", "tls-server-name": "api.example"},
        TOKEN,
        {},
        "",
    ),
    ("http", {**PROXIED, "proxy-url": f"http://{HTTP}"}, TOKEN, {}, "CONNECT api.example as "),
    (
        "http with a password",
        {**PROXIED, "proxy-url": f"http://me:p%40ss@{HTTP}"},
        TOKEN,
        {},
        "CONNECT api.example as me:p@ss",
    ),
    (
        "https with a password",
        {**PROXIED, "proxy-url": "https://me:pw@localhost:$PORT_tlsproxy"},
        CERT,
        {},
        "CONNECT api.example as me:pw",
    ),
    (
        "https, insecure",
        {**INSECURE, "proxy-url": "https://localhost:$PORT_tlsproxy"},
        TOKEN,
        {},
        "CONNECT api.example as ",
    ),
    ("socks5", {**PROXIED, "proxy-url": f"socks5://{SOCKS}"}, TOKEN, {}, "SOCKS api.example as "),
    (
        "socks5 with a password",
        {**PROXIED, "proxy-url": f"socks5://me:pw@{SOCKS}"},
        CERT,
        {},
        "SOCKS api.example as me:pw",
    ),
    (
        "an IPv6 address",
        {**NAMED, "server": "https://[fd00::1]:6443", "proxy-url": f"http://{HTTP}"},
        TOKEN,
        {},
        "CONNECT [fd00::1] as ",
    ),
    (
        "a server without a port",
        {**PROXIED, "server": "https://api.example", "proxy-url": f"http://{HTTP}"},
        TOKEN,
        {},
        "CONNECT api.example as ",
    ),
    ("HTTPS_PROXY", PROXIED, TOKEN, {"HTTPS_PROXY": HTTP}, "CONNECT api.example as "),
    (
        "HTTPS_PROXY with socks5 and a password",
        PROXIED,
        TOKEN,
        {"https_proxy": f"socks5://me:pw@{SOCKS}"},
        "SOCKS api.example as me:pw",
    ),
    (
        "a loopback address",
        {"certificate-authority": "$FILE_ca.pem"},
        TOKEN,
        {"HTTPS_PROXY": HTTP},
        "",
    ),
]


@pytest.mark.parametrize(
    ("cluster", "user", "environment", "proxied"), [w[1:] for w in WAYS], ids=[w[0] for w in WAYS]
)
def test_exec_connects_as_requests_do(
    connect: Connect,
    server: ApiServer,
    recorded: Recorders,
    cluster: dict[str, Any],
    user: dict[str, Any],
    environment: dict[str, str],
    proxied: str,
) -> None:
    api = connect(cluster, user, environment)
    assert api.exec("default", "coredns-1", "coredns", ["true"], 60).stdout == "ran"
    assert [pod["metadata"]["name"] for pod in api.list("Pod", "default", "app=coredns")]
    assert recorded.proxied == ([proxied] * 2 if proxied else [])
    assert recorded.shown == (["client"] * 2 if user is CERT else [""] * 2)
    for request in server.requests:
        assert request.headers.get("authorization") == (["Bearer t"] if user is TOKEN else None)


@pytest.mark.parametrize(
    ("cluster", "environment", "message"),
    [
        ({"certificate-authority": "$FILE_old-ca.pem"}, {}, "certificate is not trusted"),
        ({}, {}, "certificate is not trusted"),
        ({**TLS, "server": "$elsewhere"}, {}, "not valid for '127.0.0.1'"),
        ({**TLS, "server": "$expired"}, {}, "certificate has expired"),
        ({**PROXIED, "server": "https://api.invalid"},
         {"HTTPS_PROXY": HTTP, "NO_PROXY": ".invalid"}, r"api\.invalid cannot be reached: "),
        ({**PROXIED, "proxy-url": "http://127.0.0.1:1"}, {}, "through the proxy http://127.0.0.1:1"),
        ({**PROXIED, "proxy-url": "socks5://127.0.0.1:1"}, {}, "through the proxy socks5://127.0"),
    ],
)  # fmt: skip
def test_exec_verifies_certificates_as_requests_do(
    connect: Connect, cluster: dict[str, Any], environment: dict[str, str], message: str
) -> None:
    api = connect(cluster, TOKEN, environment)
    with pytest.raises(Unreachable, match=message):
        api.exec("default", "coredns-1", "coredns", ["true"], 60)
    with pytest.raises(Unreachable, match=message):
        api.list("Pod")


def test_an_empty_ssl_cert_file_is_like_none(
    connect: Connect, recorded: Recorders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python with other paths than the system's needs the list of them then."""
    monkeypatch.setattr(tls, "_SYSTEM_FILES", ("/nowhere", str(recorded.files["ca.pem"])))
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    api = connect({}, TOKEN, {"SSL_CERT_FILE": ""})
    assert api.list("Pod", "default", "app=coredns")


@pytest.mark.parametrize(
    ("scheme", "answers", "why"),
    [
        ("http", (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",), "407 Proxy"),
        ("http", (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",), "403 Forbidden"),
        ("http", (b"",), ""),
        ("socks5", (b"\x05\xff",), "authentication methods were rejected"),
        ("socks5", (b"\x05\x00", b"\x05\x05\x00\x01\0\0\0\0\0\0"), "0x05: Connection refused"),
        ("socks5", (b"HTTP/1.1 400 Bad Request\r\n\r\n",), "invalid data"),
    ],
)
def test_a_rejection_by_a_proxy_is_reported_without_its_password(
    connect: Connect, scheme: str, answers: tuple[bytes, ...], why: str
) -> None:
    with answering(*answers) as port:
        url = f"{scheme}://me:s3cret-pw@127.0.0.1:{port}"
        api = connect({**PROXIED, "proxy-url": url})
        for query in (
            lambda: api.exec("default", "coredns-1", "coredns", ["true"], 60),
            lambda: api.list("Pod"),
        ):
            with pytest.raises(Unreachable) as caught:
                query()
            said = caught.value.format()
            assert f"through the proxy {scheme}://127.0.0.1:{port}: " in said
            assert why in said
            assert "s3cret" not in said


def test_a_missing_package_for_socks_is_named(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "urllib3.contrib.socks", None)
    api = connect({**PROXIED, "proxy-url": f"socks5://me:s3cret@{SOCKS}"})
    with pytest.raises(Unreachable, match="is not installed: PySocks") as caught:
        api.list("Pod")
    assert caught.value.hints == ("install it: pip install 'kubectl-istio-udp[socks]'",)
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "port"), [("http://p", 80), ("https://p", 443), ("socks5://me:pw@p", 1080)]
)
def test_a_proxy_without_a_port(url: str, port: int) -> None:
    found = proxy_for("https://api.example", url, {})
    assert found is not None and found.port == port
    assert proxy_for("https://api.example", "", {"HTTPS_PROXY": url}) == found
