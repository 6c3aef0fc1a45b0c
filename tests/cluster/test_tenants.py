"""What a tenant of a shared gateway may try against the others, one test a kind of attack.

Each acts as that tenant would (`--as`), with the rights that a team has in its namespace. Whatever
it does, the victim is asked all the while and loses no answer.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
from functools import partial
from typing import Any

import pytest
from budgets import Edge, watched
from conftest import (
    GATEWAY_NAMESPACE,
    LOAD_IMAGE,
    Space,
    eventually,
    get,
    kubectl,
    own_objects,
    run,
    service,
    start_load_pod,
)
from controlled import events, logs, replicas, request_exposure
from gateways import posing_pod
from tenants import Tenant, Tenants, Victim, controller, tenants, victim, who_server

from kubectl_istio_udp.model import names

__all__ = ["controller", "tenants", "victim"]

pytestmark = pytest.mark.xdist_group("controller")

SPEC = "kubectl-istio-udp/spec"
# The bound of bench/controller_memory.py, beside 5,000 such Services.
MOST_MEGABYTES = 128
MANAGED = {"app.kubernetes.io/managed-by": "kubectl-istio-udp"}


def labelled(namespace: str, name: str) -> dict[str, str]:
    """The labels of an exposure's objects."""
    marks = {"kubectl-istio-udp/namespace": namespace, "kubectl-istio-udp/exposure": name}
    return {**MANAGED, **marks}


def entry(name: str, labels: dict[str, str], spec: str, host: str = "") -> dict[str, Any]:
    """A ServiceEntry that a tenant forged."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": name, "labels": labels, "annotations": {SPEC: spec}},
        "spec": {
            "hosts": [host or f"{name}.example"],
            "exportTo": ["."],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [{"name": "p", "number": 53, "protocol": "TCP"}],
        },
    }


def exposed(tenant: Tenant, name: str, port: int, seconds: float = 30) -> None:
    """Declare an exposure and wait until it is there."""
    request_exposure(tenant, name, f"{port}:53")
    made = f"envoyfilters {tenant.gateway}/{object_name(tenant, name)} "
    eventually(
        f"{name} is exposed",
        lambda: any(o.startswith(made) for o in own_objects(tenant)),
        seconds,
    )


def restarts() -> dict[str, int]:
    """How often each replica of the controller was restarted."""
    return {
        pod["metadata"]["name"]: sum(
            status["restartCount"] for status in pod["status"]["containerStatuses"]
        )
        for pod in replicas()
    }


def spec_of(tenant: Tenant, name: str) -> dict[str, Any]:
    """The spec that the objects of a tenant's exposure carry."""
    selector = ",".join(f"{k}={v}" for k, v in labelled(tenant.name, name).items())
    (found,) = get("envoyfilters", "-n", tenant.gateway, "-l", selector)["items"]
    return dict(json.loads(found["metadata"]["annotations"][SPEC]))


def object_name(tenant: Space, name: str) -> str:
    """The name of an exposure's objects, as the product forms it (for namespaces with a dash)."""
    return names.object_name(tenant.name, name)


def test_01_a_malformed_annotation_affects_nobody_else(tenants: Tenants, victim: Victim) -> None:
    """Neither the controller nor the command line acts on it, in any namespace."""
    mine, other = tenants.c, tenants.a
    good = spec_of(other, "dns")
    bad = {
        "wrong-type": json.dumps({**good, "namespace": mine.name, "service": ["x"]}),
        "deep": '{"version":1,"a":' + "[" * 50_000 + "]" * 50_000 + "}",
        "huge": json.dumps({**good, "service": "x" * 200_000}),
        "number": '{"version":1,"gateway":' + "9" * 20_000 + "}",
        "constant": json.dumps({**good, "ports": float("nan")}),
        "version": '{"version":true}',
        "of-another": json.dumps(good),
    }
    before = restarts()
    with victim.asked():
        for name, text in bad.items():
            mine.make(entry(object_name(mine, name), labelled(mine.name, name), text))
        for name, text in (("dns", bad["wrong-type"]), ("other", json.dumps(good))):
            mine.make(entry(object_name(other, name), labelled(other.name, name), text))
        tenants.b.apply(*who_server("late", "192.0.2.9"))
        exposed(tenants.b, "late", tenants.b.ports[0])
        listed = run("kubectl", "istio-udp", "get", "-A")
        assert listed.code == 0, listed.both
        assert f"belongs to exposure {other.name}/dns" in listed.out
        described = run("kubectl", "istio-udp", "describe", "-n", other.name)
        assert described.code == 0, described.both
        verified = run(
            "kubectl", "istio-udp", "verify", "dns", "-n", other.name, "--tool-pod", other.tool
        )
        assert verified.code == 0, verified.both
        refused = run("kubectl", "istio-udp", "delete", "-n", mine.name, "of-another")
        assert refused.code == 3, refused.both
        removed = run("kubectl", "istio-udp", "controller", "uninstall", "--dry-run", "server")
        assert removed.code == 0, removed.both
    assert restarts() == before
    assert "Traceback" not in logs()


def test_02_a_second_entry_with_the_host_of_an_exposure_gets_nothing(
    tenants: Tenants, victim: Victim
) -> None:
    """Created before the exposure, or exported to the gateway while it exists."""
    mine = tenants.c
    mine.apply(*who_server("thief", "192.0.2.66"))
    (pod,) = get("pods", "-n", mine.name, "-l", "app=thief")["items"]
    stolen = [
        f"dns.{victim.tenant.name}.kubectl-istio-udp.internal",
        f"later.{tenants.b.name}.kubectl-istio-udp.internal",
    ]
    with victim.asked():
        for number, host in enumerate(stolen):
            forged = entry(f"hijack-{number}", {}, "", host)
            del forged["metadata"]["annotations"]
            forged["spec"] |= {
                "exportTo": [mine.gateway],
                "ports": [{"name": "port-53", "number": 53, "protocol": "TCP"}],
                "endpoints": [{"address": pod["status"]["podIP"]}],
            }
            mine.make(forged)
        tenants.b.apply(*who_server("later", "192.0.2.19"))
        exposed(tenants.b, "later", tenants.b.ports[5])
        late = Victim(tenants.b, "later", "192.0.2.19", victim.load)
        eventually("the younger exposure answers", lambda: late.says() == "192.0.2.19")
        assert victim.says() == victim.answer


def test_02_a_tenant_who_knows_the_host_gets_nothing(tenants: Tenants, victim: Victim) -> None:
    """A ServiceEntry, a wildcard, and other objects of Istio that can refer to a host."""
    mine, own = tenants.c, object_name(victim.tenant, "dns")
    mine.apply(*who_server("thief", "192.0.2.66"))
    (host,) = get("serviceentry", "-n", mine.gateway, own)["spec"]["hosts"]
    wildcard = "*.kubectl-istio-udp.internal"
    forged = []
    for number, each in enumerate((host, wildcard, host.upper(), f"{host}.")):
        made = entry(f"knows-{number}", {}, "", each)
        del made["metadata"]["annotations"]
        made["spec"] |= {
            # Not to all: every sidecar of the cluster would take connections to port 53.
            "exportTo": [mine.gateway],
            "ports": [{"name": "port-53", "number": 53, "protocol": "TCP"}],
            "endpoints": [{"address": pod_address(mine, "thief")}],
        }
        forged.append(made)
    rule = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "knows"},
        "spec": {
            "host": host,
            "exportTo": ["*"],
            "trafficPolicy": {
                "tls": {"mode": "SIMPLE"},
                "connectionPool": {"tcp": {"maxConnections": 1}},
            },
        },
    }
    with victim.asked():
        mine.make(*forged, rule)
        eventually("it is told", lambda: "HostTaken" in events(victim.tenant, "dns"))
        told = events(victim.tenant, "dns")
        # An administrator may see the owner.
        assert mine.name not in told
        verified = run(
            "kubectl", "istio-udp", "verify", "dns", "-n", victim.tenant.name,
            "--tool-pod", victim.tenant.tool,
        )  # fmt: skip
        assert verified.code == 1 and f"{mine.name}/knows-0" in verified.out, verified.both
        assert gateway_hosts(victim.tenant, "dns", victim.tenant.ports[0]) == {
            pod_address(victim.tenant, "dns")
        }
    mine.kubectl("delete", "serviceentries,destinationrules", "--all")
    eventually("it is met again", lambda: "Exposed" in newest(victim.tenant, "dns"))


def newest(tenant: Tenant, name: str) -> str:
    """The newest Event of a Service."""
    words = ("--field-selector", f"involvedObject.name={name}", "--sort-by=.lastTimestamp")
    return kubectl("get", "events", "-n", tenant.name, *words).splitlines()[-1]


def test_01_objects_of_other_kinds_with_the_labels_affect_nobody_else(
    tenants: Tenants, victim: Victim
) -> None:
    """An EnvoyFilter, a reservation and a Service that claim to belong to the victim."""
    mine, theirs = tenants.c, victim.tenant
    name = object_name(theirs, "dns")
    selector = ",".join(f"{k}={v}" for k, v in labelled(theirs.name, "dns").items())
    (real,) = get("envoyfilters", "-n", theirs.gateway, "-l", selector)["items"]
    (front,) = get("services", "-n", theirs.gateway, "-l", selector)["items"]

    def copy_of(manifest: dict[str, Any], **more: Any) -> dict[str, Any]:
        about = {key: manifest["metadata"][key] for key in ("name", "labels", "annotations")}
        return {**{k: manifest[k] for k in ("apiVersion", "kind")}, "metadata": about, **more}

    reserving = copy_of(real, spec={"workloadSelector": {"labels": {"a": "b"}}})
    reserving["metadata"] |= {
        "name": f"reserved-{name}",
        "annotations": {"kubectl-istio-udp/reservation": real["metadata"]["annotations"][SPEC]},
    }
    port = {"name": "x", "port": 53, "protocol": "UDP"}
    forged = [
        copy_of(real, spec=real["spec"]),
        reserving,
        copy_of(front, spec={"ports": [port], "selector": {"app": "thief"}}),
    ]

    def at_the_gateway() -> list[str]:
        return [line for line in own_objects(theirs) if f" {theirs.gateway}/" in line]

    before = at_the_gateway()
    with victim.asked():
        mine.make(*forged)
        listed = run("kubectl", "istio-udp", "get", "-A")
        assert listed.code == 0 and listed.out.count(f"{mine.name} ") >= 2, listed.both
        for words in (
            ("verify", "dns", "--tool-pod", theirs.tool),
            ("describe", "dns"),
            ("delete", "dns", "--dry-run", "server"),
        ):
            done = theirs.administered.plugin(*words)
            assert "Traceback" not in done.both
            # Only the declared exposure is not deleted.
            assert done.code == (3 if words[0] == "delete" else 0), done.both
        removed = run("kubectl", "istio-udp", "controller", "uninstall", "--dry-run", "server")
        assert removed.code == 0 and f"-n {mine.name}" not in removed.out, removed.both
    assert at_the_gateway() == before


def test_03_exposures_at_once_get_no_more_than_the_gateway_has(
    tenants: Tenants, victim: Victim
) -> None:
    """Six Services request a third of the gateway each at the same time; the victim has a share."""
    mine = tenants.b
    edge = Edge(Space(mine.gateway, ""))
    third = edge.budget() // 3
    allowed = [
        f"kubectl-istio-udp/allow-{what}={6 * third}" for what in ("sessions", "total-sessions")
    ]
    kubectl("annotate", "namespace", mine.name, "--overwrite", *allowed)
    asking = [service(f"race-{number}", app="race") for number in range(6)]
    for number, each in enumerate(asking):
        each["metadata"]["annotations"] = {
            "kubectl-istio-udp/expose": f"{mine.ports[10 + number]}:53",
            "kubectl-istio-udp/gateway": f"{mine.gateway}/edge",
            "kubectl-istio-udp/max-sessions": str(third),
        }
    names = [each["metadata"]["name"] for each in asking]

    def granted() -> int:
        return sum(object_name(mine, name) in edge.filters() for name in names)

    with victim.asked(), watched(mine.gateway) as seen:
        mine.make(*who_server("race", "192.0.2.3")[:2], *asking)
        told = "does not have enough sessions left"
        eventually(
            "four are told why not",
            lambda: sum(told in events(mine, name) for name in names) == 4,
            60,
        )
    assert granted() == 2
    assert seen.changes and seen.most <= edge.budget()
    assert edge.restarts() == 0
    mine.kubectl("delete", "service", *names)
    eventually("what they got is free again", lambda: not granted(), 60)


def test_05_large_objects_do_not_end_the_controller(tenants: Tenants, victim: Victim) -> None:
    """500 Services with an annotation of 260 kB each: half of the memory that it may have."""
    mine = tenants.c
    names = [f"big-{number}" for number in range(500)]
    with victim.asked():
        for first in range(0, len(names), 50):
            mine.make(*(large(name) for name in names[first : first + 50]))
        tenants.b.apply(*who_server("beside", "192.0.2.30"))
        exposed(tenants.b, "beside", tenants.b.ports[8])
    most = [peak_megabytes(pod["metadata"]["name"]) for pod in replicas()]
    print(f"\nthe most memory of each replica: {most} MB")
    delete_services(mine, "large")
    assert max(most) < MOST_MEGABYTES


def large(name: str) -> dict[str, Any]:
    """A Service with as large an annotation as the API server takes."""
    found = service(name)
    found["metadata"] |= {"labels": {"size": "large"}, "annotations": {"note": "x" * 260_000}}
    return found


def delete_services(tenant: Tenant, size: str) -> None:
    """Delete all Services with a label: one request for all; kubectl would send two for each.

    The API server ends a request after 60 s, and the next one deletes the rest.
    """
    services = f"/api/v1/namespaces/{tenant.name}/services?labelSelector=size%3D{size}"
    words = ("kubectl", "delete", "--raw", services)
    eventually("the Services are deleted", lambda: run(*words).code == 0, 240)


def test_05_small_objects_with_large_requests_do_not_end_the_controller(
    tenants: Tenants, victim: Victim
) -> None:
    """1,200 Services of 400 bytes that ask for 500 ports each; a namespace that may expose none."""
    mine = tenants.c
    asking = []
    for number in range(1_200):
        found = service(f"small-{number}", clusterIP="None")
        found["metadata"] |= {
            "namespace": mine.name,
            "labels": {"size": "small"},
            "annotations": {"kubectl-istio-udp/expose": "10000-10499:53"},
        }
        asking.append(found)
    with victim.asked():
        for first in range(0, len(asking), 300):
            listed = {"apiVersion": "v1", "kind": "List", "items": asking[first : first + 300]}
            mine.kubectl("create", "-f", "-", stdin=json.dumps(listed))
        tenants.b.apply(*who_server("among", "192.0.2.31"))
        exposed(tenants.b, "among", tenants.b.ports[9])
    most = [peak_megabytes(pod["metadata"]["name"]) for pod in replicas()]
    print(f"\nthe most memory of each replica: {most} MB")
    delete_services(mine, "small")
    assert max(most) < MOST_MEGABYTES


def peak_megabytes(pod: str) -> int:
    """The most memory that a replica of the controller has had since it started."""
    read = "print(open('/proc/1/status').read())"
    status = kubectl("exec", "-n", "istio-udp", pod, "--", "python3", "-c", read)
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


HOLD = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
address, held, failed = (sys.argv[1], 8080), [], 0
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        held.append(socket.create_connection(address, timeout=1))
        held[-1].sendall(b"GET /metrics HTTP/1.1\\r\\nX: ")
    except OSError:
        failed += 1
        time.sleep(0.01)
    if len(held) > 3000:
        held.pop(0).close()
print(len(held), failed)
"""


def test_05_connections_to_the_controller_do_not_end_it(tenants: Tenants, victim: Victim) -> None:
    """Thousands of silent connections from a tenant's pod, for longer than three probes."""
    mine = tenants.c
    start_load_pod(mine.name)
    before = restarts()
    words = ("exec", "-i", "load", "-n", mine.name, "--as", mine.user, "--", "python3", "-")
    holding = [
        subprocess.Popen(
            ["kubectl", *words, pod["status"]["podIP"], "35"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for pod in replicas()
    ]  # fmt: skip
    with victim.asked():
        printed = []
        for each in holding:
            assert each.stdin
            each.stdin.write(HOLD)
            each.stdin.close()
            each.stdin = None
        tenants.b.apply(*who_server("meanwhile", "192.0.2.29"))
        exposed(tenants.b, "meanwhile", tenants.b.ports[7])
        printed = [each.communicate(timeout=90)[0] for each in holding]
    assert all(int(text.split()[0]) > 100 for text in printed), printed
    assert restarts() == before
    assert all(s["ready"] for pod in replicas() for s in pod["status"]["containerStatuses"])


def gateway_hosts(tenant: Tenant, name: str, port: int) -> set[str]:
    """The addresses to which the gateways send a port's datagrams."""
    cluster = re.escape(f"{object_name(tenant, name)}-{port}")
    found = set()
    for pod in get("pods", "-n", tenant.gateway, "-l", "app=edge")["items"]:
        name_ = pod["metadata"]["name"]
        words = ("exec", "-n", tenant.gateway, name_, "-c", "istio-proxy", "--")
        text = kubectl(*words, "pilot-agent", "request", "GET", "clusters")
        found |= set(re.findall(rf"^{cluster}::([0-9.]+):\d+::", text, re.MULTILINE))
    return found


def test_06_endpoints_are_pods_of_the_exposures_namespace(tenants: Tenants, victim: Victim) -> None:
    """Neither forged EndpointSlices nor WorkloadEntries redirect the gateway."""
    mine, port = tenants.b, tenants.b.ports[2]
    mine.apply(*who_server("own", "192.0.2.7"))
    address = pod_address(mine, "own")
    bad = [
        pod_address(victim.tenant, "dns"),
        get("service", "-n", "kube-system", "kube-dns")["spec"]["clusterIP"],
        get("service", "-n", "default", "kubernetes")["spec"]["clusterIP"],
        get("nodes")["items"][0]["status"]["addresses"][0]["address"],
        "239.1.2.3",
        "255.255.255.255",
        "8.8.8.8",
    ]
    by_hand = service("any")
    del by_hand["spec"]["selector"]
    slices: dict[str, Any] = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "any-1", "labels": {"kubernetes.io/service-name": "any"}},
        "addressType": "IPv4",
        "ports": [{"name": "dns-53", "port": 53, "protocol": "UDP"}],
        "endpoints": [{"addresses": [each]} for each in [*bad, address]],
    }
    mapped = copy.deepcopy(slices)
    mapped["metadata"]["name"] = "any-6"
    mapped |= {
        "addressType": "IPv6",
        "endpoints": [{"addresses": ["64:ff9b::a60:1"]}, {"addresses": ["fd00:ec2::254"]}],
    }
    on_the_node = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "on-the-node", "labels": {"app": "own"}},
        "spec": {
            "hostNetwork": True,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "c",
                    "image": "zhaohuabing/network-tool",
                    "command": ["sleep", "infinity"],
                }
            ],
        },
    }
    loopback = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": "lo"},
        "spec": {"address": "127.0.0.1", "labels": {"app": "own"}},
    }
    with victim.asked():
        mine.make(by_hand, slices, mapped, on_the_node, loopback)
        wait = ("wait", "pod/on-the-node", "--for=condition=Ready", "--timeout=60s")
        mine.kubectl(*wait)
        exposed(mine, "own", port)
        exposed(mine, "any", port + 1)
        eventually("it is told", lambda: "EndpointRefused" in events(mine, "any"))
        for name, number in (("own", port), ("any", port + 1)):
            eventually(
                f"the gateway sends {name} to the own pod alone",
                partial(lambda n, p: gateway_hosts(mine, n, p) == {address}, name, number),
            )
        verified = mine.administered.verify("any", "--query", "who.test", "-o", "json")
        (said,) = json.loads(verified.out)
        assert (verified.code, said["reason"]) == (1, "EndpointRefused"), verified.both
        asked = {probe["target"] for probe in said["probes"] if probe["via"] == "pod"}
        assert asked == {f"{address}:53"}
        for manifest in get("serviceentries", "-n", mine.name)["items"]:
            assert "kubectl-istio-udp/source" not in (manifest["metadata"].get("labels") or {})


def pod_address(tenant: Space, app: str) -> str:
    (pod,) = get("pods", "-n", tenant.name, "-l", f"app={app}")["items"]
    return str(pod["status"]["podIP"])


CONTROL = "\x1b[2J\x1b]0;owned\x07\u202e"


def spy_pod() -> dict[str, Any]:
    """A pod that logs every HTTP request which it gets at port 8080."""
    container = {
        "name": "spy",
        "image": LOAD_IMAGE,
        "command": ["python3", "-u", "-m", "http.server", "8080", "--directory", "/tmp"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "spy"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }


def test_07_the_command_line_trusts_no_text_of_a_tenant(tenants: Tenants, victim: Victim) -> None:
    """No request of a tenant's choosing, no control character on an administrator's terminal."""
    mine = tenants.c
    mine.apply(spy_pod())
    mine.kubectl("wait", "pod/spy", "--for=condition=Ready", "--timeout=60s")
    target = f"../../{mine.name}/pods/spy:8080/proxy/"
    logged = ("logs", "-n", mine.name, "spy")
    kubectl("get", "--raw", f"/api/v1/namespaces/{mine.name}/pods/spy:8080/proxy/?seen")
    assert "GET /?seen" in kubectl(*logged)
    good = spec_of(victim.tenant, "dns")
    forged = {
        "service": {**good, "namespace": mine.name, "name": "service", "service": target},
        "gateway": {
            **good,
            "namespace": mine.name,
            "name": "gateway",
            "gateway": {**good["gateway"], "namespace": f"../namespaces/{mine.name}"},
        },
        "control": {**good, "namespace": mine.name, "name": "control", "service": CONTROL},
    }
    with victim.asked():
        for name, spec in forged.items():
            forgery = entry(object_name(mine, name), labelled(mine.name, name), json.dumps(spec))
            mine.make(forgery)
            # At a gateway of its own a tenant may write the object that decides.
            at_home = {**spec, "gateway": {**spec["gateway"], "namespace": mine.name}}
            notes = {SPEC: json.dumps(spec if name == "gateway" else at_home)}
            mine.make(
                {
                    "apiVersion": "networking.istio.io/v1alpha3",
                    "kind": "EnvoyFilter",
                    "metadata": {**forgery["metadata"], "annotations": notes},
                    "spec": {"configPatches": []},
                }
            )
        annotated = service("talker")
        text = f"7000{CONTROL}\nforged   row"
        annotated["metadata"]["annotations"] = {"kubectl-istio-udp/expose": text}
        mine.make(annotated)
        eventually("it is refused", lambda: "ExposeInvalid" in events(mine, "talker"))
        mine.make(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": "talker.forged"},
                "involvedObject": {
                    "apiVersion": "v1", "kind": "Service", "namespace": mine.name,
                    "name": "talker",
                },
                "type": "Warning",
                "reason": "ExposeRefused",
                "message": f"run: kubectl delete ns {victim.tenant.name} {CONTROL}",
                "source": {"component": "somebody"},
                "lastTimestamp": "2030-01-01T00:00:00Z",
            }
        )  # fmt: skip
        for words in (
            ("get", "-A"),
            ("get", "-A", "-o", "wide"),
            ("describe", "-A"),
            ("controller", "status"),
        ):
            done = run("kubectl", "istio-udp", *words)
            assert done.code in (0, 1), done.both
            assert not [c for c in done.both if not c.isprintable() and c != "\n"], words
            assert "kubectl delete ns" not in done.both
        assert kubectl(*logged).count("GET") == 1


def test_10_a_forged_label_does_not_make_an_exposure_the_controllers(
    tenants: Tenants, victim: Victim
) -> None:
    """`controller uninstall` deletes what the controller created, according to the EnvoyFilter."""
    person = tenants.b
    person.apply(*who_server("mine", "192.0.2.8"))
    gateway = f"{person.gateway}/edge"
    person.administered.expose("mine", "-p", f"{person.ports[1]}:53", "--gateway", gateway)
    name = object_name(person, "mine")
    with victim.asked():
        for found in get("serviceentries", "-n", person.name)["items"]:
            person.kubectl(
                "label", "serviceentry", found["metadata"]["name"],
                "kubectl-istio-udp/source=controller",
            )  # fmt: skip
        would = run("kubectl", "istio-udp", "controller", "uninstall", "--dry-run", "server")
        assert would.code == 0, would.both
        assert f'"{name}" deleted' not in would.out
        assert f'"{object_name(victim.tenant, "dns")}" deleted' in would.out


def test_10_a_forged_field_manager_does_not_stop_expose_or_delete(
    tenants: Tenants, victim: Victim
) -> None:
    """A Service that looks as if its only port belonged to somebody else's exposure."""
    person, mine = tenants.b, tenants.c
    person.apply(*who_server("trapped", "192.0.2.35"))
    gateway = f"{person.gateway}/edge"
    words = ("-p", f"{person.ports[23]}:53", "--gateway", gateway)
    manager = f"kubectl-istio-udp/{object_name(person, 'trapped')}"
    trap = json.dumps(service("trap"))
    with victim.asked():
        mine.kubectl("apply", "--server-side", "--field-manager", manager, "-f", "-", stdin=trap)
        person.administered.expose("trapped", *words)
        person.administered.expose("trapped", *words, "--idle-timeout", "20s")
        listed = run("kubectl", "istio-udp", "get", "-A")
        assert listed.code == 0 and f"{mine.name}/trap" not in listed.both, listed.both
        deleted = person.administered.plugin("delete", "trapped")
        assert deleted.code == 0, deleted.both
    assert not any(object_name(person, "trapped") in line for line in own_objects(person))
    assert get("service", "trap", "-n", mine.name)["spec"]["ports"]


def filters_in(tenant: Tenant) -> list[str]:
    """The names of the EnvoyFilters of a tenant's namespace."""
    return [item["metadata"]["name"] for item in get("envoyfilter", "-n", tenant.name)["items"]]


def test_11_a_pod_that_poses_as_a_gateway_does_not_count(tenants: Tenants, victim: Victim) -> None:
    """Another tenant's pod, with all marks of a gateway, in the tenant's namespace."""
    mine, other = tenants.c, tenants.b
    before = filters_in(mine)
    mine.make(posing_pod())
    mine.kubectl("wait", "pod/posing", "--for=condition=Ready", "--timeout=60s")
    other.apply(*who_server("posed", "192.0.2.33"))
    with victim.asked():
        exposed(other, "posed", other.ports[20])
        other.administered.expose("posed", "-p", f"{other.ports[21]}:53", "--name", "typed")
        words = ("-p", f"{other.ports[22]}:53", "--name", "other", "--gateway", "nowhere")
        missing = other.administered.expose("posed", *words, code=3)
        listed = other.administered.plugin("get", "typed")
    assert f"--gateway {mine.name}" not in missing.err
    assert f"{mine.name}/istio-ingressgateway (pods without a workload)" in missing.err
    assert f"{GATEWAY_NAMESPACE}/istio-ingressgateway" in listed.out
    assert filters_in(mine) == before
    assert other.administered.plugin("delete", "typed").code == 0
    mine.kubectl("delete", "pod", "posing", "--wait=false")


def forged_spec(victim: Victim, owner: Tenant, name: str, **changes: Any) -> str:
    """The spec of an exposure that a tenant would like to exist."""
    spec = {**spec_of(victim.tenant, victim.name), "entries": [], "discovery": "endpoints"}
    return json.dumps(spec | {"namespace": owner.name, "name": name, "service": name} | changes)


def spec_at(place: str, tenant: Tenant, name: str) -> dict[str, Any]:
    """The spec in the EnvoyFilter of a tenant's exposure in a namespace."""
    found = get("envoyfilter", object_name(tenant, name), "-n", place)
    return dict(json.loads(found["metadata"]["annotations"][SPEC]))


def udp_ports(place: str, name: str) -> list[int]:
    """The UDP ports of a Service."""
    ports = get("service", name, "-n", place)["spec"]["ports"]
    return [port["port"] for port in ports if port["protocol"] == "UDP"]


def test_07_a_tenants_entry_decides_nothing_of_an_administrators_expose(
    tenants: Tenants, victim: Victim
) -> None:
    """A ServiceEntry with the ports and settings that the tenant would like to get."""
    mine, port = tenants.c, tenants.b.ports[24]
    own = (GATEWAY_NAMESPACE, "istio-ingressgateway")
    patched = udp_ports(*own)
    mine.apply(*who_server("steered", "192.0.2.36"))
    spec = spec_of(victim.tenant, victim.name)
    forgery = forged_spec(
        victim, mine, "steered",
        ports=[{**spec["ports"][0], "gateway_port": 53, "listener_port": 10053}],
        options={**spec["options"], "session_log": True, "gateway_service": "patch"},
        gateway={"namespace": own[0], "name": own[1], "selector": {"istio": "ingressgateway"}},
    )  # fmt: skip
    labels = labelled(mine.name, "steered")
    with victim.asked():
        mine.make(entry(f"{object_name(mine, 'steered')}.x", labels, forgery))
        gateway = ("--gateway", "/".join(own))
        done = mine.administered.expose("steered", "-p", f"{port}:53", *gateway)
        assert f"ignoring the settings in ServiceEntry {mine.name}/" in done.err
        found = spec_at(own[0], mine, "steered")
        assert udp_ports(*own) == patched
        deleted = mine.administered.plugin("delete", "steered")
        assert deleted.code == 0, deleted.both
    assert [each["gateway_port"] for each in found["ports"]] == [port]
    assert not found["options"]["session_log"]
    assert found["options"]["gateway_service"] == "companion"


def test_07_an_exposure_forged_before_it_exists_is_a_stray(
    tenants: Tenants, victim: Victim
) -> None:
    """An EnvoyFilter in a tenant's namespace that looks as if `expose` had written it there."""
    mine, other = tenants.c, tenants.b
    mine.make(posing_pod())
    mine.kubectl("wait", "pod/posing", "--for=condition=Ready", "--timeout=60s")
    other.apply(*who_server("early", "192.0.2.37"))
    gateway = {"namespace": mine.name, "name": "edge", "selector": {"istio": "ingressgateway"}}
    with victim.asked():
        for name in ("early", "typed"):
            notes = {SPEC: forged_spec(victim, other, name, service="early", gateway=gateway)}
            about = {"name": object_name(other, name), "labels": labelled(other.name, name)}
            mine.make(
                {
                    "apiVersion": "networking.istio.io/v1alpha3",
                    "kind": "EnvoyFilter",
                    "metadata": {**about, "annotations": notes},
                    "spec": {"configPatches": []},
                }
            )
        before = get("envoyfilter", "-n", mine.name)["items"]
        exposed(other, "early", other.ports[25])
        typed = ("-p", f"{other.ports[26]}:53", "--name", "typed")
        done = other.administered.expose("early", *typed)
        assert f"gateways do not belong in namespace {mine.name}" in done.err
        listed = run("kubectl", "istio-udp", "get", "-A").out
        status = run("kubectl", "istio-udp", "controller", "status").out
        assert spec_at(other.gateway, other, "early")["gateway"]["namespace"] == other.gateway
        assert spec_at(GATEWAY_NAMESPACE, other, "typed")["ports"]
        assert get("envoyfilter", "-n", mine.name)["items"] == before
        assert other.administered.plugin("delete", "typed").code == 0
    exposures, _, strays = listed.partition("STRAY")
    assert f"{mine.name}/edge" not in exposures
    assert all(object_name(other, name) in strays for name in ("early", "typed")), strays
    assert "early" not in status, status
    mine.kubectl("delete", "pod", "posing", "--wait=false")
    mine.kubectl("delete", "envoyfilters", "--all")
    other.kubectl("annotate", "service", "early", "kubectl-istio-udp/expose-")


@pytest.fixture(autouse=True)
def _controller_stays(controller: str) -> Any:
    """No test may make the controller restart."""
    before = restarts()
    yield
    assert restarts() == before
