"""Handshakes that a proxy answers in place of the API server."""

from __future__ import annotations

import socket
import socketserver
from pathlib import Path

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import Unreachable
from tests.support.apiserver import ApiServer, Exec
from tests.support.connection import connected
from tests.support.kubeconfig_cases import TOKEN, config
from tests.support.recording import serving

HTML = "<html>"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(api: Api, server: ApiServer, status: int) -> None:
    """The other server would get the user's credentials."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(5)
        other.setblocking(False)
        location = f"http://127.0.0.1:{other.getsockname()[1]}/"
        server.fail("GET", "/exec", status, HTML, headers={"Location": location})
        with pytest.raises(Unreachable, match=f"answered {status}"):
            api.exec("default", "coredns-1", "coredns", ["true"], 5)
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.parametrize("status", [407, 502, 503])
def test_an_error_that_may_pass_is_not_remembered(api: Api, server: ApiServer, status: int) -> None:
    server.run = lambda *_: Exec("up")
    server.fail("GET", "/portforward", status, HTML, times=1)
    pod = api.http("default", "coredns-1", 15000, 5.0)
    with pytest.raises(Unreachable, match=f"answered {status}"):
        pod.get("/ready")
    assert pod.get("/ready") == b"up"


def test_an_exec_is_sent_again_if_a_proxy_asks_for_it(api: Api, server: ApiServer) -> None:
    server.run = lambda *_: Exec("ran")
    server.fail("GET", "/exec", 502, HTML, times=1, headers={"Retry-After": "0"})
    assert api.exec("default", "coredns-1", "coredns", ["true"], 5).stdout == "ran"


@pytest.mark.parametrize(
    "answer",
    [
        b"\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 101 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 403 No\r\nContent-Length: abc\r\n\r\n",
        b"\xff\xfe\r\n\r\n",
        b"",
    ],
)
def test_a_response_that_is_not_http_is_reported(tmp_path: Path, answer: bytes) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)
            self.request.sendall(answer)

    with serving(Handler) as port:
        path = tmp_path / "config"
        path.write_text(str(config({"server": f"http://127.0.0.1:{port}"}, TOKEN)))
        with pytest.raises(Unreachable):
            connected(path).exec("default", "coredns-1", "coredns", ["true"], 5)
