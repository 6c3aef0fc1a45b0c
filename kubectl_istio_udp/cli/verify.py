"""`verify`: probe every hop of exposures, and say which is broken."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kubectl_istio_udp.cli import options, probing
from kubectl_istio_udp.model.errors import UsageError

if TYPE_CHECKING:
    from kubectl_istio_udp.cluster.client import Api
    from kubectl_istio_udp.cluster.exposures import Existing
    from kubectl_istio_udp.cluster.toolpod import ToolPod
    from kubectl_istio_udp.model.exposure import ExposureSpec
    from kubectl_istio_udp.model.hop import Hop
    from kubectl_istio_udp.model.service import EndpointSlice, Service
    from kubectl_istio_udp.probe.verdict import HopResult, Verdict


# istiod and Envoy follow a moving pod within this.
_SETTLE_SECONDS = 1.5


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
    from kubectl_istio_udp.cluster.client import in_parallel
    from kubectl_istio_udp.cluster.hops import (
        gateway_hops,
        read_service,
    )
    from kubectl_istio_udp.model.errors import ClusterError, NotFound
    from kubectl_istio_udp.probe.verdict import Verdict, judge

    spec = existing.spec
    if spec is None:
        raise ClusterError(f"exposure {existing.name}: {existing.problem}")
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
    cause = _cause(api, existing, verdict, inner, outer)
    if cause:
        text = cause if verdict.good else f"{verdict.text}: {cause}"
        verdict = Verdict(False, verdict.broken, text)
    return results, verdict


def _inner(spec: ExposureSpec, service: Service, slices: tuple[EndpointSlice, ...]) -> list[Hop]:
    """The hops behind the gateway: the ready endpoints of the exposed ports."""
    from kubectl_istio_udp.cluster.hops import service_hops

    exposed = {port.service_port for port in spec.ports}
    return [hop for hop in service_hops(service, slices) if hop.service_port in exposed]


def _cause(
    api: Api, existing: Existing, verdict: Verdict, inner: Sequence[Hop], outer: Sequence[Hop]
) -> str:
    """Why a hop is broken, or what is wrong although all answered; "" where nothing shows."""
    from kubectl_istio_udp.cluster.hops import (
        read_service,
        stale_hosts,
        why_service_silent,
        why_silent,
    )
    from kubectl_istio_udp.model.hop import Via

    spec = existing.spec
    assert spec is not None
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
