from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.model.errors import NotFound, UsageError
from kubectl_istio_udp.model.gateway import (
    Gateway,
    GatewayPod,
    GatewayRef,
    gateways_from,
    is_gateway_pod,
    selects,
)
from kubectl_istio_udp.plan.gateway import choose_gateway
from tests.support.builders import GATEWAY_LABELS, gateway_pod, gateway_service, pod

EGRESS = {"app": "istio-egressgateway", "istio": "egressgateway"}
API = {"gateway.networking.k8s.io/gateway-name": "edge", "istio": "edge"}
SIDECAR = ["proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local"]


def found(
    *pods: dict[str, Any],
    services: list[dict[str, Any]] | tuple[Any, ...] = (),
    selector: dict[str, Any] | None = None,
) -> tuple[Gateway, ...]:
    return gateways_from(pods, services, selector)


def refs(gateways: tuple[Gateway, ...]) -> list[str]:
    return [str(gateway.ref) for gateway in gateways]


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (gateway_pod(), True),
        (gateway_pod(args=SIDECAR), False),
        (pod("istiod-1", app="istiod", labels={"istio": "pilot"}), False),
        ({"metadata": {"name": "x"}}, False),
        (gateway_pod(args=["proxy", "router"]), True),
    ],
    ids=["gateway", "injected sidecar", "istiod", "nothing", "gateway without a domain"],
)
def test_distinguishes_gateway_pods_from_others(manifest: dict[str, Any], expected: bool) -> None:
    assert is_gateway_pod(manifest) is expected


def test_reads_a_gateway_pod() -> None:
    read = GatewayPod.from_object(gateway_pod(ips=("10.0.0.1", "fd00::1"), first_port=0))
    assert read.ips == ("10.0.0.1", "fd00::1")
    assert read.ready
    assert read.first_bindable == 0
    assert read.domain == "cluster.local"
    assert read.istio == (1, 31)


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("docker.io/istio/proxyv2:1.31.0", (1, 31)),
        ("istio/proxyv2:1.9.1-distroless", (1, 9)),
        ("registry:5000/istio/proxyv2:v1.20-alpha", (1, 20)),
        ("registry:5000/istio/proxyv2", None),
        ("istio/proxyv2:latest", None),
        ("istio/proxyv2@sha256:0123", None),
        ("auto", None),
    ],
)
def test_reads_the_version_from_the_image_tag(image: str, version: tuple[int, ...] | None) -> None:
    assert GatewayPod.from_object(gateway_pod(image=image)).istio == version


@pytest.mark.parametrize(
    ("args", "domain"),
    [
        (["proxy", "router", "--domain", "$(POD_NAMESPACE).svc.corp.example"], "corp.example"),
        (["proxy", "router", "--domain", "odd"], "cluster.local"),
        (["proxy", "router", "--domain"], "cluster.local"),
    ],
)
def test_reads_the_cluster_domain(args: list[str], domain: str) -> None:
    assert GatewayPod.from_object(gateway_pod(args=args)).domain == domain
    assert found(gateway_pod(args=args))[0].domain == domain


@pytest.mark.parametrize("change", ["no condition", "not ready"])
def test_recognizes_a_pod_that_is_not_ready(change: str) -> None:
    manifest = gateway_pod(ready=change != "not ready")
    if change == "no condition":
        manifest["status"] = {"podIP": "10.0.0.1"}
    read = GatewayPod.from_object(manifest)
    assert not read.ready
    assert read.ips
    assert found(manifest)[0].ready_pods == ()


def test_ended_and_terminating_pods_are_ignored() -> None:
    going, evicted, done = gateway_pod("a"), gateway_pod("b"), gateway_pod("c")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    evicted["status"]["phase"], done["status"]["phase"] = "Failed", "Succeeded"
    assert found(going, evicted, done) == ()


def test_a_pod_without_an_address_yet() -> None:
    manifest = gateway_pod()
    del manifest["status"]
    assert GatewayPod.from_object(manifest).ips == ()


def test_pods_of_the_same_labels_are_one_gateway() -> None:
    (gateway,) = found(gateway_pod("b"), gateway_pod("a"), services=[gateway_service()])
    assert gateway.ref == GatewayRef("istio-system", "istio-ingressgateway", GATEWAY_LABELS)
    assert [p.name for p in gateway.pods] == ["a", "b"]
    assert gateway.service_name == "istio-ingressgateway"
    assert not gateway.api


@pytest.mark.parametrize(
    ("namespace", "name", "selector"),
    [("a", "b", {}), ("a", "b", None), (None, "b", {"c": "d"}), ("a", 5, {"c": "d"})],
)
def test_an_empty_selector_is_not_a_gateway(namespace: Any, name: Any, selector: Any) -> None:
    with pytest.raises(ValueError, match="a gateway has a"):
        GatewayRef(namespace, name, selector)


def test_a_gateway_without_labels_is_named_after_its_pod() -> None:
    (gateway,) = found(gateway_pod("edge-1", labels={"role": "edge"}), selector={"role": "edge"})
    assert gateway.ref.name == "edge-1"


def test_pods_with_other_labels_or_namespaces_are_other_gateways() -> None:
    gateways = found(
        gateway_pod("a"), gateway_pod("b", labels=EGRESS), gateway_pod("c", namespace="edge")
    )
    assert refs(gateways) == [
        "edge/istio-ingressgateway",
        "istio-system/istio-egressgateway",
        "istio-system/istio-ingressgateway",
    ]


def test_sidecars_and_istiod_are_ignored() -> None:
    istiod = pod("istiod", namespace="istio-system", app="istiod", labels={"istio": "pilot"})
    injected = gateway_pod("app", labels={"app": "x", "istio": "ingressgateway"}, args=SIDECAR)
    assert found(istiod, injected) == ()


def test_the_gateway_api_names_its_gateway() -> None:
    service = gateway_service("edge-istio", selector=API)
    (gateway,) = found(gateway_pod(labels=API), services=[service])
    assert gateway.api
    assert gateway.ref.name == "edge"
    assert gateway.ref.selector == {"gateway.networking.k8s.io/gateway-name": "edge"}
    assert gateway.service_name == "edge-istio"


def test_a_selector_makes_one_gateway_for_each_namespace() -> None:
    pods = [
        gateway_pod("a", labels={"app": "x", "role": "edge"}),
        gateway_pod("b", labels={"app": "y", "role": "edge"}),
        gateway_pod("c", labels={"app": "z"}),
    ]
    (gateway,) = found(*pods, selector={"role": "edge"})
    assert [p.name for p in gateway.pods] == ["a", "b"]
    assert gateway.ref.selector == {"role": "edge"}
    assert gateway.ref.name == "x"


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({"app": "x", "istio": "y"}, "x"),
        ({"istio": "y"}, "y"),
    ],
)
def test_a_gateway_without_a_service_is_named_after_a_label(
    labels: dict[str, Any], name: str
) -> None:
    assert found(gateway_pod(labels=labels))[0].ref.name == name
    assert found(gateway_pod(labels=labels))[0].service_name is None


def test_the_oldest_service_in_front_is_the_gateways_own() -> None:
    young = gateway_service("a-young")
    young["metadata"]["creationTimestamp"] = "2027-01-01T00:00:00Z"
    ours = gateway_service("a-companion")
    ours["metadata"] |= {"labels": {"app.kubernetes.io/managed-by": "kubectl-istio-udp"}}
    ours["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    elsewhere = gateway_service("a-elsewhere", namespace="edge")
    of_others = gateway_service("a-others", selector=EGRESS)
    without = gateway_service("a-without")
    del without["spec"]["selector"]
    services = [young, ours, elsewhere, of_others, without, gateway_service()]
    assert found(gateway_pod(), services=services)[0].service_name == "istio-ingressgateway"


@pytest.mark.parametrize(
    ("addresses", "families"),
    [
        ([("10.0.0.1",)], ("IPv4",)),
        ([("fd00::1",)], ("IPv6",)),
        ([("10.0.0.1", "fd00::1")], ("IPv4", "IPv6")),
        ([("fd00::1", "10.0.0.1")], ("IPv6", "IPv4")),
        ([("10.0.0.1", "fd00::1"), ("10.0.0.2",)], ("IPv4",)),
        ([("10.0.0.1", "fd00::1"), ()], ("IPv4", "IPv6")),
        ([()], ("IPv4",)),
    ],
)
def test_the_families_that_all_pods_have(addresses: list[Any], families: tuple[str, ...]) -> None:
    pods = [gateway_pod(f"p{i}", ips=ips) for i, ips in enumerate(addresses)]
    assert found(*pods)[0].families == families


def test_the_lowest_value_of_all_pods_counts() -> None:
    pods = [
        gateway_pod("a", first_port=0, image="istio/proxyv2:1.20.0"),
        gateway_pod("b", image="istio/proxyv2:1.9.0"),
        gateway_pod("c", first_port=0, image="odd"),
    ]
    (gateway,) = found(*pods)
    assert gateway.first_bindable == 1024
    assert gateway.istio == (1, 9)


def test_a_gateway_without_pods() -> None:
    empty = Gateway(GatewayRef("edge", "gone", {"app": "x"}))
    assert (empty.first_bindable, empty.domain, empty.istio) == (1024, "cluster.local", None)
    assert empty.families == ("IPv4",)
    assert empty.answers_to("gone") and not empty.answers_to("other")


def test_an_empty_selector_selects_all() -> None:
    assert selects({}, {"a": "b"})
    assert selects({"a": "b"}, {"a": "b", "c": "d"})
    assert not selects({"a": "b"}, {"a": "c"})


INGRESS, OTHER = gateway_pod("i"), gateway_pod("e", labels=EGRESS)
HELM_LABELS = {"app": "istio-ingress", "istio": "ingress"}
HELM = gateway_pod("h", namespace="istio-ingress", labels=HELM_LABELS)
HELM_SERVICE = gateway_service("istio-ingress", namespace="istio-ingress", selector=HELM_LABELS)


@pytest.mark.parametrize(
    ("pods", "name", "chosen"),
    [
        ([INGRESS], None, "istio-system/istio-ingressgateway"),
        ([INGRESS, OTHER], None, "istio-system/istio-ingressgateway"),
        ([HELM], None, "istio-ingress/istio-ingress"),
        ([gateway_pod(labels=API)], None, "istio-system/edge"),
        ([INGRESS, OTHER], "istio-egressgateway", "istio-system/istio-egressgateway"),
        ([INGRESS, OTHER], "egressgateway", "istio-system/istio-egressgateway"),
        ([INGRESS, HELM], "istio-ingress/istio-ingress", "istio-ingress/istio-ingress"),
        ([INGRESS, HELM], "istio-ingress", "istio-ingress/istio-ingress"),
    ],
)
def test_chooses_a_gateway(pods: list[dict[str, Any]], name: str | None, chosen: str) -> None:
    assert str(choose_gateway(found(*pods, services=[HELM_SERVICE]), name).ref) == chosen


def test_a_selector_makes_any_kind_of_gateway_count() -> None:
    gateways = found(OTHER, selector=EGRESS)
    assert choose_gateway(gateways, None, selector_given=True).ref.selector == EGRESS
    with pytest.raises(NotFound):
        choose_gateway(gateways, None)


def test_the_service_name_names_a_gateway_too() -> None:
    service = gateway_service("front", selector=API)
    gateways = found(gateway_pod(labels=API), services=[service])
    assert choose_gateway(gateways, "front").ref.name == "edge"


def test_several_gateways_are_listed() -> None:
    with pytest.raises(UsageError) as caught:
        choose_gateway(found(INGRESS, HELM, services=[HELM_SERVICE]), None)
    assert caught.value.message == (
        "found several gateways: istio-ingress/istio-ingress (pods without a workload), "
        "istio-system/istio-ingressgateway (pods without a workload)"
    )
    assert "--gateway NAMESPACE/NAME" in caught.value.hints[0]
    assert "kubectl label namespace" in caught.value.hints[1]


@pytest.mark.parametrize(
    ("pods", "name", "message", "hint"),
    [
        ([], None, "no Istio ingress gateway", "kubectl get pods -A -l istio"),
        ([], "x", "no gateway named x", "--gateway-selector"),
        (
            [OTHER],
            None,
            "no Istio ingress gateway",
            "that may be a gateway: istio-system/istio-egressgateway",
        ),
        (
            [INGRESS],
            "edge/istio-ingressgateway",
            "no gateway named edge/istio-ingress",
            "istio-system",
        ),
    ],
)
def test_lists_the_existing_gateways_instead(
    pods: list[dict[str, Any]], name: str | None, message: str, hint: str
) -> None:
    with pytest.raises(NotFound, match=message) as caught:
        choose_gateway(found(*pods), name)
    assert hint in caught.value.hints[0]


@pytest.mark.parametrize("kind", ["waypoint", "ztunnel"])
def test_proxies_of_ambient_mode_are_no_gateways(kind: str) -> None:
    assert not is_gateway_pod(gateway_pod(args=["proxy", kind]))


def workload(
    kind: str = "Deployment",
    name: str = "edge",
    namespace: str = "istio-system",
    labels: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A pod of a workload."""
    owner, more_labels = (kind, name), {}
    if kind == "Deployment":
        owner, more_labels = ("ReplicaSet", f"{name}-7d4f"), {"pod-template-hash": "7d4f"}
    labels = {**GATEWAY_LABELS, **(labels or {}), **more_labels}
    return gateway_pod(
        more.pop("pod", f"{name}-1"), namespace=namespace, labels=labels, owner=owner, **more
    )


INSIDE, OUTSIDE = {"type": "inside"}, {"type": "outside"}
TWO_PODS = [workload(name="gw-inside", labels=INSIDE), workload(name="gw-outside", labels=OUTSIDE)]
TWO_SERVICES = [
    gateway_service("gw-inside", selector={**GATEWAY_LABELS, **INSIDE}),
    gateway_service("gw-outside", selector={**GATEWAY_LABELS, **OUTSIDE}),
]
BOTH = gateway_service("both")


def by_name(gateways: tuple[Gateway, ...]) -> dict[str, Any]:
    return {gateway.ref.name: gateway for gateway in gateways}


@pytest.mark.parametrize(
    ("pods", "services", "expected"),
    [
        # Told apart by their Services.
        (TWO_PODS, TWO_SERVICES, {"gw-inside": INSIDE, "gw-outside": OUTSIDE}),
        # By their workloads, where no Service selects them.
        (TWO_PODS, [], {"gw-inside": INSIDE, "gw-outside": OUTSIDE}),
        # A Service in front of both besides.
        (TWO_PODS, [*TWO_SERVICES, BOTH], {"gw-inside": INSIDE, "gw-outside": OUTSIDE}),
        # One of them has a Service of its own, the other shares one with it.
        (TWO_PODS, [TWO_SERVICES[0], BOTH], {"gw-inside": INSIDE, "gw-outside": OUTSIDE}),
        # DaemonSets and StatefulSets are workloads too.
        (
            [
                workload("DaemonSet", "ds", labels=INSIDE),
                workload("StatefulSet", "sts", labels=OUTSIDE),
            ],
            [],
            {"ds": INSIDE, "sts": OUTSIDE},
        ),
    ],
)
def test_gateways_that_share_istios_labels_are_distinguished(
    pods: list[dict[str, Any]], services: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    gateways = by_name(found(*pods, services=services))
    assert set(gateways) == set(expected)
    for name, labels in expected.items():
        assert gateways[name].ref.selector == {**GATEWAY_LABELS, **labels}
        assert len(gateways[name].pods) == 1
        assert not gateways[name].also_selected


def test_a_canary_behind_the_same_service_is_the_same_gateway() -> None:
    pods = [workload(name="edge"), workload(name="edge-canary", labels={"version": "2"})]
    (gateway,) = found(*pods, services=[gateway_service()])
    assert gateway.ref == GatewayRef("istio-system", "istio-ingressgateway", GATEWAY_LABELS)
    assert gateway.owners == ("Deployment edge", "Deployment edge-canary")
    for name in ("edge", "edge-canary", "istio-ingressgateway"):
        assert gateway.answers_to(name)


def test_a_rolling_update_is_one_gateway() -> None:
    old = workload(pod="edge-old")
    old["metadata"]["labels"]["pod-template-hash"] = "5b5b"
    old["metadata"]["ownerReferences"][0]["name"] = "edge-5b5b"
    (gateway,) = found(old, workload(pod="edge-new"))
    assert gateway.owners == ("Deployment edge",)
    assert gateway.ref == GatewayRef("istio-system", "edge", GATEWAY_LABELS)


def test_a_stable_label_is_preferred_to_one_that_changes_with_an_upgrade() -> None:
    pods = [
        workload(name="a", labels={"version": "1", "zone": "a"}),
        workload(name="b", labels={"version": "2", "zone": "b"}),
    ]
    gateways = by_name(found(*pods))
    assert gateways["a"].ref.selector == {**GATEWAY_LABELS, "zone": "a"}


def test_gateways_that_no_label_distinguishes_are_refused() -> None:
    """Every selector of the first gateway's pods also selects the second's."""
    pods = [workload(name="plain"), workload(name="special", labels={"type": "inside"})]
    services = [
        gateway_service("plain"),
        gateway_service("special", selector={**GATEWAY_LABELS, **INSIDE}),
    ]
    gateways = found(*pods, services=services)
    assert choose_gateway(gateways, "special").ref.selector == {**GATEWAY_LABELS, **INSIDE}
    with pytest.raises(UsageError, match=r"plain \(Deployment plain\) from special-1") as caught:
        choose_gateway(gateways, "istio-system/plain")
    assert "give the pods of one gateway a label" in caught.value.hints[0]
    selector = ",".join(f"{k}={v}" for k, v in sorted(GATEWAY_LABELS.items()))
    assert f"--gateway-selector {selector}" in caught.value.hints[1]
    together = found(*pods, services=services, selector=GATEWAY_LABELS)
    assert len(choose_gateway(together, None, selector_given=True).pods) == 2


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("gw-inside", "gw-inside"),
        ("istio-system/gw-outside", "gw-outside"),
        ("ds", "ds"),
        ("istio-system/ds", "ds"),
        (None, "several"),
        ("istio-ingressgateway", "several"),
        ("both", "several"),
        ("nothing", "none"),
    ],
)
def test_finds_a_gateway_by_its_service_or_workload(name: str | None, chosen: str) -> None:
    other = workload("DaemonSet", "ds", labels={"app": "ds", "istio": "ds", "type": "ds"})
    gateways = found(*TWO_PODS, other, services=[*TWO_SERVICES, BOTH])
    if chosen == "several":
        with pytest.raises(UsageError) as caught:
            choose_gateway(gateways, name)
        assert "istio-system/gw-inside (Deployment gw-inside)" in caught.value.message
        assert "istio-system/gw-outside (Deployment gw-outside)" in caught.value.message
        assert not any("gw-" in hint for hint in caught.value.hints)
    elif chosen == "none":
        with pytest.raises(NotFound):
            choose_gateway(gateways, name)
    else:
        assert choose_gateway(gateways, name).ref.name == chosen


POSING = gateway_pod("posing", namespace="atk-c", by_istiod=False)
POSING_SERVICE = gateway_service(namespace="atk-c")


@pytest.mark.parametrize("services", [[], [POSING_SERVICE]])
@pytest.mark.parametrize("name", [None, "istio-ingressgateway", "ingressgateway"])
def test_a_pod_that_poses_as_a_gateway_does_not_count(
    services: list[dict[str, Any]], name: str | None
) -> None:
    """A tenant can give a pod any label and any container name."""
    gateways = found(INGRESS, POSING, services=[gateway_service(), *services])
    assert choose_gateway(gateways, name).ref.namespace == "istio-system"


@pytest.mark.parametrize("by_istiod", [False, True])
def test_a_pod_that_poses_as_the_only_gateway_is_not_chosen(by_istiod: bool) -> None:
    posing = gateway_pod("posing", namespace="atk-c", by_istiod=by_istiod)
    with pytest.raises(NotFound) as caught:
        choose_gateway(found(posing), None)
    assert "atk-c/istio-ingressgateway" in caught.value.hints[0]
    assert "--gateway NAMESPACE/NAME" in caught.value.hints[0]
    assert choose_gateway(found(posing), "atk-c/istio-ingressgateway").ref.namespace == "atk-c"


def test_the_administrator_labels_the_namespaces_of_gateways() -> None:
    gateways = found(INGRESS, HELM, services=[gateway_service(), HELM_SERVICE])
    with pytest.raises(UsageError, match="several gateways"):
        choose_gateway(gateways, None)
    only = choose_gateway(gateways, None, namespaces=["somewhere"])
    assert only.ref.namespace == "istio-system"
    with pytest.raises(UsageError, match="several gateways") as caught:
        choose_gateway(gateways, None, namespaces=["istio-ingress"])
    assert len(caught.value.hints) == 1


@pytest.mark.parametrize(
    ("pod_context", "context", "first"),
    [
        ({}, {}, 1024),
        ({}, {"runAsUser": 0}, 1),
        ({"runAsUser": 0}, {}, 1),
        ({"runAsUser": 0}, {"runAsUser": 1337}, 1024),
        ({}, {"runAsUser": 0, "capabilities": {"drop": ["ALL"]}}, 1024),
        ({}, {"runAsUser": 0, "capabilities": {"drop": ["CAP_NET_BIND_SERVICE"]}}, 1024),
        (
            {},
            {"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
            1,
        ),
        # Linux does not hand an added capability on to another user's process.
        ({}, {"runAsUser": 1337, "capabilities": {"add": ["NET_BIND_SERVICE"]}}, 1024),
        ({}, {"capabilities": {"add": ["NET_BIND_SERVICE"]}}, 1024),
    ],
)
def test_which_ports_a_gateway_may_bind(
    pod_context: dict[str, Any], context: dict[str, Any], first: int
) -> None:
    manifest = gateway_pod()
    manifest["spec"]["securityContext"] = pod_context
    manifest["spec"]["containers"][0]["securityContext"] = context
    assert GatewayPod.from_object(manifest).first_bindable == first


@pytest.mark.parametrize("value", ["", "x", "-1", "1e3", "9" * 30])
def test_a_sysctl_that_is_no_port_is_ignored(value: str) -> None:
    """The API server accepts it, and the kubelet does not start the pod."""
    manifest = gateway_pod(first_port=0)
    manifest["spec"]["securityContext"]["sysctls"][0]["value"] = value
    assert GatewayPod.from_object(manifest).first_bindable == 1024


@pytest.mark.parametrize("text", ["[" * 5000, "5", "x"], ids=["deep", "number", "text"])
def test_a_status_that_cannot_be_read_is_ignored(text: str) -> None:
    """Whoever creates the pod writes it."""
    manifest = gateway_pod(env={"PROXY_CONFIG": text})
    manifest["metadata"].setdefault("annotations", {})["sidecar.istio.io/status"] = text
    assert GatewayPod.from_object(manifest).control_plane.revision == ""


def test_a_gateway_on_its_nodes_network() -> None:
    manifest = gateway_pod()
    manifest["spec"]["hostNetwork"] = True
    assert found(manifest)[0].host_network
    assert not found(gateway_pod())[0].host_network


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (GatewayRef("istio-system", "gw", GATEWAY_LABELS), True),
        (GatewayRef("istio-system", "other", GATEWAY_LABELS), True),
        (GatewayRef("istio-system", "gw", {**GATEWAY_LABELS, **INSIDE}), True),
        (GatewayRef("istio-system", "other", {**GATEWAY_LABELS, **INSIDE}), False),
        (GatewayRef("istio-system", "gw", {"app": "x"}), False),
        (GatewayRef("istio-system", "gw", {"type": "inside"}), False),
        (GatewayRef("edge", "gw", GATEWAY_LABELS), False),
    ],
)
def test_a_gateway_stays_the_same_when_labels_are_added_to_its_selector(
    other: GatewayRef, same: bool
) -> None:
    mine = GatewayRef("istio-system", "gw", GATEWAY_LABELS)
    assert mine.same_pods(other) is same is other.same_pods(mine)


def test_the_named_service_of_a_gateway_is_the_one_in_front() -> None:
    """A gateway may have several Services, for example a public and an internal one."""
    services = [gateway_service("a-internal", type="ClusterIP"), gateway_service("b-public")]
    gateways = found(gateway_pod(), services=services)
    assert choose_gateway(gateways, None).service_name == "a-internal"
    for name in ("b-public", "istio-system/b-public"):
        chosen = choose_gateway(gateways, name)
        assert (chosen.service_name, str(chosen.ref)) == ("b-public", "istio-system/b-public")


@pytest.mark.parametrize(
    ("before", "named", "service"),
    [
        ("b-public", None, "b-public"),
        ("b-public", "istio-ingressgateway", "b-public"),
        ("b-public", "a-internal", "a-internal"),
        ("b-public", "istio-system/a-internal", "a-internal"),
        ("a-internal", "b-public", "b-public"),
        ("deleted", None, "a-internal"),
    ],
)
def test_an_exposure_keeps_the_service_that_it_named(
    before: str, named: str | None, service: str
) -> None:
    services = [gateway_service("a-internal"), gateway_service("b-public")]
    gateways = found(gateway_pod(), services=services)
    ref = GatewayRef("istio-system", before, GATEWAY_LABELS)
    chosen = choose_gateway(gateways, named, before=ref).kept(ref, named)
    assert chosen.service_name == service
    assert chosen.ref.name == ("deleted" if before == "deleted" else service)
    # Also when another gateway has appeared with the same labels, so that this one gets more.
    more = GatewayRef("istio-system", before, {**GATEWAY_LABELS, "type": "inside"})
    assert before == "deleted" or gateways[0].is_at(more)
