"""Measure the controller under load on a real API server, for docs/measurements.md.

    make bench ARGS='--services 1000 --rate 100 --seconds 60'
    make bench ARGS='--routes --services 500 --pods 5000'

Makes Services with hand-made EndpointSlices and (as plain objects that no kubelet runs) their pods,
starts a controller as a process, and times: until everything is exposed; from the write of an
EndpointSlice to that of its ServiceEntry, and to the gateway's own Envoy; memory, CPU, requests. At
last it takes everything away again. Exits 1 where a bound does not hold.

With `--routes` Gateways and UDPRoutes expose the Services, instead of annotations. Then it also
times from the write of a UDPRoute to that of its status.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import urllib3

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.kubeconfig import ConnectionOptions
from kubectl_istio_udp.kube.watch import Cache
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gatewayapi import CONTROLLER_NAME
from kubectl_istio_udp.model.names import label_selector
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.ownership import readable

Manifest = dict[str, Any]

ENDPOINTS, SESSIONS = 10, 50
ADDRESSES = "11.0.0.0/8"
FIRST_PORT = 20_000
GATEWAY_NAMESPACE = "istio-system"
MANAGER = "bench"
# kube-proxy leaves such Services alone. It has a node's cores elsewhere, and would take these.
UNPROXIED = {"service.kubernetes.io/service-proxy-name": "none"}
METRICS_PORT = 18_080
ADMIN_PORT = 18_000
LISTENERS = 25  # of each Gateway
ROUTE_CHANGES_PER_SECOND = 5.0
# The goals.
P99_SECONDS, MEGABYTES, REQUESTS_A_CHANGE = 1.0, 200.0, 2.0
SAMPLE_SECONDS = 0.5
POLL_SECONDS = 0.2
QUIET_SECONDS = 5.0


def address(service: int, endpoint: int, round_: int = 0) -> str:
    """An address that no other endpoint of the run has, at any time."""
    number = (round_ * 1_000_000 + service * 100 + endpoint) % 2**24
    return f"11.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def plain_service(namespace: str, number: int) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"s{number}", "namespace": namespace, "labels": UNPROXIED},
        "spec": {"ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
    }


def gateway_class(namespace: str) -> Manifest:
    """A class of the run's own, so that it can be deleted afterwards."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": namespace},
        "spec": {"controllerName": CONTROLLER_NAME},
    }


def gateway(namespace: str, number: int, services: int) -> Manifest:
    """A Gateway at the cluster's ingress gateway, with a listener for each of some Services."""
    notes = {
        "gateway": f"{GATEWAY_NAMESPACE}/istio-ingressgateway",
        "max-sessions": str(SESSIONS),
        "gateway-service": "none",
    }
    numbers = range(number * LISTENERS, min(services, (number + 1) * LISTENERS))
    ports = [{"name": f"s{n}", "port": FIRST_PORT + n, "protocol": "UDP"} for n in numbers]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {
            "name": f"g{number}",
            "namespace": namespace,
            "annotations": {f"kubectl-istio-udp/{key}": value for key, value in notes.items()},
        },
        "spec": {"gatewayClassName": namespace, "listeners": ports},
    }


def route(namespace: str, number: int, weight: int = 1) -> Manifest:
    parent = {"name": f"g{number // LISTENERS}", "sectionName": f"s{number}"}
    backend = {"name": f"s{number}", "port": 53, "weight": weight}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "UDPRoute",
        "metadata": {"name": f"s{number}", "namespace": namespace},
        "spec": {"parentRefs": [parent], "rules": [{"backendRefs": [backend]}]},
    }


def service(namespace: str, number: int) -> Manifest:
    notes = {
        "expose": f"{FIRST_PORT + number}:53",
        "discovery": "endpoints",
        "max-sessions": str(SESSIONS),
        # A Service of its own for each would time kube-proxy and load balancers, not this.
        "gateway-service": "none",
    }
    made = plain_service(namespace, number)
    annotations = {f"kubectl-istio-udp/{key}": value for key, value in notes.items()}
    return {**made, "metadata": {**made["metadata"], "annotations": annotations}}


def slice_(namespace: str, number: int, changed: str = "") -> Manifest:
    addresses = [address(number, endpoint) for endpoint in range(ENDPOINTS)]
    if changed:
        addresses[0] = changed
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"s{number}",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": f"s{number}", **UNPROXIED},
        },
        "addressType": "IPv4",
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
    }


def pod(namespace: str, number: int, endpoint: int) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"s{number}-{endpoint}",
            "namespace": namespace,
            "labels": {"app": f"s{number}", "pod-template-hash": "5c4d", "version": "v1"},
        },
        "spec": {
            "schedulerName": "nobody",
            "containers": [
                {
                    "name": "dns",
                    "image": "coredns/coredns",
                    "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}],
                }
            ],
        },
    }


def in_bulk(work: Callable[[Any], object], items: Iterable[Any]) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(work, items):
            pass


def count(api: Api, kind: str, namespace: str) -> int:
    """The number of the plugin's objects of a kind."""
    return len(api.list(kind, namespace, label_selector()))


def all_exist(api: Api, kind: str, number: int) -> bool:
    """Whether the gateway has this many of the plugin's objects of a kind."""
    return count(api, kind, GATEWAY_NAMESPACE) == number


@contextlib.contextmanager
def controller(*, routes: bool) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-c", "from kubectl_istio_udp.cli.main import main; main()"]
    words += ["controller", "run", "--no-leader-elect", "--file-limit", "1048576"]
    words += ["--port", str(METRICS_PORT), "--log-level", "warning"]
    words += ["--gateway-api"] if routes else []
    process = subprocess.Popen(words)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


class Usage:
    """The resources that a process has used, and the controller's own metrics."""

    def __init__(self, pid: int) -> None:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
        self.cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        self.peak = next(int(x.split()[1]) / 1024 for x in status.splitlines() if "VmHWM" in x)
        url = f"http://127.0.0.1:{METRICS_PORT}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        written = [x for x in lines if x.startswith("kubectl_istio_udp_writes_total")]
        self.writes = sum(float(x.rpartition(" ")[2]) for x in written)


class Arrivals:
    """When each changed address was first seen, in a ServiceEntry and in Envoy."""

    def __init__(self, api: Api) -> None:
        self.sent: dict[str, float] = {}
        self.entry: dict[str, float] = {}
        self.envoy: dict[str, float] = {}
        # Sampled addresses that Envoy has not shown yet, and whose cluster they belong to.
        self.lacking: dict[str, str] = {}
        self.last = 0.0
        self.cache: Cache[tuple[str, ...]] = Cache(
            api,
            "ServiceEntry",
            namespace=GATEWAY_NAMESPACE,
            keep=self._addresses,
            changed=self._changed,
        )

    def _addresses(self, manifest: Any) -> tuple[str, ...]:
        return tuple(e["address"] for e in manifest["spec"].get("endpoints") or ())

    def _changed(self, key: Any, before: Any, now: tuple[str, ...] | None) -> None:
        seen = time.monotonic()
        for each in now or ():
            if each in self.sent:
                self.entry.setdefault(each, seen)

    def watch_envoy(self, ended: threading.Event) -> None:
        """Ask the gateway's Envoy for the clusters that lack a sampled address, until none does.

        By one connection and not too often: it leads through the API server, which is timed here.
        """
        pool = urllib3.HTTPConnectionPool("127.0.0.1", ADMIN_PORT, maxsize=1)
        while not ended.is_set() or self.lacking:
            lacking = dict(self.lacking)
            if lacking:
                pattern = "|".join(sorted(set(lacking.values())))
                path = f"/clusters?filter=^({pattern})$"
                with contextlib.suppress(urllib3.exceptions.HTTPError):
                    text = pool.request("GET", path, timeout=5).data.decode()
                    for changed in [a for a in lacking if f"::{a}:" in text]:
                        self.envoy[changed] = time.monotonic()
                        del self.lacking[changed]
            time.sleep(POLL_SECONDS)
            if ended.is_set() and time.monotonic() > self.last + 30:
                return


def clusters(api: Api, namespace: str) -> dict[str, str]:
    """The name of each Service's cluster in the gateway's Envoy, by the name of the Service."""
    found = {}
    for manifest in api.list("EnvoyFilter", GATEWAY_NAMESPACE, label_selector()):
        spec = readable(manifest, ExposureSpec)
        if spec is None or spec.namespace != namespace:
            continue
        for port in spec.ports:
            for backend in port.backends:
                name = backend.service[1] if backend.service else spec.service
                found[name] = spec.cluster_name(port, backend)
    return found


def change(
    api: Api, arrivals: Arrivals, namespace: str, services: int, rate: float, seconds: float
) -> None:
    """Change an endpoint of one Service after the other, at a steady rate."""
    cluster_of = clusters(api, namespace)
    begun = time.monotonic()
    sampled = begun
    ended = threading.Event()
    watcher = threading.Thread(target=arrivals.watch_envoy, args=(ended,))
    watcher.start()

    def one(number: int, sample: bool) -> None:
        target = number % services
        changed = address(target, 50, 1 + number // services)
        arrivals.sent[changed] = time.monotonic()
        if sample:
            arrivals.lacking[changed] = cluster_of[f"s{target}"]
        api.update(slice_(namespace, target, changed), manager=MANAGER)

    with ThreadPoolExecutor(8) as pool:
        for number in range(int(rate * seconds)):
            due = begun + number / rate
            time.sleep(max(0.0, due - time.monotonic()))
            sample = due - sampled >= SAMPLE_SECONDS
            sampled = due if sample else sampled
            pool.submit(one, number, sample)
    arrivals.last = time.monotonic()
    ended.set()
    watcher.join()
    # The last change of each Service, if not all before it: one write may carry several.
    last = {number % services: number for number in range(int(rate * seconds))}
    addresses = [address(t, 50, 1 + n // services) for t, n in last.items()]
    wait_until("all ServiceEntries", lambda: all(a in arrivals.entry for a in addresses), 30)


class Statuses:
    """When the status of each changed UDPRoute was first seen."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.sent: dict[str, float] = {}
        self.seen: dict[str, float] = {}
        self.cache: Cache[bool] = Cache(api, "UDPRoute", keep=self._keep, changed=self._ignore)

    def _keep(self, manifest: Any) -> bool:
        seen = time.monotonic()
        parents = (manifest.get("status") or {}).get("parents") or ()
        found = [c["observedGeneration"] for parent in parents for c in parent["conditions"]]
        generation = manifest["metadata"]["generation"]
        if found and min(found) == generation:
            self.seen.setdefault(f"{manifest['metadata']['name']} {generation}", seen)
        return True

    def _ignore(self, key: Any, before: Any, now: Any) -> None:
        pass

    def change(self, namespace: str, routes: int, seconds: float) -> None:
        """Change the weight of a route's only backend, one route after the other."""
        count = min(routes, int(ROUTE_CHANGES_PER_SECOND * seconds))
        begun = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begun + number / ROUTE_CHANGES_PER_SECOND - time.monotonic()))
            sent = time.monotonic()
            made = self._api.merge(route(namespace, number, weight=2), manager=MANAGER)
            self.sent[f"s{number} {made['metadata']['generation']}"] = sent
        wait_until("every status", lambda: self.sent.keys() <= self.seen.keys(), 60)


def wait_until(what: str, check: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            print(f"not within {seconds:g}s: {what}", file=sys.stderr)
            return
        time.sleep(0.5)


def percentiles(seen: dict[str, float], sent: dict[str, float]) -> dict[str, float]:
    """Milliseconds from sending a change until it is seen."""
    seen = {each: when for each, when in seen.items() if each in sent}
    found = sorted(1000 * (when - sent[each]) for each, when in seen.items()) or [float("nan")]
    return {
        "n": len(seen),
        "p50_ms": round(found[len(found) // 2], 1),
        "p99_ms": round(found[len(found) * 99 // 100], 1),
        "max_ms": round(found[-1], 1),
    }


@contextlib.contextmanager
def roomy_gateway(megabytes: int) -> Iterator[None]:
    """Raise the memory limit of the gateway's pods, and restore it afterwards."""
    gateway = ["-n", GATEWAY_NAMESPACE, "deploy/istio-ingressgateway"]
    path = "{.spec.template.spec.containers[?(@.name=='istio-proxy')].resources.limits.memory}"
    before = kubectl("get", *gateway, "-o", f"jsonpath={path}")

    def limit(memory: str) -> None:
        kubectl("set", "resources", *gateway, "-c", "istio-proxy", f"--limits=memory={memory}")
        kubectl("rollout", "status", *gateway, "--timeout=120s")

    limit(f"{megabytes}M")
    try:
        yield
    finally:
        limit(before)


def kubectl(*words: str) -> str:
    done = subprocess.run(["kubectl", *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def allocated() -> int:
    """The bytes that the gateway's Envoy has allocated."""
    return int(json.loads(asked("memory"))["allocated"])


def asked(path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN_PORT}/{path}", timeout=30) as answer:
        found: bytes = answer.read()
        return found


class Quiet:
    """Whether istiod has given all ServiceEntries an address of their own, or does not do so.

    It does it by and by: with two requests each, one of them refused.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._versions: set[str] = set()

    def __call__(self) -> bool:
        time.sleep(QUIET_SECONDS)
        before = self._versions
        found = self._api.list("ServiceEntry", GATEWAY_NAMESPACE)
        self._versions = {each["metadata"]["resourceVersion"] for each in found}
        addressed = {bool(each.get("status")) for each in found}
        return before == self._versions and len(addressed) == 1


def reachable(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def listeners() -> int:
    """The number of Envoy's listeners."""
    return len(asked("listeners").splitlines())


@contextlib.contextmanager
def admin(api: Api) -> Iterator[str]:
    """The gateway's Envoy's own interface, at a port of this machine's; the gateway pod's name."""
    pods = api.list("Pod", GATEWAY_NAMESPACE, "istio=ingressgateway")
    names = [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    words = ["kubectl", "port-forward", "-n", GATEWAY_NAMESPACE, names[0]]
    process = subprocess.Popen([*words, f"{ADMIN_PORT}:15000"], stdout=subprocess.DEVNULL)
    try:
        wait_until("the way to Envoy", lambda: reachable(ADMIN_PORT), 30)
        yield names[0]
    finally:
        process.terminate()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--idle", type=float, default=30.0)
    parser.add_argument("--gateway-megabytes", type=int, default=4000)
    parser.add_argument("--routes", action="store_true", help="expose by UDPRoutes")
    wanted = parser.parse_args()
    api = Api.connect(ConnectionOptions(kubeconfig=os.environ.get("KUBECONFIG")))
    namespace = f"bench{secrets.token_hex(3)}"
    allowed = {
        "allow": f"{FIRST_PORT}-{FIRST_PORT + wanted.services}",
        "allow-total-ports": str(wanted.services),
        "allow-total-sessions": str(wanted.services * SESSIONS),
        # No pod runs here.
        "allow-endpoints": ADDRESSES,
    }
    space = {"apiVersion": "v1", "kind": "Namespace"}
    notes = {f"kubectl-istio-udp/{key}": value for key, value in allowed.items()}
    metadata = {"name": namespace, "annotations": notes}
    api.create({**space, "metadata": metadata}, manager=MANAGER)
    try:
        with roomy_gateway(wanted.gateway_megabytes):
            result = bench(api, namespace, wanted)
        print(json.dumps(result, indent=2), flush=True)
    finally:
        api.delete({"kind": "Namespace", "metadata": {"name": namespace}})
        with controller(routes=wanted.routes):
            for kind in ("EnvoyFilter", "ServiceEntry"):
                wait_until(f"no {kind}", partial(all_exist, api, kind, 0), 300)
        if wanted.routes:
            api.delete({"kind": "GatewayClass", "metadata": {"name": namespace}})
    bounds = (
        result["to_service_entry"]["p99_ms"] < P99_SECONDS * 1000,
        result["peak_mb"] < MEGABYTES,
        result["requests_a_change"] <= REQUESTS_A_CHANGE,
        result["idle_writes"] == 0,
        result["gateway_udp_mb"] <= result["gateway_udp_mb_at_most"],
        # Where changes come faster than writes, one write carries several.
        result["to_service_entry"]["n"] >= result["changes"] * result["requests_a_change"],
    )
    return 0 if all(bounds) else 1


def bench(api: Api, namespace: str, wanted: argparse.Namespace) -> dict[str, Any]:
    numbers = range(wanted.services)
    create = partial(api.create, manager=MANAGER)
    if wanted.routes:
        gateways = range(-(-wanted.services // LISTENERS))
        create(gateway_class(namespace))
        in_bulk(create, (plain_service(namespace, n) for n in numbers))
        in_bulk(create, (gateway(namespace, n, wanted.services) for n in gateways))
        in_bulk(create, (route(namespace, n) for n in numbers))
    else:
        in_bulk(create, (service(namespace, n) for n in numbers))
    in_bulk(create, (slice_(namespace, n) for n in numbers))
    pods = (pod(namespace, n % wanted.services, n // wanted.services) for n in range(wanted.pods))
    in_bulk(create, pods)
    with admin(api) as gateway_pod:
        return measure(api, namespace, gateway_pod, wanted)


def measure(
    api: Api, namespace: str, gateway_pod: str, wanted: argparse.Namespace
) -> dict[str, Any]:
    empty = allocated()
    begun = time.monotonic()
    exposures = -(-wanted.services // LISTENERS) if wanted.routes else wanted.services
    with controller(routes=wanted.routes) as process:
        for kind, expected in (("ServiceEntry", wanted.services), ("EnvoyFilter", exposures)):
            there = partial(all_exist, api, kind, expected)
            wait_until(f"every {kind}", there, 300)
        startup = time.monotonic() - begun
        started = Usage(process.pid)
        arrivals = Arrivals(api)
        arrivals.cache.start()
        arrivals.cache.wait_synced(30)
        # Wait until istiod and Envoy have everything; otherwise their start would be measured.
        wait_until("all in Envoy", lambda: listeners() >= wanted.services, 120)
        wait_until("istiod's own writes", Quiet(api), 300)
        _, size = proxies.listeners_and_size(api, GATEWAY_NAMESPACE, gateway_pod)
        assert size is not None, "Envoy has no stats"
        most, full = size.udp_bytes(wanted.services), allocated()
        before = Usage(process.pid)
        change(api, arrivals, namespace, wanted.services, wanted.rate, wanted.seconds)
        after = Usage(process.pid)
        arrivals.cache.stop()
        time.sleep(2)
        quiet = Usage(process.pid)
        time.sleep(wanted.idle)
        idle = Usage(process.pid)
        changes = len(arrivals.sent)
        result = {
            "services": wanted.services,
            "pods": wanted.pods,
            "startup_s": round(startup, 1),
            "startup_cpu_s": round(started.cpu, 1),
            "startup_writes": started.writes,
            "changes": changes,
            "to_service_entry": percentiles(arrivals.entry, arrivals.sent),
            "to_envoy": percentiles(arrivals.envoy, arrivals.sent),
            "requests_a_change": round((after.writes - before.writes) / changes, 3),
            "cpu_of_a_core": round((after.cpu - before.cpu) / wanted.seconds, 3),
            "gateway_udp_mb": round((full - empty) / 1e6),
            "gateway_udp_mb_at_most": round(most / 1e6),
            "peak_mb": round(idle.peak, 1),
            "idle_writes": idle.writes - quiet.writes,
            "idle_cpu_s": round(idle.cpu - quiet.cpu, 2),
        }
        if wanted.routes:
            statuses = Statuses(api)
            statuses.cache.start()
            statuses.cache.wait_synced(30)
            before = Usage(process.pid)
            statuses.change(namespace, wanted.services, wanted.seconds)
            statuses.cache.stop()
            writes = Usage(process.pid).writes - before.writes
            result["to_route_status"] = percentiles(statuses.seen, statuses.sent)
            result["requests_a_route_change"] = round(writes / len(statuses.sent), 3)
        return result


if __name__ == "__main__":
    sys.exit(main())
