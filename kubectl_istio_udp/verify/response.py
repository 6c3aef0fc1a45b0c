"""`verify` for a response: request it from every hop, and compare."""

from __future__ import annotations

from dataclasses import replace

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.response import ResponseSpec
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.verify import sending
from kubectl_istio_udp.verify.options import ProbeOptions
from kubectl_istio_udp.verify.probes import HttpProbe
from kubectl_istio_udp.verify.responsehops import (
    host_to_request,
    http_servers,
    response_hops,
    why_not_answered,
)
from kubectl_istio_udp.verify.toolpod import ToolPod
from kubectl_istio_udp.verify.verdict import HopResult, judge_response


def verify_response(
    api: Api, pod: ToolPod, existing: Existing, spec: ResponseSpec, probe_settings: ProbeOptions
) -> sending.Verification:
    """Request a response from each gateway pod and the gateway's Service, for each host.

    Inside the mesh, from the network-tool pod's sidecar.

    Args:
        api: the cluster.
        pod: the network-tool pod.
        existing, spec: the response.
        probe_settings: the options for probes.

    Raises:
        NotFound, ClusterError, Unreachable, Forbidden: the test was not possible.
    """
    hops = response_hops(api, spec, pod)
    servers = http_servers(api, spec)
    tls = any(server.tls for server in servers)
    results: list[HopResult] = []
    for host in spec.answer.hosts:
        port = hops[0].service_port if hops else spec.gateway_port
        probe = HttpProbe(host_to_request(host, spec, servers), port, spec.answer, tls)
        sent = sending.send(api, pod, hops, probe, probe_settings)
        results += sending.query_again(api, pod, sent, probe, probe_settings, api.waits.kube_proxy)
    verdict = judge_response(results)
    if existing.missing:
        missing = f"{existing.missing[0]} is missing; run direct response again"
        verdict = replace(verdict, good=False, text=missing, reason="ObjectMissing")
    elif verdict.broken:
        why = why_not_answered(api, spec, verdict.broken, servers)
        verdict = verdict.because(verdict.reason, why)
    return sending.hops_verification(results, verdict, "code")
