from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.conditions import ConditionType, Truth
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import Discovery, Exposure, GatewayServiceMode
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.render.response import route_name
from kubectl_istio_udp.state.existing import list_existing, list_exposures
from kubectl_istio_udp.state.proxyrows import proxy_rows
from kubectl_istio_udp.state.query_limit import QueryLimit
from kubectl_istio_udp.state.status import Status, age, read_status
from tests.support.apiserver import ApiServer, Exec
from tests.support.builders import (
    cluster,
    endpoint,
    endpoint_slice,
    gateway_pod,
    gateway_service,
    plan_of,
    proc_net,
    service,
    udp,
)
from tests.support.fakes import Fakes
from tests.support.mesh_builders import RATINGS, access_log, put, response

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-5, "0s"),
        (119, "119s"),
        (120, "2m"),
        (7_199, "119m"),
        (7_200, "2h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (86_400 * 400, "400d"),
    ],
)
def test_ages_are_written_as_kubectl_does(seconds: int, text: str) -> None:
    made = NOW - timedelta(seconds=seconds)
    assert age(made.strftime("%Y-%m-%dT%H:%M:%SZ"), NOW) == text


def test_an_age_counts_from_now() -> None:
    assert age(datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")).endswith("s")


def status(api: Api, server: ApiServer, exposure: Exposure) -> tuple[str, ...]:
    for write in writes(exposure):
        api.apply(write.manifest, before=None, manager=write.manager)
    (found,) = read_status(api, list_exposures(api))
    assert found.age.endswith("d")
    return found.address, found.ready


def test_address_and_ready_endpoints(api: Api, server: ApiServer) -> None:
    server.put(endpoint_slice(endpoint("10.0.0.1"), endpoint("10.0.0.2", ready=False)))
    assert status(api, server, plan_of().exposure) == ("203.0.113.5", "1/2")


def test_endpoints_are_counted_once_for_all_ports(api: Api, server: ApiServer) -> None:
    ports = [{"name": n, "port": p, "protocol": "UDP"} for n, p in (("a", 53), ("b", 54))]
    pieces = [endpoint_slice(endpoint("10.0.0.1"), endpoint("10.0.0.2"), ports=ports)]
    both = service(ports=[udp(53, "a"), udp(54, "b")])
    server.put(both, *pieces)
    exposure = plan_of(cluster(service=both, slices=pieces)).exposure
    assert status(api, server, exposure) == ("203.0.113.5", "2/2")


def test_a_load_balancer_without_an_address(api: Api, server: ApiServer) -> None:
    server.load_balancer = None
    assert status(api, server, plan_of().exposure)[0] == "<pending>"


def test_shows_pod_addresses_without_a_service(api: Api, server: ApiServer) -> None:
    spec: dict[str, Any] = {
        "gateway_service": GatewayServiceMode.NONE,
        "discovery": Discovery.STATIC,
    }
    exposure = plan_of(cluster_with_free_ports(), **spec).exposure
    assert status(api, server, exposure)[0] == "10.244.0.7"


def cluster_with_free_ports() -> list[dict[str, Any]]:
    return cluster(service=service(ports=[udp(5300)]))


def test_no_address_at_all(api: Api, server: ApiServer) -> None:
    exposure = plan_of(cluster_with_free_ports(), gateway_service=GatewayServiceMode.NONE).exposure
    server.remove("Pod", "istio-system", "istio-ingressgateway-1")
    assert status(api, server, exposure)[0] == ""


def test_a_name_that_the_gateway_resolves_has_no_endpoints(api: Api, server: ApiServer) -> None:
    spec = {"type": "ExternalName", "externalName": "dns.example.com", "ports": [udp(53)]}
    outside = {**service(), "spec": spec}
    exposure = plan_of(cluster(service=outside, slices=[], pods=[])).exposure
    assert status(api, server, exposure)[1] == ""


def test_an_exposure_that_cannot_be_read_has_an_age(api: Api, server: ApiServer) -> None:
    broken = copy.deepcopy(dict(writes(plan_of().exposure)[1].manifest))
    broken["metadata"]["annotations"] = {}
    server.put(broken)
    (found,) = read_status(api, list_exposures(api))
    assert (found.address, found.ready) == ("", "")
    assert (found.state, found.conditions[0].type) == ("Unreadable", ConditionType.READY)


def test_other_kinds_have_neither_address_nor_endpoints(api: Api, server: ApiServer) -> None:
    put(server, response(), access_log())
    assert [(s.address, s.ready, s.state) for s in read_status(api, list_existing(api))] == [
        ("", "", "ok"),
        ("", "", "ok"),
    ]


def test_the_age_is_that_of_the_oldest_object(api: Api, server: ApiServer) -> None:
    put(server, response(creates_gateway=True, servers=()))
    old = server.get("Gateway", "istio-system", "response-default-hello")
    old["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    server.put(old)
    (found,) = read_status(api, list_existing(api))
    assert found.age == age("2020-01-01T00:00:00Z")


def test_reports_a_missing_object_of_a_response(api: Api, server: ApiServer) -> None:
    put(server, response(creates_gateway=True, servers=()))
    server.remove("VirtualService", "default", "response-default-hello")
    (found,) = read_status(api, list_existing(api))
    assert found.state == "MissingVirtualService"


# -- what the proxies have ----------------------------------------------------------------------

POD, SECOND = "istio-ingressgateway-1", "istio-ingressgateway-2"


def rows(api: Api) -> list[list[str]]:
    return [row for existing in list_existing(api) for row in proxy_rows(api, existing)]


def test_each_gateway_pods_listener_cluster_and_hosts(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    exposure = plan_of(ports=parse_port_requests(["5300:53"])).exposure
    for write in writes(exposure):
        api.apply(write.manifest, before=None, manager=write.manager)
    server.put(gateway_pod(SECOND), gateway_pod("late", ready=False))
    fakes.deaf[SECOND] = Exec(error="gone")
    first, second = rows(api)
    name = "udp-default-coredns-5300"
    has, hosts = f"listener {name}, cluster {name}", "10.244.0.20:53, 10.244.0.21:53"
    assert first == [POD, has, "? of 1125", hosts]
    assert second[0] == SECOND and "could not query" in second[1] and second[2:] == ["", ""]


def test_a_pod_that_only_a_service_entry_names_is_not_queried(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    """Tenants can write ServiceEntries; only the EnvoyFilter decides which pods are a gateway."""
    for write in writes(plan_of().exposure):
        if write.kind == "ServiceEntry":
            api.apply(write.manifest, before=None, manager=write.manager)
    server.requests.clear()
    (existing,) = list_existing(api)
    assert existing.spec is not None
    assert proxy_rows(api, existing) == []
    assert not [request for request in server.requests if "/pods" in request.path]
    read_status(api, [existing], query_envoy=True)
    assert not [r for r in server.requests if r.path.endswith(("/portforward", "/exec"))]


def test_counts_open_sessions(api: Api, fakes: Fakes) -> None:
    exposure = plan_of(ports=parse_port_requests(["5300:53"])).exposure
    for write in writes(exposure):
        api.apply(write.manifest, before=None, manager=write.manager)
    fakes.sockets = [Exec(stdout=proc_net("10.244.0.20:53", "10.244.0.21:53", "10.9.9.9:53"))]
    ((_, _, sessions, _),) = rows(api)
    assert sessions == "2 of 1125"


def test_reports_what_a_gateway_does_not_have(api: Api, server: ApiServer, fakes: Fakes) -> None:
    fakes.stuck = True
    for write in writes(plan_of(cluster_with_free_ports()).exposure):
        api.apply(write.manifest, before=None, manager=write.manager)
    name = "udp-default-coredns-5300"
    assert rows(api) == [[POD, f"no listener {name}, no cluster {name}", "? of 1125", ""]]


def test_each_gateway_pods_route(api: Api, server: ApiServer, fakes: Fakes) -> None:
    put(server, response())
    assert rows(api) == [[POD, f"route {route_name(response())}", "", ""]]
    fakes.stuck = True
    assert rows(api) == [[POD, "no route", "", ""]]


def test_kinds_without_a_gateway_have_no_rows(api: Api, server: ApiServer, fakes: Fakes) -> None:
    broken = access_log("broken")
    put(server, response(mesh=True, hosts=(RATINGS,)), access_log(), broken)
    unreadable = server.get("EnvoyFilter", "default", broken.object_name)
    unreadable["metadata"]["annotations"] = {}
    server.put(unreadable)
    assert len(list_existing(api)) == 3
    assert rows(api) == []
    assert fakes.commands == []


# -- what is wrong, by name ---------------------------------------------------------------------


def exposed(
    api: Api, server: ApiServer, *, query_envoy: bool = False, **options: Any
) -> Callable[..., Any]:
    """Write an exposure of port 5300, let `server` be as it is; its status."""
    exposure = plan_of(ports=parse_port_requests(["5300:53"]), **options).exposure
    for write in writes(exposure):
        api.apply(write.manifest, before=None, manager=write.manager)
    return lambda: read_status(api, list_exposures(api), query_envoy=query_envoy)[0]


def condition(status: Status, type_: ConditionType) -> tuple[Truth, str]:
    (found,) = [c for c in status.conditions if c.type is type_]
    return found.status, found.reason


READY = (Truth.TRUE, "Ready")


def test_no_problem(api: Api, server: ApiServer, fakes: Fakes) -> None:
    status = exposed(api, server, query_envoy=True)()
    assert status.state == "ok"
    assert {c.status for c in status.conditions} == {Truth.TRUE}
    assert condition(status, ConditionType.READY) == READY


def test_no_endpoint_is_ready(api: Api, server: ApiServer) -> None:
    status = exposed(api, server)
    server.put(endpoint_slice(endpoint("10.0.0.1", ready=False)))
    assert (status().state, status().ready) == ("NoEndpoints", "0/1")
    assert condition(status(), ConditionType.READY) == (Truth.FALSE, "NoEndpoints")
    server.remove("EndpointSlice", "default", "coredns-abc")
    assert (status().state, status().ready) == ("NoEndpoints", "0/0")


def test_one_of_two_ports_has_no_endpoint(api: Api, server: ApiServer) -> None:
    """A named target port that no pod declares is not in the EndpointSlices."""
    changed = service(ports=[udp(53), udp(54, "other", target="other")])
    server.put(changed)
    ports = parse_port_requests(["5300:53", "5301:54"])
    exposure = plan_of(
        cluster(service=changed), ports=ports, discovery=Discovery.ENDPOINTS
    ).exposure
    for write in writes(exposure):
        api.apply(write.manifest, before=None, manager=write.manager)
    (status,) = read_status(api, list_exposures(api))
    assert (status.state, status.ready) == ("NoEndpoints", "2/2")
    (found,) = [c for c in status.conditions if c.type is ConditionType.RESOLVED_REFS]
    assert "no ready endpoints for 54/UDP;" in found.message


def test_the_service_is_gone(api: Api, server: ApiServer) -> None:
    status = exposed(api, server)
    server.remove("Service", "default", "coredns")
    assert status().state == "NoService"


def test_a_gateway_without_a_ready_pod(api: Api, server: ApiServer) -> None:
    status = exposed(api, server)
    server.put(gateway_pod(ready=False))
    assert status().state == "NotProgrammed"
    assert "has no ready pod" in status().conditions[0].message
    server.remove("Pod", "istio-system", POD)
    assert status().state == "NotProgrammed"


def test_an_envoy_without_the_listener_is_found_if_queried(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    fakes.stuck = True
    assert exposed(api, server)().state == "ok"
    assert exposed(api, server, query_envoy=True)().state == "NotProgrammed"
    fakes.stuck, fakes.deaf[POD] = False, Exec(error="gone")
    status = exposed(api, server, query_envoy=True)()
    assert condition(status, ConditionType.PROGRAMMED)[0] is Truth.UNKNOWN
    assert status.state == "ok"


def test_an_envoy_with_an_earlier_listener_is_found_if_queried(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    """As `expose` and the controller decide it: names do not suffice."""
    exposed(api, server)
    assert exposed(api, server, query_envoy=True)().state == "ok"
    fakes.stuck = True
    status = exposed(api, server, query_envoy=True, idle_timeout=Duration(77))()
    assert status.state == "NotProgrammed"
    assert (
        f"gateway pod istio-system/{POD} does not yet have listener" in status.conditions[0].message
    )
    fakes.stuck = False
    name = "udp-default-coredns-5300"
    fakes.refuses[name] = "no such field"
    status = exposed(api, server, query_envoy=True)()
    assert (
        "rejects listener udp-default-coredns-5300: no such field" in status.conditions[0].message
    )


def test_a_filter_without_listeners(api: Api, server: ApiServer) -> None:
    status = exposed(api, server)
    silent = server.get("EnvoyFilter", "istio-system", "udp-default-coredns")
    silent["spec"]["configPatches"] = silent["spec"]["configPatches"][:1]
    server.put(silent)
    assert status().state == "NotProgrammed"
    assert "a delete may have been interrupted" in status().conditions[0].message


@pytest.mark.parametrize(
    ("namespace", "selector", "state"),
    [
        ("istio-system", {"istio": "ingressgateway"}, "Conflict"),
        ("istio-system", {"istio": "egressgateway"}, "ok"),
        ("lab", {"istio": "ingressgateway"}, "ok"),
    ],
)
def test_another_filter_binds_the_same_port(
    api: Api, server: ApiServer, namespace: str, selector: dict[str, Any], state: str
) -> None:
    status = exposed(api, server)
    theirs = server.get("EnvoyFilter", "istio-system", "udp-default-coredns")
    theirs["metadata"] = {"name": "by-hand", "namespace": namespace}
    theirs["spec"]["workloadSelector"] = {"labels": selector}
    server.put(theirs)
    assert status().state == state
    if state == "Conflict":
        assert "istio-system/by-hand adds port 5300/UDP" in status().conditions[0].message


def test_no_address_yet(api: Api, server: ApiServer) -> None:
    server.load_balancer = None
    status = exposed(api, server)()
    assert (status.state, status.address) == ("NoAddress", "<pending>")


def test_the_port_is_gone_from_the_gateways_own_service(api: Api, server: ApiServer) -> None:
    balanced = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}}
    server.put({**gateway_service(), **balanced})
    status = exposed(api, server, gateway_service=GatewayServiceMode.PATCH)
    assert (status().state, status().address) == ("ok", "203.0.113.9")
    server.put({**gateway_service(), **balanced})  # as a new release of its chart
    assert (status().state, status().address) == ("NoAddress", "<none>")


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("ports", [udp(5999)], "has no port 5300/UDP"),
        ("ports", [{**udp(5300), "protocol": "TCP"}], "has no port 5300/UDP"),
        ("ports", [{**udp(5300), "targetPort": 9}], "leads to 9, not 5300"),
        ("selector", {"app": "nobody"}, "selects app=nobody"),
    ],
)
def test_a_companion_that_was_edited(
    api: Api, server: ApiServer, field: str, value: Any, text: str
) -> None:
    status = exposed(api, server)
    companion = server.get("Service", "istio-system", "udp-default-coredns")
    companion["spec"][field] = value
    server.put(companion)
    assert status().state == "NoAddress"
    assert text in status().conditions[0].message


def test_one_of_two_ports_is_gone_from_the_gateways_own_service(
    api: Api, server: ApiServer
) -> None:
    server.load_balancer = None
    server.put(gateway_service(type="ClusterIP"))
    mode = GatewayServiceMode.PATCH
    ports = parse_port_requests(["5300:53", "5301:53"])
    found = writes(plan_of(ports=ports, gateway_service=mode).exposure)
    for write in found:
        api.apply(write.manifest, before=None, manager=write.manager)
    assert read_status(api, list_exposures(api))[0].state == "ok"
    (patch,) = (write for write in found if write.kind == "Service")
    less = {**patch.manifest, "spec": {"ports": patch.manifest["spec"]["ports"][:1]}}
    api.apply(less, before=None, manager=patch.manager)
    (status,) = read_status(api, list_exposures(api))
    assert status.state == "NoAddress"
    assert "has no port 5301/UDP" in status.conditions[0].message


def test_a_filter_that_was_edited_to_select_other_pods(api: Api, server: ApiServer) -> None:
    status = exposed(api, server)
    found = server.get("EnvoyFilter", "istio-system", "udp-default-coredns")
    found["spec"]["workloadSelector"]["labels"]["app"] = "nobody"
    server.put(found)
    assert status().state == "NotProgrammed"
    assert "does not apply to the pods" in status().conditions[0].message


def test_pods_of_a_namespace_with_silent_pods_are_not_queried() -> None:
    """A tenant can have any number of gateways, and pods that pose as theirs."""
    now, asked = 0.0, []
    query_limit = QueryLimit(clock=lambda: now)

    def silent(pod: str, seconds: float) -> Callable[[], None]:
        def query() -> None:
            nonlocal now
            asked.append(pod)
            now += seconds
            raise ClusterError("no answer")

        return query

    for pod, seconds in (("quick", 0.1), ("a", 30.0), ("quick", 0.1), ("b", 30.0), ("c", 30.0)):
        with pytest.raises(ClusterError):
            query_limit.call("evil", pod, silent(pod, seconds))
    assert asked == ["quick", "a", "quick", "b"]
    with pytest.raises(ClusterError, match="evil/d was not queried: 2 pods"):
        query_limit.call("evil", "d", lambda: None)
    assert query_limit.call("istio-system", "gateway", lambda: "answer") == "answer"


def test_without_permission_for_the_gateway_the_rest_is_shown(api: Api, server: ApiServer) -> None:
    status = exposed(api, server)
    server.fail("GET", "/namespaces/istio-system/pods", 403)
    assert status().state == "ok"
    assert condition(status(), ConditionType.PROGRAMMED)[0] is Truth.UNKNOWN
    assert condition(status(), ConditionType.READY)[0] is Truth.UNKNOWN


def test_each_gateway_is_read_once(api: Api, server: ApiServer, fakes: Fakes) -> None:
    for name in ("a", "b", "c"):
        exposure = plan_of(name=name, ports=parse_port_requests([f"53{ord(name)}:53"])).exposure
        for write in writes(exposure):
            api.apply(write.manifest, before=None, manager=write.manager)
    server.requests.clear()
    read_status(api, list_exposures(api), query_envoy=True)
    assert len([r for r in server.requests if r.path.endswith("/portforward")]) == 1
    selected = [r.query.get("labelSelector", [""])[0] for r in server.requests]
    assert len([text for text in selected if "istio=ingressgateway" in text]) == 1


def test_several_problems(api: Api, server: ApiServer) -> None:
    status = exposed(api, server)
    server.put(endpoint_slice(endpoint("10.0.0.1", ready=False)), gateway_pod(ready=False))
    assert status().state == "NoEndpoints,NotProgrammed"
