"""The timeout of a request is for all of it, and every address of a server is tried."""

from __future__ import annotations

import contextlib
import errno
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import ProtocolError

from kubectl_istio_udp.kube import connections
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.connections import connect, within
from kubectl_istio_udp.model.errors import Unreachable
from tests.support.apiserver import ApiServer
from tests.support.connection import connected
from tests.support.kubeconfig_cases import PROXIED, TOKEN, config
from tests.support.recording import serving
from tests.unit.kube.test_client import MAP

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
# A server that is slow for this long must not delay a request with a short timeout.
SLOW_SECONDS = 5.0


@contextlib.contextmanager
def slow(begin: bytes) -> Iterator[int]:
    """A server that sends these bytes, and then another one every 50 ms."""
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.sendall(begin)
                for _ in range(int(SLOW_SECONDS / 0.05)):
                    if ended.wait(0.05):
                        return
                    self.request.sendall(b"x")

    with serving(Handler) as port:
        try:
            yield port
        finally:
            ended.set()


def client(folder: Path, cluster: dict[str, Any], **options: Any) -> Api:
    path = folder / "config"
    path.write_text(str(config(cluster, TOKEN)), encoding="utf-8")
    return connected(path, **options)


ASK: dict[str, Callable[[Api], object]] = {
    "get": lambda api: api.get("ConfigMap", "default", "c"),
    "list page": lambda api: api.list_page("ConfigMap", "default", limit=5),
    "watch": lambda api: api.watch("ConfigMap", "default", "1", seconds=60, silence=60),
    "apply": lambda api: api.apply(MAP, before=None, manager="m"),
    "exec": lambda api: api.exec("default", "pod", "c", ["true"], 0.3),
}
BEGUN = {
    "status line": b"HTTP/1.1 20",
    "headers": HEAD + b"X: ",
    "body": HEAD + b"Content-Length: 100000\r\n\r\n",
}


@pytest.mark.parametrize(
    ("begin", "ask"),
    [
        *((begin, ask) for begin in ("status line", "headers") for ask in ASK),
        *(("body", ask) for ask in ("get", "list page", "apply")),
    ],
)
def test_the_timeout_is_for_the_whole_response(tmp_path: Path, begin: str, ask: str) -> None:
    """A byte every 50 ms, so that no single step exceeds it."""
    with slow(BEGUN[begin]) as port:
        api = client(tmp_path, {"server": f"http://127.0.0.1:{port}"}, request_timeout=0.3)
        begun = time.monotonic()
        with pytest.raises(Unreachable, match=r"did not answer within 0\.3s"):
            ASK[ask](api)
        assert time.monotonic() - begun < SLOW_SECONDS / 2


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 20"])
def test_the_timeout_includes_the_proxy(tmp_path: Path, begin: bytes) -> None:
    cluster = {"server": PROXIED["server"], "insecure-skip-tls-verify": True}
    with slow(begin) as port:
        api = client(
            tmp_path, {**cluster, "proxy-url": f"http://127.0.0.1:{port}"}, request_timeout=0.3
        )
        begun = time.monotonic()
        with pytest.raises(Unreachable, match=r"within 0\.3s through the proxy"):
            api.list("Pod")
        assert time.monotonic() - begun < SLOW_SECONDS / 2


EVENT = b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "5"}}}\n'


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
def test_a_watch_may_be_silent_for_longer_than_the_timeout(tmp_path: Path, more: bytes) -> None:
    """Also if a proxy closes the connection after each response."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)
            self.request.sendall(HEAD + more + b"Transfer-Encoding: chunked\r\n\r\n")
            time.sleep(0.6)
            self.request.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENT), EVENT))

    with serving(Handler) as port:
        api = client(tmp_path, {"server": f"http://127.0.0.1:{port}"}, request_timeout=0.3)
        watch = api.watch("ConfigMap", "default", "1", seconds=60, silence=30)
        assert [event for event, _ in watch] == ["BOOKMARK"]


def test_a_timeout_of_the_kernel_is_not_reported_as_the_requests(tmp_path: Path) -> None:
    api = client(tmp_path, {"server": "http://api.example"}, request_timeout=0)
    error = OSError(errno.ETIMEDOUT, "Connection timed out")
    for seconds in (None, 30.0):
        said = api._transport.unreachable(ProtocolError("Connection aborted.", error), seconds)
        assert said.message.endswith("cannot be reached: Connection timed out")


def test_a_limit_is_for_all_requests_together(api: Api, server: ApiServer) -> None:
    """Also for those of a kept connection; another thread and later requests have no limit."""
    before = api.list("ConfigMap")
    with within(0.0):
        with pytest.raises(Unreachable, match="did not answer"):
            api.apply(MAP, before=None, manager="m")
        with within(60.0), pytest.raises(Unreachable, match="did not answer"):
            api.list("ConfigMap")
        others: list[Any] = []
        thread = threading.Thread(target=lambda: others.append(api.list("ConfigMap")))
        thread.start()
        thread.join()
        assert others == [before]
    assert api.list("ConfigMap") == before
    assert [request.method for request in server.requests] == ["GET"] * 3


# -- addresses ----------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """An address that does not answer: the server's queue of new connections is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address


@pytest.fixture
def answering() -> Iterator[tuple[str, int]]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(5)
        yield server.getsockname()


@pytest.fixture
def refused() -> tuple[str, int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address: tuple[str, int] = server.getsockname()
    return address


Resolve = Callable[..., None]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Let every host have these addresses."""

    def to(*addresses: tuple[str, int]) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    return to


def test_an_address_that_does_not_answer_delays_the_next_one_by_300_ms(
    resolve: Resolve, silent: tuple[str, int], answering: tuple[str, int]
) -> None:
    resolve(silent, answering)
    begun = time.monotonic()
    with connect("api.example", 1, (), 30.0) as found:
        assert found.getpeername() == answering
        assert found.gettimeout() == 30.0
    assert 0.25 < time.monotonic() - begun < 5


def test_an_address_that_refuses_delays_nothing(
    resolve: Resolve, refused: tuple[str, int], answering: tuple[str, int]
) -> None:
    resolve(refused, refused, answering)
    begun = time.monotonic()
    with connect("api.example", 1, (), 30.0) as found:
        assert found.getpeername() == answering
    assert time.monotonic() - begun < 0.25


def test_the_error_of_the_first_address_is_reported(
    resolve: Resolve, refused: tuple[str, int]
) -> None:
    resolve(refused, ("no address", 1))
    with pytest.raises(ConnectionRefusedError):
        connect("api.example", 1, (), 30.0)


def test_the_timeout_is_for_all_addresses_together(
    resolve: Resolve, silent: tuple[str, int], tmp_path: Path
) -> None:
    resolve(silent, silent, silent)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        connect("api.example", 1, (), 0.7)
    assert 0.6 < time.monotonic() - begun < 1.3
    api = client(tmp_path, {"server": "http://api.example"}, request_timeout=0.2)
    with pytest.raises(Unreachable, match=r"did not answer within 0\.2s"):
        api.list("Pod")


def test_both_families_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    four, six = socket.AF_INET, socket.AF_INET6
    found = [(family, socket.SOCK_STREAM, 6, "", ()) for family in (six, six, six, four, four)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert [each[0] for each in connections._addresses("h", 1)] == [six, four, six, four, six]


def test_a_name_that_is_no_host_name_is_reported(tmp_path: Path) -> None:
    for host in ("a..b", "a" * 70):
        api = client(tmp_path, {"server": f"http://{host}"})
        with pytest.raises(Unreachable, match="is not a valid host name"):
            api.list("Pod")
