"""`verify` of an exposure: probe every hop, and say which is broken."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubectl_istio_udp.cli import probing

if TYPE_CHECKING:
    from kubectl_istio_udp.cluster.toolpod import ToolPod
    from kubectl_istio_udp.kube.client import Api
    from kubectl_istio_udp.model.exposure import ExposureSpec
    from kubectl_istio_udp.model.hop import Hop
    from kubectl_istio_udp.model.service import EndpointSlice, Service
    from kubectl_istio_udp.probe.verdict import Verdict
    from kubectl_istio_udp.state.ownership import Existing


# istiod and Envoy follow a moving pod within this.
_SETTLE_SECONDS = 1.5


def prove_exposure(
    api: Api, pod: ToolPod, existing: Existing, spec: ExposureSpec, asked: probing.Asked
) -> probing.Proof:
    """Query an exposure hop by hop.

    Raises:
        NotFound: its Service is gone.
        UsageError: nobody says what to ask.
        ClusterError, Unreachable, Forbidden: it could not be asked.
    """
    from kubectl_istio_udp.cluster.hops import (
        gateway_hops,
        read_service,
    )
    from kubectl_istio_udp.kube.client import in_parallel
    from kubectl_istio_udp.model.errors import NotFound
    from kubectl_istio_udp.probe.verdict import Verdict, judge

    try:
        (service, slices), outer = in_parallel(
            [
                lambda: read_service(api, spec.namespace, spec.service),
                lambda: gateway_hops(api, spec),
            ]
        )
    except NotFound as error:
        error.hints = (
            "the exposure is left over; take it away: "
            f"kubectl istio-udp delete -n {spec.namespace} {spec.name}",
        )
        raise
    probe = asked.probe_of(service)
    inner = _inner(spec, service, slices)
    results = probing.send(api, pod, [*inner, *outer], probe, asked)
    results = probing.ask_again(api, pod, results, probe, asked)
    verdict = judge(results)
    cause = _cause(api, existing, spec, verdict, inner, outer)
    if cause:
        text = cause if verdict.good else f"{verdict.text}: {cause}"
        verdict = Verdict(False, verdict.broken, text)
    return probing.hops_proof(results, verdict)


def _inner(spec: ExposureSpec, service: Service, slices: tuple[EndpointSlice, ...]) -> list[Hop]:
    """The hops behind the gateway: the ready endpoints of the exposed ports."""
    from kubectl_istio_udp.cluster.hops import service_hops

    exposed = {port.service_port for port in spec.ports}
    return [hop for hop in service_hops(service, slices) if hop.service_port in exposed]


def _cause(
    api: Api,
    existing: Existing,
    spec: ExposureSpec,
    verdict: Verdict,
    inner: Sequence[Hop],
    outer: Sequence[Hop],
) -> str:
    """Why a hop is broken, or what is wrong although all answered; "" where nothing shows."""
    from kubectl_istio_udp.cluster.hops import (
        read_service,
        stale_hosts,
        why_service_silent,
        why_silent,
    )
    from kubectl_istio_udp.model.hop import Via

    again = f"run the same expose of {spec.service} again"
    if existing.missing:
        return f"{existing.missing[0]} is missing; {again}"
    if verdict.good:
        stale = stale_hosts(api, spec, inner, outer)
        if stale:
            # Pods may be moving just now: only what lasts is wrong.
            time.sleep(_SETTLE_SECONDS)
            inner = _inner(spec, *read_service(api, spec.namespace, spec.service))
            stale = stale_hosts(api, spec, inner, outer)
        if stale:
            return f"{stale}; {again}"
    broken = verdict.broken
    if broken and broken.via is Via.GATEWAY:
        return why_silent(api, spec, broken)
    if broken and broken.via is Via.POD:
        return ""
    # Also where all answered: kube-proxy may not yet have taken what is wrong.
    wrong = why_service_silent(api, spec)
    return f"{wrong}; {again} with --force-conflicts" if wrong else ""
