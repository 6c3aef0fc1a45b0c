"""`expose --api udproute`: the Gateway and the UDPRoutes that it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.sources.gateways import exposure_key
from tests.support import builders
from tests.support.apiserver import ApiServer
from tests.support.builders import tcp, udp
from tests.support.controlling import Running, space, until
from tests.support.routes import gateway, gateway_class
from tests.unit.conftest import Run

EXPOSE = ("expose", "coredns", "--api", "udproute")
TARGET = "istio-system/istio-ingressgateway"
API_KINDS = {"GatewayClass", API_GATEWAY, "UDPRoute", "ReferenceGrant"}


@pytest.fixture
def classed(server: ApiServer) -> ApiServer:
    server.put(gateway_class())
    return server


@pytest.fixture
def controlled(api: Api, classed: ApiServer, run: Run) -> Iterator[ApiServer]:
    """A controller serves the class; namespaces may expose ports 5300 to 5309."""
    classed.put(space("default"))
    running = Running(api, classed)
    controller = running.start(gateway_api=True)
    until(lambda: controller.states() is not None)
    run.wait_for(poll=0.02)
    yield classed
    running.stop()


def edge() -> Iterator[Any]:
    """Another gateway."""
    labels = {"app": "edge"}
    yield builders.gateway_pod("edge-1", labels=labels, ips=("10.244.0.8",))
    yield builders.gateway_service("edge", selector=labels)


def written(server: ApiServer) -> tuple[Any, list[Any]]:
    (found,) = server.all(API_GATEWAY)
    return found, sorted(server.all("UDPRoute"), key=lambda each: each["metadata"]["name"])


def test_writes_a_gateway_and_a_route(run: Run, classed: ApiServer) -> None:
    done = run(*EXPOSE, "-p", "5300:53", "--no-wait")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "gateway.gateway.networking.k8s.io/coredns serverside-applied",
        "udproute.gateway.networking.k8s.io/coredns-53 serverside-applied",
    ]
    made, (route,) = written(classed)
    assert made["spec"] == {
        "gatewayClassName": "istio-udp",
        "listeners": [{"name": "udp-5300", "port": 5300, "protocol": "UDP"}],
    }
    assert made["metadata"]["annotations"] == {"kubectl-istio-udp/gateway": TARGET}
    assert route["spec"] == {
        "parentRefs": [{"name": "coredns", "sectionName": "udp-5300"}],
        "rules": [{"backendRefs": [{"name": "coredns", "port": 53}]}],
    }
    assert not classed.all("EnvoyFilter")


def test_as_udproute_is_the_same(run: Run, classed: ApiServer) -> None:
    done = run("expose", "coredns", "--as", "udproute", "-p", "5300:53", "--no-wait")
    assert done.code == 0, done.err
    written(classed)
    assert not any("impersonate" in str(request).lower() for request in classed.requests)


def test_the_controller_makes_the_exposure(run: Run, controlled: ApiServer) -> None:
    done = run(*EXPOSE, "-p", "5300:53", "--max-sessions", "500", "--timeout", "20s")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "clients reach coredns at 203.0.113.5"
    name = exposure_key(("default", "coredns"))[1]
    shown = json.loads(run("get", name, "-o", "json").out)
    assert shown["status"]["gateway"] == "default/coredns"
    # Again: nothing changes.
    again = run(*EXPOSE, "--timeout", "20s")
    assert again.code == 0, again.err
    assert [line.split()[-1] for line in again.out.splitlines()[:2]] == ["unchanged"] * 2
    # A setting is changed, the others stay; the changes are shown.
    done = run(*EXPOSE, "--idle-timeout", "2m", "-p", "5301:53", "--timeout", "20s")
    assert done.code == 0, done.err
    assert "idle-timeout: 10s -> 120s" in done.err and "max-sessions:" not in done.err
    made, (route,) = written(controlled)
    assert [each["port"] for each in made["spec"]["listeners"]] == [5300, 5301]
    notes = made["metadata"]["annotations"]
    assert notes["kubectl-istio-udp/max-sessions"] == "500"
    assert notes["kubectl-istio-udp/idle-timeout"] == "120s"
    assert len(route["spec"]["parentRefs"]) == 2


def test_a_gateway_that_the_controller_refuses_is_rolled_back(
    run: Run, controlled: ApiServer
) -> None:
    controlled.put(space("default", allow="6000"))
    done = run(*EXPOSE, "-p", "5300:53", "--timeout", "20s")
    assert done.code == 3
    assert "the controller does not accept Gateway default/coredns: " in done.err
    assert "gateway port 5300 is not allowed" in done.err
    until(lambda: not controlled.all(API_GATEWAY) and not controlled.all("UDPRoute"))


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--idle-timeout", "20h"], "idle-timeout"),
        (["--gateway", "istio-system/edge"], "istio-system/edge"),
    ],
)
def test_a_refused_change_is_rolled_back(
    run: Run, controlled: ApiServer, words: list[str], refusal: str
) -> None:
    """The Gateway's conditions are about its generation, which annotations do not change."""
    controlled.put(space("default", **{"kubectl-istio-udp/allow-gateways": TARGET}), *edge())
    expose = (*EXPOSE, "-p", "5300:53", "--timeout", "20s")
    assert run(*expose, "--gateway", TARGET).code == 0
    before = written(controlled)[0]["metadata"]["annotations"]
    done = run(*expose, *words)
    assert done.code == 3, done.out
    assert "the controller does not accept Gateway default/coredns: " in done.err
    assert refusal in done.err
    assert written(controlled)[0]["metadata"]["annotations"] == before


def test_an_earlier_refusal_does_not_count(run: Run, controlled: ApiServer) -> None:
    expose = (*EXPOSE, "-p", "5300:53", "--idle-timeout")
    assert run(*expose, "20h", "--no-wait").code == 0
    until(lambda: "Invalid" in json.dumps(written(controlled)[0].get("status")))
    done = run(*expose, "30s", "--timeout", "20s")
    assert done.code == 0, done.err


def test_a_changed_route_is_waited_for(run: Run, controlled: ApiServer) -> None:
    controlled.put(builders.service(ports=[udp(), udp(54, "more")]))
    assert run(*EXPOSE, "-p", "5300:53", "--timeout", "20s").code == 0
    done = run(*EXPOSE, "-p", "5300:54", "--timeout", "20s")
    assert done.code == 0, done.err
    name = exposure_key(("default", "coredns"))[1]
    shown = json.loads(run("get", name, "-o", "json").out)
    (port,) = shown["spec"]["ports"]
    assert [each["port"] for each in port["backends"] if each["weight"]] == [54]


def test_without_a_controller_it_reports_that(run: Run, classed: ApiServer) -> None:
    run.wait_for(poll=0.02)
    done = run(*EXPOSE, "-p", "5300:53", "--timeout", "0.1s")
    assert done.code == 3
    assert "the controller has not reported yet; the objects stay applied" in done.err
    assert "controller status" in done.err
    written(classed)


@pytest.mark.parametrize("form", ["yaml", "json", "name"])
def test_a_dry_run_writes_nothing(run: Run, classed: ApiServer, form: str) -> None:
    words = (*EXPOSE, "-p", "5300:53", "--dry-run", "client", "-o", form)
    done = run(*words)
    assert done.code == 0, done.err
    if form == "yaml":
        kinds = [each["kind"] for each in yaml.safe_load_all(done.out)]
        assert kinds == ["Gateway", "UDPRoute"]
    elif form == "json":
        assert [each["kind"] for each in json.loads(done.out)["items"]] == ["Gateway", "UDPRoute"]
    else:
        assert done.out.split()[0] == "gateway.gateway.networking.k8s.io/coredns"
    assert not classed.all(API_GATEWAY)
    done = run(*EXPOSE, "-p", "5300:53", "--dry-run", "server")
    assert done.code == 0 and "(server dry run)" in done.out
    assert not classed.all(API_GATEWAY)


def test_a_taken_port_is_refused_before_anything_is_written(run: Run, classed: ApiServer) -> None:
    assert run("expose", "coredns", "-p", "5300:53").code == 0
    done = run(*EXPOSE, "-p", "5300:53", "--no-wait")
    assert done.code == 3 and "nothing was written" in done.err
    assert "port 5300/UDP of gateway istio-system/istio-ingressgateway is taken" in done.err
    assert not classed.all(API_GATEWAY)


def test_several_ports_of_a_service(run: Run, classed: ApiServer) -> None:
    ports = [udp(), udp(54, "more"), tcp()]
    classed.put(builders.service(ports=ports))
    assert run(*EXPOSE, "--no-wait").code == 0
    made, routes = written(classed)
    assert [each["port"] for each in made["spec"]["listeners"]] == [53, 54]
    assert [each["metadata"]["name"] for each in routes] == ["coredns-53", "coredns-54"]


def test_a_removed_port_loses_its_route(run: Run, controlled: ApiServer) -> None:
    controlled.put(builders.service(ports=[udp(), udp(54, "more")]))
    assert run(*EXPOSE, "-p", "5300:53", "-p", "5301:54", "--timeout", "20s").code == 0
    done = run(*EXPOSE, "--remove-port", "5301", "--timeout", "20s")
    assert done.code == 0, done.err
    assert 'udproute.gateway.networking.k8s.io "coredns-54" deleted' in done.out
    made, routes = written(controlled)
    assert [each["port"] for each in made["spec"]["listeners"]] == [5300]
    assert [each["metadata"]["name"] for each in routes] == ["coredns-53"]


def test_another_gateway_with_the_name_is_not_changed(run: Run, classed: ApiServer) -> None:
    other = gateway(name="coredns", namespace="default", class_name="istio")
    classed.put(other)
    done = run(*EXPOSE, "-p", "5300:53", "--no-wait")
    assert done.code == 3 and "expose did not write it; nothing was written" in done.err
    assert run(*EXPOSE, "-p", "5300:53", "--no-wait", "--name", "dns").code == 0


@pytest.mark.parametrize("missing", [API_KINDS, {"UDPRoute"}])
def test_without_the_gateway_api(run: Run, classed: ApiServer, missing: set[str]) -> None:
    classed.installed -= missing
    done = run(*EXPOSE, "-p", "5300:53")
    assert done.code == 3
    assert "the Gateway API's CRDs are not installed" in done.err
    assert "kubectl istio-udp controller install --gateway-api" in done.err


def test_without_the_class(run: Run, server: ApiServer) -> None:
    server.put(gateway_class("istio", controller="istio.io/gateway-controller"))
    done = run(*EXPOSE, "-p", "5300:53")
    assert done.code == 3
    assert "the cluster has no GatewayClass istio-udp" in done.err
    assert "install it: kubectl istio-udp controller install --gateway-api" in done.err


def test_endpoints_are_always_listed(run: Run, classed: ApiServer) -> None:
    done = run(*EXPOSE, "-p", "5300:53", "--discovery", "static")
    assert done.code == 2
    assert "--discovery static cannot be combined with --api udproute" in done.err


SAMPLES = ["gateway.gateway.networking.k8s.io/udp-sample"]
SAMPLES += [f"{kind}.gateway.networking.k8s.io/coredns" for kind in ("udproute", "referencegrant")]


def test_the_samples_have_a_route(run: Run, controlled: ApiServer) -> None:
    """The route crosses namespaces, so the ReferenceGrant is needed."""
    controlled.put(space("istio-system", allow=None))
    before = controlled.there()
    words = ("-n", "lab", "--udproute")
    done = run("samples", "apply", *words, "--no-wait")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-3:] == [f"{name} serverside-applied" for name in SAMPLES]

    def conditions() -> dict[str, str]:
        found = controlled.get("UDPRoute", "istio-system", "coredns")
        parents = (found.get("status") or {}).get("parents", ())
        return {each["type"]: each["reason"] for p in parents for each in p["conditions"]}

    until(lambda: conditions() == {"Accepted": "Accepted", "ResolvedRefs": "ResolvedRefs"})
    gone = run("samples", "delete", *words)
    assert gone.code == 0
    until(lambda: controlled.there() >= before)
    left = {(kind, name) for kind, _, name in controlled.there()}
    assert not left & {(API_GATEWAY, "udp-sample"), ("UDPRoute", "coredns")}


def test_the_samples_are_printed_with_a_route(run: Run) -> None:
    done = run("samples", "print", "--udproute", "-n", "lab", "--gateway-namespace", "edge")
    found = {each["kind"]: each for each in yaml.safe_load_all(done.out)}
    assert found["Gateway"]["metadata"]["namespace"] == "edge"
    assert found["ReferenceGrant"]["metadata"]["namespace"] == "lab"
    assert "Gateway" not in run("samples", "print", "-n", "lab").out


def test_the_samples_need_the_class(run: Run, server: ApiServer) -> None:
    done = run("samples", "apply", "--udproute")
    assert done.code == 3 and "controller install --gateway-api" in done.err
    server.installed -= API_KINDS
    assert run("samples", "delete", "--udproute").code == 0


def test_a_killed_change_is_finished_by_the_next_run(run: Run, controlled: ApiServer) -> None:
    """Both routes to the listener exist then, and the former one is served: it is older."""
    controlled.put(builders.service(ports=[udp(), udp(54, "more")]))
    assert run(*EXPOSE, "-p", "5300:53", "--timeout", "20s").code == 0
    controlled.fail("DELETE", "udproutes", 500)
    assert run(*EXPOSE, "-p", "5300:54", "--timeout", "20s").code == 3
    controlled.heal()
    done = run(*EXPOSE, "-p", "5300:54", "--timeout", "3s")
    assert done.code == 0, done.err
    assert [each["metadata"]["name"] for each in written(controlled)[1]] == ["coredns-54"]


def test_routes_of_a_deleted_gateway_are_deleted(run: Run, controlled: ApiServer) -> None:
    controlled.put(builders.service(ports=[udp(), udp(54, "more")]))
    assert run(*EXPOSE, "-p", "5300:53", "--timeout", "20s").code == 0
    controlled.remove(API_GATEWAY, "default", "coredns")
    done = run(*EXPOSE, "-p", "5300:54", "--timeout", "3s")
    assert done.code == 0, done.err
    assert [each["metadata"]["name"] for each in written(controlled)[1]] == ["coredns-54"]


def test_settings_stay_although_the_controller_has_made_no_exposure(
    run: Run, classed: ApiServer
) -> None:
    words = ("--idle-timeout", "1m", "--no-wait")
    assert run(*EXPOSE, "-p", "5300:53", *words).code == 0
    done = run(*EXPOSE, "-p", "5301:53", "--no-wait")
    assert done.code == 0, done.err
    assert "  ports: 5300:53/UDP -> 5300-5301:53/UDP" in done.err
    assert "max-sessions" not in done.err
    made, _ = written(classed)
    assert [each["port"] for each in made["spec"]["listeners"]] == [5300, 5301]
    assert made["metadata"]["annotations"]["kubectl-istio-udp/idle-timeout"] == "60s"


def test_the_gateway_of_another_service_is_not_taken(run: Run, classed: ApiServer) -> None:
    classed.put(builders.service("other"))
    assert run(*EXPOSE, "-p", "5300:53", "--no-wait").code == 0
    before = classed.state()
    words = ("expose", "other", "--name", "coredns", "--api", "udproute", "-p", "5301:53")
    done = run(*words, "--no-wait")
    assert done.code == 3, done.out
    assert "for Service default/coredns; nothing was written" in done.err
    assert classed.state() == before


def test_swapped_ports_are_waited_for(run: Run, controlled: ApiServer) -> None:
    controlled.put(builders.service(ports=[udp(), udp(54, "more")]))
    expose = (*EXPOSE, "--timeout", "20s", "-p")
    assert run(*expose, "5300:53", "-p", "5301:54").code == 0
    done = run(*expose, "5300:54", "-p", "5301:53")
    assert done.code == 0, done.err
    name = exposure_key(("default", "coredns"))[1]
    spec = json.loads(run("get", name, "-o", "json").out)["spec"]
    served = [[b["port"] for b in port["backends"] if b["weight"]] for port in spec["ports"]]
    assert served == [[54], [53]]


def test_a_deleted_gateway_is_waited_for(run: Run, classed: ApiServer) -> None:
    """The new exposure does not keep its settings."""
    words = (*EXPOSE, "-p", "5300:53")
    assert run(*words, "--idle-timeout", "1m", "--no-wait").code == 0
    key = (API_GATEWAY, "default", "coredns")
    patch = {"metadata": {"name": "coredns", "finalizers": ["foregroundDeletion"]}}
    classed.merge(key, patch, "somebody")
    classed.delete(key, dry_run=False)
    done = run(*words, "--timeout", "100ms")
    assert done.code == 3
    assert "waiting: Gateway default/coredns is being deleted" in done.err
    classed.finish_deletions()
    done = run(*words, "--timeout", "100ms")
    assert "the controller has not reported yet" in done.err
    assert "kubectl-istio-udp/idle-timeout" not in written(classed)[0]["metadata"]["annotations"]
