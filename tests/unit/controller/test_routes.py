"""The controller with Gateways and UDPRoutes, against an API server in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kubectl_istio_udp.controller.reconcile import Reconciler
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.names import object_name
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.sources.gateways import child_key
from tests.support import builders
from tests.support.apiserver import ApiServer, Exec, Request
from tests.support.builders import endpoint, endpoint_slice
from tests.support.controlling import annotated, reconcile, space, until
from tests.support.routed import KEY, NAME, TARGET, Routed, made_by_istiod, read, routed, services
from tests.support.routes import (
    GROUP,
    backend,
    gateway,
    gateway_class,
    grant,
    listener,
    route,
)
from tests.unit.conftest import Run


@pytest.fixture
def running(api: Api, server: ApiServer) -> Iterator[Routed]:
    spaces = [space(name) for name in ("team", "apps", "other")]
    backends = [*services("team", "coredns", "canary"), *services("apps", "foreign")]
    with routed(api, server, *spaces, *backends) as found:
        yield found


def test_a_route_is_exposed_and_every_status_reports_it(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    spec = running.routed()
    assert [(p.gateway_port, p.dropped) for p in spec.ports] == [(5300, 0)]
    assert running.weights() == [("coredns", 1)]
    (entry,) = running.server.all("ServiceEntry")
    assert [each["address"] for each in entry["spec"]["endpoints"]] == ["10.1.4.1"]
    until(lambda: running.route_conditions().get("Accepted") == ("True", "Accepted"))
    assert running.route_conditions()["ResolvedRefs"] == ("True", "ResolvedRefs")
    status = running.status(API_GATEWAY, "udp")
    assert running.attached() == [1]
    assert status["addresses"] == [{"type": "IPAddress", "value": "203.0.113.5"}]
    features = running.status("GatewayClass", "istio-udp", "")["supportedFeatures"]
    assert {"name": "UDPRoute"} in features
    assert "Exposed: 5300:53/UDP at gateway istio-system/istio-ingressgateway" in running.told(
        "udp"
    )


def test_nothing_is_written_when_nothing_changes(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    before = running.quiet()
    found = running.server.get("UDPRoute", "team", "dns")
    found["metadata"]["labels"] = {"some": "label"}
    running.server.put(found)
    assert running.quiet() == before


def test_a_new_leader_keeps_conditions_that_are_still_true(running: Routed) -> None:
    """Even while it cannot ask the gateway's Envoy."""
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    before = running.quiet()
    running.controllers.pop().stop()
    running.server.run = lambda *_: Exec(code=1)
    controller = running.start("two", gateway_api=True)
    until(lambda: controller.states() == {"ok": 1})
    after = [w for w in running.server.writes()[len(before) :] if "/events/" not in w]
    assert after == []
    changed = gateway(listener(), listener("b", 5301), annotations=TARGET)
    changed["metadata"]["generation"] = 2
    changed["status"] = running.status(API_GATEWAY, "udp")
    running.server.put(changed)
    until(lambda: running.conditions().get("Programmed") == ("False", "Pending"))


def test_it_is_programmed_only_when_envoy_has_the_listener(running: Routed) -> None:
    running.envoys.stuck = True
    running.begin(gateway(annotations=TARGET), route())
    until(lambda: running.filter(NAME) and running.conditions().get("Programmed"))
    until(lambda: running.conditions()["Programmed"] == ("False", "Pending"))
    message = running.status(API_GATEWAY, "udp")["conditions"][1]["message"]
    assert "does not yet have listener" in message
    running.envoys.stuck = False
    running.programmed()


def test_a_gateway_without_routes_drops_datagrams(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET))
    running.programmed()
    assert running.routed().ports[0].backends == () and running.attached() == [0]
    assert not running.server.all("ServiceEntry")


def test_a_missing_class_changes_no_gateway(running: Routed) -> None:
    """Its endpoints still follow. A class of another controller ends the exposure."""
    controller = running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    before = running.filter(NAME)
    running.server.remove("GatewayClass", "", "istio-udp")
    until(lambda: controller.states() == {"waiting": 1})
    moved = endpoint_slice(endpoint("10.1.4.77", "coredns-2"), of="coredns", namespace="team")
    running.server.put(moved)
    until(lambda: running.addresses(NAME) == ["10.1.4.77"])
    assert running.filter(NAME) == before
    # A controller that starts now does not know the class.
    running.controllers.pop().stop()
    controller = running.start("two", gateway_api=True)
    until(lambda: controller.states() == {"waiting": 1})
    assert running.filter(NAME) == before
    running.server.put(gateway_class())
    until(lambda: controller.states() == {"ok": 1})
    assert running.filter(NAME) == before
    running.server.remove("GatewayClass", "", "istio-udp")
    until(lambda: controller.states() == {"waiting": 1})
    running.server.put(gateway_class(controller="example.com/other"))
    until(lambda: not running.filter(NAME) and not controller.states())


def test_weights_and_invalid_backends(running: Routed) -> None:
    refs = [backend(weight=70), backend("canary", weight=0), backend("gone", weight=30)]
    running.begin(gateway(annotations=TARGET), route(*refs))
    running.programmed()
    assert running.weights() == [("coredns", 70)] and running.routed().ports[0].dropped == 30
    until(lambda: running.route_conditions().get("ResolvedRefs") == ("False", "BackendNotFound"))
    running.server.put(*services("team", "gone"))
    until(lambda: running.weights() == [("coredns", 70), ("gone", 30)])
    until(lambda: running.route_conditions()["ResolvedRefs"] == ("True", "ResolvedRefs"))
    running.server.put(route(backend(weight=10), backend("canary", weight=90)))
    until(lambda: running.weights() == [("coredns", 10), ("canary", 90)])
    until(lambda: len(running.server.all("ServiceEntry")) == 2)


EXTERNAL = {"type": "ExternalName", "externalName": "dns.example"}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"ports": []}, "BackendNotFound"),
        ({"ports": [{"port": 54}]}, "BackendNotFound"),
        ({"ports": [{"port": 53}]}, "UnsupportedProtocol"),
        ({"ports": [{"port": 53, "protocol": "SCTP"}]}, "UnsupportedProtocol"),
        (EXTERNAL, "UnsupportedProtocol"),
        ({**EXTERNAL, "ports": [{"port": 53, "protocol": "UDP"}]}, "UnsupportedProtocol"),
    ],
)
def test_services_that_a_route_cannot_use(running: Routed, spec: Any, reason: str) -> None:
    """Although the controller keeps little of Services without UDP ports."""
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    until(lambda: running.route_conditions().get("ResolvedRefs") == ("True", "ResolvedRefs"))
    running.server.put({**builders.service("coredns", namespace="team"), "spec": spec})
    until(lambda: running.route_conditions()["ResolvedRefs"] == ("False", reason))
    until(lambda: running.routed().ports[0].dropped == 1)


def test_a_grant_is_needed_and_may_be_withdrawn(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET), route(backend("foreign", namespace="apps")))
    until(lambda: running.route_conditions().get("ResolvedRefs") == ("False", "RefNotPermitted"))
    assert running.route_conditions()["Accepted"] == ("True", "Accepted")
    running.programmed()
    assert running.weights() == []
    running.server.put(grant())
    until(lambda: running.weights() == [("foreign", 1)])
    until(lambda: running.route_conditions()["ResolvedRefs"] == ("True", "ResolvedRefs"))
    running.server.remove("ReferenceGrant", "apps", "grant")
    until(lambda: running.weights() == [])
    until(lambda: running.route_conditions()["ResolvedRefs"] == ("False", "RefNotPermitted"))
    until(lambda: not running.server.all("ServiceEntry"))


def test_a_withdrawn_grant_does_not_wait_for_the_gateway(running: Routed) -> None:
    """The gateway changes no more for a while, and the endpoints go at once."""
    running.wait_for(cooldown=600.0)
    running.begin(gateway(annotations=TARGET), grant(), route(backend("foreign", namespace="apps")))
    running.programmed()
    before = running.filter(NAME)
    running.server.remove("ReferenceGrant", "apps", "grant")

    def endpoints() -> Any:
        return [e["spec"].get("endpoints") for e in running.server.all("ServiceEntry")]

    until(lambda: endpoints() == [[]])
    assert running.filter(NAME) == before


@pytest.mark.parametrize("between", [False, True], ids=["at once", "after a reconciliation"])
@pytest.mark.parametrize("successor", [False, True])
def test_a_grant_that_is_withdrawn_with_its_route_does_not_wait(
    running: Routed, successor: bool, between: bool
) -> None:
    running.wait_for(cooldown=600.0)
    more = [route(backend("canary"), name="young", created="2026-05-01T00:00:00Z")]
    foreign = route(backend("foreign", namespace="apps"))
    running.begin(gateway(annotations=TARGET), grant(), foreign, *(more if successor else []))
    running.programmed()
    assert "10.1.4.1" in str(running.server.all("ServiceEntry"))
    running.server.remove("UDPRoute", "team", "dns")
    if between:
        running.quiet()
        assert "10.1.4.1" in str(running.server.all("ServiceEntry"))
    running.server.remove("ReferenceGrant", "apps", "grant")
    until(lambda: "10.1.4.1" not in str(running.server.all("ServiceEntry")))


def test_a_backend_that_is_replaced_keeps_its_endpoints_until_the_gateway_changes(
    running: Routed,
) -> None:
    """Its ReferenceGrant still permits it."""
    running.wait_for(cooldown=600.0)
    running.server.put(*services("apps", "foreign", "next"))
    running.begin(gateway(annotations=TARGET), grant(), route(backend("foreign", namespace="apps")))
    running.programmed()
    before = running.filter(NAME)
    running.server.put(route(backend("next", namespace="apps")))
    running.quiet()
    assert "10.1.4.1" in str(running.server.all("ServiceEntry"))
    assert running.filter(NAME) == before


def test_the_oldest_route_gets_the_datagrams(running: Routed) -> None:
    young = route(backend("canary"), name="young", created="2026-05-01T00:00:00Z")
    running.begin(gateway(annotations=TARGET), route(), young)
    running.programmed()
    until(lambda: running.attached() == [2])
    assert running.weights() == [("coredns", 1)]
    assert running.route_conditions("young")["Accepted"] == ("True", "Accepted")
    running.server.remove("UDPRoute", "team", "dns")
    until(lambda: running.weights() == [("canary", 1)])
    until(lambda: running.attached() == [1])


def test_endpoints_follow_the_pods_of_every_namespace(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET), grant(), route(backend("foreign", namespace="apps")))
    running.programmed()
    moved = endpoint_slice(endpoint("10.1.4.99", "foreign-2"), of="foreign", namespace="apps")
    running.server.put(moved)

    def addresses() -> list[str]:
        found = running.server.all("ServiceEntry")
        return [e["address"] for each in found for e in each["spec"]["endpoints"]]

    until(lambda: addresses() == ["10.1.4.99"])


def listed(running: Routed) -> dict[int, list[str]]:
    """The endpoints of each ServiceEntry, by its first port."""
    return {
        entry["spec"]["ports"][0]["number"]: [e["address"] for e in entry["spec"]["endpoints"]]
        for entry in running.server.all("ServiceEntry")
    }


def planned_again(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The exposures that are planned from now on."""
    found: list[Any] = []
    before = Reconciler.reconcile

    def counted(self: Reconciler, key: Any, requested: Any) -> Any:
        found.append(key)
        return before(self, key, requested)

    monkeypatch.setattr(Reconciler, "reconcile", counted)
    return found


def test_a_change_of_endpoints_updates_the_entry_of_its_service_alone(
    running: Routed, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners = [listener(f"n{number}", 5300 + number) for number in range(3)]
    at = [{"name": "udp", "sectionName": f"n{number}"} for number in range(3)]
    running.begin(
        gateway(*listeners, annotations=TARGET),
        grant(),
        route(backend("coredns"), name="a", parents=at[:1]),
        route(backend("canary"), name="b", parents=at[1:2]),
        route(backend("foreign", namespace="apps"), name="c", parents=at[2:]),
    )
    running.programmed()
    running.quiet()
    planned, before = planned_again(monkeypatch), len(running.server.writes())
    moved = endpoint_slice(endpoint("10.1.4.99", "coredns-2"), of="coredns", namespace="team")
    running.server.put(moved)
    until(lambda: "10.1.4.99" in str(running.server.all("ServiceEntry")))
    (write,) = running.quiet()[before:]
    assert write.startswith("PATCH") and "/serviceentries/" in write
    assert KEY not in planned
    # What is not endpoints is planned; so is a change of both.
    running.server.put(route(backend("coredns", weight=3), name="a", parents=at[:1]))
    running.server.put(endpoint_slice(endpoint("10.1.4.98"), of="coredns", namespace="team"))
    until(lambda: "10.1.4.98" in str(running.server.all("ServiceEntry")))
    until(lambda: KEY in planned)


def test_the_endpoints_of_several_services_are_written_in_parallel(running: Routed) -> None:
    names = ("coredns", "canary", "third")
    running.server.put(*services("team", *names))
    running.begin(gateway(annotations=TARGET), route(*map(backend, names)))
    running.programmed()
    running.quiet()
    writing: list[str] = []
    first, parallel, alone = threading.Event(), threading.Event(), []

    def seen(request: Request) -> None:
        if request.method == "PATCH" and "/serviceentries/" in request.path:
            writing.append(request.path)
            if len(writing) == 1:
                first.wait(30)
            elif len(writing) > 2:
                parallel.set()
            elif not parallel.wait(30):
                alone.append(request.path)

    running.server.seen = seen
    for number, name in enumerate(("coredns", *names)):
        moved = endpoint(f"10.1.4.{90 + number}", f"{name}-2")
        running.server.put(endpoint_slice(moved, of=name, namespace="team"))
        until(lambda: writing)
    caches = running.controllers[0].caches
    until(lambda: "10.1.4.93" in str(caches.slices_of(("team", "third"))))
    first.set()
    until(lambda: "10.1.4.93" in str(running.server.all("ServiceEntry")))
    assert parallel.is_set()
    assert not alone


def test_endpoints_that_a_planned_exposure_would_list_otherwise_are_planned(
    running: Routed, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two ports of a Service share a ServiceEntry while their endpoints are the same.
    ports = [builders.udp(53), builders.udp(54, "udp-more")]
    both = [{"name": p["name"], "port": p["port"], "protocol": "UDP"} for p in ports]
    running.server.put(
        builders.service("coredns", namespace="team", ports=ports),
        endpoint_slice(endpoint("10.1.4.1"), of="coredns", namespace="team", ports=both),
    )
    listeners = [listener("a", 5300), listener("b", 5301)]
    at = [{"name": "udp", "sectionName": name} for name in "ab"]
    running.begin(
        gateway(*listeners, annotations=TARGET),
        route(backend("coredns", 53), name="a", parents=at[:1]),
        route(backend("coredns", 54), name="b", parents=at[1:]),
    )
    running.programmed()
    running.quiet()
    assert listed(running) == {53: ["10.1.4.1"]}
    planned = planned_again(monkeypatch)
    one = endpoint_slice(endpoint("10.1.4.2"), of="coredns", namespace="team", ports=both[:1])
    running.server.put(one)
    until(lambda: KEY in planned)
    until(lambda: listed(running)[53] == ["10.1.4.2"])


def test_a_withdrawn_grant_is_seen_when_only_endpoints_change(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET), grant(), route(backend("foreign", namespace="apps")))
    running.programmed()
    running.quiet()
    running.server.remove("ReferenceGrant", "apps", "grant")
    running.server.put(endpoint_slice(endpoint("10.1.4.99"), of="foreign", namespace="apps"))
    until(lambda: not any(listed(running).values()))
    running.quiet()
    assert "10.1.4.99" not in str(running.server.all("ServiceEntry"))


REFUSED = "kubectl-istio-udp.dev/RefusedEndpoints"
NOT_ALLOWED = "172.16.9.9"


def test_endpoints_that_the_gateway_may_not_send_to_are_reported(running: Routed) -> None:
    """By an Event of the Gateway, and a condition of the route until they are allowed."""
    bare = builders.service("bare", namespace="apps", selector=None)
    by_hand = endpoint_slice(endpoint(NOT_ALLOWED), of="bare", namespace="apps")
    running.begin(
        gateway(annotations=TARGET),
        *(bare, by_hand, grant()),
        route(backend("bare", namespace="apps"), backend("coredns")),
    )
    until(lambda: running.route_conditions().get(REFUSED) == ("True", "EndpointRefused"))
    assert running.route_conditions()["ResolvedRefs"] == ("True", "ResolvedRefs")
    status = str(running.status("UDPRoute", "dns"))
    assert "does not send to endpoints of Service apps/bare: 172.16.9.9: it is not" in status
    assert "does not send to 172.16.9.9" in running.tells("EndpointRefused", "udp")
    assert NOT_ALLOWED not in str(running.server.all("ServiceEntry"))
    ranges = {"kubectl-istio-udp/allow-endpoints": "172.16.0.0/12"}
    running.server.put(space("apps", **ranges))
    until(lambda: REFUSED not in running.route_conditions())
    until(lambda: NOT_ALLOWED in str(running.server.all("ServiceEntry")))


def test_refused_endpoints_are_reported_when_only_endpoints_change(running: Routed) -> None:
    """Not at once: the pod with this address may be seen later than the EndpointSlice."""
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    running.quiet()
    found = endpoint_slice(endpoint(NOT_ALLOWED), of="coredns", namespace="team")
    running.server.put(found)
    until(lambda: not any(listed(running).values()))
    running.quiet()
    assert REFUSED not in running.route_conditions()
    running.clock.move(running.timing.watch)
    until(lambda: running.route_conditions().get(REFUSED))
    running.server.put(endpoint_slice(endpoint("10.1.4.7"), of="coredns", namespace="team"))
    until(lambda: REFUSED not in running.route_conditions())


def test_refused_endpoints_are_reported_although_others_change(running: Routed) -> None:
    """A delayed report is made, even if something else changes at that time."""
    running.begin(gateway(annotations=TARGET), route(backend(), backend("canary")))
    running.programmed()
    running.quiet()
    running.server.put(endpoint_slice(endpoint(NOT_ALLOWED), of="coredns", namespace="team"))
    running.quiet()
    running.clock.move(running.timing.watch)
    running.server.put(endpoint_slice(endpoint("10.1.4.7"), of="canary", namespace="team"))
    until(lambda: running.route_conditions().get(REFUSED))


def test_refused_endpoints_are_reported_although_the_outcome_is_about_something_else(
    running: Routed,
) -> None:
    """Another ServiceEntry has the same host, which is the more important problem."""
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    entry = running.entry(NAME)
    copied = {**entry, "metadata": {"name": "copied", "namespace": "istio-system"}}
    running.server.put(copied)
    running.tells("HostTaken", "udp")
    running.quiet()
    running.server.put(endpoint_slice(endpoint(NOT_ALLOWED), of="coredns", namespace="team"))
    until(lambda: running.route_conditions().get(REFUSED))
    running.quiet()
    running.server.put(endpoint_slice(endpoint("10.1.4.7"), of="coredns", namespace="team"))
    until(lambda: REFUSED not in running.route_conditions())


def test_namespaces_are_selected_by_their_labels(running: Routed) -> None:
    selected = listener(namespaces={"from": "Selector", "selector": {"matchLabels": {"udp": "1"}}})
    parents = [{"name": "udp", "namespace": "team"}]
    running.begin(
        gateway(selected, annotations=TARGET), route(namespace="other", parents=parents), grant()
    )

    def accepted() -> Any:
        found = running.status("UDPRoute", "dns", "other").get("parents")
        return read(found[0]["conditions"])["Accepted"] if found else None

    until(lambda: accepted() == ("False", "NotAllowedByListeners"))
    labelled = space("other")
    labelled["metadata"]["labels"] = {"udp": "1"}
    running.server.put(labelled)
    until(lambda: accepted() == ("True", "Accepted"))
    until(lambda: running.attached() == [1])


def test_the_exposure_of_a_deleted_gateway_is_deleted(running: Routed) -> None:
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    running.server.remove(API_GATEWAY, "team", "udp")
    until(lambda: not running.server.all("EnvoyFilter") and not running.server.all("ServiceEntry"))
    assert running.companion(NAME) is None
    until(lambda: not running.status("UDPRoute", "dns")["parents"])


def test_delete_refuses_an_exposure_that_a_gateway_requests(running: Routed, run: Run) -> None:
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    rows = run("get", "-n", "team").out.splitlines()
    assert rows[1].split()[:3] == [KEY[1], "team/coredns", "5300:53/UDP"]
    assert " gateway/udp " in rows[1] and " ok " in rows[1]
    done = run("delete", "-n", "team", KEY[1])
    assert done.code == 3 and "Gateway team/udp requests this exposure" in done.err
    assert "kubectl delete gateways.gateway.networking.k8s.io -n team udp" in done.err
    done = run("expose", "-n", "team", "coredns", "-p", "5301:53", "--name", KEY[1])
    assert done.code == 3 and "for a Gateway of the Gateway API" in done.err
    assert "kubectl get gateways.gateway.networking.k8s.io -n team" in done.err
    assert "annotate" not in done.err
    assert running.filter(NAME)


def test_it_waits_for_the_addresses_of_the_gateway_s_pods(running: Routed) -> None:
    """A listener that binds IPv4, and both families a moment later, loses datagrams for 45 s."""
    running.server.put(builders.gateway_pod(ips=(), ready=False))
    running.begin(gateway(annotations=TARGET), route())
    until(lambda: running.conditions().get("Programmed") == ("False", "NoResources"))
    assert running.filter(NAME) is None
    running.server.put(builders.gateway_pod(ips=("10.244.0.7", "fd00::7")))
    running.programmed()
    posts = [w for w in running.server.writes() if "envoyfilters" in w and NAME in w]
    assert len([w for w in posts if w.startswith("PATCH")]) == 1
    patches = running.filter(NAME)["spec"]["configPatches"]
    listeners = [p["patch"]["value"] for p in patches if p["applyTo"] == "LISTENER"]
    assert listeners[0]["address"]["socket_address"]["ipv4_compat"]


def test_a_gateway_keeps_its_exposure_when_all_its_pods_restart(running: Routed) -> None:
    running.server.put(builders.gateway_pod(ips=("10.244.0.7", "fd00::7")))
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    before = running.filter(NAME)["spec"]
    running.server.put(builders.gateway_pod(ips=(), ready=False))
    until(lambda: running.conditions().get("Programmed") == ("False", "NoResources"))
    running.server.put(builders.gateway_pod(ips=("10.244.0.8", "fd00::8")))
    running.programmed()
    assert running.filter(NAME)["spec"] == before


def test_gateways_of_other_classes_are_not_changed(running: Routed) -> None:
    theirs = gateway_class("theirs", controller="example.com/controller")
    running.begin(theirs, gateway(class_name="theirs", annotations=TARGET), route())
    running.quiet()
    assert not running.status(API_GATEWAY, "udp") and not running.status("UDPRoute", "dns")
    assert not running.status("GatewayClass", "theirs", "")
    assert not running.server.all("EnvoyFilter")


def test_a_gateway_that_names_none_gets_a_separate_gateway(running: Routed) -> None:
    """And has it until it names one."""
    running.server.put(space("istio-system", allow=None), *services("istio-system", "coredns"))
    infrastructure = {"labels": {"team": "a"}}
    requesting = gateway(namespace="istio-system", infrastructure=infrastructure)
    running.begin(requesting, route(namespace="istio-system"))
    _, child = child_key(("istio-system", "udp"))
    made = until(lambda: running.server.get(API_GATEWAY, "istio-system", child))
    assert made["spec"]["gatewayClassName"] == "istio"
    (placeholder,) = made["spec"]["listeners"]
    assert (placeholder["name"], placeholder["port"]) == ("placeholder", 5300)
    assert placeholder["protocol"] == "TCP"
    assert made["spec"]["infrastructure"] == infrastructure
    assert made["metadata"]["ownerReferences"][0]["name"] == "udp"

    def programmed() -> Any:
        conditions = running.status(API_GATEWAY, "udp", "istio-system").get("conditions", ())
        return read(conditions).get("Programmed")

    until(lambda: programmed() == ("False", "NoResources"))
    made_by_istiod(running, child)
    until(lambda: programmed() == ("True", "Programmed"))
    (envoy_filter,) = running.server.all("EnvoyFilter")
    selector = envoy_filter["spec"]["workloadSelector"]["labels"]
    assert selector == {"gateway.networking.k8s.io/gateway-name": child}
    ports = running.server.get("Service", "istio-system", f"{child}-istio")["spec"]["ports"]
    assert {"name": "udp-5300", "port": 5300, "protocol": "UDP", "targetPort": 5300} in ports
    addresses = running.status(API_GATEWAY, "udp", "istio-system")["addresses"]
    assert addresses == [{"type": "IPAddress", "value": "203.0.113.9"}]
    before = running.quiet()
    running.server.put({**made, "metadata": {**made["metadata"], "annotations": {"a": "b"}}})
    assert running.quiet() == before
    requesting["metadata"]["annotations"] = TARGET
    running.server.put(requesting, space("istio-system"))
    until(lambda: running.server.get(API_GATEWAY, "istio-system", child) is None)


def test_a_separate_gateway_does_not_take_over_other_objects(running: Routed) -> None:
    _, child = child_key(("istio-system", "udp"))
    theirs = gateway(name=child, namespace="istio-system", class_name="istio")
    running.server.put(space("istio-system"))
    running.begin(theirs, gateway(namespace="istio-system"))
    until(lambda: running.told("udp"))
    found = running.server.get(API_GATEWAY, "istio-system", child)
    assert found["spec"] == theirs["spec"]


PARAMETERS = {
    "none": ({}, {}, "namespace team is not a --gateway-namespace"),
    "both": (
        TARGET,
        {"group": "", "kind": "Service", "name": "x"},
        "both the annotation",
    ),
    "a kind that it is not": ({}, {"group": "", "kind": "ConfigMap", "name": "x"}, "a ConfigMap"),
}


@pytest.mark.parametrize("row", PARAMETERS)
def test_invalid_parameters(running: Routed, row: str) -> None:
    notes, parameters, message = PARAMETERS[row]
    more: dict[str, Any] = {"infrastructure": {"parametersRef": parameters}} if parameters else {}
    running.begin(gateway(annotations=notes, **more))
    until(lambda: running.conditions().get("Accepted") == ("False", "InvalidParameters"))
    assert message in running.status(API_GATEWAY, "udp")["conditions"][0]["message"]


@pytest.mark.parametrize("kind", ["Service", "Gateway"])
def test_parameters_that_name_an_object_that_does_not_exist(running: Routed, kind: str) -> None:
    group = GROUP if kind == "Gateway" else ""
    parameters = {"group": group, "kind": kind, "name": "gone"}
    running.server.put(space("istio-system"))
    running.begin(gateway(namespace="istio-system", infrastructure={"parametersRef": parameters}))

    def said() -> Any:
        found = running.status(API_GATEWAY, "udp", "istio-system").get("conditions", ())
        return [(each["reason"], each["message"]) for each in found]

    until(lambda: ("InvalidParameters", f"{kind} istio-system/gone does not exist") in said())
    # Without pods it exists, and may get some.
    found = builders.service("gone", namespace="istio-system")
    found = gateway(name="gone", namespace="istio-system", class_name="istio") if group else found
    running.server.put(found)
    until(lambda: ("NoResources") in {reason for reason, _ in said()})


def test_addresses_are_not_supported(running: Routed) -> None:
    """A Gateway that requests some is not accepted. One that was served before stays as it was."""
    addresses = [{"type": "IPAddress", "value": "192.0.2.7"}]
    running.server.put(space("istio-system"))
    own = gateway(namespace="istio-system", name="own", addresses=addresses)
    running.begin(gateway(annotations=TARGET), own, route())
    running.programmed()

    def said(*of: str) -> Any:
        return read(running.status(API_GATEWAY, *of).get("conditions", ()))

    refused = {"Accepted": ("False", "UnsupportedAddress"), "Programmed": ("False", "Invalid")}
    until(lambda: said("own", "istio-system") == refused)
    assert not running.server.get(API_GATEWAY, *child_key(("istio-system", "own")))
    before = running.filter(NAME)
    changed = gateway(listener(), listener("b", 5301), annotations=TARGET, addresses=addresses)
    running.server.put(changed)
    until(lambda: said("udp") == refused)
    assert running.filter(NAME) == before
    running.server.put(gateway(listener(), listener("b", 5301), annotations=TARGET))
    running.programmed()
    assert len(running.routed().ports) == 2


def test_parameters_name_a_service_in_the_gateway_s_namespace(running: Routed) -> None:
    parameters = {"group": "", "kind": "Service", "name": "istio-ingressgateway"}
    requesting = gateway(namespace="istio-system", infrastructure={"parametersRef": parameters})
    running.server.put(space("istio-system"))
    running.begin(requesting)
    until(lambda: running.server.all("EnvoyFilter"))


def crossed(kind: str, workload: str, service: str) -> list[Any]:
    """A gateway: a pod of a workload, and a Service in front of it."""
    labels = {"app": f"{workload}-app", "istio": f"{workload}-app"}
    pod = builders.gateway_pod(f"{workload}-1", labels=labels, owner=(kind, workload))
    return [pod, builders.gateway_service(service, selector=labels)]


@pytest.mark.parametrize(
    ("group", "kind", "label"),
    [("", "Service", "two-app"), ("apps", "Deployment", "one-app"), ("apps", "DaemonSet", None)],
)
def test_parameters_name_an_object_of_one_kind(
    running: Routed, group: str, kind: str, label: str | None
) -> None:
    """The workload of a gateway has the name of the other gateway's Service."""
    parameters = {"group": group, "kind": kind, "name": "one"}
    running.server.put(space("istio-system"), *crossed("Deployment", "one", "two"))
    running.server.put(*crossed("DaemonSet", "two", "one"))
    running.begin(gateway(namespace="istio-system", infrastructure={"parametersRef": parameters}))

    def found() -> Any:
        return [e["spec"]["workloadSelector"]["labels"] for e in running.server.all("EnvoyFilter")]

    def programmed() -> Any:
        conditions = running.status(API_GATEWAY, "udp", "istio-system").get("conditions", ())
        return [each for each in conditions if each["type"] == "Programmed"]

    if label is not None:
        until(lambda: found() == [{"app": label, "istio": label}])
        return
    until(lambda: programmed() and programmed()[0]["reason"] == "NoResources")
    assert "DaemonSet istio-system/one has no running gateway pod" in programmed()[0]["message"]
    assert not found()
    # A pod of it may appear.
    running.server.put(*crossed("DaemonSet", "one", "three"))
    until(lambda: found() == [{"app": "one-app", "istio": "one-app"}])


def test_ports_must_be_allowed(running: Routed) -> None:
    running.begin(gateway(listener(port=53), annotations=TARGET), route())
    until(lambda: running.conditions().get("Programmed") == ("False", "Invalid"))
    message = running.status(API_GATEWAY, "udp")["conditions"][1]["message"]
    assert "gateway port 53 is not allowed" in message and running.filter(NAME) is None
    assert running.attached() == [1]


def test_a_change_beyond_a_limit_is_not_programmed(running: Routed) -> None:
    """The Gateway stays as it was, and keeps its addresses; its condition says why."""
    limits = {"kubectl-istio-udp/allow-total-sessions": "5000"}
    running.server.put(space("team", allow="1-20000", **limits))
    notes = {**TARGET, "kubectl-istio-udp/max-sessions": "3000"}
    running.begin(gateway(annotations=notes), route())
    running.programmed()
    addresses = running.status(API_GATEWAY, "udp")["addresses"]
    running.server.put(route(backend(weight=1), backend("canary", weight=1)))
    until(lambda: running.conditions()["Programmed"] == ("False", "Pending"))
    status = running.status(API_GATEWAY, "udp")
    assert "6000 sessions in total; 5000 are allowed" in status["conditions"][1]["message"]
    assert status["addresses"] == addresses
    # A new backend is prepared with weight 0, which takes no sessions.
    assert running.weights() == [("coredns", 1), ("canary", 0)]
    running.server.put(route())
    running.programmed()


def test_a_port_that_a_service_has_is_unavailable(running: Routed) -> None:
    running.server.put(annotated(namespace="other"))
    running.begin(gateway(listener(), listener("b", 5301), annotations=TARGET), route())
    name = object_name("other", "coredns")
    running.exposed(name)
    until(lambda: running.conditions().get("Accepted") == ("True", "ListenersNotValid"))
    running.programmed()
    listeners = running.status(API_GATEWAY, "udp")["listeners"]
    said = [read(each["conditions"])["Accepted"] for each in listeners]
    assert said == [("False", "PortUnavailable"), ("True", "Accepted")]
    running.server.remove("Service", "other", "coredns")
    until(lambda: running.conditions().get("Accepted") == ("True", "Accepted"))
    until(lambda: len(running.routed().ports) == 2)


@pytest.mark.parametrize(
    "notes",
    [{"allow-gateways": "istio-system/edge"}, {"allow": "x"}, {"allow-total-ports": "0"}],
    ids=["no gateway", "unreadable", "no port"],
)
def test_a_refused_gateway_does_not_report_an_earlier_conflict(
    running: Routed, notes: dict[str, str]
) -> None:
    """Whether the port is still taken is not looked up any more."""
    running.server.put(annotated(namespace="other"))
    running.begin(gateway(listener(), listener("b", 5301), annotations=TARGET), route())
    until(lambda: running.conditions().get("Accepted") == ("True", "ListenersNotValid"))
    running.programmed()
    running.server.put(space("team", **{f"kubectl-istio-udp/{k}": v for k, v in notes.items()}))
    until(lambda: running.conditions().get("Accepted") == ("True", "Accepted"))
    assert running.conditions()["Programmed"][0] == "False"


def test_the_older_of_two_gateways_gets_the_port_in_any_order(running: Routed) -> None:
    older = gateway(name="older", created="2026-01-01T00:00:00Z", annotations=TARGET)
    controller = running.begin(older, gateway(annotations=TARGET), workers=0)
    until(controller._may_write)
    outcome = reconcile(controller, KEY)
    assert outcome.reason == "PortTaken"
    assert outcome.message.endswith("is already requested by an older Gateway")
    assert outcome.detail.endswith("is already requested by the older Gateway team/older")


def test_two_listeners_that_the_gateway_would_bind_as_one(running: Routed) -> None:
    """53 is bound as 10053: the listener that has it keeps it, and the others are served."""
    running.server.put(space("team", allow="1-20000"))
    high, low = listener("high", 10_053), listener("low", 53)
    running.begin(gateway(high, annotations=TARGET), route())
    running.programmed()
    changed = gateway(low, high, listener("b", 5301), annotations=TARGET)
    running.server.put(changed)
    until(lambda: [port.gateway_port for port in running.routed().ports] == [10_053, 5301])
    until(lambda: running.conditions().get("Accepted") == ("True", "ListenersNotValid"))
    listeners = running.status(API_GATEWAY, "udp")["listeners"]
    said = {each["name"]: read(each["conditions"])["Accepted"][1] for each in listeners}
    assert said == {"low": "PortUnavailable", "high": "Accepted", "b": "Accepted"}


def test_a_deleted_gateway_leaves_no_unavailable_ports(running: Routed) -> None:
    running.server.put(annotated(namespace="other"))
    controller = running.begin(gateway(listener(), listener("b", 5301), annotations=TARGET))
    until(lambda: controller._reconciler.unavailable(KEY).keys() == {5300})
    running.server.remove(API_GATEWAY, "team", "udp")
    until(lambda: not controller._reconciler.unavailable(KEY))


def test_it_works_without_the_crds_and_after_their_installation(running: Routed) -> None:
    kinds = {"GatewayClass", API_GATEWAY, "UDPRoute", "ReferenceGrant"}
    running.server.installed -= kinds
    running.server.put(annotated(namespace="other"))
    controller = running.begin(gateway(annotations=TARGET, name="later"))
    running.exposed(object_name("other", "coredns"))
    assert controller.ready()
    running.server.installed |= kinds
    until(lambda: running.conditions("later").get("Accepted"))


def test_another_version_of_a_crd_changes_no_gateway(running: Routed) -> None:
    """A release of the Gateway API may serve only a version that the former one did not have."""
    running.server.served["UDPRoute"] = {f"{GROUP}/v1alpha2"}
    running.begin(gateway(annotations=TARGET), route())
    running.programmed()
    until(lambda: running.route_conditions().get("Accepted"))
    before = running.quiet()
    running.server.served["UDPRoute"] = {f"{GROUP}/v1"}
    running.server.compact()
    running.server.cut_watches()
    assert running.quiet() == before
    running.server.put(route(backend("canary")))
    until(lambda: running.weights() == [("canary", 1)])


def test_without_the_option_no_gateway_api_object_is_read(running: Routed) -> None:
    running.server.put(gateway(annotations=TARGET), route())
    running.start()
    running.quiet()
    assert not [r for r in running.server.requests if "gateway.networking.k8s.io" in r.path]


def test_rules_after_the_first_are_dropped(running: Routed) -> None:
    """UDPRoutes of version v1alpha2 may have several; merged, they would share the clients."""
    several = route(backend(weight=3), backend("gone"))
    several["spec"]["rules"].append({"backendRefs": [backend("canary", weight=5)]})
    running.begin(gateway(annotations=TARGET), several)
    running.programmed()
    assert running.weights() == [("coredns", 3)] and running.routed().ports[0].dropped == 1
    until(lambda: running.route_conditions().get("PartiallyInvalid"))
    (entry,) = running.status("UDPRoute", "dns")["parents"]
    (said,) = (e["message"] for e in entry["conditions"] if e["type"] == "PartiallyInvalid")
    assert said.startswith("Dropped Rule")
    running.server.put(route())
    until(lambda: "PartiallyInvalid" not in running.route_conditions())


def test_the_settings_of_a_route(running: Routed) -> None:
    """An invalid annotation causes a condition, and the listener keeps its settings."""
    idle, log = "kubectl-istio-udp/idle-timeout", "kubectl-istio-udp/session-log"
    running.begin(gateway(annotations=TARGET), route(annotations={idle: "2m"}))
    running.programmed()

    def idles() -> list[float]:
        return [each.options.idle_timeout.seconds for each in running.routed().port_options]

    assert idles() == [120]
    running.server.put(route(annotations={idle: "soon"}))
    until(lambda: "PartiallyInvalid" in running.route_conditions())
    assert running.route_conditions()["PartiallyInvalid"] == ("True", "UnsupportedValue")
    assert running.route_conditions()["Accepted"] == ("True", "Accepted")
    running.quiet()
    assert idles() == [120]
    running.server.put(route(annotations={log: "true"}))
    until(lambda: idles() == [])
    assert "allow-session-log" in str(running.status("UDPRoute", "dns"))
    team = running.server.get("Namespace", "", "team")
    team["metadata"]["annotations"]["kubectl-istio-udp/allow-session-log"] = "true"
    running.server.put(team)
    until(lambda: "PartiallyInvalid" not in running.route_conditions())
    until(lambda: [e.options.session_log for e in running.routed().port_options] == [True])
