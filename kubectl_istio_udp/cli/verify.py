"""`verify`: probe every hop of exposures, and say which is broken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kubectl_istio_udp.cli import options, probing
from kubectl_istio_udp.model.errors import UsageError

if TYPE_CHECKING:
    from kubectl_istio_udp.cluster.client import Api
    from kubectl_istio_udp.cluster.exposures import Existing
    from kubectl_istio_udp.cluster.toolpod import ToolPod
    from kubectl_istio_udp.probe.verdict import HopResult, Verdict


@click.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "all_names", is_flag=True, help="Every exposure of the namespace.")
@options.all_namespaces_option
@probing.probe_options
@options.cluster_options
def command(
    *,
    names: tuple[str, ...],
    all_names: bool,
    all_namespaces: bool,
    asked: probing.Asked,
    common: options.Common,
) -> int:
    """Query exposures hop by hop and name the one that is broken.

    From the network-tool pod: each backend pod, then each gateway pod, then the Service in front
    of the gateway. Exits 0 only when every probe was answered.
    """
    from kubectl_istio_udp.cluster.exposures import get_exposures, list_exposures
    from kubectl_istio_udp.output import printing

    if bool(names) == (all_names or all_namespaces):
        raise UsageError(
            "which exposures? Give their names, or --all, or -A",
            hints=["see those there are: kubectl istio-udp get"],
        )
    api = common.connect()
    namespace = common.namespace_of(api)
    found = list_exposures(api) if all_namespaces else get_exposures(api, namespace, names)
    if not found:
        printing.note("there is no exposure to verify")
        return 0
    with probing.tool(api, namespace, asked) as pod:
        if len(found) == 1:
            verified = [(found[0], *_verify(api, pod, found[0], asked))]
        else:
            verified = [(existing, *_verify_one(api, pod, existing, asked)) for existing in found]
    if asked.output == "table":
        _print(verified)
    else:
        data = [
            {"namespace": e.namespace, "name": e.name, **probing.as_data(results, verdict)}
            for e, results, verdict in verified
        ]
        click.echo(printing.data(data, asked.output), nl=False)
    return 0 if all(verdict.good for _, _, verdict in verified) else 1


def _verify_one(
    api: Api, pod: ToolPod, existing: Existing, asked: probing.Asked
) -> tuple[tuple[HopResult, ...], Verdict]:
    """As _verify; but what is wrong with one exposure does not hide the others."""
    from kubectl_istio_udp.model.errors import ClusterError
    from kubectl_istio_udp.probe.verdict import Verdict

    try:
        return _verify(api, pod, existing, asked)
    except (ClusterError, UsageError) as error:
        return (), Verdict(False, None, error.message)


def _verify(
    api: Api, pod: ToolPod, existing: Existing, asked: probing.Asked
) -> tuple[tuple[HopResult, ...], Verdict]:
    from dataclasses import replace

    from kubectl_istio_udp.cluster.client import in_parallel
    from kubectl_istio_udp.cluster.hops import (
        gateway_hops,
        read_service,
        service_hops,
        why_silent,
    )
    from kubectl_istio_udp.model.errors import ClusterError
    from kubectl_istio_udp.model.hop import Via
    from kubectl_istio_udp.probe.verdict import judge

    spec = existing.spec
    if spec is None:
        raise ClusterError(f"exposure {existing.name}: {existing.problem}")
    (service, slices), outer = in_parallel(
        [
            lambda: read_service(api, spec.namespace, spec.service),
            lambda: gateway_hops(api, spec),
        ]
    )
    probe = asked.probe_of(service)
    exposed = {port.service_port for port in spec.ports}
    inner = [hop for hop in service_hops(service, slices) if hop.service_port in exposed]
    results = probing.send(api, pod, [*inner, *outer], probe, asked)
    results = probing.ask_again(api, pod, results, probe, asked)
    verdict = judge(results)
    broken = verdict.broken
    if broken and broken.via is Via.GATEWAY:
        verdict = replace(verdict, text=f"{verdict.text}: {why_silent(api, spec, broken)}")
    return results, verdict


def _print(verified: Sequence[tuple[Existing, tuple[HopResult, ...], Verdict]]) -> None:
    from kubectl_istio_udp.output import printing

    several = len(verified) > 1
    rows: list[list[Any]] = []
    for existing, results, _ in verified:
        lead = [f"{existing.namespace}/{existing.name}"] if several else []
        rows += [[*lead, *row] for row in probing.rows(results)]
    headers = [*(["exposure"] if several else []), *probing.HEADERS]
    click.echo(printing.table(rows, headers))
    for existing, _, verdict in verified:
        click.echo(f"{existing.name}: {verdict.text}")
