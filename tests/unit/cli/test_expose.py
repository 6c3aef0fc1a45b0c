from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.apply import exposing
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from tests.support.apiserver import ApiServer, Exec
from tests.support.builders import (
    endpoint,
    endpoint_slice,
    gateway_pod,
    gateway_service,
    plan_of,
    service,
    tcp,
    udp,
)
from tests.support.fakes import Fakes
from tests.unit.conftest import Run

NAME = "udp-default-coredns"
EXPOSE = ("expose", "coredns", "-p", "5300:53")
KEYS = {
    ("ServiceEntry", "default", NAME),
    ("EnvoyFilter", "istio-system", NAME),
    ("Service", "istio-system", NAME),
}
LINES = [
    f"serviceentry.networking.istio.io/{NAME}",
    f"envoyfilter.networking.istio.io/{NAME}",
    f"service/{NAME}",
]
OWN = ("Service", "istio-system", "istio-ingressgateway")
POD = "istio-ingressgateway-1"


def written(server: ApiServer) -> set[tuple[str, ...]]:
    return {key for key in server.there() if key[2] == NAME}


def test_writes_waits_and_prints_the_address_for_clients(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    done = run(*EXPOSE)
    assert done.code == 0
    assert done.out.splitlines() == [
        *[f"{line} serverside-applied" for line in LINES],
        "clients reach coredns:53 at 203.0.113.5:5300/UDP",
    ]
    assert done.err.splitlines()[0] == "endpoint discovery: selector"
    assert "[U301]" in done.err
    assert written(server) == KEYS
    assert ["pilot-agent", "request", "GET", f"config_dump?name_regex={NAME}-.*"] in fakes.commands


def test_an_edit_that_stays_is_reported(run: Run, server: ApiServer) -> None:
    """A server-side apply leaves what others added: here the companion selects no pod."""
    assert run(*EXPOSE).code == 0
    companion = server.get("Service", "istio-system", NAME)
    companion["spec"]["selector"]["x"] = "y"
    server.put(companion)
    done = run(*EXPOSE)
    assert f"Service istio-system/{NAME} was edited (spec.selector)" in done.err
    assert run(*EXPOSE, "--force-conflicts").code == 0
    assert "x" not in server.get("Service", "istio-system", NAME)["spec"]["selector"]
    assert "was edited" not in run(*EXPOSE).err


@pytest.mark.parametrize("label", ["app.kubernetes.io/managed-by", "kubectl-istio-udp/exposure"])
def test_an_object_whose_labels_were_edited_stays_and_is_named(
    run: Run, server: ApiServer, label: str
) -> None:
    """Whoever edited them may have taken the object over."""
    run(*EXPOSE)
    companion = server.get("Service", "istio-system", NAME)
    companion["metadata"]["labels"][label] = "helm"
    server.put(companion)
    done = run("delete", "coredns")
    assert done.code == 0
    assert f"Service istio-system/{NAME} was not deleted" in done.err
    assert f"kubectl delete -n istio-system services {NAME}" in done.err
    assert server.get("Service", "istio-system", NAME)
    assert not server.get("EnvoyFilter", "istio-system", NAME)


def test_a_second_run_prints_unchanged(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    before = server.state()
    done = run(*EXPOSE)
    assert done.code == 0
    assert done.out.splitlines()[:3] == [f"{line} unchanged" for line in LINES]
    assert server.state() == before


def test_a_change_prints_the_changed_objects(run: Run) -> None:
    run(*EXPOSE)
    done = run(*EXPOSE, "--idle-timeout", "1m")
    assert [line.split()[1] for line in done.out.splitlines()[:3]] == ["serverside-applied"] * 3


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["--dry-run", "client"], [f"{line} serverside-applied (dry run)" for line in LINES]),
        (
            ["--dry-run", "server"],
            [f"{line} serverside-applied (server dry run)" for line in LINES],
        ),
        (["--dry-run", "client", "-o", "name"], LINES),
        (["--dry-run=server", "-o", "name"], LINES),
    ],
)
def test_a_dry_run_writes_nothing(
    run: Run, server: ApiServer, words: list[str], lines: list[str]
) -> None:
    done = run(*EXPOSE, *words)
    assert (done.code, done.out.splitlines()) == (0, lines)
    assert server.writes() == []


def test_only_a_server_dry_run_sends_writes_to_the_server(run: Run, server: ApiServer) -> None:
    run(*EXPOSE, "--dry-run", "client")
    assert {request.method for request in server.requests} == {"GET"}
    run(*EXPOSE, "--dry-run", "server")
    assert [r.query["dryRun"] for r in server.requests if r.method == "PATCH"] == [["All"]] * 3


@pytest.mark.parametrize("dry_run", ["none", "client", "server"])
@pytest.mark.parametrize("form", ["yaml", "json"])
def test_manifests_alone_are_on_stdout(run: Run, dry_run: str, form: str) -> None:
    done = run(*EXPOSE, "-o", form, "--dry-run", dry_run)
    found = list(yaml.safe_load_all(done.out))
    if form == "json":
        found = json.loads(done.out)["items"]
    assert [o["kind"] for o in found] == ["ServiceEntry", "EnvoyFilter", "Service"]
    assert {o["metadata"]["name"] for o in found} == {NAME}


def test_the_users_choices_are_in_the_objects(run: Run, server: ApiServer) -> None:
    done = run(
        *EXPOSE, "--name", "edge", "--max-sessions", "77", "--idle-timeout", "1m",
        "--max-datagram-size", "1400", "--affinity", "source-ip", "--session-log",
        "--gateway-service", "none", "--discovery", "static", "--field-manager", "me",
    )  # fmt: skip
    assert done.code == 0
    filter_ = server.get("EnvoyFilter", "istio-system", "udp-default-edge")
    spec = json.loads(filter_["metadata"]["annotations"]["kubectl-istio-udp/spec"])
    assert spec["name"] == "edge" and spec["discovery"] == "static"
    assert spec["options"] == {
        "max_sessions": 77, "idle_timeout": "60s", "max_datagram_size": 1400,
        "affinity": "source-ip", "load_balancing": "maglev", "session_log": True,
        "gateway_service": "none",
    }  # fmt: skip
    assert [m["manager"] for m in filter_["metadata"]["managedFields"]] == ["me"]
    assert {key for key in server.there() if key[2] == "udp-default-edge"} == {
        ("EnvoyFilter", "istio-system", "udp-default-edge")
    }
    assert "clients reach coredns:53 at 10.244.0.7:5300/UDP" in done.out


def test_a_shell_that_never_ends_leaves_the_file_limit_unknown(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    def hang(namespace: str, pod: str, container: str, command: list[str]) -> Exec:
        answer = fakes.run(namespace, pod, container, command)
        return Exec(hangs=True) if "Max open files" in command[-1] else answer

    server.run = hang
    run.wait_for(envoy_answer=0.5)
    done = run(*EXPOSE)
    assert done.code == 0, done.err
    assert "[U204]" in done.err


def test_sessions_are_as_many_as_the_gateway_can_hold(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    fakes.file_limit = "10000\n"
    run(*EXPOSE)
    spec = json.loads(
        server.get("EnvoyFilter", "istio-system", NAME)["metadata"]["annotations"][
            "kubectl-istio-udp/spec"
        ]
    )
    assert spec["options"]["max_sessions"] == 500
    refused = run("expose", "coredns", "--name", "more", "-p", "5400:53", "--max-sessions", "9000")
    assert refused.code == 3
    assert "[U108]" in refused.err and "at most --max-sessions 7500" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["expose", "svc/coredns"], "Service 'svc/coredns' is not a valid Kubernetes name"),
        (["expose", "svc/coredns"], "\n  write the name alone: coredns"),
        (["expose", "coredns", "--name", "A"], "exposure 'A' is not a valid"),
        ([*EXPOSE, "--gateway", "a/b/c"], "--gateway 'a/b/c' is neither NAME nor NAMESPACE/NAME"),
        ([*EXPOSE, "--gateway", ""], "--gateway '' is not a valid Kubernetes name"),
        ([*EXPOSE, "-p", "5300:53"], "gateway port 5300 is given twice"),
        (["expose", "coredns", "-p", "0"], "gateway port 0 is out of range"),
        ([*EXPOSE, "--max-sessions", "0"], "max-sessions 0 is not between"),
        ([*EXPOSE, "--idle-timeout", "0"], "idle-timeout must be at least 1ms"),
        ([*EXPOSE, "--max-datagram-size", "70000"], "max-datagram-size 70000 is not between"),
        (
            [*EXPOSE, "--affinity", "source-ip", "--load-balancing", "random"],
            "cannot be combined with",
        ),
        ([*EXPOSE, "--remove-port", "5300"], "gateway port 5300 is in -p and in --remove-port"),
        ([*EXPOSE, "--remove-port", "x"], "gateway port 'x' is not a number"),
        ([*EXPOSE, "--remove-port", "x"], "\n  write --remove-port GATEWAY_PORT, for example"),
        ([*EXPOSE, "--gateway-selector", "nonsense"], "--gateway-selector 'nonsense' is not KEY"),
    ],
)
def test_a_bad_value_exits_with_2_and_sends_nothing(
    run: Run, server: ApiServer, words: list[str], message: str
) -> None:
    done = run(*words)
    assert done.code == 2
    assert done.err.startswith(f"error: {message}") or message in done.err
    assert server.requests == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["expose", "nothing"], 3, "service nothing not found in namespace default"),
        (["expose", "x", "-n", "nowhere"], 3, "namespace nowhere not found"),
        (["expose", "coredns", "-p", "5300:54"], 2, "has no UDP port 54"),
        ([*EXPOSE, "--gateway", "edge"], 3, "no gateway named edge"),
        ([*EXPOSE, "--gateway-selector", "a=b"], 3, "no Istio ingress gateway"),
        (["expose", "coredns", "--gateway-service", "none"], 2, "may not bind port 53"),
        ([*EXPOSE, "--load-balancing", "maglev"], 2, "cannot be combined with"),
        ([*EXPOSE, "--name", "x" * 63], 0, ""),
    ],
)
def test_reports_values_that_do_not_fit_the_cluster(
    run: Run, server: ApiServer, words: list[str], code: int, message: str
) -> None:
    done = run(*words)
    assert done.code == code
    assert message in done.err
    assert code == 0 or server.writes() == []


@pytest.mark.parametrize(
    "words", [["--gateway", "edge/edge"], ["--gateway-selector", "role=edge, tier=front"]]
)
def test_another_gateway_may_be_chosen(run: Run, server: ApiServer, words: list[str]) -> None:
    labels = {"app": "edge", "istio": "edge", "role": "edge", "tier": "front"}
    server.put(
        gateway_pod("edge-1", namespace="edge", labels=labels),
        gateway_service("edge", namespace="edge", selector={"app": "edge"}),
    )
    assert run(*EXPOSE, *words).code == 0
    assert server.get("EnvoyFilter", "edge", NAME)


def test_refuses_what_would_harm_the_gateway(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    before = server.state()
    done = run("expose", "coredns", "--name", "other", "-p", "5300:53")
    assert done.code == 3
    assert done.out == ""
    assert "is taken by EnvoyFilter istio-system/udp-default-coredns (exposure coredns" in done.err
    assert "[U103]; nothing was written" in done.err
    assert "choose another gateway port: -p PORT:53" in done.err
    assert server.state() == before


def findings(done: Run) -> list[dict[str, Any]]:
    """The findings on stderr, as a program reads them."""
    return [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("dry_run", ["none", "client", "server"])
def test_findings_are_values_if_the_manifests_are(run: Run, form: str, dry_run: str) -> None:
    done = run(*EXPOSE, "-o", form, "--dry-run", dry_run)
    assert [each["code"] for each in findings(done)] == ["U301", "U303", "U306"]
    assert findings(done)[0]["object"] == {
        "kind": "Service",
        "namespace": "istio-system",
        "name": NAME,
    }
    assert "[U301]" not in done.err
    found = json.loads(done.out)["items"] if form == "json" else [*yaml.safe_load_all(done.out)]
    assert len(found) == 3


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_findings_that_refuse_are_values_too(run: Run, form: str) -> None:
    run(*EXPOSE)
    done = run("expose", "coredns", "--name", "other", "-p", "5300:53", "-o", form)
    assert (done.code, done.out) == (3, "")
    first = findings(done)[0]
    assert (first["code"], first["severity"], first["mayPass"]) == ("U103", "error", True)
    assert first["values"]["port"] == 5300
    assert "[U103]; nothing was written" in done.err


def test_every_error_is_reported(run: Run, server: ApiServer) -> None:
    run("expose", "coredns", "-p", "5300:53")
    server.put(service("other", ports=[udp(53)]))
    done = run("expose", "other", "--name", "coredns", "-p", "5301:53")
    assert done.code == 3
    assert "[U106]" in done.err


def test_warnings_and_reasons_are_on_stderr(run: Run, server: ApiServer) -> None:
    bare = service(ports=[udp(53)])
    del bare["spec"]["selector"]
    server.put(bare, endpoint_slice(endpoint("192.0.2.1", ready=False)))
    done = run(*EXPOSE)
    assert "endpoint discovery: endpoints: the Service has no selector" in done.err
    assert "Warning: Service default/coredns has no ready endpoints for 53/UDP" in done.err
    assert "[U202]" in done.err
    assert "Warning" not in done.out


def test_the_servers_warnings_are_shown_for_what_changes(run: Run, server: ApiServer) -> None:
    server.warnings["EnvoyFilter"] = ["using deprecated field x"]
    assert "Warning: using deprecated field x\n" in run(*EXPOSE).err
    assert "deprecated" not in run(*EXPOSE).err


# -- when it goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["serviceentries", "envoyfilters", f"services/{NAME}"])
@pytest.mark.parametrize("status", [403, 409, 500])
def test_a_rejected_write_leaves_nothing_behind(
    run: Run, server: ApiServer, path: str, status: int
) -> None:
    before = server.state()
    server.fail("PATCH", path, status)
    done = run(*EXPOSE)
    assert done.code == 3
    assert server.state() == before
    assert ("everything that this run wrote was undone" in done.err) == (path != "serviceentries")
    assert done.out == ""


def test_a_rejection_by_the_gateway_is_reported_and_undone(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    before = server.state()
    fakes.refuses[f"{NAME}-5300"] = "cannot bind '0.0.0.0:5300': Address already in use"
    done = run(*EXPOSE)
    assert done.code == 3
    assert f"the Envoy of gateway pod istio-system/{POD} rejected it: cannot bind" in done.err
    assert "everything that this run wrote was undone" in done.err
    assert server.state() == before


def test_a_rejected_change_restores_the_exposure(run: Run, server: ApiServer, fakes: Fakes) -> None:
    run(*EXPOSE)
    before = server.state()
    fakes.refuses[f"{NAME}-5400"] = "no"
    assert run("expose", "coredns", "-p", "5400:53").code == 3
    assert server.state() == before


def test_the_error_names_what_could_not_be_undone(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    fakes.refuses[f"{NAME}-5300"] = "no"
    server.fail("DELETE", "/envoyfilters/", 403)
    done = run(*EXPOSE)
    assert done.code == 3
    assert f"could not be undone and may remain: EnvoyFilter istio-system/{NAME}" in done.err


def test_a_slow_gateway_is_reported_and_the_objects_stay(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    fakes.run("istio-system", POD, "istio-proxy", ["pilot-agent", "request", "GET", "listeners"])
    fakes.stuck = True
    done = run(*EXPOSE, "--timeout", "50ms")
    assert done.code == 3
    assert (
        f"does not yet have listener {NAME}-5300 after 0.05s; the objects stay applied" in done.err
    )
    assert "wait longer" in done.err
    assert "taken back" not in done.err
    assert written(server) == KEYS


def test_an_interruption_while_waiting_leaves_what_was_applied(
    run: Run, server: ApiServer, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    fakes.run("istio-system", POD, "istio-proxy", ["pilot-agent", "request", "GET", "listeners"])
    fakes.stuck = True
    # This replaces every sleep, also the wait for a validating Envoy.
    monkeypatch.setattr("kubectl_istio_udp.apply.waiting.time.sleep", interrupt)
    done = run(*EXPOSE, "--validate=none")
    assert done.code == 130
    assert "the objects stay applied" in done.err
    assert "kubectl istio-udp get -n default coredns" in done.err
    assert written(server) == KEYS


@pytest.mark.parametrize("rate", ["nan", "-nan", "inf", "0", "-1", "28001"])
def test_a_rate_that_no_gateway_has(run: Run, rate: str) -> None:
    done = run("expose", "coredns", "-p", "5300:53", f"--expect-rate={rate}")
    assert done.code == 2
    assert "--expect-rate" in done.err


@pytest.mark.parametrize("words", [["--no-wait"], ["--wait=false"], ["--timeout", "0"]])
def test_no_wait_needs_no_confirmation_by_the_gateway(
    run: Run, server: ApiServer, fakes: Fakes, words: list[str]
) -> None:
    fakes.stuck = True
    assert run(*EXPOSE, *words).code == 0
    assert written(server) == KEYS


def test_missing_permission_to_query_envoy_is_reported_before_writing(
    run: Run, server: ApiServer
) -> None:
    server.fail("GET", "/(exec|portforward)", 403)
    done = run(*EXPOSE)
    assert done.code == 3
    for right in ("portforward", "exec"):
        check = f"kubectl auth can-i create pods -n istio-system --subresource={right}"
        assert check in done.err
    assert "--no-wait" in done.err
    assert server.writes() == []
    assert run(*EXPOSE, "--no-wait").code == 0


def test_fields_of_others_need_force(run: Run, server: ApiServer) -> None:
    run(*EXPOSE, "--field-manager", "somebody")
    done = run(*EXPOSE, "--idle-timeout", "1m")
    assert done.code == 3
    assert "--force-conflicts" in done.err
    assert run(*EXPOSE, "--idle-timeout", "1m", "--force-conflicts").code == 0


def test_a_gateway_without_a_ready_pod_is_a_warning(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    server.put(gateway_pod(ready=False))
    done = run(*EXPOSE)
    assert done.code == 0
    assert "[U203]" in done.err


def test_an_envoy_that_cannot_be_queried_is_an_error(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    fakes.deaf[POD] = Exec(error="container not found")
    done = run(*EXPOSE)
    assert done.code == 3
    assert server.writes() == []


# -- the Service in front -----------------------------------------------------------------------


def test_a_port_on_the_gateways_own_service(run: Run, server: ApiServer) -> None:
    done = run(*EXPOSE, "--gateway-service", "patch")
    assert done.code == 0
    assert "service/istio-ingressgateway serverside-applied" in done.out
    ports = server.get(*OWN)["spec"]["ports"]
    assert [(p["port"], p["protocol"]) for p in ports] == [
        (80, "TCP"), (443, "TCP"), (5300, "UDP")
    ]  # fmt: skip
    again = run(*EXPOSE, "--gateway-service", "patch")
    assert "service/istio-ingressgateway unchanged" in again.out


def test_reports_a_load_balancer_without_an_address(run: Run, server: ApiServer) -> None:
    server.load_balancer = None
    done = run(*EXPOSE)
    assert done.code == 0
    assert f"has no address yet: kubectl get service -n istio-system {NAME} -w" in done.err


def test_changing_gateway_service_deletes_the_old_service(run: Run, server: ApiServer) -> None:
    run(*EXPOSE)
    done = run(*EXPOSE, "--gateway-service", "patch", "--discovery", "static")
    assert done.code == 0
    assert f'service "{NAME}" deleted' in done.out
    assert f'serviceentry.networking.istio.io "{NAME}" deleted' in done.out
    assert written(server) == {("EnvoyFilter", "istio-system", NAME)}
    back = run(*EXPOSE, "-o", "name", "--gateway-service", "companion", "--discovery", "selector")
    assert 'service "istio-ingressgateway (UDP ports of the exposure)" deleted' in back.err
    assert back.out.splitlines() == LINES
    assert written(server) == KEYS
    assert [p["port"] for p in server.get(*OWN)["spec"]["ports"]] == [80, 443]


def test_without_p_all_udp_ports_are_exposed(run: Run, server: ApiServer) -> None:
    server.put(service(ports=[udp(53), tcp(80), udp(5353, "two")]))
    done = run("expose", "coredns")
    assert "clients reach coredns:53 at 203.0.113.5:53/UDP" in done.out
    assert "clients reach coredns:5353 at 203.0.113.5:5353/UDP" in done.out
    assert "[U302]" in done.err


def test_a_dry_run_works_if_the_gateway_cannot_be_queried(run: Run, fakes: Fakes) -> None:
    fakes.deaf["istio-ingressgateway-1"] = Exec(error="container not found")
    assert run(*EXPOSE, "--dry-run", "client").code == 0
    assert run(*EXPOSE, "--no-wait").code == 0


def test_an_overtaken_run_reports_it(api: Api, server: ApiServer) -> None:
    """Two runs expose one Service at once with different ports: the later one stays."""
    mine = plan_of().exposure.spec
    theirs = plan_of(ports=[PortRequest(5399)]).exposure
    server.put(dict(envoy_filter(theirs)))
    with pytest.raises(ClusterError, match="modified concurrently"):
        exposing.check_not_overtaken(api, mine)
    server.put(dict(envoy_filter(plan_of().exposure)))
    exposing.check_not_overtaken(api, mine)


def test_the_smallest_file_limit_of_all_gateway_pods_counts(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    """Pods of a gateway may be on nodes with other limits."""
    server.put(gateway_pod("x"), gateway_pod("y"))
    fakes.file_limits["x"] = "10000\n"
    fakes.deaf["y"] = Exec(error="gone")
    refused = run("expose", "coredns", "-p", "5300:53", "--max-sessions", "9000", "--no-wait")
    assert refused.code == 3 and "at most --max-sessions 8000" in refused.err


def everywhere(namespace: str, port: int = 5300) -> dict[str, Any]:
    """An EnvoyFilter that takes a port of every gateway, if its namespace is the root namespace."""
    socket = {"protocol": "UDP", "address": "0.0.0.0", "port_value": port}
    value = {"name": "everywhere", "address": {"socket_address": socket}}
    patch = {"operation": "ADD", "value": value}
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "everywhere", "namespace": namespace},
        "spec": {"configPatches": [{"applyTo": "LISTENER", "patch": patch}]},
    }


def test_a_port_that_is_taken_if_an_unknown_root_namespace_is_another_is_refused(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    server.remove("ConfigMap", "istio-system", "istio")
    server.put(everywhere("mesh-config"))
    fakes.ignored = frozenset(["mesh-config"])
    refused = run(*EXPOSE)
    assert refused.code == 3
    assert "[U103]" in refused.err
    assert (
        "is taken by EnvoyFilter mesh-config/everywhere, if mesh-config is the root namespace of "
        "the mesh; could not read the configuration of istiod.istio-system (ConfigMap "
        "istio-system/istio)"
    ) in " ".join(refused.err.split())
    assert "--root-namespace NAMESPACE" in refused.err
    assert not written(server)
    assert run(*EXPOSE, "--root-namespace", "mesh-config").code == 3
    told = run(*EXPOSE, "--root-namespace", "istio-system")
    assert told.code == 0
    assert "U209" not in told.err and "U208" not in told.err


def test_an_existing_exposure_is_not_refused_for_an_unknown_root_namespace(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    assert run(*EXPOSE).code == 0
    server.remove("ConfigMap", "istio-system", "istio")
    server.put(everywhere("mesh-config"))
    fakes.ignored = frozenset(["mesh-config"])
    again = run(*EXPOSE, "--idle-timeout", "20s")
    assert again.code == 0
    assert "[U208]" in again.err
    server.put(everywhere("mesh-config", 5301))
    assert "[U103]" in run(*EXPOSE, "-p", "5301:53").err


def test_a_readable_root_namespace_overrides_the_option(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    server.put(everywhere("mesh-config"))
    fakes.ignored = frozenset(["mesh-config"])
    done = run(*EXPOSE, "--root-namespace", "mesh-config")
    assert done.code == 0, done.err


def test_the_companion_is_like_the_service_that_the_user_named(run: Run, server: ApiServer) -> None:
    """It does not change when the command is repeated without the gateway."""
    server.put(
        gateway_service("a-internal", type="ClusterIP"),
        gateway_service("b-public", loadBalancerSourceRanges=["203.0.113.0/24"]),
    )
    server.remove("Service", "istio-system", "istio-ingressgateway")
    for words in (["--gateway", "b-public"], ["--idle-timeout", "20s"]):
        assert run("expose", "coredns", "-p", "5300:53", "--no-wait", *words).code == 0
        spec = server.get("Service", "istio-system", "udp-default-coredns")["spec"]
        assert spec["type"] == "LoadBalancer"
        assert spec["loadBalancerSourceRanges"] == ["203.0.113.0/24"]
    done = run("expose", "coredns", "--gateway", "a-internal", "--no-wait")
    assert "gateway: istio-system/b-public -> istio-system/a-internal" in done.err
    assert (
        server.get("Service", "istio-system", "udp-default-coredns")["spec"]["type"] == "ClusterIP"
    )
