"""`demo` as a process: it shows the whole job, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dns.message
import pytest
import yaml

from kubectl_istio_udp.envoy.dns_server import whoami
from kubectl_istio_udp.render.samples import istio_gateway
from tests.envoy.traffic import free_port
from tests.support.builders import GATEWAY_LABELS, pod, service, tcp, udp
from tests.unit.conftest import Run

COMMAND = [sys.executable, "-c", "from kubectl_istio_udp.cli.main import main; main()", "demo"]
MEANWHILE = re.compile(r"meanwhile (\d+) of (\d+) queries were answered")
SECONDS = 60


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The directory for the command's files; it must be empty afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def started(
    temporary: Path, *words: str, path: str | None = None, **more: Any
) -> Iterator[subprocess.Popen[Any]]:
    """The command in a separate process; killed if a test leaves it running."""
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    if path is not None:
        environment["PATH"] = path
    process = subprocess.Popen(
        [*COMMAND, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )
    # A reader that waits for a missing line sees the end of the output.
    limit = threading.Timer(SECONDS, process.kill)
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        process.kill()
        process.wait()


def ended(temporary: Path, *words: str, **more: Any) -> tuple[int, str, str]:
    """Run it until it ends: exit code, stdout, stderr. It must leave nothing behind."""
    with started(temporary, *words, **more) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert list(temporary.iterdir()) == []
    return process.returncode, out, err


def read_until(stream: Any, text: str) -> str:
    """Read lines up to one that has some text, and give that."""
    for line in stream:
        if text in line:
            return str(line)
    raise AssertionError(f"{text!r} did not come")


def children(pid: int) -> list[int]:
    return [
        int(word)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for word in path.read_text().split()
    ]


def wait_gone(pid: int) -> None:
    """Wait until a process is gone with all of its threads, and its sockets with it."""
    deadline = time.monotonic() + 10
    while any("(zombie)" not in status for status in statuses(pid)):
        assert time.monotonic() < deadline, f"process {pid} is left"
        time.sleep(0.01)


def statuses(pid: int) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        with suppress(OSError):
            yield path.read_text()


def assert_free(port: int, address: str = "127.0.0.1") -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, port))


def test_shows_the_whole_job_and_ends(temporary: Path) -> None:
    port = free_port()
    code, out, err = ended(temporary, "-p", f"{port}:53")
    assert code == 0, err
    envoy_filter = yaml.safe_load(out.partition("\nEnvoy 1.")[0])
    assert envoy_filter["kind"] == "EnvoyFilter"
    # The same words as on a cluster: addresses are as rendered, not as this machine has them.
    listener = envoy_filter["spec"]["configPatches"][1]["patch"]["value"]
    assert listener["address"]["socket_address"]["address"] == "0.0.0.0"
    assert out.count("coredns: every hop answered") == 2
    assert len(re.findall(rf"127\.0\.0\.1:{port} +gateway istio-ingressgateway-1 +yes", out)) == 2
    assert len(re.findall(r"127\.0\.0\.\d+:10053 +pod coredns-[12] +yes +NOERROR", out)) == 2
    said = MEANWHILE.search(out)
    assert said is not None
    answered, asked = map(int, said.groups())
    assert answered == asked >= 75
    assert "Traceback" not in err
    assert_free(port)


def test_works_without_dig(temporary: Path, tmp_path: Path) -> None:
    code, out, err = ended(temporary, "-p", f"{free_port()}:53", path=str(tmp_path))
    assert code == 0, err
    assert "A 127.0.0.1, SRV 0 0" in out


@pytest.mark.parametrize("word", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_keep_runs_until_it_is_told_to_end_and_leaves_nothing(temporary: Path, word: str) -> None:
    port = free_port()
    with started(temporary, "--keep", "-p", f"{port}:53") as process:
        line = read_until(process.stdout, "running until Ctrl-C")
        assert f"dig @127.0.0.1 -p {port} foo.bar.com A" in line
        (envoy,) = children(process.pid)
        assert len(list(temporary.iterdir())) == 1
        process.send_signal(getattr(signal, word))
        _, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, "Traceback" in err) == (0, False)
    wait_gone(envoy)
    assert list(temporary.iterdir()) == []
    assert_free(port)


def test_interrupted_half_way_leaves_nothing(temporary: Path) -> None:
    port = free_port()
    with started(temporary, "-p", f"{port}:53") as process:
        read_until(process.stdout, "has the listener")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, "Traceback" in err) == (130, False)
    assert list(temporary.iterdir()) == []
    assert_free(port)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_killed_leaves_no_envoy(temporary: Path) -> None:
    port = free_port()
    with started(temporary, "--keep", "-p", f"{port}:53") as process:
        read_until(process.stdout, "running until Ctrl-C")
        (envoy,) = children(process.pid)
    wait_gone(envoy)
    assert_free(port)


def test_output_that_nobody_reads_ends_it(temporary: Path) -> None:
    with started(temporary, "-p", f"{free_port()}:53") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        process.communicate(timeout=SECONDS)
        assert process.returncode != 0
    assert list(temporary.iterdir()) == []


def test_a_port_in_use_is_reported(temporary: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        code, _, err = ended(temporary, "-p", f"{port}:53")
    assert code == 3
    assert f"error: 127.0.0.1:{port}/UDP cannot be used: Address already in use" in err
    assert "-p GATEWAY_PORT:SERVICE_PORT" in err


def test_servers_pass_over_addresses_whose_ports_are_taken(temporary: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.2", 0))
        port = taken.getsockname()[1]
        path = tmp_path / "dns.yaml"
        path.write_text(yaml.safe_dump_all([service(ports=[udp(53, target=port)]), pod()]))
        code, out, err = ended(temporary, "-f", str(path), "-p", f"{free_port()}:53")
    assert code == 0, err
    assert f"pod coredns-1 is a DNS server at 127.0.0.3:{port}" in err
    assert "pod coredns-1 is replaced by coredns-2 at 127.0.0.4" in out


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_an_envoy_that_ends_is_reported_with_its_last_message(
    temporary: Path, tmp_path: Path, envoy: Path
) -> None:
    dying = script(
        tmp_path / "envoy",
        f'case "$*" in *validate*|*version*) exec {envoy} "$@" ;; esac\n'
        "echo there is no memory >&2; exit 1",
    )
    code, _, err = ended(temporary, "--envoy", dying, "-p", f"{free_port()}:53")
    assert (code, "error: Envoy ended: there is no memory" in err) == (3, True)


def test_a_program_that_is_not_envoy_is_reported(temporary: Path, tmp_path: Path) -> None:
    code, _, err = ended(temporary, "--envoy", shutil.which("true") or "true")
    assert (code, "does not run as Envoy" in err) == (3, True)
    code, _, err = ended(temporary, "--envoy", str(tmp_path / "nowhere"))
    assert (code, "does not exist" in err) == (2, True)
    (tmp_path / "text").write_text("no program")
    code, _, err = ended(temporary, "--envoy", str(tmp_path / "text"))
    assert (code, "may not be executed" in err) == (2, True)
    garbage = script(tmp_path / "garbage", "")
    Path(garbage).write_bytes(b"\x7fELF nonsense")
    code, _, err = ended(temporary, "--envoy", garbage)
    assert (code, "cannot run on this machine" in err) == (3, True)


def test_takes_service_pods_and_gateway_from_files(temporary: Path, tmp_path: Path) -> None:
    """Two replicas, a named port, a TCP port with the same number, a second Service."""
    front, back = free_port(), free_port()
    container = {
        "name": "dns",
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "radius", "containerPort": 1812, "protocol": "UDP"},
        ],
    }
    template = {"metadata": {"labels": {"app": "dns"}}, "spec": {"containers": [container]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "dns", "namespace": "lab"},
        "spec": {"replicas": 2, "template": template},
    }
    gateway, _ = istio_gateway()
    gateway["metadata"] |= {"name": "edge", "namespace": "edge", "labels": GATEWAY_LABELS}
    wanted = service(
        "dns",
        namespace="lab",
        ports=[udp(53, "udp-dns", "dns"), udp(1812, "udp-radius", 1812), tcp(1812, "tcp", 1812)],
        selector={"app": "dns"},
    )
    path = tmp_path / "lab.yaml"
    items = {"apiVersion": "v1", "kind": "List", "items": [wanted, gateway]}
    path.write_text(yaml.safe_dump_all([deployment, items, service("web", ports=[tcp()])]))
    code, out, err = ended(
        temporary, "-f", str(path), "-p", f"{front}:udp-dns", "-p", f"{back}:1812"
    )
    assert code == 0, err
    assert "service_name: outbound|1812||dns.lab.svc.cluster.local" in out
    assert "namespace: edge" in out
    for port in (front, back):
        assert len(re.findall(rf"127\.0\.0\.1:{port} +gateway edge +yes", out)) == 2
    for name in ("dns-1", "dns-2", "dns-3", "dns-4"):
        assert len(re.findall(rf":10053 +pod {name} +yes", out)) == 1
        assert len(re.findall(rf":1812 +pod {name} +yes", out)) == 1


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("", (), "the manifests have no Service with a UDP port"),
        ("kind: Service\nmetadata: {}\n", (), "this Service has no name"),
        ("{", (), "this is not YAML"),
        ("hello", (), "this is not a Kubernetes object"),
        (yaml.safe_dump(service("a")), (), "the manifests have no pod of Service a"),
        (
            yaml.safe_dump_all([service("a"), service("b")]),
            (),
            "the manifests have several Services",
        ),
        (yaml.safe_dump(service("a")), ("b",), "no Service b with a UDP port"),
        (yaml.safe_dump(service("a", ports=[tcp()])), (), "no Service with a UDP port"),
    ],
)
def test_manifests_that_do_not_do(
    run: Run,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    path = tmp_path / "manifests.yaml"
    path.write_text(text)
    done = run("demo", *words, "-f", str(path))
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert list(temporary.iterdir()) == []


def test_server_answers_queries_and_nothing_else() -> None:
    query = dns.message.make_query("foo.bar.com", "A")
    said = whoami(query.to_wire(), "192.0.2.1", 4711)
    assert said is not None
    answer = dns.message.from_wire(said)
    assert answer.id == query.id
    assert [str(record) for rrset in answer.additional for record in rrset] == [
        "192.0.2.1",
        "0 0 4711 .",
    ]
    assert whoami(answer.to_wire(), "192.0.2.1", 1) is None
    assert whoami(b"", "192.0.2.1", 1) is None
    assert whoami(b"hello", "192.0.2.1", 1) is None
