"""Gather the evidence about an exposure.

A successful `verify` needs little evidence, which is read in parallel to the probes. The rest is
only read after a failed probe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubectl_istio_udp.kube.client import Api, selector_of
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model.entries import EntryIndex, EntrySummary, same_host
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import PROXY_CONTAINER
from kubectl_istio_udp.model.hop import Hop
from kubectl_istio_udp.model.mesh import selector_matches
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.model.proxystate import ProxyState, Refusal, UdpStatus
from kubectl_istio_udp.model.service import EndpointSlice, Service
from kubectl_istio_udp.state import proxies
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.services import service_entries
from kubectl_istio_udp.verify.evidence import Evidence, PodState, ProxyEvidence
from kubectl_istio_udp.verify.hops import Outer

# A datagram takes microseconds to the gateway, and its Envoy opens the session at once.
_ARRIVAL_SECONDS = 0.2
# How many seconds of a proxy's log are searched for a rejection.
_LOG_SECONDS = 600


@dataclass(frozen=True)
class FailedProbe:
    """The failed probe.

    Attributes:
        size: the length of its datagram in bytes; None if unknown.
        longest_answer: the length of a pod's longest answer in bytes; None without one.
        silent: the gateway hops without an answer.
        again: sends the probe to a hop once more, and waits for its answer or timeout.
    """

    size: int | None
    longest_answer: int | None
    silent: Sequence[Hop]
    again: Callable[[Hop], object]


# For problems although every hop answered.
NOTHING_SENT = FailedProbe(None, None, (), lambda _hop: None)


def known(
    existing: Existing,
    spec: ExposureSpec,
    service: Service,
    slices: tuple[EndpointSlice, ...],
    outer: Outer,
    refused: Mapping[str, str],
) -> Evidence:
    """The evidence from objects that were already read.

    Args:
        existing, spec: the exposure.
        service, slices: its Service and EndpointSlices, without refused endpoints.
        refused: the refused endpoints, with the reason.
        outer: the gateway's pods and the Service in front.
    """
    objects = existing.objects
    return Evidence(
        spec=spec,
        service=service,
        slices=slices,
        refused=refused,
        gateway_pods=tuple(map(PodState.from_object, outer.pods)),
        entries=tuple(o for o in objects if o["kind"] == "ServiceEntry"),
        envoy_filter=existing.object("EnvoyFilter"),
        front=outer.front,
        declared=existing.source is not None,
        missing=existing.missing,
        families=outer.families,
    )


def with_proxies(api: Api, evidence: Evidence) -> Evidence:
    """Add the state of each ready gateway pod's Envoy, and other ServiceEntries with its hosts."""
    pods = [pod.name for pod in evidence.gateway_pods if pod.ready]
    found, other = in_parallel(
        [
            lambda: for_each(lambda pod: _proxy(api, evidence.spec, pod), pods),
            lambda: _same_host(api, evidence.spec),
        ]
    )
    return replace(evidence, proxies=dict(zip(pods, found, strict=True)), same_host=other)


def with_proxies_and_sockets(api: Api, evidence: Evidence) -> Evidence:
    """Like `with_proxies`, and add each ready gateway pod's UDP sockets; reads in parallel."""
    pods = [pod.name for pod in evidence.gateway_pods if pod.ready]
    with_envoys, found = in_parallel(
        [
            lambda: with_proxies(api, evidence),
            lambda: for_each(
                lambda pod: _udp_status(api, evidence.spec.gateway.namespace, pod), pods
            ),
        ]
    )
    seen = {
        pod: replace(with_envoys.proxies[pod], sockets=udp.sockets)
        for pod, udp in zip(pods, found, strict=True)
        if udp and not with_envoys.proxies[pod].error
    }
    return replace(
        evidence, proxies={**with_envoys.proxies, **seen}, same_host=with_envoys.same_host
    )


def gather(api: Api, evidence: Evidence, sent: FailedProbe) -> Evidence:
    """Add everything that may explain a failure, except what may not be read.

    Raises:
        Unreachable: the API server can no longer be reached.
    """
    pods, policies, with_envoys = in_parallel(
        [
            lambda: _service_pods(api, evidence.service),
            lambda: _policies(api, evidence),
            lambda: with_proxies(api, evidence),
        ]
    )
    evidence = replace(
        evidence,
        pods=None if pods is None else tuple(map(PodState.from_object, pods)),
        same_host=with_envoys.same_host,
        policies=_selecting(policies, evidence, pods or ()),
        proxies=with_envoys.proxies,
        probe_bytes=sent.size,
        answer_bytes=sent.longest_answer,
    )
    probed = for_each(lambda hop: _probe_again(api, evidence, hop, sent), sent.silent)
    return replace(evidence, proxies={**evidence.proxies, **dict(probed)})


def _proxy(api: Api, spec: ExposureSpec, pod: str) -> ProxyEvidence:
    try:
        state = proxies.proxy_state(api, spec.gateway.namespace, pod, f"{spec.object_name}-")
    except ClusterError as error:
        return ProxyEvidence(error=error.message)
    return ProxyEvidence(state)


def _probe_again(
    api: Api, evidence: Evidence, hop: Hop, sent: FailedProbe
) -> tuple[str, ProxyEvidence]:
    """Send the probe once more, and read from the gateway pod's sockets what happens to it."""
    found = evidence.proxy(hop.name)
    spec = evidence.spec
    port = next(p for p in spec.ports if p.listener_port == hop.port)
    hosts = evidence.hosts(hop.name, port)
    if found.error or not hosts:
        return hop.name, replace(
            found, state=_with_logged_refusals(api, spec, hop.name, found.state)
        )
    before = _udp_status(api, spec.gateway.namespace, hop.name)
    if before is None:
        return hop.name, found
    sent.again(hop)
    time.sleep(_ARRIVAL_SECONDS)
    after = _udp_status(api, spec.gateway.namespace, hop.name) or before
    open_before = {(socket.local, socket.remote) for socket in before.sockets}
    opened = [
        s for s in after.sockets if s.remote in hosts and (s.local, s.remote) not in open_before
    ]
    return hop.name, replace(
        found,
        sockets=after.sockets,
        reached=bool(opened),
        dropped=_dropped(after, hop.port) - _dropped(before, hop.port),
    )


def _dropped(status: UdpStatus, port: int) -> int:
    return sum(
        socket.drops for socket in status.sockets if socket.port == port and not socket.remote
    )


def _udp_status(api: Api, namespace: str, pod: str) -> UdpStatus | None:
    try:
        return proxies.udp_status(api, namespace, pod, PROXY_CONTAINER)
    except ClusterError:
        return None


def _with_logged_refusals(api: Api, spec: ExposureSpec, pod: str, state: ProxyState) -> ProxyState:
    """Add rejected clusters, which only appear in the proxy's log."""
    logged = proxies.refusals_in_log(api, spec.gateway.namespace, pod, _LOG_SECONDS)
    found = {name: Refusal(why) for name, why in logged.items()}
    return replace(state, refusals={**found, **state.refusals})


def _service_pods(api: Api, service: Service) -> list[dict[str, Any]] | None:
    if not service.selector:
        return None
    try:
        return api.list("Pod", service.namespace, selector_of(service.selector))
    except ClusterError:
        return None


def _same_host(api: Api, spec: ExposureSpec) -> str:
    """Another ServiceEntry with a host of this exposure, as `namespace/name`; "" if none."""
    if not spec.entries:
        return ""
    gateway = spec.gateway.namespace
    try:
        found = service_entries(api, [spec.namespace, gateway])
    except ClusterError:
        return ""
    everywhere = EntryIndex.of(map(EntrySummary.from_object, found))
    others = same_host(spec.key, spec.entries, everywhere, gateway)
    return f"{others[0].namespace}/{others[0].name}" if others else ""


def _policies(api: Api, evidence: Evidence) -> list[dict[str, Any]] | None:
    namespaces = sorted({evidence.service.namespace, evidence.spec.gateway.namespace})
    found = for_each(lambda namespace: _list(api, "NetworkPolicy", namespace), namespaces)
    lists = [each for each in found if each is not None]
    return [policy for each in lists for policy in each] if lists else None


def _list(api: Api, kind: str, namespace: str) -> list[dict[str, Any]] | None:
    try:
        return api.list(kind, namespace)
    except ClusterError:
        return None


def _selecting(
    policies: Iterable[Mapping[str, Any]] | None,
    evidence: Evidence,
    pods: Iterable[Mapping[str, Any]],
) -> tuple[str, ...] | None:
    """The policies that select one of the pods."""
    if policies is None:
        return None
    labels = {evidence.service.namespace: [pod["metadata"].get("labels") or {} for pod in pods]}
    for pod in evidence.gateway_pods:
        labels.setdefault(evidence.spec.gateway.namespace, []).append(dict(pod.labels))
    return tuple(
        "/".join(namespaced_name(policy))
        for policy in policies
        if any(
            selector_matches(policy["spec"].get("podSelector") or {}, each)
            for each in labels.get(policy["metadata"]["namespace"], ())
        )
    )
