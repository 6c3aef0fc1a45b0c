"""Requests that the API server refuses with 429 or 503 and Retry-After, or with a conflict."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.retrying import Retries
from kubectl_istio_udp.model.errors import ApplyConflict, Busy, ClusterError, Conflict, Unreachable
from tests.support.apiserver import ApiServer, Request
from tests.support.connection import connected, quick_retries
from tests.support.kubeconfig_cases import config
from tests.unit.conftest import Run
from tests.unit.kube.test_client import MAP

AT_ONCE = {"Retry-After": "0"}
SERVICE = "/services/coredns"


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def patient(kubeconfig: Path, told: list[Any]) -> Api:
    return connected(kubeconfig, retries=quick_retries(notify=told.append))


def asked(server: ApiServer, method: str = "GET", path: str = SERVICE) -> list[Request]:
    return [r for r in server.requests if r.method == method and path in r.path]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 599])
def test_a_rejection_with_retry_after_is_retried_and_reported(
    patient: Api, server: ApiServer, told: list[Any], status: int
) -> None:
    server.fail("GET", SERVICE, status, times=1, headers={"Retry-After": "1"})
    server.fail("GET", SERVICE, status, times=1, headers={"Retry-After": "+0"})
    begun = time.monotonic()
    assert patient.get("Service", "default", "coredns")["kind"] == "Service"
    assert time.monotonic() - begun >= 1
    assert len(asked(server)) == 3
    assert [text.rpartition("; ")[2] for text in told] == [
        "trying again in 1s (1 of 10)",
        "trying again in 0s (2 of 10)",
    ]


def test_every_verb_is_retried(patient: Api, server: ApiServer) -> None:
    for method in ("POST", "PATCH", "PUT", "DELETE"):
        server.fail(method, "/configmaps", 429, times=1, headers=AT_ONCE)
    made = patient.create(MAP, manager="m")
    patient.apply(MAP, before=None, manager="m")
    patient.update({**made, "data": {}}, manager="m")
    assert patient.delete(MAP)
    for method in ("POST", "PATCH", "PUT", "DELETE"):
        assert len(asked(server, method, "/configmaps")) == 2


def test_exec_is_retried(patient: Api, server: ApiServer) -> None:
    server.fail("GET", "/exec", 429, times=1, headers=AT_ONCE)
    assert patient.exec("default", "coredns-1", "coredns", ["true"], 5).exit_code == 0


def test_it_ends_after_ten_retries(patient: Api, server: ApiServer, told: list[Any]) -> None:
    server.fail("GET", SERVICE, 429, headers=AT_ONCE)
    with pytest.raises(Busy):
        patient.get("Service", "default", "coredns")
    assert len(asked(server)) == 11
    assert len(told) == 10


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {}),
        (500, {}),
        (503, {"Retry-After": "soon"}),
        (503, {"Retry-After": "\xb2"}),
        (429, {"Retry-After": "3600"}),
        (408, AT_ONCE),
    ],
)
def test_no_retry_after_or_too_long_a_one_is_an_error_at_once(
    patient: Api, server: ApiServer, status: int, headers: dict[str, Any]
) -> None:
    server.fail("GET", SERVICE, status, headers=headers)
    with pytest.raises(ClusterError):
        patient.get("Service", "default", "coredns")
    assert len(asked(server)) == 1


def test_a_caller_with_a_queue_retries_nothing(kubeconfig: Path, server: ApiServer) -> None:
    api = connected(kubeconfig, retries=Retries(0))
    server.fail("GET", SERVICE, 429, headers=AT_ONCE)
    with pytest.raises(Busy) as caught:
        api.get("Service", "default", "coredns")
    assert caught.value.retry_after == 0
    assert len(asked(server)) == 1


def test_expose_and_its_rollback_retry_on_a_busy_server(run: Run, server: ApiServer) -> None:
    """429 at each write, then a final error: everything is rolled back, despite further 429s."""
    before = server.state()
    for method in ("PATCH", "POST", "DELETE"):
        server.fail(method, "", 429, times=2, headers=AT_ONCE)
    run("expose", "coredns", "-p", "5300:53", "--no-wait", "--validate=none")
    assert run.code == 0, run.err
    assert "trying again in 0s" in run.err
    assert "taken back" not in run.err
    server.heal()
    assert run("delete", "coredns", "--no-wait").code == 0
    server.fail("PATCH", "envoyfilters", 403, '{"message": "no"}')
    server.fail("DELETE", "", 429, times=2, headers=AT_ONCE)
    run("expose", "coredns", "-p", "5300:53", "--no-wait", "--validate=none")
    assert run.code == 3
    assert "everything that this run wrote was undone" in run.err
    assert server.state() == before


def test_an_apply_that_meets_another_write_is_sent_again(api: Api, server: ApiServer) -> None:
    modified = '{"message": "Operation cannot be fulfilled: the object has been modified"}'
    server.fail("PATCH", "/configmaps", 409, modified, times=2)
    assert api.apply(MAP, before=None, manager="m").verb == "created"


def test_a_conflict_that_retrying_cannot_fix_is_an_error_at_once(
    api: Api, server: ApiServer
) -> None:
    """Fields of another manager; and a request about one version of the object."""
    api.apply(MAP, before=None, manager="m")
    with pytest.raises(ApplyConflict):
        api.apply({**MAP, "data": {"k": "other"}}, before=None, manager="somebody")
    exact = {**MAP, "metadata": {**MAP["metadata"], "uid": "another"}}
    with pytest.raises(Conflict):
        api.apply(exact, before=None, manager="m")
    assert len(asked(server, "PATCH", "/configmaps")) == 3


# -- what is sent twice -------------------------------------------------------------------------


def write(api: Api, verb: str, made: dict[str, Any]) -> Any:
    calls: dict[str, Callable[[], Any]] = {
        "create": lambda: api.create(
            {**MAP, "metadata": {**MAP["metadata"], "name": "n"}}, manager="m"
        ),
        "update": lambda: api.update({**made, "data": {}}, manager="m"),
        "apply": lambda: api.apply({**MAP, "data": {"k": "w"}}, before=made, manager="m"),
        "merge": lambda: api.merge({**MAP, "data": {"k": "x"}}, manager="m"),
        "delete": lambda: api.delete(MAP),
    }
    return calls[verb]()


METHODS = {
    "create": "POST",
    "update": "PUT",
    "apply": "PATCH",
    "merge": "PATCH",
    "delete": "DELETE",
}
Fault = tuple[int, dict[str, str]]
BROKEN: Fault = (0, {})
SILENT: Fault = (-1, {})
LATER = {status: (status, AT_ONCE) for status in (429, 500, 503)}


@pytest.mark.parametrize(
    ("verb", "fault", "sent"),
    [
        # It is unknown whether the server did it, so such a write is never sent again.
        *((verb, fault, 1) for verb in METHODS for fault in (BROKEN, SILENT)),
        # The server did nothing, and says when to come again.
        *((verb, LATER[429], 2) for verb in METHODS),
        # 5xx may come from a proxy after the server did it. Only an apply may be repeated.
        *(
            (verb, LATER[status], 2 if verb == "apply" else 1)
            for verb in METHODS
            for status in (500, 503)
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("done", [False, True])
def test_a_write_is_never_sent_twice_if_that_could_do_harm(
    kubeconfig: Path,
    server: ApiServer,
    verb: str,
    fault: tuple[int, dict[str, Any]],
    sent: int,
    done: bool,
) -> None:
    """Whether the server had done it (`done`) or not, which the client cannot know."""
    made = connected(kubeconfig).create(MAP, manager="m")
    # A short timeout only where no answer comes; otherwise a busy machine may need longer.
    api = connected(kubeconfig, request_timeout=0.2 if fault == SILENT else 10.0)
    before = len(server.requests)
    status, headers = fault
    server.fail(METHODS[verb], "/configmaps", status, times=1, headers=headers, done=done)
    if sent == 1:
        with pytest.raises(ClusterError):
            write(api, verb, made)
    else:
        with suppress(ClusterError):  # as a second PUT of what the first has changed
            write(api, verb, made)
    assert len(asked(server, METHODS[verb], "/configmaps")) - (verb == "create") == sent
    assert len(server.requests) - before == sent


@pytest.mark.parametrize("what", ["get", "list"])
def test_a_read_is_sent_again_after_a_broken_connection(
    patient: Api, server: ApiServer, what: str
) -> None:
    server.fail("GET", "/configmaps", 0, times=3)
    if what == "get":
        assert patient.find("ConfigMap", "default", "none") is None
    else:
        assert patient.list("ConfigMap", "default") == []
    assert len(asked(server, "GET", "/configmaps")) == 4


CLOSED, RESET, SILENCE = b"", None, b"silence"
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def once(answer: bytes | None) -> Iterator[tuple[int, list[int]]]:
    """A server that answers the first connection so, resets it (None), or is silent after it.

    Yields its port and a list with an entry for each connection. Later connections get an empty
    list of an API server.
    """
    connections: list[int] = []
    body = b'{"apiVersion":"v1","metadata":{},"items":[]}'

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections.append(1)
            self.request.recv(65_536)
            if len(connections) > 1:
                head = OK_HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
                self.request.sendall(head + body)
            elif answer is None:
                linger = struct.pack("ii", 1, 0)
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.request.close()
            elif answer == SILENCE:
                self.request.recv(1)
            else:
                self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1], connections
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        (CLOSED, 2),
        (RESET, 2),
        (OK_HEAD + b"Content-Length: 9\r\n\r\n{}", 2),
        (OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}", 2),
        (b"garbage\r\n\r\n", 1),
        (SILENCE, 1),
    ],
)
def test_a_read_is_sent_again_as_kubectl_does(
    tmp_path: Path, answer: bytes | None, sent: int
) -> None:
    with once(answer) as (port, connections):
        path = tmp_path / "config"
        path.write_text(str(config({"server": f"http://127.0.0.1:{port}"})), encoding="utf-8")
        api = connected(path, request_timeout=0.5 if answer == SILENCE else 10.0)
        with suppress(ClusterError):
            api.list("Pod", "default")
    assert len(connections) == sent


@pytest.mark.parametrize("answer", [CLOSED, RESET])
@pytest.mark.parametrize("way", ["https://127.0.0.1:{}", "the proxy http://127.0.0.1:{}"])
def test_a_connection_that_breaks_in_tls_or_at_a_proxy_is_retried(
    tmp_path: Path, answer: bytes | None, way: str
) -> None:
    with once(answer) as (port, connections):
        url = way.format(port)
        server = "https://api.example" if "proxy" in way else url
        cluster = {"server": server, "insecure-skip-tls-verify": True}
        cluster |= {"proxy-url": url.split()[-1]} if "proxy" in way else {}
        path = tmp_path / "config"
        path.write_text(str(config(cluster, {"token": "t"})), encoding="utf-8")
        # The second answer is not TLS, and not a proxy's.
        with pytest.raises(Unreachable):
            connected(path, request_timeout=10.0).list("Pod", "default")
    assert len(connections) >= 2


def test_exec_is_not_sent_again_after_a_broken_connection(patient: Api, server: ApiServer) -> None:
    """The command may have run."""
    server.fail("GET", "/exec", 0, times=1)
    with pytest.raises(ClusterError):
        patient.exec("default", "coredns-1", "coredns", ["true"], 5)
    assert len(asked(server, "GET", "/exec")) == 1
