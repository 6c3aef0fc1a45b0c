"""`get`: the exposures there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.model.errors import UsageError

if TYPE_CHECKING:
    from kubectl_istio_udp.cluster.exposures import Existing
    from kubectl_istio_udp.cluster.status import Status
    from kubectl_istio_udp.model.ports import ExposedPort


_PORTS_SHOWN = 3


@click.command("get")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@options.all_namespaces_option
@options.output_option("table", "wide", "yaml", "json", "name", default="table")
@options.cluster_options
def command(
    *,
    names: tuple[str, ...],
    all_namespaces: bool,
    output: str,
    common: options.Common,
) -> None:
    """List exposures: Service, ports, gateway, address, discovery, ready endpoints, age."""
    from kubectl_istio_udp.cluster.exposures import get_exposures, list_exposures
    from kubectl_istio_udp.cluster.status import read_status
    from kubectl_istio_udp.output import printing

    if all_namespaces and names:
        raise UsageError(
            "a name and -A do not go together", hints=["say which namespace: -n NAMESPACE"]
        )
    api = common.connect()
    namespace = common.namespace_of(api)
    found = list_exposures(api) if all_namespaces else get_exposures(api, namespace, names)
    if output == "name":
        for existing in found:
            click.echo(existing.name)
        return
    if output in ("yaml", "json"):
        manifests = [_shown(manifest) for existing in found for manifest in existing.objects]
        click.echo(printing.documents(manifests, output) if manifests else "", nl=False)
        return
    if not found:
        where = "" if all_namespaces else f" in namespace {namespace}"
        printing.note(f"there is no exposure{where}")
        return
    rows = [
        _row(existing, status, all_namespaces, output == "wide")
        for existing, status in zip(found, read_status(api, found), strict=True)
    ]
    headers = [
        "name",
        "service",
        "ports",
        "gateway",
        "address",
        "discovery",
        "ready",
        "status",
        "age",
    ]
    if all_namespaces:
        headers.insert(0, "namespace")
    if output == "wide":
        headers += ["sessions", "idle", "affinity", "via"]
    click.echo(printing.table(rows, headers))


def _shown(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest as kubectl shows it: without managedFields."""
    metadata = {k: v for k, v in manifest["metadata"].items() if k != "managedFields"}
    return {**manifest, "metadata": metadata}


def _ports(ports: Sequence[ExposedPort], wide: bool) -> str:
    """The ports, `5300:53/UDP,5301:54/UDP`; of many only the first, unless there is room."""
    if wide or len(ports) <= _PORTS_SHOWN:
        return ",".join(map(str, ports))
    return f"{ports[0]} +{len(ports) - 1} more"


def _row(existing: Existing, status: Status, with_namespace: bool, wide: bool) -> Sequence[Any]:
    spec = existing.spec
    lead = [existing.namespace] if with_namespace else []
    if spec is None:
        return [*lead, existing.name, "?", "?", "?", "", "?", "", status.state, status.age]
    row: list[object] = [
        *lead,
        existing.name,
        spec.service,
        _ports(spec.ports, wide),
        str(spec.gateway),
        status.address,
        spec.discovery.value,
        status.ready,
        status.state,
        status.age,
    ]
    if wide:
        options_ = spec.options
        row += [
            options_.max_sessions,
            options_.idle_timeout,
            options_.affinity.value,
            options_.gateway_service.value,
        ]
    return row
