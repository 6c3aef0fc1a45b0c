"""`direct query`: query a Service's pods, and print the answers."""

from __future__ import annotations

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, namespace_of
from kubectl_istio_udp.model.endpointrules import summary
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.names import check_dns_label
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.state.apiserver import read_api_server_addresses
from kubectl_istio_udp.verify import sending
from kubectl_istio_udp.verify.hops import read_service, service_hops
from kubectl_istio_udp.verify.options import ProbeOptions
from kubectl_istio_udp.verify.refused_endpoints import refused_name, refused_pods, without
from kubectl_istio_udp.verify.verdict import HopResult, judge, judge_one_way


def query(
    *,
    service: str,
    probe_settings: ProbeOptions,
    common: options.Common,
) -> int:
    """Run `direct query`, with the values of its options; the exit code."""
    check_dns_label(service, "Service")
    api = connect(common)
    namespace = namespace_of(common, api)
    tool = sending.start_tool_search(api, namespace, probe_settings)
    found, slices = read_service(api, namespace, service)
    if not found.udp_ports:
        raise UsageError(f"Service {found} has no UDP port")
    probe = sending.probe_of(probe_settings, found)
    # Whoever writes the Service and its EndpointSlices chooses the addresses.
    api_server = read_api_server_addresses(api)
    refused = {
        **refused_pods(api, namespace, slices, api_server),
        **refused_name(found, lambda: api_server),
    }
    if refused:
        printing.warn(f"does not query {summary(refused)}")
    hops = service_hops(found, without(slices, refused))
    hops = tuple(hop for hop in hops if hop.address not in refused)
    results: tuple[HopResult, ...] = ()
    if hops:
        with sending.tool(api, namespace, probe_settings, tool) as pod:
            if probe_settings.one_way:
                results = sending.send_one_way(api, pod, hops, probe, probe_settings, [found])
            else:
                results = sending.send(api, pod, hops, probe, probe_settings)
    verdict = (judge_one_way if probe_settings.one_way else judge)(results, direct_only=True)
    answered = "delivered" if probe_settings.one_way else "answered"
    verification = sending.hops_verification(results, verdict, answered=answered)
    if probe_settings.output == "table":
        if results:
            click.echo(printing.table(verification.rows, verification.headers))
        click.echo(f"{service}: {verification.text}")
    else:
        click.echo(printing.data(dict(verification.data), probe_settings.output), nl=False)
    return 0 if verification.good else 1
