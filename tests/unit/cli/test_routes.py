"""Commands about the exposures of Gateways, which a controller has made of UDPRoutes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.names import object_name
from kubectl_istio_udp.sources.gateways import exposure_key
from tests.support import builders
from tests.support.apiserver import ApiServer
from tests.support.builders import endpoint, endpoint_slice, pod
from tests.support.controlling import Running, space, until
from tests.support.fakes import Fakes
from tests.support.routes import backend, gateway, gateway_class, grant, listener, route
from tests.unit.conftest import Run

KEY = exposure_key(("team", "udp"))
NAME = object_name(*KEY)
TARGET = {"kubectl-istio-udp/gateway": "istio-system/istio-ingressgateway"}
QUERY = {"kubectl-istio-udp/query": "foo.bar.com"}
DNS, CANARY, FOREIGN, GATEWAY = "10.1.0.1:53", "10.1.0.2:53", "10.2.0.1:53", "10.244.0.7:5300"

Expose = Callable[..., None]


def server_of(namespace: str, name: str, address: str, **conditions: Any) -> list[Any]:
    host = address.partition(":")[0]
    made = pod(f"{name}-1", namespace=namespace, app=name)
    made["status"]["podIP"] = host
    made["status"]["podIPs"] = [{"ip": host}]
    return [
        builders.service(name, namespace=namespace, annotations=QUERY),
        endpoint_slice(endpoint(host, f"{name}-1", **conditions), of=name, namespace=namespace),
        made,
    ]


@pytest.fixture
def expose(api: Api, server: ApiServer, fakes: Fakes) -> Iterator[Expose]:
    """Let a controller serve a Gateway and routes, and stop it."""
    server.put(
        *(space(name) for name in ("team", "apps")),
        gateway_class(),
        *server_of("team", "coredns", DNS),
        *server_of("team", "canary", CANARY),
        *server_of("apps", "foreign", FOREIGN),
    )
    running = Running(api, server)

    def made(*routes: Any, listeners: Any = ()) -> None:
        server.put(gateway(*listeners, annotations=TARGET), *routes)
        controller = running.start(gateway_api=True)
        until(lambda: server.get("EnvoyFilter", "istio-system", NAME))
        until(lambda: controller.states() == {"ok": 1})
        running.quiet()
        running.stop()
        fakes.commands.clear()

    yield made
    running.stop()


def verified(run: Run, code: int) -> dict[str, Any]:
    done = run("verify", "-n", "team", KEY[1], "--tool-pod", "default/network-tool", "-o", "json")
    assert done.code == code, done.out + done.err
    (found,) = json.loads(done.out)
    return dict(found)


def test_every_backend_and_the_gateway_answer(run: Run, expose: Expose, server: ApiServer) -> None:
    server.put(grant())
    refs = [backend(weight=70), backend("foreign", namespace="apps", weight=30)]
    expose(route(*refs))
    found = verified(run, 0)
    assert found["verdict"] == "every hop answered"
    targets = [(each["via"], each["target"]) for each in found["probes"]]
    assert targets[:3] == [("pod", DNS), ("pod", FOREIGN), ("gateway", GATEWAY)]
    assert targets[3][0] == "service"


def test_each_object_is_read_once_for_all_listeners(
    run: Run, expose: Expose, server: ApiServer
) -> None:
    server.put(
        grant(),
        *server_of("apps", "other", "10.2.0.2:53"),
        *server_of("team", "third", "10.1.0.3:53"),
    )
    refs = [backend(name, namespace="apps") for name in ("foreign", "other")]
    refs += [backend(name) for name in ("coredns", "third")]
    ports = {"dns": 5300, "more": 5301, "last": 5302}
    expose(
        *(
            route(*refs, name=name, parents=[{"name": "udp", "sectionName": name}])
            for name in ports
        ),
        listeners=[listener(name, port) for name, port in ports.items()],
    )
    # Addresses that are not listed, which are compared with the pods of the namespace.
    for name, address in (("foreign", "10.2.0.1"), ("other", "10.2.0.2")):
        more = endpoint("10.9.9.9", f"{name}-2")
        server.put(endpoint_slice(endpoint(address, f"{name}-1"), more, of=name, namespace="apps"))
    server.requests.clear()
    run("verify", "-n", "team", KEY[1], "--tool-pod", "default/network-tool")
    reads = Counter(
        (request.path, str(request.query)) for request in server.requests if request.method == "GET"
    )
    once = ("/services", "/referencegrants", "/udproutes", "/namespaces/apps/pods")
    found = {each: n for each, n in reads.items() if any(part in each[0] for part in once)}
    assert [each for each, n in found.items() if n > 1] == []
    paths = [path for path, _ in found]
    for part in ("/referencegrants", "/namespaces/apps/pods", "/services/foreign"):
        assert any(path.endswith(part) for path in paths), part


def test_a_silent_pod_of_a_backend_is_named(run: Run, expose: Expose, fakes: Fakes) -> None:
    expose(route(backend(weight=90), backend("canary", weight=10)))
    fakes.dig[CANARY] = "timeout"
    found = verified(run, 1)
    assert found["verdict"].startswith(f"pod canary-1 ({CANARY}) does not answer")
    assert found["reason"] == "NoAnswer"


def test_a_silent_gateway_is_named(run: Run, expose: Expose, fakes: Fakes) -> None:
    expose(route(backend(weight=90), backend("canary", weight=10)))
    fakes.dig[GATEWAY] = "timeout"
    found = verified(run, 1)
    assert found["verdict"].startswith("pods answer, the gateway does not answer: ")
    assert found["reason"] == "DroppedBehindGateway"


def test_a_gateway_that_sends_one_backend_to_other_addresses(
    run: Run, expose: Expose, server: ApiServer
) -> None:
    """Although the probe through the gateway was answered: by the other backend."""
    expose(route(backend(weight=90), backend("canary", weight=10)))
    for entry in server.all("ServiceEntry"):
        for each in entry["spec"]["endpoints"]:
            each["address"] = each["address"].replace("10.1.0.2", "10.1.0.9")
        server.put(entry)
    found = verified(run, 1)
    assert found["reason"] == "StaleAddresses"
    assert "to 10.1.0.9:53, but Service canary has 10.1.0.2:53" in found["verdict"]


@pytest.mark.parametrize(
    ("refs", "reason", "said", "remedy"),
    [
        (
            [backend(weight=70), backend("foreign", namespace="apps", weight=30)],
            "RefNotPermitted",
            "the gateway drops 30% of the clients of listener dns (port 5300), because a backend "
            "of UDPRoute team/dns is refused: no ReferenceGrant in namespace apps permits",
            "kubectl get referencegrants.gateway.networking.k8s.io -n apps",
        ),
        (
            [backend("gone")],
            "BackendNotFound",
            "the gateway drops all clients of listener dns (port 5300), because a backend of "
            "UDPRoute team/dns is refused: Service team/gone does not exist",
            "kubectl edit udproutes.gateway.networking.k8s.io -n team dns",
        ),
        (
            [backend(port=54)],
            "BackendNotFound",
            "Service team/coredns has no port 54",
            "kubectl edit udproutes.gateway.networking.k8s.io -n team dns",
        ),
        (
            [backend(weight=0), backend("canary", weight=0)],
            "WeightZero",
            "all backends of UDPRoute team/dns have weight 0",
            "kubectl edit udproutes.gateway.networking.k8s.io -n team dns",
        ),
    ],
)
def test_a_share_that_the_route_drops(
    run: Run, expose: Expose, refs: list[Any], reason: str, said: str, remedy: str
) -> None:
    expose(route(*refs))
    found = verified(run, 1)
    assert found["reason"] == reason
    assert said in found["verdict"] and remedy in found["remedy"]


def test_a_backend_without_endpoints(run: Run, expose: Expose, server: ApiServer) -> None:
    _, none_ready, made = server_of("team", "canary", CANARY, ready=False)
    made["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    server.put(none_ready, made)
    expose(route(backend(weight=75), backend("canary", weight=25)))
    found = verified(run, 1)
    assert found["reason"] == "PodsNotReady"
    said = "the gateway drops 25% of the clients of listener dns (port 5300): Service team/canary"
    assert found["verdict"].startswith(said)
    assert "kubectl describe pod -n team canary-1" in found["remedy"]


def test_a_backend_with_weight_0_beside_others_is_no_problem(run: Run, expose: Expose) -> None:
    expose(route(backend(), backend("canary", weight=0)))
    assert [each["target"] for each in verified(run, 0)["probes"]][:2] == [DNS, GATEWAY]


def test_a_listener_without_a_route(run: Run, expose: Expose) -> None:
    """Its route is not accepted, because the listener does not allow the route's namespace."""
    listeners = [listener(), listener("b", 5301)]
    by_name = [{"name": "udp", "namespace": "team", "sectionName": "b"}]
    foreign = route(name="far", namespace="apps", parents=by_name)
    first = [{"name": "udp", "sectionName": "dns"}]
    expose(route(parents=first), foreign, listeners=listeners)
    found = verified(run, 1)
    assert found["reason"] == "NoRoute"
    assert (
        "no UDPRoute is attached to listener b (port 5301) of Gateway team/udp"
        in (found["verdict"])
    )
    assert "UDPRoute apps/far is not accepted" in found["verdict"]


def test_a_route_that_is_not_applied(run: Run, expose: Expose, server: ApiServer) -> None:
    """No controller runs any more."""
    expose(route())
    server.put(route(backend("canary")))
    found = verified(run, 1)
    assert found["reason"] == "RouteNotApplied"
    assert "controller status" in found["remedy"]


def test_backends_with_different_queries(run: Run, expose: Expose, server: ApiServer) -> None:
    other = server_of("team", "canary", CANARY)[0]
    other["metadata"]["annotations"]["kubectl-istio-udp/query"] = "other.example"
    server.put(other)
    expose(route(backend(), backend("canary")))
    words = ("verify", "-n", "team", KEY[1], "--tool-pod", "default/network-tool")
    done = run(*words)
    assert done.code == 2 and "--query NAME" in done.err and "other.example" in done.err
    assert run(*words, "--query", "foo.bar.com").code == 0


def test_delete_names_what_manages_the_exposure(run: Run, expose: Expose) -> None:
    expose(route())
    done = run("delete", "-n", "team", KEY[1])
    assert done.code == 3
    assert "Gateway team/udp requests this exposure" in done.err
    assert "kubectl delete gateways.gateway.networking.k8s.io -n team udp" in done.err


def test_delete_does_not_guess_that_the_gateway_is_gone(
    run: Run, server: ApiServer, expose: Expose
) -> None:
    """The controller would create the exposure again."""
    expose(route())
    before = server.there()
    server.fail("GET", "/team/gateways", 403)
    done = run("delete", KEY[1], "-n", "team")
    assert done.code == 3 and "gateways.gateway.networking.k8s.io" in done.err
    assert server.there() == before


def test_get_shows_the_gateway_and_the_routes(run: Run, expose: Expose) -> None:
    expose(route(backend(weight=90), backend("canary", weight=10)))
    (line,) = run("get", "-n", "team").out.splitlines()[1:]
    assert "gateway/udp" in line.split() and line.split()[-2] == "ok"
    head, line = run("get", "-n", "team", "-o", "wide").out.splitlines()
    assert head.split()[-1] == "ROUTES" and line.split()[-1] == "dns"
    found = json.loads(run("get", "-n", "team", KEY[1], "-o", "json").out)["status"]
    assert found["gateway"] == "team/udp"
    assert [(each["backend"], each["weight"]) for each in found["routes"]] == [
        ("team/coredns:53", 90),
        ("team/canary:53", 10),
    ]


def test_get_reports_a_dropped_share(run: Run, expose: Expose) -> None:
    expose(route(backend(weight=90), backend("gone", weight=10)))
    assert "InvalidBackend" in run("get", "-n", "team").out


def test_get_reports_a_backend_without_endpoints(
    run: Run, expose: Expose, server: ApiServer
) -> None:
    server.put(*server_of("team", "canary", CANARY, ready=False)[:2])
    expose(route(backend(weight=90), backend("canary", weight=10)))
    assert "NoEndpoints" in run("get", "-n", "team").out


def test_describe_shows_the_routes(run: Run, expose: Expose) -> None:
    refs = [backend(weight=90), backend("foreign", namespace="apps", weight=10)]
    foreign = route(name="far", namespace="apps", parents=[{"name": "udp", "namespace": "team"}])
    expose(route(*refs, backend("canary", weight=0)), foreign)
    shown = " ".join(run("describe", "-n", "team", KEY[1]).out.split())
    assert "Routes of Gateway team/udp:" in shown
    assert "apps/foreign:53 10 no ReferenceGrant in namespace apps permits" in shown
    assert "team/canary:53 0 weight 0" in shown
    assert (
        "apps/far listener dns of Gateway team/udp does not allow UDPRoutes from this namespace"
        in shown
    )


def test_get_without_the_gateway_api(run: Run, expose: Expose, server: ApiServer) -> None:
    """The CRDs were removed, and the exposure is still there."""
    expose(route())
    server.installed -= {"GatewayClass", "Gateway.gateway.networking.k8s.io", "UDPRoute"}
    assert "gateway" in run("get", "-n", "team").out.split()
    assert run("describe", "-n", "team", KEY[1]).code == 0
    assert verified(run, 0)["verdict"] == "every hop answered"


def test_get_reads_the_endpoints_of_many_services_with_one_list(
    run: Run, expose: Expose, server: ApiServer
) -> None:
    names = [f"s{number}" for number in range(25)]
    for number, name in enumerate(names):
        server.put(*server_of("team", name, f"10.1.1.{number}:53"))
    listeners = [listener(name, 5300 + number) for number, name in enumerate(names)]
    routes = [
        route(backend(name), name=name, parents=[{"name": "udp", "sectionName": name}])
        for name in names
    ]
    expose(*routes, listeners=listeners)
    server.requests.clear()
    done = run("get", "-A")
    assert done.code == 0 and KEY[1] in done.out
    lists = [r.path for r in server.requests if "endpointslices" in r.path]
    assert lists == ["/apis/discovery.k8s.io/v1/endpointslices"]
