"""What the companion Service copies from the gateway's Service, by annotation, label and field.

The companion gets its own load balancer from the cloud controller. So everything that restricts
access to the gateway is copied. What identifies one load balancer, address or port is not copied: a
second Service with it would reconfigure the gateway's own load balancer, and deleting the companion
would delete it. `docs/load-balancers.md` is generated from this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

# The port of a gateway's readiness check; Istio's agent serves it over HTTP in every gateway.
STATUS_PORT, STATUS_PATH = 15021, "/healthz/ready"


class Decision(str, Enum):
    """What happens to an annotation or a field in the companion."""

    COPY = "copied"
    LEAVE_OUT = "left out"
    ADAPT = "adapted"


class Why(str, Enum):
    """The reason; its first word is the one in the documentation."""

    ACCESS = "access: who may reach the gateway, and from where"
    PLACE = "place: the network, pool or kind of load balancer"
    IDENTITY = "identity: names one load balancer, certificate or DNS name"
    ADDRESS = "address: an address that one load balancer can have"
    STATUS = "status: written by a controller"
    PROXY = "PROXY protocol: nothing removes its header from datagrams"
    PORTS = "ports: names or numbers of ports that the companion does not have"
    HEALTH = "health check: it checks TCP ports of the gateway's Service"
    TCP = "TCP: for connections, HTTP or TLS"
    TOOL = "tool: it belongs to the tool that installed the gateway's Service"


@dataclass(frozen=True)
class Rule:
    """What happens to annotations with a prefix.

    Attributes:
        prefix: the annotation, or its prefix; the longest matching one decides. A copied annotation
            must match exactly unless the prefix ends with a separator, because future annotations
            like `...-type-something` are unknown.
        decision: what happens to it.
        why: the reason.
    """

    prefix: str
    decision: Decision
    why: Why

    def fits(self, annotation: str) -> bool:
        """Whether the rule applies to an annotation."""
        open_end = self.decision is not Decision.COPY or self.prefix.endswith(("-", ".", "/"))
        return annotation.startswith(self.prefix) if open_end else annotation == self.prefix


@dataclass(frozen=True)
class Provider:
    """A cloud or load-balancer controller, and the annotations that it reads.

    Attributes:
        name: the name in its documentation.
        source: the documentation.
        rules: its annotations.
        no_udp: why its load balancers do not carry UDP; "" if they do.
        balances: whether its annotations mean that it creates the load balancer.
    """

    name: str
    source: str
    rules: tuple[Rule, ...]
    no_udp: str = ""
    balances: bool = True


def _rules(prefix: str, copied: Mapping[Why, str], left_out: Mapping[Why, str]) -> tuple[Rule, ...]:
    """Rules for annotations with a common prefix; the names are listed by reason."""
    decisions = ((Decision.COPY, copied), (Decision.LEAVE_OUT, left_out))
    return tuple(
        Rule(prefix + name, decision, why)
        for decision, by_reason in decisions
        for why, names in by_reason.items()
        for name in names.split()
    )


_BETA = "service.beta.kubernetes.io/"
_AWS = f"{_BETA}aws-load-balancer-"
_ALIBABA = (f"{_BETA}alibaba-cloud-loadbalancer-", f"{_BETA}alicloud-loadbalancer-")
_IBM = "service.kubernetes.io/ibm-load-balancer-cloud-provider-"
_LINODE = f"{_BETA}linode-loadbalancer-"

PROVIDERS: tuple[Provider, ...] = (
    Provider(
        "Kubernetes",
        "https://kubernetes.io/docs/reference/labels-annotations-taints/",
        _rules(
            "service",
            {
                Why.ACCESS: ".beta.kubernetes.io/load-balancer-source-ranges",
                Why.PLACE: ".kubernetes.io/topology-mode .kubernetes.io/topology-aware-hints",
            },
            {Why.HEALTH: ".beta.kubernetes.io/healthcheck-nodeport"},
        ),
        balances=False,
    ),
    Provider(
        "AWS",
        "https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/service/annotations/",
        (
            *_rules(
                _AWS,
                {
                    Why.ACCESS: "internal scheme security-groups extra-security-groups "
                    "manage-backend-security-group-rules disable-nlb-sg "
                    "inbound-sg-rules-on-private-link-traffic security-group-prefix-lists",
                    Why.PLACE: "type nlb-target-type subnets ip-address-type target-node-labels "
                    "cross-zone-load-balancing-enabled additional-resource-tags access-log- "
                    "enable-prefix-for-ipv6-source-nat",
                },
                {
                    Why.IDENTITY: "name multi-cluster-target-group minimum-load-balancer-capacity",
                    Why.ADDRESS: "eip-allocations private-ipv4-addresses ipv6-addresses "
                    "source-nat-ipv6-prefixes",
                    Why.PROXY: "proxy-protocol",
                    Why.TCP: "backend-protocol ssl- alpn-policy connection- "
                    "enable-tcp-udp-listener",
                    Why.PORTS: "listener-attributes",
                },
            ),
            Rule(f"{_AWS}healthcheck-", Decision.ADAPT, Why.HEALTH),
            Rule(f"{_AWS}target-group-attributes", Decision.ADAPT, Why.TCP),
            Rule(f"{_AWS}attributes", Decision.ADAPT, Why.IDENTITY),
        ),
    ),
    Provider(
        "Google Cloud",
        "https://cloud.google.com/kubernetes-engine/docs/concepts/service-load-balancer-parameters",
        (
            *_rules(
                "cloud.google.com/",
                {Why.PLACE: "load-balancer-type network-tier l4-rbs"},
                {
                    Why.STATUS: "neg-status",
                    Why.PORTS: "neg app-protocols backend-config",
                },
            ),
            *_rules(
                "networking.gke.io/",
                {
                    Why.ACCESS: "load-balancer-type internal-load-balancer-allow-global-access",
                    Why.PLACE: "internal-load-balancer-subnet weighted-load-balancing",
                },
                {Why.ADDRESS: "load-balancer-ip-addresses"},
            ),
            *_rules(
                "service.kubernetes.io/",
                {},
                {
                    Why.STATUS: "backend-service firewall-rule healthcheck tcp-forwarding-rule "
                    "udp-forwarding-rule url-map target-proxy"
                },
            ),
        ),
    ),
    Provider(
        "Azure",
        "https://cloud-provider-azure.sigs.k8s.io/topics/loadbalancer/",
        _rules(
            _BETA,
            {
                Why.ACCESS: "azure-load-balancer-internal azure-allowed-service-tags "
                "azure-allowed-ip-ranges azure-deny-all-except-load-balancer-source-ranges "
                "azure-shared-securityrule",
                Why.PLACE: "azure-load-balancer-internal-subnet azure-load-balancer-resource-group "
                "azure-load-balancer-mode azure-load-balancer-configurations azure-pip-prefix-id "
                "azure-pip-prefix-id-ipv6 azure-load-balancer-internal-subnet-ipv6 "
                "azure-pip-ip-tags azure-pip-tags azure-disable-load-balancer-floating-ip",
            },
            {
                Why.IDENTITY: "azure-pip-name azure-dns-label-name azure-pls-",
                Why.ADDRESS: "azure-load-balancer-ipv4 azure-load-balancer-ipv6 "
                "azure-additional-public-ips",
                Why.HEALTH: "azure-load-balancer-health-probe-",
                Why.PORTS: "port_ azure-load-balancer-enable-high-availability-ports",
                Why.TCP: "azure-load-balancer-tcp-idle-timeout "
                "azure-load-balancer-disable-tcp-reset",
            },
        ),
    ),
    Provider(
        "Hetzner Cloud",
        "https://github.com/hetznercloud/hcloud-cloud-controller-manager/blob/main/docs/reference/load_balancer_annotations.md",
        _rules(
            "load-balancer.hetzner.cloud/",
            {
                Why.ACCESS: "disable-public-network disable-private-ingress",
                Why.PLACE: "location network-zone type use-private-ip node-selector "
                "algorithm-type private-subnet-ip-range",
            },
            {
                Why.IDENTITY: "name id hostname certificate-type http-certificates "
                "http-managed-certificate",
                Why.ADDRESS: "ipv4 ipv6 private-ipv4",
                Why.PROXY: "uses-proxyprotocol",
                Why.TCP: "protocol http-",
                Why.HEALTH: "health-check-",
            },
        ),
        no_udp="Hetzner's load balancers carry TCP only",
    ),
    Provider(
        "DigitalOcean",
        "https://github.com/digitalocean/digitalocean-cloud-controller-manager/blob/master/docs/controllers/services/annotations.md",
        (
            Rule("kubernetes.digitalocean.com/load-balancer-id", Decision.LEAVE_OUT, Why.IDENTITY),
            *_rules(
                f"{_BETA}do-loadbalancer-",
                {
                    Why.ACCESS: "network allow-rules deny-rules",
                    Why.PLACE: "type size- algorithm network-stack",
                },
                {
                    Why.IDENTITY: "name hostname certificate-id disable-lets-encrypt-dns-records",
                    Why.PROXY: "enable-proxy-protocol",
                    Why.TCP: "protocol http tls- redirect-http-to-https sticky-sessions- "
                    "enable-backend-keepalive",
                    Why.HEALTH: "healthcheck- override-health-check",
                },
            ),
        ),
    ),
    Provider(
        "Scaleway",
        "https://github.com/scaleway/scaleway-cloud-controller-manager/blob/master/docs/loadbalancer-annotations.md",
        _rules(
            f"{_BETA}scw-loadbalancer-",
            {Why.ACCESS: "private", Why.PLACE: "zone type use-hostname pn-ids tags"},
            {
                Why.IDENTITY: "id externally-managed certificate-ids",
                Why.ADDRESS: "ip-ids",
                Why.PROXY: "proxy-protocol",
                Why.HEALTH: "health-check-",
                Why.TCP: "protocol- sticky-sessions timeout- on-marked-down- redispatch- "
                "forward-port- connection- max-",
            },
        ),
        no_udp="Scaleway's load balancers carry TCP and HTTP only",
    ),
    Provider(
        "OpenStack",
        "https://github.com/kubernetes/cloud-provider-openstack/blob/master/docs/openstack-cloud-controller-manager/expose-applications-using-loadbalancer-type-service.md",
        (
            Rule(f"{_BETA}openstack-internal-load-balancer", Decision.COPY, Why.ACCESS),
            *_rules(
                "loadbalancer.openstack.org/",
                {
                    Why.PLACE: "floating-network-id floating-subnet floating-subnet-id "
                    "floating-subnet-tags network-id subnet-id "
                    "member-subnet-id class flavor-id availability-zone node-selector",
                    Why.HEALTH: "enable-health-monitor health-monitor-",
                },
                {
                    Why.IDENTITY: "load-balancer-id load-balancer-name hostname",
                    Why.ADDRESS: "port-id load-balancer-address keep-floatingip",
                    Why.PROXY: "proxy-protocol",
                    Why.TCP: "x-forwarded-for default-tls-container-ref timeout- connection-limit",
                },
            ),
        ),
    ),
    Provider(
        "Oracle Cloud",
        "https://github.com/oracle/oci-cloud-controller-manager/blob/master/docs/load-balancer-annotations.md",
        (
            *_rules(
                "oci.oraclecloud.com/",
                {
                    Why.ACCESS: "security-rule-management-mode oci-network-security-groups",
                    Why.PLACE: "load-balancer-type node-label-selector initial-",
                },
                {Why.PORTS: "oci-backend-set- loadbalancer-policy"},
            ),
            *_rules(
                "oci-network-load-balancer.oraclecloud.com/",
                {
                    Why.ACCESS: "internal security-list-management-mode "
                    "oci-network-security-groups",
                    Why.PLACE: "subnet node-label-selector initial- is-preserve-source "
                    "external-ip-only",
                },
                {
                    Why.ADDRESS: "assigned-",
                    Why.PROXY: "is-ppv2-enabled",
                    Why.HEALTH: "health-check-",
                    Why.PORTS: "backend-policy",
                },
            ),
            *_rules(
                f"{_BETA}oci-load-balancer-",
                {
                    Why.ACCESS: "internal security-list-management-mode",
                    Why.PLACE: "shape shape-flex-min shape-flex-max subnet1 subnet2",
                },
                {
                    Why.PROXY: "connection-proxy-protocol-version",
                    Why.TCP: "ssl- tls- backend-protocol connection-idle-timeout",
                    Why.HEALTH: "health-check-",
                },
            ),
        ),
    ),
    Provider(
        "Alibaba Cloud",
        "https://github.com/kubernetes/cloud-provider-alibaba-cloud/blob/master/docs/usage.md",
        tuple(
            rule
            for prefix in _ALIBABA
            for rule in _rules(
                prefix,
                {
                    Why.ACCESS: "address-type network-type acl- security-group-ids",
                    Why.PLACE: "vswitch-id spec charge-type instance-charge-type bandwidth "
                    "master-zoneid slave-zoneid ip-version resource-group-id "
                    "backend-label scheduler additional-resource-tags",
                },
                {
                    Why.IDENTITY: "id name force-override-listeners delete-protection "
                    "modification-protection cert-id vgroup-port",
                    Why.ADDRESS: "ip eip- external-ip-type",
                    Why.PROXY: "proxy-protocol ppv2",
                    Why.PORTS: "protocol-port forward-port",
                    Why.HEALTH: "health-check-",
                    Why.TCP: "persistence-timeout sticky-session cookie idle-timeout "
                    "request-timeout http2 tls-cipher-policy established-timeout",
                },
            )
        )
        + tuple(Rule(f"{prefix}zone-maps", Decision.ADAPT, Why.ADDRESS) for prefix in _ALIBABA),
    ),
    Provider(
        "Tencent Cloud",
        "https://www.tencentcloud.com/document/product/457/39134",
        (
            *_rules(
                "service.kubernetes.io/",
                {
                    Why.PLACE: "qcloud-loadbalancer-internal-subnetid "
                    "qcloud-loadbalancer-internet- qcloud-loadbalancer-backends-label "
                    "local-svc-",
                },
                {
                    Why.IDENTITY: "tke-existed-lbid qcloud-share-existed-lb "
                    "service.extensiveParameters service.listenerParameters",
                    Why.STATUS: "loadbalance-id qcloud-loadbalancer-clusterid",
                },
            ),
            *_rules(
                "service.cloud.tencent.com/",
                {Why.PLACE: "direct-access pass-to-target security-groups"},
                {
                    Why.PORTS: "specify-protocol tke-service-config",
                    Why.STATUS: "client-token sync-",
                },
            ),
        ),
    ),
    Provider(
        "IBM Cloud",
        "https://cloud.ibm.com/docs/containers?topic=containers-setup_vpc_nlb",
        (
            *_rules(
                _IBM,
                {
                    Why.ACCESS: "ip-type vpc-security-group vpc-security-groups",
                    Why.PLACE: "zone vlan vpc-subnets vpc-node-selector vpc-zone vpc-member-quota",
                },
                {
                    Why.IDENTITY: "vpc-lb-name vpc-dns- vpc-allow-outbound-traffic",
                    Why.HEALTH: "vpc-health-check-",
                    Why.TCP: "vpc-idle-connection-timeout vpc-port-selector ipvs-scheduler",
                },
            ),
            Rule(f"{_IBM}enable-features", Decision.ADAPT, Why.PROXY),
        ),
    ),
    Provider(
        "Akamai (Linode)",
        "https://github.com/linode/linode-cloud-controller-manager/blob/main/docs/configuration/annotations.md",
        (
            *_rules(
                _LINODE,
                {
                    Why.ACCESS: "firewall-id firewall-acl hostname-only-ingress",
                    Why.PLACE: "tags nodebalancer-type backend-vpc-name backend-subnet-name "
                    "backend-subnet-id",
                },
                {
                    Why.IDENTITY: "nodebalancer-id preserve",
                    Why.ADDRESS: "reserved-ipv4 backend-ipv4-range frontend-",
                    Why.PROXY: "default-proxy-protocol proxy-protocol",
                    Why.PORTS: "port-",
                    Why.HEALTH: "check-",
                    Why.TCP: "default-protocol protocol throttle tls default-algorithm "
                    "default-stickiness",
                },
            ),
            Rule(f"{_LINODE}udp-check-port", Decision.ADAPT, Why.HEALTH),
        ),
    ),
    Provider(
        "Vultr",
        "https://github.com/vultr/vultr-cloud-controller-manager/blob/master/docs/load-balancers.md",
        _rules(
            f"{_BETA}vultr-loadbalancer-",
            {Why.PLACE: "private-network vpc region node-count node-selector node-label algorithm"},
            {
                Why.IDENTITY: "label hostname create-dns",
                Why.PROXY: "proxy-protocol",
                Why.PORTS: "firewall-rules backend-protocol https-ports",
                Why.HEALTH: "healthcheck-",
                Why.TCP: "protocol ssl redirect-http-to-https sticky-session http timeout",
            },
        ),
    ),
    Provider(
        "Equinix Metal",
        "https://github.com/kubernetes-sigs/cloud-provider-equinix-metal/blob/main/README.md",
        _rules(
            "metal.equinix.com/",
            {Why.PLACE: "load-balancer-metro eip-metro eip-facility"},
            {Why.IDENTITY: "load-balancer-id", Why.ADDRESS: "eip"},
        ),
    ),
    Provider(
        "OVHcloud",
        "https://help.ovhcloud.com/csm/en-public-cloud-kubernetes-expose-applications-using-load-balancer",
        (
            *_rules(
                "loadbalancer.ovhcloud.com/",
                {Why.PLACE: "class flavor"},
                {Why.IDENTITY: "load-balancer-id"},
            ),
            *_rules(
                f"{_BETA}ovh-loadbalancer-",
                {Why.ACCESS: "allowed-sources", Why.PLACE: "balance"},
                {Why.PROXY: "proxy-protocol", Why.ADDRESS: "additional-ips"},
            ),
        ),
    ),
    Provider(
        "Civo",
        "https://github.com/civo/civo-cloud-controller-manager",
        _rules(
            "kubernetes.civo.com/",
            {Why.ACCESS: "firewall-id", Why.PLACE: "loadbalancer-algorithm"},
            {
                Why.IDENTITY: "loadbalancer-id cluster-id",
                Why.ADDRESS: "ipv4-address",
                Why.PROXY: "loadbalancer-enable-proxy-protocol server-timeout",
                Why.TCP: "protocol max-concurrent-requests",
            },
        ),
    ),
    Provider(
        "Exoscale",
        "https://github.com/exoscale/exoscale-cloud-controller-manager/blob/main/docs/service-loadbalancer.md",
        _rules(
            f"{_BETA}exoscale-loadbalancer-",
            {Why.PLACE: "service-strategy service-instancepool-id zone"},
            {
                Why.IDENTITY: "id name description external service-name service-description",
                Why.HEALTH: "service-healthcheck-",
            },
        ),
        no_udp="Exoscale's cloud controller makes load balancers for TCP only",
    ),
    Provider(
        "Yandex Cloud",
        "https://yandex.cloud/en/docs/managed-kubernetes/operations/create-load-balancer",
        _rules(
            "yandex.cloud/",
            {Why.ACCESS: "load-balancer-type", Why.PLACE: "subnet-id"},
            {
                Why.ADDRESS: "load-balancer-ipv4 load-balancer-ipv6",
                Why.HEALTH: "load-balancer-healthcheck-",
            },
        ),
    ),
    Provider(
        "Huawei Cloud",
        "https://support.huaweicloud.com/intl/en-us/usermanual-cce/cce_10_0681.html",
        _rules(
            "kubernetes.io/elb.",
            {Why.ACCESS: "acl-", Why.PLACE: "class lb-algorithm enterpriseID subnet-id"},
            {
                Why.IDENTITY: "id name autocreate mark cert-id tls-",
                Why.ADDRESS: "eip-id",
                Why.STATUS: "ip",
                Why.PROXY: "enable-transparent-client-ip",
                Why.HEALTH: "health-check-",
                Why.TCP: "session-affinity- keepalive_timeout client_timeout member_timeout "
                "x-forwarded protocol-port",
            },
        ),
    ),
    Provider(
        "MetalLB",
        "https://metallb.io/usage/",
        tuple(
            rule
            for group in ("metallb.io/", "metallb.universe.tf/")
            for rule in _rules(
                group,
                {Why.PLACE: "address-pool"},
                {
                    Why.ADDRESS: "loadBalancerIPs allow-shared-ip",
                    Why.STATUS: "ip-allocated-from-pool",
                },
            )
        ),
    ),
    Provider(
        "Cilium",
        "https://docs.cilium.io/en/stable/network/lb-ipam/",
        (
            *_rules(
                "lbipam.cilium.io/",
                {},
                {Why.ADDRESS: "ips sharing-key sharing-cross-namespace"},
            ),
            *_rules(
                "io.cilium/",
                {Why.PLACE: "bgp- l2-"},
                {Why.ADDRESS: "lb-ipam-ips lb-ipam-sharing-key lb-ipam-sharing-cross-namespace"},
            ),
            *_rules(
                "service.cilium.io/",
                {
                    Why.PLACE: "node node-selector forwarding-mode lb-algorithm type "
                    "src-ranges-policy"
                },
                {Why.TCP: "lb-l7"},
            ),
        ),
    ),
    Provider(
        "kube-vip",
        "https://kube-vip.io/docs/usage/kubernetes-services/",
        _rules(
            "kube-vip.io/",
            {Why.PLACE: "serviceInterface load-balancer-class ignore"},
            {
                Why.ADDRESS: "loadbalancerIPs loadbalancerHostname requestedIP hwaddr",
                Why.STATUS: "vipHost host active-endpoint",
                Why.IDENTITY: "egress forwardUPNP flush-conntrack",
            },
        ),
    ),
    Provider(
        "PureLB",
        "https://purelb.gitlab.io/docs/",
        _rules(
            "purelb.io/",
            {Why.PLACE: "service-group"},
            {
                Why.ADDRESS: "addresses allow-shared-ip",
                Why.STATUS: "allocated-by allocated-from announcing-",
            },
        ),
    ),
    Provider(
        "OpenELB",
        "https://openelb.io/docs/getting-started/usage/",
        (
            Rule("lb.kubesphere.io/", Decision.COPY, Why.PLACE),
            Rule("protocol.openelb.kubesphere.io/", Decision.COPY, Why.PLACE),
            Rule("eip.openelb.kubesphere.io/v1alpha2", Decision.COPY, Why.PLACE),
            Rule("eip.openelb.kubesphere.io/v1alpha1", Decision.LEAVE_OUT, Why.ADDRESS),
        ),
    ),
    Provider(
        "K3s ServiceLB",
        "https://docs.k3s.io/networking/networking-services",
        (Rule("svccontroller.k3s.cattle.io/", Decision.COPY, Why.PLACE),),
    ),
    Provider(
        "VMware Avi",
        "https://techdocs.broadcom.com/us/en/vmware-security-load-balancing/avi-load-balancer.html",
        _rules("ako.vmware.com/", {}, {Why.ADDRESS: "load-balancer-ip enable-shared-vip"}),
    ),
    Provider(
        "external-dns",
        "https://kubernetes-sigs.github.io/external-dns/latest/docs/annotations/annotations/",
        (Rule("external-dns.alpha.kubernetes.io/", Decision.LEAVE_OUT, Why.IDENTITY),),
        balances=False,
    ),
    Provider(
        "Tools that install",
        "https://helm.sh/docs/chart_best_practices/labels/",
        tuple(
            Rule(prefix, Decision.LEAVE_OUT, Why.TOOL)
            for prefix in (
                "kubectl.kubernetes.io/",
                "meta.helm.sh/",
                "helm.sh/",
                "argocd.argoproj.io/",
                "kustomize.toolkit.fluxcd.io/",
                "helm.toolkit.fluxcd.io/",
                "operator.istio.io/",
                "install.operator.istio.io/",
                "istio.io/",
                "networking.istio.io/",
                "gateway.istio.io/",
                "ambient.istio.io/",
                "prometheus.io/",
                "field.cattle.io/",
                "pulumi.com/",
                "config.kubernetes.io/",
                "internal.config.kubernetes.io/",
                "kubectl-istio-udp/",
            )
        ),
        balances=False,
    ),
)

# Fields of the gateway's Service that the companion has too.
COPIED_FIELDS: Mapping[str, str] = {
    "loadBalancerClass": "who makes the load balancer",
    "loadBalancerSourceRanges": "who may reach it",
    "externalTrafficPolicy": "whether the gateway sees the client's address",
    "internalTrafficPolicy": "which nodes' pods clients in the cluster reach",
    "trafficDistribution": "which pods are preferred",
    "allocateLoadBalancerNodePorts": "whether nodes open a port",
    "ipFamilies": "the address families",
    "ipFamilyPolicy": "the address families",
    "externalIPs": "addresses that the network routes to the nodes; another Service may use the "
    "same port there",
}
LEFT_OUT_FIELDS: Mapping[str, str] = {
    "loadBalancerIP": Why.ADDRESS.value,
    "clusterIP, clusterIPs": Why.ADDRESS.value,
    "ports, nodePort": Why.PORTS.value,
    "healthCheckNodePort": "the API server chooses one for the companion",
    "sessionAffinity, sessionAffinityConfig": "--affinity decides for an exposure",
    "publishNotReadyAddresses": "clients are sent to ready gateway pods only",
}
# Labels by which tools find what they installed, and may prune what they did not. Any other may
# choose the companion's address pool (MetalLB, Cilium), so it is copied.
_TOOL_LABELS = (
    "app.kubernetes.io/",
    "helm.sh/",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "gateway.networking.k8s.io/",
    "olm.",
    "applyset.kubernetes.io/",
    "kapp.k14s.io/",
    "objectset.rio.cattle.io/",
    "kubectl-istio-udp/",
)
_TOOL_LABEL_NAMES = frozenset({"app", "istio", "release", "chart", "heritage", "k8s-app"})

_BY_PREFIX = {rule.prefix: (rule, provider) for provider in PROVIDERS for rule in provider.rules}


@dataclass(frozen=True)
class Takeover:
    """What the companion takes over from the gateway's Service.

    Attributes:
        labels: the labels to copy.
        annotations: the annotations to copy, adapted where necessary.
        left_out: annotations for load balancers that are not copied, with the reason.
        unknown: unknown annotations; they are not copied.
        no_udp: why the provider's load balancer does not carry UDP; "" if nothing says so.
        sure: whether that is certain; if not, another controller may create the load balancer.
        health_check: what is missing for a working health check; "" if nothing is.
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    left_out: Mapping[str, Why]
    unknown: tuple[str, ...] = ()
    no_udp: str = ""
    sure: bool = False
    health_check: str = ""


def rule_of(annotation: str) -> tuple[Rule, Provider] | None:
    """The rule with the longest matching prefix, and its provider; None if no rule matches."""
    fitting = [(len(p), p) for p, (rule, _) in _BY_PREFIX.items() if rule.fits(annotation)]
    return _BY_PREFIX[max(fitting)[1]] if fitting else None


def takeover(service: Mapping[str, Any]) -> Takeover:
    """What the companion takes over from the labels and annotations of the gateway's Service."""
    metadata = service.get("metadata") or {}
    found = metadata.get("annotations") or {}
    annotations: dict[str, str] = {}
    left_out: dict[str, Why] = {}
    unknown = []
    for key, value in found.items():
        known = rule_of(key)
        if known is None:
            unknown.append(key)
            continue
        rule, _ = known
        if rule.decision is Decision.COPY:
            annotations[key] = value
            continue
        adapted = _ADAPTED[rule.prefix](value) if rule.decision is Decision.ADAPT else ""
        if adapted:
            annotations[key] = adapted
        elif rule.why is not Why.TOOL:
            left_out[key] = rule.why
    health, missing = _health_check(service, found)
    no_udp, sure = _no_udp(service)
    return Takeover(
        labels={k: v for k, v in (metadata.get("labels") or {}).items() if not _is_tools(k)},
        annotations={**annotations, **health, **_aws_over_ipv6(annotations)},
        left_out={key: why for key, why in left_out.items() if key not in health},
        unknown=tuple(sorted(unknown)),
        no_udp=no_udp,
        sure=sure,
        health_check=missing,
    )


def _is_tools(label: str) -> bool:
    """Whether a label is a tool's or Istio's.

    By topology.istio.io/network istiod takes a Service for a gateway between networks, at port
    15443, which the companion lacks.
    """
    domain = label.partition("/")[0]
    of_istio = domain == "istio.io" or domain.endswith(".istio.io")
    return of_istio or label in _TOOL_LABEL_NAMES or label.startswith(_TOOL_LABELS)


def _makers(service: Mapping[str, Any]) -> list[Provider]:
    """The providers that may create a Service's load balancer, by its annotations."""
    annotations = (service.get("metadata") or {}).get("annotations") or {}
    known = filter(None, map(rule_of, annotations))
    found = {provider.name: provider for _, provider in known if provider.balances}
    return list(found.values())


def _no_udp(service: Mapping[str, Any]) -> tuple[str, bool]:
    """Why the load balancer of such a Service does not carry UDP, and whether that is certain.

    It is uncertain if annotations of several clouds, or a class, leave open which one creates it.
    """
    annotations = (service.get("metadata") or {}).get("annotations") or {}
    load_balancer_class = str((service.get("spec") or {}).get("loadBalancerClass") or "")
    if load_balancer_class in _CLASSES_WITHOUT_UDP:
        return _CLASSES_WITHOUT_UDP[load_balancer_class], True
    makers = _makers(service)
    reasons = [r for maker in makers if (r := maker.no_udp or _old_kind(maker, annotations))]
    if reasons:
        return reasons[0], len(makers) == 1 and not load_balancer_class
    if any(maker.name == "AWS" for maker in makers) and _aws_cloud_provider(service):
        type_ = annotations.get(f"{_AWS}type")
        return ("" if type_ == "nlb" else _CLASSIC), False
    return "", False


# From their documentation (ngrok.com/docs/k8s/guides/using-loadbalancers).
_CLASSES_WITHOUT_UDP: Mapping[str, str] = {
    "ngrok": "load balancers of class ngrok carry TCP and TLS only",
}
_CLASSIC = (
    f"without {_AWS}type: external (or nlb) AWS creates a classic load balancer, which carries TCP "
    "only, unless the AWS Load Balancer Controller manages new Services"
)


def _old_kind(maker: Provider, annotations: Mapping[str, str]) -> str:
    """Oracle's flexible load balancers do not carry UDP; its network load balancers do."""
    network = annotations.get("oci.oraclecloud.com/load-balancer-type") == "nlb"
    if maker.name != "Oracle Cloud" or network:
        return ""
    return "Oracle's load balancers carry UDP only with load-balancer-type: nlb"


def _aws_cloud_provider(service: Mapping[str, Any]) -> bool:
    """Whether Kubernetes' AWS provider creates the load balancer, not the AWS controller.

    The AWS Load Balancer Controller handles Services with its class or type (its documentation,
    guide/service/nlb).
    """
    annotations = (service.get("metadata") or {}).get("annotations") or {}
    own_type = annotations.get(f"{_AWS}type") in ("external", "nlb-ip")
    return (
        not own_type
        and f"{_AWS}nlb-target-type" not in annotations
        and not (service.get("spec") or {}).get("loadBalancerClass")
    )


def refuses_udp_beside_tcp(service: Mapping[str, Any]) -> str:
    """Why a Service of type LoadBalancer with TCP ports must not get a UDP port; "" if it may.

    Its load balancer would no longer be updated, not even for its TCP ports.

    Sources: Kubernetes' AWS provider ignores such Services (kubernetes/kubernetes#105361); GKE's
    how-to guide on mixed-protocol load balancers; Hetzner's controller makes UDP ports TCP ports
    (hcloud-cloud-controller-manager#1128).
    """
    spec = service.get("spec") or {}
    if spec.get("type") != "LoadBalancer":
        return ""
    reason, sure = _no_udp(service)
    makers = [maker.name for maker in _makers(service)]
    if sure:
        return reason
    if makers == ["AWS"] and _aws_cloud_provider(service):
        return "Kubernetes' AWS provider ignores a Service that has TCP and UDP ports"
    annotations = (service.get("metadata") or {}).get("annotations") or {}
    by_backend_services = (
        spec.get("loadBalancerClass") or annotations.get("cloud.google.com/l4-rbs") == "enabled"
    )
    if makers == ["Google Cloud"] and not by_backend_services:
        return (
            "GKE accepts TCP and UDP ports in one Service only with loadBalancerClass "
            "networking.gke.io/l4-regional-external"
        )
    return ""


def _aws_over_ipv6(annotations: Mapping[str, str]) -> dict[str, str]:
    """For UDP over both families, a network load balancer needs a prefix for source NAT."""
    both = annotations.get(f"{_AWS}ip-address-type", "").startswith("dualstack")
    return {f"{_AWS}enable-prefix-for-ipv6-source-nat": "on"} if both else {}


def _pairs(value: str, keep: Callable[[str, str], bool]) -> str:
    """The pairs of `a=b,c=d` for which `keep` returns True."""
    pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
    return ",".join(f"{name}={text}" for name, _, text in pairs if keep(name, text))


def _zones(value: str) -> str:
    """`ZONE:VSWITCH[:ADDRESS[:EIP]],...` without addresses, which one load balancer can have."""
    return ",".join(":".join(zone.strip().split(":")[:2]) for zone in value.split(","))


# The attributes of a target group for UDP (Elastic Load Balancing's documentation, target group
# attributes). It always preserves the client's address.
_UDP_ATTRIBUTES = (
    "deregistration_delay.",
    "stickiness.",
    "load_balancing.",
    "target_group_health.",
)

_ADAPTED: Mapping[str, Callable[[str], str]] = {
    f"{_AWS}healthcheck-": lambda _: "",
    f"{_AWS}target-group-attributes": lambda value: _pairs(
        value, lambda name, _: name.startswith(_UDP_ATTRIBUTES) and "connection_term" not in name
    ),
    # A companion with deletion protection could not be deleted.
    f"{_AWS}attributes": lambda value: _pairs(
        value, lambda name, _: not name.startswith("deletion_protection")
    ),
    f"{_IBM}enable-features": lambda value: ",".join(
        part for part in value.split(",") if part.strip() != "proxy-protocol"
    ),
    f"{_LINODE}udp-check-port": lambda _: "",
    **{f"{prefix}zone-maps": _zones for prefix in _ALIBABA},
}


def _health_check(
    service: Mapping[str, Any], annotations: Mapping[str, str]
) -> tuple[dict[str, str], str]:
    """Annotations for a health check of a TCP port of the gateway, and what is missing for it.

    A load balancer checks a UDP target over TCP or HTTP, at a port that an annotation must set: a
    port of the pods if it sends to pods, otherwise a node port of one of the gateway's TCP ports.
    With externalTrafficPolicy Local all these controllers use the companion's healthCheckNodePort.
    """
    spec = service.get("spec") or {}
    if spec.get("type") != "LoadBalancer":
        return {}, ""
    network = spec.get("loadBalancerClass") == "service.k8s.aws/nlb"
    if network or any(key.startswith(_AWS) for key in annotations):
        return _aws_health_check(spec, annotations)
    if any(key.startswith(_LINODE) for key in annotations):
        port = _node_port(spec)
        return ({f"{_LINODE}udp-check-port": str(port)} if port else {}), ""
    return {}, ""


def _aws_health_check(
    spec: Mapping[str, Any], annotations: Mapping[str, str]
) -> tuple[dict[str, str], str]:
    target = annotations.get(f"{_AWS}nlb-target-type", "")
    to_pods = (
        target == "ip"
        or annotations.get(f"{_AWS}type") == "nlb-ip"
        or spec.get("allocateLoadBalancerNodePorts") is False
    )
    if to_pods:
        return _aws_check("http", STATUS_PORT), ""
    if spec.get("externalTrafficPolicy") == "Local":
        return {}, ""
    status = _node_port(spec, only_status=True)
    if status:
        return _aws_check("http", status), ""
    port = _node_port(spec)
    if port:
        return _aws_check("tcp", port), ""
    return {}, "the gateway's Service has no TCP port on the nodes for a health check"


def _aws_check(protocol: str, port: int) -> dict[str, str]:
    check = {
        f"{_AWS}healthcheck-protocol": protocol,
        f"{_AWS}healthcheck-port": str(port),
    }
    return {**check, f"{_AWS}healthcheck-path": STATUS_PATH} if protocol == "http" else check


def _node_port(spec: Mapping[str, Any], *, only_status: bool = False) -> int | None:
    """A node port of a TCP port of the gateway, preferably that of its readiness check."""
    ports = [
        port
        for port in spec.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP" and port.get("nodePort")
    ]
    ports.sort(key=lambda port: STATUS_PORT not in (port.get("port"), port.get("targetPort")))
    if not ports:
        return None
    is_status = STATUS_PORT in (ports[0].get("port"), ports[0].get("targetPort"))
    return int(ports[0]["nodePort"]) if is_status or not only_status else None
