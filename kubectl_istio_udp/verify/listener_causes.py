"""Rules about the gateway: its listener, its cluster, its sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl_istio_udp.model.envoyfilter import revision_in, revisions
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.proxystate import UdpStatus
from kubectl_istio_udp.render.metadata import revision
from kubectl_istio_udp.verify.cause import (
    CHECK_ISTIOD,
    Cause,
    expose_command,
    labels_text,
    name_of,
    run_again,
    some_of,
)
from kubectl_istio_udp.verify.evidence import Evidence

# From here on clients will soon lose datagrams.
_NEARLY_FULL = 0.9


def not_queried(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The gateway's Envoy could not be read."""
    error = evidence.proxy(pod).error
    return Cause("EnvoyNotQueried", error) if error else None


def probe_too_long(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The probe is longer than the listener's maximum datagram size."""
    return _too_long(evidence, port, evidence.probe_bytes, "the probe")


def answer_too_long(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The answer is longer than the listener's maximum datagram size."""
    return _too_long(evidence, port, evidence.answer_bytes, "the answer")


def _too_long(evidence: Evidence, port: ExposedPort, size: int | None, what: str) -> Cause | None:
    most = evidence.spec.options_of(port).max_datagram_size
    if size is None or size <= most:
        return None
    return Cause(
        "DatagramTooLong",
        f"{what} has {size} bytes, but this exposure forwards at most {most}",
        run_again(evidence, f"--max-datagram-size {size}"),
    )


def rejected(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """Envoy rejected the exposure's configuration."""
    state = evidence.proxy(pod).state
    listener, cluster = evidence.spec.proxy_name(port), evidence.cluster(port)
    wanted = revisions(evidence.envoy_filter or {})
    # Nothing is said here about a resource that the EnvoyFilter does not add any longer.
    listeners = {listener: state.listeners.get(listener, ""), **wanted["LISTENER"]}
    clusters = {cluster: state.clusters.get(cluster, ""), **wanted["CLUSTER"]}
    lack = state.first_lack({listener: listeners[listener]}, {cluster: clusters[cluster]})
    if lack is None or not lack.refusal:
        return None
    reason = f"{lack.what.partition(' ')[0].capitalize()}Rejected"
    return Cause(reason, f"its Envoy rejected {lack.what}: {lack.refusal}")


def filter_elsewhere(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The EnvoyFilter was edited and selects other pods."""
    if evidence.spec.proxy_name(port) in evidence.proxy(pod).state.listeners:
        return None
    spec = (evidence.envoy_filter or {}).get("spec") or {}
    labels = (spec.get("workloadSelector") or {}).get("labels") or {}
    by_target = bool(spec.get("targetRefs"))
    if not by_target and (not labels or dict(labels) == dict(evidence.spec.gateway.selector)):
        return None
    return Cause(
        "FilterSelectsOtherPods",
        f"no listener on {port.listener_port} in {pod}: EnvoyFilter "
        f"{name_of(evidence.envoy_filter)} selects "
        f"{'by targetRefs' if by_target else labels_text(labels)}",
        run_again(evidence, "--force-conflicts"),
    )


def update_rejected(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """Envoy rejects an update as a whole, because of another resource in it."""
    state = evidence.proxy(pod).state
    listener, cluster = evidence.spec.proxy_name(port), evidence.cluster(port)
    waiting = (("LISTENER", listener, state.listeners), ("CLUSTER", cluster, state.clusters))
    if not any(
        name not in present and _adds(evidence, kind, name) for kind, name, present in waiting
    ):
        return None
    names = (listener, cluster)
    others = {other: refusal for other, refusal in state.refusals.items() if other not in names}
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
    return evidence.envoy_filter is None or _added(evidence, kind, name) is not None


def _added(evidence: Evidence, kind: str, name: str) -> Mapping[str, Any] | None:
    """The listener or cluster that the EnvoyFilter adds; None if it does not."""
    patches = ((evidence.envoy_filter or {}).get("spec") or {}).get("configPatches") or ()
    found = (
        (patch.get("patch") or {}).get("value") or {}
        for patch in patches
        if patch.get("applyTo") == kind
    )
    return next((value for value in found if value.get("name") == name), None)


def no_listener(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The gateway's Envoy has no listener for the port."""
    if evidence.spec.proxy_name(port) in evidence.proxy(pod).state.listeners:
        return None
    return Cause(
        "ListenerMissing",
        f"no listener on {port.listener_port} in {pod}",
        f"{run_again(evidence)}; {CHECK_ISTIOD}",
    )


def other_port(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The listener is bound to another port."""
    name = evidence.spec.proxy_name(port)
    bound = evidence.proxy(pod).state.ports.get(name)
    if bound is None or bound == port.listener_port:
        return None
    return Cause(
        "ListenerOnOtherPort",
        f"listener {name} in {pod} is on port {bound}, not {port.listener_port}",
        run_again(evidence, "--force-conflicts"),
    )


def other_cluster(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The listener sends to another cluster."""
    name = evidence.spec.proxy_name(port)
    target = evidence.proxy(pod).state.targets.get(name)
    cluster = evidence.cluster(port)
    if not target or target == cluster:
        return None
    return Cause(
        "ListenerSendsElsewhere",
        f"listener {name} in {pod} sends to cluster {target}, not {cluster}",
        run_again(evidence, "--force-conflicts"),
    )


def no_cluster(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The gateway's Envoy has no cluster for the port."""
    name = evidence.cluster(port)
    if name in evidence.proxy(pod).state.clusters:
        return None
    return Cause("ClusterMissing", f"no cluster {name} in {pod}", run_again(evidence))


def filter_edited(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The listener or cluster in the EnvoyFilter was edited: the content has another revision."""
    names = (("LISTENER", evidence.spec.proxy_name(port)), ("CLUSTER", evidence.cluster(port)))
    for kind, name in names:
        value = _added(evidence, kind, name) or {}
        content = {key: part for key, part in value.items() if key != "metadata"}
        if (written := revision_in(value)) and revision(content) != written:
            return Cause(
                "FilterEdited",
                f"{kind.lower()} {name} in EnvoyFilter {name_of(evidence.envoy_filter)} was edited",
                run_again(evidence, "--force-conflicts"),
            )
    return None


def sessions_full(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
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
        f"allow more: {expose_command(evidence, '--expect-rate N')}; or lower --idle-timeout",
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
                    f"allow more: {expose_command(evidence, '--expect-rate N')}; or lower "
                    "--idle-timeout"
                )
    return warnings


def overrun(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The listener's receive buffer overflowed."""
    dropped = evidence.proxy(pod).dropped
    if not dropped:
        return None
    return Cause(
        "GatewayOverrun",
        f"{pod} does not read datagrams fast enough: the kernel dropped {dropped} datagrams during "
        "this probe",
        "run more gateway pods, or give them more CPU",
    )


def port_shared(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
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


def dropped_in_network(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The network drops the datagrams; an opened session shows on which side of the gateway."""
    hosts = some_of(evidence.hosts(pod, port))
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
        return Cause(
            reason, f"{where} (NetworkPolicies that select these pods: {some_of(policies)})"
        )
    if policies is None:
        return Cause(reason, where, "look for NetworkPolicies: kubectl get networkpolicies -A")
    return Cause(
        reason, where, "no NetworkPolicy selects these pods; check the policies of the CNI"
    )
