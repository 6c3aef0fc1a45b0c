"""The running controller: leader election, watches that break, retries, health and metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import urllib3

from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.render.exposure import writes
from tests.support import builders
from tests.support.builders import endpoint, endpoint_slice
from tests.support.controlling import (
    NAME,
    Running,
    annotated,
    next_of,
    space,
    until,
)


def test_a_rejected_write_is_reported_and_retried_without_delaying_others(running: Running) -> None:
    refusal = json.dumps({"kind": "Status", "message": 'admission webhook "policy" denied it'})
    running.server.fail("PATCH", "envoyfilters/udp-default-coredns", 403, refusal)
    running.start(workers=2)
    running.server.put(annotated())
    assert "policy" in running.tells("ExposeFailed")
    running.server.put(annotated("other", ports="5301:53"))
    running.exposed("udp-default-other")
    running.server.heal()
    running.exposed()


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_a_failed_reconciliation_is_retried(running: Running, status: int) -> None:
    running.server.fail("PATCH", ".", status, times=3)
    running.start()
    running.server.put(annotated())
    running.exposed()


def test_broken_watches_and_expired_versions(running: Running) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    for number in range(3):
        running.server.cut_watches()
        running.server.put(endpoint_slice(endpoint(f"10.244.1.{number}")))
        running.server.compact()
        until(partial(running.has, [f"10.244.1.{number}"]))
    running.server.fail("GET", "watch=true", 429, times=5)
    running.server.cut_watches()
    running.server.put(endpoint_slice(endpoint("10.244.1.9")))
    until(lambda: running.addresses() == ["10.244.1.9"])


def test_a_deletion_that_no_watch_reported(running: Running) -> None:
    running.start()
    running.server.put(annotated())
    running.exposed()
    running.quiet()
    running.server.fail("GET", "watch=true", 500)
    running.server.cut_watches()
    until(lambda: running.server.watching() == 0)
    running.server.remove("Service", "default", "coredns")
    running.server.compact()
    running.server.heal()
    until(lambda: not running.filter() and not running.entry())


def test_malformed_objects_do_not_hide_others(running: Running) -> None:
    odd = endpoint_slice(of="odd")
    odd["endpoints"] = [{"conditions": {}}]
    running.server.put(odd)
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    assert controller.why_unhealthy() == ""


def test_health_and_metrics(running: Running) -> None:
    controller = running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    running.server.put(endpoint_slice(endpoint("10.244.0.30")))
    until(lambda: running.addresses() == ["10.244.0.30"])
    pool = urllib3.PoolManager()
    url = f"http://127.0.0.1:{controller.health.port}"
    assert pool.request("GET", f"{url}/healthz").status == 200
    assert pool.request("GET", f"{url}/readyz").status == 200
    assert pool.request("GET", f"{url}/else").status == 404
    text = pool.request("GET", f"{url}/metrics").data.decode()
    assert 'kubectl_istio_udp_exposures{state="ok"} 1.0' in text
    assert 'kubectl_istio_udp_writes_total{kind="ServiceEntry",verb="patch"} 2.0' in text
    assert "kubectl_istio_udp_leading 1.0" in text
    latency = next(x for x in text.splitlines() if "change_to_write_seconds_count" in x)
    assert float(latency.split()[1]) >= 1


def test_one_of_two_leads_and_hands_over(running: Running) -> None:
    first = running.start("one", elect=True)
    until(lambda: first._may_write())
    second = running.start("two", elect=True)
    running.server.put(annotated())
    running.exposed()
    assert not second._may_write()
    begun = time.monotonic()
    first.stop()
    running.controllers.remove(first)
    until(lambda: second._may_write())
    assert time.monotonic() - begun < 5
    running.server.remove("EnvoyFilter", "istio-system", NAME)
    running.exposed()


def test_a_leader_that_cannot_renew_stops_before_another_begins(running: Running) -> None:
    first = running.start("one", elect=True)
    until(lambda: first._may_write())
    running.server.fail("PUT", "leases", 500)
    running.clock.move(9.0)
    assert first._may_write()
    running.clock.move(2.0)
    until(lambda: not first._may_write())
    lease = running.server.get("Lease", "istio-system", "kubectl-istio-udp-controller")
    assert lease["spec"]["holderIdentity"] == "one"
    running.server.put(annotated())
    time.sleep(0.3)
    assert running.filter() is None
    running.server.heal()
    running.exposed()


def test_a_renewal_that_is_late_loses_nothing(running: Running) -> None:
    only = running.start(elect=True)
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    running.quiet()
    with running.late_renewal(only):
        running.server.put(endpoint_slice(endpoint("10.244.0.30")))
        running.quiet()
        assert running.addresses() != ["10.244.0.30"]
    until(lambda: running.addresses() == ["10.244.0.30"])


def test_a_lease_newer_than_the_watch_restarts_all_watches(running: Running) -> None:
    first = running.start("one", elect=True)
    until(lambda: first._may_write())
    running.quiet()

    def watches() -> int:
        return len([r for r in running.server.requests if r.query.get("watch")])

    before = watches()
    running.server.fail("PUT", "leases", 409)
    running.clock.move(6.0)
    until(lambda: watches() >= before + len(first.caches.all) + 1)
    running.server.heal()
    running.server.put(annotated())
    running.exposed()


def test_hundreds_of_namespaces_without_permission_share_one_turn(running: Running) -> None:
    """Their owner does not delay namespaces that may expose something."""
    names = [f"attack{number}" for number in range(300)]
    running.server.put(*[space(name, None) for name in names], space("victim", "5300"))
    controller = running.start(workers=0)
    until(controller._may_write)
    controller._queue.close()
    controller._queue.open()
    for name in names:
        controller._queue.add((name, "coredns"))
    controller._queue.add(("victim", "dns"))
    taken = [next_of(controller) for _ in range(2)]
    assert taken == [("attack0", "coredns"), ("victim", "dns")]


def remembered(part: Any) -> Iterator[tuple[str, Any]]:
    """The dicts of the controller, of its parts and of their parts, except those of the caches."""
    for name, value in vars(part).items():
        if isinstance(value, dict):
            yield f"{type(part).__name__}.{name}", value
        elif type(value).__module__.startswith("kubectl_istio_udp.controller"):
            yield from remembered(value)


def test_deleted_objects_leave_nothing_in_memory(running: Running) -> None:
    """Objects that come and go, each about another Service, leave nothing in any index."""
    controller = running.start()
    running.quiet()
    caches = controller.caches
    empty = {name: len(value) for name, value in vars(caches).items() if isinstance(value, dict)}
    for number in range(5):
        planned = builders.plan_of(ports=[PortRequest(5300, 53)], name=f"x{number}")
        forged = next(w for w in writes(planned.exposure) if w.kind == "ServiceEntry").manifest
        metadata = {**forged["metadata"], "namespace": "default"}
        running.server.put({**forged, "metadata": metadata})
        running.server.put(annotated(f"s{number}", ports="5300:53"))
        running.server.put(
            endpoint_slice(endpoint("10.0.0.1"), of=f"s{number}", suffix=f"{number}")
        )
        running.server.put(builders.pod(f"p{number}", app=f"a{number}"))
    until(lambda: caches.intent(("default", "s4")))
    for key in running.server.there():
        if key[1] == "default" and key[0] in ("ServiceEntry", "Service", "EndpointSlice", "Pod"):
            running.server.remove(*key)
    running.quiet()
    until(lambda: controller.states() == {})
    # How often their parts of the gateway changed is of interest for a while.
    running.clock.move(240.0)
    until(lambda: not controller._reconciler._waits._cooldowns)
    now = {name: len(value) for name, value in vars(caches).items() if isinstance(value, dict)}
    # The mesh of each gateway is read with the first exposure there.
    assert {n: s for n, s in now.items() if s > empty[n] and n != "_meshes"} == {}
    left = {name: value for name, value in remembered(controller) if value}
    # When their next Event is due, they are reconciled once more and forgotten.
    left.pop("WorkQueue._due")
    left.pop("EventWriter._budgets")
    assert left == {}
