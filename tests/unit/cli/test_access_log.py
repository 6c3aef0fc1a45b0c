"""`access-log`, and get, describe, verify and delete of what it makes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.logscope import Proxy
from kubectl_istio_udp.verify import accesslog as verify_accesslog
from kubectl_istio_udp.verify.connection import HeldConnection
from tests.support.apiserver import ApiServer, Exec, Request
from tests.support.builders import endpoint, endpoint_slice, gateway_service, service, tcp
from tests.support.fakes import Fakes
from tests.support.mesh_builders import (
    envoy_filter,
    istiod_pod,
    mesh_config,
    sidecar_pod,
)
from tests.unit.conftest import Run

NAME = "accesslog-default-namespace"
ROOT = "istio-system"
TCP_PROXY = "envoy.filters.network.tcp_proxy"
APPLIED = f"envoyfilter.networking.istio.io/{NAME} serverside-applied\n"
DELETED = f'envoyfilter.networking.istio.io "{NAME}" deleted\n'
CLIENT = "10.244.0.8"


@pytest.fixture
def mesh(server: ApiServer) -> ApiServer:
    """A mesh that writes an access log, with two pods in namespace default."""
    server.put(
        mesh_config(accessLogFile="/dev/stdout"),
        istiod_pod(),
        sidecar_pod("web-1"),
        sidecar_pod("network-tool", app="network-tool", ip=CLIENT),
    )
    return server


def filters(server: ApiServer) -> set[tuple[str, ...]]:
    return {(m["metadata"]["namespace"], m["metadata"]["name"]) for m in server.all("EnvoyFilter")}


def interval(server: ApiServer, namespace: str = "default", name: str = NAME) -> tuple[Any, ...]:
    (patch,) = server.get("EnvoyFilter", namespace, name)["spec"]["configPatches"]
    value = patch["patch"]["value"]
    assert (patch["applyTo"], patch["patch"]["operation"]) == ("NETWORK_FILTER", "MERGE")
    assert value["name"] == TCP_PROXY
    return patch["match"]["context"], {
        k: v for k, v in value["typed_config"].items() if k[0] != "@"
    }


def options(every: str) -> dict[str, Any]:
    return {"access_log_options": {"access_log_flush_interval": every}}


# -- writing ------------------------------------------------------------------------------------


def test_applies_to_a_namespace(run: Run, mesh: ApiServer) -> None:
    done = run("access-log")
    assert (done.code, done.out) == (0, APPLIED)
    lines = done.err.splitlines()
    assert lines[0] == "applies to 2 proxies, by access_log_options"
    assert (
        "U223" in lines[1] and "closes the open TCP connections of 2 proxies within 45s" in lines[1]
    )
    assert lines[-1] == "test it: kubectl istio-udp verify -n default accesslog/namespace"
    assert interval(mesh) == ("ANY", options("5s"))
    assert "workloadSelector" not in mesh.get("EnvoyFilter", "default", NAME)["spec"]


@pytest.mark.parametrize(
    ("words", "context"),
    [
        (["--direction", "inbound"], "SIDECAR_INBOUND"),
        (["--direction", "outbound"], "SIDECAR_OUTBOUND"),
        (["--direction", "any"], "ANY"),
    ],
)
def test_applies_to_one_direction(
    run: Run, mesh: ApiServer, words: list[str], context: str
) -> None:
    assert run("access-log", "--every", "500ms", *words).code == 0
    name = NAME if words[1] == "any" else f"{NAME}-{words[1]}"
    assert interval(mesh, name=name) == (context, options("0.5s"))


def test_applies_to_pods_with_labels(run: Run, mesh: ApiServer) -> None:
    done = run("access-log", "-l", "app=web", "--every", "1m")
    assert done.code == 0
    assert done.err.startswith("applies to 1 proxy, ")
    assert "the open TCP connections of a proxy" in done.err
    assert done.err.splitlines()[-1].endswith("accesslog/app-web --to SERVICE")
    found = mesh.get("EnvoyFilter", "default", "accesslog-default-app-web")
    assert found["spec"]["workloadSelector"] == {"labels": {"app": "web"}}


def test_applies_to_the_whole_mesh(run: Run, mesh: ApiServer) -> None:
    mesh.put(mesh_config(accessLogFile="/dev/stdout", rootNamespace="lab"))
    mesh.put(sidecar_pod("far", namespace="prod"))
    done = run("access-log", "--mesh")
    assert done.code == 0
    assert done.err.startswith("applies to 4 proxies, ")
    assert "verify -n lab accesslog/mesh" in done.err
    assert filters(mesh) == {("lab", "accesslog-lab-mesh")}


@pytest.mark.parametrize(
    "words",
    [
        ["--gateway", "istio-ingressgateway"],
        ["--gateway", f"{ROOT}/istio-ingressgateway"],
        ["--gateway-selector", "app=istio-ingressgateway,istio=ingressgateway"],
        ["--gateway", "istio-ingressgateway", "-n", "lab"],
    ],
)
def test_applies_to_a_gateway(run: Run, mesh: ApiServer, words: list[str]) -> None:
    done = run("access-log", *words, "--name", "gw")
    assert done.code == 0
    assert done.err.startswith("applies to 1 proxy, ")
    ((namespace, name),) = filters(mesh)
    assert namespace == ROOT
    assert interval(mesh, namespace, name)[0] == "GATEWAY"
    selector = mesh.get("EnvoyFilter", namespace, name)["spec"]["workloadSelector"]["labels"]
    assert selector == {"app": "istio-ingressgateway", "istio": "ingressgateway"}


def test_an_old_proxy_gets_the_field_that_it_supports(run: Run, mesh: ApiServer) -> None:
    mesh.put(sidecar_pod("old", version="1.17.8"))
    done = run("access-log")
    assert "by access_log_flush_interval" in done.err
    assert interval(mesh) == ("ANY", {"access_log_flush_interval": "5s"})


def test_repeating_the_command_changes_nothing(run: Run, mesh: ApiServer) -> None:
    run("access-log")
    before = mesh.state()
    done = run("access-log")
    assert (done.code, done.out) == (0, APPLIED.replace("serverside-applied", "unchanged"))
    assert "U223" not in done.err
    assert mesh.state() == before


def test_a_change_replaces_the_setting(run: Run, mesh: ApiServer) -> None:
    run("access-log")
    done = run("access-log", "--every", "10s")
    assert "U223" in done.err
    assert interval(mesh) == ("ANY", options("10s"))
    assert len(filters(mesh)) == 1


@pytest.mark.parametrize("dry_run", ["client", "server"])
def test_a_dry_run_writes_nothing(run: Run, mesh: ApiServer, dry_run: str) -> None:
    done = run("access-log", "--dry-run", dry_run)
    assert done.code == 0 and "dry run)" in done.out
    assert mesh.writes() == []
    assert "prove it" not in done.err


@pytest.mark.parametrize("form", ["yaml", "json", "name"])
def test_output_for_programs(run: Run, mesh: ApiServer, form: str) -> None:
    done = run("access-log", "-o", form, "--dry-run", "client")
    if form == "name":
        assert done.out == f"envoyfilter.networking.istio.io/{NAME}\n"
    else:
        assert yaml.safe_load(done.out)["metadata"]["name"] == NAME


# -- warnings and refusals ----------------------------------------------------------------------


def test_warns_if_no_line_will_appear(run: Run, mesh: ApiServer) -> None:
    mesh.put(mesh_config())
    done = run("access-log")
    assert done.code == 0
    assert "U221" in done.err and "set meshConfig.accessLogFile: /dev/stdout" in done.err


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["-n", "lab"], "no pod in namespace lab has a proxy yet"),
        (["-l", "app=x"], "no pod in namespace default has a proxy and the labels app=x yet"),
    ],
)
def test_warns_if_no_proxy_is_selected(
    run: Run, mesh: ApiServer, words: list[str], where: str
) -> None:
    done = run("access-log", *words)
    assert done.code == 0
    assert done.err.startswith("applies to 0 proxies, ")
    assert "U222" in done.err and where in done.err
    assert "U223" not in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mesh", "--gateway", "a"], "--mesh cannot be combined with --gateway"),
        (["--mesh", "--gateway-selector", "a=b"], "--mesh cannot be combined with --gateway"),
        (
            ["--mesh", "-n", "lab"],
            "--mesh cannot be combined with -n: it already includes all namespaces",
        ),
        (
            ["--gateway", "a", "-l", "b=c"],
            "-l cannot be combined with --gateway: a gateway has its own labels",
        ),
        (
            ["-n", ROOT],
            f"an EnvoyFilter in {ROOT}, the mesh's root namespace, applies to every proxy",
        ),
        (["-l", "app"], "--selector 'app' is not KEY=VALUE"),
        (["--every", "500us"], "'--every'"),
        (["--every", "0"], "is too short; Envoy accepts 1ms or more"),
        (["--every", "soon"], "'--every'"),
        (["--direction", "up"], "'up' is not one of"),
        (
            ["--gateway", "istio-ingressgateway", "--direction", "inbound"],
            "--direction only applies to side",
        ),
        (["--name", "A_B"], "access log 'A_B' is not a valid Kubernetes name"),
        (["-n", "A_B"], "namespace 'A_B' is not a valid Kubernetes name"),
        (["extra"], "unexpected extra argument"),
    ],
)
def test_wrong_usage(run: Run, mesh: ApiServer, words: list[str], message: str) -> None:
    done = run("access-log", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert filters(mesh) == set()


def test_the_root_namespace_is_that_of_the_mesh_config(run: Run, mesh: ApiServer) -> None:
    mesh.put(mesh_config(rootNamespace="lab", accessLogFile="x"))
    done = run("access-log", "-n", "lab")
    assert done.code == 2
    assert "--mesh" in done.err and "--gateway" in done.err
    assert run("access-log", "-n", ROOT).code == 0


@pytest.mark.parametrize("name", ["nothing", "lab/nothing"])
def test_a_missing_gateway(run: Run, mesh: ApiServer, name: str) -> None:
    done = run("access-log", "--gateway", name)
    assert done.code in (2, 3)
    assert "gateway" in done.err and filters(mesh) == set()


def test_an_overlapping_access_log_is_refused(run: Run, mesh: ApiServer) -> None:
    run("access-log")
    done = run("access-log", "-l", "app=web")
    assert done.code == 3
    assert "U121" in done.err
    assert "kubectl istio-udp delete -n default accesslog/namespace" in done.err
    assert len(filters(mesh)) == 1


def test_an_interval_set_by_another_envoy_filter_is_refused(run: Run, mesh: ApiServer) -> None:
    config = {"typed_config": {"accessLogFlushInterval": "1s"}, "name": TCP_PROXY}
    theirs = envoy_filter("theirs")
    patch = {"applyTo": "NETWORK_FILTER", "patch": {"operation": "MERGE", "value": config}}
    theirs["spec"]["configPatches"] = [patch]
    mesh.put(theirs)
    done = run("access-log")
    assert done.code == 3
    assert "U121" in done.err
    assert f"kubectl delete envoyfilter -n {ROOT} theirs" in done.err


def test_another_envoy_filter_with_the_name_is_refused(run: Run, mesh: ApiServer) -> None:
    mesh.put(envoy_filter(NAME, namespace="default"))
    done = run("access-log")
    assert done.code == 3
    assert f"EnvoyFilter default/{NAME} already exists and does not belong" in done.err
    assert mesh.writes() == []


def test_missing_permission_to_list_pods_is_reported(run: Run, mesh: ApiServer) -> None:
    mesh.fail("GET", "/default/pods", 403)
    done = run("access-log")
    assert done.code == 3
    assert "no permission to list pods" in done.err


# -- taking it away -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["access-log", "--off"],
        ["access-log", "--off", "--name", "namespace"],
        ["delete", "accesslog/namespace"],
        ["delete", "--all"],
    ],
)
def test_deletes_its_objects_and_nothing_else(run: Run, mesh: ApiServer, words: list[str]) -> None:
    before = mesh.state()
    run("access-log")
    done = run(*words)
    assert (done.code, done.out) == (0, DELETED)
    assert "closes the open TCP connections" in done.err
    assert mesh.state() == before


@pytest.mark.parametrize(
    ("made", "off"),
    [
        (["--mesh"], ["--mesh", "--off"]),
        (["--gateway", "istio-ingressgateway"], ["--gateway", "istio-ingressgateway", "--off"]),
        (["-l", "app=web"], ["-l", "app=web", "--off"]),
        (["-n", "lab"], ["-n", "lab", "--off"]),
    ],
)
def test_off_deletes_the_one_with_its_scope(
    run: Run, mesh: ApiServer, made: list[str], off: list[str]
) -> None:
    assert run("access-log", *made).code == 0
    assert len(filters(mesh)) == 1
    assert run("access-log", *off).code == 0
    assert filters(mesh) == set()


@pytest.mark.parametrize("dry_run", ["client", "server"])
@pytest.mark.parametrize("words", [["access-log", "--off"], ["delete", "accesslog/namespace"]])
def test_off_supports_dry_runs(run: Run, mesh: ApiServer, words: list[str], dry_run: str) -> None:
    run("access-log")
    done = run(*words, "--dry-run", dry_run)
    said = "(dry run)" if dry_run == "client" else "(server dry run)"
    assert (done.code, done.out) == (0, DELETED.replace("\n", f" {said}\n"))
    assert filters(mesh) == {("default", NAME)}


def test_off_without_an_access_log(run: Run, mesh: ApiServer) -> None:
    done = run("access-log", "--off")
    assert done.code == 3
    assert "access log namespace not found in namespace default" in done.err


# -- get and describe ---------------------------------------------------------------------------


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_get(run: Run, mesh: ApiServer) -> None:
    run("access-log", "-l", "app=web,tier=a", "--direction", "inbound", "--name", "web")
    headers, row = table(run("get", "accesslog/web").out)
    assert headers == ["NAME", "EVERY", "SCOPE", "SELECTOR", "DIRECTION", "STATUS", "AGE"]
    assert row[:-1] == ["web", "5s", "namespace", "app=web,tier=a", "inbound", "ok"]
    headers, row = table(run("get", "accesslog/web", "-o", "wide").out)
    assert (headers[-1], row[-1]) == ("FIELD", "access_log_options")


def test_describe(run: Run, mesh: ApiServer) -> None:
    run("access-log")
    done = run("describe", "accesslog/namespace")
    assert done.code == 0
    for line in ("Type:        access log", "  every: 5s", "  reach: namespace"):
        assert line in done.out.splitlines()
    assert "Gateway pods:" not in done.out


# -- verify -------------------------------------------------------------------------------------


class Mesh:
    """A mesh that injects sidecars, with proxies that log the held connection.

    Attributes:
        ages: the milliseconds that the connection is open at each line, by pod; else `usual`.
        hold: what becomes of the command that holds it.
    """

    def __init__(self, server: ApiServer, fakes: Fakes) -> None:
        self.server = server
        self.ages: dict[str, tuple[int, ...]] = {}
        self.usual: tuple[int, ...] = (200, 400, 600, 800)
        self.hold = Exec(hangs=True)
        self.holds: list[list[str]] = []
        server.seen = self.seen
        self.fallback = fakes.run
        server.run = self.run

    def run(self, namespace: str, pod: str, container: str, command: list[str]) -> Exec:
        if command[0] == "sh" and "SECONDS_LONG" in command[2]:
            self.holds.append(command[4:])
            return self.hold
        return self.fallback(namespace, pod, container, command)

    def seen(self, request: Request) -> None:
        if request.method == "PATCH" and "/pods/" in request.path:
            proxy = {"name": "istio-proxy", "image": "docker.io/istio/proxyv2:1.31.0"}
            request.body["spec"]["containers"].append(proxy)
        if request.path.endswith("/log"):
            _, _, _, _, namespace, _, pod, _ = request.path.split("/")
            lines = [self.line(age) for age in self.ages.get(pod, self.usual)]
            self.server.logs[namespace, pod] = "".join(lines)

    def line(self, age: int) -> str:
        """A line with every address that the proxy of the client or the server would write."""
        services = {s["metadata"]["name"]: s["spec"] for s in self.server.all("Service")}
        ends = []
        for name, spec in services.items():
            if name.startswith(("tcp-echo", "db")):
                port = spec["ports"][0]["port"]
                ends += [f"{spec['clusterIP']}:{port}", f"10.244.0.99:{port}"]
        seen = " ".join([*ends, "10.244.0.41:5432", f"{CLIENT}:40000"])
        return (
            "2026-11-24T09:36:30.1Z [2026-11-24T09:36:30.138Z] "
            f'"- - -" 0 - - - "-" 0 0 {age} - "-" {seen}\n'
        )


def test_settings_not_named_stay_and_changes_are_shown(run: Run, mesh: ApiServer) -> None:
    words = ("--every", "1s", "--direction", "inbound", "-l", "app=web")
    assert run("access-log", "--name", "web", *words).code == 0
    there = mesh.state()
    done = run("access-log", "--name", "web")
    assert done.code == 0 and " -> " not in done.err
    assert mesh.state() == there
    done = run("access-log", "--name", "web", "--direction", "outbound")
    assert [line.strip() for line in done.err.splitlines() if " -> " in line] == [
        "direction: inbound -> outbound"
    ]
    assert interval(mesh, name="accesslog-default-web") == ("SIDECAR_OUTBOUND", options("1s"))


@pytest.fixture
def proxies(mesh: ApiServer, fakes: Fakes) -> Mesh:
    return Mesh(mesh, fakes)


@pytest.fixture
def database(server: ApiServer) -> ApiServer:
    """A Service with two pods in the mesh; one of them gets the connection."""
    server.put(
        service("db", ports=[tcp(5432, "tcp-db")], clusterIP="10.96.0.77"),
        endpoint_slice(
            endpoint("10.244.0.41", "db-1"),
            endpoint("10.244.0.42", "db-2"),
            of="db",
            ports=[{"name": "tcp-db", "port": 5432, "protocol": "TCP"}],
        ),
        sidecar_pod("db-1", app="db", ip="10.244.0.41"),
        sidecar_pod("db-2", app="db", ip="10.244.0.42"),
    )
    return server


EVERY = ("access-log", "--every", "200ms")


def last(done: Run) -> str:
    return done.out.splitlines()[-1]


def first_hold(proxies: Mesh) -> list[str]:
    """The first held connection; `verify` may have seen enough lines before it began."""
    deadline = time.monotonic() + 10
    while not proxies.holds and time.monotonic() < deadline:
        time.sleep(0.01)
    return proxies.holds[0]


def test_verify_with_a_server_for_one_run(run: Run, mesh: ApiServer, proxies: Mesh) -> None:
    run(*EVERY)
    before = mesh.there()
    done = run("verify", "accesslog/namespace")
    assert (done.code, last(done)) == (0, "accesslog/namespace: a line every 0.2s")
    rows = table(done.out)
    assert rows[0] == ["SIDE", "PROXY", "APPLIES", "LINES", "INTERVAL", "LAST", "LINE"]
    assert rows[1][:5] == ["client", "default/network-tool", "yes", "4", "0.20s"]
    assert rows[2][0] == "server" and rows[2][1].startswith("default/tcp-echo-")
    assert rows[2][2:5] == ["yes", "4", "0.20s"]
    assert mesh.there() == before
    address, port, _ = first_hold(proxies)
    assert (address.startswith("10.96.1."), port) == (True, "9000")


def test_verify_deletes_the_server_after_a_failure(
    run: Run, mesh: ApiServer, proxies: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*EVERY)
    before = mesh.there()

    def interrupted(*_: Api | Proxy | int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify_accesslog, "proxy_log", interrupted)
    assert run("verify", "accesslog/namespace").code == 130
    assert mesh.there() == before


@pytest.mark.parametrize("to", ["db", "db:5432", "default/db:tcp-db"])
def test_verify_with_a_service(run: Run, proxies: Mesh, database: ApiServer, to: str) -> None:
    """Of its two pods, one does not have the connection and writes no line, which is no error."""
    run(*EVERY)
    proxies.ages["db-2"] = ()
    done = run("verify", "accesslog/namespace", "--to", to)
    assert done.code == 0
    assert [row[1] for row in table(done.out)[1:3]] == ["default/network-tool", "default/db-1"]
    assert "db-2" not in done.out
    assert first_hold(proxies)[:2] == ["10.96.0.77", "5432"]


@pytest.mark.parametrize(
    ("pod", "ages", "verdict"),
    [
        (
            "db-1",
            (500, 1000, 1500, 2000),
            "the server's proxy default/db-1 wrote a line every 0.50s, not every 0.2s",
        ),
        ("db-1", (), "the server's proxy default/db-1 wrote no line for an open connection"),
        (
            "network-tool",
            (200,),
            "the client's proxy default/network-tool wrote one line for an open connection",
        ),
    ],
)
def test_verify_reports_what_is_wrong(
    run: Run, proxies: Mesh, database: ApiServer, pod: str, ages: tuple[int, ...], verdict: str
) -> None:
    run(*EVERY)
    proxies.ages = {"db-2": (), pod: ages}
    done = run("verify", "accesslog/namespace", "--to", "db")
    assert done.code == 1
    assert verdict in last(done)


def test_verify_of_one_direction_expects_no_lines_from_the_other(
    run: Run, proxies: Mesh, database: ApiServer
) -> None:
    run(*EVERY, "--direction", "inbound")
    proxies.ages = {"db-2": ()}
    done = run("verify", "accesslog/namespace-inbound", "--to", "db")
    assert done.code == 1
    says = "writes lines although the access log does not apply to it"
    assert says in last(done)
    # Every proxy writes one line when a connection ends.
    proxies.ages["network-tool"] = (800,)
    done = run("verify", "accesslog/namespace-inbound", "--to", "db")
    assert done.code == 0
    assert table(done.out)[1][2] == "no"


def test_verify_of_labels_needs_a_service(run: Run, proxies: Mesh, database: ApiServer) -> None:
    run(*EVERY, "-l", "app=db")
    done = run("verify", "accesslog/app-db")
    assert done.code == 2
    assert "accesslog/app-db applies only to pods with certain labels" in done.err
    assert "--to [NAMESPACE/]SERVICE[:PORT]" in done.err
    proxies.ages = {"network-tool": (), "db-2": ()}
    done = run("verify", "accesslog/app-db", "--to", "db")
    assert done.code == 0
    assert [row[2] for row in table(done.out)[1:3]] == ["no", "yes"]


def test_verify_if_no_proxy_is_selected(
    run: Run, mesh: ApiServer, proxies: Mesh, database: ApiServer
) -> None:
    run(*EVERY, "-l", "app=other")
    done = run("verify", "accesslog/app-other", "--to", "db")
    assert done.code == 1
    assert "nor to the server, so no line would appear" in last(done)
    assert proxies.holds == []


def test_verify_of_the_whole_mesh(run: Run, mesh: ApiServer, proxies: Mesh) -> None:
    run(*EVERY, "--mesh")
    done = run("verify", "-n", ROOT, "accesslog/mesh", "--tool-pod", "default/network-tool")
    assert done.code == 0
    assert table(done.out)[2][1].startswith("default/tcp-echo-")


def test_verify_without_a_sidecar_beside_the_tool(
    run: Run, mesh: ApiServer, proxies: Mesh, database: ApiServer
) -> None:
    """Only the server's proxy is checked then."""
    bare = mesh.get("Pod", "default", "network-tool")
    bare["spec"]["containers"] = bare["spec"]["containers"][:1]
    mesh.put(bare)
    run(*EVERY)
    proxies.ages = {"db-2": ()}
    done = run("verify", "accesslog/namespace", "--to", "db")
    assert done.code == 0
    assert [row[0] for row in table(done.out)[1:-1]] == ["server"]


def test_verify_reports_a_connection_that_ends_at_once(
    run: Run, proxies: Mesh, database: ApiServer
) -> None:
    run("access-log", "--every", "30s")
    proxies.usual, proxies.hold = (), Exec(code=124)
    done = run("verify", "accesslog/namespace", "--to", "db")
    assert done.code == 1
    assert last(done).endswith("; the connection ended at once")


def test_verify_reports_a_tool_pod_without_nc(run: Run, proxies: Mesh, database: ApiServer) -> None:
    run(*EVERY)
    proxies.usual, proxies.hold = (), Exec(code=127)
    done = run("verify", "accesslog/namespace", "--to", "db")
    assert done.code == 3
    assert "pod default/network-tool cannot run nc" in done.err and "--tool-pod" in done.err


def test_verify_fails_if_the_connection_was_never_opened(
    run: Run, proxies: Mesh, database: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def ended(*_: Any) -> Iterator[HeldConnection]:
        connection = HeldConnection()
        connection.ended.set()
        yield connection

    monkeypatch.setattr("kubectl_istio_udp.verify.accesslog.held", ended)
    run(*EVERY)
    done = run("verify", "accesslog/namespace", "--to", "db")
    assert done.code == 1
    assert "wrote no line" in last(done)


@pytest.mark.parametrize(
    ("to", "code", "message"),
    [
        ("nothing", 3, "service nothing not found in namespace default"),
        ("db:80", 2, "Service default/db has no TCP port 80"),
        ("coredns", 2, "Service default/coredns has no TCP port"),
    ],
)
def test_verify_to_a_missing_service(
    run: Run, proxies: Mesh, database: ApiServer, to: str, code: int, message: str
) -> None:
    run(*EVERY)
    done = run("verify", "accesslog/namespace", "--to", to)
    assert done.code == code
    assert message in done.err


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_verify_data_for_programs(run: Run, proxies: Mesh, database: ApiServer, form: str) -> None:
    run(*EVERY)
    proxies.ages["db-2"] = ()
    done = run("verify", "accesslog/namespace", "--to", "db", "-o", form)
    (found,) = json.loads(done.out) if form == "json" else yaml.safe_load(done.out)
    assert (found["kind"], found["name"], found["good"]) == ("accesslog", "namespace", True)
    client, server = found["sides"]
    assert (client["side"], client["proxy"]) == ("client", "default/network-tool")
    assert (server["inReach"], len(server["lines"])) == (True, 4)
    assert server["intervalSeconds"] == pytest.approx(0.2)


def test_verify_of_a_gateways_access_log(run: Run, mesh: ApiServer, proxies: Mesh) -> None:
    """Its pods are the servers of a TCP port of its Service."""
    front = gateway_service(clusterIP="10.96.0.80")
    front["spec"]["ports"].append(tcp(5432, "tcp-db"))
    mesh.put(
        front,
        endpoint_slice(
            endpoint("10.244.0.41", "istio-ingressgateway-1"),
            of="istio-ingressgateway",
            namespace=ROOT,
            ports=[{"name": "tcp-db", "port": 5432, "protocol": "TCP"}],
        ),
    )
    run(*EVERY, "--gateway", "istio-ingressgateway")
    proxies.ages["network-tool"] = ()
    words = ["-n", ROOT, "accesslog/istio-ingressgateway", "--tool-pod", "default/network-tool"]
    done = run("verify", *words, "--to", "istio-ingressgateway")
    assert done.code == 0
    assert [row[:3] for row in table(done.out)[1:3]] == [
        ["client", "default/network-tool", "no"],
        ["server", f"{ROOT}/istio-ingressgateway-1", "yes"],
    ]
