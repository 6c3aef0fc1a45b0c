"""What must not be written, what cannot be done, and what is said then."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import (
    GATEWAY_NAMESPACE,
    Space,
    dns_server,
    gateway_pods,
    get,
    inventory,
    kubectl,
    own_objects,
    run,
    service,
    wait_answered,
)

_PROXY = "type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3"


def foreign_filter(name: str, listener: str, port: int) -> dict[str, Any]:
    """A foreign EnvoyFilter: a UDP listener with a cluster."""
    route = {"@type": f"{_PROXY}.Route", "cluster": listener}
    proxy = {
        "@type": f"{_PROXY}.UdpProxyConfig",
        "stat_prefix": listener,
        "matcher": {"on_no_match": {"action": {"name": "route", "typed_config": route}}},
    }
    values = {
        "CLUSTER": {"name": listener, "type": "STATIC"},
        "LISTENER": {
            "name": listener,
            "address": {
                "socket_address": {"protocol": "UDP", "address": "0.0.0.0", "port_value": port}
            },
            "udp_listener_config": {},
            "listener_filters": [
                {"name": "envoy.filters.udp_listener.udp_proxy", "typed_config": proxy}
            ],
        },
    }
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": name, "namespace": GATEWAY_NAMESPACE},
        "spec": {
            "workloadSelector": {"labels": {"istio": "ingressgateway"}},
            "configPatches": [
                {
                    "applyTo": kind,
                    "match": {"context": "GATEWAY"},
                    "patch": {"operation": "ADD", "value": value},
                }
                for kind, value in values.items()
            ],
        },
    }


@pytest.fixture
def foreign() -> Iterator[Any]:
    """Apply a foreign EnvoyFilter, and delete it afterwards."""
    made = []

    def apply(manifest: dict[str, Any]) -> None:
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))
        made.append(manifest["metadata"]["name"])

    yield apply
    for name in made:
        kubectl("delete", "envoyfilter", "-n", GATEWAY_NAMESPACE, name)


def test_collision_by_port_is_refused_with_nothing_written(
    space: Space, port: int, foreign: Any
) -> None:
    space.apply(*dns_server())
    foreign(foreign_filter(f"theirs-{port}", f"theirs-{port}", port))
    before = inventory(space)
    refused = space.expose("dns", "-p", f"{port}:53", code=3)
    assert f"EnvoyFilter {GATEWAY_NAMESPACE}/theirs-{port}" in refused.err
    assert "U103" in refused.err and "nothing was written" in refused.err
    assert inventory(space) == before
    space.expose("dns", "-p", f"{port + 100}:53")


def test_collision_by_name_is_refused_with_nothing_written(
    space: Space, port: int, foreign: Any
) -> None:
    space.apply(*dns_server())
    foreign(foreign_filter(f"theirs-{port}", f"udp-{space.name}-dns-{port}", port + 50))
    before = inventory(space)
    refused = space.expose("dns", "-p", f"{port}:53", code=3)
    assert "U102" in refused.err and f"theirs-{port}" in refused.err
    assert inventory(space) == before


def test_collision_with_another_exposure(space: Space, port: int) -> None:
    space.apply(*dns_server("one"), *dns_server("two"))
    space.expose("one", "-p", f"{port}:53")
    before = own_objects(space)
    refused = space.expose("two", "-p", f"{port}:53", code=3)
    assert f"(exposure one of namespace {space.name})" in refused.err
    assert own_objects(space) == before


def test_another_object_with_the_exposures_name(space: Space, port: int) -> None:
    space.apply(*dns_server())
    theirs = service(f"udp-{space.name}-dns", ports=(99,))
    theirs["metadata"]["namespace"] = GATEWAY_NAMESPACE
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(theirs))
    try:
        before = inventory(space)
        refused = space.expose("dns", "-p", f"{port}:53", code=3)
        assert "U101" in refused.err and f"udp-{space.name}-dns" in refused.err
        assert inventory(space) == before
    finally:
        kubectl("delete", "service", "-n", GATEWAY_NAMESPACE, f"udp-{space.name}-dns")


_HOLD = (
    "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    "s.bind(('0.0.0.0', {port})); print('bound', flush=True); time.sleep(60)"
)


def test_a_rejection_by_envoy_is_undone(space: Space, port: int) -> None:
    """A bind that only Envoy can refuse: a process in the gateway's pod holds the port."""
    space.apply(*dns_server())
    exec_in = ["kubectl", "exec", "-n", GATEWAY_NAMESPACE, gateway_pods()[0], "-c", "istio-proxy"]
    if run(*exec_in, "--", "python3", "--version").code != 0:
        pytest.skip("the gateway's image has nothing to hold a port with")
    before = inventory(space)
    holder = subprocess.Popen(
        [*exec_in, "--", "timeout", "60", "python3", "-c", _HOLD.format(port=port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout and holder.stdout.readline() == "bound\n"
        refused = space.expose("dns", "-p", f"{port}:53", code=3)
    finally:
        holder.kill()
        holder.wait()
    assert "rejected it" in refused.err and "cannot bind" in refused.err
    assert "everything that this run wrote was undone" in refused.err
    assert inventory(space) == before


def test_too_many_sessions_for_the_gateway(space: Space, port: int) -> None:
    space.apply(*dns_server())
    before = inventory(space)
    refused = space.expose("dns", "-p", f"{port}:53", "--max-sessions", "4294967295", code=3)
    assert "U108" in refused.err and "--max-sessions" in refused.err
    assert inventory(space) == before


def test_edited_by_hand(space: Space, port: int) -> None:
    """A conflict is shown; --force-conflicts takes the fields over."""
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53")
    name = f"udp-{space.name}-dns"
    patch = '[{"op": "replace", "path": "/spec/workloadSelector/labels/app", "value": "nobody"}]'
    kubectl("patch", "envoyfilter", "-n", GATEWAY_NAMESPACE, name, "--type=json", "-p", patch)
    refused = space.expose("dns", "-p", f"{port}:53", code=3)
    assert "was changed by someone else" in refused.err and "kubectl-patch" in refused.err
    assert "--force-conflicts" in refused.err
    silent = space.verify("dns")
    assert silent.code == 1
    assert f"no listener on {port}" in silent.out
    space.expose("dns", "-p", f"{port}:53", "--force-conflicts")
    wait_answered(space, "dns")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nosuch"], 3, "service nosuch not found in namespace"),
        (["dns", "-p", "0"], 2, "out of range"),
        (["dns", "-p", "65536"], 2, "out of range"),
        (["dns", "-p", "abc"], 2, "is not a number"),
        (["dns", "-p", "5300:"], 2, "after the colon is missing"),
        (["dns", "-p", "5300", "-p", "5300:53"], 2, "given twice"),
        (["dns", "-p", "5300:54"], 2, "its UDP ports: 53/UDP"),
        (["dns", "-p", "5300:nosuch"], 2, "its UDP ports: 53/UDP"),
        (["tcp"], 2, "has no UDP port (its ports: 53/TCP"),
        (["dns", "--gateway", "nosuch"], 3, "no gateway named nosuch"),
        (["dns", "--gateway-selector", "a=b"], 3, "no Istio ingress gateway"),
        (["dns", "--context", "nosuch"], 3, "has no context 'nosuch'"),
        (["dns", "--kubeconfig", "/nosuch"], 3, "the kubeconfig /nosuch cannot be used"),
        (["dns", "--discovery", "sideways"], 2, "Invalid value for '--discovery'"),
    ],
)
def test_bad_input(space: Space, words: list[str], code: int, said: str) -> None:
    tcp = service("tcp")
    tcp["spec"]["ports"][0]["protocol"] = "TCP"
    space.apply(service("dns"), tcp)
    before = own_objects(space)
    refused = space.expose(*words, code=code)
    assert said in refused.err
    assert refused.out == ""
    assert own_objects(space) == before


def test_unknown_namespace() -> None:
    refused = run("kubectl", "istio-udp", "expose", "dns", "-n", "nosuch")
    assert refused.code == 3
    assert "namespace nosuch not found" in refused.err


def test_missing_permission_names_the_command_to_check(space: Space) -> None:
    space.apply(*dns_server())
    user = f"system:serviceaccount:{space.name}:default"

    def checked() -> str:
        """The `kubectl auth can-i` command of the hint, which must print `no`."""
        refused = space.expose("dns", "--as", user, code=3)
        hint = next(line for line in refused.err.splitlines() if "kubectl auth can-i" in line)
        assert kubectl(*hint.partition("kubectl ")[2].split(), ok=False).strip() == "no"
        return hint

    checked()
    kubectl(
        "create", "rolebinding", "-n", space.name, "admin", "--clusterrole=admin",
        f"--serviceaccount={space.name}:default",
    )  # fmt: skip
    # What a namespace's administrator lacks is Istio's objects.
    assert "networking.istio.io" in checked()


def test_zero_ready_pods_is_a_warning(space: Space, port: int) -> None:
    space.apply(service("dns"))
    exposed = space.expose("dns", "-p", f"{port}:53")
    assert "U201" in exposed.err
    space.apply(*dns_server())
    wait_answered(space, "dns")


def test_long_names_are_hashed_and_stable(space: Space, port: int) -> None:
    long_name = "d" * 63
    space.apply(*dns_server(), service(long_name, app="dns"))
    space.expose(long_name, "-p", f"{port}:53")
    assert space.verify(long_name).code == 0
    names = {line.split()[1].partition("/")[2] for line in own_objects(space) if "-ddd" in line}
    assert len(names) == 1 and len(names.pop()) == 63
    assert " unchanged" in space.expose(long_name, "-p", f"{port}:53").out


def _kubeconfig(server: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
    )


def test_api_server_down_or_slow(tmp_path: Any) -> None:
    """One closed port, and one that accepts connections and never responds."""
    file = tmp_path / "kubeconfig"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        number = silent.getsockname()[1]
        file.write_text(_kubeconfig(f"http://127.0.0.1:{number}"))
        slow = run(
            "kubectl", "istio-udp", "expose", "dns", "--kubeconfig", str(file),
            "--request-timeout", "1s", seconds=20,
        )  # fmt: skip
    assert slow.code == 3
    assert "did not answer within 1s" in slow.err and "--request-timeout" in slow.err
    down = run("kubectl", "istio-udp", "expose", "dns", "--kubeconfig", str(file), seconds=20)
    assert down.code == 3
    assert "cannot be reached" in down.err and "Traceback" not in down.err


def test_verify_distinguishes_failures(space: Space, port: int) -> None:
    """A silent server, a refusing one, a pod without dig, a tool pod that is not running."""
    server = dns_server()
    space.apply(*server)
    space.expose("dns", "-p", f"{port}:53")
    refused = space.verify("dns", "--query", "other.example")
    assert refused.code == 1
    assert "answers REFUSED" in refused.out or "answers SERVFAIL" in refused.out
    backend = get("pods", "-n", space.name, "-l", "app=dns")["items"][0]["metadata"]["name"]
    without = space.plugin("verify", "dns", "--tool-pod", backend)
    assert without.code == 3
    assert "cannot run dig" in without.err and "--create-tool" in without.err
    broken = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "broken", "labels": {"sidecar.istio.io/inject": "false"}},
        "spec": {"containers": [{"name": "c", "image": "no/such-image"}]},
    }
    space.apply(broken)
    waiting = space.plugin("verify", "dns", "--tool-pod", "broken")
    assert waiting.code == 3
    assert "is Pending, not Running" in waiting.err
    kubectl("scale", "-n", space.name, "deploy/dns", "--replicas=0")
    kubectl("wait", "-n", space.name, "pod", "-l", "app=dns", "--for=delete", "--timeout=60s")
    silent = space.verify("dns", "--timeout", "1s")
    assert silent.code == 1
    assert "timeout" in silent.out


def test_tool_pod_for_one_run(space: Space, port: int) -> None:
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53")
    none = space.plugin("verify", "dns")
    assert none.code == 3
    assert "--create-tool" in none.err
    verified = space.plugin("verify", "dns", "--create-tool")
    assert verified.code == 0, verified.both
    pods = get("pods", "-n", space.name)["items"]
    left = [p for p in pods if "network-tool" in p["metadata"]["name"]]
    assert all("deletionTimestamp" in p["metadata"] for p in left)


def test_datagrams_that_are_not_dns(space: Space, port: int) -> None:
    """A hand-made DNS query as hexadecimal: any datagram back is an answer."""
    space.apply(*dns_server())
    space.expose("dns", "-p", f"{port}:53")
    query = "0001010000010000000000000366" + "6f6f0362617203636f6d0000010001"
    verified = space.verify("dns", "--probe", f"hex:{query}", "-o", "json")
    assert verified.code == 0, verified.both
    assert '"rcode": "answer"' in verified.out
    silent = space.verify("dns", "--probe", "text:HELLO", "--timeout", "1s")
    assert silent.code == 1
