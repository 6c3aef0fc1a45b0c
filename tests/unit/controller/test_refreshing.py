"""The endpoints of exposures that otherwise stay as they are."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

from kubectl_istio_udp.controller.objects import MANAGER
from kubectl_istio_udp.model.names import object_name
from tests.support.builders import endpoint, endpoint_slice, pod, udp
from tests.support.controlling import (
    NAME,
    Running,
    annotated,
    expose_by_hand,
    space,
    until,
)
from tests.unit.test_golden import given_in
from tests.unit.test_version1 import stored
from tests.unit.test_version1 import write as write_version_1


def test_of_a_command_line_exposure_only_the_list_of_endpoints_is_updated(running: Running) -> None:
    name = object_name("default", "mine")
    expose_by_hand(running.server, "endpoints", "mine")
    running.start()
    running.server.put(endpoint_slice(endpoint("10.244.0.77")))
    until(lambda: running.addresses(name) == ["10.244.0.77"])
    running.quiet()
    running.server.remove("EnvoyFilter", "istio-system", name)
    running.server.put(endpoint_slice(endpoint("10.244.0.78")))
    until(lambda: running.addresses(name) == ["10.244.0.78"])
    running.server.remove("ServiceEntry", "istio-system", name)
    running.server.put(endpoint_slice(endpoint("10.244.0.79")))
    running.quiet()
    assert running.entry(name) is None and running.filter(name) is None


def test_a_change_of_endpoints_is_written_without_planning(running: Running) -> None:
    controller = running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    running.quiet()
    planned: list[Any] = []
    controller._reconciler.reconcile = planned.append  # type: ignore[method-assign, assignment]
    running.server.put(endpoint_slice(endpoint("10.244.0.77"), endpoint("10.244.0.78")))
    until(lambda: running.addresses() == ["10.244.0.77", "10.244.0.78"])
    running.server.put(endpoint_slice(endpoint("10.244.0.78")))
    until(lambda: running.addresses() == ["10.244.0.78"])
    running.quiet()
    assert not planned


def test_a_tenants_service_entry_does_not_count_for_a_command_line_exposure(
    running: Running,
) -> None:
    """A ServiceEntry in the tenant's namespace, with the labels and a name of the exposure's."""
    name, foreign = object_name("default", "mine"), "203.0.113.9"
    expose_by_hand(running.server, "endpoints", "mine")
    forged = copy.deepcopy(running.entry(name))
    forged["metadata"] |= {"namespace": "default", "name": f"{name}.1"}
    forged["spec"]["endpoints"] = [{"address": foreign}]
    running.server.put(forged)
    running.start()
    running.server.put(endpoint_slice(endpoint("10.244.0.77"), endpoint(foreign)))
    until(lambda: running.addresses(name) == ["10.244.0.77"])
    running.quiet()
    assert running.addresses(name) == ["10.244.0.77"]


def test_an_address_that_another_namespaces_pod_gets_is_no_endpoint_any_longer(
    running: Running,
) -> None:
    """Although the Service still lists it: its own pod had it, and its owner may keep it there."""
    name, freed, kept = object_name("default", "mine"), "203.0.113.9", "203.0.113.10"
    expose_by_hand(running.server, "endpoints", "mine")
    running.server.put(space("elsewhere"), endpoint_slice(endpoint(freed), endpoint(kept)))
    entry = running.entry(name)
    entry["spec"]["endpoints"] = [{"address": freed}, {"address": kept}]
    running.server.put(entry)
    running.start()
    running.quiet()
    assert sorted(running.addresses(name)) == sorted([freed, kept])
    other = pod("newcomer", namespace="elsewhere")
    other["status"] |= {"podIP": freed, "podIPs": [{"ip": freed}]}
    running.server.put(other)
    until(lambda: running.addresses(name) == [kept])
    running.server.remove("Pod", "elsewhere", "newcomer")
    running.quiet()
    assert running.addresses(name) == [kept]


def test_a_list_deleted_during_an_update_is_not_created_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = object_name("default", "mine")
    expose_by_hand(running.server, "endpoints", "mine")
    controller = running.start()
    running.server.put(endpoint_slice(endpoint("10.244.0.77")))
    until(lambda: running.addresses(name) == ["10.244.0.77"])
    running.quiet()
    find = controller.caches.find
    lost: list[str] = []

    def find_and_lose(kind: str, namespace: str, wanted: str) -> Any:
        found = find(kind, namespace, wanted)
        if found and kind == "ServiceEntry" and not lost:
            running.server.remove(kind, namespace, wanted)
            lost.append(wanted)
            until(lambda: find(kind, namespace, wanted) is None)
        return found

    monkeypatch.setattr(controller.caches, "find", find_and_lose)
    running.server.put(endpoint_slice(endpoint("10.244.0.78")))
    until(lambda: lost)
    running.quiet()
    assert running.entry(name) is None


def test_a_command_line_entry_keeps_its_ports(running: Running) -> None:
    """The addresses alone say no port; the entry does."""
    name = object_name("default", "mine")
    expose_by_hand(running.server, "endpoints", "mine")
    edited = running.entry(name)
    edited["spec"]["ports"][0]["targetPort"] = 5353
    running.server.put(edited)
    running.start()
    until(lambda: running.entry(name)["spec"]["ports"][0]["targetPort"] == 53)
    assert running.quiet() == [running.server.writes()[0]]


def test_a_list_deleted_before_the_watch_event_is_not_created_again(running: Running) -> None:
    """The watch has not delivered it yet, so the write names the object's uid."""
    name = object_name("default", "mine")
    expose_by_hand(running.server, "endpoints", "mine")
    controller = running.start()
    running.quiet()
    running.server.fail("GET", "serviceentries.*watch=true", 500)
    running.server.cut_watches()
    until(lambda: running.server.watching() == 5)
    running.server.remove("ServiceEntry", "istio-system", name)
    running.server.put(endpoint_slice(endpoint("10.244.0.77")))
    until(lambda: controller.states()["failed"])
    assert running.entry(name) is None
    running.server.heal()
    until(lambda: controller.states()["failed"] == 0)
    assert running.entry(name) is None


def test_an_exposure_of_version_1_is_migrated(running: Running) -> None:
    """Its ServiceEntry moves to where tenants cannot write, with another host and an address."""
    for manifest in stored("selector"):
        manifest["metadata"]["labels"]["kubectl-istio-udp/source"] = "service"
        key = ("", manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        running.server.apply((manifest["kind"], *key[1:]), manifest, MANAGER, False, False)
    running.server.put(space("default", "53"), annotated(ports="53"))
    running.start()
    entry = until(running.entry)
    assert entry["spec"]["addresses"] and entry["spec"]["exportTo"] == ["."]
    until(lambda: running.server.get("ServiceEntry", "default", NAME) is None)
    (host,) = entry["spec"]["hosts"]
    assert host.endswith(".coredns.default.kubectl-istio-udp.internal")
    assert running.spec().entries[0].host == host
    assert running.addresses() == ["10.244.0.20", "10.244.0.21"]


@pytest.mark.parametrize("case", ["selector", "endpoints-selectorless"])
def test_a_command_line_exposure_of_version_1_is_migrated(running: Running, case: str) -> None:
    """Nothing but its ServiceEntry and the cluster behind it changes."""
    running.server.put(*given_in(case)["objects"])
    write_version_1(running.server, case)
    before = running.spec()
    running.start()
    until(lambda: running.spec().entries[0].addresses)
    running.quiet()
    (entry,) = running.server.all("ServiceEntry")
    after = running.spec()
    assert entry["spec"]["addresses"] == list(after.entries[0].addresses)
    assert entry["spec"].get("endpoints") or entry["spec"]["workloadSelector"]
    assert dataclasses.replace(after, entries=before.entries) == before
    assert "kubectl-istio-udp/source" not in running.filter()["metadata"]["labels"]


def test_an_exposure_that_is_being_deleted_is_not_migrated(running: Running) -> None:
    write_version_1(running.server, "selector")
    running.server.remove("Service", "istio-system", NAME)
    running.start()
    assert running.quiet() == []


def test_renaming_a_port_keeps_the_endpoints(running: Running) -> None:
    """Also while the EndpointSlices still have the former name, and for a person's exposure."""
    expose_by_hand(running.server, "endpoints", "mine")
    mine = object_name("default", "mine")
    running.start()
    running.server.put(annotated(ports="5301:53"))
    running.exposed()
    both = ["10.244.0.20", "10.244.0.21"]
    running.quiet()
    renamed = annotated(ports="5301:53")
    renamed["spec"]["ports"] = [udp(53, "dns")]
    running.server.put(renamed)
    until(lambda: running.spec().ports[0].service_port_name == "dns")
    assert running.addresses() == running.addresses(mine) == both
    port = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    running.server.put(endpoint_slice(endpoint("10.244.0.30"), ports=port))
    until(lambda: running.addresses() == running.addresses(mine) == ["10.244.0.30"])
