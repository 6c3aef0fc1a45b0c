"""Handshakes that a proxy answers in place of the API server."""

from __future__ import annotations

import socket

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import Unreachable
from tests.support.apiserver import ApiServer, Exec

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
