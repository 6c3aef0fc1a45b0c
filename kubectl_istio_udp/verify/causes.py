"""Find the cause of a failure from the evidence. Pure: rules only read the evidence.

Each rule looks for one cause and returns it or None. For a hop the first rule that finds its cause
wins. The rules are ordered from certain to likely causes; dropped datagrams in the network come
last, when everything else is excluded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model.balancer import is_pending, pending_remedy, pending_text
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec, GatewayServiceMode
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.proxystate import UdpStatus
from kubectl_istio_udp.model.service import EXPORT_TO_ANNOTATION
from kubectl_istio_udp.model.values import some
from kubectl_istio_udp.verify.evidence import Evidence, PodState
from kubectl_istio_udp.verify.result import LOST, NOT_READ

_CHECK_ISTIOD = "check istiod: kubectl get pods -A -l app=istiod"
# From here on clients will soon lose datagrams.
_NEARLY_FULL = 0.9
_SILENT = ("timeout", "unreachable", LOST, NOT_READ)


@dataclass(frozen=True)
class Cause:
    """Why a hop does not answer, or another problem although all hops answer.

    Attributes:
        reason: one CamelCase word for programs, as in Kubernetes: `StaleAddresses`.
        text: a clause for users; "" if the hop's own answer says everything.
        remedy: what to do or type next; "" if that depends.
    """

    reason: str
    text: str = ""
    remedy: str = ""


Manifest = Mapping[str, Any]
Rule = Callable[[Evidence, ExposedPort, str], Cause | None]


def why_nothing_to_ask(evidence: Evidence, service_port: int | None) -> Cause:
    """Why there is no pod to query for a Service port (None: for the gateway)."""
    if service_port is None:
        return _why_no_gateway(evidence)
    port = next(p for p in evidence.spec.ports if p.service_port == service_port)
    return _first(_NO_ENDPOINT, evidence, port, "")


def why_hop_fails(evidence: Evidence, hop: Hop, outcome: str) -> Cause:
    """Why a hop fails although the hops nearer to the pods do not.

    Args:
        evidence: the evidence.
        hop: the hop.
        outcome: the outcome of its worst answer (see Answer).
    """
    if hop.via is Via.POD:
        return _why_pod_fails(evidence, hop, outcome)
    if missing := missing_cause(evidence):
        return missing
    if hop.via is Via.SERVICE:
        return _why_front_fails(evidence)
    port = next(p for p in evidence.spec.ports if p.listener_port == hop.port)
    silent = outcome in _SILENT
    return _first(_GATEWAY if silent else (*_HOSTS, _other_answer), evidence, port, hop.name)


def _why_pod_fails(evidence: Evidence, hop: Hop, outcome: str) -> Cause:
    if outcome == "unreachable":
        return Cause("PortRefused", f"no process listens on {hop.port}/UDP in the pod")
    if outcome == NOT_READ:
        return Cause("NotRead", "the server is overloaded or hangs")
    if outcome not in ("timeout", LOST):
        return Cause("NameNotResolved" if outcome == "unresolved" else "ErrorAnswer")
    policies = evidence.policies
    text = f"NetworkPolicies that select these pods: {_some(policies)}" if policies else ""
    if outcome == LOST:
        return Cause("NotDelivered", text)
    datagram = evidence.probe_bytes is not None
    return Cause(
        "NoAnswer", text, "if this protocol never answers, add --one-way" if datagram else ""
    )


def _why_no_gateway(evidence: Evidence) -> Cause:
    pods = evidence.gateway_pods
    namespace = evidence.spec.gateway.namespace
    if not pods:
        labels = _labels(evidence.spec.gateway.selector)
        text = f"namespace {namespace} has no gateway pod with the labels {labels}"
        return Cause("GatewayWithoutPods", text, f"kubectl get deployments -n {namespace}")
    remedy = f"kubectl describe pod -n {namespace} {pods[0].name}"
    return Cause("GatewayNotReady", f"it has {len(pods)} pod(s), {_not_ready(pods)}", remedy)


def _why_front_fails(evidence: Evidence) -> Cause:
    found = front_cause(evidence)
    if found:
        return found
    spec = (evidence.front or {}).get("spec") or {}
    if spec.get("internalTrafficPolicy") == "Local":
        text = f"{_front_name(evidence)} has internalTrafficPolicy Local: it only leads to gateway "
        return Cause(
            "InternalTrafficPolicy",
            text + "pods on the client's node",
            "run a gateway pod on each node, or set internalTrafficPolicy: Cluster",
        )
    return Cause(
        "ServiceNotProgrammed",
        "the Service is correct, but kube-proxy (or its replacement) does not forward it",
        "kubectl get pods -n kube-system",
    )


def front_cause(evidence: Evidence) -> Cause | None:
    """The problem with the Service in front of the gateway, if any."""
    return next((c for rule in _FRONT if (c := rule(evidence))), None)


def host_cause(evidence: Evidence) -> Cause | None:
    """A gateway pod sends datagrams to other addresses than the Service has, if so."""
    for pod, proxy in sorted(evidence.proxies.items()):
        for port in evidence.spec.ports:
            if proxy.error:
                continue
            found = next((c for rule in _HOSTS if (c := rule(evidence, port, pod))), None)
            if found:
                return found
    return None


def second_entry(evidence: Evidence) -> Cause | None:
    """Another ServiceEntry has the exposure's host, and its endpoints may get datagrams."""
    if not evidence.same_host:
        return None
    return Cause(
        "HostTaken",
        f"ServiceEntry {evidence.same_host} has the same host as this exposure, and its endpoints "
        "may get the datagrams",
        "delete that ServiceEntry, or its host",
    )


def no_address(evidence: Evidence, why_pending: Callable[[Manifest], str]) -> Cause | None:
    """Clients outside the cluster have no address, although every hop answers.

    Args:
        evidence: the evidence.
        why_pending: reads why a load balancer has no address; only called if it has none.
    """
    front = evidence.front
    if front is None or not is_pending(front):
        return None
    why = why_pending(front)
    return Cause(
        "NoAddress",
        f"clients outside the cluster cannot reach it: {pending_text(front, why)}",
        pending_remedy(front, why),
    )


def missing_cause(evidence: Evidence) -> Cause | None:
    """The first missing object of the exposure, if any."""
    if not evidence.missing:
        return None
    return Cause("ObjectMissing", f"{evidence.missing[0]} is missing", _again(evidence.spec))


def _first(rules: Iterable[Rule], evidence: Evidence, port: ExposedPort, pod: str) -> Cause:
    return next(c for rule in rules if (c := rule(evidence, port, pod)))


# -- no endpoint --------------------------------------------------------------------------------


def _port_gone(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    service, spec = evidence.service, evidence.spec
    if any(p.port == port.service_port for p in service.udp_ports):
        return None
    renumbered = [p for p in service.udp_ports if p.name and p.name == port.service_port_name]
    if renumbered:
        now = f"its port {renumbered[0].name} is {renumbered[0].port} now"
    elif service.udp_ports:
        now = f"its UDP ports: {some(service.udp_ports, 5)}"
    else:
        now = "it has no UDP port"
    to = renumbered[0].port if renumbered else "SERVICE_PORT"
    return Cause(
        "ServicePortGone",
        f"Service {service} no longer has port {port.service_port}/UDP ({now})",
        f"kubectl istio-udp expose {spec.service} -n {spec.namespace} -p {port.gateway_port}:{to}",
    )


def _no_pods(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    service = evidence.service
    if evidence.pods != () or not service.selector:
        return None
    return Cause(
        "NoPods",
        f"Service {service} selects {_labels(service.selector)}, and no pod in namespace "
        f"{service.namespace} has these labels",
        f"kubectl get pods -n {service.namespace} --show-labels",
    )


def _pods_not_ready(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    pods, service = evidence.pods, evidence.service
    if not pods or any(p.ready for p in pods):
        return None
    return Cause(
        "PodsNotReady",
        f"Service {service} has {len(pods)} pod(s), {_not_ready(pods)}",
        f"kubectl describe pod -n {service.namespace} {pods[0].name}",
    )


def _target_port_missing(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    service = evidence.service
    named = [
        p.target_port
        for p in service.udp_ports
        if p.port == port.service_port and isinstance(p.target_port, str)
    ]
    if not named or not evidence.pods:
        return None
    return Cause(
        "TargetPortMissing",
        f"no ready pod of Service {service} declares a UDP container port named {named[0]}",
        "declare it in the pods' containers, or give the Service's port a number as targetPort",
    )


def _no_endpoints(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    service = evidence.service
    return Cause(
        "NoEndpoints",
        f"Service {service} has no ready endpoints for {port.service_port}/UDP",
        f"kubectl get endpointslices -n {service.namespace} "
        f"-l kubernetes.io/service-name={service.name}",
    )


_NO_ENDPOINT: tuple[Rule, ...] = (
    _port_gone,
    _no_pods,
    _pods_not_ready,
    _target_port_missing,
    _no_endpoints,
)


# -- the gateway's Envoy ------------------------------------------------------------------------


def _not_asked(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    error = evidence.proxy(pod).error
    return Cause("ProxyNotAsked", error) if error else None


def _probe_too_long(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    return _too_long(evidence, evidence.probe_bytes, "the probe")


def _answer_too_long(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    return _too_long(evidence, evidence.answer_bytes, "the answer")


def _too_long(evidence: Evidence, size: int | None, what: str) -> Cause | None:
    most = evidence.spec.options.max_datagram_size
    if size is None or size <= most:
        return None
    return Cause(
        "DatagramTooLong",
        f"{what} has {size} bytes, but this exposure forwards at most {most}",
        _again(evidence.spec, f"--max-datagram-size {size}"),
    )


def _rejected(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    state, name = evidence.proxy(pod).state, evidence.spec.proxy_name(port)
    there = name in state.listeners and name in state.clusters
    if name not in state.refusals or there:
        return None
    what = "Cluster" if name in state.listeners else "Listener"
    return Cause(
        f"{what}Rejected", f"its Envoy rejected {what.lower()} {name}: {state.refusals[name].why}"
    )


def _filter_elsewhere(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The EnvoyFilter was edited and selects other pods."""
    if evidence.spec.proxy_name(port) in evidence.proxy(pod).state.listeners:
        return None
    selector = ((evidence.envoy_filter or {}).get("spec") or {}).get("workloadSelector") or {}
    labels = selector.get("labels")
    if labels is None or dict(labels) == dict(evidence.spec.gateway.selector):
        return None
    return Cause(
        "FilterSelectsOtherPods",
        f"no listener on {port.listener_port} in {pod}: EnvoyFilter "
        f"{_name(evidence.envoy_filter)} selects {_labels(labels)}",
        _again(evidence.spec, "--force-conflicts"),
    )


def _held_up(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """Envoy rejects an update as a whole, because of another resource in it."""
    state, name = evidence.proxy(pod).state, evidence.spec.proxy_name(port)
    waiting = (("LISTENER", state.listeners), ("CLUSTER", state.clusters))
    if not any(name not in there and _adds(evidence, kind, name) for kind, there in waiting):
        return None
    others = {other: refusal for other, refusal in state.refusals.items() if other != name}
    if not others:
        return None
    other = min(others)
    return Cause(
        "UpdateRejected",
        f"{pod} does not have port {port.listener_port}; its Envoy rejects {other}, which blocks "
        f"other configuration: {others[other].why}",
        f"find the EnvoyFilter that adds {other}, and correct it",
    )


def _adds(evidence: Evidence, kind: str, name: str) -> bool:
    """Whether the EnvoyFilter adds the resource; otherwise no rejection can block it."""
    if evidence.envoy_filter is None:
        return True
    patches = (evidence.envoy_filter.get("spec") or {}).get("configPatches") or ()
    return any(
        patch.get("applyTo") == kind
        and ((patch.get("patch") or {}).get("value") or {}).get("name") == name
        for patch in patches
    )


def _no_listener(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    if evidence.spec.proxy_name(port) in evidence.proxy(pod).state.listeners:
        return None
    return Cause(
        "ListenerMissing",
        f"no listener on {port.listener_port} in {pod}",
        f"{_again(evidence.spec)}; {_CHECK_ISTIOD}",
    )


def _other_port(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    name = evidence.spec.proxy_name(port)
    bound = evidence.proxy(pod).state.ports.get(name)
    if bound is None or bound == port.listener_port:
        return None
    return Cause(
        "ListenerOnOtherPort",
        f"listener {name} in {pod} is on port {bound}, not {port.listener_port}",
        _again(evidence.spec, "--force-conflicts"),
    )


def _other_cluster(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    name = evidence.spec.proxy_name(port)
    target = evidence.proxy(pod).state.targets.get(name)
    if not target or target == name:
        return None
    return Cause(
        "ListenerSendsElsewhere",
        f"listener {name} in {pod} sends to cluster {target}, not {name}",
        _again(evidence.spec, "--force-conflicts"),
    )


def _no_cluster(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    name = evidence.spec.proxy_name(port)
    if name in evidence.proxy(pod).state.clusters:
        return None
    return Cause("ClusterMissing", f"no cluster {name} in {pod}", _again(evidence.spec))


def _sessions_full(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """Each session is a socket connected to one of the cluster's hosts."""
    sockets = evidence.proxy(pod).sockets
    most = evidence.spec.options.max_sessions
    hosts = evidence.hosts(pod, port)
    used = UdpStatus(sockets or ()).connected_to(hosts)
    if not sockets or used < most:
        return None
    return Cause(
        "SessionsFull",
        f"{pod} has {used} open sessions for port {port.service_port}, and this exposure allows "
        f"{most}: Envoy drops the datagrams of additional clients",
        f"allow more: {_command(evidence.spec, '--expect-rate N')}; or lower --idle-timeout",
    )


def nearly_full(evidence: Evidence) -> list[str]:
    """A warning for each port whose sessions are nearly all in use in a gateway pod."""
    most = evidence.spec.options.max_sessions
    warnings = []
    for pod, proxy in evidence.proxies.items():
        for port in evidence.spec.ports:
            hosts = evidence.hosts(pod, port)
            used = UdpStatus(proxy.sockets or ()).connected_to(hosts)
            if used >= _NEARLY_FULL * most:
                warnings.append(
                    f"{pod} has {used} open sessions to the endpoints of port {port}, and this "
                    f"exposure allows {most}: Envoy drops the datagrams of additional clients; to "
                    f"allow more: {_command(evidence.spec, '--expect-rate N')}; or lower "
                    "--idle-timeout"
                )
    return warnings


def _overrun(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    dropped = evidence.proxy(pod).dropped
    if not dropped:
        return None
    return Cause(
        "GatewayOverrun",
        f"{pod} does not read datagrams fast enough: the kernel dropped {dropped} datagrams during "
        "this probe",
        "run more gateway pods, or give them more CPU",
    )


def _port_shared(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """Sockets with different addresses have the port, so one belongs to another listener.

    Envoy keeps a removed listener until it is drained, and the kernel still gives it datagrams
    (measured; docs/measurements.md).
    """
    sockets = evidence.proxy(pod).sockets or ()
    bound = {s.local for s in sockets if s.port == port.listener_port and not s.remote}
    if len(bound) < 2:
        return None
    return Cause(
        "PortShared",
        f"{pod} has another listener on port {port.listener_port}, which gets some of the "
        f"datagrams ({', '.join(sorted(bound))}); Envoy closes a removed listener after 45 s",
        "verify again in a minute; if it is still there, look for the EnvoyFilter that adds it",
    )


def _between(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """Everything else is excluded; an opened session shows on which side the datagrams are lost."""
    hosts = _some(evidence.hosts(pod, port))
    reached = evidence.proxy(pod).reached
    if reached:
        where = f"{pod} sends to {hosts}, but gets no answer: datagrams are dropped between them"
    elif reached is False:
        where = f"datagrams are dropped between the network-tool pod and {pod}"
    else:
        where = f"{pod} has listener and cluster with {hosts}; datagrams are dropped between them"
    reason = "DroppedBeforeGateway" if reached is False else "DroppedBehindGateway"
    policies = evidence.policies
    if policies:
        return Cause(reason, f"{where} (NetworkPolicies that select these pods: {_some(policies)})")
    if policies is None:
        return Cause(reason, where, "look for NetworkPolicies: kubectl get networkpolicies -A")
    return Cause(
        reason, where, "no NetworkPolicy selects these pods; check the policies of the CNI"
    )


# -- the hosts that a gateway sends to ----------------------------------------------------------


def _hosts_agree(evidence: Evidence, port: ExposedPort, pod: str) -> bool:
    dns = evidence.spec.discovery is Discovery.DNS
    return dns or evidence.hosts(pod, port) == evidence.addresses(port)


def _host_taken(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    if _hosts_agree(evidence, port, pod) or not evidence.same_host or port.eds_service:
        return None
    return Cause(
        "HostTaken",
        f"ServiceEntry {evidence.same_host} has the same host as this exposure, and istiod "
        f"sends its endpoints to the gateway; {_sends(evidence, port, pod)}",
        f"delete that ServiceEntry, or its host; then {_again(evidence.spec)}",
    )


def _twin_gone(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The endpoints come from the Service's TCP port with the same number."""
    if not port.eds_service or _hosts_agree(evidence, port, pod):
        return None
    service, number = evidence.service, port.service_port
    udp = [p for p in service.udp_ports if p.port == number]
    if udp and service.tcp_twin(udp[0]):
        return None
    tcp = next((p for p in service.ports if p.protocol == "TCP" and p.port == number), None)
    now = f"leads to another target ({tcp.target_port})" if tcp else "is gone"
    return Cause(
        "TwinPortGone",
        f"the gateway gets its endpoints from port {number}/TCP of Service {service}, which "
        f"{now}; {_sends(evidence, port, pod)}",
        _again(evidence.spec),
    )


def _twin_hidden(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    exported = evidence.service.export_to
    if not port.eds_service or _hosts_agree(evidence, port, pod) or not exported:
        return None
    gateway = evidence.spec.gateway.namespace
    if evidence.service.is_exported_to(gateway, ()):
        return None
    return Cause(
        "ServiceNotExported",
        f"Service {evidence.service} is exported to {', '.join(exported)} only (annotation "
        f"{EXPORT_TO_ANNOTATION}), so the gateway does not get its endpoints",
        f"add {gateway} to the annotation, or expose with --discovery endpoints",
    )


def _selector_changed(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    if evidence.spec.discovery is not Discovery.SELECTOR or port.eds_service:
        return None
    if _hosts_agree(evidence, port, pod):
        return None
    for entry in evidence.entries:
        selector = (entry.get("spec") or {}).get("workloadSelector") or {}
        written = selector.get("labels") or {}
        if dict(written) != dict(evidence.service.selector):
            return Cause(
                "SelectorChanged",
                f"Service {evidence.service} selects {_labels(evidence.service.selector)}, but "
                f"ServiceEntry {_name(entry)} selects {_labels(written)}; "
                f"{_sends(evidence, port, pod)}",
                _again(evidence.spec),
            )
    return None


def _target_changed(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    has, should = evidence.hosts(pod, port), evidence.addresses(port)
    if evidence.spec.discovery is Discovery.DNS or not has or not should:
        return None
    before, now = _numbers(has), _numbers(should)
    if before & now or port.eds_service:
        return None
    return Cause(
        "TargetPortChanged",
        f"port {port.service_port} of Service {evidence.service} now leads to target port "
        f"{_some(now)}; {_sends(evidence, port, pod)}",
        _again(evidence.spec),
    )


def _stale(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    written = evidence.spec.discovery in (Discovery.STATIC, Discovery.ENDPOINTS)
    if not written or port.eds_service or _hosts_agree(evidence, port, pod):
        return None
    return Cause("StaleAddresses", _sends(evidence, port, pod), _again(evidence.spec))


def _foreign(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    foreign = (
        evidence.hosts(pod, port) - evidence.addresses(port)
        if not _hosts_agree(evidence, port, pod)
        else frozenset()
    )
    if not foreign:
        return None
    namespace = evidence.spec.namespace
    return Cause(
        "ForeignHosts",
        f"{_sends(evidence, port, pod)}: {_some(foreign)} is not an endpoint of the Service",
        "look for what has these addresses: "
        f"kubectl get workloadentries,serviceentries -n {namespace} -o wide",
    )


def _not_sent(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """Something that istiod should have sent is missing."""
    if _hosts_agree(evidence, port, pod):
        return None
    name = evidence.spec.proxy_name(port)
    if not evidence.hosts(pod, port):
        return Cause(
            "NoHosts",
            f"cluster {name} of {pod} has no hosts: istiod sends no endpoints of Service "
            f"{evidence.service}",
            f"{_CHECK_ISTIOD}, and whether it watches namespace {evidence.spec.namespace}",
        )
    return Cause(
        "HostsMissing",
        _sends(evidence, port, pod),
        _CHECK_ISTIOD,
    )


def _other_answer(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The gateway forwards another server's answer, and there is no evidence why."""
    return Cause("ErrorAnswer")


_HOSTS: tuple[Rule, ...] = (
    _host_taken,
    _twin_gone,
    _twin_hidden,
    _selector_changed,
    _target_changed,
    _stale,
    _foreign,
    _not_sent,
)
_GATEWAY: tuple[Rule, ...] = (
    _probe_too_long,
    _not_asked,
    _rejected,
    _filter_elsewhere,
    _held_up,
    _no_listener,
    _other_port,
    _other_cluster,
    _no_cluster,
    *_HOSTS,
    _answer_too_long,
    _sessions_full,
    _overrun,
    _port_shared,
    _between,
)


# -- the Service in front -----------------------------------------------------------------------


def _front_missing(evidence: Evidence) -> Cause | None:
    spec = evidence.spec
    if evidence.front or spec.options.gateway_service is GatewayServiceMode.NONE:
        return None
    return Cause(
        "FrontServiceMissing", f"no Service leads to the gateway for {spec.name}", _again(spec)
    )


def _front_selector(evidence: Evidence) -> Cause | None:
    if evidence.front is None:
        return None
    selector = evidence.front["spec"].get("selector") or {}
    companion = evidence.spec.options.gateway_service is GatewayServiceMode.COMPANION
    changed = companion and selector != dict(evidence.spec.gateway.selector)
    nobody = evidence.gateway_pods and not any(
        selector.items() <= pod.labels.items() for pod in evidence.gateway_pods
    )
    if not changed and not (selector and nobody):
        return None
    return Cause(
        "FrontServiceSelector",
        f"the selector of {_front_name(evidence)}, {_labels(selector)}, is not the gateway's",
        _again(evidence.spec, "--force-conflicts"),
    )


def _front_ports(evidence: Evidence) -> Cause | None:
    if evidence.front is None:
        return None
    leads = {
        entry["port"]: entry.get("targetPort", entry["port"])
        for entry in evidence.front["spec"].get("ports") or ()
        if entry.get("protocol") == "UDP"
    }
    name, remedy = _front_name(evidence), _again(evidence.spec, "--force-conflicts")
    for port in evidence.spec.ports:
        if port.gateway_port not in leads:
            text = f"{name} has no port {port.gateway_port}/UDP"
            return Cause("FrontServicePort", text, remedy)
        target = leads[port.gateway_port]
        if target != port.listener_port:
            text = f"port {port.gateway_port} of {name} leads to {target}, not {port.listener_port}"
            return Cause("FrontServiceTarget", text, remedy)
    return None


_FRONT = (_front_missing, _front_selector, _front_ports)


# -- words --------------------------------------------------------------------------------------


def _again(spec: ExposureSpec, *flags: str) -> str:
    return f"run again: {_command(spec, *flags)}"


def _command(spec: ExposureSpec, *flags: str) -> str:
    """The `expose` command that keeps an exposure's settings except for those in flags."""
    name = [] if spec.name == spec.service else [f"--name {spec.name}"]
    start = f"kubectl istio-udp expose -n {spec.namespace} {spec.service}"
    return " ".join([start, *name, *flags])


def _sends(evidence: Evidence, port: ExposedPort, pod: str) -> str:
    hosts, addresses = evidence.hosts(pod, port), evidence.addresses(port)
    has, should = _listed(hosts) or "nowhere", _listed(addresses) or "no ready endpoints"
    name = evidence.spec.service
    return f"gateway {pod} sends port {port.service_port} to {has}, but Service {name} has {should}"


def _not_ready(pods: Iterable[PodState]) -> str:
    waiting = [f"{pod.name}: {pod.why}" for pod in pods if not pod.ready]
    return f"none is ready ({_some(waiting)})"


def _numbers(addresses: Iterable[str]) -> frozenset[str]:
    return frozenset(address.rpartition(":")[2] for address in addresses)


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "no label"


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(sorted(texts))


def _some(texts: Iterable[str]) -> str:
    return some(sorted(texts))


def _name(manifest: Mapping[str, object] | None) -> str:
    metadata = (manifest or {}).get("metadata")
    if not isinstance(metadata, Mapping):
        return ""
    return f"{metadata['namespace']}/{metadata['name']}"


def _front_name(evidence: Evidence) -> str:
    return f"Service {_name(evidence.front)}"
