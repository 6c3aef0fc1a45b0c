"""The controller beside runs of `expose` that write to the same gateway."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from kubectl_istio_udp.apply.reserving import fitting, reserved
from kubectl_istio_udp.controller import reserving
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.exposure import Exposure, ExposureSpec, Options
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.state.reservations import reservation
from tests.support import builders
from tests.support.apiserver import ApiServer, Request
from tests.unit.controller.test_reconcile import NAME, Running, annotated, running, until

__all__ = ["running"]

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
def test_what_a_run_has_reserved_is_not_given_away(
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


def test_a_reservation_of_a_run_that_comes_later_does_not_stop_it(running: Running) -> None:
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


def test_it_reserves_what_is_new_and_nothing_else(running: Running) -> None:
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


def test_what_a_killed_run_reserved_is_deleted_when_it_is_stale(running: Running) -> None:
    """Also where nothing else of the exposure is there; before that, the run may go on."""
    running.server.put(left_behind(timedelta(minutes=4, seconds=58)))
    controller = running.start()
    running.quiet()
    assert reservations(running.server)
    until(lambda: not reservations(running.server))
    assert controller.states() == {}


def test_a_watch_that_is_late_is_waited_for(running: Running) -> None:
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
