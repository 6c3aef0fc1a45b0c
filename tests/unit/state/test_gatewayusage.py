"""How many sessions of each gateway are reserved, and which pods are asked for it."""

from __future__ import annotations

import copy
import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.exposure import Discovery
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.names import object_name
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state.existing import list_exposures
from kubectl_istio_udp.state.gatewayusage import read_reserved
from kubectl_istio_udp.state.query_limit import QueryLimit
from tests.support.apiserver import ApiServer, Exec
from tests.support.builders import gateway_pod, plan_of
from tests.support.connection import connected
from tests.support.fakes import Fakes
from tests.support.waits import QUICK
from tests.unit.conftest import Run

LABELS = {f"l{number}": "x" for number in range(12)}


def exposures_in_lab(server: ApiServer, *kinds: str) -> None:
    """A pod that poses as a gateway, and an exposure for each of its labels."""
    server.put(gateway_pod("posing", namespace="lab", labels=LABELS))
    exposure = plan_of().exposure
    for number, label in enumerate(LABELS):
        name = f"e{number}"
        spec = replace(
            exposure.spec,
            namespace="lab",
            name=name,
            gateway=GatewayRef("lab", name, {label: "x"}),
            discovery=Discovery.ENDPOINTS,
            entries=(
                replace(exposure.spec.entries[0], namespace="lab", name=object_name("lab", name)),
            ),
        )
        for write in writes(replace(exposure, spec=spec)):
            if write.kind in kinds:
                server.put(copy.deepcopy(dict(write.manifest)))


class Pods:
    """The pods of the server: those in namespace lab never respond.

    Attributes:
        silent: the commands that pods in namespace lab were to run.
    """

    def __init__(self, server: ApiServer, fakes: Fakes) -> None:
        self.silent: list[list[str]] = []
        self._answer = fakes.run
        server.run = self.run

    def run(self, namespace: str, pod: str, container: str, command: list[str]) -> Exec:
        if namespace != "lab":
            return self._answer(namespace, pod, container, command)
        self.silent.append(command)
        return Exec(hangs=True)


@pytest.fixture
def pods(server: ApiServer, fakes: Fakes) -> Pods:
    return Pods(server, fakes)


@pytest.fixture
def impatient(kubeconfig: Path) -> Api:
    """An API whose queries of Envoys soon end."""
    return connected(kubeconfig, waits=replace(QUICK, envoy_answer=0.1))


def slow_clock() -> Any:
    """A clock on which every query takes long."""
    numbers, lock = itertools.count(0, 10), threading.Lock()

    def clock() -> float:
        with lock:
            return float(next(numbers))

    return clock


def test_two_silent_pods_of_a_namespace_are_queried(
    impatient: Api, server: ApiServer, pods: Pods
) -> None:
    exposures_in_lab(server, "ServiceEntry", "EnvoyFilter", "Service")
    found = list_exposures(impatient)
    reserved = read_reserved(impatient, found, QueryLimit(slow_clock()))
    assert len(found) == len(LABELS)
    assert [str(each).split()[-1] for each in reserved.values()] == ["?"] * len(LABELS)
    assert len(pods.silent) == 2


@pytest.mark.parametrize("kinds", [("ServiceEntry",), ("ServiceEntry", "Service")])
def test_for_an_exposure_without_envoy_filter_no_pod_is_queried(
    impatient: Api, server: ApiServer, pods: Pods, kinds: tuple[str, ...]
) -> None:
    exposures_in_lab(server, *kinds)
    found = list_exposures(impatient)
    assert len(found) == len(LABELS)
    assert read_reserved(impatient, found, QueryLimit()) == {}
    assert pods.silent == []


@pytest.mark.parametrize(
    "words", [("get", "-A", "-o", "wide"), ("get", "-A", "-o", "json"), ("describe", "-A")]
)
def test_commands_about_all_exposures_query_no_pod_that_a_tenant_names(
    run: Run, server: ApiServer, pods: Pods, words: tuple[str, ...]
) -> None:
    exposures_in_lab(server, "ServiceEntry")
    assert run("expose", "coredns", "-p", "5300:53").code == 0
    server.requests.clear()
    done = run(*words)
    assert done.code == 0, done.err
    assert pods.silent == []
    assert not [r for r in server.requests if "/namespaces/lab/pods/" in r.path]


def test_a_namespace_whose_pods_respond_is_queried_as_a_whole() -> None:
    """Whatever the order, and many at a time."""
    limit, waiting = QueryLimit(), threading.Barrier(4)
    for _ in range(2):
        limit.call("istio-system", "gateway", lambda: None)
    threads = [
        threading.Thread(target=lambda: limit.call("istio-system", "gateway", waiting.wait))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


def test_sessions_of_exposures_in_the_root_namespace_count(api: Api, server: ApiServer) -> None:
    """Their EnvoyFilters apply to gateways of every namespace, as the checks of `expose` know."""
    labels = {"app": "edge"}
    server.put(gateway_pod("edge-1", namespace="lab", labels=labels))
    exposure = plan_of(max_sessions=500).exposure
    for namespace in ("lab", "istio-system"):
        place = GatewayRef(namespace, "edge", labels)
        entry = replace(exposure.spec.entries[0], name=object_name("default", namespace))
        spec = replace(exposure.spec, name=namespace, gateway=place, entries=(entry,))
        for write in writes(replace(exposure, spec=spec)):
            server.put(copy.deepcopy(dict(write.manifest)))
    reserved = read_reserved(api, list_exposures(api), QueryLimit())
    assert reserved["default", "lab"].sessions == 1000
