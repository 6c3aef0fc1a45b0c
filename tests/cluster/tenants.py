"""Three tenants that share a gateway and do not trust each other, and a victim among them.

A tenant acts with the rights that a team usually has in its namespace: the ClusterRole `admin`,
Istio's objects and EndpointSlices. The administrator lets the first two expose some ports, the
third none. No tenant may make the victim lose an answer.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from conftest import (
    PORTS_APART,
    LoadPod,
    Result,
    Space,
    _namespace,
    companion,
    dns_server,
    eventually,
    kubectl,
    own_objects,
    plugin,
    run,
)
from controlled import allow, controller, request_exposure

from tests.support.rights import rights

__all__ = ["Tenant", "Tenants", "Victim", "controller", "tenants", "victim"]

QUERIES_PER_SECOND = 100
PORTS_EACH = 50


@dataclass(frozen=True)
class Tenant(Space):
    """A tenant's namespace, used with the tenant's rights only."""

    ports: range = range(0)

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.name}:tenant"

    def kubectl(self, *words: str, stdin: str | None = None, ok: bool = True) -> str:
        """Run kubectl as the tenant, in its namespace."""
        return kubectl(*words, "-n", self.name, "--as", self.user, stdin=stdin, ok=ok)

    def make(self, *manifests: dict[str, Any]) -> None:
        """Apply manifests as the tenant; server-side, so that annotations may have any size."""
        for manifest in manifests:
            manifest["metadata"].setdefault("namespace", self.name)
        # JSON: a megabyte of YAML takes a second to write, and kubectl as long to read.
        listed = {"apiVersion": "v1", "kind": "List", "items": manifests}
        words = ("apply", "--server-side", "--force-conflicts", "-f", "-")
        self.kubectl(*words, stdin=json.dumps(listed))

    @property
    def administered(self) -> Space:
        """The same namespace, used by the cluster's administrator."""
        return Space(self.name, self.tool, self.gateway)

    def plugin(self, *words: str) -> Result:
        """`kubectl istio-udp ...` as the tenant."""
        return plugin(*words, "-n", self.name, "--as", self.user)


@dataclass(frozen=True)
class Tenants:
    """The three: `a` and `b` may expose their `ports`, `c` may expose nothing."""

    a: Tenant
    b: Tenant
    c: Tenant

    def __iter__(self) -> Iterator[Tenant]:
        return iter((self.a, self.b, self.c))


@pytest.fixture(scope="module")
def tenants(controller: str, tool: str, _ports: Iterator[int]) -> Iterator[Tenants]:
    """Three tenants of the controller's gateway; exposures are deleted with their namespaces."""
    with contextlib.ExitStack() as stack:
        made = []
        port, *_ = [next(_ports) for _ in range(2 * PORTS_EACH // PORTS_APART)]
        for number, letter in enumerate("abc"):
            first = port + number * PORTS_EACH
            ports = range(first, first + PORTS_EACH) if letter != "c" else range(0)
            name = stack.enter_context(_namespace(f"tenant-{letter}"))
            kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(rights(name)))
            if ports:
                allow(name, f"{ports[0]}-{ports[-1]}")
            made.append(Tenant(name, tool, controller, ports))
        yield Tenants(*made)
        for tenant in made:
            run("kubectl", "istio-udp", "delete", "-n", tenant.name, "--all", "--no-wait")


def who_server(name: str, address: str) -> list[dict[str, Any]]:
    """A DNS server with a unique answer for who.test."""
    made = dns_server(name)
    hosts = f"  hosts {{\n    {address} who.test foo.bar.com\n    fallthrough\n  }}\n"
    made[0]["data"]["Corefile"] = (
        f".:53 {{\n{hosts}  ready :8181\n  health :8080 {{\n    lameduck 5s\n  }}\n}}\n"
    )
    return made


@dataclass(frozen=True)
class Victim:
    """Tenant `a`'s exposed DNS Service, which is queried continuously."""

    tenant: Tenant
    name: str
    answer: str
    load: LoadPod

    @property
    def target(self) -> tuple[str, int]:
        """Where its clients send."""
        return companion(self.tenant, self.name)

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """Query it 100 times a second, each time as another client; no answer may be lost."""
        with self.load.asking(self.target, QUERIES_PER_SECOND) as counts:
            yield
        assert counts["lost"] == 0, counts
        assert self.says() == self.answer

    def says(self) -> str:
        """The server that answers through the gateway."""
        namespace, _, pod = self.tenant.tool.partition("/")
        address, port = self.target
        words = ["kubectl", "exec", "-n", namespace, pod, "--"]
        words += ["dig", f"@{address}", "-p", str(port), "who.test", "+short", "+timeout=2"]
        return run(*words).out.strip()


@pytest.fixture
def victim(tenants: Tenants, load_pod: LoadPod) -> Victim:
    """A tenant's Service that is exposed and answers again, whatever the previous test did."""
    tenant = tenants.a
    allow(tenant.name, f"{tenant.ports[0]}-{tenant.ports[-1]}")
    sessions = "kubectl-istio-udp/allow-sessions=4000"
    kubectl("annotate", "namespace", tenant.name, "--overwrite", sessions)
    tenant.apply(*who_server("dns", "192.0.2.1"))
    request_exposure(tenant, "dns", f"{tenant.ports[0]}:53", max_sessions="4000")
    made = Victim(tenant, "dns", "192.0.2.1", load_pod)
    eventually("the victim is exposed", lambda: _companion(tenant, "dns"), 30)
    eventually("the victim answers", lambda: made.says() == made.answer, 30)
    return made


def _companion(tenant: Tenant, name: str) -> bool:
    return any(item.startswith(f"services {tenant.gateway}/") for item in own_objects(tenant))
