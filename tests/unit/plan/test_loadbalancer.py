"""What the companion Service takes over from the gateway's Service."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_istio_udp.plan.loadbalancer import (
    PROVIDERS,
    Decision,
    refuses_udp_beside_tcp,
    rule_of,
    takeover,
)
from kubectl_istio_udp.render.gatewayservice import companion_service
from tests.support.builders import cluster, gateway_service, plan_of

BETA = "service.beta.kubernetes.io/"
AWS = f"{BETA}aws-load-balancer-"
LINODE = f"{BETA}linode-loadbalancer-"
HETZNER = {"load-balancer.hetzner.cloud/location": "fsn1"}


def gateway(
    annotations: dict[str, Any] | None = None,
    labels: dict[str, Any] | None = None,
    ports: list[dict[str, Any]] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    found = gateway_service(**spec)
    found["metadata"] |= {"annotations": annotations or {}, "labels": labels or {}}
    if ports is not None:
        found["spec"]["ports"] = ports
    return found


def companion(
    annotations: dict[str, Any] | None = None, **more: Any
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The companion of a gateway's Service, without what the exposure itself puts on it."""
    found = companion_service(
        plan_of(cluster(gateway_service=gateway(annotations, **more))).exposure
    )
    ours = {"kubectl-istio-udp/spec"}
    notes = {k: v for k, v in found["metadata"]["annotations"].items() if k not in ours}
    return notes, found["spec"], found["metadata"]["labels"]


IDENTITY = {
    "load-balancer.hetzner.cloud/name": "edge-lb",
    "load-balancer.hetzner.cloud/id": "7",
    "load-balancer.hetzner.cloud/hostname": "edge.example",
    "load-balancer.hetzner.cloud/ipv4": "192.0.2.1",
    "load-balancer.hetzner.cloud/ipv6-rdns": "edge.example",
    f"{AWS}name": "edge-lb",
    f"{AWS}eip-allocations": "eipalloc-0000",
    f"{AWS}private-ipv4-addresses": "10.0.0.1",
    f"{AWS}ipv6-addresses": "fd00::1",
    f"{BETA}scw-loadbalancer-id": "zone/0000",
    f"{BETA}scw-loadbalancer-ip-ids": "zone/0000",
    f"{BETA}do-loadbalancer-name": "edge-lb",
    f"{BETA}do-loadbalancer-hostname": "edge.example",
    "kubernetes.digitalocean.com/load-balancer-id": "0000",
    "loadbalancer.openstack.org/load-balancer-id": "0000",
    "loadbalancer.openstack.org/port-id": "0000",
    "loadbalancer.openstack.org/load-balancer-address": "192.0.2.1",
    "cloud.google.com/neg-status": "{}",
    "cloud.google.com/neg": "{}",
    "networking.gke.io/load-balancer-ip-addresses": "edge-address",
    "service.kubernetes.io/backend-service": "k8s2-0000",
    "service.kubernetes.io/firewall-rule-for-hc": "k8s2-0000",
    "service.kubernetes.io/udp-forwarding-rule": "k8s2-0000",
    f"{BETA}azure-load-balancer-ipv4": "192.0.2.1",
    f"{BETA}azure-pip-name": "edge",
    f"{BETA}azure-pip-name-ipv6": "edge",
    f"{BETA}azure-dns-label-name": "edge",
    f"{BETA}azure-pls-name": "edge",
    "oci-network-load-balancer.oraclecloud.com/assigned-private-ipv4": "10.0.0.1",
    f"{BETA}alibaba-cloud-loadbalancer-id": "lb-0000",
    f"{BETA}alicloud-loadbalancer-name": "edge",
    f"{BETA}alibaba-cloud-loadbalancer-delete-protection": "on",
    "service.kubernetes.io/tke-existed-lbid": "lb-0000",
    "service.kubernetes.io/loadbalance-id": "lb-0000",
    "service.kubernetes.io/ibm-load-balancer-cloud-provider-vpc-lb-name": "edge",
    "metallb.io/loadBalancerIPs": "192.0.2.1",
    "metallb.universe.tf/loadBalancerIPs": "192.0.2.1",
    "metallb.io/allow-shared-ip": "edge",
    "metallb.io/ip-allocated-from-pool": "edge",
    "lbipam.cilium.io/ips": "192.0.2.1",
    "io.cilium/lb-ipam-ips": "192.0.2.1",
    "lbipam.cilium.io/sharing-key": "edge",
    "kube-vip.io/loadbalancerIPs": "192.0.2.1",
    "kube-vip.io/vipHost": "node-1",
    f"{LINODE}nodebalancer-id": "7",
    f"{LINODE}reserved-ipv4": "192.0.2.1",
    f"{BETA}vultr-loadbalancer-label": "edge",
    "metal.equinix.com/eip": "192.0.2.1",
    "loadbalancer.ovhcloud.com/load-balancer-id": "0000",
    "kubernetes.civo.com/loadbalancer-id": "0000",
    "kubernetes.civo.com/ipv4-address": "192.0.2.1",
    f"{BETA}exoscale-loadbalancer-id": "0000",
    "yandex.cloud/load-balancer-ipv4": "192.0.2.1",
    "kubernetes.io/elb.id": "0000",
    "purelb.io/addresses": "192.0.2.1",
    "eip.openelb.kubesphere.io/v1alpha1": "192.0.2.1",
    "ako.vmware.com/load-balancer-ip": "192.0.2.1",
    "ako.vmware.com/enable-shared-vip": "edge",
    "external-dns.alpha.kubernetes.io/hostname": "edge.example",
}
NOT_FOR_DATAGRAMS = {
    f"{AWS}proxy-protocol": "*",
    "load-balancer.hetzner.cloud/uses-proxyprotocol": "true",
    f"{BETA}do-loadbalancer-enable-proxy-protocol": "true",
    f"{BETA}scw-loadbalancer-proxy-protocol-v2": "true",
    "loadbalancer.openstack.org/proxy-protocol": "true",
    "oci-network-load-balancer.oraclecloud.com/is-ppv2-enabled": "true",
    f"{BETA}oci-load-balancer-connection-proxy-protocol-version": "2",
    f"{BETA}alibaba-cloud-loadbalancer-proxy-protocol": "on",
    f"{LINODE}default-proxy-protocol": "v2",
    f"{BETA}vultr-loadbalancer-proxy-protocol": "true",
    f"{BETA}ovh-loadbalancer-proxy-protocol": "v2",
    "kubernetes.civo.com/loadbalancer-enable-proxy-protocol": "send-proxy",
    f"{AWS}ssl-cert": "arn:aws:acm:x",
    f"{AWS}ssl-ports": "https",
    f"{AWS}backend-protocol": "tcp",
    f"{AWS}listener-attributes.TCP-443": "tcp.idle_timeout.seconds=400",
    f"{BETA}do-loadbalancer-certificate-id": "0000",
    f"{BETA}do-loadbalancer-tls-ports": "443",
    f"{BETA}do-loadbalancer-healthcheck-port": "15021",
    f"{BETA}azure-load-balancer-health-probe-request-path": "/healthz/ready",
    f"{BETA}port_80_health-probe_port": "15021",
    "load-balancer.hetzner.cloud/health-check-port": "30021",
    "cloud.google.com/app-protocols": '{"https":"HTTPS"}',
    "cloud.google.com/backend-config": '{"ports":{"80":"x"}}',
    f"{BETA}azure-load-balancer-tcp-idle-timeout": "30",
}
ACCESS = {
    "load-balancer.hetzner.cloud/disable-public-network": "true",
    "load-balancer.hetzner.cloud/location": "fsn1",
    f"{AWS}internal": "true",
    f"{AWS}security-groups": "sg-0000",
    f"{AWS}subnets": "subnet-0000",
    f"{BETA}load-balancer-source-ranges": "192.0.2.0/24",
    "cloud.google.com/load-balancer-type": "Internal",
    "networking.gke.io/load-balancer-type": "Internal",
    "cloud.google.com/l4-rbs": "enabled",
    f"{BETA}azure-load-balancer-internal": "true",
    f"{BETA}azure-load-balancer-internal-subnet": "edge",
    f"{BETA}azure-allowed-service-tags": "AzureFrontDoor",
    f"{BETA}azure-pip-prefix-id": "/subscriptions/x",
    f"{BETA}do-loadbalancer-allow-rules": "cidr:192.0.2.0/24",
    f"{BETA}scw-loadbalancer-private": "true",
    f"{BETA}openstack-internal-load-balancer": "true",
    "loadbalancer.openstack.org/floating-subnet-id": "0000",
    f"{BETA}oci-load-balancer-internal": "true",
    "oci-network-load-balancer.oraclecloud.com/internal": "true",
    f"{BETA}alibaba-cloud-loadbalancer-address-type": "intranet",
    f"{BETA}alibaba-cloud-loadbalancer-acl-id": "acl-0000",
    "service.kubernetes.io/qcloud-loadbalancer-internal-subnetid": "subnet-0000",
    "service.kubernetes.io/ibm-load-balancer-cloud-provider-ip-type": "private",
    "metallb.io/address-pool": "edge",
    "metallb.universe.tf/address-pool": "edge",
    "kube-vip.io/serviceInterface": "eth1",
    f"{LINODE}firewall-id": "7",
    "kubernetes.civo.com/firewall-id": "0000",
    "yandex.cloud/load-balancer-type": "internal",
    "purelb.io/service-group": "edge",
    "svccontroller.k3s.cattle.io/nodeselector": "edge",
}


def test_annotations_that_identify_a_load_balancer_or_address_are_omitted() -> None:
    assert companion(IDENTITY)[0] == companion()[0] | _checked(IDENTITY)
    assert set(takeover(gateway(IDENTITY)).left_out) == set(IDENTITY)


def test_annotations_for_connections_are_omitted() -> None:
    assert companion(NOT_FOR_DATAGRAMS)[0] == _checked(NOT_FOR_DATAGRAMS)
    assert not takeover(gateway(NOT_FOR_DATAGRAMS)).unknown


def _checked(annotations: dict[str, Any]) -> dict[str, Any]:
    """Nothing, for the gateway's Service has no port on the nodes that could be checked."""
    assert takeover(gateway(annotations)).health_check
    return {}


def test_annotations_that_restrict_access_are_copied() -> None:
    notes, _, _ = companion(ACCESS)
    assert notes == ACCESS


@pytest.mark.parametrize(
    "key",
    [
        "new-cloud.example/load-balancer-id",
        f"{AWS}type-of-tomorrow",
        f"{BETA}new-loadbalancer-id",
        "cloud.google.com/something-new",
    ],
)
def test_unknown_annotations_are_omitted_and_reported(key: str) -> None:
    found = takeover(gateway({key: "x"}))
    assert key not in companion({key: "x"})[0]
    assert found.unknown == (key,)


def test_annotations_of_tools_are_silently_omitted() -> None:
    found = takeover(
        gateway(
            {
                "meta.helm.sh/release-name": "x",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "argocd.argoproj.io/tracking-id": "x",
            }
        )
    )
    assert not (found.annotations or found.left_out or found.unknown)


def test_labels_that_choose_a_pool_are_copied_and_those_of_tools_are_not() -> None:
    labels = {
        "pool": "public",
        "network.example/zone": "dmz",
        "app": "edge",
        "istio": "edge",
        "release": "edge",
        "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/instance": "edge",
        "helm.sh/chart": "gateway-1.31.0",
        "operator.istio.io/managed": "Reconcile",
        "topology.istio.io/network": "network-1",
        "networking.istio.io/gatewayPort": "15443",
        "applyset.kubernetes.io/part-of": "applyset-0000-v1",
        "kapp.k14s.io/app": "0000",
        "objectset.rio.cattle.io/hash": "0000",
    }
    _, _, found = companion(labels=labels)
    assert {k: v for k, v in found.items() if k in labels} == {
        "pool": "public",
        "network.example/zone": "dmz",
        "app.kubernetes.io/managed-by": "kubectl-istio-udp",
    }


def test_fields() -> None:
    copied: dict[str, Any] = {
        "loadBalancerClass": "example.com/lb",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "externalTrafficPolicy": "Local",
        "externalIPs": ["192.0.2.7"],
        "trafficDistribution": "PreferClose",
    }
    left: dict[str, Any] = {
        "loadBalancerIP": "192.0.2.1",
        "healthCheckNodePort": 31234,
        "sessionAffinity": "None",
    }
    _, spec, _ = companion(**copied, **left)
    assert copied.items() <= spec.items()
    assert not set(left) & set(spec)
    assert "clusterIP" not in spec


def port(
    number: int, node: int = 0, target: int | None = None, protocol: str = "TCP"
) -> dict[str, Any]:
    entry = {"name": f"p{number}", "port": number, "protocol": protocol}
    return entry | ({"nodePort": node} if node else {}) | ({"targetPort": target} if target else {})


STATUS, HTTP = port(15021, 30021), port(80, 30080)


def http_check(number: str) -> dict[str, Any]:
    return {
        f"{AWS}healthcheck-protocol": "http",
        f"{AWS}healthcheck-path": "/healthz/ready",
        f"{AWS}healthcheck-port": number,
    }


AWS_CLASS = {"loadBalancerClass": "service.k8s.aws/nlb", "allocateLoadBalancerNodePorts": False}


@pytest.mark.parametrize(
    ("annotations", "ports", "spec", "expected"),
    [
        # Traffic goes to the nodes: check the node port of the gateway's readiness check.
        ({f"{AWS}type": "external"}, [HTTP, STATUS], {}, http_check("30021")),
        ({f"{AWS}type": "nlb"}, [port(8021, 30021, 15021)], {}, http_check("30021")),
        # Without that, check whether the node accepts TCP for the gateway.
        ({f"{AWS}type": "external"}, [HTTP], {},
         {f"{AWS}healthcheck-protocol": "tcp", f"{AWS}healthcheck-port": "30080"}),
        # Traffic goes to the pods: use their readiness check.
        ({f"{AWS}nlb-target-type": "ip"}, [HTTP], {}, http_check("15021")),
        ({f"{AWS}type": "nlb-ip"}, [HTTP], {}, http_check("15021")),
        ({}, [HTTP], AWS_CLASS, http_check("15021")),
        # The cloud controller uses the companion's healthCheckNodePort.
        ({f"{AWS}type": "external"}, [HTTP, STATUS], {"externalTrafficPolicy": "Local"}, {}),
        # The gateway Service's own health check does not fit the companion.
        ({f"{AWS}type": "external", f"{AWS}healthcheck-port": "status-port",
          f"{AWS}healthcheck-path": "/x", f"{AWS}healthcheck-interval": "5"}, [STATUS], {},
         http_check("30021")),
        ({f"{LINODE}tags": "x"}, [STATUS], {}, {f"{LINODE}udp-check-port": "30021"}),
        ({f"{LINODE}udp-check-port": "80"}, [HTTP], {}, {f"{LINODE}udp-check-port": "30080"}),
        ({f"{LINODE}tags": "x"}, [port(80)], {}, {}),
        # Other clouds choose the health check themselves.
        ({"cloud.google.com/l4-rbs": "enabled"}, [STATUS], {}, {}),
        ({f"{AWS}type": "external"}, [STATUS], {"type": "ClusterIP"}, {}),
    ],
)  # fmt: skip
def test_a_health_check_that_a_udp_port_can_have(
    annotations: dict[str, Any],
    ports: list[dict[str, Any]],
    spec: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    found = takeover(gateway(annotations, ports=ports, **spec))
    checks = {k: v for k, v in found.annotations.items() if "check" in k}
    assert checks == expected
    assert not found.health_check


def test_reports_a_health_check_that_cannot_succeed() -> None:
    ports = [port(80), port(53, 30053, protocol="UDP")]
    assert "TCP port" in takeover(gateway({f"{AWS}type": "external"}, ports=ports)).health_check


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (
            f"{AWS}target-group-attributes",
            "proxy_protocol_v2.enabled=true, preserve_client_ip.enabled=false,"
            "deregistration_delay.timeout_seconds=30",
            "deregistration_delay.timeout_seconds=30",
        ),
        (f"{AWS}target-group-attributes", "proxy_protocol_v2.enabled=true", None),
        (
            f"{AWS}attributes",
            "deletion_protection.enabled=true,load_balancing.cross_zone.enabled=true",
            "load_balancing.cross_zone.enabled=true",
        ),
        (
            "service.kubernetes.io/ibm-load-balancer-cloud-provider-enable-features",
            "nlb,proxy-protocol",
            "nlb",
        ),
        (
            "service.kubernetes.io/ibm-load-balancer-cloud-provider-enable-features",
            "proxy-protocol",
            None,
        ),
        (
            f"{BETA}alibaba-cloud-loadbalancer-zone-maps",
            "zone-a:vsw-a:10.0.0.1:eip-a, zone-b:vsw-b",
            "zone-a:vsw-a,zone-b:vsw-b",
        ),
        (f"{BETA}alicloud-loadbalancer-zone-maps", "zone-a:vsw-a::eip-a", "zone-a:vsw-a"),
    ],
)
def test_an_annotation_is_adapted(key: str, value: str, expected: str | None) -> None:
    assert takeover(gateway({key: value})).annotations.get(key) == expected


@pytest.mark.parametrize(
    ("annotations", "carries"),
    [
        ({"load-balancer.hetzner.cloud/location": "fsn1"}, False),
        ({f"{BETA}scw-loadbalancer-zone": "x"}, False),
        ({f"{BETA}oci-load-balancer-shape": "flexible"}, False),
        ({"oci.oraclecloud.com/load-balancer-type": "lb"}, False),
        ({"oci.oraclecloud.com/load-balancer-type": "nlb"}, True),
        ({"metallb.io/address-pool": "x"}, True),
    ],
)
def test_clouds_whose_load_balancers_carry_no_udp(
    annotations: dict[str, Any], carries: bool
) -> None:
    found = takeover(gateway(annotations))
    assert (found.no_udp == "", found.sure) == (carries, not carries)


@pytest.mark.parametrize(
    ("annotations", "spec", "said", "sure"),
    [
        # With annotations of several clouds, or a class, another one may create it.
        ({**HETZNER, f"{AWS}name": "x"}, {}, "Hetzner", False),
        ({**HETZNER, "metallb.io/address-pool": "x"}, {}, "Hetzner", False),
        (HETZNER, {"loadBalancerClass": "metallb"}, "Hetzner", False),
        # Annotations of tools do not matter.
        ({**HETZNER, "meta.helm.sh/release-name": "x"}, {}, "Hetzner", True),
        ({**HETZNER, "external-dns.alpha.kubernetes.io/hostname": "x"}, {}, "Hetzner", True),
        ({f"{BETA}exoscale-loadbalancer-name": "x"}, {}, "Exoscale", True),
        ({}, {"loadBalancerClass": "ngrok"}, "ngrok", True),
        ({f"{AWS}scheme": "internal"}, {}, "classic", False),
        ({f"{AWS}scheme": "internal"}, {"loadBalancerClass": "service.k8s.aws/nlb"}, "", False),
        ({f"{AWS}type": "nlb"}, {}, "", False),
        ({f"{AWS}type": "external"}, {}, "", False),
        ({}, {}, "", False),
    ],
)
def test_whether_that_is_certain(
    annotations: dict[str, Any], spec: dict[str, Any], said: str, sure: bool
) -> None:
    found = takeover(gateway(annotations, **spec))
    assert found.sure is sure
    assert said in found.no_udp and bool(said) == bool(found.no_udp)


@pytest.mark.parametrize(
    ("annotations", "spec", "refused"),
    [
        ({}, {}, False),
        (HETZNER, {}, True),
        (HETZNER, {"type": "NodePort"}, False),
        ({f"{AWS}name": "x"}, {}, True),
        ({f"{AWS}type": "nlb"}, {}, True),
        ({f"{AWS}type": "nlb-ip"}, {}, False),
        ({f"{AWS}type": "external"}, {}, False),
        ({f"{AWS}name": "x"}, {"loadBalancerClass": "service.k8s.aws/nlb"}, False),
        ({f"{AWS}name": "x", **HETZNER}, {}, False),
        ({"cloud.google.com/neg-status": "{}"}, {}, True),
        ({"networking.gke.io/load-balancer-type": "Internal"}, {}, True),
        ({"cloud.google.com/l4-rbs": "enabled"}, {}, False),
        (
            {"cloud.google.com/neg-status": "{}"},
            {"loadBalancerClass": "networking.gke.io/l4-regional-external"},
            False,
        ),
        ({"metallb.io/address-pool": "x"}, {}, False),
    ],
)
def test_when_a_udp_port_stops_the_gateways_own_load_balancer(
    annotations: dict[str, Any], spec: dict[str, Any], refused: bool
) -> None:
    assert bool(refuses_udp_beside_tcp(gateway(annotations, **spec))) is refused


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("dualstack", "on"), ("dualstack-without-public-ipv4", "on"), ("ipv4", None)],
)
def test_a_network_load_balancer_in_both_families(kind: str, expected: str | None) -> None:
    found = takeover(gateway({f"{AWS}type": "external", f"{AWS}ip-address-type": kind}))
    key = f"{AWS}enable-prefix-for-ipv6-source-nat"
    assert found.annotations.get(key) == expected


def test_every_rule_is_the_one_for_its_annotation() -> None:
    for provider in PROVIDERS:
        assert provider.source.startswith("https://")
        for rule in provider.rules:
            assert rule_of(rule.prefix) == (rule, provider)


def test_nothing_but_access_and_place_is_copied() -> None:
    reasons = {r.why.name for p in PROVIDERS for r in p.rules if r.decision is Decision.COPY}
    assert reasons == {"ACCESS", "PLACE", "HEALTH"}
