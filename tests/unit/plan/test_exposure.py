from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.model.endpointrules import EndpointRules
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.ports import ExposedPort, parse_port_requests
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.plan.exposure import Plan
from tests.support.builders import (
    cluster,
    endpoint,
    endpoint_slice,
    gateway_pod,
    on_host,
    plan_of,
    pod,
    service,
    tcp,
    udp,
)

NAMED = service(ports=[udp(53, target="dns")])


def declaring(name: str, number: int) -> dict[str, Any]:
    ports = [{"name": "dns", "containerPort": number, "protocol": "UDP"}]
    return pod(name, containers=[{"name": "coredns", "ports": ports}])


def at(address: str, number: int, suffix: str) -> dict[str, Any]:
    ports = [{"name": "udp-dns", "port": number, "protocol": "UDP"}]
    return endpoint_slice(endpoint(address), ports=ports, suffix=suffix)


def ports_of(plan: Plan) -> tuple[ExposedPort, ...]:
    return plan.exposure.spec.ports


def test_the_usual_case_follows_the_selector() -> None:
    plan = plan_of(ports=parse_port_requests(["5300:53"]))
    spec = plan.exposure.spec
    assert plan.reason is None
    assert spec.discovery is Discovery.SELECTOR
    assert spec.ports == (ExposedPort.of(5300, 5300, 53, "udp-dns", 53),)
    assert str(spec.gateway) == "istio-system/istio-ingressgateway"
    assert plan.exposure.selector == {"app": "coredns"}
    assert [e.address for e in plan.exposure.endpoints[None, 53]] == ["10.244.0.20", "10.244.0.21"]


def test_an_exposure_is_named_after_its_service_unless_named() -> None:
    assert ExposeRequest("default", "coredns").exposure_name == "coredns"
    assert plan_of(name="edge-dns").exposure.spec.name == "edge-dns"
    assert plan_of(name="edge-dns").exposure.spec.service == "coredns"


SEVERAL = service(ports=[udp(53, "a"), tcp(80), udp(54, "b"), udp(55, "c")])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], ["10053:53", "10054:54", "10055:55"]),
        (["5300:54"], ["5300:54"]),
        (["5300:b"], ["5300:54"]),
        (["5300:c", "5301:a"], ["5300:55", "5301:53"]),
        (["5300:53", "5301:53"], ["5300:53", "5301:53"]),
        (["54"], ["10054:54"]),
    ],
)
def test_pairs_gateway_ports_with_udp_ports(texts: list[str], expected: list[str]) -> None:
    plan = plan_of(cluster(service=SEVERAL), ports=parse_port_requests(texts))
    assert [f"{p.listener_port}:{p.service_port}" for p in ports_of(plan)] == expected


def test_the_only_udp_port_need_not_be_named() -> None:
    plan = plan_of(
        cluster(service=service(ports=[tcp(80), udp()])), ports=parse_port_requests(["7"])
    )
    assert [p.service_port for p in ports_of(plan)] == [53]


@pytest.mark.parametrize(
    ("ports", "texts", "message", "hint"),
    [
        (
            [tcp(80)],
            [],
            r"has no UDP port \(its ports: 80/TCP \(tcp-dns\)\)",
            "kubectl get service",
        ),
        ([], [], r"has no UDP port \(its ports: none\)", "-n default coredns"),
        (None, ["5300:54"], "has no UDP port 54", "its UDP ports: 53/UDP (udp-dns)"),
        (None, ["5300:tcp"], "has no UDP port tcp", "its UDP ports: 53/UDP (udp-dns)"),
        (
            [udp(53, "a"), udp(54, "b")],
            ["5300"],
            "-p 5300 is ambiguous: Service",
            "its UDP ports: 53/UDP (a), 54/UDP (b); write -p 5300:53",
        ),
        ([udp(53), tcp(80)], ["5300:80"], "has no UDP port 80", "53/UDP"),
    ],
)
def test_refuses_missing_ports_and_lists_the_existing_ones(
    ports: list[dict[str, Any]] | None, texts: list[str], message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        plan_of(cluster(service=service(ports=ports)), ports=parse_port_requests(texts))
    assert hint in caught.value.hints[0]


def selectorless() -> dict[str, Any]:
    manifest = service()
    del manifest["spec"]["selector"]
    return manifest


DIFFERENT = {
    "service": NAMED,
    "slices": [at("10.0.0.1", 53, "a"), at("10.0.0.2", 5353, "b")],
    "pods": [declaring("a", 53), declaring("b", 5353)],
}
AMBIENT = [pod(), pod("coredns-2", labels={"ambient.istio.io/redirection": "enabled"})]
OBSTACLES = [
    ({"service": selectorless()}, "the Service has no selector"),
    (
        {"service": service(publishNotReadyAddresses=True)},
        "the Service publishes unready addresses (publishNotReadyAddresses)",
    ),
    (DIFFERENT, "target port dns is not the same in every pod (53, 5353)"),
    ({"pods": AMBIENT}, "pod coredns-2 is in ambient mode"),
]


@pytest.mark.parametrize(("parts", "reason"), OBSTACLES)
def test_lists_endpoints_if_a_selector_cannot_describe_them(
    parts: dict[str, Any], reason: str
) -> None:
    plan = plan_of(cluster(**parts))
    assert plan.exposure.spec.discovery is Discovery.ENDPOINTS
    assert plan.reason == reason


@pytest.mark.parametrize(("parts", "reason"), OBSTACLES)
def test_refuses_a_selector_that_cannot_describe_the_endpoints(
    parts: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plan_of(cluster(**parts), discovery=Discovery.SELECTOR)
    assert (
        caught.value.message
        == f"--discovery selector does not work for Service default/coredns: {reason}"
    )
    assert "--discovery endpoints" in caught.value.hints[0]


@pytest.mark.parametrize("asked", [Discovery.ENDPOINTS, Discovery.STATIC])
def test_uses_the_requested_discovery(asked: Discovery) -> None:
    plan = plan_of(discovery=asked)
    assert plan.exposure.spec.discovery is asked
    assert plan.reason == "as set for this exposure"


def test_a_requested_selector_needs_no_reason() -> None:
    assert plan_of(discovery=Discovery.SELECTOR).reason is None


def test_a_headless_service_follows_its_selector() -> None:
    plan = plan_of(cluster(service=service(clusterIP="None")))
    assert plan.exposure.spec.discovery is Discovery.SELECTOR


EXTERNAL = service(type="ExternalName", externalName="dns.example.com")


def test_an_external_name_is_resolved_by_the_gateway() -> None:
    plan = plan_of(cluster(service=EXTERNAL, slices=[], pods=[]))
    assert plan.exposure.spec.discovery is Discovery.DNS
    assert plan.exposure.external_name == "dns.example.com"
    assert plan.reason == "the Service is the DNS name dns.example.com"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("127.0.0.1", "a loopback address"),
        ("169.254.169.254", "a link-local address"),
        ("169.254.169.254.", "a link-local address"),
        ("239.1.2.3", "a multicast address"),
        ("10.96.0.1", "an address of the API server"),
        ("localhost", "a loopback name"),
        ("a.localhost.", "a loopback name"),
        ("kubernetes.default", "the name of the API server"),
        ("kubernetes.default.svc.cluster.local", "the name of the API server"),
        ("metadata.google.internal", "the name of a cloud's metadata service"),
    ],
)
def test_an_external_name_leads_to_no_special_address(name: str, reason: str) -> None:
    external = cluster(service=service(type="ExternalName", externalName=name), slices=[], pods=[])
    with pytest.raises(UsageError, match=f"does not send to {name}.*: it is {reason}"):
        plan_of(external, facts={"rules": EndpointRules(frozenset({"10.96.0.1"}))})


@pytest.mark.parametrize(
    "name", ["10.0.0.1", "kubernetes.example", "localhost.example", "default.kubernetes.svc"]
)
def test_other_external_names_may_be(name: str) -> None:
    external = cluster(service=service(type="ExternalName", externalName=name), slices=[], pods=[])
    assert plan_of(external).exposure.external_name == name


@pytest.mark.parametrize(
    ("discovery", "found"), [(Discovery.SELECTOR, ["10.200.0.2"]), (Discovery.ENDPOINTS, [])]
)
def test_istiod_follows_pods_on_the_network_of_the_api_servers_node(
    discovery: Discovery, found: list[str]
) -> None:
    """They have the API server's address, which is never listed."""
    slices = [endpoint_slice(endpoint("10.200.0.2", "coredns-1"))]
    plan = plan_of(
        cluster(slices=slices, pods=[on_host("10.200.0.2")]),
        discovery=discovery,
        facts={"rules": EndpointRules(frozenset({"10.200.0.2"}))},
    )
    assert [e.address for e in plan.exposure.endpoints[None, 53]] == found


@pytest.mark.parametrize("asked", [Discovery.SELECTOR, Discovery.ENDPOINTS, Discovery.STATIC])
def test_an_external_name_allows_no_other_discovery(asked: Discovery) -> None:
    with pytest.raises(
        UsageError, match=f"--discovery {asked.value} does not work for ExternalName"
    ):
        plan_of(cluster(service=EXTERNAL), discovery=asked)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"slices": [at("10.0.0.1", 1053, "a")], "pods": []}, 1053),
        ({"slices": [], "pods": [declaring("a", 1053)]}, 1053),
        ({"slices": [at("10.0.0.1", 1053, "a")], "pods": [declaring("a", 1053), pod("b")]}, 1053),
        (DIFFERENT, None),
    ],
)
def test_a_named_target_port_is_looked_up_at_the_pods(
    parts: dict[str, Any], expected: int | None
) -> None:
    plan = plan_of(cluster(**{**parts, "service": NAMED}))
    assert ports_of(plan)[0].backends[0].target_port == expected


def test_a_named_target_port_that_no_pod_declares_is_refused() -> None:
    with pytest.raises(
        UsageError, match="port 'dns' of Service default/coredns cannot be resolved"
    ) as caught:
        plan_of(cluster(service=NAMED, slices=[], pods=[pod()]))
    # A pod runs already, so the advice to start one has to say which.
    assert "a containerPort of this name and protocol UDP" in caught.value.hints[0]


def test_listed_endpoints_need_no_declared_port() -> None:
    plan = plan_of(cluster(service=NAMED, slices=[], pods=[]), discovery=Discovery.ENDPOINTS)
    assert ports_of(plan)[0].backends[0].target_port is None


TWIN = service(ports=[udp(53), tcp(53)])


def test_uses_the_endpoints_of_a_tcp_twin() -> None:
    args = ["proxy", "router", "--domain", "$(POD_NAMESPACE).svc.corp.example"]
    plan = plan_of(cluster(service=TWIN, gateways=[gateway_pod(args=args)]))
    port = ports_of(plan)[0]
    assert port.eds_service == "outbound|53||coredns.default.svc.corp.example"
    assert plan.exposure.spec.eds_service(port.backends[0]) == port.eds_service


def test_a_twin_is_not_used_if_endpoints_are_listed() -> None:
    plan = plan_of(cluster(service=TWIN), discovery=Discovery.ENDPOINTS)
    assert ports_of(plan)[0].eds_service is None
    (entry,) = plan.exposure.spec.entries
    assert (
        plan.exposure.spec.eds_service(ports_of(plan)[0].backends[0])
        == f"outbound|53||{entry.host}"
    )


def test_more_ports_than_a_spec_can_hold_are_refused() -> None:
    """What is written must be readable again."""

    def of(count: int) -> ExposureSpec:
        numbers = range(20_000, 20_000 + count)
        twins = [make(n, f"{n}-{'x' * 57}") for n in numbers for make in (udp, tcp)]
        args = ["proxy", "router", "--domain", f"$(POD_NAMESPACE).svc.{'a' * 50}.example"]
        found = cluster(service=service(ports=twins), gateways=[gateway_pod(args=args)])
        return plan_of(found).exposure.spec

    assert ExposureSpec.from_json(of(400).to_json()) == of(400)
    with pytest.raises(
        UsageError, match=r"the settings of 500 ports take 1[0-9]{5} bytes"
    ) as caught:
        of(500)
    assert "--name NAME -p FIRST-LAST" in caught.value.hints[0]


def test_privileged_ports_are_translated() -> None:
    assert [(p.gateway_port, p.listener_port) for p in ports_of(plan_of())] == [(53, 10053)]


def test_privileged_ports_are_bound_if_the_gateway_may() -> None:
    plan = plan_of(cluster(gateways=[gateway_pod(first_port=0)]))
    assert ports_of(plan)[0].listener_port == 53


def test_without_a_service_in_front_no_port_is_translated() -> None:
    with pytest.raises(UsageError, match="may not bind port 53") as caught:
        plan_of(gateway_service=GatewayServiceMode.NONE)
    assert "use a higher port" in caught.value.hints[0]


def test_two_ports_may_not_share_a_listener_port() -> None:
    with pytest.raises(UsageError, match="would both bind 10053/UDP"):
        plan_of(ports=parse_port_requests(["53", "10053"]))


def test_an_ipv6_gateway_uses_the_ipv6_endpoints() -> None:
    slices = [
        endpoint_slice(endpoint("10.244.0.20")),
        endpoint_slice(endpoint("fd00::20"), family="IPv6", suffix="v6"),
    ]
    plan = plan_of(cluster(slices=slices, gateways=[gateway_pod(ips=("fd00::7",))]))
    assert plan.exposure.families == ("IPv6",)
    assert [e.address for e in plan.exposure.endpoints[None, 53]] == ["fd00::20"]


def test_pods_that_declare_a_port_differently_are_an_obstacle() -> None:
    """One of them has no address yet: with a selector its port would be guessed."""

    def declaring(name: str, number: int) -> dict[str, Any]:
        ports = [{"name": "dns", "containerPort": number, "protocol": "UDP"}]
        return pod(name, containers=[{"name": "coredns", "ports": ports}])

    plan = plan_of(
        cluster(
            service=service(ports=[udp(53, target="dns")]),
            pods=[declaring("a", 53), declaring("b", 5353)],
            slices=[endpoint_slice(endpoint("10.0.0.1", "a"))],
        )
    )
    assert plan.exposure.spec.discovery is Discovery.ENDPOINTS


IPV6_ONLY = [endpoint_slice(endpoint("fd00::20", "coredns-1"), family="IPv6")]


def test_a_service_of_another_family_than_its_pods_primary_one_is_listed() -> None:
    """istiod would take the pods' IPv4 addresses for a selector."""
    gateway = gateway_pod(ips=("10.244.0.10", "fd00::10"))
    plan = plan_of(cluster(slices=IPV6_ONLY, gateways=[gateway]))
    assert plan.exposure.spec.discovery is Discovery.ENDPOINTS
    assert "that is not its primary one" in (plan.reason or "")
    assert [e.address for e in plan.exposure.endpoints[None, 53]] == ["fd00::20"]


def test_an_ipv4_gateway_cannot_expose_an_ipv6_service() -> None:
    with pytest.raises(UsageError, match="has only IPv6 addresses, but the pods of gateway"):
        plan_of(cluster(slices=IPV6_ONLY, gateways=[gateway_pod(ips=("10.244.0.10",))]))


def test_an_ipv6_gateway_cannot_expose_an_ipv4_service() -> None:
    with pytest.raises(UsageError, match="has only IPv4 addresses"):
        plan_of(cluster(gateways=[gateway_pod(ips=("fd00::10",))]))
