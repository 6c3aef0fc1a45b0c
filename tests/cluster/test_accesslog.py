"""Periodic access logs of long TCP connections: who writes lines, and how often."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from conftest import GATEWAY_NAMESPACE, Space, eventually, get, inventory, kubectl, own_objects, run


@pytest.fixture
def mesh(space: Space) -> Space:
    """A namespace in the mesh with two TCP servers, one and two, and a network tool."""
    kubectl("label", "namespace", space.name, "istio-injection=enabled")
    serve = "while true; do nc -l -p 9000 || nc -l 9000; done"
    commands = {"one": ["sh", "-c", serve], "two": ["sh", "-c", serve]}
    for name, command in {**commands, "network-tool": ["sleep", "infinity"]}.items():
        container = {"name": name, "image": "zhaohuabing/network-tool", "command": command}
        space.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name},
                "spec": {"selector": {"app": name}, "ports": [{"name": "tcp", "port": 9000}]},
            },
        )
    kubectl("wait", "-n", space.name, "pod", "--all", "--for=condition=Ready", "--timeout=90s")
    return space


def access_log(space: Space, *words: str, code: int = 0) -> str:
    result = space.plugin("access-log", *words)
    assert result.code == code, result.both
    return result.both


def sides(space: Space, name: str, *words: str, code: int = 0) -> dict[str, dict[str, Any]]:
    """What `verify` measured, by side."""
    result = space.plugin("verify", name, "-o", "json", *words)
    assert result.code == code, result.both
    return {side["side"]: side for side in json.loads(result.out)[0]["sides"]}


@pytest.mark.parametrize(("seconds", "targets"), [(1, [(), ("--to", "one")]), (5, [()])])
def test_proxies_of_a_namespace_write_lines_at_the_interval(
    mesh: Space, seconds: int, targets: list[tuple[str, ...]]
) -> None:
    before = inventory(mesh)
    said = access_log(mesh, "--every", f"{seconds}s")
    assert "applies to 3 proxies" in said and "[U223]" in said
    for to in targets:
        found = sides(mesh, "accesslog/namespace", *to)
        for side in ("client", "server"):
            assert found[side]["inReach"] and len(found[side]["lines"]) >= 4
            assert found[side]["intervalSeconds"] == pytest.approx(seconds, rel=0.2)
    unchanged = access_log(mesh, "--every", f"{seconds}s")
    assert "unchanged" in unchanged and "[U223]" not in unchanged
    assert f"{seconds}s" in mesh.plugin("get").out
    assert f"every: {seconds}s" in mesh.plugin("describe", "accesslog/namespace").out
    assert "deleted" in access_log(mesh, "--off")
    assert inventory(mesh) == before
    assert "tcp-echo" not in kubectl("get", "services", "-n", mesh.name)


def test_only_pods_with_the_labels_write_lines(mesh: Space) -> None:
    access_log(mesh, "--every", "1s", "-l", "app=one")
    found = sides(mesh, "accesslog/app-one", "--to", "one")
    assert found["server"]["intervalSeconds"] == pytest.approx(1, rel=0.2)
    assert not found["client"]["inReach"] and found["client"]["lines"] == []
    outside = mesh.plugin("verify", "accesslog/app-one", "--to", "two")
    assert outside.code == 1 and "neither" in outside.out
    # A proxy that the access log does not apply to writes one line: when the connection ends.
    hold(mesh, "two", 3)
    lines = eventually("its line", lambda: tcp_lines(mesh, "two"))
    assert len(lines) == 1
    needs = mesh.plugin("verify", "accesslog/app-one")
    assert needs.code == 2 and "--to" in needs.err
    overlap = access_log(mesh, "--every", "2s", code=3)
    assert "[U121]" in overlap and "accesslog/app-one" in overlap
    access_log(mesh, "--every", "2s", "-l", "app=two")
    access_log(mesh, "--every", "2s", "-l", "tier=front", code=3)
    assert mesh.plugin("delete", "--all").code == 0
    assert own_objects(mesh) == []


@pytest.mark.parametrize(("direction", "writer"), [("inbound", "server"), ("outbound", "client")])
def test_one_direction_only(mesh: Space, direction: str, writer: str) -> None:
    access_log(mesh, "--every", "1s", "--direction", direction)
    found = sides(mesh, f"accesslog/namespace-{direction}", "--to", "one")
    assert [side for side in found if found[side]["inReach"]] == [writer]
    assert [side for side in found if found[side]["lines"]] == [writer]
    assert found[writer]["intervalSeconds"] == pytest.approx(1, rel=0.2)


def test_a_refused_command_writes_nothing(mesh: Space) -> None:
    for dry_run in ("client", "server"):
        shown = mesh.plugin("access-log", "--dry-run", dry_run, "-o", "json")
        assert json.loads(shown.out)["kind"] == "EnvoyFilter"
    assert own_objects(mesh) == []
    refused = run("kubectl", "istio-udp", "access-log", "-n", GATEWAY_NAMESPACE)
    assert refused.code == 2 and "--mesh" in refused.err


def test_a_namespace_without_proxies_is_a_warning_and_can_be_verified(space: Space) -> None:
    """The echo server made for the run is its only pod in the mesh."""
    said = access_log(space, "--every", "1s")
    assert "[U222]" in said and "[U223]" not in said
    found = sides(space, "accesslog/namespace", "--tool-pod", space.tool)
    assert found["server"]["intervalSeconds"] == pytest.approx(1, rel=0.2)
    assert not found.get("client", {}).get("inReach")


@pytest.mark.alone
def test_the_whole_mesh(mesh: Space) -> None:
    said = run("kubectl", "istio-udp", "access-log", "--mesh", "--every", "1s")
    assert said.code == 0, said.both
    try:
        assert "accesslog/mesh" in said.err
        tool = ("--tool-pod", f"{mesh.name}/network-tool")
        proof = run(
            "kubectl", "istio-udp", "verify", "accesslog/mesh", "-n", GATEWAY_NAMESPACE,
            "-o", "json", *tool,
        )  # fmt: skip
        assert proof.code == 0, proof.both
        for side in json.loads(proof.out)[0]["sides"]:
            assert side["intervalSeconds"] == pytest.approx(1, rel=0.2)
        assert "[U121]" in access_log(mesh, "--every", "2s", code=3)
    finally:
        off = run("kubectl", "istio-udp", "access-log", "--mesh", "--off")
    assert off.code == 0 and "deleted" in off.out, off.both


def hold(space: Space, server: str, seconds: int) -> None:
    """Hold a connection open from the namespace's network tool, then end it."""
    command = f"{{ echo x; sleep {seconds}; }} | timeout {seconds} nc {server} 9000"
    subprocess.run(
        ["kubectl", "exec", "-n", space.name, "network-tool", "-c", "network-tool", "--",
         "sh", "-c", command],
        check=False, capture_output=True, timeout=60,
    )  # fmt: skip


def tcp_lines(space: Space, pod: str) -> list[str]:
    """The lines about TCP connections to port 9000 in a pod's proxy log."""
    address = get("pod", "-n", space.name, pod)["status"]["podIP"]
    log = kubectl("logs", "-n", space.name, pod, "-c", "istio-proxy", "--tail=500")
    return [line for line in log.splitlines() if '"- - -"' in line and f"{address}:9000" in line]
