"""How little is kept of objects that tenants make as large as the API server lets them."""

from __future__ import annotations

import ipaddress
import pickle
import random
import string
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api, PageTooLong
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.service import EndpointSlice, Pod, Service
from kubectl_istio_udp.sources.annotations import service_intent
from kubectl_istio_udp.state.intents import Intents
from kubectl_istio_udp.state.trimming import (
    KeptService,
    KeptSlice,
    LabelSet,
    pod_labels,
    small_entry,
    small_pod,
)
from tests.support import builders
from tests.support.apiserver import ApiServer
from tests.support.builders import endpoint, endpoint_slice

LONG = "x" * 260_000
EXPOSE = "kubectl-istio-udp/expose"


def size(kept: Any) -> int:
    return len(pickle.dumps(kept))


@pytest.mark.parametrize("notes", [{}, {EXPOSE: "5300:53", "kubectl-istio-udp/x": LONG}])
def test_a_service(notes: dict[str, str]) -> None:
    many = {f"kubectl-istio-udp/{n}": "y" * 1000 for n in range(500)}
    found = builders.service(annotations={"note": LONG, **notes, **(many if notes else {})})
    assert size(KeptService.of(found)) < 12_000


def test_keeps_what_exposing_a_service_needs() -> None:
    ports = [{"name": f"t{n}", "port": n, "protocol": "TCP", "targetPort": n} for n in range(1, 99)]
    ports.append({"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns", "nodePort": 9})
    found = builders.service(annotations={EXPOSE: "5300:dns", "note": LONG}, ports=ports)
    kept = KeptService.of(found)
    unpacked = kept.packed.unpacked()
    assert kept.tcp_ports == 98
    assert service_intent(unpacked).request == service_intent(found).request
    before, after = Service.from_object(found), Service.from_object(unpacked)
    assert set(after.ports) == set(before.ports) and after.selector == before.selector


def test_a_service_without_request_and_udp_port_is_only_counted() -> None:
    found = builders.service(ports=[{"port": 80, "protocol": "TCP"}])
    assert KeptService.of(found).packed.unpacked() == {}


@pytest.mark.parametrize(
    ("asked", "needs"),
    [
        ("2500-2503", range(2500, 2504)),
        ("5300-5303:2500-2503", range(2500, 2504)),
        ("5300:2999,5301-5302:2998", (2998, 2999)),
        ("2500-2999", range(2500, 3000)),
        ("5300-5799:2500-2999", range(2500, 3000)),
    ],
)
def test_keeps_every_port_of_a_range(asked: str, needs: Sequence[int]) -> None:
    names = {n: f"media-stream-{n}" for n in range(1000, 3000)}
    ports = [{"name": name, "port": n, "protocol": "UDP"} for n, name in names.items()]
    found = builders.service(annotations={EXPOSE: asked}, ports=ports)
    kept = Service.from_object(KeptService.of(found).packed.unpacked())
    assert set(needs) <= {port.port for port in kept.ports}


def test_keeps_the_requested_of_thousands_of_ports() -> None:
    ports = [{"name": f"p{n}", "port": n, "protocol": "UDP"} for n in range(1, 5001)]
    named = builders.service(annotations={EXPOSE: "5300:p4999,5301:4998"}, ports=ports)
    kept = Service.from_object(KeptService.of(named).packed.unpacked())
    assert {4998, 4999} <= {port.port for port in kept.ports} and len(kept.ports) == 1000
    all_ = builders.service(annotations={EXPOSE: "all"}, ports=ports)
    with pytest.raises(UsageError, match="more than 500 UDP ports"):
        service_intent(KeptService.of(all_).packed.unpacked())


def test_an_endpoint_slice_is_the_same_and_small() -> None:
    found = endpoint_slice(*[endpoint(f"10.0.{n // 250}.{n % 250}") for n in range(1000)])
    found["metadata"]["annotations"] = {"note": LONG}
    kept = KeptSlice.of(found, "coredns")
    assert kept.slice() == EndpointSlice.from_object(found)
    assert size(kept) < 24_000 and kept.size == 1000
    assert kept.may_list("10.0.3.9") and not kept.may_list("10.0.9.9")
    listed = KeptSlice.of(endpoint_slice(endpoint("2001:DB8:0::1")), "coredns")
    assert listed.may_list("2001:db8::1")


def test_the_weight_of_an_endpoint_slice_is_what_it_needs() -> None:
    texts = [
        str(ipaddress.ip_address(number << 64 | number)) for number in range(2**60, 2**60 + 200)
    ]
    found = endpoint_slice(*map(endpoint, texts))
    tracemalloc.start()
    kept = [KeptSlice.of(found, f"service-{n}") for n in range(9)]
    needed = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    assert 0.5 * needed < kept[0].weight < 2 * needed


def test_unvalidated_texts_of_an_endpoint_slice_are_truncated() -> None:
    found = endpoint_slice(endpoint("10.0.0.1", pod="p"))
    found["endpoints"][0]["targetRef"] |= {"name": LONG, "fieldPath": LONG, "namespace": LONG}
    assert size(KeptSlice.of(found, "coredns")) < 1000


def test_a_pod() -> None:
    found = builders.pod("p")
    app = LabelSet.of({"app": "coredns"})
    found["metadata"]["labels"] = {"app": "coredns", **{f"l{n}": "x" * 63 for n in range(5000)}}
    assert not pod_labels(found).has(app)
    found["metadata"]["labels"] = {"app": "coredns", **{f"l{n}": "x" * 63 for n in range(60)}}
    assert pod_labels(found).has(app) and size(pod_labels(found)) < 700
    assert Pod.from_object(small_pod(found)) == Pod.from_object(found)


def test_a_pod_of_thousands_of_ports() -> None:
    ports = [{"name": f"p{n}", "containerPort": n, "protocol": "UDP"} for n in range(1, 65)]
    containers = [
        {"name": f"c{c}", "ports": [{**p, "name": f"{p['name']}-{c}"} for p in ports]}
        for c in range(300)
    ]
    found = builders.pod("p", containers=[*containers, {"name": "istio-proxy"}])
    kept = Pod.from_object(small_pod(found))
    assert size(kept) < 2000 and kept.sidecar and len(kept.ports) == 32


def test_labels_select_as_kubernetes_does() -> None:
    labels = LabelSet.of({"app": "dns", "tier": "a"})
    for selector, selects in (
        ({"app": "dns"}, True),
        ({"app": "dns", "tier": "a"}, True),
        ({"app": "dns", "tier": "b"}, False),
        ({"app": "dns", "more": "x"}, False),
        ({}, False),
    ):
        assert labels.has(LabelSet.of(selector)) is selects


def test_a_service_entry() -> None:
    notes = {"kubectl-istio-udp/spec": LONG, "note": LONG}
    found = {
        "metadata": {"name": "e", "namespace": "default", "annotations": notes},
        "spec": {"hosts": [LONG]},
    }
    assert size(small_entry(found)) < 1000
    small = {"metadata": {"name": "e", "namespace": "d"}, "spec": {"hosts": ["x"]}}
    assert small_entry(small)["spec"] == {"hosts": ["x"]}


def test_a_page_is_no_longer_than_it_may_be(api: Api, server: ApiServer) -> None:
    for number in range(3):
        server.put(builders.service(f"s{number}", annotations={"note": LONG}))
    with pytest.raises(PageTooLong):
        api.list_page("Service", None, limit=3, most_bytes=100_000)
    page = api.list_page("Service", None, limit=1, most_bytes=100_000)
    assert page.size > 260_000
    # The connection that was given up is not used again.
    assert api.list_page("Service", None, limit=3, most_bytes=10_000_000).items


def by_chance(length: int, chance: random.Random) -> str:
    """A name that does not compress."""
    letters = string.ascii_lowercase + string.digits
    return "a" + "".join(chance.choices(letters, k=length - 2)) + "z"


def test_a_service_with_random_names() -> None:
    """It is kept, and has no port to expose."""
    chance = random.Random(1)
    ports = [
        {"name": by_chance(63, chance), "port": n, "protocol": "UDP", "targetPort": n}
        for n in range(1, 1001)
    ]
    found = builders.service(annotations={EXPOSE: "all"}, ports=ports)
    kept = KeptService.of(found)
    assert size(kept) < 12_000
    assert Service.from_object(kept.packed.unpacked()).ports == ()
    alike = [{**port, "name": f"media-stream-{port['port']}"} for port in ports]
    kept = KeptService.of(builders.service(annotations={EXPOSE: "5300:53"}, ports=alike))
    assert len(Service.from_object(kept.packed.unpacked()).ports) == 1000


def test_an_endpoint_slice_with_random_names() -> None:
    """Of pods it is known by their addresses whose they are; of ports none is left."""
    chance = random.Random(1)
    endpoints = [
        endpoint(f"fd00::{chance.getrandbits(16):x}:{n:x}", pod=by_chance(63, chance))
        for n in range(1000)
    ]
    found = endpoint_slice(*endpoints)
    kept = KeptSlice.of(found, "coredns")
    assert size(kept) < 38_000
    bare = [{k: v for k, v in each.items() if k != "targetRef"} for each in found["endpoints"]]
    assert kept.slice() == EndpointSlice.from_object({**found, "endpoints": bare})
    ports = [{"name": by_chance(63, chance), "port": n, "protocol": "UDP"} for n in range(1, 5000)]
    kept = KeptSlice.of({**found, "ports": ports}, "coredns")
    assert size(kept) < 38_000 and not kept.slice().ports and kept.size == 1000
    ports = [{"name": f"p{n}", "port": n, "protocol": "UDP", "appProtocol": LONG} for n in (1, 2)]
    tcp = {"name": "web", "port": 80, "protocol": "TCP"}
    assert KeptSlice.of({**found, "ports": [*ports, tcp]}, "coredns").slice().ports == {
        ("p1", "UDP"): 1,
        ("p2", "UDP"): 2,
    }


def test_a_service_entry_with_useless_labels_and_annotations() -> None:
    """Thousands of labels, and many annotations with our prefix."""
    labels = {f"l{n}": "x" * 63 for n in range(5000)} | {"kubectl-istio-udp/exposure": "e"}
    notes = {f"kubectl-istio-udp/n{n}": "x" * 8000 for n in range(30)}
    about = {"name": "e", "namespace": "d", "labels": labels, "annotations": notes}
    kept = small_entry({"metadata": about, "spec": {"hosts": ["x"]}})
    assert kept["metadata"]["labels"] == {"kubectl-istio-udp/exposure": "e"}
    assert size(kept) < 1000
    spec = {"kubectl-istio-udp/spec": "x" * 8000}
    kept = small_entry({"metadata": {**about, "annotations": spec}, "spec": {}})
    assert kept["metadata"]["annotations"] == spec


def test_requested_ports_are_kept_as_numbers() -> None:
    """A Service of 400 bytes may ask for 500 ports."""
    intents = Intents()
    tracemalloc.start()
    for number in range(200):
        rank = ("2026-01-01T00:00:00Z", "default", f"s{number}")
        intents.put(("default", f"s{number}"), rank, range(10_000, 10_500))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / 200 < 8_000
    assert [key for _, key in intents.requests_for([10_400, 300])] == intents.first("default")
    for key in list(intents):
        assert intents.drop(key)
    assert list(intents.requests_for([10_400])) == [] and not intents.drop(("default", "s1"))
