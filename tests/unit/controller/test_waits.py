"""How long the controller leaves an exposure, and its part of a gateway, as it is."""

from __future__ import annotations

import time
from typing import Any

from kubectl_istio_udp.controller.waits import Cooldown, Timing
from tests.support import builders
from tests.support.builders import endpoint, endpoint_slice
from tests.support.controlling import (
    Running,
    annotated,
    filter_changes,
    reconcile,
    until,
)


def test_toggling_an_annotation_rarely_changes_the_gateway(running: Running) -> None:
    running.wait_for(cooldown=60.0)
    controller = running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    for number in range(50):
        running.server.put(
            annotated(options={"discovery": "endpoints", "idle-timeout": f"{number + 1}s"}),
            endpoint_slice(endpoint(f"10.244.1.{number}")),
        )
        time.sleep(0.01)
    # Endpoints are no part of the gateway, and do not wait.
    until(lambda: running.addresses() == ["10.244.1.49"])
    assert controller.states() == {"waiting": 1}
    assert len(filter_changes(running)) == 1
    running.clock.move(60.0)
    until(lambda: running.spec().options.idle_timeout.seconds == 50)
    until(lambda: controller.states() == {"ok": 1})
    assert len(filter_changes(running)) == 2


def test_repeated_requests_and_withdrawals_rarely_change_the_gateways(running: Running) -> None:
    """An annotation is removed and set again, or names one gateway after the other."""
    running.wait_for(cooldown=60.0)
    labels = {"app": "edge", "istio": "edge"}
    running.server.put(builders.gateway_pod("edge-1", labels=labels))
    controller = running.start()
    for number in range(10):
        gateway = "edge" if number % 2 else "istio-ingressgateway"
        running.server.put(annotated(options={"gateway": gateway}))
        running.quiet()
        if number % 3 == 0:
            running.server.put(builders.service())
            running.quiet()
    running.server.put(annotated(options={"gateway": "edge"}))
    until(lambda: controller.states() == {"waiting": 1})
    made = [w for w in running.server.writes() if "POST" in w and "envoyfilters" in w]
    assert len(made) == 1, made
    running.clock.move(60.0)
    running.exposed()
    assert running.spec().gateway.name == "edge"


def test_a_rejected_companion_does_not_change_the_gateway_repeatedly(running: Running) -> None:
    running.wait_for(cooldown=30.0)
    running.server.fail("PATCH", "services/udp-default-coredns", 403)
    running.start()
    for number in range(20):
        running.server.put(annotated(options={"idle-timeout": f"{number + 1}s"}))
        time.sleep(0.02)
    running.tells("ExposeFailed")
    running.quiet()
    assert len(filter_changes(running)) == 1


def test_a_service_that_is_replaced_keeps_everything(running: Running) -> None:
    running.wait_for(replace=600.0)
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    running.quiet()
    made = ("ServiceEntry", "EnvoyFilter", "Service")

    def state() -> Any:
        return {k: v for k, v in running.server.state().items() if k[0] in made}

    before = state()
    running.server.remove("Service", "default", "coredns")
    running.server.remove("EndpointSlice", "default", "coredns-abc")
    until(lambda: controller.states() == {"deleting": 1})
    running.server.put(annotated())
    until(lambda: controller.states() == {"waiting": 1})
    assert running.addresses() == ["10.244.0.20", "10.244.0.21"]
    running.server.put(endpoint_slice(endpoint("10.244.0.20"), endpoint("10.244.0.21")))
    until(lambda: controller.states() == {"ok": 1})
    assert state() == before
    # If the Service does not come back, the exposure is deleted after a new wait.
    running.clock.move(500.0)
    running.server.remove("Service", "default", "coredns")
    del before["Service", "default", "coredns"]
    until(lambda: controller.states() == {"deleting": 1})
    running.clock.move(500.0)
    running.quiet()
    assert state() == before
    running.clock.move(100.0)
    until(lambda: not running.filter() and not running.entry())


def test_a_new_leader_waits_again_before_it_deletes(running: Running) -> None:
    controller = running.start(workers=0)
    until(controller._may_write)
    running.server.put(annotated())
    until(lambda: controller.caches.intent(("default", "coredns")))
    key = ("default", "coredns")
    assert reconcile(controller, key).state == "ok"
    running.server.remove("Service", "default", "coredns")
    until(lambda: not controller.caches.intent(key))
    assert reconcile(controller, key).again
    running.clock.move(0.1)
    controller._reconciler.begin()
    assert reconcile(controller, key).again
    assert running.companion()


def test_continued_changes_wait_longer_each_time() -> None:
    """Envoy keeps replaced listeners for 45 s."""
    now, cooldown, waits = 0.0, None, []
    for _ in range(6):
        cooldown = Cooldown.after(cooldown, now, Timing())
        waits.append(cooldown.until - now)
        now = cooldown.until
    assert waits == [5, 10, 20, 40, 60, 60]
    assert Cooldown.after(cooldown, now + 61, Timing()).seconds == 5
