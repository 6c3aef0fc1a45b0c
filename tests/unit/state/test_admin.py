"""Queries to an Envoy: by port-forward, or by exec if that is not possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubectl_istio_udp.kube import portforward, websockets
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NotFound
from kubectl_istio_udp.model.proxystate import BoundListener
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.admin import Admin
from tests.support.apiserver import ApiServer, Exec
from tests.support.connection import connected
from tests.support.waits import QUICK

WHERE = ("istio-system", "istio-ingressgateway-1")
HTML = "<html>a login page</html>"


def query(api: Api, *paths: str) -> list[Any]:
    with Admin(api, *WHERE) as asked:
        return [asked.read(path, as_it_is) for path in paths]


def as_it_is(answer: int | str) -> int | str:
    return answer


def ways(server: ApiServer) -> list[str]:
    """How the pod was asked, in order."""
    found = [request.path.rpartition("/")[2] for request in server.requests]
    return [way for way in found if way in ("portforward", "exec")]


def test_several_queries_use_one_connection_and_no_process(api: Api, server: ApiServer) -> None:
    server.run = lambda *words: Exec(f'"{words[3][3]}"')
    assert query(api, "listeners?format=json", "stats") == ["listeners?format=json", "stats"]
    assert ways(server) == ["portforward"]


def test_a_long_response_is_read_completely(api: Api, server: ApiServer) -> None:
    server.run = lambda *_: Exec(f'"{"x" * 1_000_000}"')
    assert [len(found) for found in query(api, "config_dump", "config_dump")] == [1_000_000] * 2


@pytest.mark.parametrize(
    "refusal",
    [
        {"status": 403},
        {"status": 403, "body": HTML},
        {"status": 200, "body": HTML},
        {"status": 400, "body": '{"kind": "Status", "message": "Upgrade request required"}'},
        {"status": 404, "body": "404 page not found"},
        {"status": 501, "body": "not implemented"},
    ],
    ids=str,
)
def test_exec_is_used_if_port_forward_is_not_possible(
    api: Api, server: ApiServer, refusal: dict[str, Any]
) -> None:
    server.fail("GET", "/portforward", **refusal)
    server.run = lambda *_: Exec("1")
    assert query(api, "a", "b") == query(api, "c", "d") == [1, 1]
    # A way that is closed in this namespace is not tried again.
    assert ways(server) == ["portforward", "exec", "exec", "exec", "exec"]


def test_a_pod_without_port_forward_is_queried_by_exec(api: Api, server: ApiServer) -> None:
    """In a sandbox (gVisor, Kata) nothing listens where the node looks for the port."""
    commands = []

    def run(*words: list[str] | str) -> Exec:
        commands.append(words[3])
        return Exec(error="sandbox") if len(commands) == 1 else Exec("1")

    server.run = run
    assert query(api, "a") == [1]
    assert ways(server) == ["portforward", "exec"]


@pytest.mark.parametrize(
    ("answer", "said", "tried"),
    [
        (Exec("", "no such endpoint\nhelp: x\n", 1), "answered 404: no such endpoint", 1),
        (Exec("not json"), "not json", 1),
        (Exec(error="container not found"), "container not found", 2),
        (Exec(""), "empty response", 1),
        (Exec('{"half', cut=True), "closed the connection before the response was complete", 1),
        (Exec(hangs=True), "did not respond within 0.2s", 1),
    ],
)
def test_an_envoy_that_cannot_be_queried(
    kubeconfig: Path, server: ApiServer, answer: Exec, said: str, tried: int
) -> None:
    # A short timeout only where the pod hangs; otherwise a busy machine may need longer.
    seconds = 0.2 if answer.hangs else 30.0
    api = connected(kubeconfig, replace(QUICK, envoy_answer=seconds))
    server.run = lambda *_: answer
    with pytest.raises(ClusterError, match=f"could not query stats from .*: .*{said}") as caught:
        query(api, "stats")
    assert "/".join(WHERE) in caught.value.message
    assert "\n" not in caught.value.message
    assert "kubectl logs -n istio-system istio-ingressgateway-1" in caught.value.hints[0]
    assert len(ways(server)) == tried


QUESTIONS = (
    lambda api: proxies.listeners_and_size(api, *WHERE),
    lambda api: proxies.proxy_state(api, *WHERE, "udp-a-b-"),
    lambda api: proxies.routes(api, *WHERE, "direct"),
    lambda api: proxies.istio_version(api, *WHERE),
    lambda api: proxies.with_protocols(api, *WHERE, [BoundListener("odd", 1, "TCP", "x")], set()),
)


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        "5",
        '"configs"',
        '{"listener_statuses": 5, "configs": 5, "node": 5}',
        '{"listener_statuses": [5], "configs": [5], "node": {"metadata": 5}}',
        '{"listener_statuses": [{"local_address": {"socket_address": {"port_value": []}}}],'
        ' "configs": [{"dynamic_listeners": [{"active_state": {"listener": {"name": {}}}}],'
        ' "active_state": [1], "route_config": {"virtual_hosts": [{"routes": [{}, 5]}]}}],'
        ' "node": [1]}',
        "[" * 100_000,
        "1" * 5_000,
    ],
    ids=lambda answer: answer[:40],
)
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_pod_that_poses_as_an_envoy_does_not_end_the_command(
    api: Api, server: ApiServer, question: Callable[..., Any], answer: str
) -> None:
    """A tenant can create one in its own namespace, and `get -A` then queries it."""
    server.run = lambda *_: Exec(answer)
    with pytest.raises(
        ClusterError, match=r"could not query [^ ]* from .*: the response was"
    ) as caught:
        question(api)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("way", ["portforward", "exec"])
def test_an_endless_response_is_not_read_completely(
    api: Api, server: ApiServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    for module in (websockets, portforward):
        monkeypatch.setattr(module, "MOST_BYTES", 3 * 2**20)
    if way == "exec":
        server.fail("GET", "/portforward", 403)
    server.run = lambda *_: Exec("x" * 2**23)
    with pytest.raises(ClusterError, match=r"could not query stats from .*more than 3 MB$"):
        query(api, "stats")


def test_a_query_after_a_failed_one_uses_a_new_connection(api: Api, server: ApiServer) -> None:
    answers = [Exec('{"half', cut=True), Exec("1")]
    server.run = lambda *_: answers.pop(0)
    with Admin(api, *WHERE) as asked:
        with pytest.raises(ClusterError):
            asked.read("a", as_it_is)
        assert asked.read("b", as_it_is) == 1
    assert ways(server) == ["portforward", "portforward"]


def test_reports_a_missing_pod(api: Api, server: ApiServer) -> None:
    with pytest.raises(NotFound, match="pod gone not found in namespace istio-system"):
        Admin(api, "istio-system", "gone").read("stats", as_it_is)
    assert ways(server) == ["portforward"]


def test_without_both_rights_the_error_names_them_and_what_works(
    api: Api, server: ApiServer
) -> None:
    server.fail("GET", "/(portforward|exec)", 403)
    with pytest.raises(Forbidden) as caught:
        query(api, "stats")
    text = caught.value.format()
    assert "istio-system/istio-ingressgateway-1" in text
    for right in ("portforward", "exec"):
        assert f"pods/{right} in namespace istio-system" in text
        assert f"can-i create pods -n istio-system --subresource={right}" in text
    assert "expose --no-wait" in text


def test_reports_a_closed_port_if_exec_is_forbidden(api: Api, server: ApiServer) -> None:
    server.fail("GET", "/exec", 403)
    server.run = lambda *_: Exec(error="port 15000")
    with pytest.raises(ClusterError, match="port 15000: connection refused"):
        query(api, "stats")


def test_requests_to_a_busy_server_are_retried(api: Api, server: ApiServer) -> None:
    server.fail("GET", "/portforward", 429, times=1, headers={"Retry-After": "0"})
    server.run = lambda *_: Exec("1")
    assert query(api, "stats") == [1]
    assert ways(server) == ["portforward"] * 2
