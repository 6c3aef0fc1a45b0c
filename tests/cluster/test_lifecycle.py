"""What runs leave behind, what they keep, and what `get` says: at a gateway of the test's own."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import Space, dns_server, eventually, get, kubectl, own_objects
from gateways import gateway_manifests

OWN = "edge"
HOOK = "kubectl-istio-udp/expose"


@pytest.fixture
def edge(space: Space) -> Iterator[str]:
    """A gateway in the test's namespace, which no other test uses."""
    space.apply(*gateway_manifests(OWN, OWN), *dns_server())
    yield f"{space.name}/{OWN}"
    space.plugin("delete", "--all")
    kubectl("delete", "deployment", "-n", space.name, OWN, "--wait=false")


def gateway_ports(space: Space) -> list[tuple[int, str]]:
    """(port, protocol) of the gateway's own Service."""
    ports = get("service", "-n", space.name, OWN)["spec"]["ports"]
    return sorted((port["port"], port["protocol"]) for port in ports)


def status(space: Space, name: str = "dns") -> dict[str, Any]:
    """An exposure's status, as `get -o json` has it."""
    shown = space.plugin("get", name, "-o", "json")
    assert shown.code == 0, shown.both
    return dict(json.loads(shown.out)["status"])


def reasons(space: Space) -> list[str]:
    """What fails, by the reasons of the conditions."""
    return [c["reason"] for c in status(space)["conditions"][1:] if c["status"] == "False"]


def killed_after(space: Space, seconds: float, *words: str) -> None:
    """Start a command and end it by SIGKILL, unless it has ended by then."""
    command = ["kubectl", "istio-udp", *words, "-n", space.name]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def left_over(space: Space) -> list[str]:
    """All objects in the test's namespace that a run could leave."""
    kinds = "envoyfilters,serviceentries,services"
    items = get(kinds, "-n", space.name)["items"]
    return sorted(f"{item['kind']} {item['metadata']['name']}" for item in items)


# -- leftovers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_delete_removes_everything_that_killed_runs_left(
    space: Space, edge: str, port: int, seed: int
) -> None:
    """Runs with changing settings, each killed at some moment; then one delete."""
    chance = random.Random(seed)
    before, ports = left_over(space), gateway_ports(space)
    for _ in range(5):
        flags = ["-p", f"{port + chance.randrange(2)}:53", "--gateway", edge]
        flags += ["--gateway-service", chance.choice(["patch", "companion", "none"])]
        flags += ["--discovery", chance.choice(["selector", "static"])]
        verb = ["delete", "dns"] if chance.random() < 0.25 else ["expose", "dns", *flags]
        killed_after(space, chance.uniform(0.3, 2.0), *verb)
    deleted = space.plugin("delete", "dns", "--ignore-not-found")
    assert deleted.code == 0, deleted.both
    assert left_over(space) == before
    assert gateway_ports(space) == ports
    assert own_objects(space) == []


def test_the_next_run_finishes_a_change_of_mode_that_timed_out(
    space: Space, edge: str, port: int
) -> None:
    ports = gateway_ports(space)
    words = ("dns", "-p", f"{port}:53", "--gateway", edge)
    changed = (*words, "--gateway-service", "companion", "--idle-timeout", "20s")

    def times_out() -> bool:
        """Hardly any gateway confirms within a millisecond."""
        space.expose(*words, "--gateway-service", "patch", "--idle-timeout", "10s")
        return space.plugin("expose", *changed, "--timeout", "1ms").code == 3

    eventually("a run times out", times_out, 60)
    assert "run `expose` or `delete` for dns again" in space.plugin("get").out
    done = space.expose(*changed)
    assert "(UDP ports of the exposure)" in done.out
    assert gateway_ports(space) == ports
    assert space.verify("dns").code == 0
    assert space.plugin("delete", "dns").code == 0
    assert gateway_ports(space) == ports and own_objects(space) == []


# -- the gateway's own Service -------------------------------------------------------------------


def test_printed_manifests_never_contain_the_gateways_service(
    space: Space, edge: str, port: int
) -> None:
    """Applied and deleted as a whole; the port is added by `expose` itself."""
    ports = gateway_ports(space)
    words = ("expose", "dns", "-p", "80:53", "--gateway", edge, "--gateway-service", "patch")
    printed = space.plugin(*words, "--dry-run=client", "-o", "yaml")
    assert printed.code == 0, printed.both
    assert '"code": "U230"' in printed.err
    kinds = [manifest["kind"] for manifest in yaml.safe_load_all(printed.out)]
    assert kinds == ["ServiceEntry", "EnvoyFilter"]
    kubectl("apply", "-f", "-", stdin=printed.out)
    assert gateway_ports(space) == ports
    space.expose(*words[1:], "--force-conflicts")
    assert gateway_ports(space) == sorted([*ports, (80, "UDP")])
    eventually("it answers", lambda: space.verify("dns").code == 0)
    kubectl("delete", "-f", "-", stdin=printed.out)
    assert gateway_ports(space) == sorted([*ports, (80, "UDP")])
    assert space.plugin("delete", "dns").code == 0
    assert gateway_ports(space) == ports


# -- settings ------------------------------------------------------------------------------------


def test_settings_stay_and_changes_are_shown(space: Space, edge: str, port: int) -> None:
    words = ("-p", f"{port}:53", "--gateway", edge, "--idle-timeout", "1m")
    space.expose("dns", *words, "--affinity", "source-ip", "--gateway-service", "none")
    before = own_objects(space)
    same = space.plugin("expose", "dns")
    assert same.code == 0 and " -> " not in same.err, same.both
    assert own_objects(space) == before
    more = space.plugin("expose", "dns", "-p", f"{port + 1}:53")
    assert f"ports: {port}:53/UDP -> {port}" in more.err, more.both
    assert space.verify("dns").code == 0
    less = space.plugin("expose", "dns", "--remove-port", str(port))
    assert less.code == 0 and f"-> {port + 1}:53/UDP" in less.err, less.both
    changed = space.plugin("expose", "dns", "--idle-timeout", "10s")
    assert "idle-timeout: 60s -> 10s" in changed.err
    assert changed.err.count(" -> ") == 1
    assert space.verify("dns").code == 0


# -- whose it is ---------------------------------------------------------------------------------


def test_an_exposure_requested_by_annotation_is_not_changed(
    space: Space, edge: str, port: int
) -> None:
    """The controller's labels and the annotation are still there, as after an uninstallation."""
    space.expose("dns", "-p", f"{port}:53", "--gateway", edge)
    space.expose("dns", "-p", f"{port + 1}:53", "--name", "mine", "--gateway", edge)
    labels = f"kubectl-istio-udp/exposure=dns,kubectl-istio-udp/namespace={space.name}"
    for kind in ("envoyfilters", "serviceentries", "services"):
        mark = "kubectl-istio-udp/source=service"
        kubectl("label", kind, "-n", space.name, "-l", labels, mark)
    # Not a port that a controller, if one runs here, would be allowed.
    kubectl("annotate", "service", "-n", space.name, "dns", f"{HOOK}={port}:53")
    refused = space.plugin("delete", "dns")
    assert refused.code == 3
    assert f"kubectl annotate service -n {space.name} dns {HOOK}-" in refused.err
    space.expose("dns", "--idle-timeout", "20s", code=3)
    assert space.plugin("delete", "--all").code == 3
    shown = space.plugin("get")
    owners = {line.split()[0]: line for line in shown.out.splitlines()}
    assert "dns" in owners and "mine" not in owners, shown.both
    assert "annotation" in owners["dns"]
    kubectl("annotate", "service", "-n", space.name, "dns", f"{HOOK}-")
    assert space.plugin("delete", "dns", "--ignore-not-found").code == 0
    eventually("it is gone", lambda: not own_objects(space))


# -- status --------------------------------------------------------------------------------------


def test_status_names_each_problem(space: Space, edge: str, port: int) -> None:
    space.expose("dns", "-p", f"{port}:53", "--gateway", edge)
    assert reasons(space) == []
    described = space.plugin("describe", "dns").out
    assert "Programmed" in described and "Addressed" in described

    kubectl("scale", "-n", space.name, "deploy/dns", "--replicas=0")
    eventually("no endpoint", lambda: reasons(space) == ["NoEndpoints"])
    assert "NoEndpoints" in space.plugin("get").out
    kubectl("scale", "-n", space.name, "deploy/dns", "--replicas=1")
    eventually("an endpoint", lambda: reasons(space) == [])

    mine = get("envoyfilter", "-n", space.name)["items"][0]
    by_hand = {
        "apiVersion": mine["apiVersion"],
        "kind": "EnvoyFilter",
        "metadata": {"name": "by-hand", "namespace": space.name},
        "spec": mine["spec"],
    }
    for patch in by_hand["spec"]["configPatches"]:
        if "value" in patch["patch"]:
            patch["patch"]["value"]["name"] += "-too"
    kubectl("apply", "-f", "-", stdin=json.dumps(by_hand))
    assert reasons(space) == ["Conflict"]
    kubectl("delete", "envoyfilter", "-n", space.name, "by-hand")
    assert reasons(space) == []

    kubectl("patch", "service", "-n", space.name, OWN, "-p", '{"spec":{"type":"LoadBalancer"}}')
    space.expose("dns")
    pending = status(space)
    if pending["address"] == "<pending>":
        assert reasons(space) == ["NoAddress"]

    kubectl("scale", "-n", space.name, f"deploy/{OWN}", "--replicas=0")
    eventually("no gateway pod", lambda: "NotProgrammed" in reasons(space), 60)
    assert "NotProgrammed" in space.plugin("get").out


def test_a_gateway_that_ends_during_the_wait_confirms_nothing(
    space: Space, edge: str, port: int
) -> None:
    """Its only pod is deleted while `expose` waits for it; no other comes."""
    # An endpoint that istiod never publishes, because no pod has this address.
    by_hand = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "dns-by-hand",
            "namespace": space.name,
            "labels": {"kubernetes.io/service-name": "dns"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "dns-53", "port": 53, "protocol": "UDP"}],
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": True}}],
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(by_hand))
    words = ["expose", "dns", "-p", f"{port}:53", "--gateway", edge, "--timeout", "20s"]
    process = subprocess.Popen(
        ["kubectl", "istio-udp", *words, "-n", space.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    eventually("it is written", lambda: len(own_objects(space)) == 3)
    kubectl("scale", "-n", space.name, f"deploy/{OWN}", "--replicas=0")
    kubectl("delete", "pod", "-n", space.name, "-l", f"app={OWN}", "--grace-period=0", "--force")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 3, out
    assert "nothing confirmed" in out, out
