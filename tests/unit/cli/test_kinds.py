"""`get`, `describe`, `verify` and `delete` with several kinds."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.state.leftovers import Leftovers
from kubectl_istio_udp.state.ownership import Existing
from tests.support.apiserver import ApiServer, Exec
from tests.support.builders import service
from tests.support.fakes import Fakes
from tests.support.mesh_builders import (
    RATINGS,
    access_log,
    istio_gateway,
    put,
    response,
    sidecar_pod,
)
from tests.unit.conftest import Run

EXPOSE = ("expose", "coredns", "-p", "5300:53")
POD = "istio-ingressgateway-1"


@pytest.fixture
def things(run: Run, server: ApiServer) -> ApiServer:
    """One of each kind in namespace default, and an access log in another."""
    server.put(istio_gateway(), service("ratings"))
    assert run(*EXPOSE).code == 0
    assert run("direct", "/hello", "--body", "hi").code == 0
    put(server, access_log(), access_log("far", namespace="lab", selector={"app": "x"}))
    return server


def table(text: str) -> list[Any]:
    return [line.split() for line in text.splitlines()]


def shown(done: Run, form: str) -> list[dict[str, Any]]:
    whole = json.loads(done.out) if form == "json" else yaml.safe_load(done.out)
    return list(whole["items"])


# -- get ----------------------------------------------------------------------------------------


def test_a_table_for_each_kind(run: Run, things: ApiServer) -> None:
    done = run("get")
    assert (done.code, done.err) == (0, "")
    exposures, responses, logs = (table(text) for text in done.out.strip().split("\n\n"))
    assert (exposures[0][1], responses[0][1], logs[0][1]) == ("SERVICE", "HOSTS", "EVERY")
    names = [[row[0] for row in rows[1:]] for rows in (exposures, responses, logs)]
    assert names == [["exposure/coredns"], ["response/hello"], ["accesslog/namespace"]]


def test_names_of_a_single_kind_have_no_type(run: Run, things: ApiServer) -> None:
    assert table(run("get", "accesslog/namespace").out)[1][0] == "namespace"


def test_the_tables_of_all_namespaces(run: Run, things: ApiServer) -> None:
    done = run("get", "-A")
    *_, logs = (table(text) for text in done.out.strip().split("\n\n"))
    assert [row[:2] for row in logs] == [
        ["NAMESPACE", "NAME"],
        ["default", "accesslog/namespace"],
        ["lab", "accesslog/far"],
    ]


def test_wide_tables(run: Run, things: ApiServer) -> None:
    done = run("get", "-o", "wide")
    heads = [table(text)[0] for text in done.out.strip().split("\n\n")]
    assert [head[-1] for head in heads] == ["RESERVED", "SERVERS", "FIELD"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["coredns", "response/hello", "accesslog/namespace"]),
        (["-A"], ["coredns", "response/hello", "accesslog/namespace", "accesslog/far"]),
        (["-n", "lab"], ["accesslog/far"]),
        (["response/hello", "coredns"], ["response/hello", "coredns"]),
    ],
)
def test_prints_names_that_other_commands_accept(
    run: Run, things: ApiServer, words: list[str], names: list[str]
) -> None:
    done = run("get", *words, "-o", "name")
    assert (done.code, done.out.split()) == (0, names)


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_the_objects_of_all(run: Run, things: ApiServer, form: str) -> None:
    items = shown(run("get", "-A", "-o", form), form)
    assert [item["kind"] for item in items] == ["Exposure", "Response", "AccessLog", "AccessLog"]
    found = [manifest for item in items for manifest in item["objects"]]
    assert [o["kind"] for o in found] == [
        "ServiceEntry",
        "EnvoyFilter",
        "Service",
        "VirtualService",
        "EnvoyFilter",
        "EnvoyFilter",
    ]
    assert not any("managedFields" in o["metadata"] for o in found)


@pytest.mark.parametrize("verb", ["get", "describe"])
def test_a_name_cannot_be_combined_with_all_namespaces(
    run: Run, things: ApiServer, verb: str
) -> None:
    done = run(verb, "-A", "response/hello")
    assert done.code == 2
    assert "names cannot be combined with -A" in done.err
    assert "name the namespace: -n NAMESPACE" in done.err


@pytest.mark.parametrize("verb", ["get", "describe", "delete", "verify"])
def test_an_unknown_kind(run: Run, things: ApiServer, verb: str) -> None:
    done = run(verb, "pod/x")
    assert done.code == 2
    assert "unknown kind in 'pod/x'" in done.err
    assert "exposure/NAME, response/NAME, accesslog/NAME" in done.err


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "row"),
    [
        ("VirtualService", "default", "response-default-hello", ["response/hello", *"??????"]),
        ("EnvoyFilter", "default", "accesslog-default-namespace", ["accesslog/namespace", *"????"]),
    ],
)
def test_unreadable_objects_are_listed(
    run: Run, things: ApiServer, kind: str, namespace: str, name: str, row: list[str]
) -> None:
    broken = things.get(kind, namespace, name)
    broken["metadata"]["annotations"] = {}
    things.put(broken)
    rows = {found[0]: found for found in table(run("get").out) if found}
    assert rows[row[0]][: len(row)] == row
    assert rows[row[0]][-2] == "Unreadable"


# -- describe -----------------------------------------------------------------------------------


def test_describes_everything(run: Run, things: ApiServer) -> None:
    done = run("describe")
    assert (done.code, done.err) == (0, "")
    texts = done.out.split("\n\n\n")
    kinds = [next(x for x in text.splitlines() if x.startswith("Type:")) for text in texts]
    assert [kind.partition(":")[2].strip() for kind in kinds] == [
        "exposure",
        "response",
        "access log",
    ]
    exposure, answer, log = texts
    assert "Address:     203.0.113.5" in exposure and "Endpoints:   2/2 ready" in exposure
    name = "udp-default-coredns-5300"
    assert f"listener {name}, cluster {name}" in exposure and "10.244.0.20:53" in exposure
    assert "route response-default-hello-" in answer
    assert "path: /hello" in answer and "creates gateway: false" in answer
    assert "Gateway pods:" not in log


def test_describes_all_namespaces(run: Run, things: ApiServer) -> None:
    done = run("describe", "-A")
    assert len(done.out.split("\n\n\n")) == 4
    assert "Namespace:   lab" in done.out


def test_describes_names_in_the_given_order(run: Run, things: ApiServer) -> None:
    done = run("describe", "accesslog/namespace", "coredns")
    first, second = done.out.split("\n\n\n")
    assert ("namespace" in first.splitlines()[0], "coredns" in second.splitlines()[0]) == (
        True,
        True,
    )


def test_describes_why_an_object_cannot_be_read(run: Run, things: ApiServer) -> None:
    broken = things.get("VirtualService", "default", "response-default-hello")
    broken["metadata"]["annotations"] = {}
    things.put(broken)
    lines = run("describe", "response/hello").out.splitlines()
    assert "Status:      Unreadable" in lines
    assert (
        "Problem:     VirtualService default/response-default-hello has no annotation "
        "kubectl-istio-udp/spec"
    ) in lines


def test_describes_a_gateway_that_cannot_be_queried(
    run: Run, things: ApiServer, fakes: Fakes
) -> None:
    fakes.deaf[POD] = Exec(error="no such container")
    done = run("describe", "response/hello")
    assert done.code == 0
    assert f"from the Envoy of gateway pod istio-system/{POD}" in done.out


@pytest.mark.parametrize("words", [["describe"], ["describe", "-A"]])
def test_nothing_to_describe(run: Run, words: list[str]) -> None:
    done = run(*words)
    assert (done.code, done.out) == (0, "")
    assert done.err == "No exposures, responses or access logs found.\n"


# -- verify and delete --------------------------------------------------------------------------


def test_verifies_exposures_and_responses_together(run: Run, things: ApiServer) -> None:
    done = run("verify", "coredns", "response/hello")
    assert done.code == 0
    heads = [line.split()[0] for line in done.out.splitlines() if "TARGET" in line]
    assert heads == ["EXPOSURE", "RESPONSE"]
    assert "default/hello" in done.out
    assert done.out.splitlines()[-2:] == [
        "coredns: every hop answered",
        "response/hello: every hop answered",
    ]


def test_a_test_that_is_not_possible_does_not_hide_the_others(run: Run, things: ApiServer) -> None:
    """The tool has no sidecar, which only the response inside the mesh needs."""
    put(things, response("/in", mesh=True, hosts=(RATINGS,), name="inside"))
    done = run("verify", "response/inside", "response/hello")
    assert done.code == 1
    inside, hello = done.out.splitlines()[-2:]
    assert inside.startswith("response/inside: pod default/network-tool has no sidecar")
    assert hello == "response/hello: every hop answered"


def test_deletes_everything_of_a_namespace(run: Run, things: ApiServer) -> None:
    assert run("delete", "--all").code == 0
    assert run("get", "-A", "-o", "name").out == "accesslog/far\n"


@pytest.mark.parametrize("words", [[], ["coredns", "--all"]])
def test_delete_needs_names_or_all_but_not_both(
    run: Run, things: ApiServer, words: list[str]
) -> None:
    done = run("delete", *words)
    assert done.code == 2
    assert "name what to delete, or use --all" in done.err
    assert len(run("get", "-A", "-o", "name").out.split()) == 4


def test_an_interrupted_deletion_prints_how_to_continue(
    run: Run, things: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Api | Existing | Leftovers, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kubectl_istio_udp.apply.deleting.delete_existing", interrupted)
    done = run("delete", "response/hello")
    assert done.code == 130
    assert "delete the rest: kubectl istio-udp delete -n default response/hello" in done.err


def test_a_rejected_deletion_prints_how_to_continue(run: Run, things: ApiServer) -> None:
    things.fail("DELETE", "/envoyfilters/", 403)
    done = run("delete", "accesslog/namespace")
    assert done.code == 3
    assert "delete the rest: kubectl istio-udp delete -n default accesslog/namespace" in done.err


def test_an_access_log_is_verified_by_a_tool_with_a_sidecar(run: Run, things: ApiServer) -> None:
    things.put(sidecar_pod("network-tool", app="network-tool"))
    run("verify", "accesslog/namespace", "--create-tool", "--to", "nothing")
    (made,) = [r for r in things.requests if r.method == "PATCH" and "/pods/" in r.path]
    assert made.body["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"


@pytest.mark.parametrize("word", ["response", "responses", "Responses"])
def test_a_kind_alone_lists_all_of_that_kind(run: Run, word: str) -> None:
    done = run("get", word)
    assert done.code == 0 and "No exposures, responses or access logs found" in done.err
