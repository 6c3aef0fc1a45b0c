"""The controller with an API server in this process: what it writes and when, and its Events."""

from __future__ import annotations

import copy
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from kubectl_istio_udp.controller import deciding
from kubectl_istio_udp.controller.objects import MANAGER, marked
from kubectl_istio_udp.controller.run import Controller, Settings
from kubectl_istio_udp.controller.waits import Calm, Timing
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec
from kubectl_istio_udp.model.names import object_name
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.plan.exposure import Plan, plan
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state.trimming import LabelSet
from tests.support import builders
from tests.support.apiserver import ApiServer
from tests.support.builders import endpoint, endpoint_slice, udp
from tests.support.clock import MovedClock
from tests.unit.test_golden import given_in
from tests.unit.test_version1 import stored
from tests.unit.test_version1 import write as write_version_1

NAME = "udp-default-coredns"
EXPOSE = "kubectl-istio-udp/expose"


def space(name: str, allow: str | None = "5300-5399", **notes: str) -> dict[str, Any]:
    found = builders.namespace(name)
    if allow is not None:
        notes["kubectl-istio-udp/allow"] = allow
    found["metadata"]["annotations"] = {
        "kubectl-istio-udp/allow-endpoints": "10.0.0.0/8, 192.0.2.0/24",
        **notes,
    }
    return found


def annotated(name: str = "coredns", ports: str = "5300:53", **more: Any) -> dict[str, Any]:
    """A Service that requests to be exposed; `options` are more annotations."""
    options = {f"kubectl-istio-udp/{k}": v for k, v in more.pop("options", {}).items()}
    created = more.pop("created", None)
    found = builders.service(name, annotations={EXPOSE: ports, **options}, **more)
    if created:
        found["metadata"]["creationTimestamp"] = created
    return found


def until(check: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something is true, and return it.

    Nothing takes so long but on a machine that does much else; the bound ends a test that fails.
    """
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
    return found


class Running:
    """Controllers at work, and what to ask of the cluster.

    Attributes:
        clock: the controllers' time.
        timing: what controllers wait for that start from now on.
    """

    def __init__(self, api: Api, server: ApiServer) -> None:
        self.api, self.server = api, server
        self.controllers: list[Controller] = []
        self.clock = MovedClock()
        self.timing = Timing(listener=0.05, calm=0.05, replace=0.05)

    def wait_for(self, **seconds: float) -> None:
        """Let controllers that start from now on wait for other times."""
        self.timing = dataclasses.replace(self.timing, **seconds)

    def start(self, identity: str = "one", **settings: Any) -> Controller:
        usual = {
            "namespace": "istio-system",
            "gateway_namespaces": ("istio-system",),
            "root_namespaces": ("istio-system",),
            "file_limit": 65_536,
            "elect": False,
            "port": 0,
            "timing": self.timing,
        }
        asked = Settings(identity, **{**usual, **settings})
        controller = Controller(self.api, asked, self.clock)
        self.controllers.append(controller)
        controller.start()
        return controller

    def stop(self) -> None:
        for controller in self.controllers:
            controller.stop()

    def quiet(self) -> list[str]:
        """Wait until there are no requests for a while; return the writes so far."""
        deadline, still = time.monotonic() + 60, 0
        while time.monotonic() < deadline:
            asked, worked = len(self.server.requests), time.process_time()
            time.sleep(0.05)
            idle = time.process_time() - worked < 0.01 and len(self.server.requests) == asked
            still = still + 1 if idle else 0
            if still == 3:
                return self.server.writes()
        raise AssertionError(f"it goes on asking: {self.server.requests[-5:]}")

    def entry(self, name: str = NAME, namespace: str = "istio-system") -> Any:
        return self.server.get("ServiceEntry", namespace, name)

    def filter(self, name: str = NAME) -> Any:
        return self.server.get("EnvoyFilter", "istio-system", name)

    def spec(self, name: str = NAME) -> ExposureSpec:
        return ExposureSpec.from_json(
            self.filter(name)["metadata"]["annotations"]["kubectl-istio-udp/spec"]
        )

    def addresses(self, name: str = NAME) -> list[str]:
        entry = self.entry(name)
        return [e["address"] for e in entry["spec"].get("endpoints", ())] if entry else []

    def has(self, addresses: list[str]) -> bool:
        return self.addresses() == addresses

    def exposed(self, name: str = NAME) -> Any:
        return until(lambda: self.filter(name) and self.companion(name))

    def companion(self, name: str = NAME) -> Any:
        return self.server.get("Service", "istio-system", name)

    def told(self, service: str = "coredns") -> list[str]:
        return [
            f"{e['reason']}: {e['message']}"
            for e in self.server.all("Event")
            if e["involvedObject"]["name"] == service
        ]

    def tells(self, what: str, service: str = "coredns") -> str:
        found: str = until(lambda: next((t for t in self.told(service) if what in t), None))
        return found


def next_of(controller: Controller) -> tuple[str, str]:
    """The exposure that is reconciled next."""
    taken = controller._queue.take(0)
    assert taken is not None
    return taken[0]


@pytest.fixture
def running(api: Api, server: ApiServer) -> Iterator[Running]:
    server.put(space("default"))
    found = Running(api, server)
    yield found
    found.stop()


def test_a_request_becomes_an_exposure_and_is_told(running: Running) -> None:
    running.start()
    running.server.put(annotated())
    running.exposed()
    assert running.addresses() == ["10.244.0.20", "10.244.0.21"]
    labels = running.filter()["metadata"]["labels"]
    assert labels["kubectl-istio-udp/source"] == "service"
    assert "5300:53/UDP at gateway istio-system/istio-ingressgateway" in running.tells("Exposed")


def test_idle_means_idle(running: Running) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    running.quiet()
    before = len(running.server.requests)
    running.clock.move(600.0)
    running.quiet()
    assert len(running.server.requests) == before
    # What is heard of without meaning anything is not answered either.
    found = running.server.get("Service", "default", "coredns")
    running.server.put(found)
    running.quiet()
    assert len(running.server.requests) == before


def test_a_change_of_endpoints_is_one_request(running: Running) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    assert running.addresses() == ["10.244.0.20", "10.244.0.21"]
    before, version = running.quiet(), running.filter()["metadata"]["resourceVersion"]
    running.server.put(endpoint_slice(endpoint("10.244.0.21"), endpoint("10.244.0.30")))
    until(lambda: running.addresses() == ["10.244.0.21", "10.244.0.30"])
    path = f"/apis/networking.istio.io/v1/namespaces/istio-system/serviceentries/{NAME}"
    assert running.quiet()[len(before) :] == [f"PATCH {path}"]
    assert running.filter()["metadata"]["resourceVersion"] == version


@pytest.mark.parametrize(
    ("conditions", "listed"),
    [
        ([{"ready": True}, {"ready": False}], ["10.0.0.0"]),
        ([{"ready": True}, {"ready": False, "serving": True, "terminating": True}], ["10.0.0.0"]),
        (
            [{"ready": False, "serving": True, "terminating": True}, {"ready": False}],
            ["10.0.0.0"],
        ),
        ([{"ready": False, "serving": False, "terminating": True}], []),
    ],
)
def test_conditions(running: Running, conditions: list[Any], listed: list[str]) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    entries = [endpoint(f"10.0.0.{i}", **each) for i, each in enumerate(conditions)]
    running.server.put(endpoint_slice(*entries))
    until(lambda: running.addresses() == listed)


@pytest.mark.parametrize("kind", ["EnvoyFilter", "Service", "ServiceEntry"])
def test_drift_is_repaired(running: Running, kind: str) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    running.quiet()
    namespace = "istio-system"
    whole = running.server.get(kind, namespace, NAME)["spec"]
    running.server.remove(kind, namespace, NAME)
    until(lambda: running.server.get(kind, namespace, NAME))
    edited = running.server.get(kind, namespace, NAME)
    for field in ("endpoints", "configPatches", "ports"):
        if field in edited["spec"]:
            edited["spec"][field] = edited["spec"][field][:-1]
    running.server.put(edited)
    until(lambda: _same(running.server.get(kind, namespace, NAME)["spec"], whole))
    running.quiet()
    relabelled = running.server.get(kind, namespace, NAME)
    relabelled["metadata"]["annotations"]["kubectl-istio-udp/spec"] = "{}"
    running.server.put(relabelled)
    until(
        lambda: (
            running.server.get(kind, namespace, NAME)["metadata"]["annotations"][
                "kubectl-istio-udp/spec"
            ]
            != "{}"
        )
    )


def test_another_port_leaves_the_sessions_of_the_others(running: Running) -> None:
    """As with `expose`: another number would replace the cluster and end its sessions."""
    running.wait_for(calm=0.0)
    running.start()
    running.server.put(annotated())
    running.exposed()
    before = running.spec().options.max_sessions
    running.server.put(annotated(ports="5300:53,5301:53"))
    until(lambda: len(running.spec().ports) == 2)
    assert running.spec().options.max_sessions == before


def test_who_flips_an_annotation_does_not_shake_the_gateway(running: Running) -> None:
    running.wait_for(calm=60.0)
    controller = running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    for number in range(50):
        running.server.put(
            annotated(options={"discovery": "endpoints", "idle-timeout": f"{number + 1}s"}),
            endpoint_slice(endpoint(f"10.244.1.{number}")),
        )
        time.sleep(0.01)
    # Endpoints are no part of the gateway, and do not wait.
    until(lambda: running.addresses() == ["10.244.1.49"])
    assert controller.states() == {"waiting": 1}
    assert len(filter_changes(running)) == 1
    running.clock.move(60.0)
    until(lambda: running.spec().options.idle_timeout.seconds == 50)
    until(lambda: controller.states() == {"ok": 1})
    assert len(filter_changes(running)) == 2


def test_who_asks_and_asks_no_more_does_not_shake_the_gateways(running: Running) -> None:
    """By an annotation that comes and goes, or that names one gateway after the other."""
    running.wait_for(calm=60.0)
    labels = {"app": "edge", "istio": "edge"}
    running.server.put(builders.gateway_pod("edge-1", labels=labels))
    controller = running.start()
    for number in range(10):
        gateway = "edge" if number % 2 else "istio-ingressgateway"
        running.server.put(annotated(options={"gateway": gateway}))
        time.sleep(0.1)
        if number % 3 == 0:
            running.server.put(builders.service())
            time.sleep(0.1)
    running.server.put(annotated(options={"gateway": "edge"}))
    until(lambda: controller.states() == {"waiting": 1})
    made = [w for w in running.server.writes() if "POST" in w and "envoyfilters" in w]
    assert len(made) == 1, made
    running.clock.move(60.0)
    running.exposed()
    assert running.spec().gateway.name == "edge"


def filter_changes(running: Running) -> list[str]:
    return [w for w in running.server.writes() if "PATCH" in w and "envoyfilters" in w]


def _same(one: Any, other: Any) -> bool:
    drop = ("clusterIP",)
    return {k: v for k, v in one.items() if k not in drop} == {
        k: v for k, v in other.items() if k not in drop
    }


@pytest.mark.parametrize("how", ["annotation", "service", "namespace", "permission"])
def test_a_request_withdrawn_takes_everything_listener_first(running: Running, how: str) -> None:
    running.start()
    running.server.put(annotated())
    running.exposed()
    running.quiet()
    history: list[str] = []

    def note(request: Any) -> None:
        found = running.filter()
        kinds = [p["applyTo"] for p in found["spec"]["configPatches"]] if found else []
        if request.method in ("PATCH", "DELETE") and "/events/" not in request.path:
            history.append(f"{request.method} {request.path.split('/')[-2]} {kinds}")

    running.server.seen = note
    if how == "annotation":
        running.server.put(builders.service())
    elif how == "service":
        running.server.remove("Service", "default", "coredns")
    elif how == "namespace":
        running.server.remove("Namespace", "", "default")
    else:
        running.server.put(space("default", None))
    until(lambda: not running.filter() and not running.entry() and not running.companion())
    assert history == [
        "DELETE services ['CLUSTER', 'LISTENER', 'CLUSTER']",
        "PATCH envoyfilters ['CLUSTER', 'LISTENER', 'CLUSTER']",
        "DELETE envoyfilters ['CLUSTER', 'CLUSTER']",
        "DELETE serviceentries []",
    ]


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


def test_who_has_a_port_keeps_it(running: Running) -> None:
    running.start()
    running.server.put(annotated("second", created="2026-02-01T00:00:00Z"))
    running.exposed("udp-default-second")
    running.server.put(annotated("first", created="2026-01-01T00:00:00Z"))
    told = running.tells("PortTaken", "first")
    assert "port 5300/UDP is taken" in told and "second" not in told
    running.quiet()
    assert running.filter("udp-default-first") is None


def test_an_older_request_that_cannot_be_honoured_does_not_keep_others_waiting(
    running: Running,
) -> None:
    running.server.put(
        annotated("older", ports="5300:99", created="2026-01-01T00:00:00Z"),
        annotated("newer", created="2026-02-01T00:00:00Z"),
    )
    running.start()
    running.exposed("udp-default-newer")
    assert "has no UDP port 99" in running.tells("ExposeInvalid", "older")


def test_in_whatever_order_requests_are_looked_at_the_older_comes_first(running: Running) -> None:
    running.server.put(
        annotated("older", created="2026-01-01T00:00:00Z"),
        annotated("newer", created="2026-02-01T00:00:00Z"),
    )
    controller = running.start(workers=0)
    until(controller._may_write)
    outcome = controller._reconciler.reconcile(("default", "newer"))
    assert outcome.reason == "PortTaken" and "Service default/older" in outcome.detail
    assert "default/older" not in outcome.message
    assert controller._reconciler.reconcile(("default", "older")).state == "ok"
    assert running.filter("udp-default-newer") is None


def test_what_is_being_written_is_taken_already(running: Running) -> None:
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
            seen[0] = controller._reconciler.reconcile(("default", "older"))

    running.server.seen = meanwhile
    assert controller._reconciler.reconcile(("default", "younger")).state == "ok"
    assert seen[0].reason == "PortTaken" and running.filter("udp-default-older") is None


def test_a_malformed_request_keeps_what_is_allowed_and_no_more(running: Running) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    running.server.put(annotated(ports="nonsense"))
    running.tells("ExposeInvalid")
    running.server.put(endpoint_slice(endpoint("10.244.0.30")))
    until(lambda: running.addresses() == ["10.244.0.30"])
    assert running.filter()
    running.server.put(space("default", None))
    until(lambda: not running.filter() and not running.entry())


def test_twenty_requests_for_one_port_at_once(running: Running) -> None:
    running.start(workers=8)
    running.server.put(*[annotated(f"s{n}") for n in range(20)])

    def told() -> set[str]:
        return {e["involvedObject"]["name"] for e in running.server.all("Event")}

    until(lambda: len(told()) == 20)
    running.quiet()
    assert len(running.server.all("EnvoyFilter")) == 1


@pytest.mark.parametrize(
    ("service", "reason", "said"),
    [
        (annotated(ports="5400:53"), "ExposeForbidden", "5400"),
        (annotated(ports="5300:53,9999:53"), "ExposeForbidden", "9999"),
        (annotated(ports="all"), "ExposeForbidden", "53"),
        (
            annotated(ports="5300:other/53"),
            "ExposeInvalid",
            "neither a port number nor a port name",
        ),
        (
            annotated(ports="5300:kube-system/dns"),
            "ExposeInvalid",
            "neither a port number nor a port name",
        ),
        (annotated(ports=""), "ExposeInvalid", "not a number"),
        (annotated(ports="x" * 3000), "ExposeInvalid", "longer than 2000"),
        (
            annotated(ports=",".join(f"{p}" for p in range(5300, 5450))),
            "ExposeInvalid",
            "more than",
        ),
        (annotated(options={"idle-timeout": "9" * 300 + "s"}), "ExposeInvalid", "duration"),
        (
            annotated(options={"idle-timeout": "1s\n- applyTo: LISTENER"}),
            "ExposeInvalid",
            "duration",
        ),
        (annotated(options={"max-sessions": "1e9"}), "ExposeInvalid", "whole number"),
        (annotated(options={"max-sessions": "60000"}), "ExposeForbidden", "60000 sessions"),
        (annotated(options={"discovery": "dns"}), "ExposeInvalid", "not one of"),
        (annotated(options={"nonsense": "1"}), "ExposeInvalid", "unknown annotation"),
        (annotated(options={"gateway": "../../kube-system"}), "ExposeInvalid", "not a valid"),
        (annotated(options={"gateway": "elsewhere/gw"}), "NoGateway", "elsewhere/gw"),
        (
            annotated(type="ExternalName", externalName="dns.kube-system.svc"),
            "ExposeForbidden",
            "ExternalName",
        ),
    ],
)
def test_what_a_tenant_may_not(
    running: Running, service: dict[str, Any], reason: str, said: str
) -> None:
    running.start()
    running.server.put(service)
    told = running.tells(reason)
    assert said in told and len(told) < 1100
    running.quiet()
    assert not any(running.server.all(kind) for kind in ("EnvoyFilter", "ServiceEntry"))


def test_none_is_allowed_unless_somebody_says_so(running: Running) -> None:
    running.server.put(space("default", None))
    controller = running.start()
    running.server.put(annotated())
    running.tells("ExposeForbidden")
    assert controller.states()["refused"] == 1
    running.server.put(space("default", "5300"))
    running.exposed()


def test_a_cluster_of_one_tenant(running: Running) -> None:
    running.server.put(space("default", None))
    running.start(allow_all=True)
    running.server.put(annotated(type="ExternalName", externalName="dns.example.com"))
    running.exposed()


def test_somebody_elses_envoy_filter_of_that_name_stays(running: Running) -> None:
    theirs = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": NAME, "namespace": "istio-system", "labels": {"theirs": "1"}},
        "spec": {"configPatches": []},
    }
    running.server.put(theirs)
    running.start()
    running.server.put(annotated())
    assert "does not belong to exposure coredns" in running.tells("ExposeRefused")
    running.quiet()
    assert running.filter()["metadata"]["labels"] == {"theirs": "1"}
    assert running.entry() is None
    running.server.remove("EnvoyFilter", "istio-system", NAME)
    running.exposed()


def test_labels_of_ours_in_a_tenants_namespace_speak_for_nobody_else(running: Running) -> None:
    """A tenant's ServiceEntry that claims to be another namespace's exposure changes nothing."""
    running.server.put(space("victim"), annotated(namespace="victim"))
    running.server.put(endpoint_slice(endpoint("10.0.0.9"), namespace="victim"))
    running.start()
    victims = object_name("victim", "coredns")
    running.exposed(victims)
    forged = running.server.get("ServiceEntry", "istio-system", victims)
    forged["metadata"] = {**forged["metadata"], "namespace": "default"}
    running.quiet()
    before = running.server.state()
    running.server.put(forged)
    running.server.remove("ServiceEntry", "default", victims)
    running.quiet()
    assert running.server.state() == before
    # Nor has it made anybody forget what is the victim's.
    running.server.remove("Service", "victim", "coredns")
    until(lambda: not running.filter(victims) and not running.entry(victims))


def test_a_forged_list_gives_nobody_more_sessions(running: Running) -> None:
    """A tenant's own ServiceEntry, made before the controller's, that says it holds 40,000."""
    planned = builders.plan_of(ports=[PortRequest(5300, 53)], max_sessions=40_000)
    forged = next(marked(w) for w in writes(planned.exposure) if w.kind == "ServiceEntry")
    running.server.put(dict(forged.manifest))
    running.start()
    running.server.put(annotated())
    running.exposed()
    cluster = running.filter()["spec"]["configPatches"][0]["patch"]["value"]
    # What the namespace may have is 4,000; how many it gets unasked depends on what is seen first.
    assert cluster["circuit_breakers"]["thresholds"][0]["max_connections"] in (1_750, 4_000)


def expose_by_hand(server: ApiServer, discovery: str, name: str = "coredns") -> None:
    """What `expose` writes."""
    planned = builders.plan_of(
        ports=[PortRequest(5300, 53)], discovery=Discovery(discovery), name=name
    )
    for write in writes(planned.exposure):
        server.apply(write.key, dict(write.manifest), write.manager, False, False)


def test_a_persons_list_is_kept_fresh_and_nothing_else_of_theirs(running: Running) -> None:
    name = object_name("default", "mine")
    expose_by_hand(running.server, "endpoints", "mine")
    running.start()
    running.server.put(endpoint_slice(endpoint("10.244.0.77")))
    until(lambda: running.addresses(name) == ["10.244.0.77"])
    running.quiet()
    running.server.remove("EnvoyFilter", "istio-system", name)
    running.server.put(endpoint_slice(endpoint("10.244.0.78")))
    until(lambda: running.addresses(name) == ["10.244.0.78"])
    running.server.remove("ServiceEntry", "istio-system", name)
    running.server.put(endpoint_slice(endpoint("10.244.0.79")))
    running.quiet()
    assert running.entry(name) is None and running.filter(name) is None


def test_what_a_person_listed_is_not_what_a_tenant_puts_beside_it(running: Running) -> None:
    """A ServiceEntry in the tenant's namespace, with the labels and a name of the exposure's."""
    name, foreign = object_name("default", "mine"), "203.0.113.9"
    expose_by_hand(running.server, "endpoints", "mine")
    forged = copy.deepcopy(running.entry(name))
    forged["metadata"] |= {"namespace": "default", "name": f"{name}.1"}
    forged["spec"]["endpoints"] = [{"address": foreign}]
    running.server.put(forged)
    running.start()
    running.server.put(endpoint_slice(endpoint("10.244.0.77"), endpoint(foreign)))
    until(lambda: running.addresses(name) == ["10.244.0.77"])
    running.quiet()
    assert running.addresses(name) == ["10.244.0.77"]


def test_a_list_that_is_deleted_while_it_is_kept_fresh_is_not_made_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = object_name("default", "mine")
    expose_by_hand(running.server, "endpoints", "mine")
    controller = running.start()
    running.server.put(endpoint_slice(endpoint("10.244.0.77")))
    until(lambda: running.addresses(name) == ["10.244.0.77"])
    running.quiet()
    find = controller.caches.find
    lost: list[str] = []

    def find_and_lose(kind: str, namespace: str, wanted: str) -> Any:
        found = find(kind, namespace, wanted)
        if found and kind == "ServiceEntry" and not lost:
            running.server.remove(kind, namespace, wanted)
            lost.append(wanted)
            until(lambda: find(kind, namespace, wanted) is None)
        return found

    monkeypatch.setattr(controller.caches, "find", find_and_lose)
    running.server.put(endpoint_slice(endpoint("10.244.0.78")))
    until(lambda: lost)
    running.quiet()
    assert running.entry(name) is None


def test_a_persons_entry_sends_to_the_port_that_was_meant(running: Running) -> None:
    """The addresses alone say no port; the entry does."""
    name = object_name("default", "mine")
    expose_by_hand(running.server, "endpoints", "mine")
    edited = running.entry(name)
    edited["spec"]["ports"][0]["targetPort"] = 5353
    running.server.put(edited)
    running.start()
    until(lambda: running.entry(name)["spec"]["ports"][0]["targetPort"] == 53)
    assert running.quiet() == [running.server.writes()[0]]


def test_ports_with_other_addresses_have_a_list_of_their_own(running: Running) -> None:
    """In whatever order Service and EndpointSlices come; a list that was split stays split."""
    log = [{"name": "udp-log", "port": 514, "protocol": "UDP"}]
    running.start()
    asked = annotated(ports="5300:53,5301:514", options={"discovery": "endpoints"})
    asked["spec"]["ports"] = [udp(), udp(514, "udp-log")]
    running.server.put(asked, endpoint_slice(endpoint("10.0.0.1")))
    running.exposed()
    running.tells("Exposed")
    running.server.put(endpoint_slice(endpoint("10.0.0.2"), ports=log, suffix="log"))
    until(lambda: running.addresses(f"{NAME}.514") == ["10.0.0.2"])
    assert running.addresses() == ["10.0.0.1"]
    hosts = [running.entry(name)["spec"]["hosts"] for name in (NAME, f"{NAME}.514")]
    assert hosts[0] != hosts[1]
    running.quiet()
    assert {e["reason"] for e in running.server.all("Event")} == {"Exposed"}
    running.server.remove("Service", "default", "coredns")
    until(lambda: not running.filter() and not running.server.all("ServiceEntry"))


def test_a_persons_list_that_was_deleted_unseen_is_not_made_again(running: Running) -> None:
    """The watch has not delivered it yet, so the write names the object's uid."""
    name = object_name("default", "mine")
    expose_by_hand(running.server, "endpoints", "mine")
    controller = running.start()
    running.quiet()
    running.server.fail("GET", "serviceentries.*watch=true", 500)
    running.server.cut_watches()
    until(lambda: running.server.watching() == 5)
    running.server.remove("ServiceEntry", "istio-system", name)
    running.server.put(endpoint_slice(endpoint("10.244.0.77")))
    until(lambda: controller.states()["failed"])
    assert running.entry(name) is None
    running.server.heal()
    until(lambda: controller.states()["failed"] == 0)
    assert running.entry(name) is None


def test_a_persons_exposure_is_not_taken_over(running: Running) -> None:
    expose_by_hand(running.server, "selector")
    running.quiet()
    before = running.filter()
    running.start()
    running.server.put(annotated(ports="5301:53"))
    assert "was created with" in running.tells("ExposeRefused")
    running.server.put(builders.service())
    running.quiet()
    assert running.filter() == before


def test_auto_stays_with_a_list_once_it_is_one(running: Running) -> None:
    """Pods with different numbers for a named port need a list; it stays when they agree again."""
    ports = [{"name": "udp-dns", "port": 5353, "protocol": "UDP"}]
    running.start()
    running.server.put(
        {**annotated(), "spec": {**annotated()["spec"], "ports": [udp(target="dns")]}},
        endpoint_slice(endpoint("10.244.0.20")),
        endpoint_slice(endpoint("10.244.0.21"), suffix="two", ports=ports),
    )
    running.exposed()
    numbers = [None, {"port-53": 5353}]
    until(lambda: [e.get("ports") for e in running.entry()["spec"]["endpoints"]] == numbers)
    # The ServiceEntry is written first; the EnvoyFilter that asks for it follows.
    running.quiet()
    version = running.filter()["metadata"]["resourceVersion"]
    running.server.remove("EndpointSlice", "default", "coredns-two")
    until(lambda: running.addresses() == ["10.244.0.20"])
    running.quiet()
    assert running.filter()["metadata"]["resourceVersion"] == version


def test_a_gateway_that_comes_later(running: Running) -> None:
    running.server.remove("Pod", "istio-system", "istio-ingressgateway-1")
    controller = running.start()
    running.server.put(annotated())
    running.tells("NoGateway")
    assert controller.states()["waiting"] == 1
    running.server.put(builders.gateway_pod("istio-ingressgateway-2"))
    running.exposed()


def test_a_second_gateway_leaves_an_exposure_at_the_first(running: Running) -> None:
    """As with `expose`: where the Service names none, the exposure stays, and can be changed."""
    running.wait_for(calm=0.0)
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    second = {"app": "second", "istio": "ingressgateway"}
    running.server.put(
        builders.gateway_pod("second-1", labels=second, owner=("ReplicaSet", "second-7f5")),
        builders.gateway_service("second", selector=second),
    )
    until(lambda: len(controller.caches.gateways()) == 2)
    running.server.put(annotated("late", ports="5302:53"))
    assert "found several gateways" in running.tells("NoGateway", "late")
    running.server.put(annotated(options={"idle-timeout": "20s"}))
    until(lambda: running.spec().options.idle_timeout.seconds == 20)


def test_a_gateway_whose_service_gets_another_name_is_the_same_gateway(running: Running) -> None:
    """The exposure stays at it, under the name that it had, and can be changed."""
    running.wait_for(calm=0.0)
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    before = running.spec().gateway
    running.server.put(builders.gateway_service("front"))
    running.server.remove("Service", "istio-system", "istio-ingressgateway")
    until(lambda: [g.ref.name for g in controller.caches.gateways()] == ["front"])
    running.server.put(annotated(options={"idle-timeout": "20s"}))
    until(lambda: running.spec().options.idle_timeout.seconds == 20)
    assert running.spec().gateway == before
    running.quiet()
    assert controller.states() == {"ok": 1}


def test_a_gateway_that_goes_leaves_the_exposure(running: Running) -> None:
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    running.server.remove("Pod", "istio-system", "istio-ingressgateway-1")
    running.tells("NoGateway")
    running.server.put(endpoint_slice(endpoint("10.244.0.30")))
    until(lambda: running.addresses() == ["10.244.0.30"])
    assert running.filter() and running.companion()


def test_another_gateway_is_a_move(running: Running) -> None:
    labels = {"app": "edge", "istio": "edge"}
    running.server.put(builders.gateway_pod("edge-1", labels=labels))
    running.start()
    running.server.put(annotated(options={"gateway": "istio-ingressgateway"}))
    running.exposed()
    running.server.put(annotated(options={"gateway": "edge"}))
    until(
        lambda: (
            (f := running.filter())
            and f["spec"]["workloadSelector"]["labels"] == labels
            and running.companion()
        )
    )


def test_a_port_on_the_gateways_own_service(running: Running) -> None:
    running.start(defaults={"allow-gateway-service": "patch,none"})
    running.server.put(annotated(options={"gateway-service": "patch"}))

    def patched() -> bool:
        ports = running.companion("istio-ingressgateway")["spec"]["ports"]
        return any(port["port"] == 5300 for port in ports)

    until(patched)
    running.quiet()
    running.server.put(annotated(options={"gateway-service": "none"}))
    until(lambda: not patched())
    running.server.put(annotated(options={"gateway-service": "patch"}))
    until(patched)
    running.server.put(builders.service())
    until(lambda: not patched() and not running.filter())


def test_a_refused_write_is_told_tried_again_and_delays_nobody(running: Running) -> None:
    refusal = json.dumps({"kind": "Status", "message": 'admission webhook "policy" denied it'})
    running.server.fail("PATCH", "envoyfilters/udp-default-coredns", 403, refusal)
    running.start(workers=2)
    running.server.put(annotated())
    assert "policy" in running.tells("ExposeFailed")
    running.server.put(annotated("other", ports="5301:53"))
    running.exposed("udp-default-other")
    running.server.heal()
    running.exposed()


def test_a_companion_that_is_refused_does_not_let_the_gateway_be_shaken(running: Running) -> None:
    running.wait_for(calm=30.0)
    running.server.fail("PATCH", "services/udp-default-coredns", 403)
    running.start()
    for number in range(20):
        running.server.put(annotated(options={"idle-timeout": f"{number + 1}s"}))
        time.sleep(0.02)
    running.tells("ExposeFailed")
    running.quiet()
    assert len(filter_changes(running)) == 1


@pytest.mark.parametrize("more", [True, False])
def test_no_more_ports_than_the_gateway_has_memory_for(running: Running, more: bool) -> None:
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


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_what_fails_is_tried_again(running: Running, status: int) -> None:
    running.server.fail("PATCH", ".", status, times=3)
    running.start()
    running.server.put(annotated())
    running.exposed()


def test_watches_that_break_and_versions_that_are_gone(running: Running) -> None:
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


def test_a_deletion_that_no_watch_told_of(running: Running) -> None:
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


def test_odd_objects_hide_nobody(running: Running) -> None:
    odd = endpoint_slice(of="odd")
    odd["endpoints"] = [{"conditions": {}}]
    running.server.put(odd)
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    assert controller.ailment() == ""


def test_a_port_that_is_taken_is_said(running: Running) -> None:
    port = running.start().health.port
    with pytest.raises(
        UsageError, match=f"cannot serve health and metrics on port {port}: Address already"
    ):
        running.start("two", port=port)


def test_health_and_metrics(running: Running) -> None:
    import urllib3

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


# -- two replicas -------------------------------------------------------------------------------


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


def test_who_cannot_renew_stops_before_another_begins(running: Running) -> None:
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
    comes, goes_on = threading.Event(), threading.Event()

    def seen(request: Any) -> None:
        if request.method == "PUT" and "/leases/" in request.path:
            comes.set()
            assert goes_on.wait(5)

    running.server.seen = seen
    running.clock.move(6.0)
    assert comes.wait(5)
    running.clock.move(5.0)
    assert not only._may_write()
    running.server.put(endpoint_slice(endpoint("10.244.0.30")))
    running.quiet()
    assert running.addresses() != ["10.244.0.30"]
    goes_on.set()
    until(lambda: running.addresses() == ["10.244.0.30"])


def test_a_lease_that_was_not_told_of_begins_all_watches_anew(running: Running) -> None:
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


# -- what one tenant may do to another ------------------------------------------------------------


def test_a_forbidden_change_takes_nothing_down(running: Running) -> None:
    """An accepted exposure stays and its endpoints are updated; an Event reports the refusal."""
    controller = running.start()
    running.server.put(annotated(options={"max-sessions": "500"}))
    running.exposed()
    running.quiet()
    before = running.filter()
    for asked in (
        annotated(options={"max-sessions": "60000"}),
        annotated(ports="5300:53,9999:53"),
        annotated(options={"gateway-service": "patch"}),
        annotated(options={"session-log": "true"}),
    ):
        running.server.put(asked)
        until(lambda: controller.states()["refused"])
        running.server.put(annotated(options={"max-sessions": "500"}))
        until(lambda: controller.states()["ok"])
    running.server.put(annotated(ports="9999:53"), endpoint_slice(endpoint("10.244.0.30")))
    until(lambda: running.addresses() == ["10.244.0.30"])
    running.tells("ExposeForbidden")
    running.quiet()
    assert running.filter() == before and running.companion()
    # What is there goes when it is not allowed any more, whatever is asked for.
    running.server.put(space("default", "5400"))
    until(lambda: not running.filter() and not running.companion() and not running.entry())


def test_a_service_that_is_replaced_keeps_everything(running: Running) -> None:
    running.wait_for(replace=600.0)
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    running.quiet()
    made = ("ServiceEntry", "EnvoyFilter", "Service")

    def state() -> Any:
        return {k: v for k, v in running.server.state().items() if k[0] in made}

    before = state()
    running.server.remove("Service", "default", "coredns")
    running.server.remove("EndpointSlice", "default", "coredns-abc")
    until(lambda: controller.states() == {"leaving": 1})
    running.server.put(annotated())
    until(lambda: controller.states() == {"waiting": 1})
    assert running.addresses() == ["10.244.0.20", "10.244.0.21"]
    running.server.put(endpoint_slice(endpoint("10.244.0.20"), endpoint("10.244.0.21")))
    until(lambda: controller.states() == {"ok": 1})
    assert state() == before
    # One that does not come back goes; the wait begins anew.
    running.clock.move(500.0)
    running.server.remove("Service", "default", "coredns")
    del before["Service", "default", "coredns"]
    until(lambda: controller.states() == {"leaving": 1})
    running.clock.move(500.0)
    running.quiet()
    assert state() == before
    running.clock.move(100.0)
    until(lambda: not running.filter() and not running.entry())


def test_another_leader_waits_anew_before_it_takes_anything_away(running: Running) -> None:
    controller = running.start(workers=0)
    until(controller._may_write)
    running.server.put(annotated())
    until(lambda: controller.caches.intent(("default", "coredns")))
    key = ("default", "coredns")
    assert controller._reconciler.reconcile(key).state == "ok"
    running.server.remove("Service", "default", "coredns")
    until(lambda: not controller.caches.intent(key))
    assert controller._reconciler.reconcile(key).again
    time.sleep(0.1)
    controller._reconciler.begin()
    assert controller._reconciler.reconcile(key).again
    assert running.filter()


def test_a_namespace_has_so_many_ports_and_sessions_and_no_more(running: Running) -> None:
    notes = {"allow-total-ports": "3", "allow-total-sessions": "2000"}
    named = {f"kubectl-istio-udp/{key}": value for key, value in notes.items()}
    running.server.put(space("default", "5300-5399", **named))
    running.start()
    running.server.put(annotated("a", ports="5300:53", options={"max-sessions": "500"}))
    running.exposed("udp-default-a")
    running.server.put(
        annotated("b", ports="5301:53,5302:53,5303:53", options={"max-sessions": "1"})
    )
    assert "would have 4 ports in total; 3 are allowed" in running.tells("ExposeRefused", "b")
    running.server.put(annotated("c", ports="5304:53", options={"max-sessions": "1501"}))
    assert "would have 2001 sessions" in running.tells("ExposeRefused", "c")
    running.server.remove("Service", "default", "c")
    running.server.remove("Service", "default", "a")
    running.exposed("udp-default-b")


def test_of_more_services_than_ports_the_oldest_are_looked_at(running: Running) -> None:
    running.server.put(
        space("default", "5300-5399", **{"kubectl-istio-udp/allow-total-ports": "2"})
    )
    years = {name: f"202{number}-01-01T00:00:00Z" for number, name in enumerate("abcd")}
    ports = {"a": "5300:99", "b": "5301:53", "c": "5302:53", "d": "5303:53"}
    running.server.put(*[annotated(n, ports=ports[n], created=years[n]) for n in "abcd"])
    running.start()
    running.exposed("udp-default-b")
    for name in "cd":
        assert "2 older Services of the namespace" in running.tells("ExposeRefused", name)
    # There may be thousands: they are not looked at with every change of a gateway.
    assert not running.controllers[0]._short
    running.server.remove("Service", "default", "a")
    running.exposed("udp-default-c")
    running.quiet()
    assert running.filter("udp-default-d") is None


def test_nothing_is_planned_for_what_is_not_allowed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []

    def noted(request: ExposeRequest, *given: Any) -> Plan:
        planned.append(request.namespace)
        return plan(request, *given)

    monkeypatch.setattr(deciding, "plan", noted)
    running.server.put(space("attack", None), space("victim", "5300"))
    running.server.put(
        *[
            annotated(f"s{n}", namespace="attack", ports="5300:53", created="2020")
            for n in range(20)
        ]
    )
    running.server.put(annotated("dns", namespace="victim"))
    controller = running.start()
    until(lambda: controller.states() == {"refused": 20, "ok": 1})
    assert set(planned) == {"victim"}


def test_an_older_intent_that_has_not_been_looked_at_goes_first_and_lets_others_follow(
    running: Running,
) -> None:
    running.server.put(
        annotated("older", ports="5300:53,5399:99", created="2026-01-01T00:00:00Z"),
        annotated("newer", created="2026-02-01T00:00:00Z"),
    )
    controller = running.start(workers=0)
    until(controller._may_write)
    controller._look(("default", "newer"), time.monotonic())
    assert controller.states() == {"waiting": 1}
    controller._queue.close()
    controller._queue.open()
    controller._look(("default", "older"), time.monotonic())
    controller._wake(("default", "older"))
    assert next_of(controller) == ("default", "newer")
    controller._look(("default", "newer"), time.monotonic())
    assert controller.states() == {"refused": 1, "ok": 1}


def test_an_edit_that_an_apply_cannot_undo_is_undone(running: Running) -> None:
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    running.quiet()
    name, namespace = NAME, running.entry()["metadata"]["namespace"]

    def istiod(manifest: dict[str, Any]) -> str:
        both = {"endpoints", "workloadSelector"} <= set(manifest.get("spec") or ())
        return "only one of WorkloadSelector or Endpoints is allowed" if both else ""

    running.server.admit = istiod
    before = running.entry()["spec"]
    edited = running.entry()
    del edited["spec"]["endpoints"]
    edited["spec"]["workloadSelector"] = {"labels": {"app": "evil"}}
    running.server.put(edited)
    until(lambda: running.server.get("ServiceEntry", namespace, name)["spec"] == before)
    edited = running.filter()
    edited["spec"]["priority"] = 5
    running.server.put(edited)
    until(lambda: "priority" not in running.filter()["spec"])
    until(lambda: controller.states() == {"ok": 1})


def test_an_exposure_of_the_version_before_is_mended(running: Running) -> None:
    """Its ServiceEntry moves to where tenants cannot write, with another host and an address."""
    for manifest in stored("selector"):
        manifest["metadata"]["labels"]["kubectl-istio-udp/source"] = "service"
        key = ("", manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        running.server.apply((manifest["kind"], *key[1:]), manifest, MANAGER, False, False)
    running.server.put(space("default", "53"), annotated(ports="53"))
    running.start()
    entry = until(running.entry)
    assert entry["spec"]["addresses"] and entry["spec"]["exportTo"] == ["."]
    until(lambda: running.server.get("ServiceEntry", "default", NAME) is None)
    (host,) = entry["spec"]["hosts"]
    assert host.endswith(".coredns.default.kubectl-istio-udp.internal")
    assert running.spec().entries[0].host == host
    assert running.addresses() == ["10.244.0.20", "10.244.0.21"]


@pytest.mark.parametrize("case", ["selector", "endpoints-selectorless"])
def test_a_persons_exposure_of_the_version_before_is_mended(running: Running, case: str) -> None:
    """Nothing but its ServiceEntry and the cluster behind it changes."""
    running.server.put(*given_in(case)["objects"])
    write_version_1(running.server, case)
    before = running.spec()
    running.start()
    until(lambda: running.spec().entries[0].addresses)
    running.quiet()
    (entry,) = running.server.all("ServiceEntry")
    after = running.spec()
    assert entry["spec"]["addresses"] == list(after.entries[0].addresses)
    assert entry["spec"].get("endpoints") or entry["spec"]["workloadSelector"]
    assert dataclasses.replace(after, entries=before.entries) == before
    assert "kubectl-istio-udp/source" not in running.filter()["metadata"]["labels"]


def test_what_somebody_is_deleting_is_not_mended(running: Running) -> None:
    write_version_1(running.server, "selector")
    running.server.remove("Service", "istio-system", NAME)
    running.start()
    assert running.quiet() == []


def test_only_running_pods_of_the_namespace_become_endpoints(running: Running) -> None:
    """Whatever EndpointSlices say; and an address counts as soon as its pod is known."""
    running.server.put(space("default", **{"kubectl-istio-udp/allow-endpoints": ""}))
    slices = endpoint_slice(*(endpoint(f"10.9.0.{n}") for n in range(1, 6)), endpoint("10.96.0.1"))
    running.server.put(slices, builders.namespace("other"))
    running.server.put(
        pod_at("mine", "10.9.0.1"),
        pod_at("theirs", "10.9.0.2", namespace="other"),
        pod_at("ended", "10.9.0.3", phase="Succeeded"),
        pod_at("node", "10.9.0.4", host_network=True),
    )
    running.start()
    running.server.put(annotated())
    running.exposed()
    assert running.addresses() == ["10.9.0.1"]
    assert "does not send to 10.9.0.2 (and 4 more)" in running.tells("EndpointRefused")
    running.server.put(pod_at("late", "10.9.0.5"))
    until(lambda: running.addresses() == ["10.9.0.1", "10.9.0.5"])
    running.server.put(pod_at("mine", "10.9.0.1", phase="Failed"))
    until(lambda: running.addresses() == ["10.9.0.5"])
    running.server.put(space("default", **{"kubectl-istio-udp/allow-endpoints": "10.0.0.0/8"}))
    until(lambda: len(running.addresses()) == 6)
    running.server.put(
        builders.service("kubernetes", clusterIP="10.96.0.1"),
        endpoint_slice(endpoint("10.9.0.2"), of="kubernetes", suffix="api"),
    )
    running.server.put(endpoint_slice(*slices["endpoints"][:3], endpoint("10.96.0.1")))
    until(lambda: running.addresses() == ["10.9.0.1", "10.9.0.3"])


def pod_at(
    name: str, address: str, *, host_network: bool = False, phase: str = "Running", **more: Any
) -> dict[str, Any]:
    found = builders.pod(name, phase=phase, app="other", **more)
    found["spec"]["hostNetwork"] = host_network
    found["status"] |= {"podIP": address, "podIPs": [{"ip": address}]}
    return found


def test_renaming_a_port_keeps_the_endpoints(running: Running) -> None:
    """Also while the EndpointSlices still have the former name, and for a person's exposure."""
    expose_by_hand(running.server, "endpoints", "mine")
    mine = object_name("default", "mine")
    running.start()
    running.server.put(annotated(ports="5301:53"))
    running.exposed()
    both = ["10.244.0.20", "10.244.0.21"]
    running.quiet()
    renamed = annotated(ports="5301:53")
    renamed["spec"]["ports"] = [udp(53, "dns")]
    running.server.put(renamed)
    until(lambda: running.spec().ports[0].service_port_name == "dns")
    assert running.addresses() == running.addresses(mine) == both
    port = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    running.server.put(endpoint_slice(endpoint("10.244.0.30"), ports=port))
    until(lambda: running.addresses() == running.addresses(mine) == ["10.244.0.30"])


@pytest.mark.parametrize("hosts_before", [0, 8, 255])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_second_entry_with_the_host_is_told(
    running: Running, hosts_before: int, restarted: bool
) -> None:
    """Also behind as many other hosts as a ServiceEntry may have, and when it was there before."""
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    running.tells("Exposed")
    if restarted:
        controller.stop()
        running.controllers.remove(controller)
    (host,) = running.entry()["spec"]["hosts"]
    decoys = [f"d{n}.coredns.default.kubectl-istio-udp.internal" for n in range(hosts_before)]
    thief = copy.deepcopy(running.entry())
    thief["metadata"] = {"name": "thief", "namespace": "other"}
    thief["spec"] |= {"hosts": [*decoys, host], "exportTo": ["*"]}
    running.server.put(builders.namespace("other"), thief)
    if restarted:
        controller = running.start()
    told = running.tells("HostTaken")
    assert "other" not in told.replace("another", "") and "verify" in told
    running.server.remove("ServiceEntry", "other", "thief")
    until(lambda: [outcome.reason for _, outcome in controller.outcomes()] == ["Exposed"])


@pytest.mark.parametrize("by", ["person", "controller"])
def test_what_is_left_of_a_deleted_namespace_goes(running: Running, by: str) -> None:
    """Whoever created it; nobody else can find it any more."""
    for write in writes(builders.plan_of(ports=[PortRequest(5300, 53)]).exposure):
        made = marked(write) if by == "controller" else write
        running.server.apply(made.key, dict(made.manifest), made.manager, False, False)
    for kind, name in (("ServiceEntry", NAME), ("Service", "coredns")):
        running.server.remove(kind, "default", name)
    running.server.remove("Namespace", "", "default")
    running.start()
    until(lambda: not running.filter() and not running.companion())


def test_hundreds_of_namespaces_without_permission_take_the_turns_of_one(running: Running) -> None:
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


def test_what_an_attacker_leaves_behind_is_forgotten(running: Running) -> None:
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
    until(lambda: not controller._reconciler._waits._calm)
    now = {name: len(value) for name, value in vars(caches).items() if isinstance(value, dict)}
    # The mesh of each gateway is read with the first exposure there.
    assert {n: s for n, s in now.items() if s > empty[n] and n != "_meshes"} == {}
    kept = [vars(controller._reconciler), vars(controller._events), vars(controller)]
    left = {n: v for each in kept for n, v in each.items() if isinstance(v, dict) and v}
    left.pop("_budgets")
    assert left == {}


def test_thousands_of_entries_of_one_exposure_cost_no_more_than_a_few(running: Running) -> None:
    """They are deleted a few at a time; exposures of the command line are not changed."""
    controller = running.start()
    running.server.put(annotated())
    running.exposed()
    running.quiet()
    (forged,) = (w.manifest for w in writes(planned_here()) if w.kind == "ServiceEntry")
    for number in range(30):
        metadata = {**forged["metadata"], "namespace": "default", "name": f"{NAME}.{number}"}
        running.server.put({**forged, "metadata": metadata})
        own = controller.caches.own(("default", "coredns"))
        assert len([o for o in own.objects if o["metadata"]["namespace"] == "default"]) <= 4
    running.quiet()
    left = [key for key in running.server.there() if key[:2] == ("ServiceEntry", "default")]
    assert left == [] and running.spec().namespace == "default"


def planned_here() -> Any:
    """A plan of the exposure that `annotated` asks for."""
    return builders.plan_of(ports=[PortRequest(5300, 53)]).exposure


def test_pods_that_change_cost_no_more_than_the_intents_that_are_looked_at(
    running: Running,
) -> None:
    """Of a namespace the oldest ones, as many as it may have ports."""
    running.server.put(space("default", **{"kubectl-istio-udp/allow-total-ports": "3"}))
    controller = running.start()
    for number in range(9):
        created = f"2026-01-01T00:00:0{number}Z"
        ports, selector = f"53{number:02}:53", {"app": "one"}
        running.server.put(annotated(f"s{number}", ports, created=created, selector=selector))
    until(lambda: len(list(controller.outcomes())) == 9)
    running.quiet()
    caches, labels = controller.caches, LabelSet.of({"app": "one"})
    found = caches._selecting("default", labels)
    assert found == {("default", f"s{number}") for number in range(3)}
    running.server.put(space("default", **{"kubectl-istio-udp/allow-total-ports": "20"}))
    until(lambda: len(caches._selecting("default", labels)) == 9)


def test_of_a_service_with_thousands_of_endpoints_a_thousand_are_listed(running: Running) -> None:
    """Those of the first EndpointSlices by name, with an Event."""
    running.start()
    running.server.put(annotated(options={"discovery": "endpoints"}))
    running.exposed()
    for part in range(4):
        several = [endpoint(f"10.{part}.{n // 200}.{n % 200 + 1}") for n in range(400)]
        running.server.put(endpoint_slice(*several, suffix=f"part{part}"))
    assert "more than 1000 endpoints" in running.tells("EndpointRefused")
    until(lambda: len(running.addresses()) > 400)
    assert {address.split(".")[1] for address in running.addresses()} <= {"244", "0", "1"}
    assert len(running.addresses()) <= 1000


def forged_filter(name: str, gateway_namespace: str, port: int, sessions: int) -> dict[str, Any]:
    """The EnvoyFilter of an exposure of namespace `default`, in another gateway's namespace."""
    planned = builders.plan_of(ports=[PortRequest(port, 53)], name=name, max_sessions=sessions)
    spec = planned.exposure.spec
    gateway = dataclasses.replace(spec.gateway, namespace=gateway_namespace)
    exposure = dataclasses.replace(
        planned.exposure, spec=dataclasses.replace(spec, gateway=gateway)
    )
    return dict(next(w for w in writes(exposure) if w.kind == "EnvoyFilter").manifest)


def test_an_older_exposure_is_what_it_was_whatever_another_gateways_owner_writes(
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


def test_the_name_of_an_exposure_that_is_not_there_yet_may_be_taken_at_another_gateway(
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


def test_who_goes_on_changing_waits_longer_each_time() -> None:
    """Envoy keeps replaced listeners for 45 s."""
    now, calm, waits = 0.0, None, []
    for _ in range(6):
        calm = Calm.after(calm, now, Timing())
        waits.append(calm.until - now)
        now = calm.until
    assert waits == [5, 10, 20, 40, 60, 60]
    assert Calm.after(calm, now + 61, Timing()).seconds == 5
