"""The connection that `verify` of an access log holds open, and what it is made to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import (
    ClusterError,
    Forbidden,
    NotFound,
    UsageError,
    WaitTimeout,
)
from kubectl_istio_udp.model.logscope import Proxy
from kubectl_istio_udp.render.samples import one_run_echo
from kubectl_istio_udp.verify import connection
from kubectl_istio_udp.verify.connection import (
    Target,
    client,
    echo_target,
    held,
    proxy_log,
    service_target,
)
from kubectl_istio_udp.verify.toolpod import ToolPod
from tests.support.apiserver import ApiServer, Exec, Request
from tests.support.builders import endpoint, endpoint_slice, pod, service, tcp, udp
from tests.support.connection import connected
from tests.support.mesh_builders import sidecar_pod
from tests.support.waits import QUICK

TOOL = ToolPod("default", "network-tool", "network-tool")


def port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "port": number, "protocol": "TCP"}


@pytest.fixture
def web(server: ApiServer) -> ApiServer:
    """A Service of plain TCP, HTTP and UDP ports; one of its pods has a sidecar."""
    ports = [tcp(80, "http"), tcp(9000, "tcp-raw", 9900), udp(53), tcp(9001, "second", 9901)]
    slice_ports = [port("http", 8080), port("tcp-raw", 9900), port("second", 9901)]
    ready = [endpoint("10.244.0.30", "web-1"), endpoint("10.244.0.31", "web-2")]
    server.put(
        service("web", ports=ports, clusterIP="10.96.0.90"),
        endpoint_slice(
            *ready, endpoint("10.244.0.32", "web-3", ready=False), of="web", ports=slice_ports
        ),
        sidecar_pod("web-1"),
        pod("web-2", app="web"),
    )
    return server


# -- a Service ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number", "target"),
    [
        ("web", 9000, 9900),
        ("web:9000", 9000, 9900),
        ("web:tcp-raw", 9000, 9900),
        ("web:9001", 9001, 9901),
        ("web:second", 9001, 9901),
    ],
)
def test_the_first_plain_tcp_port_of_a_service(
    api: Api, web: ApiServer, text: str, number: int, target: int
) -> None:
    """If no port is named, the first that is not HTTP."""
    found = service_target(api, "default", text)
    assert (found.address, found.port) == ("10.96.0.90", number)
    assert found.servers == (("10.244.0.30", target), ("10.244.0.31", target))
    assert {a: p.name for a, p in found.proxies.items()} == {"10.244.0.30": "web-1"}


def test_a_headless_service_is_reached_at_its_pod(api: Api, web: ApiServer) -> None:
    headless = web.get("Service", "default", "web")
    headless["spec"]["clusterIP"] = "None"
    web.put(headless)
    assert service_target(api, "default", "web").address == "10.244.0.30"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("web:53", "has no TCP port 53", "its TCP ports: 80, 9000, 9001"),
        ("web:none", "has no TCP port none", "its TCP ports: 80, 9000, 9001"),
        ("coredns", "Service default/coredns has no TCP port", "its TCP ports: none"),
        ("web:80", "port 80 of Service default/web is an HTTP port", "--to SERVICE:PORT"),
        ("web:http", "port 80 of Service default/web is an HTTP port", "--to SERVICE:PORT"),
    ],
)
def test_refuses_an_http_port(api: Api, web: ApiServer, text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        service_target(api, "default", text)
    assert not caught.value.message.endswith(" ")
    assert hint in caught.value.hints[0]


@pytest.mark.parametrize(
    "entry", [tcp(80, "grpc-web"), {**tcp(80, "web"), "appProtocol": "http2"}, tcp(80, "http")]
)
def test_a_service_with_only_http_ports_is_refused(
    api: Api, web: ApiServer, entry: dict[str, Any]
) -> None:
    web.put(service("web", ports=[entry]))
    with pytest.raises(UsageError, match="is an HTTP port"):
        service_target(api, "default", "web")


def test_the_app_protocol_takes_precedence_over_the_name(api: Api, web: ApiServer) -> None:
    web.put(service("web", ports=[{**tcp(9000, "http"), "appProtocol": "tcp"}]))
    web.put(endpoint_slice(endpoint("10.244.0.30"), of="web", ports=[port("http", 9900)]))
    assert service_target(api, "default", "web").servers == (("10.244.0.30", 9900),)


def test_a_service_without_ready_pods(api: Api, web: ApiServer) -> None:
    web.put(
        endpoint_slice(
            endpoint("10.244.0.30", ready=False), of="web", ports=[port("tcp-raw", 9900)]
        )
    )
    with pytest.raises(UsageError, match="Service default/web has no ready pods"):
        service_target(api, "default", "web")


def test_a_missing_service(api: Api, server: ApiServer) -> None:
    with pytest.raises(NotFound, match="service web not found in namespace default"):
        service_target(api, "default", "web")


# -- the client ---------------------------------------------------------------------------------


def test_the_client_and_its_proxy(api: Api, server: ApiServer) -> None:
    assert client(api, TOOL) == ("10.244.0.20", None)
    server.put(sidecar_pod("network-tool", app="network-tool", ip="10.244.0.8"))
    address, proxy = client(api, TOOL)
    assert proxy is not None
    assert (address, proxy.name, proxy.istio) == ("10.244.0.8", "network-tool", (1, 31))


def test_the_log_is_read_with_timestamps(api: Api, server: ApiServer) -> None:
    server.logs["default", "web-1"] = "a line\n"
    assert proxy_log(api, Proxy("default", "web-1"), 7) == "a line\n"
    query = server.requests[-1].query
    assert (query["timestamps"], query["sinceSeconds"]) == (["true"], ["7"])
    assert query["container"] == ["istio-proxy"]


def test_a_log_that_may_not_be_read_is_empty(api: Api, server: ApiServer) -> None:
    server.fail("GET", "/log", 403)
    assert proxy_log(api, Proxy("default", "web-1"), 7) == ""


# -- holding it ---------------------------------------------------------------------------------

TARGET = Target("10.96.0.90", 9000, (("10.244.0.30", 9900),), {})


def test_holds_a_connection_until_it_ends_by_itself(api: Api, server: ApiServer) -> None:
    commands, release = [], threading.Event()

    def run(namespace: str, name: str, container: str, command: list[str]) -> Exec:
        commands.append((namespace, name, container, command))
        release.wait(30)
        return Exec()

    server.run = run
    with held(api, TOOL, TARGET, 23.6) as held_one:
        assert not held_one.ended.is_set()
        release.set()
        assert held_one.ended.wait(30)
    assert held_one.problem is None
    (only,) = commands
    assert only[:3] == ("default", "network-tool", "network-tool")
    assert only[3][-3:] == ["10.96.0.90", "9000", "24"]


def test_a_connection_that_cannot_be_made_ends(api: Api, server: ApiServer) -> None:
    server.fail("GET", "/exec", 403)
    with held(api, TOOL, TARGET, 20) as held_one:
        assert held_one.ended.wait(30)
    assert isinstance(held_one.problem, Forbidden)


def test_reports_a_tool_without_nc(api: Api, server: ApiServer) -> None:
    server.run = lambda *_: Exec(code=127)
    with held(api, TOOL, TARGET, 20) as held_one:
        assert held_one.ended.wait(30)
    assert "cannot run nc" in str(held_one.problem)


def hold(port: int, seconds: int, **more: Any) -> subprocess.Popen[Any]:
    words = ["/bin/sh", "-c", connection._HOLD, "sh", "127.0.0.1", str(port), str(seconds)]
    return subprocess.Popen(words, **more)


@contextmanager
def holding(port: int, **more: Any) -> Iterator[None]:
    """The command while it runs; ended by the `timeout` in it, which ends what it started."""
    running = hold(port, 60, **more)
    try:
        yield
    finally:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text("utf-8")
        for child in children.split():
            os.kill(int(child), signal.SIGTERM)
        running.wait(30)


def test_the_command_sends_something_and_keeps_the_connection_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = hold(listening.getsockname()[1], 2)
        begun = time.monotonic()
        connected, _ = listening.accept()
        with connected:
            connected.settimeout(30)
            received = b"".join(iter(lambda: connected.recv(100), b""))
        assert received.startswith(b"verify\n")
        assert time.monotonic() - begun > 1.5
        running.wait(30)


def test_the_command_connects_again_after_a_closed_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        with holding(listening.getsockname()[1]):
            first, _ = listening.accept()
            first.close()
            second, _ = listening.accept()
            second.close()


def test_the_command_retries_after_a_refused_connection(tmp_path: Path) -> None:
    """nc ends at once if the port is closed."""
    refused, calls = tmp_path / "nc", tmp_path / "calls"
    refused.write_text(f"#!/bin/sh\necho called >>{calls}\nexit 1\n", encoding="utf-8")
    refused.chmod(0o755)
    with holding(9, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}):
        deadline = time.monotonic() + 30
        while not calls.exists() or len(calls.read_text("utf-8").splitlines()) < 2:
            assert time.monotonic() < deadline, "it did not try again"
            time.sleep(0.05)


def test_the_command_needs_netcat(tmp_path: Path) -> None:
    assert hold(9, 1, env={"PATH": str(tmp_path)}).wait(30) == 127


# -- a server for one run -----------------------------------------------------------------------


@pytest.fixture
def injecting(server: ApiServer) -> ApiServer:
    """A mesh that puts a sidecar into every pod that is made."""
    seen = server.seen

    def inject(request: Request) -> None:
        seen(request)
        if request.method == "PATCH" and "/pods/" in request.path:
            request.body["spec"]["containers"].append(
                {"name": "istio-proxy", "image": "docker.io/istio/proxyv2:1.31.0"}
            )

    server.seen = inject
    return server


def test_an_echo_server_is_created_and_deleted(api: Api, injecting: ApiServer) -> None:
    before = injecting.there()
    manifests = one_run_echo("default", "own/tool:1")
    name = manifests[0]["metadata"]["name"]
    with echo_target(api, manifests) as target:
        assert injecting.there() - before == {
            ("Pod", "default", name),
            ("Service", "default", name),
        }
        made = injecting.get("Service", "default", name)
        assert (target.address, target.port) == (made["spec"]["clusterIP"], 9000)
        assert target.servers == (("10.244.0.99", 9000),)
        assert target.proxies["10.244.0.99"].name == name
    assert injecting.there() == before


def test_an_echo_server_is_deleted_after_a_failure(api: Api, injecting: ApiServer) -> None:
    before = injecting.there()
    with pytest.raises(KeyboardInterrupt), echo_target(api, one_run_echo("default", None)):
        raise KeyboardInterrupt
    assert injecting.there() == before


def test_an_echo_server_without_a_sidecar_is_reported_and_deleted(
    api: Api, server: ApiServer
) -> None:
    before = server.there()
    with (
        pytest.raises(ClusterError, match="has no sidecar: Istio does not inject into") as caught,
        echo_target(api, one_run_echo("default", None)),
    ):
        pass
    assert "--to SERVICE" in caught.value.hints[0]
    assert server.there() == before


def test_an_echo_server_that_does_not_start_is_reported_and_deleted(
    kubeconfig: Path, server: ApiServer
) -> None:
    api = connected(kubeconfig, replace(QUICK, pod_start=0.05))
    server.pods_start = False
    before = server.there()
    with (
        pytest.raises(WaitTimeout, match="ErrImagePull"),
        echo_target(api, one_run_echo("default", None)),
    ):
        pass
    assert server.there() == before


def test_an_echo_server_is_deleted_if_its_service_cannot_be_created(
    api: Api, injecting: ApiServer
) -> None:
    injecting.fail("PATCH", "/services/", 403)
    before = injecting.there()
    with (
        pytest.raises(ClusterError, match="no permission to patch services"),
        echo_target(api, one_run_echo("default", None)),
    ):
        pass
    assert injecting.there() == before


def test_a_failed_deletion_does_not_hide_the_failure(api: Api, server: ApiServer) -> None:
    server.fail("DELETE", "/", 403)
    with (
        pytest.raises(ClusterError, match="has no sidecar"),
        echo_target(api, one_run_echo("default", None)),
    ):
        pass
