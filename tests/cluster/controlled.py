"""The controller as a Deployment in the cluster, for the tests that need it there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from conftest import (
    Space,
    _namespace,
    companion,
    dns_server,
    eventually,
    get,
    kubectl,
    own_objects,
    run,
    service,
)
from gateways import gateway_manifests, install_gateway_api

IMAGE = os.environ.get("E2E_CONTROLLER_IMAGE", "")
NAMESPACE = "istio-udp"
LABEL = "app.kubernetes.io/name=kubectl-istio-udp-controller"
LEASE = "kubectl-istio-udp-controller"
EXPOSE, ALLOW = "kubectl-istio-udp/expose", "kubectl-istio-udp/allow"
SOURCE = "kubectl-istio-udp/source"


@pytest.fixture(scope="session")
def controller() -> Iterator[str]:
    """The controller, installed for the test and removed completely afterwards.

    It serves a separate gateway, at which nobody else exposes anything. Returns its namespace.
    There is one controller in the cluster, so all tests with it are of one group. It serves the
    Gateway API.
    """
    install_gateway_api()
    assert IMAGE, "E2E_CONTROLLER_IMAGE does not name the controller's image"
    with _namespace("edge") as gateway:
        Space(gateway, "").apply(*gateway_manifests("edge", "edge"))
        where = ("--image", IMAGE, "--gateway-namespace", gateway)
        words = (*where, "--timeout", "90s", "--gateway-api")
        done = run("kubectl", "istio-udp", "controller", "install", *words)
        assert done.code == 0, done.both
        eventually("a replica leads", leader)
        yield gateway
        _uninstall(gateway)


def _uninstall(gateway: str) -> None:
    done = run("kubectl", "istio-udp", "controller", "uninstall")
    assert done.code == 0, done.both
    for kind in ("envoyfilters", "serviceentries", "services"):
        assert get(kind, "-n", gateway, "-l", f"{SOURCE}=service")["items"] == []
    for kind in ("clusterroles", "clusterrolebindings", "roles", "rolebindings", "deployments"):
        assert get(kind, "-A", "-l", LABEL)["items"] == []
    # The next one installs into a namespace of this name.
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s")


def leader() -> str:
    """The leading pod; "" if there is none."""
    lease = run("kubectl", "get", "lease", "-n", NAMESPACE, LEASE, "-o", "yaml")
    spec = yaml.safe_load(lease.out)["spec"] if lease.code == 0 else {}
    holder = str(spec.get("holderIdentity") or "")
    return holder.rpartition("-")[0]


def replicas() -> list[dict[str, Any]]:
    """The controller's pods."""
    return list(get("pods", "-n", NAMESPACE, "-l", LABEL)["items"])


def logs() -> str:
    """The logs of all replicas, with those of containers before a restart."""
    words = ["logs", "-n", NAMESPACE, "-l", LABEL, "--tail=-1"]
    return kubectl(*words) + kubectl(*words, "--previous", ok=False)


@contextlib.contextmanager
def permitted(tool: str, port: int, gateway: str) -> Iterator[Space]:
    """A namespace that may expose a port and the nine after it.

    Its exposures are deleted with its namespace; one test checks that.
    """
    with _namespace("e2e") as name:
        allow(name, f"{port}-{port + 9}")
        yield Space(name, tool, gateway)


@pytest.fixture
def tenant(controller: str, tool: str, port: int) -> Iterator[Space]:
    """A namespace that may expose its `port` and the nine after it."""
    with permitted(tool, port, controller) as space:
        yield space


def allow(namespace: str, ports: str) -> None:
    kubectl("annotate", "namespace", namespace, "--overwrite", f"{ALLOW}={ports}")


def request_exposure(space: Space, name: str, ports: str, **options: str) -> None:
    """Annotate a Service."""
    options = {"max_sessions": "500", "gateway": f"{space.gateway}/edge", **options}
    notes = [f"{EXPOSE}={ports}"]
    notes += [f"kubectl-istio-udp/{k.replace('_', '-')}={v}" for k, v in options.items()]
    kubectl("annotate", "service", "-n", space.name, name, "--overwrite", *notes)


def withdraw(space: Space, name: str) -> None:
    kubectl("annotate", "service", "-n", space.name, name, f"{EXPOSE}-", ok=False)


def events(space: Space, name: str) -> str:
    """The Events of a Service, one line each: `REASON: message`."""
    found = get("events", "-n", space.name, "--field-selector", f"involvedObject.name={name}")
    return "\n".join(f"{e['reason']}: {e['message']}" for e in found["items"])


def entries(space: Space, name: str) -> list[dict[str, Any]]:
    """The ServiceEntries of an exposure with listed endpoints, in the gateway's namespace."""
    selector = f"kubectl-istio-udp/namespace={space.name},kubectl-istio-udp/exposure={name}"
    return list(get("serviceentries", "-n", space.gateway, "-l", selector)["items"])


@dataclass(frozen=True)
class Switch:
    """Two servers with different answers, and a Service with one of them in its EndpointSlice.

    The server that answers through the gateway shows whether the last change has arrived.

    Attributes:
        space: the namespace.
        name: the Service.
        addresses: the pod's address of each server.
        others: addresses and ports of further exposures that send to the Service.
    """

    space: Space
    name: str
    addresses: dict[str, str]
    others: tuple[tuple[str, int], ...] = ()

    def point(self, to: str) -> None:
        """List one server's address, and no other."""
        piece = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{self.name}-by-hand",
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": "IPv4",
            "ports": [{"name": "dns-53", "port": 53, "protocol": "UDP"}],
            "endpoints": [{"addresses": [self.addresses[to]]}],
        }
        self.space.apply(piece)

    def answers(self) -> str:
        """The server that answers through all exposures; "" if none does, or not the same one."""
        targets = (companion(self.space, self.name), *self.others)
        found = {self._answers(*target) for target in targets}
        return found.pop() if len(found) == 1 else ""

    def _answers(self, address: str, port: int) -> str:
        namespace, _, pod = self.space.tool.partition("/")
        words = ["kubectl", "exec", "-n", namespace, pod, "--"]
        words += ["dig", f"@{address}", "-p", str(port), "plain.example", "+short"]
        out = run(*words, "+timeout=1", "+tries=1").out.strip()
        return {"192.0.2.1": "a", "192.0.2.2": "b"}.get(out, "")

    def listed(self) -> str:
        """Which server the ServiceEntry lists now."""
        (own,) = entries(self.space, self.name)
        addresses = [entry["address"] for entry in own["spec"]["endpoints"]]
        return next((n for n, address in self.addresses.items() if addresses == [address]), "")

    def wait(self, which: str, seconds: float = 30) -> None:
        eventually(f"{which} answers", lambda: self.answers() == which, seconds)


@pytest.fixture
def switch(tenant: Space, port: int) -> Switch:
    """Exposed, and answered by `a`."""
    return make_switch(tenant, port)


def make_switch(tenant: Space, port: int) -> Switch:
    """Expose a switch at a permitted port of a namespace; `a` answers."""
    a, b = dns_server("a"), dns_server("b")
    b[0]["data"]["Corefile"] = b[0]["data"]["Corefile"].replace("192.0.2.1", "192.0.2.2")
    listed = service("dns")
    del listed["spec"]["selector"]
    tenant.apply(*a, *b, listed)
    addresses = {
        name: get("pods", "-n", tenant.name, "-l", f"app={name}")["items"][0]["status"]["podIP"]
        for name in ("a", "b")
    }
    made = Switch(tenant, "dns", addresses)
    made.point("a")
    request_exposure(tenant, "dns", f"{port}:53")
    eventually("it is exposed", lambda: len(own_objects(tenant)) == 3)
    made.wait("a")
    return made
