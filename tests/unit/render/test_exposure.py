from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.model.envoyfilter import revisions
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    Exposure,
    GatewayServiceMode,
    LoadBalancing,
)
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.render.envoyfilter import envoy_filter
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.render.gatewayservice import companion_service, gateway_service_patch
from kubectl_istio_udp.render.samples import one_run_tool, samples
from kubectl_istio_udp.render.serviceentry import service_entries
from tests.support.builders import (
    cluster,
    endpoint,
    endpoint_slice,
    gateway_pod,
    gateway_service,
    plan_of,
    service,
    tcp,
    udp,
)

SEED = Path(__file__).parents[1] / "golden" / "seed-udp-listener.yaml"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """Every leaf of a manifest by its path; patches are distinguished by what they add."""
    if isinstance(value, dict) and value:
        return {k: v for key in value for k, v in leaves(value[key], (*path, key)).items()}
    if isinstance(value, list) and value:
        found: dict[tuple[Any, ...], Any] = {}
        for index, item in enumerate(value):
            name = item.get("applyTo") if isinstance(item, dict) else None
            found |= leaves(item, (*path, name or index))
        return found
    return {path: value}


def short(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))


def static_exposure() -> Exposure:
    """The seed's situation: its gateway and its Service with the one pod that it hard-codes."""
    labels = {"istio": "ingressgateway"}
    objects = cluster(
        slices=[endpoint_slice(endpoint("10.244.0.20", "coredns-1"))],
        gateways=[gateway_pod(labels=labels)],
        gateway_service=gateway_service(selector=labels),
    )
    requests = parse_port_requests(["5300:53"])
    return plan_of(objects, ports=requests, discovery=Discovery.STATIC).exposure


def test_static_rendering_is_the_seed_with_safe_settings() -> None:
    """The EnvoyFilter differs from the seed's only in names, and adds only what is listed."""
    theirs = leaves(yaml.safe_load(SEED.read_text(encoding="utf-8")))
    ours = leaves(envoy_filter(static_exposure()))
    # The seed's names, and the ones used now, which are unique at the gateway.
    names = {
        "udp-listener": "udp-default-coredns",
        "udp_listener": "udp-default-coredns-5300",
        "coredns": "udp-default-coredns-5300",
    }
    missing = {
        short(path): value
        for path, value in theirs.items()
        if ours.get(path) != names.get(value, value)
    }
    renamed = {
        short(path): value for path, value in theirs.items() if ours.get(path) not in (None, value)
    }
    patches = "spec/configPatches"
    proxy = f"{patches}/LISTENER/patch/value/listener_filters/0/typed_config"
    assert missing == {}
    assert renamed == {
        "metadata/name": "udp-listener",
        f"{patches}/LISTENER/patch/value/name": "udp_listener",
        f"{proxy}/stat_prefix": "coredns",
        f"{proxy}/matcher/on_no_match/action/typed_config/cluster": "coredns",
        f"{patches}/CLUSTER/patch/value/name": "coredns",
        f"{patches}/CLUSTER/patch/value/load_assignment/cluster_name": "coredns",
    }
    marks = "patch/value/metadata/filter_metadata/kubectl-istio-udp"
    options = f"{patches}/LISTENER/patch/value/socket_options"
    assert {short(path) for path in ours.keys() - theirs.keys()} == {
        # The marks that show which exposure it belongs to.
        "metadata/labels/app.kubernetes.io/managed-by",
        "metadata/labels/kubectl-istio-udp/exposure",
        "metadata/labels/kubectl-istio-udp/namespace",
        "metadata/annotations/kubectl-istio-udp/spec",
        f"{patches}/LISTENER/{marks}/exposure",
        f"{patches}/LISTENER/{marks}/revision",
        f"{patches}/CLUSTER/{marks}/exposure",
        f"{patches}/CLUSTER/{marks}/revision",
        # Limits.
        f"{patches}/CLUSTER/patch/value/circuit_breakers/thresholds/0/max_connections",
        f"{proxy}/idle_timeout",
        f"{proxy}/upstream_socket_config/max_rx_datagram_size",
        # Room for bursts, and for answers longer than one packet.
        *(
            f"{options}/{index}/{part}"
            for index in (0, 1)
            for part in ("description", "level", "name", "int_value", "state")
        ),
    }


def test_the_limits_are_those_of_the_options() -> None:
    exposure = static_exposure()
    found = {short(path): value for path, value in leaves(envoy_filter(exposure)).items()}
    patches, options = "spec/configPatches", exposure.spec.options
    proxy = f"{patches}/LISTENER/patch/value/listener_filters/0/typed_config"
    breaker = f"{patches}/CLUSTER/patch/value/circuit_breakers/thresholds/0/max_connections"
    assert found[breaker] == options.max_sessions
    assert found[f"{proxy}/idle_timeout"] == "10s"
    assert found[f"{proxy}/upstream_socket_config/max_rx_datagram_size"] == 9000


def added(exposure: Exposure, kind: str) -> list[dict[str, Any]]:
    patches = envoy_filter(exposure)["spec"]["configPatches"]
    return [p["patch"]["value"] for p in patches if p["applyTo"] == kind and "value" in p["patch"]]


@pytest.mark.parametrize(
    ("ips", "expected"),
    [
        (("10.0.0.1",), {"address": "0.0.0.0"}),
        (("fd00::1",), {"address": "::"}),
        (("10.0.0.1", "fd00::1"), {"address": "::", "ipv4_compat": True}),
        (("fd00::1", "10.0.0.1"), {"address": "::", "ipv4_compat": True}),
    ],
)
def test_the_listener_binds_the_gateways_families(
    ips: tuple[str, ...], expected: dict[str, Any]
) -> None:
    six = endpoint_slice(endpoint("fd00::20", "coredns-1"), family="IPv6")
    objects = cluster(gateways=[gateway_pod(ips=ips)], more=[six])
    (listener,) = added(plan_of(objects).exposure, "LISTENER")
    assert listener["address"]["socket_address"] == {
        "protocol": "UDP", "port_value": 10053, **expected
    }  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "kept"),
    [(p, Affinity.SOURCE_IP if p.hashes else Affinity.NONE) for p in LoadBalancing],
)
def test_every_load_balancing_has_its_policy(policy: LoadBalancing, kept: Affinity) -> None:
    exposure = plan_of(affinity=kept, load_balancing=policy).exposure
    (cluster_,), (listener,) = added(exposure, "CLUSTER"), added(exposure, "LISTENER")
    assert cluster_["lb_policy"] == policy.value.upper().replace("-", "_")
    proxy = listener["listener_filters"][0]["typed_config"]
    assert ("hash_policies" in proxy) == policy.hashes


def test_names_avoid_what_istiod_uses() -> None:
    exposure = plan_of().exposure
    for value in added(exposure, "CLUSTER") + added(exposure, "LISTENER"):
        assert not value["name"].startswith(("outbound|", "inbound|", "udp_"))


def test_a_revision_changes_with_the_content_and_only_then() -> None:
    one, same = plan_of().exposure, plan_of().exposure
    other = plan_of(max_sessions=5).exposure
    assert revisions(envoy_filter(one)) == revisions(envoy_filter(same))
    before, after = revisions(envoy_filter(one)), revisions(envoy_filter(other))
    assert before["LISTENER"] == after["LISTENER"]
    assert before["CLUSTER"].keys() == after["CLUSTER"].keys()
    assert before["CLUSTER"] != after["CLUSTER"]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, ["ServiceEntry", "EnvoyFilter", "Service"]),
        ({"discovery": Discovery.STATIC}, ["EnvoyFilter", "Service"]),
        (
            {"gateway_service": GatewayServiceMode.NONE, "ports": parse_port_requests(["5300"])},
            ["ServiceEntry", "EnvoyFilter"],
        ),
    ],
)
def test_endpoints_come_before_what_uses_them(options: dict[str, Any], kinds: list[str]) -> None:
    found = writes(plan_of(**options).exposure, "somebody")
    assert [write.kind for write in found] == kinds
    assert all(write.whole and write.manager == "somebody" for write in found)
    assert found[0].key[2] == "udp-default-coredns"


def test_a_patch_has_its_own_manager_and_holds_nothing_but_ports() -> None:
    *_, last = writes(plan_of(gateway_service=GatewayServiceMode.PATCH).exposure, "somebody")
    assert not last.whole
    assert last.manager == "kubectl-istio-udp/udp-default-coredns"
    assert last.key == ("Service", "istio-system", "istio-ingressgateway")
    assert set(last.manifest["metadata"]) == {"name", "namespace"}
    assert set(last.manifest["spec"]) == {"ports"}


def test_without_a_gateway_service() -> None:
    exposure = plan_of(cluster(gateway_service=None)).exposure
    assert companion_service(exposure)["spec"]["type"] == "ClusterIP"
    assert gateway_service_patch(exposure)["metadata"]["name"] == "istio-ingressgateway"


def test_the_samples_are_the_seeds_workloads() -> None:
    service, config, deployment, tool = samples("lab", "coredns/coredns:1", "tool:1")
    assert [m["kind"] for m in (service, config, deployment, tool)] == [
        "Service", "ConfigMap", "Deployment", "Pod"
    ]  # fmt: skip
    assert {m["metadata"]["namespace"] for m in (service, config, deployment, tool)} == {"lab"}
    assert service["metadata"]["annotations"] == {"kubectl-istio-udp/query": "foo.bar.com"}
    assert "foo.bar.com:53 {\n    whoami\n}" in config["data"]["Corefile"]
    template = deployment["spec"]["template"]
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selector == template["metadata"]["labels"] == service["spec"]["selector"]
    assert template["spec"]["containers"][0]["image"] == "coredns/coredns:1"
    assert tool["spec"]["containers"][0]["image"] == "tool:1"
    assert tool["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"


def test_a_tool_pod_for_one_run_has_a_unique_name_and_no_sidecar() -> None:
    one, other = one_run_tool("lab", None), one_run_tool("lab", "tool:1")
    assert one["metadata"]["name"] != other["metadata"]["name"]
    assert one["spec"]["containers"][0]["image"] == "zhaohuabing/network-tool"
    assert other["spec"]["containers"][0]["image"] == "tool:1"
    assert one["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    assert "securityContext" not in one["spec"]["containers"][0]
    # A quota may demand both.
    assert set(one["spec"]["containers"][0]["resources"]) == {"requests", "limits"}


def test_a_gateway_without_ipv6_resolves_ipv4_addresses() -> None:
    """Envoy's default (AUTO) takes the IPv6 addresses of a name that has both."""
    outside = {"type": "ExternalName", "externalName": "dns.example.com", "ports": [udp(53)]}
    objects = cluster(service={**service(), "spec": outside}, slices=[], pods=[])
    patch = envoy_filter(plan_of(objects).exposure)["spec"]["configPatches"][0]
    assert patch["patch"]["value"].get("dns_lookup_family") == "V4_ONLY"


def test_a_listed_address_only_has_numbers_that_differ() -> None:
    def listed(*slices: dict[str, Any]) -> list[Any]:
        objects = cluster(slices=slices)
        (entry,) = service_entries(plan_of(objects, discovery=Discovery.ENDPOINTS).exposure)
        return list(entry["spec"]["endpoints"])

    usual = endpoint_slice(endpoint("10.0.0.1"))
    unusual = [{"name": "udp-dns", "port": 5353, "protocol": "UDP"}]
    assert listed(usual) == [{"address": "10.0.0.1"}]
    again = endpoint_slice(endpoint("10.0.0.1"), ports=unusual, suffix="two")
    assert listed(usual, again) == [
        {"address": "10.0.0.1"},
        {"address": "10.0.0.1", "ports": {"port-53": 5353}},
    ]


def test_only_istiods_cluster_for_the_entry_is_removed() -> None:
    def removed(exposure: Exposure) -> list[dict[str, Any]]:
        patches = envoy_filter(exposure)["spec"]["configPatches"]
        return [p["match"]["cluster"] for p in patches if p["patch"]["operation"] == "REMOVE"]

    exposure = plan_of().exposure
    own = f"outbound|53||{exposure.spec.entries[0].host}"
    assert removed(exposure) == [{"name": own}]
    twin = plan_of(cluster(service=service(ports=[udp(53), tcp(53)]))).exposure
    assert twin.spec.ports[0].eds_service is not None
    assert removed(twin) == []
    assert removed(plan_of(discovery=Discovery.STATIC).exposure) == []
