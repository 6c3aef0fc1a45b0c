"""The controller's Events, and what `controller status` shows of them."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.controller.events import AGAIN_SECONDS, EventWriter
from kubectl_istio_udp.controller.outcome import OK, REFUSED, Outcome
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.reasons import EXPOSED, FORBIDDEN
from kubectl_istio_udp.render.controller import LEASE
from kubectl_istio_udp.state.controllers import read_controller
from tests.support.apiserver import ApiServer
from tests.support.controlling import NAME, Running, annotated, space, until

KEY = ("default", "coredns")
ABOUT = About("Service", "v1", *KEY, uid="u1")
NO, YES = Outcome(REFUSED, FORBIDDEN, "no"), Outcome(OK, EXPOSED, "yes")


def unmet(api: Api) -> list[tuple[str, bool, str]]:
    found = read_controller(api, "istio-system", "c", LEASE).unmet
    return [(each.name, each.exposed, each.message) for each in found]


def says(running: Running, what: str) -> Any:
    # An EnvoyFilter that has just been written is repaired 5 s later, and a write that meets
    # another one is tried again some times before it counts as failed: 4 to 16 s, measured.
    return until(lambda: [u for u in unmet(running.api) if what in u[2]])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"ports": "nonsense"}, "is not a number"),
        ({"ports": "9999:53"}, "port 9999 is not allowed"),
        ({"ports": "5300:nothing"}, "has no UDP port nothing"),
        ({"options": {"nonsense": "1"}}, "nonsense"),
    ],
)
def test_a_refused_change_of_an_exposure_is_unmet(
    running: Running, asked: dict[str, Any], said: str
) -> None:
    running.start(elect=True)
    running.server.put(annotated())
    running.exposed()
    running.tells("Exposed")
    assert unmet(running.api) == []
    running.server.put(annotated(**asked))
    ((name, exposed, _),) = says(running, said)
    assert (name, exposed) == ("coredns", True)
    running.server.put(annotated())
    until(lambda: unmet(running.api) == [])


def test_a_repair_that_fails_is_unmet_until_it_succeeds(running: Running) -> None:
    running.start(elect=True)
    running.server.put(annotated())
    running.exposed()
    running.tells("Exposed")
    running.server.fail("PATCH", f"envoyfilters/{NAME}", 409)
    running.server.remove("EnvoyFilter", "istio-system", NAME)
    ((_, exposed, _),) = says(running, "envoyfilter")
    assert not exposed
    running.server.heal()
    until(lambda: unmet(running.api) == [])


def test_administrators_learn_which_exposure_has_the_port(running: Running) -> None:
    running.server.put(space("other", "5300"))
    running.start(elect=True)
    running.server.put(annotated())
    running.exposed()
    running.server.put(annotated("late", namespace="other"))
    ((name, exposed, _),) = says(running, "(by default/coredns)")
    assert (name, exposed) == ("late", False)
    assert "coredns" not in running.tells("PortTaken", "late")


def test_a_problem_is_reported_again_before_its_event_expires(api: Api, server: ApiServer) -> None:
    now = 0.0
    writer = EventWriter(api, "one", lambda: "secret", lambda: now)
    assert writer.write(KEY, ABOUT, NO) == AGAIN_SECONDS
    now = 100.0
    assert writer.write(KEY, ABOUT, NO) == AGAIN_SECONDS - 100
    assert len(server.all("Event")) == 1
    (first,) = server.all("Event")
    now = AGAIN_SECONDS
    assert writer.write(KEY, ABOUT, NO) == AGAIN_SECONDS
    (again,) = server.all("Event")
    assert again["metadata"]["annotations"] != first["metadata"]["annotations"]
    assert writer.write(KEY, ABOUT, YES) is None
    now = 10 * AGAIN_SECONDS
    asked = len(server.requests)
    assert writer.write(KEY, ABOUT, YES) is None and len(server.requests) == asked


def test_each_namespace_has_a_budget_of_events(api: Api, server: ApiServer) -> None:
    now = 0.0
    writer = EventWriter(api, "one", lambda: "secret", lambda: now)
    for number in range(120):
        last = writer.write(KEY, ABOUT, Outcome(REFUSED, FORBIDDEN, f"no {number}"))
    assert len(server.all("Event")) == 100 and last is not None and last < 60
    other = ("other", "coredns")
    writer.write(other, About("Service", "v1", *other, uid="u2"), NO)
    assert len(server.all("Event")) == 101
    now = last
    writer.write(KEY, ABOUT, Outcome(REFUSED, FORBIDDEN, "no 119"))
    assert "no 119" in [event["message"] for event in server.all("Event")]
