"""`describe`: read and print everything about exposures, responses and access logs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, find_existing
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import for_each
from kubectl_istio_udp.kube.reads import Reads
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.state.gatewayusage import Reserved, read_reserved
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.proxyrows import proxy_rows
from kubectl_istio_udp.state.query_limit import QueryLimit
from kubectl_istio_udp.state.status import Status, age, begin_status_reads, owner_text, read_status
from kubectl_istio_udp.state.udproutes import Routing, read_route_backends, read_routing


def run(
    *,
    names: tuple[str, ...],
    all_namespaces: bool,
    gateway_namespaces: tuple[str, ...],
    common: options.Common,
) -> None:
    """Run `describe`, with the values of its options."""
    with Reads(connect(common)) as api:
        _print(api, common, names, all_namespaces, gateway_namespaces)


def _print(
    api: Reads,
    common: options.Common,
    names: tuple[str, ...],
    all_namespaces: bool,
    gateway_namespaces: tuple[str, ...],
) -> None:
    found = find_existing(common, api, names, all_namespaces, gateway_namespaces)
    if not found:
        printing.note("No exposures, responses or access logs found.")
        return
    begin_status_reads(api, found)
    query_limit = QueryLimit()
    statuses = read_status(api, found, query_envoy=True, query_limit=query_limit)
    proxies = for_each(lambda existing: proxy_rows(api, existing, query_limit), found)
    reserved = read_reserved(api, found, query_limit)
    routing = read_routing(api, [e.key for e in found if e.exposure and e.exposure.routed])
    texts = [
        _text(
            existing,
            replace(status, owner=owner_text(status, requested)),
            rows,
            reserved.get(existing.key),
            _routes(api, requested),
        )
        for existing, status, rows in zip(found, statuses, proxies, strict=True)
        for requested in [routing.get(existing.key) if existing.exposure else None]
    ]
    click.echo("\n\n\n".join(texts))


def _routes(api: Api, found: Routing | None) -> Sequence[str]:
    """The Gateway of an exposure, and the routes at its listeners; nothing for other exposures."""
    if found is None:
        return ()
    rows = [
        [row.listener, row.port, row.route or "<none>", row.backend, row.weight, row.problem]
        for row in read_route_backends(api, found)
    ]
    headers = ["listener", "port", "route", "backend", "weight", "problem"]
    lines = [f"Routes of Gateway {found.gateway}:", _indented(printing.table(rows, headers))]
    if found.rejected:
        rejected = [[route, message] for route, message in found.rejected]
        lines += ["Rejected routes:", _indented(printing.table(rejected, ["route", "because"]))]
    return lines


def _text(
    existing: Existing,
    status: Status,
    proxies: Sequence[Sequence[str]],
    reserved: Reserved | None,
    routes: Sequence[str],
) -> str:
    head = {
        "Name": existing.name,
        "Namespace": existing.namespace,
        "Type": existing.kind.words,
        "Status": status.state,
    }
    if status.address:
        head["Address"] = status.address
    if status.ready:
        head["Endpoints"] = f"{status.ready} ready"
    if existing.kind is Kind.EXPOSURE:
        head["Owner"] = status.owner
    if reserved:
        head["Gateway"] = f"{reserved} sessions reserved"
    lines = [f"{key + ':':<12} {value}" for key, value in head.items()]
    conditions = [[c.type.value, c.status.value, c.reason, c.message] for c in status.conditions]
    table = printing.table(conditions, ["type", "status", "reason", "message"])
    lines += ["Conditions:", _indented(table)]
    lines += routes
    if existing.spec:
        spec = json.loads(existing.spec.to_json())
        settings = {k: v for k, v in spec.items() if k not in ("version", "namespace", "name")}
        lines += ["Settings:", _indented(printing.data(_plain(settings), "yaml"))]
    else:
        lines.append(f"Problem:     {existing.problem}")
    objects = [
        [o["kind"], o["metadata"]["namespace"], o["metadata"]["name"], _age(o)]
        for o in existing.objects
    ]
    lines += ["Objects:", _indented(printing.table(objects, ["kind", "namespace", "name", "age"]))]
    if proxies:
        headers = ["pod", "has", "sessions", "hosts"]
        table = printing.table(proxies, headers)
        lines += ["Gateway pods:", _indented(table)]
    return "\n".join(lines)


def _age(manifest: Mapping[str, Any]) -> str:
    return age(manifest["metadata"]["creationTimestamp"])


def _plain(value: Any) -> Any:
    """The value without empty parts, with names in YAML's style."""
    if isinstance(value, dict):
        kept = {key: _plain(each) for key, each in value.items()}
        return {k.replace("_", " "): v for k, v in kept.items() if v not in (None, "", [], {})}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())
