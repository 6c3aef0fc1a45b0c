"""Whether what is said can be trusted: verdicts, rights, long datagrams."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import (
    GATEWAY_NAMESPACE,
    LOAD_IMAGE,
    Space,
    dns_server,
    get,
    kubectl,
    service,
    wait_answered,
)

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("envoyfilter", "the gateway does not answer: EnvoyFilter {gateway}/{name} is missing"),
        ("serviceentry", "ServiceEntry {own}/{name} is missing; run again: kubectl istio-udp"),
        ("service", "Service {gateway}/{name} is missing; run again: kubectl istio-udp expose"),
    ],
)
def test_a_missing_object_is_named(space: Space, port: int, kind: str, verdict: str) -> None:
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53")
    name = f"udp-{space.name}-dns"
    where = space.name if kind == "serviceentry" else GATEWAY_NAMESPACE
    kubectl("delete", kind, "-n", where, name)
    found = space.verify("dns")
    assert found.code == 1
    said = verdict.format(name=name, gateway=GATEWAY_NAMESPACE, own=space.name)
    assert said in found.out or said.partition(": ")[2] in found.out
    listed = space.plugin("get").out
    assert " Missing" in listed and " ok " not in listed
    space.expose("dns", "-p", f"{port}:53")
    wait_answered(space, "dns")


def test_a_changed_companion_is_found(space: Space, port: int) -> None:
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53")
    patch = f'[{{"op": "replace", "path": "/spec/ports/0/targetPort", "value": {port + 1}}}]'
    name = f"udp-{space.name}-dns"
    kubectl("patch", "service", "-n", GATEWAY_NAMESPACE, name, "--type=json", "-p", patch)
    found = space.verify("dns", "--timeout", "1s")
    assert found.code == 1
    assert f"port {port} of Service {GATEWAY_NAMESPACE}/{name} leads to {port + 1}" in found.out
    space.expose("dns", "-p", f"{port}:53", "--force-conflicts")
    wait_answered(space, "dns")


def test_a_gateway_that_sends_to_other_addresses_is_found(space: Space, port: int) -> None:
    """The Service's target port moves to another port on which the pods answer too."""
    space.apply(*dns_server(ports=(53, 1053)))
    space.expose("dns", "-p", f"{port}:53")
    moved = service("dns", ports=(53,))
    moved["spec"]["ports"][0]["targetPort"] = 1053
    space.apply(moved)
    found = space.verify("dns")
    assert found.code == 1
    assert "sends port 53 to" in found.out and "run again: kubectl istio-udp expose" in found.out
    space.expose("dns", "-p", f"{port}:53")
    wait_answered(space, "dns")


def test_a_service_that_is_gone(space: Space, port: int) -> None:
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53")
    kubectl("delete", "service", "-n", space.name, "dns")
    found = space.verify("dns")
    assert found.code == 3
    assert f"kubectl istio-udp delete -n {space.name} dns" in found.err
    assert " NoService " in space.plugin("get").out


@contextlib.contextmanager
def granted(space: Space, roles: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Roles bound to the namespace's service account; the words that act as it."""
    account = {"kind": "ServiceAccount", "name": "default", "namespace": space.name}
    for role in roles:
        role["metadata"]["name"] += f"-{space.name}"
    bindings = [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": role["metadata"],
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": role["metadata"]["name"],
            },
            "subjects": [account],
        }
        for role in roles
    ]
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([*roles, *bindings]))
    try:
        yield ("--as", f"system:serviceaccount:{space.name}:default")
    finally:
        for binding in bindings:
            where = binding["metadata"]
            for kind in ("rolebinding", "role"):
                kubectl("delete", kind, "-n", where["namespace"], where["name"])


def documented_roles(space: Space) -> list[dict[str, Any]]:
    """docs/rbac.yaml: two Roles for exposures, then two for the rest."""
    text = (DOCS / "rbac.yaml").read_text().replace("TEAM", space.name)
    return list(yaml.safe_load_all(text.replace("GATEWAY", GATEWAY_NAMESPACE)))


def test_the_documented_rights_suffice(space: Space, port: int) -> None:
    """The first two Roles: every command for exposures works, with no right elsewhere."""
    with granted(space, documented_roles(space)[:2]) as user:
        space.apply(*dns_server())
        gateway = ("--gateway", f"{GATEWAY_NAMESPACE}/istio-ingressgateway")
        unnamed = space.expose("dns", "-p", f"{port}:53", *user, code=3)
        assert "pods in all namespaces" in unnamed.err
        assert "--gateway NAMESPACE/NAME" in unnamed.err
        space.expose("dns", "-p", f"{port}:53", *gateway, *user)
        verified = space.plugin("verify", "dns", "--create-tool", *user)
        assert verified.code == 0, verified.both
        listed = space.plugin("get", "-o", "name", *user)
        assert listed.out.split() == ["dns"], listed.both
        deleted = space.plugin("delete", "dns", *user)
        assert deleted.code == 0, deleted.both
        assert "Warning" not in deleted.err


@pytest.mark.parametrize("left", ["pods/portforward", "pods/exec"])
def test_either_right_lets_a_gateway_be_asked(space: Space, port: int, left: str) -> None:
    """Either port-forward or exec is granted in the gateway's namespace."""
    team, gateway = documented_roles(space)[:2]
    for rule in gateway["rules"]:
        if "pods/exec" in rule["resources"]:
            rule["resources"] = [left]
    with granted(space, [team, gateway]) as user:
        space.apply(*dns_server())
        at = ("--gateway", f"{GATEWAY_NAMESPACE}/istio-ingressgateway")
        exposed = space.expose("dns", "-p", f"{port}:53", *at, *user)
        assert ("U204" in exposed.err) == (left == "pods/portforward"), exposed.both
        verified = space.plugin("verify", "dns", "--create-tool", *user)
        assert verified.code == 0, verified.both


def test_without_permission_to_query_a_gateway_both_rights_are_named(
    space: Space, port: int
) -> None:
    team, gateway = documented_roles(space)[:2]
    gateway["rules"] = [r for r in gateway["rules"] if "pods/exec" not in r["resources"]]
    with granted(space, [team, gateway]) as user:
        space.apply(*dns_server())
        words = ("-p", f"{port}:53", "--gateway", f"{GATEWAY_NAMESPACE}/istio-ingressgateway")
        refused = space.expose("dns", *words, *user, code=3)
        for right in ("portforward", "exec"):
            assert f"--subresource={right}" in refused.err, refused.both
        space.expose("dns", *words, "--no-wait", *user)


def test_the_documented_rights_suffice_for_responses_and_access_logs(
    space: Space, port: int
) -> None:
    """All four Roles: every command for the other kinds works."""
    with granted(space, documented_roles(space)) as user:
        gateway = ("--gateway", f"{GATEWAY_NAMESPACE}/istio-ingressgateway")
        at = ("--gateway-port", str(port), "--create-gateway")
        space.respond("/direct", "--body", "hello", *gateway, *at, *user)
        made = space.plugin("access-log", "--every", "1s", *user)
        assert made.code == 0, made.both
        names = ["response/direct", "accesslog/namespace"]
        assert space.plugin("get", "-o", "name", *user).out.split() == names
        verified = space.plugin("verify", "--all", "--create-tool", *user)
        assert verified.code == 0, verified.both
        described = space.plugin("describe", *user)
        assert described.code == 0, described.both
        deleted = space.plugin("delete", "--all", *user)
        assert deleted.code == 0, deleted.both


_SIZED = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 7000))
while True:
    data, client = s.recvfrom(65535)
    s.sendto(data[:4] + b"x" * (int.from_bytes(data[:4], "big") - 4), client)
"""
_ASK = """
import socket, sys
host, port, out, back = sys.argv[1], *map(int, sys.argv[2:])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)
s.sendto(back.to_bytes(4, "big") + b"q" * (out - 4), (host, port))
print(len(s.recv(65535)))
"""


def sized_server() -> list[dict[str, Any]]:
    """A server that answers with as many bytes as the datagram's first four say."""
    pod = {
        "containers": [
            {"name": "sized", "image": LOAD_IMAGE, "command": ["python3", "-c", _SIZED]}
        ],
        "terminationGracePeriodSeconds": 1,
    }
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "sized"},
            "spec": {
                "selector": {"matchLabels": {"app": "sized"}},
                "template": {"metadata": {"labels": {"app": "sized"}}, "spec": pod},
            },
        },
        service("sized", ports=(7000,)),
    ]


def test_datagrams_of_every_size_pass_both_ways(space: Space, port: int) -> None:
    """Longer than one packet too: requests and answers come in fragments."""
    space.apply(*sized_server())
    space.expose("sized", "-p", f"{port}:7000")
    address = get("service", "-n", GATEWAY_NAMESPACE, f"udp-{space.name}-sized")["spec"]
    pod = get("pods", "-n", space.name, "-l", "app=sized")["items"][0]["metadata"]["name"]
    gateway = get("pods", "-n", GATEWAY_NAMESPACE, "-l", "istio=ingressgateway")["items"][0]
    hosts = (
        (gateway["status"]["podIP"], port),
        (address["clusterIP"], address["ports"][0]["port"]),
    )
    for host, number in hosts:
        for out, back in ((4, 4), (100, 1473), (1473, 100), (8972, 8972)):
            words = ("python3", "-c", _ASK, host, str(number), str(out), str(back))
            said = kubectl("exec", "-n", space.name, pod, "--", *words, ok=False)
            assert said.strip() == str(back), (host, out, back)


def test_verify_as_json_has_the_same_result(space: Space, port: int) -> None:
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53")
    [report] = json.loads(space.verify("dns", "-o", "json").out)
    assert report["good"] is True
    assert all(p["sent"] == p["answered"] == 1 for p in report["probes"])
