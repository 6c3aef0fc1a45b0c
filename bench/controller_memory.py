"""Measure the controller's memory beside tenants' large objects, for docs/measurements.md.

    make bench-memory ARGS='--services 5000 --kilobytes 260'

etcd's usual quota is 2 GB, and a test cluster cannot hold as much beside its own. So this serves
the lists itself, page by page and made as they are asked for, from a process of its own, and
measures the controller that lists them: Services with such annotations; Pods with such labels, or
with thousands of named ports; EndpointSlices of a thousand endpoints with random addresses;
ServiceEntries with our labels and such annotations, with many small endpoints, or with thousands
of hosts like ours; and a watch that brings the Services once more. Exits 1 where the bound does not
hold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Manifest = dict[str, Any]

# Half of the memory limit of the controller's pod (render/controller.py).
MEGABYTES = 128.0
METRICS_PORT = 18_081
NAMESPACE = "attack"


class Made:
    """The objects of each kind, by number."""

    def __init__(self, count: int, kilobytes: int) -> None:
        self.count, self.text = count, "x" * (1000 * kilobytes)

    def size(self, plural: str) -> int:
        if plural == "namespaces":
            return 1
        return self.count if hasattr(self, plural) else 0

    def one(self, plural: str, number: int) -> Manifest:
        made: Manifest = getattr(self, plural)(number)
        return made

    def _about(self, number: int, **more: Any) -> Manifest:
        return {
            "name": f"big-{number}",
            "namespace": NAMESPACE,
            "uid": f"u{number}",
            "resourceVersion": str(number + 1),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **more,
        }

    def namespaces(self, number: int) -> Manifest:
        return {"metadata": {"name": NAMESPACE, "uid": "n", "resourceVersion": "1"}}

    def services(self, number: int) -> Manifest:
        notes = {"note": self.text}
        if number % 2:
            notes |= {"kubectl-istio-udp/expose": "all", "kubectl-istio-udp/x": self.text[:90_000]}
        ports = [{"name": f"p{n}", "port": n + 1, "protocol": "UDP"} for n in range(100)]
        about = self._about(number, annotations=notes)
        return {"metadata": about, "spec": {"clusterIP": "None", "ports": ports}}

    def pods(self, number: int) -> Manifest:
        labels = {f"label-{number}-{n}": self.text[:63] for n in range(500)}
        if number % 2:
            labels = {f"label-{number}-{n}": f"value-{number}-{n}" for n in range(60)}
        about = self._about(number, labels=labels, annotations={"note": self.text})
        containers = [
            {"name": f"c{c}", "ports": [_port(f"{number % 99}-{c}-{n}", n + 1) for n in range(60)]}
            for c in range(40 * (number % 2))
        ]
        return {"metadata": about, "spec": {"containers": containers or [{"name": "c"}]}}

    def endpointslices(self, number: int) -> Manifest:
        about = self._about(number, labels={"kubernetes.io/service-name": f"big-{number}"})
        endpoints: list[Manifest] = [{"addresses": [each]} for each in _addresses(number)]
        if number % 10 == 0:
            about["annotations"] = {"note": self.text}
            for n, each in enumerate(endpoints):
                each["targetRef"] = {"kind": "Pod", "name": 4 * _digest(f"{number} {n}")}
        ports = [{"name": "p0", "port": 53, "protocol": "UDP"}]
        return {"metadata": about, "addressType": "IPv6", "ports": ports, "endpoints": endpoints}

    def serviceentries(self, number: int) -> Manifest:
        labels = {
            "app.kubernetes.io/managed-by": "kubectl-istio-udp",
            "kubectl-istio-udp/namespace": NAMESPACE,
            "kubectl-istio-udp/exposure": f"big-{number}",
        }
        notes = {"kubectl-istio-udp/spec": self.text}
        about = self._about(number, labels=labels, annotations=notes)
        about["name"] = f"udp-{NAMESPACE}-big-{number}"
        spec: Manifest = {"hosts": ["x.example"], "location": self.text}
        if number % 4 == 0:
            # As long as one may be that is kept.
            notes["kubectl-istio-udp/spec"] = "".join(_digest(f"{number} {n}") for n in range(125))
            endpoint = {"address": "192.0.2.1"}
            labels_of = [{_digest(f"{number} {n}")[:4]: ""} for n in range(150)]
            spec = {
                "hosts": ["x.example"],
                "endpoints": [endpoint | {"labels": of} for of in labels_of],
            }
        if number % 2:
            hosts = [f"{_digest(f'{number} {n}')}.kubectl-istio-udp.internal" for n in range(2000)]
            spec = {"hosts": hosts, "exportTo": [f"namespace-{n}" for n in range(2000)]}
        return {"metadata": about, "spec": spec}


def _addresses(number: int) -> list[str]:
    """1,000 IPv6 addresses that do not compress."""
    text = random.Random(number).randbytes(16_000).hex()
    groups = [text[at : at + 4] for at in range(0, len(text), 4)]
    return [":".join(groups[at : at + 8]) for at in range(0, len(groups), 8)]


def _digest(text: str) -> str:
    """Text that does not compress, the same for the same text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _port(name: str, number: int) -> Manifest:
    return {"name": name, "containerPort": number, "protocol": "UDP"}


def handler(made: Made) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - a class inside
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            target = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(target.query).items()}
            plural = target.path.rpartition("/")[2]
            chunks = self.watch(plural) if "watch" in query else self.list(plural, query)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for chunk in chunks:
                    data = chunk.encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.write(b"0\r\n\r\n")
            except ConnectionError:
                self.close_connection = True

        def do_PATCH(self) -> None:
            """Events and whatever else: taken as they are."""
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body["metadata"]["resourceVersion"] = "999999"
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def list(self, plural: str, query: dict[str, str]) -> Iterator[str]:
            first, limit = int(query.get("continue") or 0), int(query.get("limit") or 10**9)
            last = min(first + limit, made.size(plural))
            about = {"resourceVersion": "900000"}
            if last < made.size(plural):
                about["continue"] = str(last)
            yield f'{{"kind": "List", "apiVersion": "v1", "metadata": {json.dumps(about)}, '
            yield '"items": ['
            for number in range(first, last):
                yield json.dumps(made.one(plural, number)) + ("," if number + 1 < last else "")
            yield "]}"

        def watch(self, plural: str) -> Iterator[str]:
            """Each Service once more, then nothing."""
            for number in range(made.size(plural) if plural == "services" else 0):
                manifest = {"kind": "Service", "apiVersion": "v1", **made.one(plural, number)}
                manifest["metadata"]["resourceVersion"] = str(910_000 + number)
                yield json.dumps({"type": "MODIFIED", "object": manifest}) + "\n"
            time.sleep(3600)

    return Handler


def serve(count: int, kilobytes: int) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(Made(count, kilobytes)))
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


def megabytes(pid: int, what: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(what))


def looks() -> float:
    """The number of reconciliations."""
    with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = [x for x in lines if x.startswith("kubectl_istio_udp_reconciles_total")]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def settled(seconds: float) -> bool:
    """Whether the controller is ready and has done what the watches brought."""
    end, before = time.monotonic() + seconds, -100.0
    while time.monotonic() < end:
        time.sleep(5)
        try:
            now = looks()
        except OSError:
            continue
        # Those that wait for their namespace's turn to be told are looked at again, one in 2 s.
        if now and now - before < 10:
            return True
        before = now
    return False


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--services", type=int, default=5000)
    parser.add_argument("--kilobytes", type=int, default=260)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--serve", action="store_true")
    wanted = parser.parse_args()
    if wanted.serve:
        serve(wanted.services, wanted.kilobytes)
    words = ["--serve", "--services", str(wanted.services), "--kilobytes", str(wanted.kilobytes)]
    server = subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(config, file)
        file.flush()
        words = [sys.executable, "-c", "from kubectl_istio_udp.cli.main import main; main()"]
        words += [
            "controller",
            "run",
            "--gateway-api",
            "--no-leader-elect",
            "--kubeconfig",
            file.name,
        ]
        words += ["--port", str(METRICS_PORT), "--log-level", "error"]
        controller = subprocess.Popen(words)
        try:
            begun = time.monotonic()
            done = settled(wanted.seconds)
            result = {
                "services": wanted.services,
                "kilobytes_each": wanted.kilobytes,
                "settled": done,
                "seconds": round(time.monotonic() - begun, 1),
                "looks": looks(),
                "peak_mb": round(megabytes(controller.pid, "VmHWM"), 1),
                "resident_mb": round(megabytes(controller.pid, "VmRSS"), 1),
                "bound_mb": MEGABYTES,
            }
        finally:
            controller.terminate()
            controller.wait(30)
            server.terminate()
    print(json.dumps(result, indent=2))
    return 0 if done and result["peak_mb"] < MEGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
