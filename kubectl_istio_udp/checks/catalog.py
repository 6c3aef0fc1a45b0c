"""The table of checks: one entry per code.

`python docs/generate.py` generates docs/checks.md from it, and the controller takes its Events'
texts from it. A code never changes its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

PAGE = "https://github.com/kubectl-istio-udp/kubectl-istio-udp/blob/main/docs/checks.md"
# For `Check.tenants`: use the finding's own message, which names no other tenant's objects.
AS_IS = "{message}"


class Severity(str, Enum):
    """ERROR prevents the write; WARNING and INFO do not."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


_SEVERITIES = {"1": Severity.ERROR, "2": Severity.WARNING, "3": Severity.INFO}


@dataclass(frozen=True)
class Check:
    """What all findings with one code have in common.

    Attributes:
        code: `U101`; its first digit is the severity.
        meaning: the paragraph in docs/checks.md, in Markdown.
        tenants: the Event's text instead of the finding's message, which may contain other tenants'
            objects, numbers and addresses. {gateway}, {ports} and {message} are filled in.
        may_pass: whether the removal of another exposure may fix it (a taken name or port,
            sessions, memory), so that the controller waits for that.
    """

    code: str
    meaning: str
    tenants: str = "gateway {gateway} cannot expose it"
    may_pass: bool = False

    @property
    def severity(self) -> Severity:
        """The severity, from the first digit of the code."""
        return _SEVERITIES[self.code[1]]

    @property
    def title(self) -> str:
        """`U101 (error)`."""
        return f"{self.code} ({self.severity.value})"

    @property
    def link(self) -> str:
        """The URL of its paragraph in docs/checks.md."""
        return f"{PAGE}#{self.code.lower()}-{self.severity.value}"


_CHECKS = (
    Check(
        "U101",
        "An object with a name that this exposure, response or access log needs already exists, "
        "and does not belong to it. It is not overwritten. Choose another name with `--name`.",
        tenants=AS_IS,
        may_pass=True,
    ),
    Check(
        "U102",
        "Another EnvoyFilter for the gateway adds a listener or cluster with the same name. Envoy "
        "would reject the whole update: running gateway pods keep their old configuration, and "
        "new ones never become Ready. See U103 for a mesh whose root namespace is not known.",
        tenants="a name that this exposure needs is taken at gateway {gateway}",
        may_pass=True,
    ),
    Check(
        "U103",
        "The listener of another EnvoyFilter binds the same UDP port of the gateway. Envoy would "
        "reject the update, as for U102. The message names the EnvoyFilter, and the exposure that "
        "it belongs to. If the mesh configuration cannot be read (U209), the root namespace is not "
        "known, and an EnvoyFilter of any namespace that selects the gateway counts, except "
        "those of exposures, and except for ports that the exposure has already. If the root "
        "namespace is another, name it with `--root-namespace`.",
        tenants="gateway {gateway}: port {ports} is taken",
        may_pass=True,
    ),
    Check(
        "U104",
        "A listener of the gateway already binds the UDP port, for example for HTTP/3.",
        tenants="gateway {gateway}: port {ports} is taken",
    ),
    Check(
        "U105",
        "With `--gateway-service patch`: the gateway has no Service, or its Service already has "
        "that UDP port or a port of that name, which does not belong to this exposure.",
        tenants="the Service of gateway {gateway} already has a port that this exposure requests",
    ),
    Check(
        "U106",
        "An exposure with this name exists, for another Service or another gateway. To expose a "
        "Service at two gateways, give the second exposure another name.",
        tenants=AS_IS,
    ),
    Check(
        "U107",
        "The gateway's Istio is older than 1.15. The UDP proxy of its Envoy cannot route by "
        "matcher, and writes no session log; Envoy 1.23 was the first that does.",
        tenants=AS_IS,
    ),
    Check(
        "U108",
        "The sessions of all exposures of the gateway could exceed the open-file limit of its "
        "Envoy, which crashes then. The message names the exposures with the most sessions. See "
        "[limits](limits.md).",
        tenants="gateway {gateway} does not have enough sessions left; request fewer "
        "(max-sessions)",
        may_pass=True,
    ),
    Check(
        "U109",
        "The UDP ports of the gateway could use more than half of its pods' memory limit. A pod "
        "that exceeds the limit is killed. See [limits](limits.md).",
        tenants=AS_IS,
        may_pass=True,
    ),
    Check(
        "U110",
        "Another ServiceEntry that applies to the gateway has the same host as this exposure, so "
        "its endpoints may get the datagrams. Hosts cannot be guessed: somebody who can read this "
        "one has copied it. Delete the other ServiceEntry. Or delete the exposure and expose it "
        "again, which gives it another host.",
    ),
    Check(
        "U111",
        "No Istio Gateway has an HTTP server on that port of the gateway; or its servers only "
        "accept other hosts, or redirect every request to https. A Gateway that another response "
        "created does not count, because it is deleted with that response. `--create-gateway` "
        "creates one.",
    ),
    Check(
        "U112",
        "The Istio Gateways on the port accept some of the response's hosts, but not this one.",
    ),
    Check(
        "U113",
        "Another VirtualService for the same host is older and has a route for the path. Istio "
        "merges the routes of one host with the oldest first, so this response would never be "
        "used. A route for all paths comes last; it only takes precedence if the response is for "
        "all paths too (`/ --prefix`). The route of an EnvoyFilter takes precedence over all of "
        "them: `--api envoyfilter`.",
    ),
    Check(
        "U114",
        "The response would take precedence over another VirtualService for a whole host, but "
        "answer only one of its paths. At a gateway: the other one serves the host by a wildcard. "
        "Inside the mesh: it has the same host, and sidecars use only one VirtualService for each "
        "host.",
    ),
    Check(
        "U115",
        "The control plane or the gateway's proxies are older than Istio 1.15 and do not support "
        "directResponse in a VirtualService.",
    ),
    Check(
        "U116",
        "The body is longer than 4,096 bytes, the limit of Istio before 1.18.",
    ),
    Check(
        "U117",
        "Inside the mesh an EnvoyFilter must name the host's ports, but the host has no Service.",
    ),
    Check(
        "U118",
        "With `--create-gateway`: Istio's proxies use the port themselves, or another Istio "
        "Gateway has a server on it that is not plain HTTP.",
    ),
    Check(
        "U121",
        "Another EnvoyFilter already sets the interval of TCP access logs for some of the same "
        "proxies. Names and creation times decide which one wins.",
    ),
    Check(
        "U131",
        "istiod only reads namespaces with certain labels (`meshConfig.discoverySelectors`), and "
        "would ignore the exposure's EnvoyFilter (in the gateway's namespace) or ServiceEntry. "
        "Give the namespace the labels of one of the selectors. If only the Service's namespace "
        "lacks them, `--discovery auto` does not use `selector`.",
        tenants="the control plane of gateway {gateway} does not read a namespace of this exposure",
    ),
    Check(
        "U132",
        "istiod runs with `ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY=false`, so the "
        "workloadSelector of an EnvoyFilter does not select gateways of the Kubernetes Gateway "
        "API.",
        tenants="the control plane of gateway {gateway} ignores the EnvoyFilters of exposures",
    ),
    Check(
        "U133",
        "The companion Service would never get a load balancer: by its annotations or class, the "
        "gateway's Service belongs to a cloud whose load balancers carry no UDP. Clients would "
        "have no address to send to. Use `--gateway-service none`, and lead clients to the "
        "gateway's pods or nodes in another way.",
        tenants=AS_IS,
    ),
    Check(
        "U134",
        "With `--gateway-service patch` the gateway's own Service would have TCP and UDP ports. "
        "Its cloud controller does not accept such a Service, or treats the UDP port as TCP. It "
        "would no longer update the load balancer, also not for the TCP ports of others. See "
        "[what the companion takes over](load-balancers.md).",
        tenants="the load balancer of gateway {gateway} accepts no UDP port beside its TCP ports",
    ),
    Check(
        "U135",
        "istiod runs with PILOT_FILTER_GATEWAY_CLUSTER_CONFIG and is older than 1.31. It gives "
        "the gateway the endpoints of the moment, and does not tell it when they change (measured "
        "with 1.30.4: after a rolling restart of the server no query was answered). Unset the "
        "variable, upgrade Istio, or use `--discovery static`, whose addresses are in the "
        "EnvoyFilter; expose again when pods move, or let the controller do it.",
        tenants="the control plane of gateway {gateway} hides it from endpoints that change",
    ),
    Check(
        "U201",
        "The Service has no ready endpoints for the port. The exposure is created; clients get "
        "answers when an endpoint is ready.",
    ),
    Check(
        "U202",
        "The addresses of the pods are in an object (discovery `endpoints` or `static`) and "
        "become stale when pods are replaced, unless a controller or another `expose` updates "
        "them.",
    ),
    Check(
        "U203",
        "The gateway has no ready pod, so nothing can confirm that Envoy accepts the "
        "configuration.",
    ),
    Check(
        "U204",
        "The open-file limit of the gateway's Envoy could not be read (no permission to exec, or "
        "an image without a shell), so the number of sessions is a conservative guess. See "
        "[limits](limits.md).",
    ),
    Check(
        "U205",
        "Each port of the exposure has fewer than 250 client sessions, because other exposures "
        "have reserved most of the gateway's, or because of `--max-sessions`. Envoy drops the "
        "datagrams of additional clients. See [limits](limits.md).",
    ),
    Check(
        "U206",
        "The change removes a port or an address that clients of the exposure use. Only "
        "`--remove-port` removes a port; `--gateway-service` changes the address.",
    ),
    Check(
        "U208",
        "An EnvoyFilter would conflict with the exposure (U102, U103), but it is not certain that "
        "it applies to the gateway: it selects proxies by a version or by metadata that the "
        "gateway's pods do not show, it has targetRefs and the version of istiod is unknown, or "
        "the mesh's root namespace is unknown and the port is exposed already. If the gateway's "
        "Envoy has its listener, the finding is U102 or U103.",
    ),
    Check(
        "U209",
        "The mesh configuration of the gateway's control plane could not be read: there is no "
        "permission to read its ConfigMap, or the control plane runs elsewhere. The plugin "
        "assumes Istio's defaults. An EnvoyFilter in another root namespace could conflict with "
        "the exposure; those that the plugin can read are U103. `--root-namespace` names the root "
        "namespace.",
    ),
    Check(
        "U210",
        "The gateway does not send to one of the Service's endpoints, because it is a loopback, "
        "link-local, multicast, broadcast or unspecified address, a cloud's metadata service, or "
        "the API server. See [discovery](discovery.md).",
    ),
    Check(
        "U211",
        "The body is longer than 100 kB. Every proxy that answers keeps it in memory.",
    ),
    Check(
        "U212",
        "Another VirtualService for the same host is older and takes precedence for some of the "
        "requests, depending on conditions other than the path (headers, methods, a regular "
        "expression).",
    ),
    Check(
        "U213",
        "The route of an EnvoyFilter takes precedence over everything else: another "
        "VirtualService no longer gets the requests for the path.",
    ),
    Check(
        "U214",
        "The response is for a wildcard host, and other VirtualServices have hosts that match it: "
        "they get the requests for these hosts.",
    ),
    Check(
        "U215",
        "Inside the mesh the host has no Service. Sidecars route it only if a ServiceEntry "
        "defines it.",
    ),
    Check(
        "U216",
        "The gateway's Service has annotations that are not in the [table](load-balancers.md), so "
        "the companion does not get them: an annotation that names a load balancer would give the "
        "companion the gateway's own one. If one of them restricts who may reach the gateway, set "
        "it on the companion yourself.",
    ),
    Check(
        "U217",
        "The companion's load balancer may get no address, or may send nothing. Either its cloud "
        "may carry no UDP, but annotations of several clouds leave open who creates it (U133 if "
        "it is certain). Or AWS creates a classic load balancer, which only carries TCP. Or a "
        "network load balancer on AWS has no TCP port of the gateway for its health check (it "
        "cannot check a UDP port). For an existing exposure, U133 and U134 are this warning too, "
        "so that you can change other settings. See [what the companion takes "
        "over](load-balancers.md).",
    ),
    Check(
        "U218",
        "What would be U135, for an exposure that exists already.",
    ),
    Check(
        "U221",
        "Neither meshConfig nor a Telemetry enables access logs, so no lines will appear.",
    ),
    Check(
        "U222",
        "The access log applies to no pod with a proxy yet.",
    ),
    Check(
        "U223",
        "The proxies close their open TCP connections within 45 s: Envoy drains a listener whose "
        "filters change. See [access logs](http.md).",
    ),
    Check(
        "U230",
        "With `--gateway-service patch`, the gateway's own Service would have a TCP and a UDP "
        "port with the same number (for example 443 for HTTP/3). Server-side apply distinguishes "
        "them. Client-side `kubectl apply` and Helm merge a Service's ports by number alone: with "
        "the UDP port first in the list, an apply that changed the targetPort of the TCP port "
        "changed that of the UDP port instead (measured, Kubernetes 1.34). A companion Service "
        "only has UDP ports.",
    ),
    Check(
        "U301",
        "The companion Service has the same type as the gateway's Service, LoadBalancer. It "
        "creates a separate load balancer with its own address and its own cost. "
        "`--gateway-service patch` uses the gateway's address instead, if the cloud allows UDP "
        "beside TCP.",
    ),
    Check(
        "U302",
        "The gateway's pods may not bind a port below 1024. Envoy listens on a port that is "
        "10,000 higher, and the Service in front translates. Clients do not notice.",
    ),
    Check(
        "U303",
        "How many client sessions each port has, and for how many new clients a second this is "
        "enough. `--expect-rate` computes the number from the rate that you expect. See "
        "[limits](limits.md).",
    ),
    Check(
        "U304",
        "Annotations of the gateway's Service that apply only to its own load balancer, so the "
        "companion does not get them, each with the reason: see [what the companion takes "
        "over](load-balancers.md).",
    ),
    Check(
        "U305",
        "The gateway's pods use the network of their nodes. The exposure's ports are open on "
        "every address of these nodes, and can conflict with other programs there, which the "
        "plugin cannot see. Clients that send to a node use the port that the gateway binds; the "
        "companion Service translates as usual.",
    ),
    Check(
        "U306",
        "Printed once, when an exposure is new: servers see the gateway as their client. See [who "
        "the client is](clients.md).",
    ),
    Check(
        "U307",
        "`--affinity source-ip` uses the address that the gateway's pods see. With "
        "externalTrafficPolicy Cluster this is the address of a node instead of the client's. See "
        "[who the client is](clients.md).",
    ),
)
CHECKS: Mapping[str, Check] = {check.code: check for check in _CHECKS}
