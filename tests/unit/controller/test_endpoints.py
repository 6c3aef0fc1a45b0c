"""The endpoints that the controller lists."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import builders
from tests.support.builders import endpoint, endpoint_slice, udp
from tests.support.controlling import (
    NAME,
    Running,
    annotated,
    space,
    until,
)


def test_a_change_of_endpoints_is_one_request(running: Running) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    assert running.addresses() == ["10.244.0.20", "10.244.0.21"]
    before, version = running.quiet(), running.filter()["metadata"]["resourceVersion"]
    running.server.put(endpoint_slice(endpoint("10.244.0.21"), endpoint("10.244.0.30")))
    until(lambda: running.addresses() == ["10.244.0.21", "10.244.0.30"])
    path = f"/apis/networking.istio.io/v1/namespaces/istio-system/serviceentries/{NAME}"
    assert running.quiet()[len(before) :] == [f"PATCH {path}"]
    assert running.filter()["metadata"]["resourceVersion"] == version


@pytest.mark.parametrize(
    ("conditions", "listed"),
    [
        ([{"ready": True}, {"ready": False}], ["10.0.0.0"]),
        ([{"ready": True}, {"ready": False, "serving": True, "terminating": True}], ["10.0.0.0"]),
        (
            [{"ready": False, "serving": True, "terminating": True}, {"ready": False}],
            ["10.0.0.0"],
        ),
        ([{"ready": False, "serving": False, "terminating": True}], []),
    ],
)
def test_conditions(running: Running, conditions: list[Any], listed: list[str]) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    entries = [endpoint(f"10.0.0.{i}", **each) for i, each in enumerate(conditions)]
    running.server.put(endpoint_slice(*entries))
    until(lambda: running.addresses() == listed)


def test_ports_with_other_addresses_have_a_list_of_their_own(running: Running) -> None:
    """In whatever order Service and EndpointSlices come; a list that was split stays split."""
    log = [{"name": "udp-log", "port": 514, "protocol": "UDP"}]
    running.start()
    asked = annotated(ports="5300:53,5301:514", options={"discovery": "endpoints"})
    asked["spec"]["ports"] = [udp(), udp(514, "udp-log")]
    running.server.put(asked, endpoint_slice(endpoint("10.0.0.1")))
    running.exposed()
    running.tells("Exposed")
    running.server.put(endpoint_slice(endpoint("10.0.0.2"), ports=log, suffix="log"))
    until(lambda: running.addresses(f"{NAME}.514") == ["10.0.0.2"])
    assert running.addresses() == ["10.0.0.1"]
    hosts = [running.entry(name)["spec"]["hosts"] for name in (NAME, f"{NAME}.514")]
    assert hosts[0] != hosts[1]
    running.quiet()
    assert {e["reason"] for e in running.server.all("Event")} == {"Exposed"}
    running.server.remove("Service", "default", "coredns")
    until(lambda: not running.filter() and not running.server.all("ServiceEntry"))


def test_only_running_pods_of_the_namespace_become_endpoints(running: Running) -> None:
    """Whatever EndpointSlices say; and an address counts as soon as its pod is known."""
    running.server.put(space("default", **{"kubectl-istio-udp/allow-endpoints": ""}))
    slices = endpoint_slice(*(endpoint(f"10.9.0.{n}") for n in range(1, 6)), endpoint("10.96.0.1"))
    running.server.put(slices, builders.namespace("other"))
    running.server.put(
        pod_at("mine", "10.9.0.1"),
        pod_at("theirs", "10.9.0.2", namespace="other"),
        pod_at("ended", "10.9.0.3", phase="Succeeded"),
        pod_at("node", "10.9.0.4", host_network=True),
    )
    running.start()
    running.server.put(annotated())
    running.exposed()
    assert running.addresses() == ["10.9.0.1"]
    assert "does not send to 10.9.0.2 (and 4 more)" in running.tells("EndpointRefused")
    running.server.put(pod_at("late", "10.9.0.5"))
    until(lambda: running.addresses() == ["10.9.0.1", "10.9.0.5"])
    running.server.put(pod_at("mine", "10.9.0.1", phase="Failed"))
    until(lambda: running.addresses() == ["10.9.0.5"])
    running.server.put(space("default", **{"kubectl-istio-udp/allow-endpoints": "10.0.0.0/8"}))
    until(lambda: len(running.addresses()) == 6)
    running.server.put(
        builders.service("kubernetes", clusterIP="10.96.0.1"),
        endpoint_slice(endpoint("10.9.0.2"), of="kubernetes", suffix="api"),
    )
    running.server.put(endpoint_slice(*slices["endpoints"][:3], endpoint("10.96.0.1")))
    until(lambda: running.addresses() == ["10.9.0.1", "10.9.0.3"])


def test_an_address_that_the_api_server_gets_is_no_endpoint(running: Running) -> None:
    """Nothing else changes: neither the exposure's Service nor its EndpointSlices."""
    running.server.put(
        space("default", **{"kubectl-istio-udp/allow-endpoints": "10.0.0.0/8"}),
        endpoint_slice(endpoint("10.9.0.1"), endpoint("10.9.0.2"), endpoint("10.96.0.1")),
    )
    running.start()
    running.server.put(annotated())
    running.exposed()
    assert running.addresses() == ["10.9.0.1", "10.9.0.2", "10.96.0.1"]
    running.server.put(endpoint_slice(endpoint("10.9.0.2"), of="kubernetes", suffix="api"))
    until(lambda: running.addresses() == ["10.9.0.1", "10.96.0.1"])
    running.server.put(builders.service("kubernetes", clusterIP="10.96.0.1"))
    until(lambda: running.addresses() == ["10.9.0.1"])
    running.server.put(endpoint_slice(endpoint("10.9.0.7"), of="kubernetes", suffix="api"))
    until(lambda: running.addresses() == ["10.9.0.1", "10.9.0.2"])


def pod_at(
    name: str, address: str, *, host_network: bool = False, phase: str = "Running", **more: Any
) -> dict[str, Any]:
    found = builders.pod(name, phase=phase, app="other", **more)
    found["spec"]["hostNetwork"] = host_network
    found["status"] |= {"podIP": address, "podIPs": [{"ip": address}]}
    return found


def test_of_a_service_with_thousands_of_endpoints_a_thousand_are_listed(running: Running) -> None:
    """They are from the first EndpointSlices by name, and an Event reports the limit."""
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    for part in range(4):
        several = [endpoint(f"10.{part}.{n // 200}.{n % 200 + 1}") for n in range(400)]
        running.server.put(endpoint_slice(*several, suffix=f"part{part}"))
    assert "more than 1000 endpoints" in running.tells("EndpointRefused")
    until(lambda: len(running.addresses()) > 400)
    assert {address.split(".")[1] for address in running.addresses()} <= {"244", "0", "1"}
    assert len(running.addresses()) <= 1000
