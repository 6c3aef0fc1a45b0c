"""`direct query`: probe the pods of a Service, past any gateway."""

from __future__ import annotations

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.endpointrules import summary
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.output.printing import warn
from kubectl_istio_udp.state.apiserver import read_api_server_addresses
from kubectl_istio_udp.verify import sending
from kubectl_istio_udp.verify.hops import read_service, service_hops
from kubectl_istio_udp.verify.options import ProbeOptions
from kubectl_istio_udp.verify.refused_endpoints import refused_name, refused_pods, without
from kubectl_istio_udp.verify.verdict import HopResult, judge, judge_one_way


def verify_service(
    api: Api, namespace: str, name: str, probe_settings: ProbeOptions
) -> sending.Verification:
    """Probe every ready pod of a Service from the network-tool pod.

    Args:
        api: the cluster.
        namespace, name: the Service.
        probe_settings: the options for probes.

    Raises:
        UsageError: the Service has no UDP port, or there is no query.
        NotFound, ClusterError, Unreachable, Forbidden: the test was not possible.
    """
    tool_search = sending.start_tool_search(api, namespace, probe_settings)
    service, slices = read_service(api, namespace, name)
    if not service.udp_ports:
        raise UsageError(f"Service {service} has no UDP port")
    probe = sending.probe_of(probe_settings, service)
    # Whoever writes the Service and its EndpointSlices chooses the addresses.
    api_server = read_api_server_addresses(api)
    refused = {
        **refused_pods(api, namespace, slices, api_server),
        **refused_name(service, lambda: api_server),
    }
    if refused:
        warn(f"does not query {summary(refused)}")
    found = service_hops(service, without(slices, refused))
    hops = tuple(hop for hop in found if hop.address not in refused)
    results: tuple[HopResult, ...] = ()
    if hops:
        with sending.tool(api, namespace, probe_settings, tool_search) as pod:
            if probe_settings.one_way:
                results = sending.send_one_way(api, pod, hops, probe, probe_settings, [service])
            else:
                results = sending.send(api, pod, hops, probe, probe_settings)
    if probe_settings.one_way:
        verdict, answered = judge_one_way(results, direct_only=True), "delivered"
    else:
        verdict, answered = judge(results, direct_only=True), "answered"
    return sending.hops_verification(results, verdict, answered=answered)
