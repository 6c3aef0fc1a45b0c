"""`direct response`, and get, describe, verify and delete of what it makes."""

from __future__ import annotations

import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.apiserver import ApiServer, Exec, Request
from tests.support.builders import (
    endpoint,
    endpoint_slice,
    gateway_pod,
    gateway_service,
    service,
    tcp,
)
from tests.support.fakes import Fakes, page
from tests.support.mesh_builders import (
    RATINGS,
    envoy_filter,
    istio_gateway,
    istiod_pod,
    sidecar_pod,
    virtual_service,
)
from tests.unit.conftest import Run

NAME = "response-default-hello"
POD = "istio-ingressgateway-1"
INTERRUPTED = 130
HELLO = ("direct", "response", "/hello", "--body", "hi")
GATEWAY_TARGET, SERVICE_TARGET = "10.244.0.7:8080", "10.96.0.80:80"
VIRTUAL_SERVICE = f"virtualservice.networking.istio.io/{NAME}"
ENVOY_FILTER = f"envoyfilter.networking.istio.io/{NAME}"
GATEWAY = f"gateway.networking.istio.io/{NAME}"


@pytest.fixture
def edge(server: ApiServer) -> ApiServer:
    """The gateway has an Istio Gateway on port 80, and the Service's endpoints are known."""
    ports = [{"name": "http2", "port": 8080, "protocol": "TCP"}]
    server.put(
        istio_gateway(),
        istiod_pod(),
        endpoint_slice(
            endpoint("10.244.0.7", POD),
            of="istio-ingressgateway",
            namespace="istio-system",
            ports=ports,
        ),
    )
    return server


def written(
    server: ApiServer, kind: str = "VirtualService", namespace: str = "default", name: str = NAME
) -> Any:
    return server.get(kind, namespace, name)


def route(server: ApiServer) -> Any:
    return written(server)["spec"]["http"][0]


# -- writing ------------------------------------------------------------------------------------


def test_writes_a_virtual_service(run: Run, edge: ApiServer) -> None:
    done = run(*HELLO, "--status", "201", "--header", "Content-Type=text/plain")
    assert (done.code, done.out) == (0, f"{VIRTUAL_SERVICE} serverside-applied\n")
    assert done.err.splitlines() == [
        "Istio API: virtualservice (control plane 1.31, gateway 1.31)",
        "test it: kubectl istio-udp verify -n default response/hello",
    ]
    spec = written(edge)["spec"]
    assert (spec["hosts"], spec["gateways"]) == (["*"], ["istio-system/edge"])
    assert route(edge)["match"] == [{"uri": {"exact": "/hello"}, "port": 80}]
    assert route(edge)["directResponse"] == {"status": 201, "body": {"string": "hi"}}
    assert route(edge)["headers"]["response"]["set"] == {"content-type": "text/plain"}
    assert edge.writes() == [
        "PATCH /apis/networking.istio.io/v1beta1/namespaces/default/virtualservices/" + NAME
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["/hello"],
        ["--body", "hi", "/hello"],
        ["-n", "default", "/hello", "--body", "hi"],
        ["response", "/hello"],
        ["response", "--status", "204", "/hello"],
    ],
)
def test_a_path_is_short_for_a_response(run: Run, edge: ApiServer, words: list[str]) -> None:
    assert run("direct", *words).code == 0
    assert written(edge)


def test_the_path_of_a_file_is_not_a_request_path(
    run: Run, kubeconfig: Path, fakes: Fakes, edge: ApiServer
) -> None:
    done = run("direct", "--kubeconfig", str(kubeconfig), "coredns")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "coredns: 2 pods answered"
    assert not written(edge)


def test_the_name_of_a_context_is_not_a_request_path(
    run: Run, kubeconfig: Path, fakes: Fakes, edge: ApiServer
) -> None:
    """OpenShift's name of a context without a project."""
    config = yaml.safe_load(kubeconfig.read_text("utf-8"))
    config["contexts"].append({**config["contexts"][0], "name": "/api-example-com:6443/jane"})
    kubeconfig.write_text(yaml.safe_dump(config), "utf-8")
    done = run("direct", "--context", "/api-example-com:6443/jane", "coredns")
    assert (done.code, done.out.splitlines()[-1]) == (0, "coredns: 2 pods answered")
    assert not written(edge)


def test_a_file_before_the_path_is_not_a_request_path(
    run: Run, kubeconfig: Path, edge: ApiServer, tmp_path: Path
) -> None:
    body = tmp_path / "body"
    body.write_text("from a file", "utf-8")
    words = ["--kubeconfig", str(kubeconfig), "--body-file", str(body), "/hello"]
    assert run("direct", *words).code == 0
    assert route(edge)["directResponse"]["body"] == {"string": "from a file"}


def test_the_group_and_the_subcommand_have_help(run: Run) -> None:
    done = run("direct", "--help")
    assert done.code == 0 and "query" in done.out and "response" in done.out
    done = run("direct", "response", "--help")
    assert done.code == 0 and "--create-gateway" in done.out


def test_a_binary_body(run: Run, edge: ApiServer, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\xff\x00")
    assert run("direct", "/hello", "--body-file", str(body), "--binary").code == 0
    assert base64.b64decode(route(edge)["directResponse"]["body"]["bytes"]) == b"\xff\x00"


def test_a_body_from_standard_input(
    run: Run, edge: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Input:
        class buffer:
            @staticmethod
            def read() -> bytes:
                return b"typed"

    monkeypatch.setattr("sys.stdin", Input)
    assert run("direct", "/hello", "--body-file", "-").code == 0
    assert route(edge)["directResponse"]["body"] == {"string": "typed"}


@pytest.mark.parametrize("words", [[], ["--body", ""]])
def test_without_a_body(run: Run, edge: ApiServer, words: list[str]) -> None:
    assert run("direct", "/hello", *words).code == 0
    assert route(edge)["directResponse"] == {"status": 200}


def test_prefix_hosts_and_name(run: Run, edge: ApiServer) -> None:
    words = ["--prefix", "--host", "a.example.com", "--host", "a.example.com", "--host", "b.org"]
    assert run("direct", "/api/", *words, "--name", "hello").code == 0
    assert written(edge)["spec"]["hosts"] == ["a.example.com", "b.org"]
    assert route(edge)["match"] == [{"uri": {"prefix": "/api/"}, "port": 80}]


def test_another_namespace(run: Run, edge: ApiServer) -> None:
    assert run("direct", "/hello", "-n", "lab").code == 0
    assert written(edge, namespace="lab", name="response-lab-hello")


def test_create_gateway_creates_a_gateway(run: Run, server: ApiServer) -> None:
    done = run(*HELLO, "--create-gateway", "--gateway-port", "8888", "--host", "a.org")
    assert done.code == 0
    assert done.out.splitlines() == [
        f"{GATEWAY} serverside-applied",
        f"{VIRTUAL_SERVICE} serverside-applied",
    ]
    (made,) = written(server, "Gateway", "istio-system")["spec"]["servers"]
    assert made["port"] == {"number": 8888, "name": "http-8888", "protocol": "HTTP"}
    assert made["hosts"] == ["a.org"]
    assert written(server)["spec"]["gateways"] == [f"istio-system/{NAME}"]
    # The created Gateway stays without naming it again, until there is another server.
    assert run(*HELLO, "--gateway-port", "8888", "--host", "a.org").code == 0
    assert written(server, "Gateway", "istio-system")
    server.put(istio_gateway(port=8888))
    done = run(*HELLO, "--gateway-port", "8888", "--host", "a.org")
    assert done.out.splitlines()[-1] == f'gateway.networking.istio.io "{NAME}" deleted'
    assert written(server)["spec"]["gateways"] == ["istio-system/edge"]


def test_api_envoyfilter_writes_an_envoy_filter(run: Run, edge: ApiServer) -> None:
    done = run(*HELLO, "--api", "envoyfilter", "--header", "x-a=50%")
    assert done.code == 0
    assert done.out.splitlines() == [
        f"{VIRTUAL_SERVICE} serverside-applied",
        f"{ENVOY_FILTER} serverside-applied",
    ]
    assert "Istio API: envoyfilter (as set for this response)" in done.err
    (patch,) = written(edge, "EnvoyFilter", "istio-system")["spec"]["configPatches"]
    assert patch["patch"]["operation"] == "INSERT_FIRST"
    assert patch["patch"]["value"]["direct_response"] == {
        "status": 200,
        "body": {"inline_string": "hi"},
    }


@pytest.mark.parametrize(("istiod", "gateway"), [("1.14.6", "1.31.0"), ("1.31.0", "1.12.1")])
def test_an_istio_without_direct_responses_gets_an_envoy_filter(
    run: Run, edge: ApiServer, istiod: str, gateway: str
) -> None:
    edge.put(istiod_pod(version=istiod), gateway_pod(image=f"istio/proxyv2:{gateway}"))
    done = run(*HELLO)
    assert done.code == 0
    assert "Istio API: envoyfilter (control plane 1." in done.err
    assert written(edge, "EnvoyFilter", "istio-system")


def test_changing_the_api_deletes_the_other_objects(run: Run, edge: ApiServer) -> None:
    assert run(*HELLO, "--api", "envoyfilter").code == 0
    done = run(*HELLO, "--api", "virtualservice")
    assert done.out.splitlines() == [
        f"{VIRTUAL_SERVICE} serverside-applied",
        f'envoyfilter.networking.istio.io "{NAME}" deleted',
    ]
    assert not written(edge, "EnvoyFilter", "istio-system")


def test_repeating_the_command_changes_nothing(run: Run, edge: ApiServer) -> None:
    run(*HELLO)
    before, count = edge.state(), len(edge.requests)
    done = run(*HELLO)
    assert (done.code, done.out) == (0, f"{VIRTUAL_SERVICE} unchanged\n")
    assert edge.state() == before
    assert len(edge.requests) > count


def test_settings_not_named_stay_and_changes_are_shown(run: Run, edge: ApiServer) -> None:
    run(*HELLO, "--header", "x-a=1")
    done = run("direct", "/hello", "--status", "404")
    assert done.code == 0
    assert route(edge)["directResponse"] == {"status": 404, "body": {"string": "hi"}}
    assert route(edge)["headers"]["response"]["set"] == {"x-a": "1"}
    assert [line.strip() for line in done.err.splitlines() if " -> " in line] == [
        "status: 200 -> 404"
    ]
    again = run("direct", "/hello")
    assert again.code == 0 and " -> " not in again.err
    assert again.out == f"{VIRTUAL_SERVICE} unchanged\n"
    bare = run("direct", "/hello", "--body", "", "--header", "x-b=2")
    assert "-> none" in bare.err and "headers: x-a=1 -> x-b=2" in bare.err
    assert route(edge)["directResponse"] == {"status": 404}


def test_the_api_and_a_binary_body_stay(run: Run, edge: ApiServer, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\xff\x00")
    words = ("direct", "/hello", "--body-file", str(body), "--binary", "--api", "envoyfilter")
    assert run(*words, "--prefix").code == 0
    done = run("direct", "/hello", "--status", "201")
    assert [line.strip() for line in done.err.splitlines() if " -> " in line] == [
        "status: 200 -> 201"
    ]
    patch = written(edge, "EnvoyFilter", "istio-system")["spec"]["configPatches"][0]["patch"]
    direct = patch["value"]["direct_response"]
    assert direct == {"status": 201, "body": {"inline_bytes": "/wA="}}
    assert patch["value"]["match"] == {"prefix": "/hello"}


def is_refused(run: Run, server: ApiServer, *words: str) -> None:
    """The command writes nothing, and says what to type next."""
    before = server.state()
    done = run(*words)
    assert done.code == 2 and "may not decide about an EnvoyFilter" in done.err
    assert "kubectl istio-udp delete -n default response/hello" in done.err
    assert server.state() == before


def test_a_virtual_service_does_not_decide_about_an_envoy_filter(run: Run, edge: ApiServer) -> None:
    run(*HELLO)
    is_refused(run, edge, *HELLO, "--api", "envoyfilter")
    assert run("delete", "response/hello").code == 0
    assert run(*HELLO, "--api", "envoyfilter").code == 0
    # Anyone who may write VirtualServices in the namespace can create this one.
    forged = written(edge)
    edge.remove("EnvoyFilter", "istio-system", NAME)
    is_refused(run, edge, "direct", "/hello", "--status", "404")
    text = forged["metadata"]["annotations"]["kubectl-istio-udp/spec"]
    forged["metadata"]["annotations"]["kubectl-istio-udp/spec"] = text.replace(
        '"istio-system"', '"default"'
    )
    edge.put(forged)
    is_refused(run, edge, "direct", "/hello", "--status", "404")


def test_the_api_may_be_chosen_again(run: Run, edge: ApiServer) -> None:
    assert run(*HELLO, "--api", "auto").code == 0
    before = edge.state()
    done = run(*HELLO, "--api", "auto")
    assert done.code == 0, done.err
    assert edge.state() == before
    # An Istio without directResponse would get an EnvoyFilter.
    edge.put(istiod_pod(version="1.14.6"))
    is_refused(run, edge, *HELLO, "--api", "auto")


def test_a_change_that_stopped_before_the_envoy_filter_is_finished(
    run: Run, edge: ApiServer
) -> None:
    """The EnvoyFilter in the gateway's namespace decides, not the VirtualService."""
    assert run(*HELLO, "--api", "envoyfilter").code == 0
    change = ("direct", "/hello", "--status", "404")
    edge.fail("PATCH", "envoyfilters", 500)
    edge.fail("PATCH", "virtualservices", 500, skip=1)
    done = run(*change)
    assert done.code == 3 and "could not be undone" in done.err
    edge.heal()
    done = run(*change)
    assert done.code == 0, done.err
    assert "status: 200 -> 404" in done.err
    (patch,) = written(edge, "EnvoyFilter", "istio-system")["spec"]["configPatches"]
    answer = patch["patch"]["value"]["direct_response"]
    assert answer == {"status": 404, "body": {"inline_string": "hi"}}


def test_a_body_that_was_edited_must_be_named(run: Run, edge: ApiServer) -> None:
    run(*HELLO)
    changed = written(edge)
    changed["spec"]["http"][0]["directResponse"]["body"]["string"] = "theirs"
    edge.put(changed)
    done = run("direct", "/hello", "--status", "404", "--force-conflicts")
    assert done.code == 2 and "cannot be read from its objects" in done.err
    assert run(*HELLO, "--force-conflicts").code == 0


# -- showing without writing --------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", ["client", "server"])
def test_a_dry_run_writes_nothing(run: Run, edge: ApiServer, dry_run: str) -> None:
    before = edge.state()
    done = run(*HELLO, "--dry-run", dry_run)
    said = "(dry run)" if dry_run == "client" else "(server dry run)"
    assert done.out == f"{VIRTUAL_SERVICE} serverside-applied {said}\n"
    assert (done.code, edge.state(), edge.writes()) == (0, before, [])
    assert "prove it" not in done.err


@pytest.mark.parametrize("form", ["yaml", "json", "name"])
@pytest.mark.parametrize("more", [[], ["--dry-run", "client"]])
def test_output_for_programs(run: Run, edge: ApiServer, form: str, more: list[str]) -> None:
    done = run(*HELLO, "--api", "envoyfilter", "-o", form, *more)
    assert done.code == 0
    if form == "name":
        assert done.out.splitlines() == [VIRTUAL_SERVICE, ENVOY_FILTER]
        return
    found = json.loads(done.out)["items"] if form == "json" else list(yaml.safe_load_all(done.out))
    assert [o["kind"] for o in found] == ["VirtualService", "EnvoyFilter"]


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hello"], "path 'hello' does not begin with /"),
        (["/a b"], "is not a valid path of a request"),
        (["/a?b=c"], "is not a valid path of a request"),
        (["/a/../b"], "proxies resolve /./ and /../"),
        (["/x", "--status", "199"], "--status 199 is not between 200 and 599"),
        (["/x", "--status", "600"], "--status 600 is not between 200 and 599"),
        (["/x", "--status", "x"], "'x' is not a valid integer"),
        (["/x", "--body", "a", "--body-file", "-"], "--body and --body-file cannot be combined"),
        (["/x", "--body-file", "/does/not/exist"], "does not exist"),
        (["/x", "--binary"], "--binary needs a body"),
        (["/x", "--body", "\udcff"], "the body is not UTF-8 text"),
        (["/x", "--header", "plain"], "--header 'plain' is not NAME=VALUE"),
        (["/x", "--header", "a b=c"], "--header 'a b=c' is not NAME=VALUE"),
        (["/x", "--header", "Host=a"], "--header Host: the proxy sets this header itself"),
        (["/x", "--header", "a=1", "--header", "A=2"], "--header a is given twice"),
        (["/x", "--host", "a:80"], "--host 'a:80' is not a valid host"),
        (["/x", "--host", "*.a.org", "--host", "b.a.org"], "--host *.a.org already covers b.a.org"),
        (["/x", "--mesh"], "inside the mesh a response needs exactly one host"),
        (["/x", "--mesh", "--host", "*.a.b"], "needs exactly one host: the DNS name of a Service"),
        (
            ["/x", "--mesh", "--host", "a.b", "--host", "c.b"],
            "needs exactly one host: the DNS name of a Service",
        ),
        (["/x", "--mesh", "--gateway", "a"], "--mesh answers at sidecars and cannot be"),
        (["/x", "--mesh", "--gateway-selector", "a=b"], "--mesh answers at sidecars and cannot be"),
        (["/x", "--mesh", "--create-gateway"], "--mesh answers at sidecars and cannot be"),
        (["/x", "--name", "A_B"], "response 'A_B' is not a valid Kubernetes name"),
        (["/x", "-n", "A_B"], "namespace 'A_B' is not a valid Kubernetes name"),
        (["/x", "--gateway-port", "0"], "0 is not in the range"),
        (["/x", "--api", "gateway-api"], "'gateway-api' is not one of"),
        (["/x", "--gateway-selector", "x"], "--gateway-selector 'x' is not KEY=VALUE"),
        ([], "Missing argument 'PATH'"),
    ],
)
def test_wrong_usage(run: Run, edge: ApiServer, words: list[str], message: str) -> None:
    before = edge.state()
    done = run("direct", "response", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert edge.state() == before


def test_a_body_that_cannot_be_read(
    run: Run, edge: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = tmp_path / "body"
    body.write_text("x", "utf-8")

    def denied(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    done = run("direct", "/hello", "--body-file", str(body))
    assert done.code == 2
    assert f"--body-file {body}: Permission denied" in done.err


def test_no_server_on_the_port(run: Run, server: ApiServer) -> None:
    done = run(*HELLO)
    assert done.code == 3
    assert "U111" in done.err and "--create-gateway" in done.err
    assert "nothing was written" in done.err
    assert server.writes() == []


def test_another_virtual_service_with_the_name(run: Run, edge: ApiServer) -> None:
    edge.put(virtual_service(NAME, hosts=("other.example.com",)))
    done = run(*HELLO)
    assert done.code == 3
    assert (
        f"VirtualService default/{NAME} already exists and does not belong to response hello"
        in done.err
    )
    assert "give the response another name: --name" in done.err
    assert edge.writes() == []


def test_an_older_route_of_another_virtual_service(run: Run, edge: ApiServer) -> None:
    match = [{"uri": {"exact": "/hello"}}]
    edge.put(virtual_service(hosts=("*",), http=[{"match": match}]))
    done = run(*HELLO)
    assert done.code == 3
    assert "U113" in done.err and "--api envoyfilter" in done.err
    done = run(*HELLO, "--api", "envoyfilter")
    assert done.code == 0
    assert "U213" in done.err and "default/shop" in done.err


def test_an_api_that_this_istio_does_not_support(run: Run, edge: ApiServer) -> None:
    edge.put(istiod_pod(version="1.14.0"))
    done = run(*HELLO, "--api", "virtualservice")
    assert done.code == 3
    assert "U115" in done.err


@pytest.mark.parametrize("gone", [0, 1])
def test_a_failed_write_undoes_everything(run: Run, server: ApiServer, gone: int) -> None:
    before = server.state()
    server.fail("PATCH", "/(virtualservices|gateways)/", 403, skip=gone)
    done = run(*HELLO, "--create-gateway")
    assert done.code == 3
    assert "no permission to patch" in done.err
    assert server.state() == before


# -- waiting ------------------------------------------------------------------------------------


def test_reports_a_gateway_without_the_route(run: Run, edge: ApiServer, fakes: Fakes) -> None:
    fakes.stuck = True
    done = run(*HELLO, "--timeout", "50ms")
    assert done.code == 3
    assert f"gateway pod istio-system/{POD} does not yet have route {NAME}-" in done.err
    assert written(edge)


def test_no_wait_queries_no_envoy(run: Run, edge: ApiServer, fakes: Fakes) -> None:
    fakes.stuck = True
    assert run(*HELLO, "--no-wait").code == 0
    assert fakes.commands == []


def test_a_rejection_undoes_everything(run: Run, edge: ApiServer, fakes: Fakes) -> None:
    fakes.stuck = True
    before = edge.state()
    edge.logs["istio-system", POD] = (
        "2026-01-02T03:04:06.1Z\twarning\tenvoy\tgRPC config for x.RouteConfiguration rejected: "
        "bad\tthread=1\n"
    )
    done = run(*HELLO)
    assert done.code == 3
    assert "rejected it: bad" in done.err and "was undone" in done.err
    assert edge.state() == before


def test_an_interruption_while_waiting_keeps_what_was_written(
    run: Run, edge: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kubectl_istio_udp.apply.responding.wait_until_routed", interrupted)
    done = run(*HELLO)
    assert done.code == INTERRUPTED
    assert "the objects stay applied" in done.err
    assert "kubectl istio-udp get -n default response/hello" in done.err
    assert "Traceback" not in done.err
    assert written(edge)


def test_an_interruption_while_writing_undoes_everything(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    before = server.state()

    def interrupt(request: Request) -> None:
        if request.method == "PATCH" and "/virtualservices/" in request.path:
            os.kill(os.getpid(), signal.SIGINT)

    server.seen = interrupt
    done = run(*HELLO, "--create-gateway")
    assert done.code == INTERRUPTED
    assert "interrupted" in done.err
    assert server.state() == before


# -- inside the mesh ----------------------------------------------------------------------------

MESH = (*HELLO, "--mesh", "--host", RATINGS)


@pytest.fixture
def ratings(server: ApiServer) -> ApiServer:
    server.put(service("ratings", ports=[tcp(9080, "http")]), istiod_pod())
    return server


def test_inside_the_mesh(run: Run, ratings: ApiServer, fakes: Fakes) -> None:
    done = run(*MESH)
    assert (done.code, done.out) == (0, f"{VIRTUAL_SERVICE} serverside-applied\n")
    spec = written(ratings)["spec"]
    assert (spec["gateways"], spec["hosts"]) == (["mesh"], [RATINGS])
    assert spec["http"][1]["route"] == [{"destination": {"host": RATINGS}}]
    assert fakes.commands == []


def test_inside_the_mesh_by_an_envoy_filter(run: Run, ratings: ApiServer) -> None:
    done = run(*MESH, "--api", "envoyfilter")
    assert (done.code, done.out) == (0, f"{ENVOY_FILTER} serverside-applied\n")
    (patch,) = written(ratings, "EnvoyFilter", "istio-system")["spec"]["configPatches"]
    assert patch["match"]["context"] == "SIDECAR_OUTBOUND"
    assert patch["match"]["routeConfiguration"]["vhost"] == {"name": f"{RATINGS}:9080"}


def test_an_envoy_filter_of_another_namespace_does_not_decide_about_the_mesh(
    run: Run, ratings: ApiServer
) -> None:
    assert run(*MESH, "--api", "envoyfilter").code == 0
    forged = written(ratings, "EnvoyFilter", "istio-system")
    ratings.remove("EnvoyFilter", "istio-system", NAME)
    about = forged["metadata"]
    about["namespace"] = "default"
    text = about["annotations"]["kubectl-istio-udp/spec"]
    about["annotations"]["kubectl-istio-udp/spec"] = text.replace('"istio-system"', '"default"')
    ratings.put(forged)
    is_refused(run, ratings, "direct", "/hello", "--status", "404")


def test_a_mesh_host_that_others_route_is_refused(run: Run, ratings: ApiServer) -> None:
    ratings.put(virtual_service("theirs", hosts=(RATINGS,), gateways=()))
    done = run(*MESH)
    assert done.code == 3
    assert "U114" in done.err


# -- verify -------------------------------------------------------------------------------------


def test_verify_every_hop_answers(run: Run, edge: ApiServer, fakes: Fakes) -> None:
    run(*HELLO)
    done = run("verify", "response/hello")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["TARGET", "VIA", "ANSWERED", "CODE", "TIME", "ANSWER"]
    assert lines[1].split() == [GATEWAY_TARGET, "gateway", POD, "yes", "200", "12ms", "hi"]
    assert lines[2].split()[:4] == [SERVICE_TARGET, "service", "istio-ingressgateway", "yes"]
    assert lines[3] == "response/hello: every hop answered"
    words = fakes.commands[-1]
    assert words[-1] == "http://any.invalid:80/hello"


def test_verify_requests_every_host(run: Run, edge: ApiServer, fakes: Fakes) -> None:
    run(*HELLO, "--host", "*.example.com", "--host", "b.org")
    assert run("verify", "response/hello").code == 0
    asked = {words[-1] for words in fakes.commands if words[0] == "sh"}
    assert asked == {"http://any.example.com:80/hello", "http://b.org:80/hello"}


@pytest.mark.parametrize(
    ("accepted", "host"),
    [
        (("shop.example", "default/*.team.example"), "any.team.example"),
        (("other/*.team.example", "shop.example"), "shop.example"),
        (("./*",), "any.invalid"),
    ],
)
def test_verify_requests_a_host_that_the_gateway_accepts(
    run: Run, server: ApiServer, fakes: Fakes, accepted: tuple[str, ...], host: str
) -> None:
    """A response for all hosts answers only for those that the port's servers accept."""
    server.put(istio_gateway(hosts=accepted, namespace="default"))
    assert run(*HELLO).code == 0
    run("verify", "response/hello")
    assert fakes.commands[-1][-1] == f"http://{host}:80/hello"


def test_verify_names_hosts_that_the_gateway_accepts_no_more(
    run: Run, edge: ApiServer, fakes: Fakes
) -> None:
    run(*HELLO, "--host", "b.org")
    edge.put(istio_gateway(hosts=("other.example",)))
    fakes.http[GATEWAY_TARGET] = page(404, "none")
    done = run("verify", "response/hello")
    assert done.code == 1
    assert done.out.splitlines()[-1].endswith("no Istio Gateway on port 80 accepts b.org any more")


def test_verify_over_tls(run: Run, server: ApiServer, fakes: Fakes) -> None:
    server.put(istio_gateway(port=443, protocol="HTTPS", tls={"mode": "SIMPLE"}))
    assert run(*HELLO, "--gateway-port", "443").code == 0
    assert run("verify", "response/hello").code == 0
    assert fakes.commands[-1][-1] == "https://any.invalid:443/hello"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (page(404, "none"), "answers 404 instead of 200"),
        (page(200, "theirs"), "answers 200 with another body"),
        (Exec(stderr="curl: (52) Empty reply\ntook 0.01\nexit 52\n"), "answers no HTTP"),
        (Exec(stderr="curl: (7) refused\ntook 0.01\nexit 7\n"), "refuses the port"),
    ],
)
def test_verify_reports_another_answer(
    run: Run, edge: ApiServer, fakes: Fakes, answer: Exec, verdict: str
) -> None:
    run(*HELLO)
    fakes.http = {GATEWAY_TARGET: answer, SERVICE_TARGET: answer}
    done = run("verify", "response/hello")
    assert done.code == 1
    assert "took" not in done.out and "exit" not in done.out
    assert done.out.splitlines()[-1] == (
        f"response/hello: the gateway {verdict}: {POD} has the route of this response, so something"
        " else decides about the request: "
        "kubectl get authorizationpolicies,envoyfilters,virtualservices -A"
    )
    assert len(done.out.splitlines()) == 4
    (data,) = json.loads(run("verify", "response/hello", "-o", "json").out)
    assert data["reason"] == data["probes"][0]["reason"] != "Answered"


def test_verify_reports_a_missing_route(run: Run, edge: ApiServer, fakes: Fakes) -> None:
    run(*HELLO)
    run("direct", "/hello/more", "--name", "hello-more")
    found = written(edge)
    found["spec"]["http"] = []
    edge.put(found)
    fakes.http[GATEWAY_TARGET] = page(404, "none")
    done = run("verify", "response/hello")
    assert done.code == 1
    assert done.out.splitlines()[-1].endswith(f"{POD} does not have the route of this response")


def test_verify_reports_a_broken_service(run: Run, edge: ApiServer, fakes: Fakes) -> None:
    run(*HELLO)
    fakes.http[SERVICE_TARGET] = Exec(stderr="exit 28\n")
    done = run("verify", "response/hello")
    assert done.code == 1
    assert done.out.splitlines()[-1] == (
        f"response/hello: the gateway answers, service istio-ingressgateway ({SERVICE_TARGET}) "
        "does not answer"
    )


def test_verify_reports_a_missing_object(run: Run, edge: ApiServer, fakes: Fakes) -> None:
    """Also while the gateway still answers."""
    run(*HELLO, "--api", "envoyfilter")
    edge.remove("VirtualService", "default", NAME)
    done = run("verify", "response/hello")
    assert done.code == 1
    assert done.out.splitlines()[-1] == (
        f"response/hello: VirtualService default/{NAME} is missing; run direct response again"
    )
    (data,) = json.loads(run("verify", "response/hello", "-o", "json").out)
    assert data["reason"] == "ObjectMissing"


def test_verify_without_a_ready_gateway(run: Run, edge: ApiServer) -> None:
    run(*HELLO)
    edge.put(gateway_pod(ready=False), gateway_service(clusterIP="None"))
    edge.put(
        endpoint_slice(
            of="istio-ingressgateway",
            namespace="istio-system",
            ports=[{"name": "http2", "port": 8080, "protocol": "TCP"}],
        )
    )
    done = run("verify", "response/hello")
    assert done.code == 1
    assert "the gateway has no ready pod" in done.out


def test_verify_without_curl(run: Run, edge: ApiServer, fakes: Fakes) -> None:
    run(*HELLO)
    fakes.http = {GATEWAY_TARGET: Exec(code=127)}
    done = run("verify", "response/hello")
    assert done.code == 3
    assert "pod default/network-tool cannot run curl" in done.err


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_verify_data_for_programs(run: Run, edge: ApiServer, form: str) -> None:
    run(*HELLO)
    done = run("verify", "response/hello", "-o", form)
    (found,) = json.loads(done.out) if form == "json" else yaml.safe_load(done.out)
    assert (found["kind"], found["name"], found["good"]) == ("response", "hello", True)
    assert [probe["target"] for probe in found["probes"]] == [GATEWAY_TARGET, SERVICE_TARGET]
    assert found["probes"][0]["answers"] == ["hi"]


def test_verify_inside_the_mesh(run: Run, ratings: ApiServer, fakes: Fakes) -> None:
    run(*MESH)
    done = run("verify", "response/hello")
    assert done.code == 3
    assert "pod default/network-tool has no sidecar" in done.err
    ratings.put(sidecar_pod("network-tool", app="network-tool"))
    done = run("verify", "response/hello")
    assert done.code == 0
    assert done.out.splitlines()[1].split()[:3] == [f"{RATINGS}:9080", "sidecar", "network-tool"]
    assert "--connect-to" not in fakes.commands[-1]


def test_verify_inside_the_mesh_makes_a_tool_with_a_sidecar(run: Run, ratings: ApiServer) -> None:
    run(*MESH)
    run("verify", "response/hello", "--create-tool")
    (made,) = [r for r in ratings.requests if r.method == "PATCH" and "/pods/" in r.path]
    assert made.body["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"


def test_verify_of_an_unreadable_response(run: Run, edge: ApiServer) -> None:
    run(*HELLO)
    broken = written(edge)
    broken["metadata"]["annotations"] = {}
    edge.put(broken)
    done = run("verify", "response/hello")
    assert done.code == 3
    assert f"response hello: VirtualService default/{NAME} has no annotation" in done.err


# -- get, describe, delete ----------------------------------------------------------------------


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_get(run: Run, edge: ApiServer) -> None:
    run(*HELLO, "--prefix", "--host", "a.org", "--host", "b.org", "--host", "c.org")
    headers, row = table(run("get", "response/hello").out)
    assert headers == ["NAME", "HOSTS", "PATH", "CODE", "BODY", "AT", "API", "STATUS", "AGE"]
    assert row[:-1] == [
        "hello", "a.org", "+2", "more", "/hello*", "200", "2B",
        "istio-system/istio-ingressgateway:80", "virtualservice", "ok",
    ]  # fmt: skip


def test_get_wide(run: Run, edge: ApiServer) -> None:
    run(*HELLO, "--host", "a.org", "--host", "b.org", "--header", "x-a=1", "--header", "x-b=2")
    headers, row = table(run("get", "response/hello", "-o", "wide").out)
    assert headers[-2:] == ["HEADERS", "SERVERS"]
    assert row[1] == "a.org,b.org"
    assert row[-2:] == ["x-a,x-b", "istio-system/edge"]


def test_get_of_a_mesh_response_without_a_body(run: Run, ratings: ApiServer) -> None:
    run("direct", "/hello", "--mesh", "--host", RATINGS)
    _, row = table(run("get", "response/hello").out)
    assert row[:5] == ["hello", RATINGS, "/hello", "200", "mesh"]


def test_describe(run: Run, edge: ApiServer) -> None:
    run(*HELLO, "--api", "envoyfilter", "--host", "a.org")
    done = run("describe", "response/hello")
    assert done.code == 0
    for line in ("Name:        hello", "Type:        response", "Status:      ok", "Settings:"):
        assert line in done.out.splitlines()
    assert ["EnvoyFilter", "istio-system", NAME] in [row[:3] for row in table(done.out)]
    assert f"route {NAME}-" in done.out
    assert "Address" not in done.out


@pytest.mark.parametrize("words", [["response/hello"], ["responses/hello"], ["--all"]])
def test_delete(run: Run, edge: ApiServer, words: list[str]) -> None:
    before = edge.state()
    run(*HELLO, "--api", "envoyfilter")
    done = run("delete", *words)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f'envoyfilter.networking.istio.io "{NAME}" deleted',
        f'virtualservice.networking.istio.io "{NAME}" deleted',
    ]
    assert edge.state() == before


def test_delete_leaves_others_of_the_same_name(run: Run, edge: ApiServer) -> None:
    run("access-log", "--name", "hello")
    run(*HELLO)
    assert run("delete", "response/hello").code == 0
    assert run("get", "-o", "name").out == "accesslog/hello\n"


def test_delete_of_a_missing_response(run: Run, edge: ApiServer) -> None:
    done = run("delete", "response/nothing")
    assert done.code == 3
    assert "response nothing not found in namespace default" in done.err
    assert run("delete", "response/nothing", "--ignore-not-found").code == 0


def test_an_envoy_filter_of_another_owner_has_the_name(run: Run, edge: ApiServer) -> None:
    edge.put(envoy_filter(NAME))
    done = run(*HELLO, "--api", "envoyfilter")
    assert done.code == 3
    assert (
        f"EnvoyFilter istio-system/{NAME} already exists and does not belong to response hello"
        in done.err
    )
