from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.controller.objects import marked
from kubectl_istio_udp.model.exposure import Discovery
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.model.service import SERVICE_LABEL
from kubectl_istio_udp.render.exposure import writes
from tests.support import builders
from tests.support.apiserver import ApiServer, Exec
from tests.support.builders import endpoint, endpoint_slice, gateway_pod, on_host, pod, service, tcp
from tests.support.fakes import Fakes
from tests.unit.conftest import Run

NAME = "udp-default-coredns"
EXPOSE = ("expose", "coredns", "-p", "5300:53")
POD_A, POD_B, GATEWAY = "10.244.0.20:53", "10.244.0.21:53", "10.244.0.7:5300"


@pytest.fixture
def exposed(run: Run, server: ApiServer, fakes: Fakes) -> str:
    """The DNS Service, exposed; the address of the companion Service."""
    assert run(*EXPOSE).code == 0
    fakes.commands.clear()
    address = server.get("Service", "istio-system", NAME)["spec"]["clusterIP"]
    return f"{address}:5300"


def probes(fakes: Fakes) -> list[list[str]]:
    """The commands that query a hop, without the queries to the gateway's Envoy."""
    return [command for command in fakes.commands if command[0] not in ("pilot-agent", "cat")]


def test_every_hop_answers(run: Run, exposed: str, fakes: Fakes) -> None:
    done = run("verify", "coredns")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["TARGET", "VIA", "ANSWERED", "RCODE", "TIME", "ANSWER"]
    assert [line.split()[0] for line in lines[1:5]] == [POD_A, POD_B, GATEWAY, exposed]
    assert [line.split()[1] for line in lines[1:5]] == ["pod", "pod", "gateway", "service"]
    assert all(" yes " in line and "NOERROR" in line for line in lines[1:5])
    assert lines[5] == "coredns: every hop answered"
    assert done.err == ""
    assert {command[command.index("-q") + 1] for command in probes(fakes)} == {"foo.bar.com"}


@pytest.mark.parametrize(
    ("silent", "verdict"),
    [
        ([POD_B], f"coredns: pod coredns-2 ({POD_B}) does not answer"),
        ([POD_A, POD_B, GATEWAY], f"coredns: pod coredns-1 ({POD_A}) does not answer"),
        (
            [GATEWAY],
            "coredns: pods answer, the gateway does not answer: istio-ingressgateway-1 has",
        ),
        (["service"], f"coredns: the gateway answers, service {NAME} ("),
    ],
)
def test_names_the_broken_hop(
    run: Run, exposed: str, fakes: Fakes, silent: list[str], verdict: str
) -> None:
    for target in silent:
        fakes.dig[exposed if target == "service" else target] = "timeout"
    done = run("verify", "coredns")
    assert done.code == 1
    assert done.out.splitlines()[-1].startswith(verdict)


def test_names_what_the_gateway_lacks(
    run: Run, exposed: str, fakes: Fakes, server: ApiServer
) -> None:
    fakes.dig[GATEWAY] = "closed"
    found = server.get("EnvoyFilter", "istio-system", NAME)
    found["spec"]["configPatches"] = []
    server.put(found)
    done = run("verify", "coredns")
    assert done.code == 1
    assert done.out.splitlines()[-1] == (
        "coredns: pods answer, the gateway refuses the port: "
        "no listener on 5300 in istio-ingressgateway-1; run again: kubectl "
        "istio-udp expose -n default coredns; "
        "check istiod: kubectl get pods -A -l app=istiod"
    )


@pytest.mark.parametrize(
    "waits",
    [
        pytest.param({"kube_proxy": 30}, id="any"),
        pytest.param({"kube_proxy": 0, "kube_proxy_retry": 30}, id="just written"),
    ],
)
def test_a_service_that_kube_proxy_does_not_have_yet_is_queried_again(
    run: Run, exposed: str, fakes: Fakes, waits: dict[str, float]
) -> None:
    run.wait_for(**waits)
    fakes.dig[exposed] = "timeout"
    asked = []
    run_fake = fakes.run

    def later(namespace: str, pod_name: str, container: str, command: list[str]) -> Exec:
        if f"@{exposed.partition(':')[0]}" in command:
            asked.append(command)
            if len(asked) == 2:
                fakes.dig.clear()
        return run_fake(namespace, pod_name, container, command)

    fakes.server.run = later
    done = run("verify", "coredns")
    assert done.code == 0
    assert len(asked) == 2


def test_a_service_written_long_ago_is_only_queried_again_briefly(
    run: Run, exposed: str, fakes: Fakes, server: ApiServer
) -> None:
    run.wait_for(kube_proxy=0, kube_proxy_retry=30)
    fakes.dig[exposed] = "timeout"
    server.now = lambda: "2026-01-02T03:04:05Z"
    server.put(server.get("Service", "istio-system", NAME))
    begun = time.monotonic()
    done = run("verify", "coredns")
    assert "kube-proxy (or its replacement) does not forward it" in done.out
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(("answer", "rcode"), [("servfail", "SERVFAIL"), ("refused", "REFUSED")])
def test_distinguishes_a_refusal_from_silence(
    run: Run, exposed: str, fakes: Fakes, answer: str, rcode: str
) -> None:
    fakes.default = answer
    done = run("verify", "coredns")
    assert done.code == 1
    assert f"answers {rcode}" in done.out


def test_a_truncated_answer_is_marked(run: Run, exposed: str, fakes: Fakes) -> None:
    fakes.default = "truncated"
    done = run("verify", "coredns")
    assert done.code == 0
    assert "NOERROR (truncated)" in done.out


def test_several_probes_are_counted(run: Run, exposed: str, fakes: Fakes) -> None:
    done = run("verify", "coredns", "--count", "3")
    assert done.code == 0
    assert done.out.count("3/3") == 4
    assert len([c for c in fakes.commands if c[0] == "dig"]) == 12


def test_reports_several_exposures_separately(run: Run, exposed: str) -> None:
    run("expose", "coredns", "-p", "5400:53", "--name", "second")
    done = run("verify", "--all")
    assert done.code == 0
    assert done.out.splitlines()[0].startswith("EXPOSURE")
    assert "default/second" in done.out
    assert done.out.splitlines()[-2:] == [
        "coredns: every hop answered", "second: every hop answered"
    ]  # fmt: skip


def test_an_error_of_one_exposure_does_not_hide_the_others(
    run: Run, exposed: str, server: ApiServer
) -> None:
    """Of three exposures, one has lost its Service and one has no query."""
    server.put(service("gone"), service("mute"))
    assert run("expose", "gone", "-p", "5301:53").code == 0
    assert run("expose", "mute", "-p", "5302:53").code == 0
    server.remove("Service", "default", "gone")
    done = run("verify", "--all")
    assert done.code == 1
    verdicts = dict(line.split(": ", 1) for line in done.out.splitlines()[-3:])
    assert verdicts["coredns"] == "every hop answered"
    assert verdicts["gone"] == "service gone not found in namespace default"
    assert verdicts["mute"].startswith("missing the DNS name")


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_data_for_programs(run: Run, exposed: str, form: str) -> None:
    done = run("verify", "coredns", "-o", form)
    (found,) = json.loads(done.out) if form == "json" else yaml.safe_load(done.out)
    assert (found["namespace"], found["name"], found["good"]) == ("default", "coredns", True)
    assert found["verdict"] == "every hop answered"
    first = found["probes"][0]
    assert (first["target"], first["via"], first["name"]) == (POD_A, "pod", "coredns-1")
    assert (first["sent"], first["answered"], first["rcode"]) == (1, 1, "NOERROR")
    assert first["servicePort"] == 53


def test_another_query_and_type(run: Run, exposed: str, fakes: Fakes) -> None:
    assert run("verify", "coredns", "--query", "x.example txt").code == 0
    for command in probes(fakes):
        assert " ".join(command).count("-q x.example -t TXT") == 1


def test_a_given_datagram(run: Run, exposed: str, fakes: Fakes) -> None:
    done = run("verify", "coredns", "--probe", "text:hi")
    assert done.code == 0
    assert done.out.splitlines()[1].endswith("hi")
    assert {command[0] for command in probes(fakes)} == {"sh"}


@pytest.mark.parametrize("words", [["-A"], ["--all", "-n", "default"], ["coredns"]])
def test_ways_to_name_exposures(run: Run, exposed: str, words: list[str]) -> None:
    assert run("verify", *words).code == 0


@pytest.mark.parametrize("words", [[], ["coredns", "--all"], ["coredns", "-A"]])
def test_names_and_all_cannot_be_combined(run: Run, words: list[str]) -> None:
    done = run("verify", *words)
    assert done.code == 2
    assert "name what to verify, or use --all or -A" in done.err


def test_nothing_to_verify(run: Run) -> None:
    done = run("verify", "--all")
    assert (done.code, done.out, done.err) == (
        0,
        "",
        "No exposures, responses or access logs found.\n",
    )


def test_a_missing_exposure(run: Run, exposed: str) -> None:
    done = run("verify", "nothing")
    assert done.code == 3
    assert "exposure nothing not found in namespace default" in done.err
    assert "this namespace has: coredns" in done.err


def test_no_name_to_query(run: Run, exposed: str, server: ApiServer) -> None:
    server.put(service())
    done = run("verify", "coredns")
    assert done.code == 2
    assert "missing the DNS name to query at Service default/coredns" in done.err
    assert "--query NAME" in done.err


def test_an_annotation_that_cannot_be_read(run: Run, exposed: str, server: ApiServer) -> None:
    for key in [k for k in server.there() if k[2] == NAME]:
        found = server.get(*key)
        found["metadata"]["annotations"] = {"kubectl-istio-udp/spec": "{"}
        server.put(found)
    done = run("verify", "coredns")
    assert done.code == 3
    assert "exposure coredns: the annotation kubectl-istio-udp/spec cannot be read" in done.err


def test_no_endpoint(run: Run, exposed: str, server: ApiServer) -> None:
    server.put(endpoint_slice())
    done = run("verify", "coredns")
    assert done.code == 1
    assert "no endpoint to query" in done.out


def test_no_ready_gateway(run: Run, exposed: str, server: ApiServer) -> None:
    server.put(gateway_pod(ready=False))
    done = run("verify", "coredns")
    assert done.code == 1
    assert "the gateway has no ready pod" in done.out


# -- the pod it is asked from -------------------------------------------------------------------


def test_no_tool_pod(run: Run, exposed: str, server: ApiServer) -> None:
    server.remove("Pod", "default", "network-tool")
    done = run("verify", "coredns")
    assert done.code == 3
    assert "no network-tool pod found in namespace default" in done.err
    assert "create one for this run: --create-tool" in done.err


def test_a_tool_pod_for_one_run(run: Run, exposed: str, server: ApiServer) -> None:
    server.remove("Pod", "default", "network-tool")
    before = server.there()
    done = run("verify", "coredns", "--create-tool", "--tool-image", "own/tool:1")
    assert done.code == 0
    assert server.there() == before
    (made,) = [r for r in server.requests if r.method == "PATCH" and "/pods/" in r.path]
    assert made.body["spec"]["containers"][0]["image"] == "own/tool:1"


def test_another_tool_pod(run: Run, exposed: str, server: ApiServer) -> None:
    server.put(pod("dig", namespace="lab"))
    assert run("verify", "coredns", "--tool-pod", "lab/dig").code == 0
    assert [r for r in server.requests if r.path.endswith("/lab/pods/dig/exec")]


def test_a_tool_pod_without_the_tool(run: Run, exposed: str, fakes: Fakes) -> None:
    fakes.default = 'exec: "dig": executable file not found in $PATH'
    done = run("verify", "coredns")
    assert done.code == 3
    assert "pod default/network-tool cannot run dig" in done.err
    assert "--tool-pod NAME, or --create-tool" in done.err


def test_missing_permission_to_exec_is_reported(run: Run, exposed: str, server: ApiServer) -> None:
    server.fail("GET", "/exec", 403)
    done = run("verify", "coredns")
    assert done.code == 3
    assert "kubectl auth can-i create pods -n default --subresource=exec" in done.err


# -- direct -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["direct", "coredns"],
        ["direct", "query", "coredns"],
        ["direct", "--count", "1", "coredns"],
        ["direct", "-n", "default", "coredns"],
    ],
)
def test_direct_only_queries_the_pods(run: Run, fakes: Fakes, words: list[str]) -> None:
    done = run(*words)
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[1:3]] == [POD_A, POD_B]
    assert done.out.splitlines()[-1] == "coredns: 2 pods answered"
    assert {command[0] for command in fakes.commands} == {"dig"}


def test_direct_needs_no_gateway(run: Run, server: ApiServer) -> None:
    server.remove("Pod", "istio-system", "istio-ingressgateway-1")
    assert run("direct", "coredns").code == 0


def test_direct_names_the_pod_that_is_silent(run: Run, fakes: Fakes) -> None:
    fakes.dig[POD_B] = "timeout"
    done = run("direct", "coredns")
    assert done.code == 1
    assert done.out.splitlines()[-1] == f"coredns: pod coredns-2 ({POD_B}) does not answer"


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_direct_data_for_programs(run: Run, form: str) -> None:
    done = run("direct", "coredns", "-o", form)
    found = json.loads(done.out) if form == "json" else yaml.safe_load(done.out)
    assert found["good"] is True
    assert [probe["target"] for probe in found["probes"]] == [POD_A, POD_B]


def test_direct_without_an_endpoint(run: Run, server: ApiServer, fakes: Fakes) -> None:
    server.put(endpoint_slice())
    done = run("direct", "coredns")
    assert (done.code, done.out) == (
        1, "coredns: no endpoint to query\n"
    )  # fmt: skip
    assert fakes.commands == []


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("nothing", 3, "service nothing not found in namespace default"),
        ("web", 2, "Service default/web has no UDP port"),
        ("svc/coredns", 2, "Service 'svc/coredns' is not a valid"),
    ],
)
def test_direct_at_a_missing_service(
    run: Run, server: ApiServer, name: str, code: int, message: str
) -> None:
    server.put(service("web", ports=[tcp(80)]))
    done = run("direct", name)
    assert done.code == code
    assert message in done.err


def test_endpoints_of_other_ports_are_not_queried(
    run: Run, exposed: str, server: ApiServer, fakes: Fakes
) -> None:
    ports = [{"name": "udp-dns", "port": 53, "protocol": "UDP"}]
    two = [*ports, {"name": "two", "port": 54, "protocol": "UDP"}]
    udp_two = {"name": "two", "port": 54, "protocol": "UDP", "targetPort": 54}
    dns = server.get("Service", "default", "coredns")
    dns["spec"]["ports"].append(udp_two)
    server.put(dns, endpoint_slice(endpoint("10.244.0.20", "coredns-1"), ports=two))
    assert "10.244.0.20:54" not in run("verify", "coredns").out
    assert "10.244.0.20:54" in run("direct", "coredns").out


def test_queries_again_at_intervals(run: Run, server: ApiServer, fakes: Fakes) -> None:
    run.wait_for(kube_proxy=0.3, kube_proxy_poll=0.1)
    run(*EXPOSE)
    address = server.get("Service", "istio-system", "udp-default-coredns")["spec"]["clusterIP"]
    fakes.dig[f"{address}:5300"] = "closed"
    fakes.commands.clear()
    run("verify", "coredns")
    assert len([c for c in fakes.commands if f"@{address}" in c]) <= 4


def change_companion(server: ApiServer, **spec: Any) -> None:
    found = server.get("Service", "istio-system", NAME)
    found["spec"].update(spec)
    server.put(found)


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        ({"selector": {"app": "x"}}, "is not the gateway's"),
        ({"ports": []}, "has no port 5300/UDP"),
        (
            {"ports": [{"port": 5300, "protocol": "UDP", "targetPort": 5301}]},
            f"port 5300 of Service istio-system/{NAME} leads to 5301, not 5300",
        ),
    ],
)
@pytest.mark.parametrize("answers", [True, False])
def test_a_changed_companion_is_found(
    run: Run,
    exposed: str,
    server: ApiServer,
    fakes: Fakes,
    spec: dict[str, Any],
    wrong: str,
    answers: bool,
) -> None:
    """Also while it still answers: kube-proxy may not have taken the change."""
    change_companion(server, **spec)
    if not answers:
        fakes.dig[exposed] = "closed"
    done = run("verify", "coredns")
    assert done.code == 1
    assert wrong in done.out
    assert "--force-conflicts" in done.out


def test_a_gateway_that_sends_to_other_addresses_is_found(
    run: Run, exposed: str, server: ApiServer
) -> None:
    """One of two pods is gone from the Service; the gateway still has both."""
    assert run(*EXPOSE, "--discovery", "static").code == 0
    server.put(endpoint_slice(endpoint("10.244.0.20", "coredns-1")))
    done = run("verify", "coredns")
    assert done.code == 1
    assert (
        "sends port 53 to 10.244.0.20:53, 10.244.0.21:53, but Service coredns has 10.244.0.20:53; "
        "run again: kubectl istio-udp expose -n default coredns"
    ) in done.out


def test_an_exposure_without_a_service_for_clients_passes(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    assert run(*EXPOSE, "--gateway-service", "none").code == 0
    done = run("verify", "coredns")
    assert (done.code, done.out.splitlines()[-1]) == (0, "coredns: every hop answered")


# -- why ----------------------------------------------------------------------------------------

PROC_NET = (
    "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
    "inode ref pointer drops\n"
    "  7: 00000000:14B4 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 1 2 0 {drops}\n"
    "{more}"
    "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 10 2 0 7 1\n"
    "Udp6InDatagrams                 	5\n"
)
# From 10.244.0.7:34000 to 10.244.0.20:53.
SESSION = "  8: 0700F40A:84D0 1400F40A:0035 01 00000000:00000000 00:00000000 00000000 0 0 1 2 0 0\n"


def proc_net(more: str = "", drops: int = 0) -> Exec:
    return Exec(stdout=PROC_NET.format(more=more, drops=drops))


def report(done: Run) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = json.loads(done.out)
    return found


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (proc_net(), proc_net(SESSION), "DroppedBehindGateway"),
        (proc_net(), proc_net(), "DroppedBeforeGateway"),
        (proc_net(SESSION), proc_net(SESSION), "DroppedBeforeGateway"),
        (proc_net(), proc_net(drops=3), "GatewayOverrun"),
        (Exec(error="no cat"), proc_net(), "DroppedBehindGateway"),
    ],
)
def test_the_gateways_sockets_show_on_which_side_datagrams_are_lost(
    run: Run, exposed: str, fakes: Fakes, before: Exec, after: Exec, reason: str
) -> None:
    fakes.dig[GATEWAY] = "timeout"
    beside_the_probes = proc_net()
    fakes.sockets = [beside_the_probes, before, after]
    done = run("verify", "coredns", "-o", "json")
    assert done.code == 1
    found = report(done)
    assert found["reason"] == reason
    assert [probe["reason"] for probe in found["probes"]] == [
        "Answered", "Answered", reason, "Answered"
    ]  # fmt: skip


def test_all_allowed_sessions_are_open(run: Run, server: ApiServer, fakes: Fakes) -> None:
    assert run(*EXPOSE, "--max-sessions", "1").code == 0
    fakes.dig[GATEWAY] = "timeout"
    fakes.sockets = [proc_net(SESSION)] * 2
    found = report(run("verify", "coredns", "-o", "json"))
    assert found["reason"] == "SessionsFull"
    assert "--expect-rate N; or lower --idle-timeout" in found["remedy"]


@pytest.mark.parametrize(("most", "warned"), [("1", True), ("2", False)])
def test_nearly_all_allowed_sessions_open_is_a_warning(
    run: Run, server: ApiServer, fakes: Fakes, most: str, warned: bool
) -> None:
    assert run(*EXPOSE, "--max-sessions", most).code == 0
    fakes.sockets = [proc_net(SESSION)]
    done = run("verify", "coredns")
    assert done.code == 0
    assert ("has 1 open sessions" in done.err and "--expect-rate" in done.err) is warned


def test_policies_that_select_the_pods_are_named(
    run: Run, exposed: str, server: ApiServer, fakes: Fakes
) -> None:
    def policy(name: str, namespace: str, **labels: Any) -> dict[str, Any]:
        spec = {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"]}
        metadata = {"name": name, "namespace": namespace}
        kind = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
        return {**kind, "metadata": metadata, "spec": spec}

    server.put(
        policy("dns", "default", app="coredns"),
        policy("another", "default", app="web"),
        policy("all", "istio-system"),
    )
    for operator in ("In", "NotIn"):
        named = policy(f"one-{operator}".lower(), "default")
        expression = {"key": "app", "operator": operator, "values": ["coredns"]}
        named["spec"]["podSelector"] = {"matchExpressions": [expression]}
        server.put(named)
    fakes.dig[GATEWAY] = "timeout"
    text = report(run("verify", "coredns", "-o", "json"))["verdict"]
    named_ones = "default/dns, default/one-in, istio-system/all"
    assert f"(NetworkPolicies that select these pods: {named_ones})" in text
    server.fail("GET", "/networkpolicies", 403)
    found = report(run("verify", "coredns", "-o", "json"))
    assert found["remedy"] == "look for NetworkPolicies: kubectl get networkpolicies -A"


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_second_service_entry_with_the_host_is_found(
    run: Run, exposed: str, server: ApiServer, fakes: Fakes, everywhere: bool
) -> None:
    (entry,) = server.all("ServiceEntry")
    namespace = "lab" if everywhere else "istio-system"
    metadata = {"name": "taker", "namespace": namespace}
    server.put({**entry, "metadata": metadata})
    fakes.hosts = False
    fakes.dig[GATEWAY] = "timeout"
    if not everywhere:
        server.fail("GET", "/v1/serviceentries", 403)
    found = report(run("verify", "coredns", "-o", "json"))
    assert found["reason"] == "HostTaken"
    assert f"ServiceEntry {namespace}/taker" in found["verdict"]


def test_a_rejected_cluster_is_found_in_the_log(
    run: Run, exposed: str, server: ApiServer, fakes: Fakes
) -> None:
    fakes.dig[GATEWAY] = "timeout"
    found = server.get("EnvoyFilter", "istio-system", NAME)
    patches = found["spec"]["configPatches"]
    found["spec"]["configPatches"] = [p for p in patches if p["applyTo"] != "CLUSTER"]
    server.put(found)
    entry = {"level": "warning", "msg": f"cds: cluster '{NAME}-5300' config rejected: bad ring"}
    server.logs["istio-system", "istio-ingressgateway-1"] = json.dumps(entry) + "\n"
    found = report(run("verify", "coredns", "-o", "json"))
    assert found["reason"] == "ClusterRejected"
    assert "bad ring" in found["verdict"]


def test_pods_that_are_not_ready_are_named(run: Run, exposed: str, server: ApiServer) -> None:
    server.put(endpoint_slice())
    for name in ("coredns-1", "coredns-2"):
        waiting = pod(name)
        waiting["status"]["conditions"] = []
        server.put(waiting)
    found = report(run("verify", "coredns", "-o", "json"))
    assert found["reason"] == "PodsNotReady"
    assert found["verdict"] == (
        "no endpoint to query for port 53: Service default/coredns has 2 pod(s), none is ready "
        "(coredns-1: not ready, coredns-2: not ready)"
    )


def test_without_permission_to_list_pods_uses_the_endpoints(
    run: Run, exposed: str, server: ApiServer
) -> None:
    server.put(endpoint_slice())
    server.fail("GET", "/default/pods?labelSelector=app%3Dcoredns", 403)
    found = report(run("verify", "coredns", "-o", "json"))
    assert found["reason"] in ("NoEndpoints", "PodsNotReady")


def test_a_gateway_without_pods(run: Run, exposed: str, server: ApiServer) -> None:
    server.remove("Pod", "istio-system", "istio-ingressgateway-1")
    found = report(run("verify", "coredns", "-o", "json"))
    assert (found["reason"], found["good"]) == ("GatewayWithoutPods", False)


def event(
    reason: str, message: str, last: str, about: str = NAME, uid: str | None = None, **more: Any
) -> dict[str, Any]:
    of = {"kind": "Service", "name": about, "namespace": "istio-system"}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about}.{last}", "namespace": "istio-system"},
        "involvedObject": {**of, "uid": uid} if uid else of,
        "type": "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": last,
        **more,
    }


@pytest.mark.parametrize("readable", [True, False])
def test_a_load_balancer_that_is_never_created(
    run: Run, server: ApiServer, fakes: Fakes, readable: bool
) -> None:
    """Clients outside have no address: that is a failure, and the newest warning says why."""
    server.load_balancer = ""
    assert run(*EXPOSE).code == 0
    server.put(
        event("Old", "an earlier one", "2026-01-01T00:00:00Z"),
        event("SyncLoadBalancerFailed", "no\nUDP\there", "2026-01-02T00:00:00Z"),
        event("EnsuringLoadBalancer", "fine", "2026-01-03T00:00:00Z", type="Normal"),
        event("Another", "not ours", "2026-01-04T00:00:00Z", about="web"),
        event("Former", "of one deleted", "2026-01-05T00:00:00Z", uid="former"),
    )
    if not readable:
        server.fail("GET", "/events", 403)
    done = run("verify", "coredns", "-o", "json")
    assert done.code == 1
    found = report(done)
    assert (found["reason"], found["good"]) == ("NoAddress", False)
    assert found["verdict"].startswith("clients outside the cluster cannot reach it: the load")
    assert ("(SyncLoadBalancerFailed: no UDP here)" in found["verdict"]) is readable
    look = "describe service" if readable else "get service"
    assert f"kubectl {look} -n istio-system {NAME}" in found["remedy"]
    assert {probe["reason"] for probe in found["probes"]} == {"Answered"}


def test_a_passing_test_reads_no_further_evidence(
    run: Run, exposed: str, server: ApiServer, fakes: Fakes
) -> None:
    """Evidence about a failure is only read after a failure."""
    server.requests.clear()
    assert run("verify", "coredns").code == 0
    paths = [request.path for request in server.requests]
    kinds = ("networkpolicies", "events", "log", "deployments")
    assert not [path for path in paths if path.rpartition("/")[2] in kinds]
    # How many sessions are open, once for each gateway pod.
    assert len([command for command in fakes.commands if command[0] == "cat"]) == 1


def test_reports_a_second_entry_with_the_host_although_every_hop_answers(
    run: Run, exposed: str, server: ApiServer
) -> None:
    """Its creator gets the exposure's datagrams as soon as it is the older one."""
    thief = server.get("ServiceEntry", "default", NAME)
    thief["metadata"] = {"name": "thief", "namespace": "lab"}
    thief["spec"]["exportTo"] = ["istio-system"]
    server.put(thief)
    done = run("verify", "coredns")
    assert done.code == 1
    assert "ServiceEntry lab/thief has the same host as this exposure" in done.out
    thief["spec"]["exportTo"] = ["."]
    server.put(thief)
    assert run("verify", "coredns").code == 0


def test_addresses_that_are_not_allowed_are_not_queried(
    run: Run, exposed: str, server: ApiServer, fakes: Fakes
) -> None:
    """Whoever may write an EndpointSlice would choose where the network-tool pod sends to."""
    bad = endpoint_slice(endpoint("224.0.0.1"), endpoint("169.254.169.254"), suffix="bad")
    server.put(bad)
    done = run("verify", "coredns")
    assert done.code == 1
    assert "does not send to 169.254.169.254 (and 1 more): it is a link-local address" in done.out
    assert "kubectl get endpointslices -n default" in done.out
    sent = [word for command in probes(fakes) for word in command]
    assert not any("224.0.0.1" in word or "169.254" in word for word in sent)


def test_a_pod_on_the_network_of_the_api_servers_node_is_queried(
    run: Run, exposed: str, server: ApiServer, fakes: Fakes
) -> None:
    """On a cluster with one node it has the API server's address; the gateway sends to it."""
    kubernetes = service("kubernetes", clusterIP="10.96.0.1")
    api_server = endpoint_slice(endpoint("10.200.0.2"))
    api_server["metadata"] |= {"name": "kubernetes", "labels": {SERVICE_LABEL: "kubernetes"}}
    slices = endpoint_slice(endpoint("10.200.0.2", "on-host"), suffix="host")
    server.put(kubernetes, api_server, slices)
    for words in (("verify",), ("direct", "query")):
        refused = run(*words, "coredns")
        assert "10.200.0.2: it is an address of the API server" in refused.out + refused.err
    server.put(on_host("10.200.0.2", "on-host"))
    for words in (("verify",), ("direct", "query")):
        done = run(*words, "coredns")
        assert done.code == 0, done.out + done.err
        assert "10.200.0.2:53" in done.out
        assert "API server" not in done.out + done.err


@pytest.mark.parametrize("name", ["169.254.169.254", "localhost", "10.96.0.1"])
def test_an_external_name_that_leads_to_a_special_address_is_not_queried(
    run: Run, exposed: str, server: ApiServer, fakes: Fakes, name: str
) -> None:
    """Whoever may edit the Service would choose where the network-tool pod sends to."""
    external = service(type="ExternalName", externalName=name)
    server.put(external, service("kubernetes", clusterIP="10.96.0.1"))
    for slice_ in server.all("EndpointSlice"):
        server.remove("EndpointSlice", "default", slice_["metadata"]["name"])
    for words in (("verify",), ("direct", "query")):
        done = run(*words, "coredns", "--query", "foo.bar.com")
        assert done.code == 1, done.out + done.err
        assert f"{name}: it is " in done.out + done.err
    assert not any(word.endswith(name) for command in probes(fakes) for word in command)


def test_direct_query_sends_to_no_special_address(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    """Whether the Service is exposed or not. The API server's address is one of them."""
    kubernetes = service("kubernetes", clusterIP="10.96.0.1")
    server.put(kubernetes, endpoint_slice(endpoint("10.96.0.1"), endpoint("127.0.0.1"), suffix="b"))
    done = run("direct", "coredns")
    assert done.code == 0, done.err
    assert "does not query 10.96.0.1 (and 1 more): it is an address of the API server" in done.err
    assert not any("127.0.0.1" in w or "10.96.0.1" in w for c in probes(fakes) for w in c)


def test_an_address_that_a_controlled_exposure_does_not_list_is_not_queried(
    run: Run, server: ApiServer, fakes: Fakes
) -> None:
    """The API server's address, and one that no pod of the namespace has."""
    planned = builders.plan_of(
        ports=parse_port_requests(["5300:53"]), discovery=Discovery.ENDPOINTS
    )
    for write in map(marked, writes(planned.exposure)):
        server.apply(write.key, dict(write.manifest), write.manager, False, False)
    server.put(endpoint_slice(endpoint("10.99.0.9"), suffix="bad"))
    done = run("verify", "coredns")
    assert "10.99.0.9: it is not the address of a running pod of the namespace" in done.out
    assert not any("10.99.0.9" in word for command in probes(fakes) for word in command)


@pytest.mark.parametrize("discovery", ["selector", "endpoints"])
def test_the_api_server_is_not_queried(
    run: Run, server: ApiServer, fakes: Fakes, discovery: str
) -> None:
    """A tenant may list its address in an EndpointSlice of the Service."""
    run(*EXPOSE, "--discovery", discovery)
    api_server = endpoint("10.9.9.9", "kubernetes")
    server.put(endpoint_slice(api_server, of="kubernetes"), service("kubernetes"))
    server.put(endpoint_slice(endpoint("10.9.9.9", "coredns-1"), suffix="forged"))
    fakes.commands.clear()
    done = run("verify", "coredns")
    assert done.code == 1
    assert "an address of the API server; see who lists it" in done.out
    assert not [command for command in fakes.commands if "@10.9.9.9" in command]
