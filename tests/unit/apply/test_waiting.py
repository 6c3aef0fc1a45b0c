from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from kubectl_istio_udp.apply.waiting import (
    Expected,
    wait_until_gone,
    wait_until_live,
    wait_until_routed,
)
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.envoyfilter import revisions
from kubectl_istio_udp.model.errors import Forbidden, Rejected, WaitTimeout
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from kubectl_istio_udp.render.response import route_name
from kubectl_istio_udp.state.pods import ready_pods
from tests.support.apiserver import ApiServer, Exec
from tests.support.builders import GATEWAY_LABELS, gateway_pod, plan_of
from tests.support.fakes import Fakes
from tests.support.mesh_builders import put, response

NAME = "udp-default-coredns-5300"
POD = "istio-ingressgateway-1"


def manifest(**options: Any) -> dict[str, Any]:
    return envoy_filter(plan_of(ports=parse_port_requests(["5300:53"]), **options).exposure)


def expected(hosts: list[str] | tuple[str, ...] = ("10.244.0.20:53",), **options: Any) -> Expected:
    written = revisions(manifest(**options))
    return Expected(
        "udp-default-coredns-",
        written["LISTENER"],
        written["CLUSTER"],
        lambda: {NAME: frozenset(hosts)},
    )


def wait(
    api: Api,
    what: Expected | None = None,
    timeout: float | int = 0.05,
    progress: Callable[..., Any] = lambda _: None,
    **more: Any,
) -> tuple[str, ...]:
    where = ("istio-system", GATEWAY_LABELS)
    return wait_until_live(api, *where, what or expected(), timeout, progress, **more)


def test_returns_when_every_pod_has_the_configuration(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.put(manifest(), gateway_pod("istio-ingressgateway-2"))
    assert wait(api) == ("istio-ingressgateway-1", "istio-ingressgateway-2")


def test_does_not_wait_for_pods_that_are_not_ready(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.put(manifest(), gateway_pod("istio-ingressgateway-2", ready=False))
    fakes.deaf["istio-ingressgateway-2"] = Exec(error="gone")
    assert wait(api) == (POD,)


def test_does_not_wait_without_a_ready_pod(api: Api, server: ApiServer, fakes: Fakes) -> None:
    server.put(gateway_pod(ready=False))
    assert wait(api, had_pods=False) == ()
    assert fakes.commands == []


def test_a_gateway_whose_only_pod_ends_confirms_nothing(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.put(manifest(), gateway_pod(ready=False))
    with pytest.raises(WaitTimeout, match="nothing confirmed the configuration") as caught:
        wait(api)
    assert "kubectl get pods -n istio-system" in caught.value.hints[0]
    assert wait(api, timeout=10, progress=lambda _: server.put(gateway_pod())) == (POD,)


def test_waits_until_the_configuration_arrives(api: Api, server: ApiServer, fakes: Fakes) -> None:
    lines = []

    def progress(line: str) -> None:
        lines.append(line)
        server.put(manifest())

    assert wait(api, timeout=10, progress=progress) == (POD,)
    assert lines == [f"{POD} does not yet have listener {NAME}"]


@pytest.mark.parametrize(
    ("there", "hosts", "lack"),
    [
        (None, True, f"does not yet have listener {NAME}"),
        ("old listener", True, f"does not yet have listener {NAME}"),
        ("old cluster", True, f"does not yet have cluster {NAME}"),
        ("new", False, f"does not yet have host 10.244.0.20:53 in cluster {NAME}"),
    ],
)
def test_a_timeout_names_what_is_missing(
    api: Api, server: ApiServer, fakes: Fakes, there: str | None, hosts: bool, lack: str
) -> None:
    wanted: dict[str, Any] = {}
    if there == "old listener":
        server.put(manifest())
        wanted = {"session_log": True}
    elif there == "old cluster":
        server.put(manifest())
        wanted = {"max_sessions": 5}
    elif there:
        server.put(manifest())
    fakes.hosts = hosts
    with pytest.raises(WaitTimeout) as caught:
        wait(api, expected(**wanted))
    assert caught.value.message.startswith(f"gateway pod istio-system/{POD} {lack} after 0.05s")
    assert "--timeout" in caught.value.hints[0]


def test_additional_hosts_do_not_matter(api: Api, server: ApiServer, fakes: Fakes) -> None:
    server.put(manifest())
    assert wait(api, expected(hosts=["10.244.0.21:53"])) == (POD,)
    assert wait(api, expected(hosts=[])) == (POD,)


def test_a_rejection_in_the_dump_ends_the_wait_at_once(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.put(manifest())
    fakes.refuses[NAME] = "no such field: bogus"
    with pytest.raises(Rejected) as caught:
        wait(api, timeout=60)
    assert caught.value.message == (
        f"the Envoy of gateway pod istio-system/{POD} rejected it: no such field: bogus"
    )


def test_a_rejection_in_the_log_ends_the_wait_at_once(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.logs["istio-system", POD] = (
        "2026-01-02T03:04:06.1Z\twarning\tenvoy\tgRPC config rejected: "
        f"Error adding/updating cluster(s) {NAME}: bad\tthread=1\n"
    )
    with pytest.raises(Rejected, match="rejected it: bad"):
        wait(api, timeout=60)
    request = next(r for r in server.requests if r.path.endswith("/log"))
    assert request.query["sinceSeconds"] == ["1"]


def test_a_rejection_of_another_resource_does_not_end_the_wait(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    """Its name begins with ours."""
    server.logs["istio-system", POD] = (
        "2026-01-02T03:04:06.1Z\twarning\tenvoy\tgRPC config rejected: "
        f"Error adding/updating cluster(s) {NAME}0: bad\tthread=1\n"
    )
    with pytest.raises(WaitTimeout) as caught:
        wait(api)
    assert f"its Envoy rejects {NAME}0" in caught.value.hints[0]


def test_a_pod_that_cannot_be_queried_is_queried_again(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.put(manifest())
    fakes.deaf[POD] = Exec(error="starting")

    def progress(line: str) -> None:
        assert line.startswith(f"{POD} could not be queried (")
        fakes.deaf.clear()

    assert wait(api, timeout=10, progress=progress) == (POD,)


def test_missing_permission_to_query_is_reported_at_once(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.fail("GET", "/(exec|portforward)", 403)
    with pytest.raises(Forbidden):
        wait(api, timeout=60)


def gone(
    api: Api, timeout: float | int = 0.05, names: list[str] | tuple[str, ...] = (NAME,)
) -> str | None:
    return wait_until_gone(api, "istio-system", GATEWAY_LABELS, names, timeout)


def test_no_pod_has_the_listener(api: Api, server: ApiServer, fakes: Fakes) -> None:
    assert gone(api) is None
    server.put(manifest())
    assert gone(api, names=["another"]) is None


def test_reports_a_listener_that_stays(api: Api, server: ApiServer, fakes: Fakes) -> None:
    server.put(manifest())
    assert gone(api) == f"gateway pod istio-system/{POD} still listens after 0.05s"


def test_waits_until_the_listener_is_removed(api: Api, server: ApiServer, fakes: Fakes) -> None:
    server.put(manifest())
    asked = threading.Event()

    def run(*words: Any) -> Exec:
        found = fakes.run(*words)
        if not asked.is_set():
            asked.set()
            server.remove("EnvoyFilter", "istio-system", "udp-default-coredns")
        return found

    server.run = run
    assert gone(api, timeout=60) is None
    assert len(fakes.history) == 2


def test_reports_a_gateway_that_cannot_be_queried(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.fail("GET", "/(exec|portforward)", 403)
    assert "not confirmed by the gateway: no permission" in (gone(api) or "")


def test_ready_pods(api: Api, server: ApiServer) -> None:
    server.put(gateway_pod("b"), gateway_pod("a"), gateway_pod("c", ready=False))
    found = ready_pods(api, "istio-system", GATEWAY_LABELS)
    assert [pod.name for pod in found] == ["a", "b", POD]
    assert ready_pods(api, "istio-system", {"app": "other"}) == ()


# -- HTTP routes --------------------------------------------------------------------------------

ROUTE = route_name(response())


def routed(
    api: Api, timeout: float | int = 0.05, progress: Callable[..., Any] = lambda _: None
) -> tuple[str, ...]:
    return wait_until_routed(api, "istio-system", GATEWAY_LABELS, ROUTE, timeout, progress)


def test_every_gateway_pod_has_the_route(api: Api, server: ApiServer, fakes: Fakes) -> None:
    put(server, response())
    server.put(gateway_pod("istio-ingressgateway-2"), gateway_pod("late", ready=False))
    assert routed(api) == (POD, "istio-ingressgateway-2")


def test_waits_until_the_route_arrives(api: Api, server: ApiServer, fakes: Fakes) -> None:
    """The route of another answer does not count."""
    put(server, response(status=201))
    lines = []

    def progress(line: str) -> None:
        lines.append(line)
        put(server, response())

    assert routed(api, timeout=60, progress=progress) == (POD,)
    assert lines == [f"{POD} does not yet have route {ROUTE}"]


def test_reports_a_route_that_does_not_arrive(api: Api, server: ApiServer, fakes: Fakes) -> None:
    with pytest.raises(WaitTimeout, match=f"{POD} does not yet have route {ROUTE} after 0.05s"):
        routed(api)


def test_a_gateway_that_cannot_be_queried_for_routes_is_queried_again(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    put(server, response())
    fakes.deaf[POD] = Exec(error="starting")

    def progress(line: str) -> None:
        assert line.startswith(f"{POD} could not be queried (")
        fakes.deaf.clear()

    assert routed(api, timeout=60, progress=progress) == (POD,)


def test_missing_permission_to_query_routes_is_reported_at_once(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.fail("GET", "/(exec|portforward)", 403)
    with pytest.raises(Forbidden):
        routed(api, timeout=60)


def test_a_rejected_route_ends_the_wait_at_once(api: Api, server: ApiServer, fakes: Fakes) -> None:
    server.logs["istio-system", POD] = (
        "2026-01-02T03:04:06.1Z\twarning\tenvoy\tgRPC config for type.googleapis.com/"
        "envoy.config.route.v3.RouteConfiguration rejected: bad body\tthread=1\n"
    )
    with pytest.raises(Rejected, match="rejected it: bad body"):
        routed(api, timeout=60)
