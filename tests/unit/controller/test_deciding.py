"""The gateway, sessions and discovery that the controller chooses."""

from __future__ import annotations

from dataclasses import replace

from kubectl_istio_udp.controller.objects import marked
from kubectl_istio_udp.model.exposure import Discovery
from kubectl_istio_udp.model.names import SPEC_ANNOTATION
from kubectl_istio_udp.render.exposure import writes
from tests.support import builders
from tests.support.builders import endpoint, endpoint_slice, udp
from tests.support.controlling import (
    Running,
    annotated,
    until,
)


def test_another_port_keeps_the_number_of_sessions(running: Running) -> None:
    """As with `expose`: another number would replace the cluster and end its sessions."""
    running.wait_for(cooldown=0.0)
    running.start()
    running.server.put(annotated())
    running.exposed()
    before = running.spec().options.max_sessions
    running.server.put(annotated(ports="5300:53,5301:53"))
    until(lambda: len(running.spec().ports) == 2)
    assert running.spec().options.max_sessions == before


def test_auto_keeps_a_list_of_endpoints(running: Running) -> None:
    """Pods with different numbers for a named port need a list; it stays when they agree again."""
    ports = [{"name": "udp-dns", "port": 5353, "protocol": "UDP"}]
    running.start()
    running.server.put(
        {**annotated(), "spec": {**annotated()["spec"], "ports": [udp(target="dns")]}},
        endpoint_slice(endpoint("10.244.0.20")),
        endpoint_slice(endpoint("10.244.0.21"), suffix="two", ports=ports),
    )
    running.exposed()
    numbers = [None, {"port-53": 5353}]
    until(lambda: [e.get("ports") for e in running.entry()["spec"]["endpoints"]] == numbers)
    # The ServiceEntry is written first; the EnvoyFilter that asks for it follows.
    running.quiet()
    version = running.filter()["metadata"]["resourceVersion"]
    running.server.remove("EndpointSlice", "default", "coredns-two")
    until(lambda: running.addresses() == ["10.244.0.20"])
    running.quiet()
    assert running.filter()["metadata"]["resourceVersion"] == version


def test_a_gateway_that_is_created_later(running: Running) -> None:
    running.server.remove("Pod", "istio-system", "istio-ingressgateway-1")
    controller = running.start()
    running.server.put(annotated())
    running.tells("NoGateway")
    assert controller.states()["waiting"] == 1
    running.server.put(builders.gateway_pod("istio-ingressgateway-2"))
    running.exposed()


def test_an_exposure_stays_at_its_gateway_when_a_second_one_appears(running: Running) -> None:
    """As with `expose`: if the Service names no gateway, the exposure stays and can be changed."""
    running.wait_for(cooldown=0.0)
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    second = {"app": "second", "istio": "ingressgateway"}
    running.server.put(
        builders.gateway_pod("second-1", labels=second, owner=("ReplicaSet", "second-7f5")),
        builders.gateway_service("second", selector=second),
    )
    until(lambda: len(controller.caches.gateways()) == 2)
    running.server.put(annotated("late", ports="5302:53"))
    assert "found several gateways" in running.tells("NoGateway", "late")
    running.server.put(annotated(options={"idle-timeout": "20s"}))
    until(lambda: running.spec().options.idle_timeout.seconds == 20)


def test_a_gateway_whose_service_gets_another_name_is_the_same_gateway(running: Running) -> None:
    """The exposure stays at it, under the name that it had, and can be changed."""
    running.wait_for(cooldown=0.0)
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    before = running.spec().gateway
    running.server.put(builders.gateway_service("front"))
    running.server.remove("Service", "istio-system", "istio-ingressgateway")
    until(lambda: [g.ref.name for g in controller.caches.gateways()] == ["front"])
    running.server.put(annotated(options={"idle-timeout": "20s"}))
    until(lambda: running.spec().options.idle_timeout.seconds == 20)
    assert running.spec().gateway == before
    running.quiet()
    assert controller.states() == {"ok": 1}


def test_an_exposure_stays_when_its_gateway_is_deleted(running: Running) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    running.server.remove("Pod", "istio-system", "istio-ingressgateway-1")
    running.tells("NoGateway")
    running.server.put(endpoint_slice(endpoint("10.244.0.30")))
    until(lambda: running.addresses() == ["10.244.0.30"])
    assert running.filter() and running.companion()


def test_another_gateway_is_a_move(running: Running) -> None:
    labels = {"app": "edge", "istio": "edge"}
    running.server.put(builders.gateway_pod("edge-1", labels=labels))
    running.start()
    running.server.put(annotated(options={"gateway": "istio-ingressgateway"}))
    running.exposed()
    running.server.put(annotated(options={"gateway": "edge"}))
    until(
        lambda: (
            (f := running.filter())
            and f["spec"]["workloadSelector"]["labels"] == labels
            and running.companion()
        )
    )


def test_a_forged_service_entry_decides_nothing(running: Running) -> None:
    """A tenant's own ServiceEntry, made before the controller's, with a spec of the tenant's."""
    planned = builders.plan_of().exposure
    (written,) = (marked(w).manifest for w in writes(planned) if w.kind == "ServiceEntry")
    gateway = replace(planned.spec.gateway, name="forged")
    spec = replace(planned.spec, gateway=gateway, discovery=Discovery.ENDPOINTS)
    metadata = written["metadata"]
    notes = {**metadata["annotations"], SPEC_ANNOTATION: spec.to_json()}
    running.server.put({**written, "metadata": {**metadata, "annotations": notes}})
    running.start(allow_all=True)
    running.server.put(annotated(options={"gateway": "istio-system/istio-ingressgateway"}))
    running.exposed()
    assert running.spec().gateway.name == "istio-ingressgateway"
    assert running.spec().discovery is Discovery.SELECTOR
