from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.kube import client
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.http_errors import Action, refusal
from kubectl_istio_udp.kube.kubeconfig import ConnectionOptions
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model.errors import (
    ApplyConflict,
    ClusterError,
    Forbidden,
    NotFound,
    NotInstalled,
    Unreachable,
)
from kubectl_istio_udp.model.resources import RESOURCES
from tests.support.apiserver import ApiServer, Exec
from tests.support.connection import connected

MAP: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "m", "namespace": "default", "labels": {"a": "b"}},
    "data": {"k": "v"},
}


# -- reading and writing ------------------------------------------------------------------------


def test_gets_and_finds(api: Api) -> None:
    assert api.get("Service", "default", "coredns")["kind"] == "Service"
    assert api.find("Service", "default", "nothing") is None


def test_lists_by_namespace_and_label(api: Api) -> None:
    assert {p["metadata"]["name"] for p in api.list("Pod")} == {
        "coredns-1", "coredns-2", "network-tool", "istio-ingressgateway-1"
    }  # fmt: skip
    assert len(api.list("Pod", "default", "app=coredns")) == 2
    assert [p["metadata"]["name"] for p in api.list("Pod", None, "istio")] == [
        "istio-ingressgateway-1"
    ]
    assert api.list("Pod", "empty") == []


def test_listed_objects_say_what_they_are(api: Api) -> None:
    found = api.list("EndpointSlice", "default")[0]
    assert (found["apiVersion"], found["kind"]) == ("discovery.k8s.io/v1", "EndpointSlice")


def test_applies_and_returns_the_outcome(api: Api) -> None:
    first = api.apply(MAP, before=None, manager="me")
    again = api.apply(MAP, before=first.manifest, manager="me")
    other = api.apply({**MAP, "data": {"k": "w"}}, before=again.manifest, manager="me")
    assert [first.verb, again.verb, other.verb] == ["created", "unchanged", "changed"]
    assert other.manifest["data"] == {"k": "w"}


def test_omitted_fields_are_removed(api: Api, server: ApiServer) -> None:
    first = api.apply(MAP, before=None, manager="me")
    api.apply({**MAP, "data": {"other": "x"}}, before=first.manifest, manager="me")
    assert server.get("ConfigMap", "default", "m")["data"] == {"other": "x"}


@pytest.mark.parametrize(
    ("before", "data", "verb"),
    [(False, "v", "created"), (True, "v", "unchanged")],
)
def test_a_dry_run_writes_nothing(
    api: Api, server: ApiServer, before: bool, data: str, verb: str
) -> None:
    there = api.apply(MAP, before=None, manager="me").manifest if before else None
    state = server.state()
    applied = api.apply({**MAP, "data": {"k": data}}, before=there, manager="me", dry_run=True)
    assert applied.verb == verb
    assert server.state() == state
    assert server.requests[-1].query["dryRun"] == ["All"]


def test_a_conflict_names_the_fields_and_the_option_to_take_them_over(
    api: Api, server: ApiServer
) -> None:
    server.put({**MAP, "data": {"k": "theirs"}})
    before = api.get("ConfigMap", "default", "m")
    with pytest.raises(ApplyConflict, match=r'conflict with "helm": data\.k') as caught:
        api.apply(MAP, before=before, manager="me")
    assert "--show-managed-fields" in caught.value.hints[0]
    assert "--force-conflicts" in caught.value.hints[1]
    assert api.apply(MAP, before=before, manager="me", force=True).verb == "changed"


def test_each_warning_of_the_server_is_returned_once(api: Api, server: ApiServer) -> None:
    server.warnings["ConfigMap"] = ['mind \\"this\\"', "twice", "twice"]
    assert api.apply(MAP, before=None, manager="me").warnings == ('mind "this"', "twice")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('299 - "text"', ["text"]),
        ('299 istiod "a \\"b\\" c" "Tue, 15 Nov 1994 08:12:31 GMT"', ['a "b" c']),
        ("299 - text", []),
        ("", []),
    ],
)
def test_reads_warning_headers(header: str, expected: list[str]) -> None:
    assert client._warnings([header]) == expected


def test_deletes(api: Api, server: ApiServer) -> None:
    api.apply(MAP, before=None, manager="me")
    assert api.delete(MAP, dry_run=True)
    assert server.get("ConfigMap", "default", "m")
    assert api.delete(MAP)
    assert not api.delete(MAP)


def test_reads_a_log(api: Api, server: ApiServer) -> None:
    server.logs["istio-system", "gw"] = "one\ntwo é\n"
    assert api.log("istio-system", "gw", "istio-proxy", 5) == "one\ntwo é\n"
    assert server.requests[-1].query == {
        "container": ["istio-proxy"], "sinceSeconds": ["5"], "tailLines": ["1000"],
        "timestamps": ["false"],
    }  # fmt: skip


# -- who and where ------------------------------------------------------------------------------


def test_sends_the_users_credentials(server: ApiServer, kubeconfig: Path) -> None:
    found = connected(kubeconfig, as_user="jane", as_groups=("dev", "ops"))
    found.list("Pod")
    found.exec("default", "network-tool", "network-tool", ["true"], 5)
    for request in server.requests:
        assert "authorization" not in request.headers  # not over plain HTTP, as kubectl does
        assert request.headers["impersonate-user"] == ["jane"]
        assert request.headers["impersonate-group"] == ["dev", "ops"]


def test_the_context_names_the_namespace(server: ApiServer, tmp_path: Path) -> None:
    path = server.kubeconfig(tmp_path / "k", namespace="lab")
    assert connected(path).namespace == "lab"
    assert connected(server.kubeconfig(tmp_path / "l")).namespace == "default"


def test_another_context_may_be_chosen(server: ApiServer, tmp_path: Path) -> None:
    path = server.kubeconfig(tmp_path / "k")
    config = yaml.safe_load(path.read_text())
    config["contexts"].append(
        {"name": "there", "context": {"cluster": "fake", "user": "me", "namespace": "x"}}
    )
    path.write_text(yaml.safe_dump(config))
    assert connected(path, context="there").namespace == "x"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, {}, "cannot be used"),
        ("[]", {}, "cannot be used: the file is not a mapping"),
        ("kind: Secret", {}, "cannot be used: it is a Secret"),
        ("here", {"context": "nowhere"}, "the kubeconfig has no context 'nowhere'"),
    ],
)
def test_an_unusable_kubeconfig(
    server: ApiServer, tmp_path: Path, text: str | None, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "k"
    if text == "here":
        server.kubeconfig(path)
    elif text is not None:
        path.write_text(text)
    with pytest.raises(Unreachable, match=message) as caught:
        connected(path, **options)
    assert "kubectl config" in caught.value.hints[0]


# -- refusals -----------------------------------------------------------------------------------


def asked(api: Api, what: str) -> Any:
    calls: dict[str, Callable[[], Any]] = {
        "get": lambda: api.get("Service", "default", "coredns"),
        "list": lambda: api.list("EnvoyFilter"),
        "patch": lambda: api.apply(MAP, before=None, manager="me"),
        "delete": lambda: api.delete(ENTRY),
        "log": lambda: api.log("default", "coredns-1", "c", 5),
        "exec": lambda: api.exec("default", "coredns-1", "c", ["true"], 5),
    }
    return calls[what]()


def test_errors_about_cluster_scoped_objects_name_no_namespace(api: Api, server: ApiServer) -> None:
    with pytest.raises(NotFound) as missing:
        api.get("GatewayClass", None, "x")
    assert missing.value.message == "gatewayclass x not found"
    command = "kubectl get gatewayclasses.gateway.networking.k8s.io"
    assert missing.value.hints == (f"list them: {command}",)
    server.permits = lambda *_: False
    with pytest.raises(Forbidden) as forbidden:
        api.get("GatewayClass", None, "x")
    assert "namespace" not in forbidden.value.format()
    with pytest.raises(Forbidden) as forbidden:
        api.list("Pod")
    assert "in all namespaces" in forbidden.value.message


METHODS = {"patch": "PATCH", "delete": "DELETE"}


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("get", "kubectl auth can-i get services -n default"),
        ("list", "kubectl auth can-i list envoyfilters.networking.istio.io --all-namespaces"),
        ("patch", "kubectl auth can-i patch configmaps -n default"),
        ("delete", "kubectl auth can-i delete serviceentries.networking.istio.io -n default"),
        ("log", "kubectl auth can-i get pods -n default --subresource=log"),
        ("exec", "kubectl auth can-i create pods -n default --subresource=exec"),
    ],
)
def test_a_403_names_the_command_to_check_it(
    api: Api, server: ApiServer, what: str, line: str
) -> None:
    server.fail(METHODS.get(what, "GET"), ".", 403)
    with pytest.raises(Forbidden, match=r"no permission to .*: told to answer 403") as caught:
        asked(api, what)
    assert caught.value.hints == (f"check it: {line}",)


@pytest.mark.parametrize(
    "why",
    [
        'pods "tool" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
        'pods "tool" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1',
        'pods "tool" is forbidden: unable to create new content in namespace lab because it is '
        "being terminated",
        'admission webhook "policy.example" denied the request: no such image',
        "ValidatingAdmissionPolicy 'a' with binding 'b' denied request: no such image",
    ],
)
def test_a_403_of_an_admission_policy_is_no_missing_right(
    api: Api, server: ApiServer, why: str
) -> None:
    """`kubectl auth can-i` would say yes."""
    server.fail("PATCH", ".", 403, json.dumps({"kind": "Status", "message": why}))
    with pytest.raises(Forbidden) as caught:
        asked(api, "patch")
    assert caught.value.message == f"the cluster does not admit configmap default/m: {why}"
    assert caught.value.hints == ()


def test_a_403_names_the_user_in_the_command(kubeconfig: Path, server: ApiServer) -> None:
    server.fail("GET", ".", 403)
    with pytest.raises(Forbidden) as caught:
        connected(kubeconfig, as_user="jane").list("Pod")
    assert caught.value.hints[0].endswith("--as jane")


@pytest.mark.parametrize("what", ["get", "list", "patch", "delete", "log", "exec"])
def test_a_401_says_to_log_in_again(api: Api, server: ApiServer, what: str) -> None:
    server.fail(METHODS.get(what, "GET"), ".", 401)
    with pytest.raises(Forbidden, match="rejected the credentials") as caught:
        asked(api, what)
    assert "log in again" in caught.value.hints[0]


def test_a_missing_object_is_named(api: Api) -> None:
    with pytest.raises(NotFound, match="service nothing not found in namespace default") as caught:
        api.get("Service", "default", "nothing")
    assert caught.value.hints == ("list them: kubectl get services -n default",)


def test_a_missing_pod_is_named_by_exec(api: Api) -> None:
    with pytest.raises(NotFound, match="pod nothing not found in namespace default"):
        api.exec("default", "nothing", "c", ["true"], 5)


def test_reports_a_cluster_without_istio(api: Api, server: ApiServer) -> None:
    server.installed -= {"EnvoyFilter"}
    with pytest.raises(NotInstalled, match="Istio's CRDs are not installed") as caught:
        api.list("EnvoyFilter")
    assert "right cluster" in caught.value.hints[0]


@pytest.mark.parametrize("status", [409, 422, 429, 500, 503])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "told to answer"),
        ("upstream is gone", "upstream is gone"),
        ("<html>gateway</html>", "<html>gateway</html>"),
        ('{"message": "some reason"}', "some reason"),
    ],
)
def test_other_rejections_are_quoted(
    api: Api, server: ApiServer, status: int, body: str, message: str
) -> None:
    server.fail("GET", "/services/", status, body)
    with pytest.raises(
        ClusterError, match="rejected the request to get service default/coredns: "
    ) as caught:
        api.get("Service", "default", "coredns")
    assert message in caught.value.message
    assert caught.value.exit_code == 3


# -- not reachable ------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["get", "list", "patch", "delete", "log", "exec"])
def test_reports_a_closed_connection(api: Api, server: ApiServer, what: str) -> None:
    server.fail(METHODS.get(what, "GET"), ".")
    with pytest.raises(Unreachable, match="cannot be reached: ") as caught:
        asked(api, what)
    assert "0x" not in caught.value.message
    assert "kubectl version" in caught.value.hints[0]


@pytest.mark.parametrize("what", ["list", "exec"])
def test_reports_a_refused_connection(server: ApiServer, tmp_path: Path, what: str) -> None:
    path = server.kubeconfig(tmp_path / "k")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    path.write_text(path.read_text().replace(server.url, f"http://127.0.0.1:{port}"))
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port} cannot be reached: .*refused"):
        asked(connected(path), what)


def test_a_server_that_does_not_answer_in_time(server: ApiServer, kubeconfig: Path) -> None:
    server.fail("GET", ".", -1)
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=r"did not answer within 0\.1s") as caught:
        connected(kubeconfig, request_timeout=0.1).list("Pod")
    assert time.monotonic() - begun < 5
    assert "--request-timeout" in caught.value.hints[0]


# -- exec ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("does", "expected"),
    [
        (Exec("out", "err"), ("out", "err", 0, "")),
        (Exec("", "no", 9), ("", "no", 9, "")),
        (Exec("é" * 200_000), ("é" * 200_000, "", 0, "")),
        (Exec(error="no such executable"), ("", "", None, "no such executable")),
        (Exec("half", cut=True), ("half", "", None, "the connection ended before the command did")),
    ],
    ids=["good", "failed", "long", "not started", "cut"],
)
def test_runs_a_command(api: Api, server: ApiServer, does: Exec, expected: tuple[Any, ...]) -> None:
    seen: list[Any] = []

    def run(*words: Any) -> Exec:
        seen.append(words)
        return does

    server.run = run
    found = api.exec("default", "coredns-1", "main", ["dig", "@10.0.0.1", "a b&c"], 5)
    assert (found.stdout, found.stderr, found.exit_code, found.error) == expected
    assert seen == [("default", "coredns-1", "main", ["dig", "@10.0.0.1", "a b&c"])]


def test_a_command_that_does_not_end_times_out(api: Api, server: ApiServer) -> None:
    server.run = lambda *_: Exec(hangs=True)
    found = api.exec("default", "coredns-1", "main", ["sleep", "9"], 0.1)
    assert (found.exit_code, found.error, found.timed_out) == (None, "timed out", True)


# -- many at once -------------------------------------------------------------------------------


def test_results_come_in_order() -> None:
    assert for_each(lambda n: n * n, range(50)) == [n * n for n in range(50)]
    assert in_parallel([lambda: "a", lambda: "b"]) == ["a", "b"]


def test_the_first_error_is_raised() -> None:
    def fail(text: str) -> None:
        raise ClusterError(text)

    with pytest.raises(ClusterError, match="one"):
        in_parallel([lambda: fail("one"), lambda: fail("two")])


def test_one_client_works_in_many_threads(api: Api) -> None:
    found = for_each(lambda _: api.exec("default", "coredns-1", "c", ["true"], 5), range(20))
    assert [each.exit_code for each in found] == [0] * 20


def test_a_server_dry_run_returns_what_would_change(api: Api, server: ApiServer) -> None:
    """A dry run answers with the old resourceVersion (measured on Kubernetes 1.34)."""
    there = api.apply(MAP, before=None, manager="me").manifest
    changed = {**MAP, "data": {"k": "w"}}
    assert api.apply(changed, before=there, manager="me", dry_run=True).verb == "changed"


def test_reports_the_time_that_exec_waited(api: Api, server: ApiServer) -> None:
    server.fail("GET", "/exec", -1)
    with pytest.raises(Unreachable, match=r"did not answer within 0\.1s"):
        api.exec("default", "coredns-1", "c", ["true"], 0.1)


@pytest.mark.parametrize("text", ["a: [b", "\t"])
def test_reports_a_kubeconfig_that_is_not_yaml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "k"
    path.write_text(text)
    with pytest.raises(Unreachable, match="cannot be used"):
        Api.connect(ConnectionOptions(kubeconfig=str(path)))


@pytest.mark.parametrize(
    ("status", "body"), [(200, "<html>log in</html>"), (302, ""), (200, '"text"')]
)
def test_reports_a_response_of_another_server(
    api: Api, server: ApiServer, status: int, body: str
) -> None:
    """A portal or a proxy in between."""
    server.fail("GET", "/pods", status, body or " ")
    with pytest.raises(ClusterError):
        api.list("Pod")


def test_reports_an_unreadable_exec_status(api: Api, server: ApiServer) -> None:
    server.run = lambda *_: Exec("out", status="{")
    assert api.exec("default", "coredns-1", "c", ["true"], 5).exit_code is None


@pytest.mark.parametrize(
    "text", ["emoji 😀", "\x00\x1f\x7f\x85\u2028\ufeff", 'quote " \\ \\ud83d', "é"]
)
def test_request_bodies_are_valid_json_and_yaml(text: str) -> None:
    """An apply is read by a YAML parser, which knows no surrogate pairs."""
    sent = client._encoded({"text": text})
    assert json.loads(sent) == {"text": text}
    assert yaml.safe_load(sent.decode()) == {"text": text}


# -- an older Istio -----------------------------------------------------------------------------


ENTRY = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "ServiceEntry",
    "metadata": {"name": "e", "namespace": "default"},
    "spec": {"hosts": ["e.example"]},
}


def test_uses_the_version_of_a_kind_that_the_server_has(api: Api, server: ApiServer) -> None:
    server.served["ServiceEntry"] = {"networking.istio.io/v1beta1"}
    first = api.apply(ENTRY, before=None, manager="me")
    assert first.manifest["apiVersion"] == "networking.istio.io/v1beta1"
    assert [e["metadata"]["name"] for e in api.list("ServiceEntry")] == ["e"]
    assert api.delete(ENTRY)
    tried = [request.path.split("/")[3] for request in server.requests]
    assert tried == ["v1", "v1beta1", "v1beta1", "v1beta1"]


def test_a_version_that_is_removed_is_no_longer_used(api: Api, server: ApiServer) -> None:
    """An upgrade of Istio while the controller runs."""
    server.served["ServiceEntry"] = {"networking.istio.io/v1beta1"}
    api.list("ServiceEntry")
    server.served["ServiceEntry"] = {"networking.istio.io/v1"}
    assert api.list("ServiceEntry") == []
    assert api.list("ServiceEntry") == []
    tried = [request.path.split("/")[3] for request in server.requests]
    assert tried == ["v1", "v1beta1", "v1beta1", "v1", "v1"]


def test_reports_a_kind_without_a_served_version_once(api: Api, server: ApiServer) -> None:
    server.installed -= {"ServiceEntry"}
    with pytest.raises(NotInstalled, match=r"does not serve serviceentries\.networking\.istio\.io"):
        api.list("ServiceEntry")


def test_a_namespace_that_does_not_exist_is_named() -> None:
    """The API server's answer to a write in it."""
    action = Action("patch", RESOURCES["Service"], "nope", "coredns")
    details = {"name": "nope", "kind": "namespaces"}
    body = {"message": 'namespaces "nope" not found', "details": details}
    found = refusal(404, json.dumps(body).encode(), action, {})
    assert found.message == "namespace nope not found"
    assert found.hints == ("list namespaces: kubectl get namespaces",)
