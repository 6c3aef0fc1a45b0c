"""The very command of an HTTP probe, run by sh with a real curl at a real server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kubectl_istio_udp.model import response
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.verify.probes import HttpProbe, argv
from kubectl_istio_udp.verify.tool_output import Answer, read_answer
from kubectl_istio_udp.verify.verdict import HopResult, judge_response

BINARY = bytes(range(256))
PAGES = {
    "/hello": (200, {"x-one": "1"}, b"hello\n"),
    "/empty": (204, {}, b""),
    "/gone": (404, {}, b"gone"),
    "/binary": (200, {}, BINARY),
    "/(a,b)%5B1*2": (200, {}, b"as written"),
}


class PagesServer(ThreadingHTTPServer):
    """Records the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Pages)
        self.asked: list[tuple[str | None, str]] = []
        self.stopping = threading.Event()


class Pages(BaseHTTPRequestHandler):
    """Serves PAGES; `/silent` never answers."""

    protocol_version = "HTTP/1.1"
    server: PagesServer

    def log_message(self, *_: str) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Host"], self.path))
        if self.path == "/silent":
            self.server.stopping.wait()
            return
        status, headers, body = PAGES[self.path]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def pages() -> Iterator[PagesServer]:
    server = PagesServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.stopping.set()
    server.shutdown()
    thread.join()
    server.server_close()


def wanted(path: str, status: int = 200, body: bytes | None = None, **more: Any) -> response.Answer:
    described = None if body is None else response.Body.of(body, True)
    return response.Answer(path, status, described, **more)


def run(
    probe: HttpProbe, port: int, path_variable: str | None = None
) -> subprocess.CompletedProcess[str]:
    # Do not use a proxy of this machine.
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    if path_variable is not None:
        environment["PATH"] = path_variable
    command = argv(probe, "127.0.0.1", port, 1)
    shell = shutil.which(command[0])
    assert shell
    return subprocess.run(
        [shell, *command[1:]],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=environment,
    )


def query(answer: response.Answer, port: int, host: str = "shop.example.com") -> Answer:
    probe = HttpProbe(host, 80, answer)
    done = run(probe, port)
    return read_answer(probe, done.stdout, done.stderr, done.returncode, "", "default/tool")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (wanted("/hello", body=b"hello\n"), "200"),
        (wanted("/hello", body=b"hello\n", headers=(("x-one", "1"),)), "200"),
        (wanted("/hello"), "200"),
        (wanted("/empty", 204), "204"),
        (wanted("/gone", 404, b"gone"), "404"),
        (wanted("/binary", body=BINARY), "200"),
        (wanted("/(a,b)%5B1*2", body=b"as written"), "200"),
    ],
)
def test_the_expected_answer(pages: PagesServer, answer: response.Answer, outcome: str) -> None:
    found = query(answer, pages.server_port)
    assert (found.answered, found.outcome, found.arrived) == (True, outcome, True)
    assert found.milliseconds is not None and found.milliseconds >= 0
    assert pages.asked[-1] == ("shop.example.com", answer.path)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (wanted("/hello", 201), "200 instead of 201"),
        (wanted("/gone"), "404 instead of 200"),
        (wanted("/hello", body=b"hello"), "200 with another body"),
        (wanted("/binary", body=BINARY[:-1]), "200 with another body"),
        (wanted("/hello", headers=(("x-one", "2"),)), "200 with x-one: 1"),
        (wanted("/hello", headers=(("x-one", "1"), ("x-two", "2"))), "200 without x-two"),
    ],
)
def test_an_unexpected_answer(pages: PagesServer, answer: response.Answer, outcome: str) -> None:
    found = query(answer, pages.server_port)
    assert (found.answered, found.outcome, found.arrived) == (False, outcome, True)


def test_shows_the_body_or_its_bytes(pages: PagesServer) -> None:
    assert query(wanted("/hello"), pages.server_port).text == "hello"
    assert query(wanted("/binary"), pages.server_port).text == BINARY.hex()


def test_the_requested_host_is_independent_of_the_address(pages: PagesServer) -> None:
    query(wanted("/hello"), pages.server_port, "a.example.com")
    assert pages.asked[-1] == ("a.example.com", "/hello")


def test_a_host_that_is_the_address(pages: PagesServer) -> None:
    probe = HttpProbe("127.0.0.1", pages.server_port, wanted("/hello"))
    assert "--connect-to" not in argv(probe, "127.0.0.1", pages.server_port, 1)
    done = run(probe, pages.server_port)
    assert read_answer(probe, done.stdout, done.stderr, done.returncode, "", "p").answered


def test_dots_and_braces_are_sent_unchanged() -> None:
    words = argv(HttpProbe("a.b", 80, wanted("/hello")), "10.0.0.1", 8080, 1.5)
    assert {"--path-as-is", "-g"} <= set(words)
    assert words[words.index("--max-time") + 1] == "2"


@pytest.mark.parametrize(
    ("probe", "address", "url", "connect"),
    [
        (HttpProbe("a.b", 80, wanted("/x")), "10.0.0.1", "http://a.b:80/x", "::10.0.0.1:8080"),
        (HttpProbe("a.b", 1, wanted("/"), True), "fd00::1", "https://a.b:1/", "::[fd00::1]:8080"),
    ],
)
def test_the_arguments_of_curl(probe: HttpProbe, address: str, url: str, connect: str) -> None:
    words = argv(probe, address, 8080, 1)
    assert words[-1] == url == probe.url
    assert words[words.index("--connect-to") + 1] == connect


def test_a_closed_port_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        found = query(wanted("/hello"), unused.getsockname()[1])
    assert (found.answered, found.outcome, found.arrived) == (False, "unreachable", False)


def test_a_server_that_is_silent_times_out(pages: PagesServer) -> None:
    found = query(wanted("/silent"), pages.server_port)
    assert (found.answered, found.outcome, found.arrived) == (False, "timeout", False)


def test_reports_a_name_that_does_not_resolve() -> None:
    probe = HttpProbe("nobody.invalid", 80, wanted("/hello"))
    said = "curl: (6) Could not resolve host: nobody.invalid\nexit 6\n"
    assert read_answer(probe, "", said, 0, "", "p").outcome == "unresolved"


def test_reports_other_protocols_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"SSH-2.0-x\r\n")
            connection.close()

        thread = threading.Thread(target=talk)
        thread.start()
        found = query(wanted("/hello"), server.getsockname()[1])
        thread.join()
    assert (found.answered, found.outcome, found.arrived) == (False, "no HTTP", True)
    assert found.text.startswith("curl: (") and "\n" not in found.text


def test_an_exec_that_times_out_is_a_timeout() -> None:
    probe = HttpProbe("a.b", 80, wanted("/hello"))
    found = read_answer(probe, "", "", None, "the command timed out", "p")
    assert found.outcome == "timeout"


def test_without_curl_the_test_is_not_possible(tmp_path: Path) -> None:
    probe = HttpProbe("a.b", 80, wanted("/hello"))
    done = run(probe, 80, str(tmp_path))
    assert done.returncode == 127
    with pytest.raises(ClusterError, match="pod default/tool cannot run curl: ") as caught:
        read_answer(probe, done.stdout, done.stderr, done.returncode, "", "default/tool")
    assert "--create-tool" in caught.value.hints[0]


# -- the verdict --------------------------------------------------------------------------------

GATEWAY_A, GATEWAY_B = (Hop(Via.GATEWAY, f"gw-{i}", f"10.0.0.{i}", 8080, 80) for i in (1, 2))
SERVICE = Hop(Via.SERVICE, "gw", "10.96.0.1", 80, 80)
SIDECAR = Hop(Via.SIDECAR, "tool", "ratings.prod.svc.cluster.local", 9080, 9080)
YES, OTHER = Answer(True, "200"), Answer(False, "404 instead of 200")
SILENT, CLOSED = Answer(False, "timeout"), Answer(False, "unreachable")


@pytest.mark.parametrize(
    ("given", "broken", "text"),
    [
        ([(GATEWAY_A, YES), (SERVICE, YES)], None, "every hop answered"),
        ([(SIDECAR, YES)], None, "every hop answered"),
        (
            [(GATEWAY_A, OTHER), (GATEWAY_B, OTHER), (SERVICE, OTHER)],
            GATEWAY_A,
            "the gateway answers 404 instead of 200",
        ),
        (
            [(GATEWAY_A, YES), (GATEWAY_B, SILENT), (SERVICE, YES)],
            GATEWAY_B,
            "gateway gw-2 (10.0.0.2:8080) does not answer",
        ),
        (
            [(GATEWAY_A, YES), (SERVICE, CLOSED)],
            SERVICE,
            "the gateway answers, service gw (10.96.0.1:80) refuses the port",
        ),
        (
            [(SIDECAR, OTHER)],
            SIDECAR,
            "sidecar tool (ratings.prod.svc.cluster.local:9080) answers 404 instead of 200",
        ),
    ],
)
def test_judges_from_the_gateway_outwards(
    given: list[tuple[Hop, Answer]], broken: Hop | None, text: str
) -> None:
    verdict = judge_response([HopResult(hop, (answer,)) for hop, answer in given])
    assert (verdict.good, verdict.broken, verdict.text) == (broken is None, broken, text)


def test_without_a_gateway_pod_nothing_answers() -> None:
    verdict = judge_response([])
    assert (verdict.good, verdict.broken) == (False, None)
    assert verdict.text == "the gateway has no ready pod"


def test_lost_requests_are_counted() -> None:
    verdict = judge_response([HopResult(GATEWAY_A, (YES, SILENT, YES))])
    assert verdict.text == "the gateway does not answer (2 of 3 answered)"
