"""The main job: a UDP Service answered through the gateway, and taken away again."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from conftest import (
    GATEWAY_NAMESPACE,
    Space,
    companion,
    dns_server,
    envoy,
    eventually,
    gateway_pods,
    get,
    inventory,
    kubectl,
    own_objects,
    run,
    service,
)


@pytest.mark.parametrize("discovery", ["selector", "endpoints", "static"])
def test_samples_direct_query_expose_and_verify(space: Space, port: int, discovery: str) -> None:
    """The whole job; `whoami` shows which client address a pod and the gateway see."""
    applied = space.plugin("samples", "apply", "--timeout", "90s")
    assert applied.code == 0, applied.both
    direct = run("kubectl", "istio-udp", "direct", "coredns", "-n", space.name, "-o", "json")
    assert direct.code == 0, direct.both
    tool = get("pod", "-n", space.name, "network-tool")["status"]["podIP"]
    assert tool in json.loads(direct.out)["probes"][0]["answers"][0]

    exposed = space.expose("coredns", "-p", f"{port}:53", "--discovery", discovery)
    assert f"endpoint discovery: {discovery}" in exposed.err
    name = f"udp-{space.name}-coredns"
    assert f"envoyfilter.networking.istio.io/{name} serverside-applied" in exposed.out
    address, _ = companion(space, "coredns")
    balancer = get("service", "-n", GATEWAY_NAMESPACE, name)["status"]["loadBalancer"]
    where = balancer.get("ingress", [{"ip": address}])[0]["ip"]
    assert f"clients reach coredns:53 at {where}:{port}/UDP" in exposed.out

    verified = run("kubectl", "istio-udp", "verify", "coredns", "-n", space.name, "-o", "json")
    assert verified.code == 0, verified.both
    [report] = json.loads(verified.out)
    by_hop = {probe["via"]: probe for probe in report["probes"]}
    assert list(by_hop) == ["pod", "gateway", "service"]
    assert {probe["rcode"] for probe in report["probes"]} == {"NOERROR"}
    gateway = get("pods", "-n", GATEWAY_NAMESPACE, "-l", "istio=ingressgateway")["items"][0]
    assert tool in by_hop["pod"]["answers"][0]
    assert gateway["status"]["podIP"] in by_hop["gateway"]["answers"][0]
    assert report["verdict"] == "every hop answered"


def test_repeating_writes_nothing(space: Space, port: int) -> None:
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53")
    before = own_objects(space)
    again = space.expose("dns", "-p", f"{port}:53")
    assert own_objects(space) == before
    lines = [line for line in again.out.splitlines() if "/" in line.split()[0]]
    assert len(lines) == 3
    assert all(line.endswith(" unchanged") for line in lines)


def test_three_ports_of_one_service(space: Space, port: int) -> None:
    ports = (53, 5353, 1053)
    space.apply(*dns_server(ports=ports))
    words = [word for index, p in enumerate(ports) for word in ("-p", f"{port + index * 100}:{p}")]
    space.expose("dns", *words)
    verified = space.verify("dns", "-o", "json")
    assert verified.code == 0, verified.both
    probes = json.loads(verified.out)[0]["probes"]
    for via in ("pod", "gateway", "service"):
        assert {p["servicePort"] for p in probes if p["via"] == via} == set(ports)


def test_without_ports_all_are_exposed_and_low_ports_are_translated(space: Space) -> None:
    """A gateway may not bind 853: its pods listen higher, and clients do not notice."""
    space.apply(*dns_server(ports=(853, 8853)))
    exposed = space.expose("dns")
    assert "10853/UDP" in exposed.err and "U302" in exposed.err
    verified = space.verify("dns")
    assert verified.code == 0, verified.both
    assert ":853 " in verified.out and ":8853 " in verified.out


def test_two_services_on_one_gateway(space: Space, port: int) -> None:
    space.apply(*dns_server("one"), *dns_server("two"))
    space.expose("one", "-p", f"{port}:53")
    space.expose("two", "-p", f"{port + 100}:53")
    verified = space.verify("--all")
    assert verified.code == 0, verified.both
    listed = space.plugin("get", "-o", "name")
    assert listed.out.split() == ["one", "two"], listed.both
    assert space.plugin("delete", "one").code == 0
    assert space.verify("two").code == 0


def test_tcp_port_of_the_same_number(space: Space, port: int) -> None:
    """istiod's endpoints of the TCP port are used, without a ServiceEntry."""
    server = dns_server()
    server[2]["spec"]["ports"].append(
        {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53}
    )
    space.apply(*server)
    space.expose("dns", "-p", f"{port}:53")
    assert get("serviceentries", "-n", space.name)["items"] == []
    verified = space.verify("dns")
    assert verified.code == 0, verified.both


def test_headless_selectorless_and_external_name(space: Space, port: int) -> None:
    space.apply(*dns_server())
    pod = get("pods", "-n", space.name, "-l", "app=dns")["items"][0]["status"]["podIP"]
    bare = service("bare")
    del bare["spec"]["selector"]
    space.apply(
        service("headless", app="dns", clusterIP="None"),
        bare,
        _piece("bare", 53, pod),
        service("outside", type="ExternalName", externalName=f"dns.{space.name}.svc.cluster.local"),
    )
    for index, (name, found_by) in enumerate(
        [("headless", "selector"), ("bare", "endpoints"), ("outside", "dns")]
    ):
        exposed = space.expose(name, "-p", f"{port + 100 * index}:53")
        assert f"endpoint discovery: {found_by}" in exposed.err
    verified = space.verify("--all")
    assert verified.code == 0, verified.both


def test_named_target_port_that_differs_between_pods(space: Space, port: int) -> None:
    low, high = dns_server("low", ports=(53,)), dns_server("high", ports=(1053,))
    for server, number in ((low, 53), (high, 1053)):
        template = server[1]["spec"]["template"]
        template["metadata"]["labels"]["tier"] = "mixed"
        template["spec"]["containers"][0]["ports"] = [
            {"name": "dns", "containerPort": number, "protocol": "UDP"}
        ]
    mixed = service("mixed")
    mixed["spec"]["selector"] = {"tier": "mixed"}
    mixed["spec"]["ports"][0]["targetPort"] = "dns"
    space.apply(*low[:2], *high[:2], mixed)
    exposed = space.expose("mixed", "-p", f"{port}:53")
    assert "not the same in every pod (53, 1053)" in exposed.err
    verified = space.verify("mixed", "--count", "6", "-o", "json")
    assert verified.code == 0, verified.both
    targets = {p["target"].rpartition(":")[2] for p in json.loads(verified.out)[0]["probes"][:2]}
    assert targets == {"53", "1053"}


def _piece(service: str, number: int, address: str) -> dict[str, Any]:
    """An EndpointSlice with one address and one port, written by hand."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-{number}",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": f"dns-{number}", "port": number, "protocol": "UDP"}],
        "endpoints": [{"addresses": [address]}],
    }


def test_ports_that_only_some_addresses_have(space: Space, port: int) -> None:
    """Each port only has the addresses that serve it."""
    space.apply(*dns_server("low", ports=(53,)), *dns_server("high", ports=(1053,)))
    low, high = (
        get("pods", "-n", space.name, "-l", f"app={app}")["items"][0]["status"]["podIP"]
        for app in ("low", "high")
    )
    apart = service("apart", ports=(53, 1053))
    del apart["spec"]["selector"]
    space.apply(apart, _piece("apart", 53, low), _piece("apart", 1053, high))
    ports = ((port, 53), (port + 100, 1053))
    space.expose("apart", *(f"-p{ours}:{theirs}" for ours, theirs in ports))
    verified = space.verify("apart", "--count", "6")
    assert verified.code == 0, verified.both
    for (ours, theirs), address, other in zip(ports, (low, high), (high, low), strict=True):
        clusters = envoy(gateway_pods()[0], f"clusters?filter=^udp-{space.name}-apart-{ours}$")
        assert f"::{address}:{theirs}::" in clusters
        assert f"::{other}:" not in clusters


def test_one_address_with_two_numbers_of_a_port(space: Space, port: int) -> None:
    space.apply(*dns_server("dns", ports=(53, 1053)))
    pod = get("pods", "-n", space.name, "-l", "app=dns")["items"][0]["status"]["podIP"]
    twice = service("twice")
    del twice["spec"]["selector"]
    second = _piece("twice", 1053, pod)
    second["ports"][0]["name"] = "dns-53"
    space.apply(twice, _piece("twice", 53, pod), second)
    space.expose("twice", "-p", f"{port}:53")
    verified = space.verify("twice", "--count", "6")
    assert verified.code == 0, verified.both
    name = f"udp-{space.name}-twice-{port}"
    clusters = envoy(gateway_pods()[0], f"clusters?filter=^{name}$")
    assert f"::{pod}:53::" in clusters and f"::{pod}:1053::" in clusters


@pytest.mark.alone
def test_delete_leaves_the_cluster_as_it_was(space: Space, port: int) -> None:
    space.apply(*dns_server("one"), *dns_server("two"))
    space.expose("one", "-p", f"{port}:53")
    before = inventory(space, everyone=True)
    space.expose("two", "-p", f"{port + 100}:53")
    assert inventory(space, everyone=True) != before
    deleted = space.plugin("delete", "two")
    assert deleted.code == 0, deleted.both
    assert [line.split()[0] for line in deleted.out.splitlines()] == [
        "service",
        "envoyfilter.networking.istio.io",
        "serviceentry.networking.istio.io",
    ]
    assert inventory(space, everyone=True) == before
    assert space.verify("one").code == 0


def test_dry_runs_write_nothing_and_print_every_object(space: Space, port: int) -> None:
    space.apply(*dns_server())
    before = inventory(space)
    client = space.expose("dns", "-p", f"{port}:53", "--dry-run=client", "-o", "yaml")
    server = space.expose("dns", "-p", f"{port}:53", "--dry-run=server", "-o", "yaml")
    assert inventory(space) == before
    shown = list(yaml.safe_load_all(client.out))
    decided = list(yaml.safe_load_all(server.out))
    assert [m["kind"] for m in shown] == ["ServiceEntry", "EnvoyFilter", "Service"]
    assert [m["kind"] for m in decided] == [m["kind"] for m in shown]
    assert all("uid" in m["metadata"] for m in decided)
    space.expose("dns", "-p", f"{port}:53")
    written = get("envoyfilter", "-n", GATEWAY_NAMESPACE, shown[1]["metadata"]["name"])
    assert written["spec"] == shown[1]["spec"]


def test_kubectl_can_apply_what_a_dry_run_prints(space: Space, port: int) -> None:
    space.apply(*dns_server())
    shown = space.expose("dns", "-p", f"{port}:53", "--dry-run=client", "-o", "yaml")
    kubectl("apply", "-f", "-", stdin=shown.out)
    assert space.plugin("get", "-o", "name").out.split() == ["dns"]
    exposed = space.expose("dns", "-p", f"{port}:53", "--force-conflicts")
    assert "clients reach dns:53" in exposed.out
    done = space.verify("dns")
    assert done.code == 0, done.both


def test_changing_discovery_and_gateway_service_leaves_nothing_behind(
    space: Space, port: int
) -> None:
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53")
    changed = space.expose(
        "dns", "-p", f"{port}:53", "--discovery", "static", "--gateway-service", "none"
    )
    kinds = [line.split()[0] for line in own_objects(space) if f"udp-{space.name}-dns" in line]
    assert kinds == ["envoyfilters"]
    assert 'serviceentry.networking.istio.io "udp-' in changed.out
    verified = space.verify("dns")
    assert verified.code == 0, verified.both


def test_affinity_keeps_a_client_on_one_pod(space: Space, port: int) -> None:
    """whoami does not contain the pod, so the pods have different answers."""
    one, two = dns_server("one"), dns_server("two")
    for server, address in ((one, "192.0.2.11"), (two, "192.0.2.22")):
        server[0]["data"]["Corefile"] = server[0]["data"]["Corefile"].replace(
            "192.0.2.1 ", f"{address} "
        )
        server[1]["spec"]["template"]["metadata"]["labels"]["tier"] = "both"
    both = service("both")
    both["spec"]["selector"] = {"tier": "both"}
    space.apply(*one[:2], *two[:2], both)
    words = ("both", "--query", "plain.example", "--count", "40", "-o", "json")
    space.expose("both", "-p", f"{port}:53", "--affinity", "source-ip")
    kept = json.loads(space.verify(*words).out)[0]["probes"]
    gateway = next(p for p in kept if p["via"] == "gateway")
    assert len(set(gateway["answers"])) == 1, gateway
    space.expose("both", "-p", f"{port}:53", "--affinity", "none")
    spread = json.loads(space.verify(*words).out)[0]["probes"]
    gateway = next(p for p in spread if p["via"] == "gateway")
    assert len(set(gateway["answers"])) == 2, gateway


def test_session_log(space: Space, port: int) -> None:
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53", "--session-log", "--idle-timeout", "1s")
    assert space.verify("dns").code == 0

    def lines() -> list[str]:
        log = kubectl("logs", "-n", GATEWAY_NAMESPACE, "-l", "istio=ingressgateway", "--tail=200")
        name = f"listener=udp-{space.name}-dns-{port} "
        return [line for line in log.splitlines() if name in line]

    line = eventually("a session line", lines, 15)[0]
    assert "datagrams_received=1 datagrams_sent=1" in line
    pod = get("pods", "-n", space.name, "-l", "app=dns")["items"][0]["status"]["podIP"]
    assert f"upstream={pod}:53" in line
