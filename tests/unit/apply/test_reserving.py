"""Several runs that write to one gateway at the same time."""

from __future__ import annotations

import dataclasses
import threading
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from kubectl_istio_udp.apply.reserving import (
    Overtaken,
    reserved,
    reserved_if_changed,
    takes_more,
)
from kubectl_istio_udp.checks.expose import check_expose
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, Conflict, Forbidden
from kubectl_istio_udp.model.exposure import Exposure, ExposureSpec, Options
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.plan.exposure import plan
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state.existing import find_exposure
from kubectl_istio_udp.state.reservations import (
    Reservation,
    counted,
    read_reservation,
    reservation,
    reservation_name,
)
from kubectl_istio_udp.state.snapshot import read_again, read_snapshot
from tests.support.apiserver import ApiServer, Request
from tests.support.builders import cluster, plan_of, snapshot_of
from tests.support.fakes import Fakes
from tests.unit.conftest import Run

GATEWAY = "istio-system"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
SPEC = plan_of(max_sessions=500).exposure.spec


def spec_named(name: str, port: int = 5300, sessions: int = 500) -> ExposureSpec:
    spec = dataclasses.replace(SPEC, name=name, entries=(), options=Options(max_sessions=sessions))
    (only,) = spec.ports
    return dataclasses.replace(
        spec, ports=(dataclasses.replace(only, gateway_port=port, listener_port=port),)
    )


def made(
    spec: ExposureSpec, version: int, created: str = "2026-01-02T03:04:05Z", **changes: Any
) -> dict[str, Any]:
    manifest = reservation(spec, "run")
    manifest["metadata"] |= {
        "resourceVersion": str(version), "creationTimestamp": created, "uid": "u", **changes
    }  # fmt: skip
    return manifest


def decided(
    api: Api, name: str, port: int, sessions: int | None = None, **more: Any
) -> tuple[Exposure, Snapshot]:
    """The exposure that a run decides now, and the snapshot that it uses."""
    request = ExposeRequest(
        "default",
        "coredns",
        name=name,
        ports=(PortRequest(port, 53),),
        options=Options(max_sessions=sessions) if sessions else Options(),
        automatic_sessions=not sessions,
        **more,
    )
    existing = find_exposure(api, "default", name)
    snapshot = read_snapshot(api, request, GatewayChoice(), existing, need_proxy=False)
    return plan(request, snapshot).exposure, snapshot


def write(api: Api, exposure: Exposure) -> None:
    for each in writes(exposure):
        api.apply(each.manifest, before=None, manager=each.manager)


def reservations(server: ApiServer) -> list[dict[str, Any]]:
    return [m for m in server.all("EnvoyFilter") if m["metadata"]["name"].startswith("reserved-")]


# -- what a reservation says -----------------------------------------------------------------


def read(manifest: dict[str, Any]) -> Reservation:
    found = read_reservation(manifest)
    assert found is not None
    return found


def test_a_reservation_is_read_as_it_was_made() -> None:
    found = read(made(SPEC, 7))
    assert (found.spec, found.version, found.created) == (SPEC, 7, NOW)
    assert found.footprint.exposure == SPEC.key
    assert found.footprint.udp_ports == {10053}
    assert found.footprint.listeners == found.footprint.clusters == {"udp-default-coredns-53"}


def test_a_reservation_adds_nothing_to_envoy() -> None:
    assert "configPatches" not in reservation(SPEC, "run")["spec"]


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": {}},
        {"annotations": {"kubectl-istio-udp/reservation": "{"}},
        {"namespace": "elsewhere"},
        {"name": "another"},
        {"resourceVersion": "x"},
    ],
)
def test_other_objects_are_not_reservations(changes: dict[str, Any]) -> None:
    assert read_reservation(made(SPEC, 7, **changes)) is None


def test_an_envoy_filter_with_patches_is_not_a_reservation() -> None:
    """What it adds counts, whatever its annotation says."""
    found = made(SPEC, 7)
    found["spec"]["configPatches"] = [{"applyTo": "LISTENER"}]
    assert read_reservation(found) is None


def test_earlier_reservations_count_and_stale_ones_never() -> None:
    mine = read(made(spec_named("mine"), 20))
    earlier = read(made(spec_named("earlier"), 19))
    later = read(made(spec_named("later"), 21))
    stale = read(made(spec_named("stale"), 3, "2026-01-02T02:59:04Z"))
    everyone = [earlier, mine, later, stale]
    assert counted(everyone, mine) == [earlier]
    assert counted(everyone, None, NOW) == [earlier, mine, later]
    assert counted(everyone, None, NOW + timedelta(minutes=6)) == []


def test_a_reservation_of_the_same_exposure_takes_no_name_and_no_port() -> None:
    """The run that cannot create a second reservation reports the other run."""
    exposure = plan_of().exposure
    spec = exposure.spec
    own = read(made(spec, 7)).footprint
    snapshot = snapshot_of(cluster(), footprints=(own,))
    assert not {f.code for f in check_expose(exposure, snapshot)} & {"U102", "U103"}
    others = dataclasses.replace(own, exposure=("default", "other"))
    snapshot = snapshot_of(cluster(), footprints=(others,))
    assert {"U102", "U103"} <= {f.code for f in check_expose(exposure, snapshot)}


# -- one exposure, several runs ----------------------------------------------------------------


def test_a_reservation_exists_only_while_it_is_held(api: Api, server: ApiServer) -> None:
    before = server.state()
    with reserved(api, SPEC) as mine:
        assert [m["metadata"]["name"] for m in reservations(server)] == [reservation_name(SPEC)]
        assert mine.spec == SPEC
    assert server.state() == before


def test_of_several_runs_for_one_name_the_first_wins(api: Api, server: ApiServer) -> None:
    with reserved(api, SPEC):
        with (
            pytest.raises(
                Conflict, match="another run is writing exposure default/coredns"
            ) as caught,
            reserved(api, SPEC),
        ):
            pytest.fail("two runs hold one reservation")
        assert "kubectl delete envoyfilter -n istio-system reserved-udp" in caught.value.hints[1]
        assert len(reservations(server)) == 1
    assert reservations(server) == []


def test_the_reservation_of_a_killed_run_is_replaced_after_five_minutes(
    api: Api, server: ApiServer
) -> None:
    server.put(made(SPEC, 1, "2026-01-02T03:04:05Z"))
    with reserved(api, SPEC) as mine:
        assert mine.run != "run"
    assert reservations(server) == []


def test_another_object_with_its_name_is_not_changed(api: Api, server: ApiServer) -> None:
    theirs = made(SPEC, 1, annotations={})
    server.put(theirs)
    with pytest.raises(ClusterError, match="cannot be read as one"), reserved(api, SPEC):
        pytest.fail("it was taken for a reservation")
    assert len(reservations(server)) == 1


def test_a_reservation_with_a_lost_response_is_found(api: Api, server: ApiServer) -> None:
    """The server created it and answered 500, or the connection broke: nothing is left behind."""
    server.fail("POST", "envoyfilters", 0, done=True, times=1)
    with pytest.raises(ClusterError), reserved(api, SPEC):
        pytest.fail("it has no reservation")
    assert reservations(server) == []


def test_reservations_of_other_runs_are_not_deleted(api: Api, server: ApiServer) -> None:
    with reserved(api, SPEC):
        server.remove("EnvoyFilter", GATEWAY, reservation_name(SPEC))
        server.put(made(SPEC, 1))
    assert len(reservations(server)) == 1


def test_reports_missing_permission_to_delete(api: Api, server: ApiServer) -> None:
    told: list[str] = []
    server.fail("DELETE", "envoyfilters", 403)
    with reserved(api, SPEC, told.append):
        pass
    assert "could not delete the reservation" in told[0] and "5 minutes" in told[0]


def test_missing_permission_to_create_is_an_error(api: Api, server: ApiServer) -> None:
    server.fail("POST", "envoyfilters", 403)
    with pytest.raises(Forbidden), reserved(api, SPEC):
        pytest.fail("it has no reservation")


# -- different exposures ------------------------------------------------------------------------


@pytest.fixture
def small(fakes: Fakes) -> None:
    """A gateway with room for 1,000 sessions."""
    fakes.file_limit = "3000\n"


def fitting(api: Api, exposure: Exposure, snapshot: Snapshot) -> Any:
    """The reservation of `expose` while it writes; failing to delete it fails the test."""
    return reserved_if_changed(api, exposure, snapshot, writes(exposure), pytest.fail)


def test_of_two_exposures_that_do_not_fit_the_later_is_not_written(
    api: Api, server: ApiServer, small: Any
) -> None:
    """Both decided on the same snapshot; 600 + 600 of 1,000."""
    one, seen_by_one = decided(api, "one", 5301, 600)
    two, seen_by_two = decided(api, "two", 5302, 600)
    with fitting(api, one, seen_by_one):
        with (
            pytest.raises(Overtaken, match=r"600 sessions .*\[U108\]; nothing was written"),
            fitting(api, two, seen_by_two),
        ):
            pytest.fail("it does not fit")
        write(api, one)
    assert reservations(server) == []
    with pytest.raises(Overtaken, match="U108"), fitting(api, two, seen_by_two):
        pytest.fail("it does not fit")


def test_the_earlier_exposure_is_written_whatever_the_later_one_reserves(
    api: Api, server: ApiServer, small: Any
) -> None:
    one, seen_by_one = decided(api, "one", 5301, 600)
    two, _ = decided(api, "two", 5302, 600)
    with reserved(api, one.spec) as mine, reserved(api, two.spec):
        again = read_again(api, seen_by_one, one.spec.key, mine)
        assert again.others.sessions == 0


def test_two_exposures_request_one_port(api: Api, server: ApiServer, fakes: Fakes) -> None:
    one, seen_by_one = decided(api, "one", 5301)
    two, seen_by_two = decided(api, "two", 5301)
    with (
        fitting(api, one, seen_by_one),
        pytest.raises(Overtaken, match=r"5301/UDP of gateway .* is taken by .*U103"),
        fitting(api, two, seen_by_two),
    ):
        pytest.fail("the port is taken")


def test_a_growing_exposure_counts_with_its_new_size(
    api: Api, server: ApiServer, small: Any
) -> None:
    """An existing exposure grows from 100 to 700 sessions; a new one needs 600."""
    write(api, decided(api, "old", 5301, 100)[0])
    old, seen_by_old = decided(api, "old", 5301, 700)
    new, seen_by_new = decided(api, "new", 5302, 600)
    with (
        fitting(api, old, seen_by_old),
        pytest.raises(Overtaken, match="700 of 1000 sessions are reserved"),
        fitting(api, new, seen_by_new),
    ):
        pytest.fail("it does not fit")


def test_an_exposure_that_another_run_created_is_not_changed(api: Api, server: ApiServer) -> None:
    mine, seen = decided(api, "one", 5301)
    write(api, decided(api, "one", 5302)[0])
    with (
        pytest.raises(Conflict, match="was modified concurrently by another run"),
        fitting(api, mine, seen),
    ):
        pytest.fail("it would be changed")


def test_many_concurrent_runs_never_exceed_the_budget(
    api: Api, server: ApiServer, small: Any
) -> None:
    """Twenty runs with one snapshot, 90 sessions each of 1,000: eleven fit, and never more."""
    runs = [decided(api, f"run-{n}", 5300 + n, 90) for n in range(20)]
    held, most, lock, start = set(), [], threading.Lock(), threading.Barrier(20)

    def go(exposure: Exposure, snapshot: Snapshot) -> None:
        start.wait()
        try:
            with fitting(api, exposure, snapshot):
                write(api, exposure)
        except Overtaken:
            return
        with lock:
            held.add(exposure.spec.name)
            there = [m for m in server.all("EnvoyFilter") if "configPatches" in m["spec"]]
            most.append(len(there))

    threads = [threading.Thread(target=go, args=run) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) * 90 <= 1_000
    assert len(held) == 11
    assert reservations(server) == []


# -- the command line ----------------------------------------------------------------------------


def test_an_overtaken_run_decides_again(run: Run, server: ApiServer, small: Any) -> None:
    """Another run takes most sessions meanwhile, so this one takes what is left."""
    quick = spec_named("quick", 5400, 900)

    def overtake(request: Request) -> None:
        if (
            request.method == "POST"
            and server.get("EnvoyFilter", GATEWAY, quick.object_name) is None
        ):
            planned = dataclasses.replace(plan_of().exposure, spec=quick)
            server.put(*(dict(w.manifest) for w in writes(planned)))

    run("expose", "coredns", "-p", "5300:53", "--max-sessions", "50", "--no-wait")
    server.seen = overtake
    done = run("expose", "coredns", "-p", "5300:53", "--max-sessions", "200", "--no-wait")
    assert done.code == 3, done.err
    assert "because another run was faster; deciding again" in done.err
    assert "900 of 1000 sessions are reserved, the most by default/quick 900" in done.err
    assert reservations(server) == []
    server.seen = lambda _: None
    assert run("expose", "coredns", "--name", "b", "-p", "5500:53", "--no-wait").code == 0


def test_a_repeated_run_reserves_nothing(run: Run, server: ApiServer) -> None:
    run("expose", "coredns", "-p", "5300:53", "--no-wait")
    server.requests.clear()
    assert run("expose", "coredns", "-p", "5300:53", "--no-wait").code == 0
    assert not [r for r in server.requests if r.method == "POST"]


def test_a_dry_run_reserves_nothing(run: Run, server: ApiServer) -> None:
    for kind in ("client", "server"):
        assert run("expose", "coredns", "-p", "5300:53", f"--dry-run={kind}").code == 0
    assert server.writes() == []


def test_expose_reports_that_another_run_writes_the_same_name(
    run: Run, server: ApiServer, api: Api
) -> None:
    with reserved(api, dataclasses.replace(SPEC, gateway=SPEC.gateway)):
        done = run("expose", "coredns", "-p", "5300:53", "--no-wait")
        assert done.code == 3
        assert "another run is writing exposure default/coredns" in done.err
        assert not [m for m in server.all("EnvoyFilter") if "configPatches" in m["spec"]]


@pytest.mark.parametrize(
    ("before", "more"),
    [
        (None, True),
        (SPEC, False),
        (dataclasses.replace(SPEC, options=Options(max_sessions=501)), False),
        (dataclasses.replace(SPEC, options=Options(max_sessions=499)), True),
        (spec_named("coredns", 5301), True),
    ],
)
def test_the_controller_only_reserves_growth(before: ExposureSpec | None, more: bool) -> None:
    assert takes_more(SPEC, before) is more
