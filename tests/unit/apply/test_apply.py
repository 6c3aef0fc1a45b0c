from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from kubectl_istio_udp.apply.changes import change_set
from kubectl_istio_udp.apply.deletion_order import delete_existing, remove
from kubectl_istio_udp.apply.transaction import Transaction
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import (
    ApplyConflict,
    ClusterError,
    Conflict,
    Forbidden,
    Interrupted,
    Unreachable,
)
from kubectl_istio_udp.model.exposure import Discovery, GatewayServiceMode
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state.existing import list_exposures
from kubectl_istio_udp.state.leftovers import read_leftovers
from tests.support.apiserver import ApiServer, Exec
from tests.support.builders import plan_of, tcp
from tests.support.fakes import Fakes

NAME = "udp-default-coredns"
ENTRY = ("ServiceEntry", "default", NAME)
FILTER = ("EnvoyFilter", "istio-system", NAME)
COMPANION = ("Service", "istio-system", NAME)
OWN = ("Service", "istio-system", "istio-ingressgateway")
PLURALS = {"ServiceEntry": "serviceentries", "EnvoyFilter": "envoyfilters", "Service": "services"}


def todo(ports: list[str] | tuple[str, ...] = ("5300:53",), **options: Any) -> tuple[Write, ...]:
    return writes(plan_of(ports=parse_port_requests(ports), **options).exposure)


def patched(ports: list[str] | tuple[str, ...] = ("5300:53",), **options: Any) -> tuple[Write, ...]:
    return todo(ports, gateway_service=GatewayServiceMode.PATCH, **options)


def write_all(api: Api, todo: list[Write] | tuple[Write, ...], **how: Any) -> list[str]:
    with Transaction(api, **how) as transaction:
        return [transaction.apply(write).verb for write in todo]


def fail_after(api: Api, todo: tuple[Write, ...]) -> ClusterError:
    """Write everything, then fail as after a gateway's rejection; return the error."""
    with pytest.raises(ClusterError) as caught, Transaction(api) as transaction:
        for write in todo:
            transaction.apply(write)
        raise ClusterError("the gateway refused it")
    return caught.value


# -- all or none --------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [todo, patched])
def test_writes_all(api: Api, server: ApiServer, wanted: Callable[..., Any]) -> None:
    verbs = write_all(api, wanted())
    assert verbs == ["created", "created", "created" if wanted is todo else "changed"]
    assert {ENTRY, FILTER} <= server.there()
    assert write_all(api, wanted()) == ["unchanged"] * 3


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("wanted", [todo, patched])
# A 409 that passes is tried again (test_retrying.py).
@pytest.mark.parametrize("status", [403, 500])
def test_a_failure_at_any_step_leaves_nothing_behind(
    api: Api, server: ApiServer, step: int, wanted: Callable[..., Any], status: int
) -> None:
    before = server.state()
    write = wanted()[step]
    server.fail("PATCH", f"/{PLURALS[write.kind]}/{write.name}\\?", status, times=1)
    with pytest.raises(ClusterError) as caught:
        write_all(api, wanted())
    assert server.state() == before
    taken_back = "everything that this run wrote was undone"
    assert (taken_back in caught.value.hints) == (step > 0)


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("wanted", [todo, patched])
def test_a_failure_at_any_step_restores_the_previous_content(
    api: Api, server: ApiServer, step: int, wanted: Callable[..., Any]
) -> None:
    write_all(api, wanted())
    before = server.state()
    changed = wanted(ports=["5300:53", "5400:53"], max_sessions=5)
    write = changed[step]
    server.fail("PATCH", f"/{PLURALS[write.kind]}/{write.name}\\?", 500, times=1)
    with pytest.raises(ClusterError):
        write_all(api, changed)
    assert server.state() == before


@pytest.mark.parametrize("wanted", [todo, patched])
def test_a_rejection_after_the_last_write_undoes_everything(
    api: Api, server: ApiServer, wanted: Callable[..., Any]
) -> None:
    before = server.state()
    error = fail_after(api, wanted())
    assert server.state() == before
    assert error.hints == ("everything that this run wrote was undone",)


def test_a_rejected_change_restores_the_ports_of_a_service(api: Api, server: ApiServer) -> None:
    write_all(api, patched())
    before = server.state()
    fail_after(api, patched(ports=["5400:53"]))
    assert server.state() == before
    assert [p["port"] for p in before[OWN]["spec"]["ports"]] == [80, 443, 5300]


def test_writes_are_undone_in_reverse_order(api: Api, server: ApiServer) -> None:
    fail_after(api, todo())
    assert [r for r in server.writes() if r.startswith("DELETE")] == [
        f"DELETE /api/v1/namespaces/istio-system/services/{NAME}",
        f"DELETE /apis/networking.istio.io/v1alpha3/namespaces/istio-system/envoyfilters/{NAME}",
        f"DELETE /apis/networking.istio.io/v1/namespaces/default/serviceentries/{NAME}",
    ]


def test_the_error_names_what_could_not_be_undone(api: Api, server: ApiServer) -> None:
    server.fail("DELETE", "/envoyfilters/", 403)
    error = fail_after(api, todo())
    (hint,) = error.hints
    assert hint.startswith(f"could not be undone and may remain: EnvoyFilter istio-system/{NAME} (")
    assert FILTER in server.there()
    assert not {ENTRY, COMPANION} & server.there()


def test_the_error_names_content_that_could_not_be_restored(api: Api, server: ApiServer) -> None:
    write_all(api, todo())
    changed = todo(max_sessions=5)
    server.fail("PATCH", "/envoyfilters/.*force=true", 500)
    error = fail_after(api, changed)
    assert [hint for hint in error.hints if "EnvoyFilter" in hint]


def test_an_interruption_undoes_everything(api: Api, server: ApiServer) -> None:
    before = server.state()
    with pytest.raises(Interrupted) as caught, Transaction(api) as transaction:
        transaction.apply(todo()[0])
        raise KeyboardInterrupt
    assert server.state() == before
    assert caught.value.hints == ("everything that this run wrote was undone",)


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("wanted", [todo, patched])
@pytest.mark.parametrize("there", [False, True])
def test_a_write_without_a_response_is_undone(
    api: Api, server: ApiServer, step: int, wanted: Callable[..., Any], there: bool
) -> None:
    if there:
        write_all(api, wanted())
    before = server.state()
    changed = wanted(max_sessions=5, ports=["5400:53"])
    write = changed[step]
    path = f"/{PLURALS[write.kind]}/{write.name}\\?"
    server.fail("PATCH", path, done=True, times=1)
    with pytest.raises(Unreachable):
        write_all(api, changed)
    assert server.state() == before


def test_kept_writes_stay(api: Api, server: ApiServer) -> None:
    with pytest.raises(ClusterError) as caught, Transaction(api) as transaction:
        transaction.apply(todo()[0])
        transaction.keep()
        raise ClusterError("later")
    assert ENTRY in server.there()
    assert caught.value.hints == ()


def test_unchanged_objects_are_not_undone(api: Api, server: ApiServer) -> None:
    write_all(api, todo())
    before = server.state()
    fail_after(api, todo())
    assert server.state() == before


def test_a_dry_run_writes_nothing(api: Api, server: ApiServer) -> None:
    before = server.state()
    assert write_all(api, todo(), dry_run="server") == ["created"] * 3
    assert server.state() == before
    assert server.writes() == []


def test_fields_of_others_are_taken_over_only_by_force(api: Api, server: ApiServer) -> None:
    theirs = copy.deepcopy(dict(todo()[1].manifest))
    theirs["spec"]["configPatches"] = []
    server.put(theirs)
    with pytest.raises(ApplyConflict, match='conflict with "helm"'):
        write_all(api, todo())
    assert server.get(*FILTER)["spec"]["configPatches"] == []
    assert write_all(api, todo(), force=True) == ["created", "changed", "created"]
    assert server.get(*FILTER)["spec"] == todo()[1].manifest["spec"]


def test_the_gateways_service_keeps_its_other_fields(api: Api, server: ApiServer) -> None:
    before = server.state()[OWN]
    write_all(api, patched())
    after = server.state()[OWN]
    assert after["spec"].pop("ports") == [
        *before["spec"].pop("ports"),
        {"name": "udp-5300", "port": 5300, "protocol": "UDP", "targetPort": 5300},
    ]
    assert after == before


# -- deleting -----------------------------------------------------------------------------------


def delete(
    api: Api, *, timeout: float | int = 5.0, dry_run: str = "none"
) -> tuple[list[str], tuple[str, ...]]:
    reported = []
    (existing,) = list_exposures(api)
    warnings = delete_existing(
        api,
        existing,
        read_leftovers(api, [existing.spec]),
        timeout=timeout,
        dry_run=dry_run,
        report=lambda kind, namespace, name: reported.append(f"{kind} {namespace}/{name}"),
    )
    return reported, warnings


def test_an_object_deleted_by_another_run_is_not_created_again(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    write_all(api, todo())
    (existing,) = list_exposures(api)
    server.remove("EnvoyFilter", "istio-system", NAME)
    server.requests.clear()
    delete_existing(
        api,
        existing,
        read_leftovers(api, [existing.spec]),
        timeout=5.0,
        dry_run="none",
        report=lambda *_: None,
    )
    events = [event for _, event, _ in server.changes("EnvoyFilter", 0, 0.0)]
    assert events == ["ADDED", "DELETED"]
    assert server.get("ServiceEntry", "default", NAME) is None


def test_an_object_that_was_replaced_meanwhile_stays(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    write_all(api, todo())
    (existing,) = list_exposures(api)
    theirs = server.get("Service", "istio-system", NAME)
    server.remove("Service", "istio-system", NAME)
    assert theirs
    theirs["metadata"] = {"name": NAME, "namespace": "istio-system"}
    server.put(theirs)
    with pytest.raises(Conflict):
        delete_existing(
            api,
            existing,
            read_leftovers(api, [existing.spec]),
            timeout=5.0,
            dry_run="none",
            report=lambda *_: None,
        )
    assert server.get("Service", "istio-system", NAME)


def test_deletes_exactly_what_it_wrote_starting_with_the_service(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    before = server.state()
    write_all(api, todo())
    server.requests.clear()
    reported, warnings = delete(api)
    assert server.state() == before
    assert warnings == ()
    assert reported == [
        f"Service istio-system/{NAME}",
        f"EnvoyFilter istio-system/{NAME}",
        f"ServiceEntry default/{NAME}",
    ]
    assert [r.rpartition("/")[0].split("/")[-1] + " " + r.split()[0] for r in server.writes()] == [
        "services DELETE",
        "envoyfilters PATCH",
        "envoyfilters DELETE",
        "serviceentries DELETE",
    ]


def test_the_listener_is_removed_before_the_cluster(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    """The patch is removed; when no gateway listens, the EnvoyFilter and the rest are deleted."""
    write_all(api, todo())
    delete(api)
    (patch,) = [r for r in server.requests if r.method == "PATCH" and r.query.get("force")]
    assert [p["applyTo"] for p in patch.body["spec"]["configPatches"]] == ["CLUSTER"] * 2
    assert fakes.history == ["listeners []"]


def test_a_gateway_that_still_listens_is_a_warning(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    write_all(api, todo())
    fakes._resources("LISTENER")
    fakes.stuck = True
    reported, warnings = delete(api, timeout=0.05)
    assert len(reported) == 3
    assert warnings == (
        "gateway pod istio-system/istio-ingressgateway-1 still listens after 0.05s",
    )


def test_a_gateway_that_cannot_be_queried_is_a_warning(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    write_all(api, todo())
    fakes.deaf["istio-ingressgateway-1"] = Exec(error="no such container")
    reported, warnings = delete(api)
    assert len(reported) == 3
    assert "not confirmed by the gateway" in warnings[0]


def test_without_waiting_no_gateway_is_queried(api: Api, server: ApiServer, fakes: Fakes) -> None:
    write_all(api, todo())
    reported, _ = delete(api, timeout=0)
    assert len(reported) == 3
    assert fakes.commands == []


def test_a_dry_run_deletes_nothing(api: Api, server: ApiServer, fakes: Fakes) -> None:
    write_all(api, todo())
    before = server.state()
    reported, _ = delete(api, dry_run="server")
    assert len(reported) == 3
    assert server.state() == before


def test_restores_the_gateways_service(api: Api, server: ApiServer, fakes: Fakes) -> None:
    before = server.state()
    write_all(api, patched())
    reported, _ = delete(api)
    assert server.state() == before
    assert reported[0].startswith("Service istio-system/istio-ingressgateway (")


def test_removes_the_ports_from_whichever_service_has_them(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    """The gateway's own Service may have changed since; the field manager decides."""
    write_all(api, patched())
    other = copy.deepcopy(server.get(*OWN))
    server.remove(*OWN)
    write = patched()[-1]
    moved = {**write.manifest, "metadata": {"name": "renamed", "namespace": "istio-system"}}
    server.put({**other, "metadata": {"name": "renamed", "namespace": "istio-system"},
                "spec": {"ports": [tcp(80)]}})  # fmt: skip
    write_all(api, [Write(moved, write.manager, whole=False)])
    delete(api)
    ports = server.get("Service", "istio-system", "renamed")["spec"]["ports"]
    assert [p["port"] for p in ports] == [80]


@pytest.mark.parametrize("gone", [[COMPANION], [COMPANION, FILTER], [FILTER], [ENTRY]])
def test_an_incomplete_deletion_can_be_repeated(
    api: Api, server: ApiServer, fakes: Fakes, gone: list[tuple[str, ...]]
) -> None:
    before = server.state()
    write_all(api, todo())
    for key in gone:
        server.remove(*key)
    delete(api)
    assert server.state() == before


def test_an_interrupted_deletion_leaves_objects_that_can_be_deleted(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    before = server.state()
    write_all(api, todo())
    server.fail("DELETE", "/serviceentries/", 500, times=1)
    with pytest.raises(ClusterError):
        delete(api)
    assert ENTRY in server.there()
    delete(api)
    assert server.state() == before


# -- what is no longer wanted ---------------------------------------------------------------------


def changed(
    api: Api, before: tuple[Write, ...], after: tuple[Write, ...], dry_run: str = "none"
) -> tuple[tuple[str, ...], ...]:
    """Write one exposure, then another in its place; return what was removed."""
    write_all(api, before)
    (existing,) = list_exposures(api)
    key = (existing.namespace, existing.name)
    changes = change_set(existing.kind, key, existing.objects, api.list("Service"), after)
    write_all(api, after)
    gone = []
    remove(
        api,
        changes,
        timeout=0,
        dry_run=dry_run,
        report=lambda kind, _, name: gone.append((kind, name)),
    )
    return tuple(gone)


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        ({}, {}, ()),
        ({}, {"max_sessions": 5}, ()),
        ({}, {"discovery": Discovery.STATIC}, (("ServiceEntry", NAME),)),
        ({}, {"gateway_service": GatewayServiceMode.PATCH}, (("Service", NAME),)),
        ({}, {"gateway_service": GatewayServiceMode.NONE}, (("Service", NAME),)),
        (
            {"gateway_service": GatewayServiceMode.PATCH},
            {},
            (("Service", "istio-ingressgateway (UDP ports of the exposure)"),),
        ),
        (
            {"gateway_service": GatewayServiceMode.PATCH},
            {"gateway_service": GatewayServiceMode.PATCH},
            (),
        ),
    ],
)
def test_deletes_objects_that_are_no_longer_needed(
    api: Api,
    server: ApiServer,
    before: dict[str, Any],
    after: dict[str, Any],
    gone: tuple[tuple[str, ...], ...],
) -> None:
    assert changed(api, todo(**before), todo(**after)) == gone
    expected = {write.key for write in todo(**after)} | {OWN}
    assert {key for key in server.there() if key[2] == NAME or key == OWN} == expected
    own = [p["port"] for p in server.get(*OWN)["spec"]["ports"]]
    patched_now = after.get("gateway_service") is GatewayServiceMode.PATCH
    assert own == [80, 443, *([5300] if patched_now else [])]


def test_a_dry_run_removes_nothing(api: Api, server: ApiServer) -> None:
    gone = changed(api, todo(), todo(discovery=Discovery.STATIC), dry_run="server")
    assert gone == (("ServiceEntry", NAME),)
    assert ENTRY in server.there()


def test_reports_a_forbidden_removal(api: Api, server: ApiServer) -> None:
    server.fail("DELETE", "/serviceentries/", 403)
    with pytest.raises(Forbidden):
        changed(api, todo(), todo(discovery=Discovery.STATIC))


# -- writes of others meanwhile -----------------------------------------------------------------


def fail_after_another_write(
    api: Api, server: ApiServer, wanted: tuple[Write, ...], *changed: dict[str, Any]
) -> ClusterError:
    with pytest.raises(ClusterError) as caught, Transaction(api) as transaction:
        for write in wanted:
            transaction.apply(write)
        server.put(*changed)
        raise ClusterError("rejected")
    return caught.value


@pytest.mark.parametrize("existed", [False, True], ids=["created", "changed"])
def test_a_newer_write_is_not_undone(api: Api, server: ApiServer, existed: bool) -> None:
    """Nor are the endpoints that the newer EnvoyFilter may use."""
    if existed:
        write_all(api, todo())
    newer = dict(todo(ports=["5300:53"], max_sessions=7)[1].manifest)
    error = fail_after_another_write(api, server, todo(ports=["5400:53"]), newer)
    assert server.get(*FILTER)["spec"] == newer["spec"]
    assert server.get(*ENTRY)
    assert f"EnvoyFilter istio-system/{NAME} (someone else changed it meanwhile)" in str(
        error.hints
    )
    assert bool(server.get(*COMPANION)) is existed


def test_an_object_that_someone_else_created_again_is_not_deleted(
    api: Api, server: ApiServer
) -> None:
    wanted = todo()
    with pytest.raises(ClusterError) as caught, Transaction(api) as transaction:
        for write in wanted:
            transaction.apply(write)
        server.remove(*FILTER)
        server.put(dict(wanted[1].manifest))
        raise ClusterError("rejected")
    assert server.get(*FILTER)
    assert "someone else changed it meanwhile" in str(caught.value.hints)


def test_fields_of_others_do_not_prevent_an_undo(api: Api, server: ApiServer) -> None:
    """A cloud adds annotations to a Service at any time."""
    wanted = todo()
    with pytest.raises(ClusterError) as caught, Transaction(api) as transaction:
        for write in wanted:
            transaction.apply(write)
        service = server.get(*COMPANION)
        service["metadata"].setdefault("annotations", {})["cloud/neg"] = "x"
        server.put(service)
        raise ClusterError("rejected")
    assert caught.value.hints == ("everything that this run wrote was undone",)
    assert not server.get(*COMPANION)


def test_an_undo_reads_again_when_the_object_changes_before_its_request(
    api: Api, server: ApiServer
) -> None:
    server.fail("DELETE", "/envoyfilters/", 409, times=2)
    assert fail_after(api, todo()).hints == ("everything that this run wrote was undone",)
    assert not server.get(*FILTER)


@pytest.mark.parametrize("key", [ENTRY, FILTER, COMPANION], ids=lambda key: str(key[0]))
def test_delete_does_not_delete_an_object_that_was_created_again(
    api: Api, server: ApiServer, key: tuple[str, str, str]
) -> None:
    write_all(api, todo())
    read = server.get(*key)
    server.remove(*key)
    server.put(read)
    with pytest.raises(Conflict):
        api.delete(read)
    assert server.get(*key)
    assert api.delete(server.get(*key), unchanged=True)


def test_delete_of_an_unchanged_object_needs_its_version(api: Api, server: ApiServer) -> None:
    write_all(api, todo())
    read = server.get(*FILTER)
    server.put({**read, "spec": {}})
    with pytest.raises(Conflict):
        api.delete(read, unchanged=True)
    assert api.delete(read)
