"""Find the cause of a failure from the evidence. Pure: rules only read the evidence.

Each rule looks for one cause and returns it or None. The first rule that finds a cause wins. The
rules are ordered from certain to likely causes. Datagrams dropped in the network come last, when
everything else is excluded.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.verify import endpoint_causes, front_causes, listener_causes, pod_causes
from kubectl_istio_udp.verify.cause import Cause, Rule, labels_text, none_ready, run_again, some_of
from kubectl_istio_udp.verify.evidence import Evidence
from kubectl_istio_udp.verify.tool_output import LOST, NOT_READ

NOT_PROGRAMMED = "ServiceNotProgrammed"
_SILENT = ("timeout", "unreachable", LOST, NOT_READ)


def why_nothing_to_query(evidence: Evidence, service_port: int | None) -> Cause:
    """Why there is no pod to query for a Service port (None: for the gateway)."""
    if service_port is None:
        return _why_no_gateway(evidence)
    port = next(p for p in evidence.spec.ports if p.service_port == service_port)
    return _first(_NO_ENDPOINT, evidence, port, "")


def why_hop_fails(evidence: Evidence, hop: Hop, outcome: str) -> Cause:
    """Why a hop fails although the hops closer to the pods work.

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
        return why_front_fails(evidence)
    port = next(p for p in evidence.spec.ports if p.listener_port == hop.port)
    silent = outcome in _SILENT
    rules = _GATEWAY if silent else (*_HOSTS, endpoint_causes.other_answer)
    return _first(rules, evidence, port, hop.name)


def _why_pod_fails(evidence: Evidence, hop: Hop, outcome: str) -> Cause:
    if outcome == "unreachable":
        return Cause("PortRefused", f"no process listens on {hop.port}/UDP in the pod")
    if outcome == NOT_READ:
        return Cause("NotRead", "the server is overloaded or hangs")
    if outcome not in ("timeout", LOST):
        return Cause("NameNotResolved" if outcome == "unresolved" else "ErrorAnswer")
    policies = evidence.policies
    text = f"NetworkPolicies that select these pods: {some_of(policies)}" if policies else ""
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
        labels = labels_text(evidence.spec.gateway.selector)
        text = f"namespace {namespace} has no gateway pod with the labels {labels}"
        return Cause("GatewayWithoutPods", text, f"kubectl get deployments -n {namespace}")
    remedy = f"kubectl describe pod -n {namespace} {pods[0].name}"
    return Cause("GatewayNotReady", f"it has {len(pods)} pod(s), {none_ready(pods)}", remedy)


def why_front_fails(evidence: Evidence) -> Cause:
    """Why the Service in front of the gateway does not answer, although the gateway does."""
    found = front_cause(evidence)
    if found:
        return found
    spec = (evidence.front or {}).get("spec") or {}
    if spec.get("internalTrafficPolicy") == "Local":
        front = front_causes.front_name(evidence)
        text = f"{front} has internalTrafficPolicy Local: it only leads to gateway "
        return Cause(
            "InternalTrafficPolicy",
            text + "pods on the client's node",
            "run a gateway pod on each node, or set internalTrafficPolicy: Cluster",
        )
    return Cause(
        NOT_PROGRAMMED,
        "the Service is correct, but kube-proxy (or its replacement) does not forward it",
        "kubectl get pods -n kube-system",
    )


def front_cause(evidence: Evidence) -> Cause | None:
    """The problem with the Service in front of the gateway, if any."""
    return next((c for rule in _FRONT if (c := rule(evidence))), None)


def host_cause(evidence: Evidence) -> Cause | None:
    """The cause if a gateway pod sends datagrams to addresses that the Service does not have."""
    for pod, proxy in sorted(evidence.proxies.items()):
        for port in evidence.spec.ports:
            if proxy.error:
                continue
            found = next((c for rule in _HOSTS if (c := rule(evidence, port, pod))), None)
            if found:
                return found
    return None


def second_entry(evidence: Evidence) -> Cause | None:
    """Another ServiceEntry with the exposure's host, whose endpoints may get datagrams."""
    if not evidence.same_host:
        return None
    return Cause(
        "HostTaken",
        f"ServiceEntry {evidence.same_host} has the same host as this exposure, and its endpoints "
        "may get the datagrams",
        "delete the ServiceEntry, or remove this host from it",
    )


def missing_cause(evidence: Evidence) -> Cause | None:
    """The first missing object of the exposure, if any."""
    if not evidence.missing:
        return None
    return Cause("ObjectMissing", f"{evidence.missing[0]} is missing", run_again(evidence))


def _first(rules: Iterable[Rule], evidence: Evidence, port: ExposedPort, pod: str) -> Cause:
    return next(c for rule in rules if (c := rule(evidence, port, pod)))


# -- no endpoint --------------------------------------------------------------------------------


_NO_ENDPOINT: tuple[Rule, ...] = (
    pod_causes.port_gone,
    pod_causes.all_refused,
    pod_causes.no_pods,
    pod_causes.pods_not_ready,
    pod_causes.target_port_missing,
    pod_causes.no_endpoints,
)


# -- the gateway's Envoy, and the hosts that it sends to ----------------------------------------


_HOSTS: tuple[Rule, ...] = (
    endpoint_causes.host_taken,
    endpoint_causes.twin_gone,
    endpoint_causes.service_not_exported,
    endpoint_causes.entry_edited,
    endpoint_causes.selector_changed,
    endpoint_causes.target_changed,
    endpoint_causes.stale,
    endpoint_causes.foreign,
    endpoint_causes.not_sent,
)
_GATEWAY: tuple[Rule, ...] = (
    listener_causes.probe_too_long,
    listener_causes.not_queried,
    listener_causes.rejected,
    listener_causes.filter_elsewhere,
    listener_causes.update_rejected,
    listener_causes.no_listener,
    listener_causes.other_port,
    listener_causes.other_cluster,
    listener_causes.no_cluster,
    listener_causes.filter_edited,
    *_HOSTS,
    listener_causes.answer_too_long,
    listener_causes.sessions_full,
    listener_causes.overrun,
    listener_causes.port_shared,
    listener_causes.dropped_in_network,
)


# -- the Service in front -----------------------------------------------------------------------


_FRONT = (
    front_causes.front_missing,
    front_causes.front_leaving,
    front_causes.front_selector,
    front_causes.front_ports,
)
