"""What a controller has made of any changes is what one makes that starts now."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kubectl_istio_udp.kube.client import Api
from tests.support import builders
from tests.support.apiserver import ApiServer
from tests.support.builders import endpoint, endpoint_slice
from tests.support.connection import connected
from tests.support.controlling import EXPOSE, space
from tests.support.effort import examples
from tests.support.mesh_builders import mesh_config
from tests.support.routed import AT_EDGE, TARGET, Routed, edge, routed, services
from tests.support.routes import backend, gateway, gateway_class, grant, listener, route

OLD, YOUNG = "2026-01-02T03:04:05Z", "2026-05-01T00:00:00Z"
SERVICES = [("team", "coredns"), ("team", "canary"), ("apps", "foreign")]
ROUTES = [("team", "dns", OLD), ("team", "young", YOUNG), ("apps", "far", YOUNG)]


@dataclass(frozen=True, repr=False)
class Change:
    """A change of the cluster: its description, and the function that makes it."""

    words: str
    make: Callable[[Routed], None]

    def __repr__(self) -> str:
        return self.words


def put(manifest: Any) -> Change:
    """Create or change an object, as a client does that does not write the status."""
    kind, about = manifest["kind"], manifest["metadata"]
    shown = {key: value for key, value in manifest.items() if key not in ("apiVersion", "metadata")}

    def change(running: Routed) -> None:
        held = running.server.get(kind, about.get("namespace", ""), about["name"]) or {}
        generation = held.get("metadata", {}).get("generation", 0)
        if held.get("spec") != manifest.get("spec"):
            generation += 1
        status = {key: held[key] for key in ("status",) if key in held}
        metadata = {**about, "generation": generation}
        running.server.put({**status, **manifest, "metadata": metadata})

    return Change(f"put {about['name']} {about.get('annotations', {})} {shown}", change)


def remove(kind: str, namespace: str, name: str) -> Change:
    def change(running: Routed) -> None:
        with contextlib.suppress(KeyError):
            running.server.remove(kind, namespace, name)

    return Change(f"remove {kind} {namespace}/{name}", change)


def settle(running: Routed) -> None:
    """Wait until the controllers have nothing left to do, at any later time."""
    for _ in range(3):
        running.quiet()
        running.clock.move(700.0)
    running.quiet()


def remade(kind: str) -> Change:
    """Somebody deletes what the controller created."""

    def change(running: Routed) -> None:
        for each in running.server.all(kind):
            about = each["metadata"]
            if about["name"].startswith("udp-"):
                running.server.remove(kind, about["namespace"], about["name"])

    return Change(f"remove the controller's {kind}s", change)


def annotated(of: tuple[str, str], ports: str, udp: Any) -> Change:
    notes = {EXPOSE: ports} if ports else {}
    found = builders.service(of[1], namespace=of[0], annotations=notes, ports=udp)
    return put(found)


def listed(of: tuple[str, str], addresses: list[str]) -> Change:
    return put(endpoint_slice(*map(endpoint, addresses), of=of[1], namespace=of[0]))


def permitted(name: str, notes: dict[str, str], labels: dict[str, str]) -> Change:
    found = space(name, **notes)
    found["metadata"]["labels"] = labels
    return put(found)


def routed_to(of: tuple[str, str, str], refs: list[Any], ports: list[int | None]) -> Change:
    namespace, name, created = of
    parents = [
        {"name": "udp", "namespace": "team", **({"port": port} if port else {})} for port in ports
    ]
    return put(route(*refs, name=name, namespace=namespace, created=created, parents=parents))


def taken(port: int) -> Change:
    """A listener of somebody else."""
    return put(
        {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": builders.metadata("istio-system", "somebodys"),
            "spec": {
                "workloadSelector": {"labels": builders.GATEWAY_LABELS},
                "configPatches": [
                    {
                        "applyTo": "LISTENER",
                        "match": {"context": "GATEWAY"},
                        "patch": {
                            "operation": "ADD",
                            "value": {
                                "name": "somebodys",
                                "address": {
                                    "socket_address": {
                                        "protocol": "UDP",
                                        "address": "0.0.0.0",
                                        "port_value": port,
                                    }
                                },
                            },
                        },
                    }
                ],
            },
        }
    )


PORTS = [5300, 5301]
addresses = st.lists(st.sampled_from(["10.1.4.1", "10.1.4.2", "172.16.0.9"]), unique=True)
refs = st.lists(
    st.builds(
        backend,
        st.sampled_from(["coredns", "canary", "gone"]),
        weight=st.sampled_from([0, 1, 3]),
    )
    | st.builds(backend, st.just("foreign"), namespace=st.just("apps")),
    min_size=1,
    max_size=3,
)
listeners = st.lists(
    st.builds(
        listener,
        st.sampled_from(["a", "b"]),
        st.sampled_from(PORTS),
        from_=st.sampled_from(["Same", "All"]),
    ),
    min_size=1,
    max_size=2,
    unique_by=(lambda each: each["name"], lambda each: each["port"]),
)
notes = st.fixed_dictionaries(
    {},
    optional={
        "kubectl-istio-udp/allow": st.sampled_from(["5300", "5301", "5300-5301", "x"]),
        "kubectl-istio-udp/allow-gateways": st.just("istio-system/edge"),
        "kubectl-istio-udp/allow-endpoints": st.just("172.16.0.0/12"),
        "kubectl-istio-udp/allow-total-ports": st.sampled_from(["1", "2"]),
    },
)


# Nearly every change matters to it.
BEGINNING = (
    gateway(listener("a", from_="All"), listener("b", 5301), annotations=TARGET),
    route(backend(), backend("foreign", namespace="apps")),
    route(backend("canary"), name="young", created=YOUNG),
    *services("team", "coredns", "canary"),
    *services("apps", "foreign"),
    grant(),
)


def changes() -> st.SearchStrategy[Change]:
    service = st.sampled_from(SERVICES)
    requests = st.sampled_from(["", "5300:53", "5301:53", "all", "x"])
    udp = st.sampled_from([None, [builders.udp(53, "other")], [builders.tcp(53)]])
    return st.one_of(
        st.builds(annotated, service, requests, udp),
        st.builds(lambda of: remove("Service", *of), service),
        st.builds(listed, service, addresses),
        st.builds(lambda of: remove("EndpointSlice", of[0], f"{of[1]}-abc"), service),
        st.builds(permitted, st.sampled_from(["team", "apps"]), notes, st.just({})),
        st.builds(
            lambda found, target: put(gateway(*found, annotations=target)),
            listeners,
            st.sampled_from([TARGET, AT_EDGE]),
        ),
        st.just(remove("Gateway.gateway.networking.k8s.io", "team", "udp")),
        st.builds(
            routed_to,
            st.sampled_from(ROUTES),
            refs,
            st.lists(st.sampled_from([None, *PORTS]), min_size=1, max_size=2, unique=True),
        ),
        st.builds(lambda of: remove("UDPRoute", *of[:2]), st.sampled_from(ROUTES)),
        st.just(put(grant())),
        st.just(put(grant(origin="other"))),
        st.just(remove("ReferenceGrant", "apps", "grant")),
        st.just(put(gateway_class())),
        st.just(put(gateway_class(controller="example.com/other"))),
        st.just(remove("GatewayClass", "", "istio-udp")),
        st.builds(
            lambda ready: put(
                builders.gateway_pod(
                    "edge-1", labels={"istio": "edge"}, ips=("10.244.0.8",), ready=ready
                )
            ),
            st.booleans(),
        ),
        st.just(remove("Pod", "istio-system", "edge-1")),
        st.builds(taken, st.sampled_from(PORTS)),
        st.just(remove("EnvoyFilter", "istio-system", "somebodys")),
        st.sampled_from([remade("EnvoyFilter"), remade("ServiceEntry"), remade("Service")]),
    )


def written(running: Routed, since: int) -> list[str]:
    """The writes since a number of them, without those of Events."""
    return [each for each in running.server.writes()[since:] if "/events/" not in each]


def state(running: Routed) -> list[str]:
    """Every object but Events, as lines of YAML."""
    objects = []
    for kind, namespace, name in sorted(running.server.there()):
        found = running.server.get(kind, namespace, name)
        for passing in ("managedFields", "resourceVersion"):
            found["metadata"].pop(passing, None)
        objects += [found] if kind != "Event" else []
    return yaml.safe_dump(objects).splitlines()


def check(running: Routed) -> None:
    """Replace the controller by one that starts now."""
    settle(running)
    before, count = state(running), len(running.server.writes())
    running.controllers.pop().stop()
    running.begin()
    settle(running)
    lines = difflib.unified_diff(before, state(running), lineterm="", n=8)
    assert not (more := written(running, count)), "\n".join(["", *more, *lines])


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Callable[[], tuple[Api, ApiServer]]]:
    servers: list[ApiServer] = []

    def made() -> tuple[Api, ApiServer]:
        for each in servers:
            each.stop()
        servers[:] = [ApiServer()]
        servers[0].put(builders.namespace("istio-system"), mesh_config())
        return connected(servers[0].kubeconfig(tmp_path / "kubeconfig")), servers[0]

    yield made
    for each in servers:
        each.stop()


# Changes at once, one after the other, and whether the controller has time between them.
steps = st.lists(st.tuples(changes(), st.booleans()), min_size=1, max_size=3)


@settings(
    max_examples=examples(4),
    deadline=None,
    # Shrinking takes minutes.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(made=st.lists(steps, min_size=1, max_size=6))
def test_a_controller_that_starts_has_nothing_to_change(
    clusters: Callable[[], tuple[Api, ApiServer]], made: list[list[tuple[Change, bool]]]
) -> None:
    api, server = clusters()
    spaces = [space(name) for name in ("team", "apps", "other")]
    with routed(api, server, *spaces, *edge()) as running:
        running.wait_for(longest_cooldown=0.1)
        running.begin(*BEGINNING)
        for step in made:
            for change, noticed in step:
                change.make(running)
                if noticed:
                    running.quiet()
            check(running)
