"""Many exposures at one gateway, many at once: none gets what its Envoy has no files for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from budgets import RESERVED, Edge, watched
from conftest import Result, Space, dns_server, eventually, finish, get, kubectl, run
from gateways import gateway_manifests
from test_controller_faults import GROUND_RUN, SITTER, overloaded

Load = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def edge(space: Space) -> Iterator[Edge]:
    """A gateway in the test's namespace, which commands only find by name."""
    space.apply(*dns_server(), *gateway_manifests("edge", "edge"))
    yield Edge(space)
    assert space.plugin("delete", "--all").code == 0


def at_once(commands: list[Callable[[], Result]]) -> list[Result]:
    """Run commands in parallel, begun together."""
    results: list[Result] = [Result(-1, "", "")] * len(commands)
    start = threading.Barrier(len(commands))

    def go(number: int) -> None:
        start.wait()
        results[number] = commands[number]()

    threads = [threading.Thread(target=go, args=(number,)) for number in range(len(commands))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_three_runs_at_once_and_clients_on_all_granted_sessions(
    edge: Edge, port: int, load_pod: Load
) -> None:
    """Each requests half of the sessions: two get them. Then clients use all of them."""
    half = edge.budget() // 2
    flags = ("--max-sessions", str(half), "--idle-timeout", "60s")
    with watched(edge.space.name) as seen:
        results = at_once(
            [lambda n=n: edge.expose(f"race-{n}", port + n, *flags) for n in range(3)]  # type: ignore[misc]
        )
    codes = sorted(result.code for result in results)
    assert codes == [0, 0, 3], [result.both for result in results]
    (refused,) = [result for result in results if result.code == 3]
    assert "U108" in refused.err and "nothing was written" in refused.err
    assert seen.changes and seen.most <= edge.budget()
    won = edge.filters()
    assert sum(won.values()) == 2 * half and edge.reservations() == []
    # One after the other, from the same clients' ports; each session stays for 60 s.
    words = ("--queries", str(half), "--rate", "900")
    names = [f"race-{n}" for n, result in enumerate(results) if result.code == 0]
    counts = [finish(load_pod(*edge.address(name), *words)) for name in names]
    print(f"\n{len(names)} exposures of {half} sessions, filled: {counts}")
    assert edge.restarts() == 0
    assert all(count["answered"] > 0.9 * half for count in counts), counts


# Twenty runs ask one gateway pod at once, which takes both cores of a small machine.
@pytest.mark.alone
def test_twenty_runs_at_once(edge: Edge, port: int) -> None:
    """Each requests a ninth of the sessions: nine get them, never more; the others say why."""
    ninth = edge.budget() // 9
    with watched(edge.space.name) as seen:
        results = at_once(
            [
                lambda n=n: edge.expose(f"run-{n}", port + n, "--max-sessions", str(ninth))  # type: ignore[misc]
                for n in range(20)
            ]
        )
    assert sorted(r.code for r in results) == [0] * 9 + [3] * 11, [r.both for r in results]
    assert all("U108" in r.err and "nothing was written" in r.err for r in results if r.code)
    assert seen.most <= edge.budget()
    assert sorted(edge.filters().values()) == [ninth] * 9
    assert edge.reservations() == []
    services = get("services", "-n", edge.space.name)["items"]
    assert sum("udp-" in item["metadata"]["name"] for item in services) == 9


@pytest.mark.alone
def test_twenty_runs_for_one_name(edge: Edge, port: int) -> None:
    """One writes it; the others fail at once, or find it unchanged; it answers."""
    begun = time.monotonic()
    results = at_once([lambda: edge.expose("one", port)] * 20)
    print(f"\ntwenty of one name: {time.monotonic() - begun:.1f} s")
    wrote = [
        r
        for r in results
        if r.code == 0
        and "envoyfilter" in r.out
        and "udp-" in r.out
        and "envoyfilter.networking.istio.io" in r.out
        and "unchanged" not in r.out
    ]
    others = [r for r in results if r not in wrote]
    assert len(wrote) == 1, [r.both for r in results]
    for result in others:
        said = "another run" in result.err if result.code else "unchanged" in result.out
        assert said, result.both
    assert len(edge.filters()) == 1 and edge.reservations() == []
    verified = edge.space.verify("one")
    assert verified.code == 0, verified.both


def test_fifty_services_by_default_and_a_busy_one(edge: Edge, port: int, load_pod: Load) -> None:
    """Fifty exposures fit beside one that expects 200 new clients a second and loses none."""
    busy = edge.expose("busy", port, "--expect-rate", "200")
    assert busy.code == 0, busy.both
    sizes = []
    for number in range(1, 51):
        result = edge.expose(f"s{number}", port + number, "--no-wait", "--validate=none")
        assert result.code == 0, result.both
    sizes = sorted(edge.filters().values(), reverse=True)
    print(f"\nof {edge.budget()}: {sizes}")
    assert len(sizes) == 51 and sum(sizes) <= edge.budget() and sizes[-1] >= 100
    count = finish(load_pod(*edge.address("busy"), "--queries", "6000", "--rate", "200"))
    print(f"busy one: {count}")
    assert count["lost"] == 0, count
    wide = edge.space.plugin("get", "busy", "-o", "wide")
    assert f"{sum(sizes)} of {edge.budget()}" in wide.out, wide.both


@pytest.fixture
def declared(edge: Edge) -> Iterator[None]:
    """A controller beside the cluster, for the edge gateway alone."""
    words = ["kubectl", "istio-udp", "controller", "run", "-n", edge.space.name, "--allow-all"]
    words += ["--gateway-namespace", edge.space.name, "--file-limit", str(edge.budget() + RESERVED)]
    log = open(f"/tmp/controller-{edge.space.name}.log", "w")  # noqa: SIM115
    process = subprocess.Popen([*words, "--no-leader-elect", "--port", "0"], stderr=log)
    yield
    process.terminate()
    process.wait(20)
    log.close()
    os.unlink(log.name)


@pytest.mark.alone
def test_command_line_and_controller_at_once(edge: Edge, declared: None, port: int) -> None:
    """Ten by annotation and ten by `expose`, a ninth each: nine in total, never more."""
    ninth = edge.budget() // 9
    for number in range(10):
        service = f"declared-{number}"
        kubectl("create", "service", "clusterip", service, "-n", edge.space.name, "--tcp=9:9")
        patch = {
            "metadata": {"labels": {"part-of": "race"}},
            "spec": {"selector": {"app": "dns"}, "ports": [{"port": 53, "protocol": "UDP"}]},
        }
        kubectl(
            "patch",
            "service",
            service,
            "-n",
            edge.space.name,
            "--type=merge",
            "-p",
            json.dumps(patch),
        )
    with watched(edge.space.name) as seen:
        annotate = [
            lambda n=n: run(
                "kubectl", "annotate", "service", "-n", edge.space.name, f"declared-{n}",
                f"kubectl-istio-udp/expose={port + 50 + n}:53",
                f"kubectl-istio-udp/gateway={edge.ref}",
                f"kubectl-istio-udp/max-sessions={ninth}",
            )
            for n in range(10)
        ]  # fmt: skip
        typed = [
            lambda n=n: edge.expose(
                f"typed-{n}", port + n, "--max-sessions", str(ninth), "--no-wait"
            )
            for n in range(10)
        ]
        results = at_once([each for pair in zip(annotate, typed, strict=True) for each in pair])
        eventually("nine are there", lambda: len(edge.filters()) == 9, 60)
    assert seen.most <= edge.budget()
    eventually("no reservation is left", lambda: edge.reservations() == [])
    won = [r for r in results if "serverside-applied" in r.out]
    names = edge.filters()
    print(f"\nwon: {sorted(names)}")
    assert len(won) == sum("typed" in name for name in names)
    kubectl(
        "annotate",
        "services",
        "-n",
        edge.space.name,
        "-l",
        "part-of=race",
        "kubectl-istio-udp/expose-",
    )
    eventually(
        "the declared ones are gone", lambda: not any("declared" in n for n in edge.filters()), 60
    )


@pytest.mark.alone
@pytest.mark.skipif(not GROUND_RUN, reason="not in the project's own cluster")
def test_expose_retries_on_an_overloaded_api_server(edge: Edge, port: int) -> None:
    """The API server answers 429 with Retry-After for a while: nothing is rolled back."""
    binding = f"overloaded-{edge.space.name}"
    kubectl(
        "create", "clusterrolebinding", binding, "--clusterrole=cluster-admin", f"--user={SITTER}"
    )
    words = ["kubectl", "istio-udp", "expose", "dns", "-n", edge.space.name, "-p", f"{port}:53"]
    words += ["--gateway", edge.ref, "--as", SITTER]
    try:
        with overloaded(edge.space):
            expose = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            assert expose.stderr
            told = [expose.stderr.readline() for _ in range(3)]
        out, rest = expose.communicate(timeout=60)
    finally:
        kubectl("delete", "clusterrolebinding", binding)
    said = "".join(told) + rest
    print(f"\n{said.count('trying again')} requests were sent again")
    assert "too many requests" in said.lower() and re.search(r"trying again in \d+s", said), said
    assert expose.returncode == 0, said
    assert "taken back" not in said and "serverside-applied" in out
    verified = edge.space.verify("dns")
    assert verified.code == 0, verified.both
