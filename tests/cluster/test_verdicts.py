"""Each cause that verify names, made on the real cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from conftest import (
    GATEWAY_NAMESPACE,
    LOAD_IMAGE,
    Result,
    Space,
    dns_server,
    eventually,
    get,
    inventory,
    kubectl,
    service,
)
from gateways import listened_ports, udp_filter

# Answers each datagram with itself; "deaf" as its argument hears nobody but the named address.
_ECHO = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 53))
while True:
    data, client = server.recvfrom(65535)
    if sys.argv[1] in ("all", client[0]):
        server.sendto(data, client)
"""


def server_pod(name: str, program: str, *words: str, ready: bool = True) -> dict[str, Any]:
    """A pod that runs a Python program."""
    container: dict[str, Any] = {
        "name": "server",
        "image": LOAD_IMAGE,
        "command": ["python3", "-c", program, *words],
        "securityContext": {"runAsUser": 0},
    }
    if not ready:
        container["readinessProbe"] = {"exec": {"command": ["false"]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }


@dataclass(frozen=True)
class Case:
    """A DNS server that is exposed, at one port of the shared gateway."""

    space: Space
    port: int

    @property
    def name(self) -> str:
        """The name of the exposure's objects."""
        [found] = get(
            "envoyfilter", "-n", GATEWAY_NAMESPACE, "-l",
            f"kubectl-istio-udp/namespace={self.space.name}",
        )["items"]  # fmt: skip
        return str(found["metadata"]["name"])

    def patch(self, kind: str, name: str, *operations: dict[str, Any], where: str = "") -> None:
        """Change an object as by `kubectl edit`."""
        text = json.dumps(operations)
        namespace = where or self.space.name
        kubectl("patch", kind, "-n", namespace, name, "--type=json", "-p", text)

    def edit_filter(self, change: Callable[[list[dict[str, Any]]], None]) -> None:
        """Change the patches of the EnvoyFilter."""
        found = get("envoyfilter", "-n", GATEWAY_NAMESPACE, self.name)
        patches = found["spec"]["configPatches"]
        change(patches)
        operation = {"op": "replace", "path": "/spec/configPatches", "value": patches}
        self.patch("envoyfilter", self.name, operation, where=GATEWAY_NAMESPACE)


def replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def report(result: Result) -> dict[str, Any]:
    [found] = json.loads(result.out)
    return dict(found)


def verdict(space: Space, reason: str, *words: str, seconds: float = 30) -> dict[str, Any]:
    """Wait until `verify` reports this reason; return its result."""
    last: dict[str, Any] = {}

    def given() -> bool:
        nonlocal last
        last = report(space.verify("dns", "--timeout", "1s", "-o", "json", *words))
        return bool(last["reason"] == reason)

    try:
        eventually(reason, given, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{json.dumps(last, indent=1)}") from None
    assert last["good"] is (reason == "Answered")
    return last


def renumber(case: Case) -> None:
    case.patch("service", "dns", replace("/spec/ports/0/port", 54))


def retarget(case: Case) -> None:
    """The server's second port, which is not in its Service."""
    case.patch("service", "dns", replace("/spec/ports/0/targetPort", 1053))


def select_others(case: Case) -> None:
    case.space.apply(*dns_server("other"))
    case.patch("service", "dns", replace("/spec/selector", {"app": "other"}))


def select_nobody(case: Case) -> None:
    case.patch("service", "dns", replace("/spec/selector", {"app": "nobody"}))


def unready(case: Case) -> None:
    case.space.apply(server_pod("unready", _ECHO, "all", ready=False))
    running = "--for=jsonpath={.status.phase}=Running"
    kubectl("wait", "-n", case.space.name, "pod/unready", running, "--timeout=60s")
    case.patch("service", "dns", replace("/spec/selector", {"app": "unready"}))


def name_no_port(case: Case) -> None:
    case.patch("service", "dns", replace("/spec/ports/0/targetPort", "nosuch"))


def add_foreign_host(case: Case) -> None:
    entry = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": "foreign", "labels": {"app": "dns"}},
        "spec": {"address": "192.0.2.9", "labels": {"app": "dns"}},
    }
    case.space.apply(entry)


def move_listener(case: Case) -> None:
    def change(patches: list[dict[str, Any]]) -> None:
        listener = next(p for p in patches if p["applyTo"] == "LISTENER")
        listener["patch"]["value"]["address"]["socket_address"]["port_value"] = case.port + 50

    case.edit_filter(change)


def drop_listener(case: Case) -> None:
    def change(patches: list[dict[str, Any]]) -> None:
        patches[:] = [p for p in patches if p["applyTo"] != "LISTENER"]

    case.edit_filter(change)


def drop_cluster(case: Case) -> None:
    def change(patches: list[dict[str, Any]]) -> None:
        patches[:] = [p for p in patches if p["applyTo"] != "CLUSTER" or "value" not in p["patch"]]

    case.edit_filter(change)


def send_elsewhere(case: Case) -> None:
    def change(patches: list[dict[str, Any]]) -> None:
        text = json.dumps([p for p in patches if p["applyTo"] == "LISTENER"])
        patches[:] = [p for p in patches if p["applyTo"] != "LISTENER"] + json.loads(
            text.replace(f'"cluster": "{case.name}-{case.port}"', '"cluster": "BlackHoleCluster"')
        )

    case.edit_filter(change)


def shorten_datagrams(case: Case) -> None:
    def change(patches: list[dict[str, Any]]) -> None:
        listener = next(p for p in patches if p["applyTo"] == "LISTENER")["patch"]["value"]
        sizes = listener["udp_listener_config"]["downstream_socket_config"]
        sizes["max_rx_datagram_size"] = 20

    case.edit_filter(change)


def hide_entry(case: Case) -> None:
    hidden = replace("/spec/exportTo", ["."])
    case.patch("serviceentry", case.name, hidden)


def choose_other_proxies(case: Case) -> None:
    labels = replace("/spec/workloadSelector/labels", {"app": "nobody"})
    case.patch("envoyfilter", case.name, labels, where=GATEWAY_NAMESPACE)


def break_front(case: Case) -> None:
    selector = replace("/spec/selector", {"app": "nobody"})
    case.patch("service", case.name, selector, where=GATEWAY_NAMESPACE)


def retarget_front(case: Case) -> None:
    target = replace("/spec/ports/0/targetPort", 9)
    case.patch("service", case.name, target, where=GATEWAY_NAMESPACE)


def take_entries(case: Case) -> None:
    label = f"kubectl-istio-udp/namespace={case.space.name}"
    for entry in get("serviceentries", "-A", "-l", label)["items"]:
        about = entry["metadata"]
        kubectl("delete", "serviceentry", "-n", about["namespace"], about["name"])


def nothing(case: Case) -> None:
    """Everything is unchanged."""


def rename(case: Case) -> None:
    case.patch("service", "dns", replace("/spec/ports/0/name", "renamed"))


@pytest.mark.parametrize(
    ("change", "reason", "said"),
    [
        (nothing, "Answered", "every hop answered"),
        (rename, "Answered", "every hop answered"),
        (renumber, "ServicePortGone", "no longer has port 53/UDP (its port dns-53 is 54 now)"),
        (retarget, "TargetPortChanged", "now leads to target port 1053"),
        (select_others, "SelectorChanged", "selects app=other, but ServiceEntry"),
        (select_nobody, "NoPods", "selects app=nobody, and no pod in namespace"),
        (unready, "PodsNotReady", "none is ready (unready: not ready)"),
        (name_no_port, "TargetPortMissing", "declares a UDP container port named nosuch"),
        (add_foreign_host, "ForeignHosts", "192.0.2.9:53 is not an endpoint of the Service"),
        (move_listener, "ListenerOnOtherPort", "is on port"),
        (drop_listener, "ListenerMissing", "no listener on"),
        (drop_cluster, "ClusterMissing", "no cluster"),
        (send_elsewhere, "ListenerSendsElsewhere", "sends to cluster BlackHoleCluster"),
        (choose_other_proxies, "FilterSelectsOtherPods", "selects app=nobody"),
        (shorten_datagrams, "FilterEdited", "listener"),
        (hide_entry, "EntryEdited", "exportTo of ServiceEntry"),
        (break_front, "FrontServiceSelector", "is not the gateway's"),
        (retarget_front, "FrontServiceTarget", "leads to 9, not"),
        (take_entries, "ObjectMissing", "ServiceEntry"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_cause_has_its_reason(
    space: Space, port: int, change: Callable[[Case], None], reason: str, said: str
) -> None:
    space.apply(*dns_server(ports=(53, 1053)), service("dns", ports=(53,)))
    space.expose("dns", "-p", f"{port}:53", "--discovery", "selector")
    change(Case(space, port))
    found = verdict(space, reason)
    assert said in found["verdict"]
    assert "dropped between" not in found["verdict"]


@pytest.mark.parametrize("discovery", ["static", "endpoints"])
def test_listed_addresses_become_stale(space: Space, port: int, discovery: str) -> None:
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53", "--discovery", discovery)
    kubectl("rollout", "restart", "-n", space.name, "deploy/dns")
    kubectl("rollout", "status", "-n", space.name, "deploy/dns", "--timeout=90s")
    found = verdict(space, "StaleAddresses", seconds=60)
    assert "run again: kubectl istio-udp expose" in found["remedy"]
    space.expose("dns", "-p", f"{port}:53", "--discovery", discovery)
    verdict(space, "Answered")


def _twin(space: Space, port: int) -> Case:
    """A Service with a TCP port of the same number that provides the endpoints."""
    server = dns_server()
    tcp = {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53}
    server[2]["spec"]["ports"].append(tcp)
    space.apply(*server)
    space.expose("dns", "-p", f"{port}:53")
    return Case(space, port)


def test_the_tcp_port_that_provided_the_endpoints_is_removed(space: Space, port: int) -> None:
    _twin(space, port).patch("service", "dns", {"op": "remove", "path": "/spec/ports/1"})
    assert "53/TCP" in verdict(space, "TwinPortGone")["verdict"]


def test_the_service_is_not_exported_to_the_gateway(space: Space, port: int) -> None:
    _twin(space, port)
    note = "networking.istio.io/exportTo=."
    kubectl("annotate", "service", "-n", space.name, "dns", note)
    assert "exported to . only" in verdict(space, "ServiceNotExported")["verdict"]


def test_all_sessions_are_open(space: Space, port: int) -> None:
    """The query of the gateway takes the only session; none is left for its Service."""
    space.apply(*dns_server())
    limits = ("--max-sessions", "1", "--idle-timeout", "60s")
    space.expose("dns", "-p", f"{port}:53", *limits)
    space.verify("dns", "--timeout", "1s")
    found = verdict(space, "SessionsFull")
    assert "this exposure allows 1" in found["verdict"]


def _echo(space: Space, who: str) -> None:
    space.apply(server_pod("echo", _ECHO, who), service("dns", app="echo"))
    kubectl("wait", "-n", space.name, "pod/echo", "--for=condition=Ready", "--timeout=60s")


def test_a_datagram_that_is_too_long(space: Space, port: int) -> None:
    _echo(space, "all")
    space.expose("dns", "-p", f"{port}:53", "--max-datagram-size", "500")
    verdict(space, "Answered", "--probe", "text:" + "x" * 500)
    found = verdict(space, "DatagramTooLong", "--probe", "text:" + "x" * 501)
    assert "the probe has 501 bytes, but this exposure forwards at most 500" in found["verdict"]


def test_datagrams_lost_in_the_network_are_reported_as_such(space: Space, port: int) -> None:
    """A server that only receives from the network tool, as with a NetworkPolicy."""
    _echo(space, get("pod", "-n", *space.tool.split("/"))["status"]["podIP"])
    space.expose("dns", "-p", f"{port}:53")
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "only-the-tool"},
        "spec": {"podSelector": {"matchLabels": {"app": "echo"}}, "policyTypes": ["Egress"]},
    }
    space.apply({**policy, "spec": {**policy["spec"], "egress": [{}]}})  # type: ignore[dict-item]
    found = verdict(space, "DroppedBehindGateway", "--probe", "text:x")
    assert f"{space.name}/only-the-tool" in found["verdict"]


# -- a gateway of its own -----------------------------------------------------------------------

_ARGS = (
    "proxy", "router", "--domain", "$(POD_NAMESPACE).svc.cluster.local",
    "--proxyLogLevel=warning", "--proxyComponentLogLevel=misc:error",
)  # fmt: skip


def gateway(space: Space, *words: str, **spec: Any) -> None:
    """A gateway `edge` in the test's namespace; `words` are further arguments of its proxy."""
    labels = {"app": "edge", "istio": space.name}
    container = {
        "name": "istio-proxy",
        "image": "auto",
        "args": [*_ARGS, *words],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
    }
    notes = {"inject.istio.io/templates": "gateway"}
    inject = {**labels, "sidecar.istio.io/inject": "true"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "edge"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": inject, "annotations": notes},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
            },
        },
    }
    ports = [{"name": "status-port", "port": 15021, "targetPort": 15021}]
    front = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "edge"},
        "spec": {"type": "LoadBalancer", "selector": labels, "ports": ports, **spec},
    }
    space.apply(front, deployment)


def expose_at_edge(space: Space, port: int, *words: str, code: int = 0) -> Result:
    at = ("--gateway", f"{space.name}/edge")
    return space.expose("dns", "-p", f"{port}:53", *at, *words, code=code)


def test_a_gateway_without_pods(space: Space, port: int) -> None:
    gateway(space)
    space.apply(*dns_server())
    expose_at_edge(space, port)
    kubectl("scale", "-n", space.name, "deploy/edge", "--replicas=0")
    found = verdict(space, "GatewayWithoutPods", seconds=60)
    assert f"namespace {space.name} has no gateway pod" in found["verdict"]


def test_a_listener_that_was_removed_and_still_drains(space: Space, port: int) -> None:
    """Its sockets are bound to 0.0.0.0, which the kernel prefers to ours, bound to ::."""
    gateway(space)
    space.apply(*dns_server())
    labels: dict[str, Any] = {"workloadSelector": {"labels": {"app": "edge"}}}
    space.apply(udp_filter("theirs", port, **labels))

    def listens() -> bool:
        return port in listened_ports(space.name, "app=edge")

    eventually("their listener is live", listens, 60)
    kubectl("delete", "envoyfilter", "-n", space.name, "theirs")
    eventually("their listener is removed", lambda: not listens())
    expose_at_edge(space, port)
    found = verdict(space, "PortShared")
    assert f"another listener on port {port}" in found["verdict"]
    verdict(space, "Answered", seconds=90)


def test_a_load_balancer_that_is_never_created(space: Space, port: int) -> None:
    gateway(space, loadBalancerClass="nobody.example/none")
    space.apply(*dns_server())
    expose_at_edge(space, port)
    [front] = get("services", "-n", space.name, "-l", "kubectl-istio-udp/exposure=dns")["items"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "no-udp", "namespace": space.name},
        "involvedObject": {
            "kind": "Service",
            "namespace": space.name,
            "name": front["metadata"]["name"],
        },
        "type": "Warning",
        "reason": "SyncLoadBalancerFailed",
        "message": "Only TCP LoadBalancer is supported for \x1b[31mAWS ELB",
        "lastTimestamp": "2026-01-02T03:04:05Z",
    }
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(event))
    found = verdict(space, "NoAddress")
    why = "SyncLoadBalancerFailed: Only TCP LoadBalancer is supported for"
    assert "clients outside the cluster cannot reach it" in found["verdict"]
    assert why in found["verdict"]
    # JSON has the escape sequence of the message encoded; a terminal never gets it.
    assert "\x1b" not in space.verify("dns").both
    assert {probe["reason"] for probe in found["probes"]} == {"Answered"}


_BAD_CLUSTER = {
    "name": "{name}",
    "type": "STATIC",
    "lb_policy": "RING_HASH",
    "ring_hash_lb_config": {"minimum_ring_size": 100, "maximum_ring_size": 10},
}


def _theirs(space: Space, name: str, value: dict[str, Any]) -> None:
    """A foreign EnvoyFilter for gateway edge, with one cluster."""
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump({
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": name, "namespace": space.name},
        "spec": {
            "workloadSelector": {"labels": {"app": "edge"}},
            "configPatches": [{
                "applyTo": "CLUSTER",
                "match": {"context": "GATEWAY"},
                "patch": {"operation": "ADD", "value": {**value, "name": name}},
            }],
        },
    }))  # fmt: skip


_HOLD = (
    "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    "s.bind(('0.0.0.0', {port})); print('bound', flush=True); time.sleep(60)"
)


@pytest.mark.parametrize("words", [(), ("--log_as_json",)], ids=["text", "json"])
def test_a_rejection_of_another_cluster_does_not_count(
    space: Space, port: int, words: tuple[str, ...]
) -> None:
    """A foreign cluster is rejected repeatedly, and its name begins with ours."""
    gateway(space, *words)
    space.apply(*dns_server())
    _theirs(space, f"udp-{space.name}-dns-{port}0", _BAD_CLUSTER)
    pod = get("pods", "-n", space.name, "-l", "app=edge")["items"][0]["metadata"]["name"]
    eventually(
        "their rejection",
        lambda: "config rejected: ring hash" in kubectl("logs", "-n", space.name, pod),
    )
    expose_at_edge(space, port, "--validate", "none")
    verdict(space, "Answered")


@pytest.mark.parametrize("words", [(), ("--log_as_json",)], ids=["text", "json"])
def test_a_rejection_by_envoy_is_undone_and_quoted(
    space: Space, port: int, words: tuple[str, ...]
) -> None:
    """A bind that only Envoy can reject: a process in the gateway's pod holds the port."""
    gateway(space, *words)
    space.apply(*dns_server())
    before = inventory(space)
    exec_in = ["kubectl", "exec", "-n", space.name, "deploy/edge", "-c", "istio-proxy", "--"]
    holder = subprocess.Popen(
        [*exec_in, "timeout", "60", "python3", "-c", _HOLD.format(port=port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout and holder.stdout.readline() == "bound\n"
        refused = expose_at_edge(space, port, "--validate", "none", code=3)
    finally:
        holder.kill()
        holder.wait()
    assert "cannot bind" in refused.err and "{" not in refused.err.partition("hint")[0]
    assert "was undone" in refused.err
    assert inventory(space) == before


@pytest.mark.parametrize("words", [(), ("--log_as_json",)], ids=["text", "json"])
def test_a_cluster_that_envoy_rejects_is_named(
    space: Space, port: int, words: tuple[str, ...]
) -> None:
    """Edited by hand; Envoy says why in its log alone."""
    gateway(space, *words)
    space.apply(*dns_server())
    expose_at_edge(space, port)
    [made] = get("envoyfilters", "-n", space.name)["items"]
    patches = made["spec"]["configPatches"]
    listener = next(p for p in patches if p["applyTo"] == "LISTENER")
    name = listener["patch"]["value"]["name"]
    bad = {**_BAD_CLUSTER, "name": name}
    broken = [
        {**p, "patch": {**p["patch"], "value": bad}}
        if p["applyTo"] == "CLUSTER" and "value" in p["patch"]
        else p
        for p in patches
    ]
    operation = replace("/spec/configPatches", broken)
    Case(space, port).patch("envoyfilter", made["metadata"]["name"], operation)
    # A running gateway keeps the cluster that it has; a new one has none.
    kubectl("rollout", "restart", "-n", space.name, "deploy/edge")
    found = verdict(space, "ClusterRejected", seconds=60)
    assert "minimum_ring_size (100) > maximum_ring_size (10)" in found["verdict"]


# -- protocols that never answer ----------------------------------------------------------------

# Reads each datagram and does not answer; as "deaf" it reads none.
_SINK = """
import socket, sys, time
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 53))
while True:
    print(server.recv(65535), flush=True) if sys.argv[1] == "reads" else time.sleep(1)
"""


def _sink(space: Space, port: int, how: str) -> None:
    space.apply(server_pod("sink", _SINK, how), service("dns", app="sink"))
    kubectl("wait", "-n", space.name, "pod/sink", "--for=condition=Ready", "--timeout=60s")
    space.expose("dns", "-p", f"{port}:53")


@pytest.mark.parametrize("words", [(), ("--one-way",)], ids=["found out", "told"])
def test_datagrams_that_a_collector_reads_are_delivered(
    space: Space, port: int, words: tuple[str, ...]
) -> None:
    _sink(space, port, "reads")
    verified = space.verify("dns", "--probe", "text:<13>hello", "-o", "json", *words)
    assert verified.code == 0, verified.both
    found = report(verified)
    assert found["reason"] == "Delivered"
    assert [probe["reason"] for probe in found["probes"]] == ["Delivered"] * 3
    assert kubectl("logs", "-n", space.name, "sink").count("<13>hello") >= 3


@pytest.mark.parametrize("words", [(), ("--one-way",)], ids=["found out", "told"])
def test_a_collector_that_hangs_fails(space: Space, port: int, words: tuple[str, ...]) -> None:
    _sink(space, port, "hangs")
    verified = space.verify("dns", "--probe", "text:<13>hello", "-o", "json", *words)
    assert verified.code == 1
    assert report(verified)["reason"] == ("NotRead" if words else "NoAnswer")


def test_a_collector_behind_a_broken_gateway_fails(space: Space, port: int) -> None:
    _sink(space, port, "reads")
    drop_listener(Case(space, port))
    found = verdict(space, "ListenerMissing", "--probe", "text:<13>hello", "--one-way")
    assert found["probes"][0]["reason"] == "Delivered"


def test_without_cat_in_the_server_the_gateways_sockets_decide(space: Space, port: int) -> None:
    """CoreDNS does not answer text, and its image has no program to read /proc."""
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53")
    words = ("dns", "--probe", "text:hello", "--timeout", "1s", "-o", "json")
    assert space.verify(*words).code in (0, 1)
    told = space.verify(*words, "--one-way")
    assert told.code == 0, told.both
    assert report(told)["reason"] in ("Sent", "Delivered")
