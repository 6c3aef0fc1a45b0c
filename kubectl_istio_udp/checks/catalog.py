"""The table of checks: one entry per code, with all texts of its findings.

`python docs/generate.py` generates docs/checks.md from it. A code never changes its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

PAGE = "https://github.com/kubectl-istio-udp/kubectl-istio-udp/blob/main/docs/checks.md"
# For `Text.event`: the message itself, which names no other tenant's objects.
AS_IS = ""


class Severity(str, Enum):
    """ERROR prevents the write; WARNING and INFO do not."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


_SEVERITIES = {"1": Severity.ERROR, "2": Severity.WARNING, "3": Severity.INFO}


class Surface(str, Enum):
    """Where a user requests something, and so can change the request.

    The values are the keys in JSON.
    """

    COMMAND_LINE = "commandLine"
    ANNOTATION = "annotation"
    LISTENER = "listener"


@dataclass(frozen=True)
class Remedy:
    """What to type or change next; a template for each surface, "" if there is nothing to do.

    Attributes:
        command_line: for users of the command line.
        annotation: for the owner of a Service with annotations.
        listener: for the owner of a Gateway of the Gateway API.
    """

    command_line: str = ""
    annotation: str = ""
    listener: str = ""

    def on(self, surface: Surface) -> str:
        """The template for a surface."""
        return {
            Surface.COMMAND_LINE: self.command_line,
            Surface.ANNOTATION: self.annotation,
            Surface.LISTENER: self.listener,
        }[surface]


_NOTHING = Remedy()


@dataclass(frozen=True)
class Text:
    """What findings of a code say in one case.

    Templates as for `str.format`: names in braces are values of the finding, `object` is its
    object.

    Attributes:
        message: the problem and the objects concerned.
        remedy: what to do next.
        event: the Event's text instead of the message, which may contain other tenants' objects,
            numbers and addresses; AS_IS for the message.
    """

    message: str
    remedy: Remedy = _NOTHING
    event: str = "the gateway cannot expose it"


@dataclass(frozen=True)
class Check:
    """What all findings with one code have in common.

    Attributes:
        code: `U101`; its first digit is the severity.
        meaning: the paragraph in docs/checks.md, in Markdown.
        text: what its findings say; by case if there are several.
        may_pass: whether the removal of another exposure may fix it (a taken name or port,
            sessions, memory), so that the controller waits for that.
    """

    code: str
    meaning: str
    text: Text | Mapping[str, Text]
    may_pass: bool = False

    @property
    def texts(self) -> Mapping[str, Text]:
        """The texts by case; "" if there is one case only."""
        return {"": self.text} if isinstance(self.text, Text) else self.text

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


_ANOTHER_NAME = Remedy("give the exposure another name: --name")
_ANOTHER_PORT = Remedy(
    "choose another gateway port: -p PORT:{service_port}",
    annotation="choose another port in the annotation kubectl-istio-udp/expose",
    listener="choose another port for the listener",
)
_FEWER_SESSIONS = Remedy(
    "use at most --max-sessions {at_most}",
    annotation="request fewer in the annotation kubectl-istio-udp/max-sessions",
)
_MORE_FILES = Remedy(
    "raise the file limit of the gateway's nodes, or lower another exposure's --max-sessions",
    annotation="request fewer in the annotation kubectl-istio-udp/max-sessions",
)
_ENVOY_FILTER = Remedy("take precedence over all VirtualServices: --api envoyfilter")
_ANOTHER_GATEWAY_PORT = Remedy("use another port: --gateway-port")
_SHOW_CHANGES = Remedy(
    "set PILOT_FILTER_GATEWAY_CLUSTER_CONFIG=false for istiod, upgrade to Istio 1.31, or use "
    "--discovery static and expose again when pods move",
    annotation="set the annotation kubectl-istio-udp/discovery to static",
)
_EXPECT_RATE = Remedy("if you expect more: --expect-rate N")
_SEE_FILTER = Remedy(
    "check it: kubectl get envoyfilter -n {object.namespace} {object.name} -o yaml"
)
_CLOSED_PORTS = Remedy(
    "make sure that no other program on these nodes uses the ports, and restrict access by a "
    "firewall",
)
_PORT_TAKEN = "gateway {gateway}: port {port}/UDP is taken"
_NAME_TAKEN = "a name that this exposure needs is taken at gateway {gateway}"
_TOO_FEW_SESSIONS = "gateway {gateway} does not have enough sessions left"
_CHANGES_HIDDEN = "gateway {gateway} gets no endpoint updates from its control plane"
_HIDES_CHANGES = Text(
    "{control_plane} (Istio {istio}) does not inform gateways about changed endpoints, because "
    "PILOT_FILTER_GATEWAY_CLUSTER_CONFIG is set: when the pods of {service} move, clients get no "
    "answer",
    _SHOW_CHANGES,
    event=_CHANGES_HIDDEN,
)

_CHECKS = (
    Check(
        "U101",
        "An object with a name that this exposure, response or access log needs already exists, "
        "and does not belong to it. It is not overwritten. Choose another name with `--name`.",
        Text(
            "{object} already exists and does not belong to {kind} {name}",
            Remedy("give the {kind} another name: --name"),
            event=AS_IS,
        ),
        may_pass=True,
    ),
    Check(
        "U102",
        "Another EnvoyFilter for the gateway adds a listener or cluster with the same name. Envoy "
        "would reject the whole update: running gateway pods keep their old configuration, and "
        "new ones never become Ready. See U103 for a mesh whose root namespace is not known.",
        {
            "": Text(
                "{object} already adds a {kind} named {name} to gateway {gateway}",
                _ANOTHER_NAME,
                event=_NAME_TAKEN,
            ),
            "root unknown": Text(
                "{object} already adds a {kind} named {name} to gateway {gateway}, if "
                "{object.namespace} is the root namespace of the mesh; could not read the "
                "configuration of {mesh}",
                Remedy(
                    "give the exposure another name: --name, or name the root namespace: "
                    "--root-namespace NAMESPACE",
                ),
                event=_NAME_TAKEN,
            ),
        },
        may_pass=True,
    ),
    Check(
        "U103",
        "The listener of another EnvoyFilter binds the same UDP port of the gateway. Envoy would "
        "reject the update, as for U102. The message names the EnvoyFilter, and the exposure that "
        "it belongs to. If the mesh configuration cannot be read (U209), the root namespace is "
        "not known. Then every EnvoyFilter that selects the gateway counts. EnvoyFilters of "
        "exposures, and ports that this exposure already has, do not. Name the root namespace "
        "with `--root-namespace`.",
        {
            "": Text(
                "port {port}/UDP of gateway {gateway} is taken by {object}",
                _ANOTHER_PORT,
                event=_PORT_TAKEN,
            ),
            "exposure": Text(
                "port {port}/UDP of gateway {gateway} is taken by {object} (exposure {owner} of "
                "namespace {namespace})",
                _ANOTHER_PORT,
                event=_PORT_TAKEN,
            ),
            "root unknown": Text(
                "port {port}/UDP of gateway {gateway} is taken by {object}, if {object.namespace} "
                "is the root namespace of the mesh; could not read the configuration of {mesh}",
                Remedy(
                    "choose another gateway port: -p PORT:{service_port}, or name the root "
                    "namespace: --root-namespace NAMESPACE",
                    annotation="choose another port in the annotation kubectl-istio-udp/expose",
                    listener="choose another port for the listener",
                ),
                event=_PORT_TAKEN,
            ),
        },
        may_pass=True,
    ),
    Check(
        "U104",
        "A listener of the gateway already binds the UDP port, for example for HTTP/3.",
        {
            "port": Text(
                "port {port}/UDP of {object} is taken by its listener {listener}",
                _ANOTHER_PORT,
                event="{object}: port {port}/UDP is taken",
            ),
            "name": Text(
                "{object} already has a listener {listener} on {port}/{protocol}",
                _ANOTHER_NAME,
                event="a name that this exposure needs is taken at {object}",
            ),
        },
    ),
    Check(
        "U105",
        "With `--gateway-service patch`: the gateway has no Service, or its Service already has "
        "that UDP port or a port of that name, which does not belong to this exposure.",
        {
            "port": Text(
                "{object} already has a port {port}/{protocol} ({name})",
                Remedy(
                    "choose another gateway port: -p PORT:{service_port}",
                    annotation="choose another port in the annotation kubectl-istio-udp/expose",
                ),
                event=(
                    "the Service of gateway {gateway} already has a port that this exposure "
                    "requests"
                ),
            ),
            "no Service": Text(
                "{object} has no Service to patch",
                Remedy(
                    "use --gateway-service companion",
                    annotation="set the annotation kubectl-istio-udp/gateway-service to companion",
                ),
                event=AS_IS,
            ),
        },
    ),
    Check(
        "U106",
        "An exposure with this name exists, for another Service or another gateway. To expose a "
        "Service at two gateways, give the second exposure another name.",
        Text(
            "exposure {object.namespace}/{object.name} already exists, for Service {service} at "
            "gateway {gateway}",
            Remedy(
                "use another name: --name {object.name}-2; or first run kubectl istio-udp delete "
                "-n {object.namespace} {object.name}",
            ),
            event=AS_IS,
        ),
    ),
    Check(
        "U107",
        "The gateway's Istio is older than 1.15. The UDP proxy of its Envoy can neither route by "
        "matcher nor write a session log. Envoy 1.23 is the first version that can.",
        Text(
            "{object} runs Istio {istio} and is too old: routing UDP needs Istio {needed} or newer",
            Remedy("upgrade the gateway"),
            event=AS_IS,
        ),
    ),
    Check(
        "U108",
        "The sessions of all exposures of the gateway could exceed the open-file limit of its "
        "Envoy. Envoy crashes when it exceeds this limit. The message names the exposures with "
        "the most sessions. See [limits](limits.md).",
        {
            "": Text(
                "{sessions} sessions on {ports} port(s) exceed what gateway {gateway} has left: "
                "{reserved} of {budget} sessions are reserved, the most by {largest} (its Envoy "
                "may open {file_limit} files, and crashes when it needs more)",
                _FEWER_SESSIONS,
                event=_TOO_FEW_SESSIONS,
            ),
            "no others": Text(
                "{sessions} sessions on {ports} port(s) exceed what gateway {gateway} has left: "
                "{reserved} of {budget} sessions are reserved (its Envoy may open {file_limit} "
                "files, and crashes when it needs more)",
                _FEWER_SESSIONS,
                event=_TOO_FEW_SESSIONS,
            ),
            "none left": Text(
                "{sessions} sessions on {ports} port(s) exceed what gateway {gateway} has left: "
                "{reserved} of {budget} sessions are reserved, the most by {largest} (its Envoy "
                "may open {file_limit} files, and crashes when it needs more)",
                _MORE_FILES,
                event=_TOO_FEW_SESSIONS,
            ),
            "none left, no others": Text(
                "{sessions} sessions on {ports} port(s) exceed what gateway {gateway} has left: "
                "{reserved} of {budget} sessions are reserved (its Envoy may open {file_limit} "
                "files, and crashes when it needs more)",
                _MORE_FILES,
                event=_TOO_FEW_SESSIONS,
            ),
        },
        may_pass=True,
    ),
    Check(
        "U109",
        "The UDP ports of the gateway could use more than half of its pods' memory limit. A pod "
        "that exceeds the limit is killed. See [limits](limits.md).",
        Text(
            "{ports} UDP port(s) may use {needed_mib:.0f} MiB of {object}, more than half of the "
            "memory limit of its pods ({limit_mib:.0f} MiB): Envoy keeps a record of each of its "
            "{clusters} clusters for each port in each of its {workers} workers",
            Remedy("raise the memory limit of the gateway's pods, or use another gateway"),
            event=AS_IS,
        ),
        may_pass=True,
    ),
    Check(
        "U110",
        "Another ServiceEntry that applies to the gateway has the same host as this exposure, so "
        "its endpoints may get the datagrams. Hosts cannot be guessed: somebody who can read this "
        "one has copied it. Delete the other ServiceEntry. Or delete the exposure and expose it "
        "again, which gives it another host.",
        Text(
            "{object} has the same host as exposure {exposure}; its endpoints may get the "
            "datagrams",
            Remedy(
                "delete it: kubectl delete serviceentry -n {object.namespace} {object.name}; or "
                "use another host: kubectl istio-udp delete -n {namespace} {exposure}, then "
                "expose again",
            ),
            event="another ServiceEntry has the same host as this exposure",
        ),
    ),
    Check(
        "U111",
        "No Istio Gateway has an HTTP server on that port of the gateway; or its servers only "
        "accept other hosts, or redirect every request to https. A Gateway that another response "
        "created does not count, because it is deleted with that response. `--create-gateway` "
        "creates one.",
        {
            "no server": Text(
                "no Istio Gateway has an HTTP server on port {port} of {object}",
                Remedy("create one: --create-gateway"),
            ),
            "other ports": Text(
                "no Istio Gateway has an HTTP server on port {port} of {object}; ports with one: "
                "{ports}",
                Remedy("create one: --create-gateway; or use another port: --gateway-port"),
            ),
            "redirects": Text(
                "port {port} of {object} redirects every request to https ({gateways})",
                Remedy("answer at its https port: --gateway-port 443"),
            ),
            "hosts": Text(
                "port {port} of {object} accepts {accepted}, not {hosts} ({gateways})",
                Remedy("use one of its hosts: --host"),
            ),
        },
    ),
    Check(
        "U112",
        "The Istio Gateways on the port accept some of the response's hosts, but not this one.",
        Text(
            "port {port} of gateway {gateway} does not accept host {host}",
            Remedy("add the host to {object}, or omit it"),
        ),
    ),
    Check(
        "U113",
        "Another VirtualService for the same host is older and has a route for the path. Istio "
        "merges the routes of one host with the oldest first, so this response would never be "
        "used. A route for all paths comes last; it only takes precedence if the response is for "
        "all paths too (`/ --prefix`). The route of an EnvoyFilter takes precedence over all of "
        "them: `--api envoyfilter`.",
        Text(
            "{object} is older and takes precedence for {path} of host {host}; this response "
            "would never be used",
            _ENVOY_FILTER,
        ),
    ),
    Check(
        "U114",
        "The response would take precedence over another VirtualService for a whole host, but "
        "answer only one of its paths. At a gateway: the other one serves the host by a wildcard. "
        "Inside the mesh: it has the same host, and sidecars use only one VirtualService for each "
        "host.",
        {
            "mesh": Text(
                "{object} routes host {host} inside the mesh, where Istio uses only one "
                "VirtualService for each host: one of the two would be ignored",
                _ENVOY_FILTER,
            ),
            "gateway": Text(
                "{object} serves {narrower} by its host {host}; a response for {narrower} would "
                "make all paths but {path} unreachable",
                Remedy("use the same host, so that Istio merges both: --host '{host}'"),
            ),
        },
    ),
    Check(
        "U115",
        "The control plane or the gateway's proxies are older than Istio 1.15 and do not support "
        "directResponse in a VirtualService.",
        Text(
            "Istio {istio} does not support directResponse in a VirtualService ({versions}); this "
            "needs {needed} or newer",
            Remedy("use --api envoyfilter or --api auto"),
        ),
    ),
    Check(
        "U116",
        "The body is longer than 4,096 bytes, the limit of Istio before 1.18.",
        Text(
            "the body has {size} bytes, but Istio {istio} ({versions}) answers at most {limit}",
            Remedy("shorten it, or upgrade to Istio {needed}"),
        ),
    ),
    Check(
        "U117",
        "Inside the mesh an EnvoyFilter must name the host's ports, but the host has no Service.",
        Text(
            "host {host} has no Service; an EnvoyFilter must name the Service's ports",
            Remedy("create the Service first, or use --api virtualservice"),
        ),
    ),
    Check(
        "U118",
        "With `--create-gateway`: Istio's proxies use the port themselves, or another Istio "
        "Gateway has a server on it that is not plain HTTP.",
        {
            "Istio": Text(
                "port {port} is used by Istio's proxies themselves",
                _ANOTHER_GATEWAY_PORT,
            ),
            "server": Text(
                "port {port} of gateway {gateway} has a server of {object} that is not plain HTTP",
                _ANOTHER_GATEWAY_PORT,
            ),
        },
    ),
    Check(
        "U121",
        "Another EnvoyFilter already sets the interval of TCP access logs for some of the same "
        "proxies. Names and creation times decide which one wins.",
        {
            "": Text(
                "{object} already sets the interval for some of the same proxies; it is undefined "
                "which one wins",
                Remedy(
                    "select fewer proxies with -l or --direction, or delete the other one: "
                    "kubectl delete envoyfilter -n {object.namespace} {object.name}",
                ),
            ),
            "access log": Text(
                "{object} (accesslog/{owner} of namespace {namespace}) already sets the interval "
                "for some of the same proxies; it is undefined which one wins",
                Remedy(
                    "select fewer proxies with -l or --direction, or delete the other one: "
                    "kubectl istio-udp delete -n {namespace} accesslog/{owner}",
                ),
            ),
        },
    ),
    Check(
        "U131",
        "istiod only reads namespaces with certain labels (`meshConfig.discoverySelectors`), and "
        "would ignore the exposure's EnvoyFilter (in the gateway's namespace) or ServiceEntry. "
        "Give the namespace the labels of one of the selectors. If only the Service's namespace "
        "lacks them, `--discovery auto` does not use `selector`.",
        Text(
            "{control_plane} does not read namespace {object.name}, so it would ignore {kind} "
            "{object_name}: meshConfig.discoverySelectors do not select the namespace",
            Remedy("give the namespace the labels of one of the discoverySelectors"),
            event=(
                "the control plane of gateway {gateway} does not read a namespace of this exposure"
            ),
        ),
    ),
    Check(
        "U132",
        "istiod runs with `ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY=false`, so the "
        "workloadSelector of an EnvoyFilter does not select gateways of the Kubernetes Gateway "
        "API.",
        Text(
            "{control_plane} ignores the workloadSelector of EnvoyFilters for gateways of the "
            "Gateway API, such as {object}",
            Remedy(
                "set ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY=true for istiod, or use another "
                "gateway",
            ),
            event="the control plane of {object} ignores the EnvoyFilters of exposures",
        ),
    ),
    Check(
        "U133",
        "The companion Service would never get a load balancer: by its annotations or class, the "
        "gateway's Service belongs to a cloud with load balancers that do not carry UDP. Clients "
        "would have no address to send to. Use `--gateway-service none`, and route clients to the "
        "gateway's pods or nodes yourself.",
        Text(
            "{object} would never get an address: {reason}",
            Remedy(
                "route clients to the gateway's pods or nodes yourself, and use --gateway-service "
                "none",
                annotation="set the annotation kubectl-istio-udp/gateway-service to none",
            ),
            event=AS_IS,
        ),
    ),
    Check(
        "U134",
        "With `--gateway-service patch` the gateway's own Service would have TCP and UDP ports. "
        "The cloud controller does not accept such a Service, or treats the UDP port as TCP. It "
        "would no longer update the load balancer, not even for the TCP ports of others. See "
        "[what the companion takes over](load-balancers.md).",
        Text(
            "with a UDP port, the cloud would no longer update the load balancer of {object}, "
            "including its TCP ports: {reason}",
            Remedy(
                "use --gateway-service companion, or none",
                annotation=(
                    "set the annotation kubectl-istio-udp/gateway-service to companion, or none"
                ),
            ),
            event="the load balancer of gateway {gateway} accepts no UDP port beside its TCP ports",
        ),
    ),
    Check(
        "U135",
        "istiod runs with PILOT_FILTER_GATEWAY_CLUSTER_CONFIG and is older than 1.31. It sends "
        "the gateway the current endpoints once and no later updates (measured with 1.30.4: after "
        "a rolling restart of the server no query was answered). Unset the variable, upgrade "
        "Istio, or use `--discovery static`. The addresses are then in the EnvoyFilter: expose "
        "again when pods move, or let the controller do it.",
        _HIDES_CHANGES,
    ),
    Check(
        "U141",
        "`validate`: the EnvoyFilter is malformed, or Envoy rejects the configuration that it "
        "makes. The field is the innermost one that Envoy names.",
        Text(
            "{reason}",
        ),
    ),
    Check(
        "U142",
        "`validate`: a file cannot be read, or has something that is not a Kubernetes object.",
        Text(
            "{reason}",
        ),
    ),
    Check(
        "U201",
        "The Service has no ready endpoints for the port. The exposure is created; clients get "
        "answers when an endpoint is ready.",
        Text(
            "{object} has no ready endpoints for {port}/UDP ({not_ready} not ready); clients get "
            "no answer until one is ready",
            Remedy(
                "see them: kubectl get endpointslices -n {object.namespace} -l "
                "kubernetes.io/service-name={object.name}",
            ),
        ),
    ),
    Check(
        "U202",
        "The addresses of the pods are in an object (discovery `endpoints` or `static`) and "
        "become stale when pods are replaced, unless a controller or another `expose` updates "
        "them.",
        Text(
            "the addresses of the pods are in the {kind} and become stale when pods are replaced, "
            "unless a controller updates them",
            Remedy("run expose again after pods were replaced"),
        ),
    ),
    Check(
        "U203",
        "The gateway has no ready pod, so nothing can confirm that Envoy accepts the "
        "configuration.",
        Text(
            "{object} has no ready pod",
            Remedy("see them: kubectl get pods -n {object.namespace}"),
        ),
    ),
    Check(
        "U204",
        "The open-file limit of the gateway's Envoy could not be read (no permission to exec, or "
        "an image without a shell), so the number of sessions is a conservative guess. See "
        "[limits](limits.md).",
        Text(
            "could not read the open-file limit of {object} (no permission to exec, no shell in "
            "its image, or no answer); each port gets {sessions} sessions",
            Remedy("if its nodes allow more open files, set the number: --max-sessions"),
        ),
    ),
    Check(
        "U205",
        "Each port of the exposure has fewer than 250 client sessions, because other exposures "
        "have reserved most of the gateway's sessions, or because of `--max-sessions`. Envoy "
        "drops the datagrams of additional clients. See [limits](limits.md).",
        {
            "": Text(
                "each port has only {sessions} client sessions: with --idle-timeout "
                "{idle_timeout}, datagrams are lost above {rate:.3g} new clients a second. At "
                "gateway {gateway} {reserved} of {budget} sessions are reserved, the most by "
                "{largest}",
                _EXPECT_RATE,
            ),
            "no others": Text(
                "each port has only {sessions} client sessions: with --idle-timeout "
                "{idle_timeout}, datagrams are lost above {rate:.3g} new clients a second. At "
                "gateway {gateway} {reserved} of {budget} sessions are reserved",
                _EXPECT_RATE,
            ),
        },
    ),
    Check(
        "U206",
        "The change removes a port or an address that clients of the exposure use. Only "
        "`--remove-port` removes a port; `--gateway-service` changes the address.",
        {
            "port": Text(
                "this removes port {ports} from exposure {object.name}; clients can no longer use "
                "it",
            ),
            "address": Text(
                "the address of exposure {object.name} changes: --gateway-service was {before}, "
                "now {now}",
            ),
        },
    ),
    Check(
        "U208",
        "An EnvoyFilter would conflict with the exposure (U102, U103), but it is not certain that "
        "it applies to the gateway: it selects proxies by a version or by metadata that the "
        "gateway's pods do not show, it has targetRefs and the version of istiod is unknown, or "
        "the mesh's root namespace is unknown and the port is exposed already. If the gateway's "
        "Envoy has its listener, the finding is U102 or U103.",
        {
            "": Text(
                "{object} may add {added} to gateway {gateway}; its Envoy would then reject both. "
                "Not certain: {doubt}",
                _SEE_FILTER,
            ),
            "exposure": Text(
                "{object} (exposure {owner} of namespace {namespace}) may add {added} to gateway "
                "{gateway}; its Envoy would then reject both. Not certain: {doubt}",
                _SEE_FILTER,
            ),
        },
    ),
    Check(
        "U209",
        "The mesh configuration of the gateway's control plane could not be read: there is no "
        "permission to read its ConfigMap, or the control plane runs elsewhere. The plugin "
        "assumes Istio's defaults. An EnvoyFilter in another root namespace could conflict with "
        "the exposure; those that the plugin can read are U103. `--root-namespace` names the root "
        "namespace.",
        Text(
            "could not read the mesh configuration of {mesh}; assuming root namespace "
            "{root_namespace}. An EnvoyFilter in another root namespace could conflict",
            Remedy("name the root namespace: --root-namespace NAMESPACE"),
        ),
    ),
    Check(
        "U210",
        "The gateway does not send to one of the Service's endpoints, because it is a loopback, "
        "link-local, multicast, broadcast or unspecified address, a cloud's metadata service, or "
        "the API server. See [discovery](discovery.md).",
        Text(
            "the gateway will not send to endpoint {address} of {object}: it is {reason}",
            Remedy(
                "see it: kubectl get endpointslices -n {object.namespace} -l "
                "kubernetes.io/service-name={object.name}",
            ),
        ),
    ),
    Check(
        "U211",
        "The body is longer than 100 kB. Every proxy that answers keeps it in memory.",
        Text(
            "the body has {size} bytes, and every proxy that answers keeps it in memory; Istio "
            "advises against more than {limit}",
        ),
    ),
    Check(
        "U212",
        "Another VirtualService for the same host is older and takes precedence for some of the "
        "requests, depending on conditions other than the path (headers, methods, a regular "
        "expression).",
        Text(
            "{object} is older and, depending on its conditions, takes precedence for some "
            "requests for {path} of host {host}",
            _ENVOY_FILTER,
        ),
    ),
    Check(
        "U213",
        "The route of an EnvoyFilter takes precedence over everything else: another "
        "VirtualService no longer gets the requests for the path.",
        Text(
            "this response takes precedence over {object}, which no longer gets requests for "
            "{path} of {hosts}",
        ),
    ),
    Check(
        "U214",
        "The response is for a wildcard host, and other VirtualServices have hosts that match it: "
        "they get the requests for these hosts.",
        Text(
            "other VirtualServices, not this response, get the requests for these hosts: {hosts}",
            Remedy(
                "create another response for one: --host {host} --name NAME; or take precedence "
                "over all VirtualServices: --api envoyfilter",
            ),
        ),
    ),
    Check(
        "U215",
        "Inside the mesh the host has no Service. Sidecars route it only if a ServiceEntry "
        "defines it.",
        Text(
            "host {host} has no Service; sidecars route it only if a ServiceEntry defines it",
        ),
    ),
    Check(
        "U216",
        "The gateway's Service has annotations that are not in the [table](load-balancers.md), so "
        "the companion does not get them: if one of them names a load balancer, the companion "
        "would use the gateway's own load balancer. If one of them restricts who may reach the "
        "gateway, set it on the companion yourself.",
        Text(
            "{object} does not copy these annotations of {gateway_service}: {annotations} (unknown "
            "annotations, which may name one load balancer)",
            Remedy(
                "if they restrict access, set them on the Service yourself: kubectl annotate "
                "service -n {object.namespace} {object.name} ...",
            ),
        ),
    ),
    Check(
        "U217",
        "The companion's load balancer may get no address, or may send nothing, for one of these "
        "reasons. The Service has annotations of several clouds, and the load balancers of one of "
        "them carry no UDP (if only this cloud can be meant, the finding is U133). AWS creates a "
        "classic load balancer, which only carries TCP. A network load balancer of AWS has no TCP "
        "port of the gateway for its health check, because it cannot check a UDP port. For an "
        "existing exposure, U133 and U134 are this warning too, so that you can change other "
        "settings. See [what the companion takes over](load-balancers.md).",
        {
            "no UDP": Text(
                "{object}: {reason}",
                Remedy(
                    "route clients to the gateway's pods or nodes yourself, and use "
                    "--gateway-service none",
                ),
            ),
            "health check": Text(
                "{object}: {reason}",
                Remedy(
                    "let the load balancer send to pods (aws-load-balancer-nlb-target-type: ip)",
                ),
            ),
            "patched": Text(
                "the load balancer of {object} may not follow changes: {reason}",
                Remedy("use --gateway-service companion, or none"),
            ),
        },
    ),
    Check(
        "U218",
        "The same as U135, but only a warning, because the exposure already exists.",
        _HIDES_CHANGES,
    ),
    Check(
        "U219",
        "An endpoint of the Service has the address of another namespace's pod, or of a node. The "
        "address comes from the Service's EndpointSlices, and anybody who may write these can "
        "choose it. If the pod does not belong to the same team, clients of this exposure reach "
        "somebody else's server. A controller removes the address of such a pod again, unless an "
        "administrator allows it ([discovery](discovery.md)). It keeps the address of a node.",
        Text(
            "endpoint {address} of {object} is the address of {owner}",
            Remedy(
                "see who wrote it: kubectl get endpointslices -n {object.namespace} -l "
                "kubernetes.io/service-name={object.name} -o yaml --show-managed-fields; if it is "
                "a pod's address and right, let the controller keep it: kubectl annotate "
                "namespace {object.namespace} kubectl-istio-udp/allow-endpoints={address}",
            ),
        ),
    ),
    Check(
        "U221",
        "Neither meshConfig nor a Telemetry enables access logs, so no lines will appear.",
        Text(
            "the mesh writes no access log, so no lines will appear: meshConfig has no "
            "accessLogFile, and no Telemetry enables accessLogging",
            Remedy(
                "set meshConfig.accessLogFile: /dev/stdout (istioctl install --set "
                "meshConfig.accessLogFile=/dev/stdout)",
            ),
        ),
    ),
    Check(
        "U222",
        "The access log applies to no pod with a proxy yet.",
        {
            "mesh": Text(
                "no pod in the mesh has a proxy yet",
            ),
            "mesh, labels": Text(
                "no pod in the mesh has a proxy and the labels {labels} yet",
            ),
            "namespace": Text(
                "no pod in namespace {object.namespace} has a proxy yet",
                Remedy("see them: kubectl get pods -n {object.namespace}"),
            ),
            "namespace, labels": Text(
                "no pod in namespace {object.namespace} has a proxy and the labels {labels} yet",
                Remedy("see them: kubectl get pods -n {object.namespace} -l {labels}"),
            ),
        },
    ),
    Check(
        "U223",
        "The proxies close their open TCP connections within 45 s: Envoy drains a listener when "
        "its filters change. See [access logs](http.md).",
        {
            "": Text(
                "this closes the open TCP connections of {proxies} proxies within 45s: Envoy "
                "drains a listener when its filters change",
            ),
            "one proxy": Text(
                "this closes the open TCP connections of a proxy within 45s: Envoy drains a "
                "listener when its filters change",
            ),
        },
    ),
    Check(
        "U230",
        "With `--gateway-service patch`, the gateway's own Service would have a TCP and a UDP "
        "port with the same number (for example 443 for HTTP/3). Server-side apply distinguishes "
        "them. Client-side `kubectl apply` and Helm merge a Service's ports by number alone: with "
        "the UDP port first in the list, an apply that should change the targetPort of the TCP "
        "port changed the UDP port instead (measured, Kubernetes 1.34). A companion Service only "
        "has UDP ports.",
        Text(
            "{object} has {port}/TCP and gets {port}/UDP, but `kubectl apply` and Helm merge "
            "ports by number alone: they may change the wrong one of the two",
            Remedy("use --gateway-service companion, or another gateway port"),
        ),
    ),
    Check(
        "U241",
        "`validate`: this machine cannot check the patch. A gateway may have files, certificates, "
        "or extensions of Istio's own build that the Envoy on this machine does not have.",
        Text(
            "{reason}",
        ),
    ),
    Check(
        "U301",
        "The companion Service has the same type as the gateway's Service, LoadBalancer. It "
        "creates a separate load balancer with its own address and its own cost. "
        "`--gateway-service patch` uses the gateway's address instead, if the cloud allows UDP "
        "beside TCP.",
        Text(
            "{object} creates a separate load balancer with its own address",
            Remedy("to use the address of {gateway_service}: --gateway-service patch"),
        ),
    ),
    Check(
        "U302",
        "The gateway's pods may not bind a port below 1024. Envoy listens on a port that is "
        "10,000 higher, and the Service in front translates the port. Clients do not notice this.",
        Text(
            "the gateway's pods may not bind port {port}; they listen on {listener_port}/UDP, and "
            "the Service in front translates the port",
        ),
    ),
    Check(
        "U303",
        "The number of client sessions for each port, and the number of new clients a second for "
        "which this is enough. `--expect-rate` computes the number from the rate that you expect. "
        "See [limits](limits.md).",
        Text(
            "each port has {sessions} client sessions, enough for {rate:.3g} new clients a second "
            "(--idle-timeout {idle_timeout})",
            _EXPECT_RATE,
        ),
    ),
    Check(
        "U304",
        "The companion does not get some annotations of the gateway's Service, because they apply "
        "only to its own load balancer. The message gives the reason for each; see [what the "
        "companion takes over](load-balancers.md).",
        Text(
            "{object} does not copy these annotations of {gateway_service}: {annotations}",
        ),
    ),
    Check(
        "U305",
        "The gateway's pods use the network of their nodes. The exposure's ports are open on "
        "every address of these nodes, and can conflict with other programs there, which the "
        "plugin cannot see. Clients that send to a node use the port that the gateway binds; the "
        "companion Service translates as usual.",
        {
            "": Text(
                "{object} uses the network of its nodes: {ports} is open on each of them",
                _CLOSED_PORTS,
            ),
            "translated": Text(
                "{object} uses the network of its nodes: {ports} is open on each of them; clients "
                "that send to a node use these ports, not {gateway_port}",
                _CLOSED_PORTS,
            ),
        },
    ),
    Check(
        "U306",
        "This is printed once, when an exposure is new. Servers see the gateway as their client. "
        "See [who the client is](clients.md).",
        Text(
            "the pods of {object.namespace}/{object.name} see the addresses of the gateway's "
            "pods, not of the clients, and must answer from the port that was queried",
            Remedy("what this means for DNS views, RADIUS, syslog, SIP and TFTP: docs/clients.md"),
        ),
    ),
    Check(
        "U307",
        "`--affinity source-ip` uses the address that the gateway's pods see. With "
        "externalTrafficPolicy Cluster this is the address of a node, not of the client. See [who "
        "the client is](clients.md).",
        Text(
            "--affinity source-ip applies to nodes instead of clients: "
            "{object.namespace}/{object.name} has externalTrafficPolicy Cluster, so the gateway "
            "sees the address of a node",
            Remedy("set externalTrafficPolicy: Local on that Service, then expose again"),
        ),
    ),
)
# Found in files by an Envoy on this machine; all others are found by rules.
CODES_OF_VALIDATE = frozenset({"U141", "U142", "U241"})
CHECKS: Mapping[str, Check] = {check.code: check for check in _CHECKS}
