from __future__ import annotations

import json
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.memory import ProxySize
from kubectl_istio_udp.model.proxystate import BoundListener, ProxyState, Refusal
from kubectl_istio_udp.state import proxies
from tests.support.apiserver import ApiServer, Exec

WHERE = ("istio-system", "istio-ingressgateway-1")
PREFIX = "udp-default-coredns-"
NAME = f"{PREFIX}5300"


def marked(name: str, revision: str = "r1") -> dict[str, Any]:
    return {
        "name": name,
        "metadata": {"filter_metadata": {"kubectl-istio-udp": {"revision": revision}}},
    }


DETAILS = {
    "details": "goo.gle/debugstr\n: no such field",
    "failed_configuration": marked(f"{PREFIX}53", "r9"),
}
DUMP = {
    "configs": [
        {
            "dynamic_listeners": [
                {"name": NAME, "active_state": {"listener": marked(NAME)}},
                {"name": f"{PREFIX}53", "error_state": DETAILS},
                {"name": f"{PREFIX}54", "warming_state": {"listener": marked(f"{PREFIX}54")}},
                {"name": "plain", "active_state": {"listener": {"name": "plain"}}},
            ]
        },
        {
            "dynamic_active_clusters": [{"cluster": marked(NAME, "r2")}],
            "dynamic_warming_clusters": [{"cluster": marked(f"{PREFIX}53")}],
        },
        {},
    ]
}


def socket(address: str, port: int) -> dict[str, Any]:
    return {"address": {"socket_address": {"address": address, "port_value": port}}}


CLUSTERS = {
    "cluster_statuses": [
        {"name": NAME, "host_statuses": [socket("10.0.0.1", 53), socket("fd00::1", 53), {}]},
        {"name": f"{PREFIX}old", "host_statuses": [socket("10.0.0.9", 53)]},
    ]
}


def answering(server: ApiServer, *answers: Exec | dict[str, Any]) -> list[Any]:
    """Answer the questions to the admin interface in order; returns what was asked."""
    asked, left = [], list(answers)

    def run(namespace: str, pod: str, container: str, command: list[str]) -> Exec:
        asked.append((container, command))
        found = left.pop(0)
        return found if isinstance(found, Exec) else Exec(stdout=json.dumps(found))

    server.run = run
    return asked


def test_reads_the_state_of_an_envoy(api: Api, server: ApiServer) -> None:
    asked = answering(server, DUMP, CLUSTERS)
    state = proxies.proxy_state(api, *WHERE, PREFIX)
    assert state.listeners == {NAME: "r1", "plain": ""}
    assert state.clusters == {NAME: "r2"}
    assert state.hosts == {NAME: frozenset({"10.0.0.1:53", "fd00::1:53"})}
    assert state.refusals == {f"{PREFIX}53": Refusal("no such field", "r9")}
    question = ["pilot-agent", "request", "GET", f"config_dump?name_regex={PREFIX}.*"]
    assert asked[0] == ("istio-proxy", question)


def test_hosts_are_only_queried_if_there_are_clusters(api: Api, server: ApiServer) -> None:
    asked = answering(server, {"configs": None})
    assert proxies.proxy_state(api, *WHERE, PREFIX) == ProxyState()
    assert len(asked) == 1


def test_reads_the_listeners(api: Api, server: ApiServer) -> None:
    def status(name: str, **address: Any) -> dict[str, Any]:
        return {"name": name, "local_address": {"socket_address": address}}

    statuses = [
        status("0.0.0.0_8080", port_value=8080),
        status("udp_0.0.0.0_8443", port_value=8443),
        {"name": "pipe", "local_address": {"pipe": {"path": "/x"}}},
        {"name": "none"},
    ]
    answering(server, {"listener_statuses": statuses}, {})
    assert proxies.listeners(api, *WHERE) == (
        BoundListener("0.0.0.0_8080", 8080, "TCP", WHERE[1]),
        BoundListener("udp_0.0.0.0_8443", 8443, "UDP", WHERE[1]),
    )
    assert proxies.listeners(api, *WHERE) == ()


@pytest.mark.parametrize(
    ("answer", "limit"),
    [
        (Exec("1048576\n"), 1_048_576),
        (Exec("unlimited\n"), 2**30),
        (Exec(""), None),
        (Exec("", "what", 1), None),
        (Exec(error='exec: "sh": executable file not found in $PATH'), None),
    ],
)
def test_the_file_limit(api: Api, server: ApiServer, answer: Exec, limit: int | None) -> None:
    answering(server, answer)
    assert proxies.file_limit(api, *WHERE) == limit


@pytest.mark.parametrize(
    ("stats", "size"),
    [
        ({"server.concurrency": 4, "cluster_manager.active_clusters": 17}, ProxySize(4, 17)),
        ({"server.concurrency": 4}, None),
        ({}, None),
    ],
)
def test_the_size(
    api: Api, server: ApiServer, stats: dict[str, Any], size: ProxySize | None
) -> None:
    found = [{"name": name, "value": value} for name, value in stats.items()]
    answering(server, {}, {"stats": [*found, {"histograms": {}}]})
    assert proxies.listeners_and_size(api, *WHERE) == ((), size)
    assert server.forwards == 1


def test_a_rejected_cluster_is_in_the_log_only(api: Api, server: ApiServer) -> None:
    server.logs[WHERE] = f"2026-01-02T03:04:06.1Z\tw\tcds: cluster '{NAME}' config rejected: bad\n"
    assert proxies.refusals_in_log(api, *WHERE, 5) == {NAME: "bad"}


def test_a_log_that_may_not_be_read_is_empty(api: Api, server: ApiServer) -> None:
    server.fail("GET", "/log", 403)
    assert proxies.refusals_in_log(api, *WHERE, 5) == {}
    assert proxies.route_refusal_in_log(api, *WHERE, 5) is None


def route_dump(*names: str) -> dict[str, Any]:
    routes = [{"name": name} if name else {} for name in names]
    return {
        "configs": [
            {"route_config": {"virtual_hosts": [{"routes": routes}, {}]}},
            {"route_config": {}},
            {},
        ]
    }


def test_reads_the_http_routes(api: Api, server: ApiServer) -> None:
    there = route_dump("response-a-b-123", "response-a-b-c-1", "response-a-b-", "", "theirs")
    asked = answering(server, there, {})
    assert proxies.routes(api, *WHERE, "response-a-b") == {"response-a-b-123"}
    assert proxies.routes(api, *WHERE, "response-a-b") == frozenset()
    assert asked[0][1][-1] == "config_dump?resource=dynamic_route_configs"


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ({"node": {"metadata": {"ISTIO_VERSION": "1.14.5"}}}, (1, 14)),
        ({"node": {"metadata": {"ISTIO_VERSION": "main"}}}, None),
        ({"node": {"metadata": {}}}, None),
        ({}, None),
    ],
)
def test_reads_the_version_of_a_proxy(
    api: Api, server: ApiServer, answer: dict[str, Any], version: tuple[int, ...] | None
) -> None:
    asked = answering(server, answer)
    assert proxies.istio_version(api, *WHERE) == version
    assert asked[0][1][-1] == "server_info"


@pytest.mark.parametrize("word", ["9" * 5_000, "²", "-1", "1048576 1048576"])
def test_a_file_limit_that_is_not_a_number_is_unknown(
    api: Api, server: ApiServer, word: str
) -> None:
    server.run = lambda *_: Exec(word)
    assert proxies.file_limit(api, *WHERE) is None


HEAD = "  sl  local_address rem_address   st\n"


@pytest.mark.parametrize(
    "line",
    [
        "1: zz:0035 00000000:0000 07 0:0 00:0 0 0 0 0 2 0 0",
        "1: 0100007F 00000000:0000 07 0:0 00:0 0 0 0 0 2 0 0",
        "1: 01:35 00000000:0000 07 x:x 00:0 0 0 0 0 2 0 0",
        "²: 0100007F:0035 00000000:0000 07 0:0 00:0 0 0 0 0 2 0 ²",
        f"1: 0100007F:0035 00000000:0000 07 0:0 00:0 0 0 0 0 2 0 {'9' * 5_000}",
    ],
    ids=lambda line: line[:12],
)
def test_malformed_socket_tables_are_unknown(api: Api, server: ApiServer, line: str) -> None:
    """The `cat` of a tenant's image may print anything."""
    server.run = lambda *_: Exec(HEAD + line + "\n")
    assert proxies.udp_status(api, *WHERE, "istio-proxy") is None
