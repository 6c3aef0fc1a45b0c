"""The controller with an API server in this process: what it writes and when, and its Events."""

from __future__ import annotations

import copy
import itertools
import threading
from collections import Counter
from typing import Any

import pytest

from kubectl_istio_udp.controller.reconcile import Reconciler
from kubectl_istio_udp.controller.reserving import Reserver
from kubectl_istio_udp.model.names import object_name
from tests.support import builders
from tests.support.builders import endpoint, endpoint_slice
from tests.support.controlling import (
    NAME,
    Running,
    annotated,
    expose_by_hand,
    space,
    until,
)


def test_a_request_becomes_an_exposure_with_an_event(running: Running) -> None:
    running.start()
    running.server.put(annotated())
    running.exposed()
    assert running.addresses() == ["10.244.0.20", "10.244.0.21"]
    labels = running.filter()["metadata"]["labels"]
    assert labels["kubectl-istio-udp/source"] == "service"
    assert "5300:53/UDP at gateway istio-system/istio-ingressgateway" in running.tells("Exposed")


def test_what_it_writes_itself_is_not_reconciled_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciled: Counter[Any] = Counter()
    before = Reconciler.reconcile

    def counted(self: Reconciler, key: Any, requested: Any) -> Any:
        reconciled[key] += 1
        return before(self, key, requested)

    monkeypatch.setattr(Reconciler, "reconcile", counted)
    # Numbers of sessions that do not depend on what the others get meanwhile.
    running.server.put(space("default", **{"kubectl-istio-udp/allow-total-sessions": "60000"}))
    options = {"discovery": "endpoints", "max-sessions": "100"}
    named = [f"n{number}" for number in range(5)]
    for number, name in enumerate(named):
        asked = annotated(name, f"{5300 + number}:53", options=options)
        running.server.put(asked, endpoint_slice(endpoint("10.0.0.1"), of=name))
    running.start()
    for name in named:
        running.exposed(object_name("default", name))
    running.quiet()
    assert {key: count for key, count in reconciled.items() if key[0] == "default"} == {
        ("default", name): 1 for name in named
    }


def test_requests_at_the_same_time_share_the_sessions_of_their_namespace(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another exposure took the planned sessions meanwhile, it is planned again."""
    names, calls = ("a", "b", "c"), itertools.count()
    all_planned, before = threading.Barrier(len(names)), Reserver.hold

    def hold(self: Reserver, *arguments: Any) -> Any:
        if next(calls) < len(names):
            all_planned.wait(30)
        return before(self, *arguments)

    monkeypatch.setattr(Reserver, "hold", hold)
    running.server.put(space("default", **{"kubectl-istio-udp/allow-total-sessions": "1000"}))
    for number, name in enumerate(names):
        running.server.put(annotated(name, f"{5300 + number}:53"))
    running.start()
    for name in names:
        running.exposed(object_name("default", name))
    assert sum(running.spec(object_name("default", name)).sessions for name in names) <= 1000


@pytest.mark.parametrize("kind", ["ServiceEntry", "EnvoyFilter", "Service"])
def test_an_object_that_does_not_become_as_planned_is_written_again(
    running: Running, kind: str
) -> None:
    changed: list[Any] = []

    def admit(manifest: Any) -> str:
        """Change the first object of the kind, as a webhook might."""
        if manifest["kind"] == kind and manifest["metadata"]["name"] == NAME and not changed:
            changed.append(manifest)
            manifest["metadata"]["labels"]["kubectl-istio-udp/source"] = "webhook"
        return ""

    running.server.admit = admit
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    until(lambda: changed)

    def source() -> Any:
        found = running.server.get(kind, "istio-system", NAME)
        return found and found["metadata"]["labels"]["kubectl-istio-udp/source"]

    until(lambda: source() == "service")


def test_an_idle_controller_sends_no_requests(running: Running) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    running.quiet()
    before = len(running.server.requests)
    running.clock.move(600.0)
    running.quiet()
    assert len(running.server.requests) == before
    # Changes without meaning cause no writes either.
    found = running.server.get("Service", "default", "coredns")
    running.server.put(found)
    running.quiet()
    assert len(running.server.requests) == before


@pytest.mark.parametrize("kind", ["EnvoyFilter", "Service", "ServiceEntry"])
def test_drift_is_repaired(running: Running, kind: str) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    running.quiet()
    namespace = "istio-system"
    whole = running.server.get(kind, namespace, NAME)["spec"]
    running.server.remove(kind, namespace, NAME)
    until(lambda: running.server.get(kind, namespace, NAME))
    edited = running.server.get(kind, namespace, NAME)
    for field in ("endpoints", "configPatches", "ports"):
        if field in edited["spec"]:
            edited["spec"][field] = edited["spec"][field][:-1]
    running.server.put(edited)
    until(lambda: _same(running.server.get(kind, namespace, NAME)["spec"], whole))
    running.quiet()
    relabelled = running.server.get(kind, namespace, NAME)
    relabelled["metadata"]["annotations"]["kubectl-istio-udp/spec"] = "{}"
    running.server.put(relabelled)
    until(
        lambda: (
            running.server.get(kind, namespace, NAME)["metadata"]["annotations"][
                "kubectl-istio-udp/spec"
            ]
            != "{}"
        )
    )


def _same(one: Any, other: Any) -> bool:
    drop = ("clusterIP",)
    return {k: v for k, v in one.items() if k not in drop} == {
        k: v for k, v in other.items() if k not in drop
    }


def test_a_malformed_request_keeps_the_exposure_while_it_is_allowed(running: Running) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    running.server.put(annotated(ports="nonsense"))
    running.tells("ExposeInvalid")
    running.server.put(endpoint_slice(endpoint("10.244.0.30")))
    until(lambda: running.addresses() == ["10.244.0.30"])
    assert running.filter()
    running.server.put(space("default", None))
    until(lambda: not running.filter() and not running.entry())


def test_another_envoy_filter_with_the_name_is_not_changed(running: Running) -> None:
    theirs = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": NAME, "namespace": "istio-system", "labels": {"theirs": "1"}},
        "spec": {"configPatches": []},
    }
    running.server.put(theirs)
    running.start()
    running.server.put(annotated())
    assert "does not belong to exposure coredns" in running.tells("ExposeRefused")
    running.quiet()
    assert running.filter()["metadata"]["labels"] == {"theirs": "1"}
    assert running.entry() is None
    running.server.remove("EnvoyFilter", "istio-system", NAME)
    running.exposed()


def test_forged_labels_in_a_tenants_namespace_change_no_other_exposure(running: Running) -> None:
    """A tenant's ServiceEntry that claims to be another namespace's exposure changes nothing."""
    running.server.put(space("victim"), annotated(namespace="victim"))
    running.server.put(endpoint_slice(endpoint("10.0.0.9"), namespace="victim"))
    running.start()
    victims = object_name("victim", "coredns")
    running.exposed(victims)
    forged = running.server.get("ServiceEntry", "istio-system", victims)
    forged["metadata"] = {**forged["metadata"], "namespace": "default"}
    running.quiet()
    before = running.server.state()
    running.server.put(forged)
    running.server.remove("ServiceEntry", "default", victims)
    running.quiet()
    assert running.server.state() == before
    # The victim's objects are still in the caches.
    running.server.remove("Service", "victim", "coredns")
    until(lambda: not running.filter(victims) and not running.entry(victims))


def test_an_exposure_of_the_command_line_is_not_taken_over(running: Running) -> None:
    expose_by_hand(running.server, "selector")
    running.quiet()
    before = running.filter()
    running.start()
    running.server.put(annotated(ports="5301:53"))
    assert "was created with" in running.tells("ExposeRefused")
    running.server.put(builders.service())
    running.quiet()
    assert running.filter() == before


def test_a_port_on_the_gateways_own_service(running: Running) -> None:
    running.start(defaults={"allow-gateway-service": "patch,none"})
    running.server.put(annotated(options={"gateway-service": "patch"}))

    def patched() -> bool:
        ports = running.companion("istio-ingressgateway")["spec"]["ports"]
        return any(port["port"] == 5300 for port in ports)

    until(patched)
    running.quiet()
    running.server.put(annotated(options={"gateway-service": "none"}))
    until(lambda: not patched())
    running.server.put(annotated(options={"gateway-service": "patch"}))
    until(patched)
    running.server.put(builders.service())
    until(lambda: not patched() and not running.filter())


def test_an_edit_that_an_apply_cannot_undo_is_undone(running: Running) -> None:
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    running.quiet()
    name, namespace = NAME, running.entry()["metadata"]["namespace"]

    def istiod(manifest: dict[str, Any]) -> str:
        both = {"endpoints", "workloadSelector"} <= set(manifest.get("spec") or ())
        return "only one of WorkloadSelector or Endpoints is allowed" if both else ""

    running.server.admit = istiod
    before = running.entry()["spec"]
    edited = running.entry()
    del edited["spec"]["endpoints"]
    edited["spec"]["workloadSelector"] = {"labels": {"app": "evil"}}
    running.server.put(edited)
    until(lambda: running.server.get("ServiceEntry", namespace, name)["spec"] == before)
    edited = running.filter()
    edited["spec"]["priority"] = 5
    running.server.put(edited)
    until(lambda: "priority" not in running.filter()["spec"])
    until(lambda: controller.states() == {"ok": 1})


@pytest.mark.parametrize(
    ("kind", "part", "field", "value"),
    [
        ("Service", "spec", "selector", {"x": "y"}),
        ("EnvoyFilter", "metadata", "labels", {"istio.io/rev": "other"}),
        ("ServiceEntry", "metadata", "labels", {"istio.io/rev": "other"}),
        ("EnvoyFilter", "spec", "workloadSelector", {"labels": {"x": "y"}}),
    ],
)
def test_an_added_field_is_removed(
    running: Running, kind: str, part: str, field: str, value: dict[str, Any]
) -> None:
    """With it, the Service selects no pod, and the gateway's istiod ignores the object."""
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    running.quiet()
    key = (kind, "istio-system", NAME)
    before = running.server.get(*key)[part][field]
    patch = {"metadata": {}, part: {field: value}}
    running.server.merge(key, patch, "kubectl-patch")
    until(lambda: running.server.get(*key)[part][field] == before)
    until(lambda: controller.states() == {"ok": 1})
    running.quiet()
    assert running.server.get(*key)[part][field] == before


def test_an_entry_of_a_tenant_keeps_no_added_revision(running: Running) -> None:
    """In the Service's namespace the cache only keeps a part of each ServiceEntry."""
    running.start(allow_all=True)
    running.server.put(annotated())
    running.exposed()
    running.quiet()
    key = ("ServiceEntry", "default", NAME)
    patch = {"metadata": {"labels": {"istio.io/rev": "other"}}}
    running.server.merge(key, patch, "kubectl-patch")
    until(lambda: "istio.io/rev" not in running.server.get(*key)["metadata"]["labels"])


def test_a_label_with_the_gateways_revision_stays(running: Running) -> None:
    """A webhook that adds it to all of Istio's objects does not delay endpoints."""

    def stamped(manifest: dict[str, Any]) -> str:
        if manifest["kind"] in ("EnvoyFilter", "ServiceEntry"):
            manifest["metadata"].setdefault("labels", {})["istio.io/rev"] = "default"
        return ""

    running.wait_for(cooldown=600.0)
    running.server.admit = stamped
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    until(lambda: controller.states() == {"ok": 1})
    running.quiet()
    running.server.put(endpoint_slice(endpoint("10.244.0.30")))
    until(lambda: running.addresses() == ["10.244.0.30"])
    running.quiet()
    assert controller.states() == {"ok": 1}
    assert running.filter()["metadata"]["labels"]["istio.io/rev"] == "default"


@pytest.mark.parametrize("hosts_before", [0, 8, 255])
@pytest.mark.parametrize("restarted", [False, True])
def test_reports_a_second_entry_with_the_host(
    running: Running, hosts_before: int, restarted: bool
) -> None:
    """Also after as many other hosts as a ServiceEntry may have, and if it existed before."""
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    running.tells("Exposed")
    if restarted:
        controller.stop()
        running.controllers.remove(controller)
    (host,) = running.entry()["spec"]["hosts"]
    decoys = [f"d{n}.coredns.default.kubectl-istio-udp.internal" for n in range(hosts_before)]
    thief = copy.deepcopy(running.entry())
    thief["metadata"] = {"name": "thief", "namespace": "other"}
    thief["spec"] |= {"hosts": [*decoys, host], "exportTo": ["*"]}
    running.server.put(builders.namespace("other"), thief)
    if restarted:
        controller = running.start()
    told = running.tells("HostTaken")
    assert "other" not in told.replace("another", "") and "verify" in told
    running.server.remove("ServiceEntry", "other", "thief")
    until(lambda: [outcome.reason for _, outcome in controller.outcomes()] == ["Exposed"])


def test_a_range_of_ports_of_a_large_service(running: Running) -> None:
    """The caches keep 1,000 of its ports, and all that it requests."""
    ports = [{"name": f"p{n}", "port": n, "protocol": "UDP"} for n in range(1000, 3000)]
    slice_ports = [{"name": f"p{n}", "port": n, "protocol": "UDP"} for n in range(2500, 2504)]
    running.server.put(
        space("default", "5300-5399"),
        {
            **annotated(ports="5300-5303:2500-2503"),
            "spec": {**annotated()["spec"], "ports": ports},
        },
        endpoint_slice(endpoint("10.244.0.20"), ports=slice_ports),
    )
    running.start()
    running.exposed()
    assert [port.service_port for port in running.spec().ports] == [2500, 2501, 2502, 2503]
