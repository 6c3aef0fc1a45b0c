"""The ServiceEntries of exposures: which traffic they capture, and who can capture theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from subprocess import Popen
from typing import Any

import pytest
import yaml
from conftest import (
    Space,
    _namespace,
    dns_server,
    eventually,
    finish,
    get,
    kubectl,
    run,
    service,
)
from gateways import gateway_manifests
from tenants import who_server

SPEC = "kubectl-istio-udp/spec"
FOREIGN = "192.0.2.99"


@pytest.fixture
def mixed(space: Space) -> Iterator[Space]:
    """A namespace with a gateway and an application with sidecars."""
    kubectl("label", "namespace", space.name, "istio-injection=enabled")
    client = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "client"},
        "spec": {
            "selector": {"matchLabels": {"app": "client"}},
            "template": {
                "metadata": {"labels": {"app": "client"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [
                        {
                            "name": "client",
                            "image": "zhaohuabing/network-tool",
                            "command": ["sleep", "infinity"],
                        }
                    ],
                },
            },
        },
    }
    space.apply(*gateway_manifests("edge", "edge"), client)
    yield space
    assert space.plugin("delete", "--all").code == 0


@pytest.fixture
def foreign() -> Iterator[str]:
    """The address of a DNS server outside the mesh, on ports 53 and 443; it has no Service."""
    with _namespace("outside") as name:
        made = who_server("other", FOREIGN)
        made[0]["data"]["Corefile"] += (
            made[0]["data"]["Corefile"]
            .replace(".:53", ".:443")
            .replace(":8181", ":8182")
            .replace(":8080", ":8081")
        )
        Space(name, "").apply(*made[:2])
        (pod,) = get("pods", "-n", name, "-l", "app=other")["items"]
        yield pod["status"]["podIP"]


def in_client(space: Space, container: str, *words: str) -> str:
    (pod,) = get("pods", "-n", space.name, "-l", "app=client")["items"]
    name = pod["metadata"]["name"]
    return run("kubectl", "exec", "-n", space.name, name, "-c", container, "--", *words).out


def answered(space: Space, address: str, port: int) -> str:
    """The TCP response that a pod with a sidecar gets from an address outside the mesh."""
    asks = ("dig", "+tcp", "+short", "+timeout=5", "+tries=2", "who.test", f"@{address}")
    return in_client(space, "client", *asks, "-p", str(port)).strip()


def sidecar_listens(space: Space, port: int) -> list[str]:
    """The addresses on which that pod's sidecar takes outbound connections to a port."""
    found = in_client(space, "istio-proxy", "pilot-agent", "request", "GET", "listeners")
    return re.findall(rf"::(\S+):{port}$", found, re.MULTILINE)


def exposes(space: Space, name: str, *words: str) -> None:
    space.expose(name, "--gateway", f"{space.name}/edge", *words)


def entries(space: Space, name: str) -> list[dict[str, Any]]:
    labels = f"kubectl-istio-udp/exposure={name},kubectl-istio-udp/namespace={space.name}"
    return list(get("serviceentries", "-A", "-l", labels)["items"])


@pytest.mark.parametrize("discovery", ["selector", "endpoints"])
@pytest.mark.parametrize("number", [53, 443])
def test_tcp_of_the_gateways_namespace_is_not_captured(
    mixed: Space, foreign: str, port: int, number: int, discovery: str
) -> None:
    """Before, while and after a Service with that UDP port is exposed, and its pods restart."""
    mixed.apply(*dns_server("dns", ports=(number,)))
    eventually("the foreign server is up", lambda: answered(mixed, foreign, number) == FOREIGN)
    exposes(mixed, "dns", "-p", f"{port}:{number}", "--discovery", discovery)
    (entry,) = entries(mixed, "dns")
    address = entry["spec"]["addresses"][0]
    eventually("the sidecar knows the entry", lambda: address in sidecar_listens(mixed, number))
    assert not {"0.0.0.0", "[::]"} & set(sidecar_listens(mixed, number))
    assert answered(mixed, foreign, number) == FOREIGN
    kubectl("rollout", "restart", "-n", mixed.name, "deploy/dns")
    while "successfully" not in kubectl(
        "rollout", "status", "-n", mixed.name, "deploy/dns", "--timeout=1s", ok=False
    ):
        assert answered(mixed, foreign, number) == FOREIGN
    assert mixed.plugin("delete", "dns").code == 0
    assert answered(mixed, foreign, number) == FOREIGN


def version_1(manifest: dict[str, Any], host: str) -> dict[str, Any]:
    """An object as the previous version wrote it: with a guessable host, and without address."""
    guessable = host.partition(".")[2]
    found = json.loads(json.dumps(manifest).replace(host, guessable))
    metadata, spec = found["metadata"], found["spec"]
    data = json.loads(metadata["annotations"][SPEC])
    del data["entries"]
    metadata["annotations"] = {SPEC: json.dumps({**data, "version": 1})}
    spec.pop("addresses", None)
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "annotations")}
    return {**found, "metadata": kept}


def write_as_version_1(space: Space, name: str) -> None:
    """Replace an exposure's ServiceEntry and EnvoyFilter by those of the previous version."""
    (entry,) = entries(space, name)
    labels = f"kubectl-istio-udp/exposure={name},kubectl-istio-udp/namespace={space.name}"
    filters = get("envoyfilters", "-n", space.name, "-l", labels)["items"]
    host = entry["spec"]["hosts"][0]
    kubectl(
        "apply", "--server-side", "--force-conflicts", "--field-manager=kubectl-istio-udp",
        "-f", "-", stdin=yaml.safe_dump_all([version_1(o, host) for o in (entry, *filters)]),
    )  # fmt: skip


@pytest.mark.alone
@pytest.mark.quiet
def test_an_exposure_of_version_1_is_migrated(
    mixed: Space, foreign: str, port: int, load_pod: Callable[..., Popen[str]]
) -> None:
    """It is shown, verified and deleted; the next `expose` gives the TCP back, with no long pause.

    Envoy may have the listener before it has the endpoints of its new cluster.
    """
    mixed.apply(*dns_server())
    # Named each time, because `Space.expose` names fewer if other tests share the gateway.
    expose = ("-p", f"{port}:53", "--max-sessions", "4000")
    exposes(mixed, "dns", *expose)
    write_as_version_1(mixed, "dns")
    eventually("it takes all TCP", lambda: answered(mixed, foreign, 53) != FOREIGN)
    assert "dns" in mixed.plugin("get").out
    verified = mixed.verify("dns")
    assert verified.code == 0, verified.both
    address = get("service", "-n", mixed.name, "-l", "kubectl-istio-udp/exposure=dns")["items"][0]
    target = (address["spec"]["clusterIP"], port)
    process = load_pod(*target, "--queries", "2000", "--rate", "100")
    exposes(mixed, "dns", *expose)
    counts = finish(process)
    print("mended under load:", counts)
    assert counts["lost"] <= 10, counts
    eventually("the TCP is back", lambda: answered(mixed, foreign, 53) == FOREIGN)
    (entry,) = entries(mixed, "dns")
    assert entry["spec"]["addresses"] and len(entry["spec"]["hosts"][0].split(".")) == 5
    write_as_version_1(mixed, "dns")
    assert mixed.plugin("delete", "dns").code == 0
    assert entries(mixed, "dns") == []


def hosts_of(space: Space, name: str, port: int) -> set[str]:
    """The addresses to which the gateway sends a port's datagrams."""
    (pod,) = get("pods", "-n", space.name, "-l", "app=edge")["items"]
    words = ("exec", "-n", space.name, pod["metadata"]["name"], "-c", "istio-proxy", "--")
    found = kubectl(*words, "pilot-agent", "request", "GET", "clusters")
    return set(re.findall(rf"^udp-\S*-{port}::([0-9.]+):\d+::", found, re.MULTILINE))


def thief(host: str, gateway_namespace: str, address: str) -> dict[str, Any]:
    """A foreign ServiceEntry with the host of an exposure."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "thief"},
        "spec": {
            "hosts": [host],
            "exportTo": [gateway_namespace],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [{"name": "port-53", "number": 53, "protocol": "TCP"}],
            "endpoints": [{"address": address}],
        },
    }


@pytest.mark.parametrize("discovery", ["selector", "endpoints"])
def test_a_second_entry_with_the_host_is_found(
    mixed: Space, foreign: str, port: int, discovery: str
) -> None:
    """`expose` and `verify` name it, and an exposure that is made anew gets another host."""
    mixed.apply(*dns_server())
    exposes(mixed, "dns", "-p", f"{port}:53", "--discovery", discovery)
    (entry,) = entries(mixed, "dns")
    (host,) = entry["spec"]["hosts"]
    mine = hosts_of(mixed, "dns", port)
    with _namespace("thief") as name:
        other = Space(name, mixed.tool)
        other.apply(thief(host, mixed.name, foreign))
        told = run(
            "kubectl", "istio-udp", "expose", "dns", "-n", mixed.name, "-p", f"{port}:53",
            "--gateway", f"{mixed.name}/edge", "--discovery", discovery,
        )  # fmt: skip
        assert told.code == 3 and f"ServiceEntry {name}/thief" in told.err and "U110" in told.err
        verified = mixed.verify("dns")
        assert verified.code == 1 and f"ServiceEntry {name}/thief" in verified.both, verified.both
        assert mixed.plugin("delete", "dns").code == 0
        exposes(mixed, "dns", "-p", f"{port}:53", "--discovery", discovery)
        verified = mixed.verify("dns")
        assert verified.code == 0, verified.both
        assert hosts_of(mixed, "dns", port) == mine


def test_a_workload_entry_is_an_obstacle_for_selector(space: Space, port: int) -> None:
    """istiod would list its address; no EndpointSlice shows it."""
    space.apply(*dns_server())
    loopback = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": "lo"},
        "spec": {"address": "127.0.0.1", "labels": {"app": "dns"}},
    }
    space.apply(loopback)
    done = space.expose("dns", "-p", f"{port}:53")
    assert "its selector also selects WorkloadEntry lo" in done.err
    assert space.verify("dns").code == 0


def test_special_addresses_are_never_endpoints(space: Space, port: int) -> None:
    """The API server does not become an endpoint, whatever the EndpointSlices contain."""
    api_server = get(
        "endpointslices", "-n", "default", "-l", "kubernetes.io/service-name=kubernetes"
    )
    real = api_server["items"][0]["endpoints"][0]["addresses"][0]
    cluster_ip = get("service", "-n", "default", "kubernetes")["spec"]["clusterIP"]
    bad = [real, cluster_ip, "239.1.2.3", "255.255.255.255"]
    made = service("any")
    del made["spec"]["selector"]
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "any-1", "labels": {"kubernetes.io/service-name": "any"}},
        "addressType": "IPv4",
        "ports": [{"name": "dns-53", "port": 53, "protocol": "UDP"}],
        "endpoints": [{"addresses": [address]} for address in [*bad, "192.0.2.7"]],
    }
    space.apply(made, piece)
    for discovery in ("endpoints", "static"):
        done = space.expose("any", "-p", f"{port}:53", "--discovery", discovery)
        for address in bad:
            assert f"will not send to endpoint {address} of" in done.err
    assert "127.0.0.1" not in done.err
