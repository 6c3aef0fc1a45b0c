"""Evidence -> cause: one row for each cause, and that the likelier one wins where two show."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from kubectl_istio_udp.model.envoyfilter import revisions
from kubectl_istio_udp.model.exposure import Discovery, GatewayServiceMode
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.model.proxystate import ProxyState, Refusal, UdpSocket
from kubectl_istio_udp.model.service import EndpointSlice, Service
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.verify import find_cause
from kubectl_istio_udp.verify.cause import expose_command, run_again
from kubectl_istio_udp.verify.evidence import Evidence, PodState, ProxyEvidence
from kubectl_istio_udp.verify.front_causes import no_address
from kubectl_istio_udp.verify.gather import known
from kubectl_istio_udp.verify.hops import Outer
from tests.support.builders import (
    GATEWAY_LABELS,
    endpoint,
    endpoint_slice,
    gateway_pod,
    plan_of,
    pod,
    service,
    tcp,
    udp,
)

PORTS = parse_port_requests(["5300:53"])
GATEWAY = "istio-ingressgateway-1"
NAME = "udp-default-coredns-5300"
A, B, FOREIGN = "10.244.0.20:53", "10.244.0.21:53", "10.244.9.9:53"
HOP = Hop(Via.GATEWAY, GATEWAY, "10.244.0.7", 5300, 53)
FRONT_HOP = Hop(Via.SERVICE, "udp-default-coredns", "10.96.1.1", 5300, 53)
POD_HOP = Hop(Via.POD, "coredns-1", "10.244.0.20", 53, 53)
SLICES = (
    endpoint_slice(endpoint("10.244.0.20", "coredns-1"), endpoint("10.244.0.21", "coredns-2")),
)


# What the EnvoyFilter of the usual exposure adds.
WRITTEN = revisions(envoy_filter(plan_of(ports=PORTS, discovery=Discovery.SELECTOR).exposure))
LATEST = WRITTEN["LISTENER"][NAME]


def state(hosts: tuple[str, ...] = (A, B), **more: Any) -> ProxyState:
    parts = {
        "listeners": {NAME: LATEST},
        "clusters": {NAME: WRITTEN["CLUSTER"][NAME]},
        "ports": {NAME: 5300},
        "targets": {NAME: NAME},
        "hosts": {NAME: frozenset(hosts)} if hosts else {},
    }
    return ProxyState(**{**parts, **more})


def evidence(
    proxy: ProxyEvidence | None = None,
    discovery: Discovery = Discovery.SELECTOR,
    now: dict[str, Any] | None = None,
    slices: tuple[dict[str, Any], ...] = SLICES,
    **parts: Any,
) -> Evidence:
    """The evidence of a good exposure, with some parts replaced."""
    options = parts.pop("options", {})
    objects = parts.pop("objects", None)
    made = plan_of(objects, ports=PORTS, discovery=discovery, **options).exposure
    written = {write.kind: dict(write.manifest) for write in writes(made)}
    usual = {
        "spec": made.spec,
        "service": Service.from_object(service() if now is None else now),
        "slices": tuple(EndpointSlice.from_object(each) for each in slices),
        "pods": (PodState("coredns-1", True), PodState("coredns-2", True)),
        "gateway_pods": (PodState(GATEWAY, True, labels=GATEWAY_LABELS),),
        "proxies": {GATEWAY: proxy or ProxyEvidence(state(), sockets=(), reached=True)},
        "entries": tuple(o for kind, o in written.items() if kind == "ServiceEntry"),
        "envoy_filter": written["EnvoyFilter"],
        "front": written.get("Service"),
        "policies": (),
    }
    return Evidence(**{**usual, **parts})


def proxy(*hosts: str, **more: Any) -> ProxyEvidence:
    return ProxyEvidence(state(hosts), **{"sockets": (), **more})


def without(kind: str) -> dict[str, Any]:
    """The EnvoyFilter, edited not to add its listeners or clusters."""
    found = evidence().envoy_filter or {}
    kept = [p for p in found["spec"]["configPatches"] if p["applyTo"] != kind]
    return {**found, "spec": {**found["spec"], "configPatches": kept}}


def edited(labels: dict[str, Any]) -> dict[str, Any]:
    found = evidence().envoy_filter or {}
    return {**found, "spec": {**found["spec"], "workloadSelector": {"labels": labels}}}


def with_listener(**fields: Any) -> dict[str, Any]:
    """The EnvoyFilter, with edited fields of its listener."""
    return _with_added("LISTENER", fields)


def with_cluster(**fields: Any) -> dict[str, Any]:
    return _with_added("CLUSTER", fields)


def _with_added(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(dict(evidence().envoy_filter or {}))
    for each in found["spec"]["configPatches"]:
        if each["applyTo"] == kind and "value" in each["patch"]:
            each["patch"]["value"] |= fields
    return found


def with_entry(**fields: Any) -> dict[str, Any]:
    """The ServiceEntry, with edited fields of its spec."""
    (found,) = evidence().entries
    return {**found, "spec": {**found["spec"], **fields}}


TWIN = service(ports=[udp(), tcp()])
WITH_TWIN = [
    TWIN,
    *SLICES,
    pod("coredns-1"),
    gateway_pod(),
]
REFUSED = {NAME: Refusal("no such field", LATEST)}
# Two workers of ours, and a listener that somebody removed.
SHARED = (UdpSocket("0.0.0.0:5300"), UdpSocket(":::5300"), UdpSocket(":::5300"))
FULL = tuple(UdpSocket(f"10.244.0.7:{port}", A) for port in range(4000, 4005))
NOTHING = state((), listeners={}, clusters={}, ports={}, targets={})


@pytest.mark.parametrize(
    ("given", "reason", "text"),
    [
        (
            {"missing": ("EnvoyFilter istio-system/udp-default-coredns",)},
            "ObjectMissing",
            "EnvoyFilter istio-system/udp-default-coredns is missing",
        ),
        ({"probe_bytes": 9001}, "DatagramTooLong", "the probe has 9001 bytes"),
        ({"answer_bytes": 9001}, "DatagramTooLong", "the answer has 9001 bytes"),
        ({"proxy": ProxyEvidence(error="no permission")}, "EnvoyNotQueried", "no permission"),
        (
            {"proxy": ProxyEvidence(replace(NOTHING, refusals={NAME: Refusal("cannot bind")}))},
            "ListenerRejected",
            "its Envoy rejected listener udp-default-coredns-5300: cannot bind",
        ),
        (
            {"proxy": ProxyEvidence(state(clusters={}, refusals={NAME: Refusal("bad ring")}))},
            "ClusterRejected",
            "its Envoy rejected cluster udp-default-coredns-5300: bad ring",
        ),
        # Envoy keeps the earlier listener.
        (
            {"proxy": ProxyEvidence(state(listeners={NAME: "r1"}, refusals=REFUSED))},
            "ListenerRejected",
            "its Envoy rejected listener udp-default-coredns-5300: no such field",
        ),
        (
            {"proxy": ProxyEvidence(replace(NOTHING, refusals={"theirs": Refusal("port 75300")}))},
            "UpdateRejected",
            "its Envoy rejects theirs, which blocks other configuration: port 75300",
        ),
        # A resource that the EnvoyFilter does not add cannot be blocked by another one's error.
        (
            {
                "proxy": ProxyEvidence(state(clusters={}, refusals={"theirs": Refusal("port")})),
                "envoy_filter": without("CLUSTER"),
            },
            "ClusterMissing",
            f"no cluster {NAME}",
        ),
        (
            {
                "proxy": ProxyEvidence(
                    replace(state(), listeners={}, refusals={"theirs": Refusal("port")})
                ),
                "envoy_filter": without("LISTENER"),
            },
            "ListenerMissing",
            f"no listener on 5300 in {GATEWAY}",
        ),
        (
            {"proxy": ProxyEvidence(NOTHING), "envoy_filter": edited({"app": "nobody"})},
            "FilterSelectsOtherPods",
            "EnvoyFilter istio-system/udp-default-coredns selects app=nobody",
        ),
        (
            {
                "proxy": ProxyEvidence(NOTHING),
                "envoy_filter": {**without(""), "spec": {"targetRefs": [{"name": "other"}]}},
            },
            "FilterSelectsOtherPods",
            "selects by targetRefs",
        ),
        ({"proxy": ProxyEvidence(NOTHING)}, "ListenerMissing", f"no listener on 5300 in {GATEWAY}"),
        (
            {"proxy": ProxyEvidence(state(ports={NAME: 5301}))},
            "ListenerOnOtherPort",
            "is on port 5301, not 5300",
        ),
        (
            {"proxy": ProxyEvidence(state(targets={NAME: "theirs"}))},
            "ListenerSendsElsewhere",
            "sends to cluster theirs",
        ),
        ({"proxy": ProxyEvidence(state(clusters={}))}, "ClusterMissing", f"no cluster {NAME}"),
        # Its revision is as before, so the gateway seems to have the right one.
        (
            {"envoy_filter": with_listener(udp_listener_config={})},
            "FilterEdited",
            f"listener {NAME} in EnvoyFilter istio-system/udp-default-coredns was edited",
        ),
        (
            {"envoy_filter": with_cluster(circuit_breakers={})},
            "FilterEdited",
            f"cluster {NAME} in EnvoyFilter istio-system/udp-default-coredns was edited",
        ),
        (
            {"envoy_filter": with_cluster(eds_cluster_config={}), "proxy": proxy()},
            "FilterEdited",
            "was edited",
        ),
        (
            {"entries": (with_entry(exportTo=["."]),), "proxy": proxy()},
            "EntryEdited",
            "exportTo of ServiceEntry default/udp-default-coredns was edited",
        ),
        (
            {
                "entries": (with_entry(endpoints=[{"address": "192.0.2.9"}]),),
                "proxy": proxy(FOREIGN),
            },
            "EntryEdited",
            "endpoints of ServiceEntry",
        ),
        (
            {"entries": (with_entry(hosts=["x.example"]),), "proxy": proxy()},
            "EntryEdited",
            "hosts of ServiceEntry",
        ),
        (
            {
                "entries": (
                    with_entry(ports=[{"name": "port-53", "number": 53, "targetPort": 9}]),
                ),
                "proxy": proxy("10.244.0.20:9", "10.244.0.21:9"),
            },
            "EntryEdited",
            "ports of ServiceEntry",
        ),
        (
            {"proxy": proxy(FOREIGN), "same_host": "evil/taker"},
            "HostTaken",
            "ServiceEntry evil/taker has the same host",
        ),
        (
            {"proxy": proxy(), "objects": WITH_TWIN, "now": service()},
            "TwinPortGone",
            "port 53/TCP of Service default/coredns, which is gone",
        ),
        (
            {
                "proxy": proxy(FOREIGN),
                "objects": WITH_TWIN,
                "now": service(ports=[udp(), tcp(target=5353)]),
            },
            "TwinPortGone",
            "which leads to another target (5353)",
        ),
        (
            {
                "proxy": proxy(),
                "objects": WITH_TWIN,
                "now": service(
                    ports=[udp(), tcp()], annotations={"networking.istio.io/exportTo": ".,lab"}
                ),
            },
            "ServiceNotExported",
            "exported to ., lab only",
        ),
        (
            {"proxy": proxy(), "now": service(selector={"app": "new"})},
            "SelectorChanged",
            "Service default/coredns selects app=new, but ServiceEntry default/udp-default-coredns "
            "selects app=coredns",
        ),
        (
            {"proxy": proxy("10.244.0.20:5353", "10.244.0.21:5353")},
            "TargetPortChanged",
            "now leads to target port 53",
        ),
        (
            {"proxy": proxy(A, FOREIGN), "discovery": Discovery.STATIC},
            "StaleAddresses",
            f"sends port 53 to {A}, {FOREIGN}, but Service coredns has {A}, {B}",
        ),
        (
            {"proxy": proxy(), "discovery": Discovery.ENDPOINTS},
            "StaleAddresses",
            "sends port 53 to nowhere",
        ),
        ({"proxy": proxy(A, B, FOREIGN)}, "ForeignHosts", f"{FOREIGN} is not an endpoint"),
        ({"proxy": proxy()}, "NoHosts", f"cluster {NAME} of {GATEWAY} has no hosts"),
        ({"proxy": proxy(A)}, "HostsMissing", f"sends port 53 to {A}, but Service coredns has"),
        (
            {"proxy": proxy(A, B, sockets=FULL), "options": {"max_sessions": 5}},
            "SessionsFull",
            "has 5 open sessions for port 53, and this exposure allows 5",
        ),
        ({"proxy": proxy(A, B, dropped=7)}, "GatewayOverrun", "the kernel dropped 7 datagrams"),
        (
            {"proxy": proxy(A, B, sockets=SHARED, reached=False)},
            "PortShared",
            "another listener on port 5300, which gets some of the datagrams (0.0.0.0:5300, :::",
        ),
        (
            {"proxy": proxy(A, B, sockets=SHARED[1:], reached=False)},
            "DroppedBeforeGateway",
            "dropped between the network-tool pod and",
        ),
        (
            {"proxy": proxy(A, B, reached=True), "policies": ("default/deny",)},
            "DroppedBehindGateway",
            "NetworkPolicies that select these pods: default/deny",
        ),
        ({"proxy": proxy(A, B, sockets=None)}, "DroppedBehindGateway", "dropped between them"),
    ],
)
def test_why_a_gateway_is_silent(given: dict[str, Any], reason: str, text: str) -> None:
    found = find_cause.why_hop_fails(evidence(**given), HOP, "timeout")
    assert found.reason == reason
    assert text in found.text


def test_dropped_datagrams_are_only_reported_if_everything_else_is_correct() -> None:
    assert find_cause.why_hop_fails(evidence(), HOP, "timeout").reason == "DroppedBehindGateway"
    assert find_cause.host_cause(evidence()) is None
    assert find_cause.front_cause(evidence()) is None
    assert find_cause.missing_cause(evidence()) is None


def test_one_session_fewer_is_not_full() -> None:
    given = evidence(proxy=proxy(A, B, sockets=FULL), options={"max_sessions": 6})
    assert find_cause.why_hop_fails(given, HOP, "timeout").reason == "DroppedBehindGateway"


def test_another_answer_is_explained_by_the_hosts_alone() -> None:
    full: dict[str, Any] = {"proxy": proxy(A, B, sockets=FULL), "options": {"max_sessions": 5}}
    assert find_cause.why_hop_fails(evidence(**full), HOP, "REFUSED").reason == "ErrorAnswer"
    assert find_cause.why_hop_fails(evidence(proxy=proxy(FOREIGN)), HOP, "REFUSED").reason == (
        "ForeignHosts"
    )


@pytest.mark.parametrize(
    ("given", "reason", "text"),
    [
        (
            {"now": service(ports=[udp(54)])},
            "ServicePortGone",
            "no longer has port 53/UDP (its port udp-dns is 54 now)",
        ),
        (
            {"now": service(ports=[udp(54, "other")])},
            "ServicePortGone",
            "(its UDP ports: 54/UDP (other))",
        ),
        ({"now": service(ports=[tcp()])}, "ServicePortGone", "(it has no UDP port)"),
        ({"pods": ()}, "NoPods", "selects app=coredns, and no pod in namespace default has"),
        (
            {"pods": (PodState("coredns-1", False, "ImagePullBackOff"),)},
            "PodsNotReady",
            "Service default/coredns has 1 pod(s), none is ready (coredns-1: ImagePullBackOff)",
        ),
        (
            {"now": service(ports=[udp(target="dns")])},
            "TargetPortMissing",
            "declares a UDP container port named dns",
        ),
        ({}, "NoEndpoints", "has no ready endpoints for 53/UDP"),
        ({"now": service(selector={}), "pods": None}, "NoEndpoints", "no ready endpoint"),
    ],
)
def test_why_there_is_no_pod_to_query(given: dict[str, Any], reason: str, text: str) -> None:
    found = find_cause.why_nothing_to_query(evidence(slices=(), **given), 53)
    assert found.reason == reason
    assert text in found.text


@pytest.mark.parametrize(
    ("pods", "reason", "text"),
    [
        (
            (),
            "GatewayWithoutPods",
            "namespace istio-system has no gateway pod with the labels app=",
        ),
        (
            (PodState("gw-1", False, "CrashLoopBackOff"), PodState("gw-2", False, "Pending")),
            "GatewayNotReady",
            "it has 2 pod(s), none is ready (gw-1: CrashLoopBackOff, gw-2: Pending)",
        ),
    ],
)
def test_why_there_is_no_gateway_pod_to_query(
    pods: tuple[PodState, ...], reason: str, text: str
) -> None:
    found = find_cause.why_nothing_to_query(evidence(gateway_pods=pods), None)
    assert found.reason == reason
    assert text in found.text


@pytest.mark.parametrize(
    ("policies", "remedy"),
    [((), "check the policies of the CNI"), (None, "look for NetworkPolicies: kubectl get")],
)
def test_dropped_datagrams_without_a_known_policy(
    policies: tuple[str, ...] | None, remedy: str
) -> None:
    """None: NetworkPolicies may not be read."""
    given = evidence(proxy(A, B, reached=True), policies=policies)
    assert remedy in find_cause.why_hop_fails(given, HOP, "timeout").remedy


def test_a_service_entry_provides_endpoints_of_a_service_that_is_not_exported() -> None:
    hidden = service(annotations={"networking.istio.io/exportTo": "."})
    found = find_cause.why_hop_fails(evidence(proxy(), now=hidden), HOP, "timeout")
    assert found.reason == "NoHosts"


@pytest.mark.parametrize(
    ("outcome", "policies", "reason", "text"),
    [
        ("unreachable", (), "PortRefused", "no process listens on 53/UDP in the pod"),
        ("timeout", (), "NoAnswer", ""),
        ("timeout", ("default/deny",), "NoAnswer", "select these pods: default/deny"),
        ("SERVFAIL", ("default/deny",), "ErrorAnswer", ""),
        ("unresolved", (), "NameNotResolved", ""),
        ("not read", (), "NotRead", "is overloaded or hangs"),
        ("lost", ("default/deny",), "NotDelivered", "default/deny"),
    ],
)
def test_why_a_pod_fails(outcome: str, policies: tuple[str, ...], reason: str, text: str) -> None:
    found = find_cause.why_hop_fails(evidence(policies=policies), POD_HOP, outcome)
    assert found.reason == reason
    assert text in found.text


def front(**spec: Any) -> dict[str, Any]:
    found = evidence().front or {}
    return {**found, "spec": {**found["spec"], **spec}}


@pytest.mark.parametrize(
    ("given", "reason", "text"),
    [
        ({"front": None}, "FrontServiceMissing", "no Service leads to the gateway"),
        (
            {"front": front(selector={"app": "x"})},
            "FrontServiceSelector",
            "Service istio-system/udp-default-coredns selects app=x, which is not the gateway's",
        ),
        ({"front": front(ports=[])}, "FrontServicePort", "has no port 5300/UDP"),
        (
            {"front": front(ports=[{"port": 5300, "protocol": "UDP", "targetPort": 5301}])},
            "FrontServiceTarget",
            "leads to 5301, not 5300",
        ),
        (
            {"front": front(internalTrafficPolicy="Local")},
            "InternalTrafficPolicy",
            "pods on the client's node",
        ),
        ({}, "ServiceNotProgrammed", "does not forward it"),
    ],
)
def test_why_the_service_in_front_is_silent(given: dict[str, Any], reason: str, text: str) -> None:
    found = find_cause.why_hop_fails(evidence(**given), FRONT_HOP, "timeout")
    assert found.reason == reason
    assert text in found.text


def test_a_patched_service_that_selects_no_pod() -> None:
    given = evidence(options={"gateway_service": GatewayServiceMode.PATCH}, front=front())
    assert find_cause.front_cause(given) is None
    given = replace(given, front=front(selector={"app": "gone"}))
    found = find_cause.front_cause(given)
    assert found is not None and found.reason == "FrontServiceSelector"


@pytest.mark.parametrize("discovery", list(Discovery))
def test_hosts_that_agree_are_no_cause(discovery: Discovery) -> None:
    spec = replace(evidence().spec, discovery=discovery)
    assert find_cause.host_cause(replace(evidence(), spec=spec)) is None


@pytest.mark.parametrize("first", ["10.244.0.7", "fd00::7"])
def test_hosts_are_of_the_family_that_the_gateway_prefers(first: str) -> None:
    """A Service of both families lists each pod twice, and the exposure has the first one."""
    other = "fd00::7" if first == "10.244.0.7" else "10.244.0.7"
    outer = Outer((gateway_pod(ips=(first, other)),))
    both = (*SLICES, endpoint_slice(endpoint("fd00::20"), family="IPv6", suffix="six"))
    slices = tuple(EndpointSlice.from_object(each) for each in both)
    spec, existing = evidence().spec, Existing(Kind.EXPOSURE, "default", "coredns", None, ())
    given = known(existing, spec, Service.from_object(service()), slices, outer, {})
    hosts = (A, B) if first == "10.244.0.7" else ("fd00::20:53",)
    assert find_cause.host_cause(replace(given, proxies={GATEWAY: proxy(*hosts)})) is None


def test_names_that_envoy_resolves_are_not_compared() -> None:
    spec = replace(evidence().spec, discovery=Discovery.DNS)
    given = replace(evidence(proxy=proxy(FOREIGN)), spec=spec)
    assert find_cause.host_cause(given) is None


def balancer(**more: Any) -> dict[str, Any]:
    found = front(type="LoadBalancer", **more)
    return {**found, "metadata": {**found["metadata"], "uid": "u"}}


def test_a_load_balancer_without_an_address_is_a_cause() -> None:
    ports = [{"port": 5300, "protocol": "UDP", "targetPort": 5300, "nodePort": 30123}]
    given = evidence(front=balancer(ports=ports))
    found = no_address(given, lambda manifest: "SyncLoadBalancerFailed: no UDP here")
    assert found is not None
    assert found.reason == "NoAddress"
    assert found.text == (
        "clients outside the cluster cannot reach it: the load balancer of Service "
        "istio-system/udp-default-coredns has no address yet (SyncLoadBalancerFailed: no UDP here)"
    )
    assert found.remedy.endswith("meanwhile clients can use port 30123/UDP of any node")


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        front(type="ClusterIP"),
        front(type="NodePort"),
        balancer(externalIPs=["192.0.2.1"]),
        {**balancer(), "status": {"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}}},
    ],
)
def test_other_services_need_no_address(manifest: dict[str, Any] | None) -> None:
    assert no_address(evidence(front=manifest), lambda _: "asked") is None


@pytest.mark.parametrize(
    ("manifest", "ready", "why"),
    [
        (pod(), True, ""),
        (pod(phase="Pending"), True, ""),
        (gateway_pod(ready=False), False, "not ready"),
        ({"metadata": {"name": "x"}, "status": {"phase": "Pending"}}, False, "Pending"),
        ({"metadata": {"name": "x", "deletionTimestamp": "now"}}, False, "Terminating"),
        (
            {
                "metadata": {"name": "x"},
                "status": {
                    "phase": "Running",
                    "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
                },
            },
            False,
            "CrashLoopBackOff",
        ),
    ],
)
def test_reads_why_a_pod_is_not_ready(manifest: dict[str, Any], ready: bool, why: str) -> None:
    found = PodState.from_object(manifest)
    assert (found.ready, found.why) == (ready, why)


def test_the_controller_changes_the_exposures_that_it_keeps() -> None:
    by_hand, kept = evidence(), evidence(declared=True)
    assert run_again(by_hand) == "run again: kubectl istio-udp expose -n default coredns"
    assert run_again(kept) == (
        "the controller repairs this; see kubectl istio-udp controller status"
    )
    setting = "--max-datagram-size 4096"
    assert run_again(by_hand, setting).endswith(f"expose -n default coredns {setting}")
    assert run_again(kept, setting) == (
        "annotate its Service: kubectl-istio-udp/max-datagram-size=4096"
    )
    assert expose_command(kept, "--expect-rate N") == (
        "annotate its Service: kubectl-istio-udp/expect-rate=N"
    )
