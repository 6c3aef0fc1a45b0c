"""HTTP responses that the gateway, or the mesh's sidecars, give by themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import (
    GATEWAY_NAMESPACE,
    Space,
    eventually,
    gateway_pods,
    get,
    inventory,
    kubectl,
    own_objects,
)

APIS = ("virtualservice", "envoyfilter")
HELLO = ("/direct", "--body", "hello world")


def gateway(port: int, *hosts: str) -> dict[str, Any]:
    """A foreign Istio Gateway at the ingress gateway."""
    server = {
        "port": {"number": port, "name": "http", "protocol": "HTTP"},
        "hosts": list(hosts) or ["*"],
    }
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "Gateway",
        "metadata": {"name": "theirs"},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [server]},
    }


def virtual_service(*routes: dict[str, Any], host: str, **spec: Any) -> dict[str, Any]:
    """A foreign VirtualService, bound to that Gateway by default."""
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "VirtualService",
        "metadata": {"name": "theirs"},
        "spec": {"hosts": [host], "gateways": ["theirs"], "http": list(routes), **spec},
    }


def answer(status: int, path: str | None = None) -> dict[str, Any]:
    route: dict[str, Any] = {"directResponse": {"status": status}}
    return {**route, "match": [{"uri": {"exact": path}}]} if path else route


def status_of(space: Space, port: int, path: str, host: str = "any.example") -> str:
    """What a gateway pod answers to a request."""
    pod = get("pod", "-n", GATEWAY_NAMESPACE, gateway_pods()[0])
    url = f"http://{pod['status']['podIP']}:{port}{path}"
    return space.curl(
        space.tool, "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Host: {host}", url
    )


def proven(space: Space, name: str, *words: str) -> dict[str, Any]:
    """The data of a `verify` that must succeed."""
    result = space.verify(f"response/{name}", "-o", "json", *words)
    assert result.code == 0, result.both
    return dict(json.loads(result.out)[0])


@pytest.mark.parametrize("api", APIS)
def test_a_path_is_answered_at_a_gateway_that_had_no_server(
    space: Space, port: int, api: str
) -> None:
    refused = space.respond(*HELLO, "--gateway-port", str(port), "--api", api, code=3)
    assert "[U111]" in refused.err and "--create-gateway" in refused.err
    assert own_objects(space) == []
    before = inventory(space)
    space.respond(*HELLO, "--gateway-port", str(port), "--api", api, "--create-gateway")
    probes = proven(space, "direct")["probes"]
    assert [p["rcode"] for p in probes] == ["200"] * len(gateway_pods())
    assert {a for p in probes for a in p["answers"]} == {"hello world"}
    assert status_of(space, port, "/other") == "404"
    written = own_objects(space)
    again = space.respond(*HELLO, "--gateway-port", str(port), "--api", api)
    assert "serverside-applied" not in again.out and own_objects(space) == written
    listed = space.plugin("get")
    assert api in listed.out and f":{port}" in listed.out
    described = space.plugin("describe", "response/direct").out
    assert "route response-" in described and "path: /direct" in described
    assert space.plugin("delete", "response/direct").code == 0
    assert inventory(space) == before


@pytest.mark.parametrize("api", APIS)
def test_it_answers_if_another_virtual_service_has_the_host(
    space: Space, port: int, api: str
) -> None:
    """Another VirtualService defines a host, and none matches the request's."""
    space.apply(gateway(port), virtual_service(answer(202), host="shop.example"))
    recipe = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": f"recipe-{space.name}", "namespace": GATEWAY_NAMESPACE},
        "spec": {
            "workloadSelector": {"labels": {"istio": "ingressgateway"}},
            "configPatches": [
                {
                    "applyTo": "HTTP_ROUTE",
                    "match": {"context": "GATEWAY", "routeConfiguration": {"portNumber": port}},
                    "patch": {
                        "operation": "INSERT_FIRST",
                        "value": {
                            "name": "direct",
                            "match": {"path": "/direct"},
                            "directResponse": {
                                "body": {"inlineString": "hello world"},
                                "status": 200,
                            },
                        },
                    },
                }
            ],
        },
    }
    with _applied(recipe):
        eventually(
            "the recipe's route arrives",
            lambda: status_of(space, port, "/direct", "shop.example") == "200",
        )
        assert status_of(space, port, "/direct") == "404"
    space.respond(*HELLO, "--gateway-port", str(port), "--api", api)
    assert proven(space, "direct")["probes"][0]["answers"] == ["hello world"]
    assert status_of(space, port, "/direct") == "200"
    assert status_of(space, port, "/other", "shop.example") == "202"
    theirs = status_of(space, port, "/direct", "shop.example")
    # The response's VirtualService has another host; its EnvoyFilter's route comes first.
    assert theirs == {"virtualservice": "202", "envoyfilter": "200"}[api]


class _applied:
    """An object that exists inside the context."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.text = yaml.safe_dump(manifest)

    def __enter__(self) -> None:
        kubectl("apply", "-f", "-", stdin=self.text)

    def __exit__(self, *error: object) -> None:
        kubectl("delete", "-f", "-", stdin=self.text)


def test_reports_which_object_would_answer_before_writing(space: Space, port: int) -> None:
    at = ("--gateway-port", str(port))
    everything = virtual_service(answer(201, "/direct"), answer(202), host="shop.example")
    space.apply(gateway(port), everything)
    shop = ("--host", "shop.example")
    refused = space.respond(*HELLO, *at, *shop, code=3)
    assert "[U113]" in refused.err and f"{space.name}/theirs is older" in refused.err
    assert own_objects(space) == []
    # Istio puts the other one's route for all paths last, so the response gets its path.
    space.respond("/ours", "--status", "204", *at, *shop)
    proven(space, "ours")
    assert status_of(space, port, "/else", "shop.example") == "202"
    told = space.respond(*HELLO, *at, *shop, "--api", "envoyfilter")
    assert "[U213]" in told.err
    proven(space, "direct")
    assert status_of(space, port, "/else", "shop.example") == "202"
    # The other VirtualService has the host shop.example, so a response for * does not get it.
    hidden = space.respond("/wide", "--status", "204", *at)
    assert "[U214]" in hidden.err and "shop.example" in hidden.err
    assert status_of(space, port, "/wide", "shop.example") == "202"
    assert status_of(space, port, "/wide") == "204"


def test_no_other_path_of_a_host_becomes_unreachable(space: Space, port: int) -> None:
    space.apply(gateway(port), virtual_service(answer(202), host="*"))
    at = ("--gateway-port", str(port))
    eventually("their answer", lambda: status_of(space, port, "/x", "a.example") == "202")
    refused = space.respond(*HELLO, *at, "--host", "a.example", code=3)
    assert "[U114]" in refused.err and "--host '*'" in refused.err
    space.respond(*HELLO, *at)
    proven(space, "direct")
    assert status_of(space, port, "/x", "a.example") == "202"


@pytest.mark.parametrize("api", APIS)
def test_bodies_headers_and_prefixes_arrive_as_requested(
    space: Space, port: int, api: str, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 20
    (tmp_path / "body").write_bytes(content)
    at = ("--gateway-port", str(port), "--api", api)
    text = space.respond("/api", "--body-file", str(tmp_path / "body"), *at, code=2)
    assert "--binary" in text.err
    words = ["--body-file", str(tmp_path / "body"), "--binary", "--prefix", "--status", "418"]
    words += ["--header", "content-type=application/x", "--header", "x-share=50% of %PATH%"]
    space.respond("/api", *words, *at, "--create-gateway")
    proven(space, "api")
    assert status_of(space, port, "/api/v1/x") == "418"
    (tmp_path / "body").write_bytes(b"a" * 150_000)
    large = space.respond("/api", *words[:2], "--prefix", *at)
    assert "[U211]" in large.err
    proven(space, "api")


def test_a_refused_command_writes_nothing(space: Space, port: int) -> None:
    at = ("--gateway-port", str(port), "--create-gateway")
    for dry_run in ("client", "server"):
        shown = space.respond(*HELLO, *at, "--dry-run", dry_run, "-o", "yaml")
        kinds = [manifest["kind"] for manifest in yaml.safe_load_all(shown.out)]
        assert kinds == ["Gateway", "VirtualService"]
    assert own_objects(space) == []
    space.respond(*HELLO, *at)
    shown = space.plugin("delete", "response/direct", "--dry-run", "server")
    assert "(server dry run)" in shown.out and len(own_objects(space)) == 2


def test_verify_names_what_is_broken(space: Space, port: int) -> None:
    at = ("--gateway-port", str(port), "--create-gateway")
    space.respond(*HELLO, *at)
    kubectl("delete", "virtualservice", "-n", space.name, "--all")
    eventually("404", lambda: status_of(space, port, "/direct") == "404")
    broken = space.verify("response/direct")
    assert broken.code == 1 and "VirtualService" in broken.out and "is missing" in broken.out
    assert " MissingVirtualService " in space.plugin("get", "response/direct").out
    space.respond(*HELLO, *at)
    proven(space, "direct")
    # Somebody edits the answer, so it differs from the requested one.
    patch = [{"op": "replace", "path": "/spec/http/0/directResponse/status", "value": 500}]
    name = get("virtualservice", "-n", space.name)["items"][0]["metadata"]["name"]
    kubectl("patch", "vs", "-n", space.name, name, "--type=json", "-p", json.dumps(patch))
    eventually("500", lambda: status_of(space, port, "/direct") == "500")
    broken = space.verify("response/direct")
    assert broken.code == 1 and "500 instead of 200" in broken.out
    conflict = space.respond(*HELLO, *at, code=3)
    assert "--force-conflicts" in conflict.err
    space.respond(*HELLO, *at, "--force-conflicts")
    proven(space, "direct")


@pytest.mark.alone
def test_a_response_through_the_gateways_own_service(space: Space) -> None:
    space.respond(*HELLO, "--create-gateway")
    probes = proven(space, "direct")["probes"]
    assert [p["via"] for p in probes] == ["gateway"] * len(gateway_pods()) + ["service"]
    assert space.respond("/direct", "--status", "503").code == 0
    assert {p["rcode"] for p in proven(space, "direct")["probes"]} == {"503"}


@pytest.fixture
def ratings(space: Space) -> str:
    """An HTTP Service in the mesh, and a network tool with a sidecar: the Service's host."""
    kubectl("label", "namespace", space.name, "istio-injection=enabled")
    pods = {"app": "ratings"}
    server = {
        "name": "r",
        "image": "python:3-slim",
        "command": ["python3", "-m", "http.server", "9080"],
    }
    tool = {
        "name": "network-tool",
        "image": "zhaohuabing/network-tool",
        "command": ["sleep", "infinity"],
    }
    space.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "ratings"},
            "spec": {"selector": pods, "ports": [{"name": "http", "port": 9080}]},
        },
        *(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
            }
            for name, container in (("ratings", server), ("network-tool", tool))
        ),
    )
    kubectl("wait", "-n", space.name, "pod", "--all", "--for=condition=Ready", "--timeout=90s")
    return f"ratings.{space.name}.svc.cluster.local"


@pytest.mark.parametrize("api", APIS)
def test_a_response_inside_the_mesh(space: Space, ratings: str, api: str) -> None:
    tool = f"{space.name}/network-tool"

    def status(path: str) -> str:
        url = f"http://{ratings}:9080{path}"
        return space.curl(tool, "-o", "/dev/null", "-w", "%{http_code}", url)

    path = "/v1/getProductRatings"
    words = [path, "--status", "503", "--body", "unknown error", "--mesh", "--host", ratings]
    eventually("the application answers", lambda: status("/") == "200")
    assert status(path) == "404"
    space.respond(*words, "--api", api)
    eventually("503", lambda: status(path) == "503")
    assert status("/") == "200"
    name = "response/v1-getproductratings"
    proof = space.plugin("verify", name, "-o", "json")
    assert proof.code == 0, proof.both
    (probe,) = json.loads(proof.out)[0]["probes"]
    assert (probe["via"], probe["rcode"], probe["answers"]) == ("sidecar", "503", ["unknown error"])
    assert space.plugin("delete", name).code == 0
    eventually("404 again", lambda: status(path) == "404")
    space.apply(virtual_service(answer(202, "/theirs"), host=ratings, gateways=["mesh"]))
    eventually("their route", lambda: status("/theirs") == "202")
    if api == "virtualservice":
        assert "[U114]" in space.respond(*words, "--api", api, code=3).err
    else:
        space.respond(*words, "--api", api)
        eventually("503", lambda: status(path) == "503")
        assert status("/theirs") == "202"


def test_a_tool_without_a_sidecar_cannot_verify_inside_the_mesh(space: Space, ratings: str) -> None:
    space.respond("/x", "--status", "299", "--mesh", "--host", ratings)
    plain = f"{space.name}/ratings-plain"
    kubectl(
        "run", "ratings-plain", "-n", space.name, "--image", "zhaohuabing/network-tool",
        "--labels", "sidecar.istio.io/inject=false", "--command", "--", "sleep", "infinity",
    )  # fmt: skip
    kubectl("wait", "-n", space.name, "pod/ratings-plain", "--for=condition=Ready")
    result = space.plugin("verify", "response/x", "--tool-pod", plain)
    assert result.code == 3 and "has no sidecar" in result.err and "--create-tool" in result.err
    made = space.plugin("verify", "response/x", "--create-tool")
    assert made.code == 0, made.both
