from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import Forbidden, NotFound, NotInstalled, UsageError
from kubectl_istio_udp.model.exposure import Discovery
from kubectl_istio_udp.model.gateway import Gateway
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.memory import ProxySize
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.model.usage import Holder, Usage
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state.existing import find_exposure
from kubectl_istio_udp.state.mesh import read_mesh
from kubectl_istio_udp.state.snapshot import read_snapshot, ready_addresses
from tests.support.apiserver import ApiServer, Exec
from tests.support.builders import (
    endpoint,
    endpoint_slice,
    gateway_pod,
    gateway_service,
    on_host,
    plan_of,
    pod,
    service,
)
from tests.support.fakes import Fakes

REQUEST = ExposeRequest("default", "coredns")
OURS = [dict(write.manifest) for write in writes(plan_of(max_sessions=7).exposure)]


def snapshot(
    api: Api,
    request: ExposeRequest = REQUEST,
    choice: GatewayChoice | None = None,
    need_proxy: bool = False,
) -> Snapshot:
    existing = find_exposure(api, request.namespace, request.exposure_name)
    return read_snapshot(api, request, choice or GatewayChoice(), existing, need_proxy=need_proxy)


def find_gateway(api: Api, choice: GatewayChoice) -> Gateway:
    return snapshot(api, choice=choice).gateway


def mesh(text: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"mesh": text},
        "metadata": {"name": "istio", "namespace": "istio-system"},
    }  # fmt: skip


def foreign(
    namespace: str = "istio-system", name: str = "other", labels: dict[str, Any] | None = None
) -> dict[str, Any]:
    value = {
        "name": "theirs",
        "address": {"socket_address": {"protocol": "UDP", "port_value": 5300}},
    }
    patch = {"applyTo": "LISTENER", "patch": {"operation": "ADD", "value": value}}
    spec: dict[str, Any] = {"configPatches": [patch]}
    if labels:
        spec["workloadSelector"] = {"labels": labels}
    return {
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    }  # fmt: skip


def test_reads_everything_that_a_decision_needs(api: Api, fakes: Fakes) -> None:
    fakes.bound = [("udp_0.0.0.0_8443", 8443)]
    found = snapshot(api)
    assert str(found.service) == "default/coredns"
    assert found.service.query == "foo.bar.com"
    assert [pod.name for pod in found.pods] == ["coredns-1", "coredns-2"]
    assert [len(piece.endpoints) for piece in found.slices] == [2]
    assert str(found.gateway.ref) == "istio-system/istio-ingressgateway"
    assert (found.footprints, found.objects, found.exposures) == ((), (), ())
    assert [b.port for b in found.bound or ()] == [8443]
    assert found.file_limit == 1_048_576
    assert found.size == ProxySize(workers=2, clusters=20)
    assert found.others == Usage()


def test_writes_nothing(api: Api, server: ApiServer, fakes: Fakes) -> None:
    snapshot(api, need_proxy=True)
    assert server.writes() == []


def test_reads_the_objects_of_the_exposure(api: Api, server: ApiServer, fakes: Fakes) -> None:
    server.put(*OURS)
    found = snapshot(api)
    assert {o["kind"] for o in found.objects} == {"EnvoyFilter", "ServiceEntry", "Service"}
    assert [spec.key for spec in found.exposures] == [("default", "coredns")]
    assert found.exposures[0].options.max_sessions == 7
    assert found.others == Usage()


def test_counts_the_sessions_of_other_exposures(api: Api, server: ApiServer, fakes: Fakes) -> None:
    server.put(*OURS)
    other = dataclasses.replace(REQUEST, name="other")
    assert snapshot(api, other).others == Usage((Holder(("default", "coredns"), 1, 7),), 1, 7)


def test_an_exposure_that_cannot_be_read_is_left_out(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    broken = dict(OURS[1])
    broken["metadata"] = {
        **broken["metadata"], "annotations": {"kubectl-istio-udp/spec": "{"}
    }  # fmt: skip
    server.put(broken)
    found = snapshot(api)
    assert found.exposures == ()
    assert [o["kind"] for o in found.objects] == ["EnvoyFilter"]


@pytest.mark.parametrize(
    ("filters", "root", "owners"),
    [
        ([foreign()], None, ["istio-system/other"]),
        ([foreign(labels={"istio": "egressgateway"})], None, []),
        ([foreign("default")], None, []),
        ([foreign("root")], "rootNamespace: root", ["root/other"]),
        ([foreign("root")], "{}", []),
        # Any namespace may be the root namespace then.
        ([foreign("root")], "[unclosed", ["root/other"]),
    ],
)
def test_reads_the_envoy_filters_that_apply_to_the_gateway(
    api: Api,
    server: ApiServer,
    fakes: Fakes,
    filters: list[dict[str, Any]],
    root: str | None,
    owners: list[str],
) -> None:
    server.put(*filters, *([mesh(root)] if root else []))
    assert [c.owner for c in snapshot(api).footprints] == owners


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "istio-system"),
        ("", "istio-system"),
        ("rootNamespace: mesh", "mesh"),
        ("rootNamespace: ''", "istio-system"),
    ],
)
def test_the_root_namespace(api: Api, server: ApiServer, text: str | None, expected: str) -> None:
    if text is not None:
        server.put(mesh(text))
    assert read_mesh(api).root_namespace == expected


def test_a_mesh_config_that_may_not_be_read_is_assumed_to_be_the_default(
    api: Api, server: ApiServer
) -> None:
    server.fail("GET", "/configmaps/", 403)
    assert read_mesh(api).root_namespace == "istio-system"


EDGE = {"gateway.networking.k8s.io/gateway-name": "edge"}


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (GatewayChoice("edge"), "edge/edge"),
        (GatewayChoice("edge/edge"), "edge/edge"),
        (GatewayChoice("istio-ingressgateway"), "istio-system/istio-ingressgateway"),
        (GatewayChoice(selector=tuple(EDGE.items())), "edge/edge"),
    ],
)
def test_finds_the_chosen_gateway(
    api: Api, server: ApiServer, fakes: Fakes, choice: GatewayChoice, chosen: str
) -> None:
    server.put(
        gateway_pod("edge-1", namespace="edge", labels=EDGE),
        gateway_service("edge-istio", namespace="edge", selector=EDGE),
    )
    assert str(find_gateway(api, choice).ref) == chosen
    with pytest.raises(UsageError, match="several gateways"):
        find_gateway(api, GatewayChoice())


@pytest.mark.parametrize("name", ["", "edge/", "/edge", "Edge", "a b", "../edge"])
def test_an_invalid_name_of_a_gateway(name: str) -> None:
    with pytest.raises(UsageError, match=r"--gateway .* is not a valid Kubernetes name"):
        GatewayChoice(name)


def test_a_gateway_with_more_than_a_namespace_and_a_name() -> None:
    with pytest.raises(UsageError, match="--gateway 'a/b/c' is neither NAME nor NAMESPACE/NAME"):
        GatewayChoice("a/b/c")


def test_only_a_named_namespace_is_searched(api: Api, server: ApiServer, fakes: Fakes) -> None:
    server.put(pod("coredns-1"), pod("coredns-2"))
    server.put(endpoint_slice(endpoint("10.244.0.20", pod="coredns-1")))
    find_gateway(api, GatewayChoice("istio-system/istio-ingressgateway"))
    paths = {request.path for request in server.requests if request.path.endswith("/pods")}
    assert paths == {"/api/v1/namespaces/istio-system/pods", "/api/v1/namespaces/default/pods"}


def test_without_access_to_all_namespaces_the_hint_is_to_name_the_gateway(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.fail("GET", "^/api/v1/pods", 403)
    with pytest.raises(Forbidden) as caught:
        find_gateway(api, GatewayChoice())
    assert caught.value.hints[-1] == "or name the gateway: --gateway NAMESPACE/NAME"
    assert find_gateway(api, GatewayChoice("istio-system/istio-ingressgateway")).pods


def test_without_access_to_all_namespaces_the_exposure_at_the_gateway_is_found(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.put(*OURS)
    everywhere = snapshot(api).exposures
    server.fail("GET", "^/apis/networking.istio.io/v1alpha3/envoyfilters", 403)
    assert snapshot(api).exposures == everywhere != ()
    other = dataclasses.replace(REQUEST, name="other")
    assert snapshot(api, other).exposures == ()


def test_reports_a_missing_service(api: Api, fakes: Fakes) -> None:
    with pytest.raises(NotFound, match="service x not found in namespace default"):
        snapshot(api, ExposeRequest("default", "x"))


def test_reports_a_cluster_without_istio(api: Api, server: ApiServer, fakes: Fakes) -> None:
    server.installed -= {"EnvoyFilter", "ServiceEntry"}
    with pytest.raises(NotInstalled, match="Istio's CRDs are not installed"):
        snapshot(api)


def test_missing_permission_to_query_envoy_is_reported_if_needed(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.fail("GET", "/(exec|portforward)", 403)
    found = snapshot(api)
    assert found.bound is None and found.file_limit is None
    with pytest.raises(Forbidden) as caught:
        snapshot(api, need_proxy=True)
    assert "--no-wait" in caught.value.hints[-1]


def test_port_forward_without_exec_reads_all_but_the_file_limit(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.fail("GET", "/exec", 403)
    found = snapshot(api, need_proxy=True)
    assert found.bound is not None and found.size is not None
    assert found.file_limit is None


def test_a_gateway_without_a_ready_pod_is_not_queried(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    server.put(gateway_pod(ready=False))
    found = snapshot(api, need_proxy=True)
    assert found.bound is None and found.file_limit is None
    assert fakes.commands == []


def test_an_image_without_a_shell(api: Api, fakes: Fakes) -> None:
    fakes.file_limit = ""
    assert snapshot(api, need_proxy=True).file_limit is None


def test_a_service_without_selector_has_no_pods(api: Api, server: ApiServer, fakes: Fakes) -> None:
    bare = service("bare")
    del bare["spec"]["selector"]
    server.put(bare)
    assert snapshot(api, ExposeRequest("default", "bare")).pods == ()


@pytest.mark.parametrize(
    ("discovery", "expected"),
    [
        (Discovery.SELECTOR, {"10.0.0.9:53"}),
        (Discovery.ENDPOINTS, {"10.244.0.20:53", "10.244.0.21:53"}),
        (Discovery.STATIC, {"10.244.0.20:53", "10.244.0.21:53"}),
    ],
)
def test_workload_entries_are_read_again(
    api: Api, server: ApiServer, discovery: Discovery, expected: set[str]
) -> None:
    exposure = plan_of(discovery=discovery).exposure
    server.put(endpoint_slice(endpoint("10.0.0.9"), endpoint("10.0.0.8", ready=False)))
    assert ready_addresses(api, exposure) == {"udp-default-coredns-53": expected}


def test_reports_a_missing_namespace(api: Api, server: ApiServer, fakes: Fakes) -> None:
    with pytest.raises(NotFound, match="namespace nowhere not found"):
        snapshot(api, ExposeRequest("nowhere", "x"))
    server.fail("GET", "^/api/v1/namespaces/[a-z]+$", 403)
    with pytest.raises(NotFound, match="service x not found in namespace nowhere"):
        snapshot(api, ExposeRequest("nowhere", "x"))


def live(name: str, port: int, protocol: str = "UDP") -> dict[str, Any]:
    """A listener of the gateway's Envoy that no EnvoyFilter here adds."""
    socket = {"address": "0.0.0.0", "port_value": port}
    return {
        "name": name,
        "address": {
            "socket_address": {**socket, **({"protocol": "UDP"} if protocol == "UDP" else {})}
        },
    }


def test_the_configuration_shows_the_protocol_of_an_active_listener(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    """Its name proves nothing if neither istiod nor a known EnvoyFilter created it."""
    fakes.live = [
        live("a.b|c", 5300),
        live("other", 5301, "TCP"),
        live("0.0.0.0_8080", 8080, "TCP"),
    ]
    found = {b.name: b.protocol for b in snapshot(api, need_proxy=True).bound or ()}
    assert found == {"a.b|c": "UDP", "other": "TCP", "0.0.0.0_8080": "TCP"}


def test_an_envoy_that_does_not_answer_still_has_a_file_limit(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    def silent(namespace: str, pod: str, container: str, command: list[str]) -> Exec:
        if command[0] == "pilot-agent":
            return Exec(stderr="connection refused", code=1)
        return fakes.run(namespace, pod, container, command)

    server.run = silent
    found = snapshot(api)
    assert (found.bound, found.size, found.file_limit) == (None, None, 1_048_576)


@pytest.mark.parametrize("selector", [None, {"app": "coredns"}])
def test_addresses_of_other_namespaces_pods_and_of_nodes_are_found(
    api: Api, server: ApiServer, fakes: Fakes, selector: Any
) -> None:
    """Whatever the EndpointSlice says about the pod."""
    theirs, node = pod("dns", namespace="lab"), on_host("10.0.0.5", "proxy")
    node["metadata"]["namespace"] = "kube-system"
    theirs["status"]["podIPs"] = [{"ip": "10.244.9.9"}, {"ip": "fd00::9"}]
    mine = pod("hand-made")
    mine["status"]["podIPs"] = [{"ip": "10.244.0.20"}]
    by_hand = [
        endpoint("10.244.9.9", pod="coredns-1"),
        endpoint("10.0.0.5"),
        endpoint("10.244.0.20"),
        endpoint("203.0.113.9"),
    ]
    six = endpoint_slice(endpoint("FD00:0::9"), family="IPv6", suffix="six")
    server.put(service(selector=selector), theirs, node, mine, endpoint_slice(*by_hand), six)
    assert snapshot(api).others_addresses == (
        ("10.0.0.5", "the node of pod kube-system/proxy"),
        ("10.244.9.9", "pod lab/dns"),
        ("fd00::9", "pod lab/dns"),
    )


def test_all_pods_are_only_listed_if_an_endpoint_is_not_a_pod_of_the_service(
    api: Api, server: ApiServer, fakes: Fakes
) -> None:
    selected = pod("coredns-1")
    selected["status"]["podIPs"] = [{"ip": "10.244.0.20"}]
    server.put(selected, endpoint_slice(endpoint("10.244.0.20", pod="coredns-1")))
    assert snapshot(api).others_addresses == ()
    assert not [r for r in server.requests if r.path == "/api/v1/pods" and not r.query]
    server.put(endpoint_slice(endpoint("203.0.113.9")))
    server.fail("GET", "^/api/v1/pods$", 403)
    assert snapshot(api).others_addresses == ()
