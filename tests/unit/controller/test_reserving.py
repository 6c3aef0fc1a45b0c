"""Who gets what a gateway has: the older of two requests, and runs of `expose` beside them."""

from __future__ import annotations

import dataclasses
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from kubectl_istio_udp.apply.reserving import fitting, reserved
from kubectl_istio_udp.controller import reserving
from kubectl_istio_udp.controller.objects import marked
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import Exposure, ExposureSpec, Options
from kubectl_istio_udp.model.names import object_name
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state.reservations import reservation
from tests.support import builders
from tests.support.apiserver import ApiServer, Request
from tests.support.controlling import (
    NAME,
    Running,
    annotated,
    next_of,
    reconcile,
    until,
)

# Room for 1,000 sessions.
SMALL: dict[str, Any] = {"file_limit": 3_000}


def typed(port: int = 5400, sessions: int = 900) -> ExposureSpec:
    """An exposure that a run of `expose` is about to write."""
    planned = builders.plan_of(name="typed", ports=[PortRequest(port, 53)], max_sessions=sessions)
    return planned.exposure.spec


def reservations(server: ApiServer) -> list[str]:
    names = [manifest["metadata"]["name"] for manifest in server.all("EnvoyFilter")]
    return [name for name in names if name.startswith("reserved-")]


def posts(server: ApiServer) -> list[str]:
    return [w for w in server.writes() if w.startswith("POST") and "envoyfilters" in w]


@pytest.mark.parametrize("spec", [typed(), typed(port=5300, sessions=10)])
def test_reserved_sessions_and_ports_are_not_granted(
    running: Running, api: Api, spec: ExposureSpec
) -> None:
    """Sessions, or a port: it waits, and gets them when the run ends without writing."""
    with reserved(api, spec):
        controller = running.start(**SMALL)
        running.server.put(annotated(options={"max-sessions": "200"}))
        until(lambda: controller.states() == {"waiting": 1})
        running.quiet()
        assert running.filter() is None and not reservations(running.server)[1:]
    running.exposed()
    until(lambda: controller.states() == {"ok": 1})
    assert reservations(running.server) == []


def test_a_later_reservation_does_not_stop_the_controller(running: Running) -> None:
    """The run reserves right after the controller has: the controller was first."""
    later = dataclasses.replace(typed(), options=Options(max_sessions=900))

    def come_later(request: Request) -> None:
        body = request.body or {}
        if request.method == "PATCH" and body.get("kind") == "ServiceEntry" and not held:
            held.append(True)
            running.server.put(reservation(later, "later"))

    held: list[bool] = []
    running.server.seen = come_later
    controller = running.start(**SMALL)
    running.server.put(annotated(options={"max-sessions": "200"}))
    running.exposed()
    until(lambda: controller.states() == {"ok": 1})
    assert held


def test_it_only_reserves_growth(running: Running) -> None:
    running.start()
    running.server.put(annotated(options={"max-sessions": "200"}))
    running.exposed()
    running.quiet()
    assert len(posts(running.server)) == 1
    running.server.put(annotated(options={"max-sessions": "200", "idle-timeout": "20s"}))
    until(lambda: running.spec().options.idle_timeout.seconds == 20)
    running.server.put(annotated(options={"max-sessions": "100", "idle-timeout": "20s"}))
    until(lambda: running.spec().options.max_sessions == 100)
    running.quiet()
    assert len(posts(running.server)) == 1
    running.server.put(annotated(options={"max-sessions": "300", "idle-timeout": "20s"}))
    until(lambda: running.spec().options.max_sessions == 300)
    running.quiet()
    assert len(posts(running.server)) == 2
    assert reservations(running.server) == []


def left_behind(age: timedelta) -> dict[str, Any]:
    """The reservation of a run that was killed."""
    manifest = reservation(typed(), "killed")
    created = datetime.now(timezone.utc) - age
    manifest["metadata"]["creationTimestamp"] = f"{created:%FT%TZ}"
    return manifest


def test_a_stale_reservation_of_a_killed_run_is_deleted(running: Running) -> None:
    """Also where nothing else of the exposure is there; before that, the run may go on."""
    running.server.put(left_behind(timedelta(minutes=4, seconds=58)))
    controller = running.start()
    running.quiet()
    assert reservations(running.server)
    until(lambda: not reservations(running.server))
    assert controller.states() == {}


def test_waits_for_a_late_watch(running: Running) -> None:
    """Nothing is written before the watch has brought the reservation."""
    running.wait_for(watch=0.0)
    running.start()
    running.server.put(annotated())
    running.exposed()
    until(lambda: not reservations(running.server))
    assert running.filter(NAME)


def test_an_internal_error_while_an_exposure_is_written_leaves_its_port_free(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:

    def broken(api: Api, exposure: Exposure, *rest: Any) -> Any:
        if exposure.spec.name == "coredns":
            raise RuntimeError("broken by the test")
        return fitting(api, exposure, *rest)

    monkeypatch.setattr(reserving, "fitting", broken)
    controller = running.start()
    running.server.put(annotated(created="2026-01-02T00:00:00Z"))
    until(lambda: controller.states() == {"failed": 1})
    running.server.put(annotated("older", created="2026-01-01T00:00:00Z"))
    running.exposed("udp-default-older")


def test_the_older_of_two_requests_wins_and_the_other_takes_over(running: Running) -> None:
    old, new = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
    running.server.put(
        annotated("newer", created=new),
        annotated("older", created=old),
        annotated("third", created="2027"),
    )
    running.start()
    running.exposed("udp-default-older")
    for loser in ("newer", "third"):
        told = running.tells("PortTaken", loser)
        assert "5300/UDP" in told and "default/older" not in told
    running.quiet()
    assert running.filter("udp-default-newer") is None
    running.server.remove("Service", "default", "older")
    running.exposed("udp-default-newer")
    running.quiet()
    assert running.filter("udp-default-third") is None
    assert running.filter("udp-default-older") is None


def test_an_exposure_keeps_its_port(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="kubectl_istio_udp")
    running.start()
    running.server.put(annotated("second", created="2026-02-01T00:00:00Z"))
    running.exposed("udp-default-second")
    running.server.put(annotated("first", created="2026-01-01T00:00:00Z"))
    told = running.tells("PortTaken", "first")
    assert "port 5300/UDP is taken" in told and "second" not in told
    assert "choose another port in the annotation kubectl-istio-udp/expose [U103]" in told
    (finding, *_) = next(
        vars(each)["findings"] for each in caplog.records if "findings" in vars(each)
    )
    assert (finding["code"], finding["values"]["port"]) == ("U103", 5300)
    running.quiet()
    assert running.filter("udp-default-first") is None


def test_an_older_request_that_is_refused_does_not_block_others(
    running: Running,
) -> None:
    running.server.put(
        annotated("older", ports="5300:99", created="2026-01-01T00:00:00Z"),
        annotated("newer", created="2026-02-01T00:00:00Z"),
    )
    running.start()
    running.exposed("udp-default-newer")
    assert "has no UDP port 99" in running.tells("ExposeInvalid", "older")


def test_the_older_request_wins_in_any_order(running: Running) -> None:
    running.server.put(
        annotated("older", created="2026-01-01T00:00:00Z"),
        annotated("newer", created="2026-02-01T00:00:00Z"),
    )
    controller = running.start(workers=0)
    until(controller._may_write)
    outcome = reconcile(controller, ("default", "newer"))
    assert outcome.reason == "PortTaken" and "Service default/older" in outcome.detail
    assert "default/older" not in outcome.message
    assert reconcile(controller, ("default", "older")).state == "ok"
    assert running.filter("udp-default-newer") is None


def test_an_older_request_at_another_gateway_holds_no_port(running: Running) -> None:
    edge = {"app": "edge", "istio": "edge"}
    running.server.put(
        builders.gateway_pod("edge-1", labels=edge),
        annotated("older", created="2026-01-01T00:00:00Z", options={"gateway": "edge"}),
        annotated("newer", options={"gateway": "istio-ingressgateway"}),
    )
    controller = running.start(workers=0)
    until(controller._may_write)
    assert reconcile(controller, ("default", "newer")).state == "ok"
    assert reconcile(controller, ("default", "older")).state == "ok"


def test_a_port_that_is_being_written_is_taken(running: Running) -> None:
    """An older request is too late while the younger one's EnvoyFilter is being written."""
    running.server.put(annotated("younger", created="2026-02-01T00:00:00Z"))
    controller = running.start(workers=0)
    until(controller._may_write)
    seen: list[Any] = []

    def meanwhile(request: Any) -> None:
        if request.method == "PATCH" and not seen:
            seen.append(None)
            running.server.put(annotated("older", created="2026-01-01T00:00:00Z"))
            until(lambda: controller.caches.intent(("default", "older")))
            seen[0] = reconcile(controller, ("default", "older"))

    running.server.seen = meanwhile
    assert reconcile(controller, ("default", "younger")).state == "ok"
    assert seen[0].reason == "PortTaken" and running.filter("udp-default-older") is None


def test_twenty_requests_for_one_port_at_once(running: Running) -> None:
    running.start(workers=8)
    running.server.put(*[annotated(f"s{n}") for n in range(20)])

    def told() -> set[str]:
        return {e["involvedObject"]["name"] for e in running.server.all("Event")}

    until(lambda: len(told()) == 20)
    running.quiet()
    assert len(running.server.all("EnvoyFilter")) == 1


def test_a_forged_service_entry_grants_no_sessions(running: Running) -> None:
    """A tenant's ServiceEntry, older than the controller's, that claims 40,000 sessions."""
    planned = builders.plan_of(ports=[PortRequest(5300, 53)], max_sessions=40_000)
    forged = next(marked(w) for w in writes(planned.exposure) if w.kind == "ServiceEntry")
    running.server.put(dict(forged.manifest))
    running.start()
    running.server.put(annotated())
    running.exposed()
    cluster = running.filter()["spec"]["configPatches"][0]["patch"]["value"]
    # The limit of the namespace is 4,000; the default number depends on the order of events.
    assert cluster["circuit_breakers"]["thresholds"][0]["max_connections"] in (1_750, 4_000)


@pytest.mark.parametrize("more", [True, False])
def test_the_gateways_memory_limits_the_number_of_ports(running: Running, more: bool) -> None:
    """Half of 1 MiB is enough for two."""
    limits = {"cpu": "2", "memory": "1Mi"}
    running.server.put(builders.gateway_pod(limits=limits))
    running.start()
    for number in range(2):
        running.server.put(annotated(f"s{number}", ports=f"530{number}:53"))
        running.exposed(f"udp-default-s{number}")
    running.server.put(annotated("third", ports="5302:53"))
    assert "3 UDP port(s) may use" in running.tells("ExposeRefused", "third")
    running.quiet()
    assert running.filter("udp-default-third") is None
    if more:
        running.server.put(builders.gateway_pod(limits={**limits, "memory": "2Mi"}))
    else:
        running.server.remove("Service", "default", "s0")
    running.exposed("udp-default-third")


def test_reports_a_taken_port(running: Running) -> None:
    port = running.start().health.port
    with pytest.raises(
        UsageError, match=f"cannot serve health and metrics on port {port}: Address already"
    ):
        running.start("two", port=port)


def test_an_older_intent_without_an_outcome_is_reconciled_first(
    running: Running,
) -> None:
    running.server.put(
        annotated("older", ports="5300:53,5399:99", created="2026-01-01T00:00:00Z"),
        annotated("newer", created="2026-02-01T00:00:00Z"),
    )
    controller = running.start(workers=0)
    until(controller._may_write)
    controller._process(("default", "newer"), time.monotonic())
    assert controller.states() == {"waiting": 1}
    controller._queue.close()
    controller._queue.open()
    controller._process(("default", "older"), time.monotonic())
    controller._wake(("default", "older"))
    assert next_of(controller) == ("default", "newer")
    controller._process(("default", "newer"), time.monotonic())
    assert controller.states() == {"refused": 1, "ok": 1}


def forged_filter(name: str, gateway_namespace: str, port: int, sessions: int) -> dict[str, Any]:
    """The EnvoyFilter of an exposure of namespace `default`, in another gateway's namespace."""
    planned = builders.plan_of(ports=[PortRequest(port, 53)], name=name, max_sessions=sessions)
    spec = planned.exposure.spec
    gateway = dataclasses.replace(spec.gateway, namespace=gateway_namespace)
    exposure = dataclasses.replace(
        planned.exposure, spec=dataclasses.replace(spec, gateway=gateway)
    )
    return dict(next(w for w in writes(exposure) if w.kind == "EnvoyFilter").manifest)


def test_a_forged_exposure_at_another_gateway_does_not_change_the_older_one(
    running: Running,
) -> None:
    """It is not taken over, and the forged sessions do not count for its namespace."""
    controller = running.start(gateway_namespaces=("edge", "istio-system"))
    running.server.put(annotated(options={"max-sessions": "500"}))
    running.exposed()
    running.quiet()
    created = {"creationTimestamp": "2099-01-01T00:00:00Z"}
    forged = forged_filter("coredns", "edge", 5399, 7_900)
    running.server.put({**forged, "metadata": {**forged["metadata"], **created}})
    running.quiet()
    assert running.spec().gateway.namespace == "istio-system"
    assert controller.states() == {"ok": 1}
    running.server.put(annotated("second", ports="5301:53", options={"max-sessions": "500"}))
    running.exposed(object_name("default", "second"))


def test_the_owner_of_another_gateway_can_take_an_unused_name(
    running: Running,
) -> None:
    """That gateway's owner exposed it; the Service's Event names the gateway."""
    running.server.put(forged_filter("coredns", "edge", 5399, 100))
    running.start(gateway_namespaces=("edge", "istio-system"))
    running.server.put(annotated())
    told = running.tells("ExposeRefused")
    assert "at gateway edge/istio-ingressgateway" in told and "kubectl istio-udp delete" in told
    assert running.filter() is None
    running.server.remove("EnvoyFilter", "edge", NAME)
    running.exposed()
