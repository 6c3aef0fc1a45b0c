"""The controller in a cluster that misbehaves: nothing is lost, and all is true again in time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from conftest import (
    HERE,
    MOST_QUERIES,
    MOST_SECOND_QUERIES,
    SECOND_FIRST_PORT,
    LoadPod,
    Space,
    companion,
    dns_server,
    eventually,
    get,
    kubectl,
    run,
)
from controlled import (
    NAMESPACE,
    Switch,
    controller,
    events,
    leader,
    logs,
    make_switch,
    permitted,
    replicas,
    request_exposure,
)
from load import FIRST_FRESH_PORT
from test_udproute import backend, gateway, listener, programmed, route

__all__ = ["controller"]
GROUND_RUN = os.environ.get("E2E_GROUND_RUN", "")
# The tests kill the control plane, which is only possible on the project's own cluster.
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not GROUND_RUN, reason="not in the project's own cluster"),
]
# Queries per second, each from a new port for 10 s: well within 500 sessions.
RATE = 25
# The port of the route that only leads to one server, counted from the switch's.
STEADY = 7
# The user that occupies the controller's only seat at the API server.
SITTER = "sitter"
# Every fault must have no effect any more after this many seconds.
WITHIN = 30.0
ETCD = "http://127.0.0.1:2379"


@pytest.fixture(scope="module")
def standing(controller: str, tool: str, _ports: Iterator[int]) -> Iterator[Switch]:
    """A switch for all of these tests, exposed by an annotation and by a UDPRoute.

    The listener `steady` leads to the first of the two servers alone, for the load.
    """
    port = next(_ports)
    with permitted(tool, port, controller) as space:
        made = make_switch(space, port)
        listeners = (listener("dns", port + 8), listener("steady", port + STEADY))
        space.apply(gateway(space, *listeners, sessions=500))
        space.apply(route("dns", backend("dns"), parents=[{"sectionName": "dns"}]))
        space.apply(route("steady", backend("a"), parents=[{"sectionName": "steady"}]))
        yield replace(made, others=((programmed(space), port + 8),))


@pytest.fixture
def switch(standing: Switch) -> Switch:
    """Exposed, and answered by `a`."""
    standing.point("a")
    standing.wait("a", WITHIN)
    return standing


def restart(daemon: str, seconds: float) -> None:
    """Kill a daemon of the cluster, and start it again after a while."""
    done = run(str(HERE / "ground" / "ground"), "restart", daemon, str(seconds))
    assert done.code == 0, done.both
    eventually(
        "the API server is ready", lambda: run("kubectl", "get", "--raw", "/readyz").code == 0
    )


@contextlib.contextmanager
def traffic(load_pod: LoadPod, switch: Switch) -> Iterator[None]:
    """Continuous queries from new ports, none of which may be lost: to a Service and to a route.

    To the first of the two servers under a name of its own: an answer that is on its way while an
    endpoint goes is lost with any controller. In the pod by itself: what kubectl holds open ends
    with the API server.
    """
    _, first = companion(switch.space, switch.name)
    request_exposure(switch.space, "a", f"{first + 9}:53")
    eventually("the steady one answers", lambda: switch.space.verify("a").code == 0)
    (routed, _), *_ = switch.others
    loads = {
        "service": (*companion(switch.space, "a"), MOST_QUERIES, FIRST_FRESH_PORT),
        "route": (routed, first + STEADY, MOST_SECOND_QUERIES, SECOND_FIRST_PORT),
    }
    started = [
        f"python3 /tmp/load.py {address} {port} foo.bar.com --queries {most} --rate {RATE} "
        f"--first-port {first_port} --until /tmp/end >/tmp/{name} 2>&1 &"
        for name, (address, port, most, first_port) in loads.items()
    ]
    program = (HERE / "load.py").read_text()
    script = f"rm -f /tmp/end; cat >/tmp/load.py; {' '.join(started)}"
    load_pod.shell("sh", "-c", script, stdin=program)
    try:
        yield
    finally:
        eventually("the load is told to end", lambda: not load_pod.shell("touch", "/tmp/end").code)
    for name in loads:
        found = partial(lambda name: load_pod.shell("cat", f"/tmp/{name}").out, name)
        count = json.loads(eventually("the load has ended", found))
        print(f"meanwhile, {name}: {count['sent']} queries, {count['lost']} lost")
        assert count["lost"] == 0, count


def test_versions_compacted_during_watches(switch: Switch, load_pod: LoadPod) -> None:
    """etcd forgets the versions from which the watches would go on: they list again."""
    listed = logs().count("listing again")
    switch.point("b")
    switch.wait("b", WITHIN)
    with traffic(load_pod, switch):
        revision = int(_etcd("kv/range", {"key": "AA=="})["header"]["revision"])
        _etcd("kv/compaction", {"revision": str(revision), "physical": True})
        restart("kube-apiserver", 1)
        ended = time.monotonic()
        switch.point("a")
        eventually("it is written", lambda: switch.listed() == "a", WITHIN)
        print(f"\ncompacted: written again after {time.monotonic() - ended:.1f} s")
        switch.wait("a", WITHIN)
        print(f"compacted: answered again after {time.monotonic() - ended:.1f} s")
    eventually("a watch has listed again", lambda: logs().count("listing again") > listed)


def _etcd(path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{ETCD}/v3/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_istiod_stopped_for_a_while(switch: Switch, load_pod: LoadPod) -> None:
    """Traffic continues; changes arrive when istiod is back."""
    with traffic(load_pod, switch):
        kubectl("scale", "-n", "istio-system", "deploy/istiod", "--replicas=0")
        kubectl("wait", "-n", "istio-system", "pod", "-l", "app=istiod", "--for=delete")
        gone = time.monotonic()
        switch.point("b")
        # Longer than any session lives: all that goes on has begun without istiod.
        time.sleep(max(0.0, 15 - (time.monotonic() - gone)))
        assert switch.answers() == "a"
        kubectl("scale", "-n", "istio-system", "deploy/istiod", "--replicas=1")
        kubectl("rollout", "status", "-n", "istio-system", "deploy/istiod", "--timeout=60s")
        switch.wait("b", WITHIN)


def test_api_server_killed(switch: Switch, load_pod: LoadPod) -> None:
    """It refuses connections, then answers 429 (`storage is (re)initializing`), then 410.

    istiod's back-off remembers for two minutes how often the API server was away, and grows to
    30 s: between this and the compaction, which ends with a restart too, istiod is a new one.
    """
    with traffic(load_pod, switch):
        restart("kube-apiserver", 5)
        switch.point("b")
        switch.wait("b", WITHIN)


def test_leader_killed_in_a_burst_of_changes(switch: Switch, load_pod: LoadPod) -> None:
    """SIGKILL: the other one takes over within the Lease's duration and finishes the changes."""
    space, first = switch.space, leader()
    _, port = companion(space, switch.name)
    pod = next(p for p in replicas() if p["metadata"]["name"] == first)
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    for number in range(1, 6):
        space.apply(*dns_server(f"s{number}"))
    with traffic(load_pod, switch):
        for number in range(1, 6):
            request_exposure(space, f"s{number}", f"{port + number}:53")
            switch.point("b" if number % 2 else "a")
            if number == 4:
                ctr = ["ctr", "-a", f"{GROUND_RUN}/containerd.sock", "-n", "k8s.io"]
                done = run(*ctr, "task", "kill", "-s", "SIGKILL", container)
                assert done.code == 0, done.both
        killed = time.monotonic()
        switch.wait("b", WITHIN)
        print(f"\nleader killed: true again after {time.monotonic() - killed:.1f} s")
        for number in range(1, 6):
            eventually(
                f"s{number} answers", partial(lambda n: space.verify(f"s{n}").code == 0, number)
            )


def test_graceful_handover(switch: Switch) -> None:
    """A leader that is stopped releases its Lease, so that it does not have to expire."""
    first = leader()
    kubectl("delete", "pod", "-n", NAMESPACE, first, "--wait=false")
    told = time.monotonic()
    eventually("another leads", lambda: leader() not in ("", first), 5)
    switch.point("b")
    switch.wait("b", 10)
    print(f"\nhanded over: true again after {time.monotonic() - told:.1f} s")
    kubectl("rollout", "status", "-n", NAMESPACE, "deploy/kubectl-istio-udp-controller")


def test_network_cut_between_controller_and_api_server(switch: Switch, load_pod: LoadPod) -> None:
    """Packets are dropped in both directions, for both replicas."""
    addresses = [pod["status"]["podIP"] for pod in replicas()]
    rules = [
        rule
        for address in addresses
        for rule in (
            ["INPUT", "-s", address, "-p", "tcp", "--dport", "6443", "-j", "DROP"],
            ["OUTPUT", "-d", address, "-p", "tcp", "--sport", "6443", "-j", "DROP"],
        )
    ]
    with traffic(load_pod, switch):
        for rule in rules:
            assert run("iptables", "-I", *rule).code == 0
        try:
            switch.point("b")
            time.sleep(20)
            assert switch.answers() == "a"
        finally:
            for rule in rules:
                run("iptables", "-D", *rule)
        healed = time.monotonic()
        switch.wait("b", WITHIN)
        print(f"\nnetwork cut: true again after {time.monotonic() - healed:.1f} s")


def test_connections_that_hang(switch: Switch, tmp_path: Path) -> None:
    """Connections stay open but nothing passes, as before a hung API server."""
    way = Way()
    kubeconfig = tmp_path / "kubeconfig"
    config = yaml.safe_load(kubectl("config", "view", "--raw", "--flatten"))
    way.lead_to(config["clusters"][0]["cluster"])
    kubeconfig.write_text(yaml.safe_dump(config))
    ours = ("--kubeconfig", str(kubeconfig), "--gateway-namespace", switch.space.gateway)
    with _in_its_place(*ours):
        switch.point("b")
        switch.wait("b", WITHIN)
        way.hang()
        hung = time.monotonic()
        switch.point("a")
        switch.wait("a", WITHIN)
        print(f"\nconnections hung: true again after {time.monotonic() - hung:.1f} s")


@contextlib.contextmanager
def _in_its_place(*options: str) -> Iterator[None]:
    """A controller as a process of this machine, instead of the Deployment's."""
    deployment = ("-n", NAMESPACE, "deploy/kubectl-istio-udp-controller")
    words = ["kubectl-istio_udp", "controller", "run", "-n", NAMESPACE, "--port", "0"]
    words += ["--gateway-api", *options]
    process: subprocess.Popen[bytes] | None = None
    try:
        kubectl("scale", *deployment, "--replicas=0")
        eventually("its replicas are gone", lambda: not replicas())
        process = subprocess.Popen(words)
        yield
    finally:
        if process is not None:
            process.terminate()
            process.wait(30)
        kubectl("scale", *deployment, "--replicas=2")
        kubectl("rollout", "status", *deployment)
        eventually("a replica leads", leader)


class Way:
    """A proxy to the API server that can freeze its existing connections."""

    def __init__(self) -> None:
        self._passing: list[threading.Event] = []

    def lead_to(self, cluster: dict[str, Any]) -> None:
        """Stand between; `cluster` is a kubeconfig's, and names this way's beginning afterwards."""
        target = urlsplit(cluster["server"])
        assert target.hostname and target.port
        server = socket.create_server((target.hostname, 0))
        cluster["server"] = f"https://{target.hostname}:{server.getsockname()[1]}"
        self._start(self._accept, server, (target.hostname, target.port))

    def hang(self) -> None:
        """Freeze the existing connections; new ones pass."""
        for passing in self._passing:
            passing.clear()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self, server: socket.socket, target: tuple[str, int]) -> None:
        while True:
            near, far = server.accept()[0], socket.create_connection(target)
            passing = threading.Event()
            passing.set()
            self._passing.append(passing)
            self._start(self._pass, near, far, passing)
            self._start(self._pass, far, near, passing)

    def _pass(self, one: socket.socket, other: socket.socket, passing: threading.Event) -> None:
        with contextlib.suppress(OSError), other:
            while data := one.recv(2**16):
                passing.wait()
                other.sendall(data)


def test_a_webhook_that_refuses_writes(switch: Switch, load_pod: LoadPod) -> None:
    """One namespace's ServiceEntries are refused; another namespace is not delayed by it."""
    space = switch.space
    hook = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "refuses"},
        "webhooks": [
            {
                "name": "refuses.example.com",
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 1,
                "clientConfig": {"service": {"name": "nobody", "namespace": "default"}},
                "objectSelector": {"matchLabels": {"kubectl-istio-udp/namespace": space.name}},
                "rules": [
                    {
                        "apiGroups": ["networking.istio.io"],
                        "apiVersions": ["*"],
                        "resources": ["serviceentries"],
                        "operations": ["CREATE", "UPDATE"],
                    }
                ],
            }
        ],
    }
    with traffic(load_pod, switch), _applied(hook):
        switch.point("b")
        eventually("it is told", lambda: "ExposeFailed" in events(space, "dns"))
        assert switch.answers() == "a"
    switch.wait("b", WITHIN)


def test_too_many_requests(switch: Switch, load_pod: LoadPod) -> None:
    """An overloaded API server answers 429: there is no leader, but traffic continues."""
    with traffic(load_pod, switch):
        with overloaded(switch.space):
            switch.point("b")
            eventually("the leader cannot renew", lambda: _lease_age() > 10, 30)
            assert switch.listed() == "a" == switch.answers()
        ended = time.monotonic()
        switch.wait("b", WITHIN)
        print(f"\n429s: true again after {time.monotonic() - ended:.1f} s")


def _lease_age() -> float:
    """Seconds since a leader renewed its Lease."""
    spec = get("leases", "-n", NAMESPACE)["items"][0]["spec"]
    renewed = datetime.fromisoformat(spec["renewTime"].replace("Z", "+00:00"))
    return (datetime.now(timezone.utc) - renewed).total_seconds()


@contextlib.contextmanager
def overloaded(space: Space) -> Iterator[None]:
    """One seat for all requests of the controller, occupied by another client.

    Who sits there waits for two webhooks that say nothing, one after the other, 30 s each. (A level
    without seats would let one request at a time pass.)
    """
    node = get("nodes")["items"][0]["status"]["addresses"][0]["address"]
    with socket.create_server((node, 0)) as silent, _applied(*_seat(space.name, silent)):
        words = ["kubectl", "create", "configmap", "held", "-n", space.name]
        holder = subprocess.Popen([*words, "--dry-run=server", "--as", SITTER])
        try:
            eventually(
                "the seat is taken",
                lambda: (
                    "too many requests"
                    in run(
                        *("kubectl", "get", "configmaps", "-n", space.name),
                        *("--as", SITTER, "--request-timeout=2s", "-v=6"),
                    ).both.lower()
                ),
            )
            yield
            assert holder.poll() is None, "the seat must be taken to the end"
        finally:
            holder.kill()
            holder.wait()


def _seat(namespace: str, silent: socket.socket) -> list[dict[str, Any]]:
    host, port = silent.getsockname()
    flow = "flowcontrol.apiserver.k8s.io/v1"
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
    who: list[dict[str, Any]] = [
        {
            "kind": "ServiceAccount",
            "serviceAccount": {"namespace": NAMESPACE, "name": "*"},
        },
        {"kind": "User", "user": {"name": SITTER}},
    ]
    limited = {
        "nominalConcurrencyShares": 0,
        "lendablePercent": 0,
        "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Reject"},
    }
    rules = [{**everything, "clusterScope": True, "namespaces": ["*"]}]
    webhook = {
        "name": "silent.example.com",
        "failurePolicy": "Ignore",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 30,
        "clientConfig": {"url": f"https://{host}:{port}/"},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "rules": [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "resources": ["configmaps"],
                "operations": ["CREATE"],
            }
        ],
    }
    binding = {
        "subjects": [{"kind": "User", "name": SITTER, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": "edit", "apiGroup": "rbac.authorization.k8s.io"},
    }
    return [
        _object(flow, "PriorityLevelConfiguration", spec={"type": "Limited", "limited": limited}),
        _object(
            flow,
            "FlowSchema",
            spec={
                "matchingPrecedence": 2,
                "priorityLevelConfiguration": {"name": SITTER},
                "rules": [{"subjects": who, "resourceRules": rules}],
            },
        ),
        _object("rbac.authorization.k8s.io/v1", "RoleBinding", namespace, **binding),
        *(
            _object("admissionregistration.k8s.io/v1", kind, webhooks=[webhook])
            for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
        ),
    ]


def _object(version: str, kind: str, namespace: str = "", **content: Any) -> dict[str, Any]:
    place = {"namespace": namespace} if namespace else {}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": SITTER, **place}, **content}


@contextlib.contextmanager
def _applied(*manifests: dict[str, Any]) -> Iterator[None]:
    text = yaml.safe_dump_all(manifests)
    try:
        kubectl("apply", "-f", "-", stdin=text)
        yield
    finally:
        kubectl("delete", "--ignore-not-found", "-f", "-", stdin=text)


def test_no_fault_leaves_a_trace(controller: str) -> None:
    """After all these tests there was no internal error, and all replicas are ready."""
    assert "internal error" not in logs()
    statuses = [s for pod in replicas() for s in pod["status"]["containerStatuses"]]
    assert len(statuses) == 2 and all(status["ready"] for status in statuses)
