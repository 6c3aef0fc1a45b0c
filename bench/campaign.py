"""Tenants attack a shared gateway for an hour, while a victim among them is queried.

    make campaign ARGS='--seconds 3600'

Runs the controller as a process. Three tenants, with the rights of a team in its namespace, write
random Services, EndpointSlices, ServiceEntries, WorkloadEntries and annotations (hypothesis
strategies; --seed makes them again), while a victim answers 100 queries a second. Exits 1 where the
controller ended, lost a thread or took too much memory, where an answer was lost, or where the
gateway's Envoy had an endpoint that is not a pod of the exposure's own namespace.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from kubectl_istio_udp.model.names import object_name
from tests.cluster.conftest import dns_server, start_load_pod
from tests.support.forged import documents
from tests.support.rights import rights

Manifest = dict[str, Any]

GATEWAY_NAMESPACE = "istio-system"
GATEWAY_LABEL = "istio=ingressgateway"
PREFIX = "kubectl-istio-udp/"
VICTIM_PORT, FIRST_PORT, PORTS_EACH = 29_000, 30_000, 100
METRICS_PORT = 18_081
QUERIES_PER_SECOND = 100
# Each query has a source port of its own, and load.py has 45,000 of them.
LOAD_SECONDS = 300
MEGABYTES = 300.0
LOOK_SECONDS = 10.0
# A pod that has gone may be an endpoint until the controller and istiod have heard of it.
GONE_SECONDS = 30.0
NAMES = [f"s{number}" for number in range(6)]
LOAD = Path(__file__).parents[1] / "tests/cluster/load.py"


def kubectl(*words: str, stdin: str | None = None, ok: bool = True) -> str:
    done = subprocess.run(
        ["kubectl", *words], input=stdin, capture_output=True, text=True, timeout=120, check=False
    )
    if ok and done.returncode:
        raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def listed(*words: str) -> list[Manifest]:
    return list(json.loads(kubectl("get", *words, "-o", "json"))["items"])


# -- what tenants write ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Prey:
    """What a tenant may know of the cluster and attack.

    Attributes:
        addresses: the victim's pods, the gateway, the API server, the node, and worse.
        spec: the spec annotation of the victim's exposure.
        victim: its namespace.
    """

    addresses: list[str]
    spec: str
    victim: str


def attacks(prey: Prey, tenant: str, first_port: int) -> st.SearchStrategy[Manifest]:
    """An object that a tenant writes into its namespace."""
    name = st.sampled_from(NAMES)
    address = st.sampled_from(prey.addresses)
    port = st.integers(first_port, first_port + PORTS_EACH - 1)
    value = st.one_of(
        *[st.builds("{}:53".format, port)] * 8,
        port.map(str),
        st.builds("{},{}:53".format, port, port),
        st.sampled_from(["all", "", "53", f"{VICTIM_PORT}:53", "0", "1-65535", "x" * 5000]),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    )
    notes = st.fixed_dictionaries(
        {f"{PREFIX}expose": value},
        optional={
            f"{PREFIX}discovery": mostly(["selector", "endpoints", "auto"], "static", "dns", "x"),
            f"{PREFIX}max-sessions": mostly(["1", "50", "100"], "1000000", "-1", "many"),
            f"{PREFIX}gateway-service": mostly(["companion", "none"], "patch", "x"),
            f"{PREFIX}affinity": mostly(["none", "source-ip"], "x"),
            f"{PREFIX}gateway": mostly(["istio-ingressgateway"], "none", "a/b"),
            f"{PREFIX}spec": documents(prey.spec).filter(_is_utf8),
            "note": st.integers(0, 60_000).map(lambda size: "x" * size),
        },
    )
    service_port = st.fixed_dictionaries(
        {
            "port": mostly([53], 54, 5353),
            "protocol": mostly(["UDP"], "TCP"),
            "targetPort": mostly([53], 5353, "dns-53"),
        }
    )
    ports = st.lists(
        service_port, min_size=1, max_size=3, unique_by=lambda p: (p["port"], p["protocol"])
    ).map(lambda found: [{"name": f"p{i}", **p} for i, p in enumerate(found)])
    selector = mostly([{"app": "dns"}], {"app": "none"}, {})
    services = st.builds(
        lambda name, notes, ports, selector, kind: {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "annotations": notes},
            "spec": {"ports": ports, "selector": selector or None, **kind},
        },
        name,
        notes,
        ports,
        selector,
        mostly(
            [{}],
            {"clusterIP": "None"},
            {"type": "ExternalName", "externalName": "kubernetes.default.svc"},
            {"publishNotReadyAddresses": True},
        ),
    )
    slices = st.builds(
        lambda name, of, addresses, number: {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-by-hand", "labels": {"kubernetes.io/service-name": of}},
            "addressType": "IPv4",
            "ports": [{"name": f"p{i}", "port": number, "protocol": "UDP"} for i in range(3)],
            "endpoints": [{"addresses": [each]} for each in addresses],
        },
        name,
        name,
        st.lists(address, max_size=4, unique=True),
        st.sampled_from([53, 443, 6443, 15021]),
    )
    hosts = st.one_of(
        st.builds(f"{{}}.{tenant}.kubectl-istio-udp.internal".format, name),
        st.just(f"dns.{prey.victim}.kubectl-istio-udp.internal"),
        st.just(f"dns.{prey.victim}.svc.cluster.local"),
    )
    owners = st.sampled_from([(tenant, each) for each in NAMES] + [(prey.victim, "dns")])

    def entry(
        owner: tuple[str, str], marked: bool, host: str, note: str, to: str, addresses: list[str]
    ) -> Manifest:
        labels = {
            "app.kubernetes.io/managed-by": "kubectl-istio-udp",
            f"{PREFIX}namespace": owner[0],
            f"{PREFIX}exposure": owner[1],
            f"{PREFIX}source": "controller",
        }
        return {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {
                "name": object_name(*owner),
                "labels": labels if marked else {},
                "annotations": {f"{PREFIX}spec": note},
            },
            "spec": {
                "hosts": [host],
                "exportTo": [to],
                "location": "MESH_INTERNAL",
                "resolution": "STATIC",
                "ports": [{"name": "port-53", "number": 53, "protocol": "TCP"}],
                "endpoints": [{"address": each} for each in addresses],
            },
        }

    entries = st.builds(
        entry,
        owners,
        st.booleans(),
        hosts,
        documents(prey.spec).filter(_is_utf8),
        st.sampled_from([".", GATEWAY_NAMESPACE, "*"]),
        st.lists(address, min_size=1, max_size=3, unique=True),
    )
    workloads = st.builds(
        lambda name, address, labels: {
            "apiVersion": "networking.istio.io/v1",
            "kind": "WorkloadEntry",
            "metadata": {"name": name},
            "spec": {"address": address, "labels": labels, "ports": {"port-53": 53}},
        },
        name,
        address,
        st.sampled_from([{"app": "dns"}, {"app": "none"}]),
    )
    return st.one_of(services, services, slices, entries, workloads)


def mostly(good: list[Any], *bad: Any) -> st.SearchStrategy[Any]:
    """A value that is allowed, four times in five."""
    return st.sampled_from(good * (1 + 4 * len(bad) // len(good)) + list(bad))


def _is_utf8(text: str) -> bool:
    try:
        return len(text.encode()) < 200_000
    except UnicodeEncodeError:
        return False


@dataclass
class Tenant:
    """A namespace, and how many of its objects the API server accepted."""

    namespace: str
    first_port: int
    written: int = 0
    refused: int = 0

    @property
    def words(self) -> list[str]:
        return ["-n", self.namespace, "--as", f"system:serviceaccount:{self.namespace}:tenant"]

    def write(self, manifests: list[Manifest]) -> None:
        """Apply them; the API server may refuse some."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        out = kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", "-", *self.words,
            stdin=text, ok=False,
        )  # fmt: skip
        taken = len(out.splitlines())
        self.written += taken
        self.refused += len(manifests) - taken

    def delete(self, kind: str, name: str) -> None:
        kubectl("delete", kind, name, "--ignore-not-found", "--wait=false", *self.words, ok=False)


# -- what must hold -------------------------------------------------------------------------------


@dataclass
class Findings:
    """The observations; `wrong` must stay empty."""

    wrong: list[str] = field(default_factory=list)
    queries: int = 0
    lost: int = 0
    peak_mb: float = 0.0
    threads: int = 0
    exposures: int = 0
    looks: int = 0
    endpoints: int = 0
    p99_ms: float = 0.0

    def fault(self, text: str) -> None:
        if text not in self.wrong and len(self.wrong) < 50:
            self.wrong.append(text)
            print(f"WRONG: {text}", file=sys.stderr, flush=True)


class Watcher(threading.Thread):
    """Looks at the controller and at the gateway's Envoy every few seconds."""

    def __init__(self, process: subprocess.Popen[bytes], findings: Findings) -> None:
        super().__init__(daemon=True)
        self._process, self._findings = process, findings
        self._ended = threading.Event()
        # Which namespace's pod had an address, and when it was last seen there.
        self._pods: dict[tuple[str, str], float] = {}
        self._gateway = self._gateway_pods()

    def end(self) -> None:
        self._ended.set()
        self.join(60)

    def run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self._controller()
                self._envoy()
                self._findings.looks += 1
            except Exception as error:
                self._findings.fault(f"it could not be looked at: {error!r:.300}")

    def _controller(self) -> None:
        found = self._findings
        if self._process.poll() is not None:
            found.fault(f"the controller ended with {self._process.returncode}")
            return
        try:
            url = f"http://127.0.0.1:{METRICS_PORT}/healthz"
            urllib.request.urlopen(url, timeout=10).close()
        except OSError as error:
            found.fault(f"the controller is not well: {error}")
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        peak = next(int(x.split()[1]) / 1024 for x in status if x.startswith("VmHWM"))
        found.peak_mb = round(max(found.peak_mb, peak), 1)
        if peak > MEGABYTES:
            found.fault(f"the controller took {peak:.0f} MB, over {MEGABYTES:.0f}")
        threads = next(int(x.split()[1]) for x in status if x.startswith("Threads"))
        found.threads = max(found.threads, threads)

    def _gateway_pods(self) -> dict[str, int]:
        return {
            pod["metadata"]["name"]: sum(
                s["restartCount"] for s in pod["status"]["containerStatuses"]
            )
            for pod in listed("pods", "-n", GATEWAY_NAMESPACE, "-l", GATEWAY_LABEL)
        }

    def _envoy(self) -> None:
        """Every endpoint of an exposure's cluster is a pod of the exposure's own namespace."""
        found = self._findings
        now = time.monotonic()
        pods = self._gateway_pods()
        if pods != self._gateway:
            found.fault(f"gateway pods were {self._gateway} and are {pods}")
            self._gateway = pods
        for each in listed("pods", "-A"):
            for entry in each["status"].get("podIPs") or ():
                self._pods[each["metadata"]["namespace"], entry["ip"]] = now
        owners: dict[str, str] = {}
        for each in listed("envoyfilters", "-n", GATEWAY_NAMESPACE):
            labels = each["metadata"].get("labels") or {}
            owners[each["metadata"]["name"]] = labels.get(f"{PREFIX}namespace", "")
        found.exposures = max(found.exposures, len(owners))
        for pod in pods:
            text = kubectl(
                "exec", "-n", GATEWAY_NAMESPACE, pod, "-c", "istio-proxy", "--",
                "pilot-agent", "request", "GET", "clusters?format=json&filter=^udp-",
            )  # fmt: skip
            for cluster in json.loads(text).get("cluster_statuses") or ():
                owner = owners.get(cluster["name"].rpartition("-")[0])
                if owner is None:
                    continue
                for host in cluster.get("host_statuses") or ():
                    socket = (host.get("address") or {}).get("socket_address") or {}
                    address = socket.get("address", "")
                    found.endpoints += 1
                    if now - self._pods.get((owner, address), -1e9) > GONE_SECONDS:
                        found.fault(f"Envoy's {cluster['name']} of {owner} has endpoint {address}")


class Load:
    """Queries the victim repeatedly, and counts lost answers."""

    def __init__(self, namespace: str, target: tuple[str, int], findings: Findings) -> None:
        self._namespace, self._target, self._findings = namespace, target, findings

    def one(self, seconds: int) -> None:
        address, port = self._target
        words = ["kubectl", "exec", "-i", "-n", self._namespace, "load", "--", "python3", "-"]
        words += [address, str(port), "foo.bar.com", "--queries", str(seconds * QUERIES_PER_SECOND)]
        words += ["--rate", str(QUERIES_PER_SECOND)]
        done = subprocess.run(
            words, input=LOAD.read_text(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            self._findings.fault(f"the load failed: {done.stderr.strip()[-300:]}")
            return
        counts = json.loads(done.stdout)
        self._findings.queries += counts["sent"]
        self._findings.lost += counts["lost"]
        self._findings.p99_ms = max(self._findings.p99_ms, counts["p99_ms"])
        if counts["lost"]:
            self._findings.fault(
                f"{counts['lost']} of {counts['sent']} answers were lost, those sent "
                f"{counts['lost_at']} s after the start of their run"
            )


# -- the run --------------------------------------------------------------------------------------


@contextlib.contextmanager
def controller(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The controller as a process; what it logs goes to a file."""
    words = [sys.executable, "-c", "from kubectl_istio_udp.cli.main import main; main()"]
    words += ["controller", "run", "--no-leader-elect", "--port", str(METRICS_PORT)]
    with log.open("wb") as out:
        process = subprocess.Popen([*words, "--log-level", "warning"], stderr=out)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def namespaces(suffix: str) -> Iterator[tuple[str, list[Tenant]]]:
    """The victim's namespace and three tenants; two of these may expose ports."""
    victim = f"victim-{suffix}"
    tenants = [
        Tenant(f"attacker-{letter}-{suffix}", FIRST_PORT + number * PORTS_EACH)
        for number, letter in enumerate("abc")
    ]
    for name in (victim, *(tenant.namespace for tenant in tenants)):
        kubectl("create", "namespace", name)
    try:
        for tenant in tenants:
            kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(rights(tenant.namespace)))
            kubectl(
                "apply", "-n", tenant.namespace, "-f", "-", stdin=yaml.safe_dump_all(dns_server())
            )
        for tenant in tenants[:2]:
            allow(tenant.namespace, tenant.first_port, PORTS_EACH)
        allow(victim, VICTIM_PORT, 1)
        yield victim, tenants
    finally:
        for name in (victim, *(tenant.namespace for tenant in tenants)):
            kubectl("delete", "namespace", name, "--wait=false")


def allow(namespace: str, first: int, ports: int) -> None:
    notes = [f"{PREFIX}allow={first}-{first + ports - 1}", f"{PREFIX}allow-sessions=4000"]
    kubectl("annotate", "namespace", namespace, *notes)


def expose_victim(namespace: str) -> tuple[tuple[str, int], str]:
    """Declare the victim's exposure; where its clients send, and its spec annotation."""
    manifests = dns_server()
    manifests[-1]["metadata"]["annotations"] |= {
        f"{PREFIX}expose": f"{VICTIM_PORT}:53",
        f"{PREFIX}max-sessions": "4000",
    }
    kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump_all(manifests))
    kubectl("rollout", "status", "-n", namespace, "deploy/dns", "--timeout=120s")
    name = object_name(namespace, "dns")
    end = time.monotonic() + 60
    while name not in kubectl("get", "services", "-n", GATEWAY_NAMESPACE, "-o", "name"):
        if time.monotonic() > end:
            raise RuntimeError("the victim is not exposed within 60s")
        time.sleep(0.5)
    companion = json.loads(kubectl("get", "service", "-n", GATEWAY_NAMESPACE, name, "-o", "json"))
    made = companion["spec"]
    spec = companion["metadata"]["annotations"][f"{PREFIX}spec"]
    return (made["clusterIP"], made["ports"][0]["port"]), spec


def prey(victim: str, spec: str) -> Prey:
    """Addresses that no tenant's exposure may send to."""
    pods = listed("pods", "-A")
    others = [
        pod["status"]["podIP"]
        for pod in pods
        if pod["metadata"]["namespace"] in (victim, GATEWAY_NAMESPACE, "kube-system")
        and pod["status"].get("podIP")
    ]
    (api,) = [
        s for s in listed("services", "-n", "default") if s["metadata"]["name"] == "kubernetes"
    ]
    nodes = [a["address"] for n in listed("nodes") for a in n["status"]["addresses"]]
    bad = ["169.254.169.254", "127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0"]
    numeric = [a for a in nodes if a.replace(".", "").isdigit()]
    return Prey([*others, api["spec"]["clusterIP"], *numeric, *bad], spec, victim)


def attack(tenants: list[Tenant], target: Prey, end: float, first_seed: int) -> int:
    """Let each tenant write until the time is over; how many batches there were."""
    batches = 0

    def worker(tenant: Tenant, number: int) -> None:
        nonlocal batches
        deleting = st.tuples(
            st.sampled_from(["service", "endpointslice", "serviceentry", "workloadentry"]),
            st.sampled_from(NAMES),
        )
        batch = st.tuples(
            st.lists(attacks(target, tenant.namespace, tenant.first_port), min_size=1, max_size=6),
            st.lists(deleting, max_size=1),
        )
        round_ = 0
        while time.monotonic() < end:
            round_ += 1

            @seed(first_seed + 1000 * number + round_)
            @settings(
                max_examples=25,
                phases=[Phase.generate],
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(batch)
            def one(written: tuple[list[Manifest], list[tuple[str, str]]]) -> None:
                nonlocal batches
                if time.monotonic() >= end:
                    return
                manifests, deleted = written
                # One apply takes an object once.
                unique = {(m["kind"], m["metadata"]["name"]): m for m in manifests}
                tenant.write(list(unique.values()))
                for kind, name in deleted:
                    names = {
                        "endpointslice": f"{name}-by-hand",
                        "serviceentry": object_name(tenant.namespace, name),
                    }
                    tenant.delete(kind, names.get(kind, name))
                batches += 1

            one()

    threads = [
        threading.Thread(target=worker, args=(tenant, number), daemon=True)
        for number, tenant in enumerate(tenants)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return batches


def campaign(seconds: int, first_seed: int, log: Path) -> tuple[Findings, dict[str, Any]]:
    """Run the whole campaign; return the observations and the amount of work."""
    findings = Findings()
    with namespaces(secrets.token_hex(3)) as (victim, tenants), controller(log) as process:
        start_load_pod(victim)
        target, spec = expose_victim(victim)
        load = Load(victim, target, findings)
        # Until the gateway's listener and kube-proxy's rules are there.
        settle(load, findings)
        watcher = Watcher(process, findings)
        watcher.start()
        begun = time.monotonic()
        runs = max(1, round(seconds / LOAD_SECONDS))

        def ask() -> None:
            for _ in range(runs):
                load.one(min(seconds, LOAD_SECONDS))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        batches = attack(tenants, prey(victim, spec), begun + seconds, first_seed)
        asking.join()
        watcher.end()
        done = {
            "seconds": round(time.monotonic() - begun),
            "seed": first_seed,
            "batches": batches,
            "written": sum(tenant.written for tenant in tenants),
            "refused_by_the_api_server": sum(tenant.refused for tenant in tenants),
        }
        # The controller itself deletes the attackers' exposures.
        for name in (victim, *(tenant.namespace for tenant in tenants)):
            kubectl("delete", "namespace", name, "--wait=false")
        gone(victim, tenants)
    for line in log.read_text(errors="replace").splitlines():
        if "Traceback" in line or "internal error" in line or "what follows from" in line:
            findings.fault(f"the controller logged: {line[:400]}")
    return findings, done


def settle(load: Load, findings: Findings) -> None:
    """Query until all queries of two seconds are answered."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        before = findings.lost
        load.one(2)
        if findings.lost == before:
            break
    findings.wrong.clear()
    findings.queries = findings.lost = 0


def gone(victim: str, tenants: list[Tenant]) -> None:
    """Wait until the gateway has no configuration of these namespaces."""
    names = {victim, *(tenant.namespace for tenant in tenants)}
    end = time.monotonic() + 120
    while time.monotonic() < end:
        left = [
            each
            for kind in ("envoyfilters", "services", "serviceentries")
            for each in listed(kind, "-n", GATEWAY_NAMESPACE)
            if (each["metadata"].get("labels") or {}).get(f"{PREFIX}namespace") in names
        ]
        if not left:
            return
        time.sleep(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--log", type=Path, default=Path("campaign.log"))
    wanted = parser.parse_args()
    findings, done = campaign(wanted.seconds, wanted.seed, wanted.log)
    print(json.dumps({**done, **vars(findings)}, indent=2))
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
