"""`verify` for an exposure: probe every hop, and find which one is broken and why."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import begun, in_parallel
from kubectl_istio_udp.model.errors import NotFound
from kubectl_istio_udp.model.exposure import Discovery, ExposureSpec
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.managed_fields import last_written
from kubectl_istio_udp.model.service import EndpointSlice, Service
from kubectl_istio_udp.model.waits import Waits
from kubectl_istio_udp.output.printing import warn
from kubectl_istio_udp.state.apiserver import read_api_server_addresses
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.pending_loadbalancer import why_pending
from kubectl_istio_udp.verify import find_cause, gather, sending
from kubectl_istio_udp.verify.cause import Cause
from kubectl_istio_udp.verify.evidence import Evidence
from kubectl_istio_udp.verify.find_cause import NOT_PROGRAMMED
from kubectl_istio_udp.verify.front_causes import no_address
from kubectl_istio_udp.verify.gather import known, with_proxies_and_sockets
from kubectl_istio_udp.verify.hops import read_outer, read_service, service_hops
from kubectl_istio_udp.verify.listener_causes import nearly_full
from kubectl_istio_udp.verify.options import ProbeOptions
from kubectl_istio_udp.verify.pod_causes import refused_cause
from kubectl_istio_udp.verify.probes import DatagramProbe, Probe, size_of
from kubectl_istio_udp.verify.refused_endpoints import refused_endpoints, refused_name, without
from kubectl_istio_udp.verify.tool_output import ARRIVED, REFUSED
from kubectl_istio_udp.verify.toolpod import ToolPod
from kubectl_istio_udp.verify.verdict import HopResult, Verdict, judge, judge_one_way


def verify_exposure(
    api: Api, pod: ToolPod, existing: Existing, spec: ExposureSpec, probe_settings: ProbeOptions
) -> sending.Verification:
    """Query an exposure hop by hop.

    Args:
        api: the cluster.
        pod: the network-tool pod.
        existing, spec: the exposure.
        probe_settings: the options for probes.

    Raises:
        NotFound: its Service does not exist.
        UsageError: there is no query.
        ClusterError, Unreachable, Forbidden: the test was not possible.
    """
    evidence, hops = _read(api, existing, spec)
    probe = sending.probe_of(probe_settings, evidence.service)
    # In parallel to the probes: the evidence that a good result needs.
    looked = begun(lambda: with_proxies_and_sockets(api, evidence))
    results, verdict = _probed(api, pod, evidence, hops, probe, probe_settings)
    causes: dict[Hop, Cause] = {}
    evidence = looked()
    if verdict.good:
        verdict = although_good(api, evidence, verdict)
        if verdict.good:
            for text in nearly_full(evidence):
                warn(text)
    else:
        causes, verdict = _explained(api, pod, evidence, results, verdict, probe, probe_settings)
    return verification(results, verdict, causes, probe_settings)


def _read(api: Api, existing: Existing, spec: ExposureSpec) -> tuple[Evidence, list[Hop]]:
    """The evidence that is known before the first probe, and the hops.

    Raises:
        NotFound: the exposure's Service does not exist.
    """
    listed = spec.discovery is Discovery.ENDPOINTS
    read = partial(read_api_server_addresses, api)
    # A list of addresses contains no address of the API server, so it is rarely needed then.
    api_server = read if listed else begun(read)
    try:
        (service, slices), outer = in_parallel(
            [
                lambda: read_service(api, spec.namespace, spec.service),
                lambda: read_outer(api, spec),
            ]
        )
    except NotFound as error:
        error.hints = (
            "the exposure's Service no longer exists; delete it: "
            f"kubectl istio-udp delete -n {spec.namespace} {spec.name}",
        )
        raise
    refused = {
        **refused_endpoints(api, existing, spec, spec.namespace, slices, api_server),
        **refused_name(service, api_server),
    }
    slices = without(slices, refused)
    inner = [hop for hop in _inner(spec, service, slices) if hop.address not in refused]
    evidence = known(existing, spec, service, slices, outer, refused)
    return evidence, [*inner, *outer.hops(spec)]


def _probed(
    api: Api,
    pod: ToolPod,
    evidence: Evidence,
    hops: Sequence[Hop],
    probe: Probe,
    probe_settings: ProbeOptions,
) -> tuple[Sequence[HopResult], Verdict]:
    """The result of each hop, and the verdict from all of them."""
    if probe_settings.one_way:
        results = _send_one_way(api, pod, evidence, hops, probe, probe_settings)
        return results, judge_one_way(results)
    results = sending.send(api, pod, hops, probe, probe_settings)
    seconds = until_forwarded(api.waits, evidence)
    results = sending.query_again(api, pod, results, probe, probe_settings, seconds)
    delivered = _delivered(api, pod, evidence, results, probe, probe_settings)
    if delivered:
        return delivered, judge_one_way(delivered)
    return results, judge(results)


def verification(
    results: Sequence[HopResult],
    verdict: Verdict,
    causes_found: Mapping[Hop, Cause],
    probe_settings: ProbeOptions,
) -> sending.Verification:
    """The result of `verify`, whose column says `delivered` if probes do not have answers."""
    one_way = probe_settings.one_way or any(r.worst.outcome in ARRIVED for r in results)
    answered = "delivered" if one_way else "answered"
    return sending.hops_verification(results, verdict, causes=causes_found, answered=answered)


def failed_probe(
    api: Api,
    pod: ToolPod,
    probe: Probe,
    probe_settings: ProbeOptions,
    results: Sequence[HopResult],
    silent: Sequence[Hop],
) -> gather.FailedProbe:
    """What the search for a cause needs of a probe that failed.

    Args:
        api, pod, probe, probe_settings: as for `sending.send`.
        results: the results of all hops.
        silent: the gateway hops to which the probe may be sent once more.
    """
    sizes = [a.size for r in results if r.hop.via is Via.POD for a in r.answers if a.size]
    return gather.FailedProbe(
        size=size_of(probe),
        longest_answer=max(sizes, default=None),
        silent=silent,
        again=lambda hop: sending.send(api, pod, [hop], probe, probe_settings),
    )


def until_forwarded(waits: Waits, evidence: Evidence) -> float:
    """The seconds to wait for kube-proxy, if nothing else explains a silent Service."""
    if find_cause.why_front_fails(evidence).reason != NOT_PROGRAMMED:
        return waits.kube_proxy
    written = last_written(evidence.front) if evidence.front else None
    if written is None:
        return waits.kube_proxy
    age = (datetime.now(timezone.utc) - written).total_seconds()
    return max(waits.kube_proxy, waits.kube_proxy_retry - max(0.0, age))


def _delivered(
    api: Api,
    pod: ToolPod,
    evidence: Evidence,
    results: Sequence[HopResult],
    probe: Probe,
    probe_settings: ProbeOptions,
) -> tuple[HopResult, ...]:
    """The results by delivery, if no pod answers the probe but all have read it.

    A protocol without answers looks like this; a server that hangs does not read.
    """
    pods = [r.worst.outcome for r in results if r.hop.via is Via.POD]
    silent = pods and all(outcome in ("timeout", REFUSED) for outcome in pods)
    if not isinstance(probe, DatagramProbe) or not silent:
        return ()
    found = _send_one_way(api, pod, evidence, [r.hop for r in results], probe, probe_settings)
    return found if all(r.worst.outcome in ARRIVED for r in found) else ()


def _send_one_way(
    api: Api,
    pod: ToolPod,
    evidence: Evidence,
    hops: Sequence[Hop],
    probe: Probe,
    probe_settings: ProbeOptions,
) -> tuple[HopResult, ...]:
    watched = evidence.ready_gateway_pods
    return sending.send_one_way(api, pod, hops, probe, probe_settings, [evidence.service], watched)


def _inner(spec: ExposureSpec, service: Service, slices: tuple[EndpointSlice, ...]) -> list[Hop]:
    """The hops behind the gateway: the ready endpoints of the exposed ports."""
    exposed = {port.service_port for port in spec.ports}
    return [hop for hop in service_hops(service, slices) if hop.service_port in exposed]


def although_good(api: Api, evidence: Evidence, verdict: Verdict) -> Verdict:
    """A problem although every hop answered: it will fail soon, or for some clients."""
    cause = (
        find_cause.missing_cause(evidence)
        or refused_cause(evidence)
        or _wrong_hosts(api, evidence)
        or find_cause.second_entry(evidence)
        or find_cause.front_cause(evidence)
        or no_address(evidence, lambda service: why_pending(api, service))
    )
    return verdict.because(cause.reason, cause.text, cause.remedy) if cause else verdict


def _wrong_hosts(api: Api, evidence: Evidence) -> Cause | None:
    """A gateway pod sends datagrams to addresses that are not endpoints of the Service."""
    if find_cause.host_cause(evidence) is None:
        return None
    # Pods may be moving: only a persistent difference is a problem.
    time.sleep(api.waits.endpoints_settle)
    service, slices = read_service(api, evidence.service.namespace, evidence.service.name)
    evidence = replace(evidence, service=service, slices=without(slices, evidence.refused))
    return find_cause.host_cause(gather.gather(api, evidence, gather.NOTHING_SENT))


def _explained(
    api: Api,
    pod: ToolPod,
    evidence: Evidence,
    results: Sequence[HopResult],
    verdict: Verdict,
    probe: Probe,
    probe_settings: ProbeOptions,
) -> tuple[dict[Hop, Cause], Verdict]:
    """The verdict with its cause, and the cause of each hop that failed in the same way."""
    failed = [
        r.hop for r in results if verdict.broken and r.hop.via is verdict.broken.via and not r.good
    ]
    silent = [hop for hop in failed if hop.via is Via.GATEWAY]
    sent = failed_probe(api, pod, probe, probe_settings, results, silent)
    evidence = gather.gather(api, evidence, sent)
    answers = {r.hop: r.worst for r in results}
    found = {hop: find_cause.why_hop_fails(evidence, hop, answers[hop].outcome) for hop in failed}
    cause = found[failed[0]] if failed else find_cause.why_nothing_to_query(evidence, verdict.port)
    if cause.text or cause.remedy or cause.reason:
        verdict = verdict.because(cause.reason, cause.text, cause.remedy)
    return found, verdict
