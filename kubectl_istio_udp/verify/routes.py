"""`verify` for the exposure of a Gateway: each listener, its route, and the route's backends.

The gateway chooses the backend by a hash of the client's port or address, so a probe through it
reaches one backend only. The pods of all backends are queried directly, and the addresses of every
cluster in the gateway's Envoys are compared with the ready endpoints of its Service.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import begun, for_each, in_parallel
from kubectl_istio_udp.kube.reads import Reads
from kubectl_istio_udp.model.errors import NotFound, UsageError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gatewayapi import Key
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.ports import Backend, ExposedPort
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.output.printing import warn
from kubectl_istio_udp.state.apiserver import read_api_server_addresses
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.udproutes import Routing, read_references, read_routing
from kubectl_istio_udp.verify import find_cause, gather, sending
from kubectl_istio_udp.verify.cause import Cause
from kubectl_istio_udp.verify.evidence import Evidence
from kubectl_istio_udp.verify.exposure import (
    although_good,
    failed_probe,
    until_forwarded,
    verification,
)
from kubectl_istio_udp.verify.hops import Outer, read_outer, read_service, service_hops
from kubectl_istio_udp.verify.listener_causes import nearly_full
from kubectl_istio_udp.verify.options import ProbeOptions
from kubectl_istio_udp.verify.probes import Probe
from kubectl_istio_udp.verify.refused_endpoints import refused_endpoints, without
from kubectl_istio_udp.verify.route_causes import RoutedPort, route_cause, share
from kubectl_istio_udp.verify.toolpod import ToolPod
from kubectl_istio_udp.verify.verdict import HopResult, Verdict, judge, judge_one_way

Results = Mapping[Hop, HopResult]


@dataclass(frozen=True)
class _Listener:
    """One exposed port of a Gateway.

    Attributes:
        routed: the port and its route.
        backends: the evidence about each backend that gets clients, if its Service exists.
        inner: the hops of each of these backends' pods.
        outer: the hops of the gateway's pods and of the Service in front.
        probe: what to send; None if no pod can answer.
    """

    routed: RoutedPort
    backends: tuple[Evidence, ...]
    inner: tuple[tuple[Hop, ...], ...] = ()
    outer: tuple[Hop, ...] = ()
    probe: Probe | None = None

    @property
    def hops(self) -> tuple[Hop, ...]:
        """All hops, the pods first."""
        return (*(hop for hops in self.inner for hop in hops), *self.outer)


@dataclass(frozen=True)
class _Outcome:
    """The verdict on a listener, and the causes of failed hops."""

    verdict: Verdict
    causes: Mapping[Hop, Cause] = field(default_factory=dict)


def verify_routes(
    api: Api, pod: ToolPod, existing: Existing, spec: ExposureSpec, probe_settings: ProbeOptions
) -> sending.Verification:
    """Query the exposure of a Gateway hop by hop.

    Args:
        api: the cluster.
        pod: the network-tool pod.
        existing, spec: the exposure.
        probe_settings: the options for probes.

    Raises:
        UsageError: there is no query, or the Services of a listener have different ones.
        ClusterError, Unreachable, Forbidden: the test was not possible.
    """
    # Listeners often have the same backends, and backends are often in the same namespace.
    with Reads(api) as reads:
        routing, outer = in_parallel(
            [lambda: read_routing(reads, [spec.key]), lambda: read_outer(reads, spec)]
        )
        evidence = _read_backends(reads, existing, spec, outer)
        listeners = for_each(
            lambda port: _listener(
                reads, spec, port, routing.get(spec.key), evidence, outer, probe_settings
            ),
            spec.ports,
        )
    # In parallel to the probes: the evidence that a good result needs.
    looked = begun(lambda: _with_proxies(api, listeners))
    results = _send(api, pod, listeners, probe_settings)
    listeners = looked()
    outcomes = for_each(lambda each: _judge(api, pod, each, results, probe_settings), listeners)
    verdict = next((o.verdict for o in outcomes if not o.verdict.good), outcomes[0].verdict)
    if verdict.good:
        full = [t for each in listeners for found in each.backends for t in nearly_full(found)]
        for text in dict.fromkeys(full):
            warn(text)
    causes_found = {hop: cause for each in outcomes for hop, cause in each.causes.items()}
    return verification(list(results.values()), verdict, causes_found, probe_settings)


# -- reading ------------------------------------------------------------------------------------


def _read_backends(
    api: Api, existing: Existing, spec: ExposureSpec, outer: Outer
) -> dict[Key, Evidence]:
    """The evidence about each Service that gets clients, without those that do not exist."""
    names = sorted({each.service for each in spec.serving if each.service})

    # Read once for all of these Services, and only if one has an address that is not listed.
    api_server = cache(partial(read_api_server_addresses, api))

    def read(name: Key) -> Evidence | None:
        try:
            service, slices = read_service(api, *name)
        except NotFound:
            return None
        refused = refused_endpoints(api, existing, spec, service.namespace, slices, api_server)
        return gather.known(existing, spec, service, without(slices, refused), outer, refused)

    found = zip(names, for_each(read, names), strict=True)
    return {name: evidence for name, evidence in found if evidence is not None}


def _listener(
    api: Api,
    spec: ExposureSpec,
    port: ExposedPort,
    routing: Routing | None,
    evidence: Mapping[Key, Evidence],
    outer: Outer,
    probe_settings: ProbeOptions,
) -> _Listener:
    route = routing.served(port.gateway_port) if routing else None
    routed = RoutedPort(port, routing, route, read_references(api, route) if route else ())
    backends = tuple(
        replace(evidence[each.service], spec=_only(spec, port, each))
        for each in port.backends
        if each.weight and each.service and each.service in evidence
    )
    inner = tuple(_inner(each) for each in backends)
    if not any(inner):
        return _Listener(routed, backends, inner)
    probe = _probe(routed, [each.service for each in backends], probe_settings)
    return _Listener(routed, backends, inner, outer.hops(_only(spec, port)), probe)


def _only(spec: ExposureSpec, port: ExposedPort, *backends: Backend) -> ExposureSpec:
    """The exposure with one port; with backends, with these only."""
    only = replace(port, backends=backends, shares=()) if backends else port
    return replace(spec, ports=(only,))


def _inner(evidence: Evidence) -> tuple[Hop, ...]:
    """The pods of a backend that can be queried."""
    (port,) = evidence.spec.ports
    hops = service_hops(evidence.service, evidence.slices)
    return tuple(hop for hop in hops if hop.service_port == port.service_port)


def _probe(routed: RoutedPort, services: Sequence[Service], probe_settings: ProbeOptions) -> Probe:
    """The probe that all Services of a listener answer."""
    queries = sorted({each.query for each in services if each.query})
    if len(queries) > 1 and probe_settings.probe == "dns" and not probe_settings.query:
        raise UsageError(
            f"the Services of {routed.name} have different queries: {', '.join(queries)}",
            hints=["name one that all of them answer: --query NAME"],
        )
    first = next((each for each in services if each.query), services[0])
    return sending.probe_of(probe_settings, first)


def _with_proxies(api: Api, listeners: Sequence[_Listener]) -> list[_Listener]:
    """Add what the gateway's Envoys have, which is read once."""
    first = next((each for listener in listeners for each in listener.backends), None)
    if first is None:
        return list(listeners)
    read = gather.with_proxies_and_sockets(api, first)
    return [
        replace(
            listener,
            backends=tuple(
                replace(each, proxies=read.proxies, same_host=read.same_host)
                for each in listener.backends
            ),
        )
        for listener in listeners
    ]


# -- probes -------------------------------------------------------------------------------------


def _send(
    api: Api, pod: ToolPod, listeners: Sequence[_Listener], probe_settings: ProbeOptions
) -> dict[Hop, HopResult]:
    """The result of each hop; a pod of several listeners is queried once for each of them."""
    found = for_each(lambda each: _send_to(api, pod, each, probe_settings), listeners)
    return {result.hop: result for results in found for result in results}


def _send_to(
    api: Api, pod: ToolPod, listener: _Listener, probe_settings: ProbeOptions
) -> Sequence[HopResult]:
    if listener.probe is None:
        return ()
    hops, probe = listener.hops, listener.probe
    if probe_settings.one_way:
        services = [each.service for each in listener.backends]
        watched = listener.backends[0].ready_gateway_pods
        return sending.send_one_way(api, pod, hops, probe, probe_settings, services, watched)
    results = sending.send(api, pod, hops, probe, probe_settings)
    seconds = until_forwarded(api.waits, listener.backends[0])
    return sending.query_again(api, pod, results, probe, probe_settings, seconds)


# -- verdict ------------------------------------------------------------------------------------


def _judge(
    api: Api, pod: ToolPod, listener: _Listener, results: Results, probe_settings: ProbeOptions
) -> _Outcome:
    """The verdict on a listener: failed pods first, then its route, then the gateway."""
    of_listener = [results[hop] for hop in listener.hops]
    judged = judge_one_way if probe_settings.one_way else judge
    pods = [each for each in of_listener if each.hop.via is Via.POD]
    if any(not each.good for each in pods):
        return _explained(
            api, pod, listener, of_listener, judge(pods, direct_only=True), probe_settings
        )
    cause = route_cause(listener.routed) or _no_endpoints(api, listener)
    if cause:
        return _Outcome(Verdict(False, None, "").because(cause.reason, cause.text, cause.remedy))
    verdict = judged(of_listener)
    if not verdict.good:
        return _explained(api, pod, listener, of_listener, verdict, probe_settings)
    for evidence in listener.backends:
        verdict = although_good(api, evidence, verdict)
        if not verdict.good:
            break
    return _Outcome(verdict)


def _no_endpoints(api: Api, listener: _Listener) -> Cause | None:
    """Why a backend has no pod to send to, although it gets clients."""
    for evidence, hops in zip(listener.backends, listener.inner, strict=True):
        if hops:
            continue
        (port,) = evidence.spec.ports
        (backend,) = port.backends
        evidence = gather.gather(api, evidence, gather.NOTHING_SENT)
        cause = find_cause.why_nothing_to_query(evidence, port.service_port)
        lost = share(listener.routed, backend.weight)
        text = f"the gateway drops {lost} of {listener.routed.name}: {cause.text}"
        return replace(cause, text=text)
    return None


def _explained(
    api: Api,
    pod: ToolPod,
    listener: _Listener,
    results: Sequence[HopResult],
    verdict: Verdict,
    probe_settings: ProbeOptions,
) -> _Outcome:
    """The verdict with its cause, and the cause of each hop that failed in the same way."""
    broken, probe = verdict.broken, listener.probe
    assert probe is not None
    failed = [r for r in results if broken and r.hop.via is broken.via and not r.good]
    # A second probe may reach another backend, so it shows nothing about this one.
    alone = len(listener.backends) == 1
    silent = [r.hop for r in failed if r.hop.via is Via.GATEWAY] if alone else []
    sent = failed_probe(api, pod, probe, probe_settings, results, silent)
    known = for_each(lambda each: gather.gather(api, each, sent), listener.backends)
    found = {r.hop: _why(listener, known, r) for r in failed}
    cause = found[failed[0].hop] if failed else find_cause.why_nothing_to_query(known[0], None)
    if cause.text or cause.remedy or cause.reason:
        verdict = verdict.because(cause.reason, cause.text, cause.remedy)
    return _Outcome(verdict, found)


def _why(listener: _Listener, known: Sequence[Evidence], result: HopResult) -> Cause:
    """Why a hop fails: a pod because of its backend, a gateway because of any of them."""
    if result.hop.via is Via.POD:
        of_listener = next(
            each for each, hops in zip(known, listener.inner, strict=True) if result.hop in hops
        )
        return find_cause.why_hop_fails(of_listener, result.hop, result.worst.outcome)
    found = [find_cause.why_hop_fails(each, result.hop, result.worst.outcome) for each in known]
    # The rules name dropped datagrams if they find no other cause.
    return next((each for each in found if not each.reason.startswith("Dropped")), found[0])
