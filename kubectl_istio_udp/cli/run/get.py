"""`get`: read, and print a table for each kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from kubectl_istio_udp.cli import options
from kubectl_istio_udp.cli.run.cluster import connect, find_state, namespace_of, searched_namespace
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.kube.reads import Reads
from kubectl_istio_udp.model.conditions import ConditionType, Truth
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.ports import ExposedPort, ports_text
from kubectl_istio_udp.output import printing
from kubectl_istio_udp.state.existing import OTHER_GATEWAYS
from kubectl_istio_udp.state.leftovers import Leftover, read_leftovers
from kubectl_istio_udp.state.ownership import Existing, State, Stray
from kubectl_istio_udp.state.query_limit import QueryLimit
from kubectl_istio_udp.state.status import (
    Status,
    begin_reads,
    begin_status_reads,
    owner_text,
    read_status,
)

if TYPE_CHECKING:
    from kubectl_istio_udp.model.accesslog import AccessLogSpec
    from kubectl_istio_udp.model.response import ResponseSpec
    from kubectl_istio_udp.state.gatewayusage import Reserved
    from kubectl_istio_udp.state.udproutes import Routing

_API_VERSION = "kubectl-istio-udp/v1"
_PORTS_SHOWN = 3
_HOSTS_SHOWN = 2


def run(
    *,
    names: tuple[str, ...],
    all_namespaces: bool,
    gateway_namespaces: tuple[str, ...],
    output: str,
    common: options.Common,
) -> None:
    """Run `get`, with the values of its options."""
    with Reads(connect(common)) as api:
        if not names:
            begin_reads(api)
        state = find_state(common, api, names, all_namespaces, gateway_namespaces)
        _print(api, state, names, all_namespaces, output, common)


def _print(
    api: Reads,
    state: State,
    names: tuple[str, ...],
    all_namespaces: bool,
    output: str,
    common: options.Common,
) -> None:
    found = state.existing
    if output == "name":
        for existing in found:
            click.echo(existing.ref)
        return
    begin_status_reads(api, found)
    if output in ("yaml", "json"):
        items = _items(api, found)
        click.echo(printing.data(_one_or_list(items, names), output), nl=False)
        return
    place = searched_namespace(common, api, all_namespaces)
    tables, leftovers = in_parallel(
        [
            lambda: _tables(api, found, all_namespaces, output == "wide"),
            # Not for given names: each would need a list of all Services.
            lambda: () if names else _leftovers(api, found, place),
        ]
    )
    if not tables and not state.strays and not leftovers:
        where = "" if all_namespaces else f" in namespace {namespace_of(common, api)}"
        printing.note(f"No exposures, responses or access logs found{where}.")
        if state.partial:
            printing.note(f"  {OTHER_GATEWAYS}")
        return
    click.echo("\n\n".join([*tables, *_strays(state.strays), *_left_behind(leftovers)]))


def _tables(api: Any, found: Sequence[Existing], with_namespace: bool, wide: bool) -> list[str]:
    query_limit = QueryLimit()
    statuses, routing = in_parallel(
        [
            lambda: read_status(api, found, query_envoy=wide, query_limit=query_limit),
            lambda: _routing(api, found),
        ]
    )
    reserved = _reserved(api, found, query_limit) if wide else {}
    several = len({existing.kind for existing in found}) > 1
    _warn_of_no_address(found, statuses)
    tables = []
    for kind in Kind:
        headers, wide_headers, row = _COLUMNS[kind]
        rows = []
        for existing, status in zip(found, statuses, strict=True):
            if existing.kind is not kind:
                continue
            # As in kubectl, names have their type if types are mixed.
            name = f"{kind.value}/{existing.name}" if several else existing.name
            lead = [existing.namespace, name] if with_namespace else [name]
            known = existing.spec is not None
            requested = routing.get(existing.key) if kind is Kind.EXPOSURE else None
            status = replace(status, owner=owner_text(status, requested))
            cells = row(existing.spec, status, wide) if known else ["?"] * len(headers)
            extra = cells[len(headers) :]
            if wide and known and kind is Kind.EXPOSURE:
                extra.append(str(reserved.get(existing.key) or ""))
                extra += [_routes(requested) if requested else ""] if routing else []
            rows.append([*lead, *cells[: len(headers)], status.state, status.age, *extra])
        if rows:
            first = ["namespace", "name"] if with_namespace else ["name"]
            # No column for clusters without UDPRoutes.
            more = ["routes"] if routing and kind is Kind.EXPOSURE else []
            last = [*wide_headers, *more] if wide else []
            tables.append(printing.table(rows, [*first, *headers, "status", "age", *last]))
    return tables


def _routing(api: Any, found: Sequence[Existing]) -> Mapping[tuple[str, str], Routing]:
    """The Gateways and routes of exposures; only imported and read if there is such an exposure."""
    exposures = [each.key for each in found if each.exposure and each.exposure.routed]
    if not exposures:
        return {}
    from kubectl_istio_udp.state.udproutes import read_routing

    return read_routing(api, exposures)


def _routes(requested: Routing) -> str:
    """The routes that get datagrams: `dns,apps/logs`, with the namespace if it is another one."""
    served = {routes[0].key for routes in requested.routes.values() if routes}
    namespace = requested.gateway.about.namespace
    return ",".join(
        name if where == namespace else f"{where}/{name}" for where, name in sorted(served)
    )


def _reserved(
    api: Any, found: Sequence[Existing], query_limit: QueryLimit
) -> Mapping[tuple[str, str], Reserved]:
    """The sessions for -o wide; a plain list does not query Envoy."""
    from kubectl_istio_udp.state.gatewayusage import read_reserved

    return read_reserved(api, found, query_limit)


def _warn_of_no_address(found: Sequence[Existing], statuses: Sequence[Status]) -> None:
    """Warn why clients have no address; the table has no space for it."""
    for existing, status in zip(found, statuses, strict=True):
        for condition in status.conditions:
            if condition.type is ConditionType.ADDRESSED and condition.status is Truth.FALSE:
                printing.warn(f"{existing.namespace}/{existing.name}: {condition.message}")


def _strays(strays: Sequence[Stray]) -> list[str]:
    """The table of objects that claim to belong to an exposure but do not."""
    rows = [
        [stray.kind, stray.namespace, stray.name, stray.claimed_owner, stray.reason]
        for stray in strays
    ]
    headers = ["stray", "namespace", "name", "claims to belong to", "ignored because"]
    return [printing.table(rows, headers)] if rows else []


def _leftovers(api: Any, found: Sequence[Existing], namespace: str | None) -> tuple[Leftover, ...]:
    """The leftovers of interrupted runs, in all namespaces, for exposures of one or all."""
    leftovers = read_leftovers(api, [existing.spec for existing in found])
    return leftovers.found(found, namespace)


def _left_behind(leftovers: Sequence[Leftover]) -> list[str]:
    """The table of leftovers, with the command that removes each."""
    rows = [[str(each), "/".join(each.key), each.finish] for each in leftovers]
    return [printing.table(rows, ["leftover", "exposure", "to remove"])] if rows else []


def _one_or_list(items: list[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """In kubectl's format: a single named item as itself, everything else as a List."""
    if len(names) == 1 and Kind.of_word(names[0]) is None:
        return items[0]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _items(api: Any, found: Sequence[Existing]) -> list[dict[str, Any]]:
    """Each item with spec and status, and the objects in the cluster that it consists of.

    The API server does not serve such a kind: the output is for scripts, not for `kubectl apply`.
    """
    routing = _routing(api, found)
    return [
        {
            "apiVersion": _API_VERSION,
            "kind": existing.kind.api_kind,
            "metadata": {"name": existing.name, "namespace": existing.namespace},
            "spec": json.loads(existing.spec.to_json()) if existing.spec else None,
            "status": {
                "owner": owner_text(status, requested),
                "conditions": [condition.to_data() for condition in status.conditions],
                **({"address": status.address} if status.address else {}),
                **({"readyEndpoints": status.ready} if status.ready else {}),
                **_requested(api, requested),
            },
            "objects": [_shown(manifest) for manifest in existing.objects],
        }
        for existing, status in zip(found, read_status(api, found, query_envoy=True), strict=True)
        for requested in [routing.get(existing.key) if existing.exposure else None]
    ]


def _requested(api: Any, routing: Routing | None) -> dict[str, Any]:
    """The Gateway of an exposure, and the backends of its routes; {} for other exposures."""
    if routing is None:
        return {}
    from kubectl_istio_udp.state.udproutes import read_route_backends

    return {
        "gateway": str(routing.gateway),
        "routes": [asdict(row) for row in read_route_backends(api, routing)],
    }


def _shown(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest as kubectl prints it: without managedFields."""
    metadata = {k: v for k, v in manifest["metadata"].items() if k != "managedFields"}
    return {**manifest, "metadata": metadata}


def _ports(ports: Sequence[ExposedPort], wide: bool) -> str:
    """The ports, `5300:53/UDP,5301:54/UDP`; without `wide` only the first of many."""
    texts = ports_text(ports)
    if wide or len(texts) <= _PORTS_SHOWN:
        return ",".join(texts)
    return f"{texts[0]} +{len(texts) - 1} more"


def _services(spec: ExposureSpec, wide: bool) -> str:
    """The Service; of several (routes of a Gateway) the first, unless there is room."""
    names = [spec.service] if spec.service else ["/".join(each) for each in sorted(spec.services)]
    if wide or len(names) <= 1:
        return ",".join(names) or "<none>"
    return f"{names[0]} +{len(names) - 1} more"


def _exposure(spec: ExposureSpec, status: Status, wide: bool) -> list[object]:
    limits = spec.options
    return [
        _services(spec, wide),
        _ports(spec.ports, wide),
        spec.gateway,
        status.address,
        spec.discovery.value,
        status.ready,
        status.owner,
        limits.max_sessions,
        limits.idle_timeout,
        limits.affinity.value,
        limits.gateway_service.value,
    ][: None if wide else 7]


def _response(spec: ResponseSpec, _status: Status, wide: bool) -> list[object]:
    answer = spec.answer
    hosts = ",".join(answer.hosts)
    if not wide and len(answer.hosts) > _HOSTS_SHOWN:
        hosts = f"{answer.hosts[0]} +{len(answer.hosts) - 1} more"
    where = f"{spec.gateway}:{spec.gateway_port}" if spec.gateway else "mesh"
    size = f"{answer.body.size}B" if answer.body else ""
    path = answer.path + ("*" if answer.prefix else "")
    extra = [",".join(name for name, _ in answer.headers), ",".join(spec.servers)]
    return [hosts, path, answer.status, size, where, spec.api.value, *(extra if wide else ())]


def _access_log(spec: AccessLogSpec, _status: Status, wide: bool) -> list[object]:
    selector = ",".join(f"{key}={value}" for key, value in spec.selector.items())
    cells: list[object] = [spec.every, spec.scope.value, selector, spec.direction.value]
    return [*cells, spec.log_field.value] if wide else cells


_COLUMNS: Mapping[Kind, tuple[Sequence[str], Sequence[str], Callable[..., list[object]]]] = {
    Kind.EXPOSURE: (
        ("service", "ports", "gateway", "address", "discovery", "ready", "owner"),
        ("sessions", "idle", "affinity", "via", "reserved"),
        _exposure,
    ),
    Kind.RESPONSE: (
        ("hosts", "path", "code", "body", "at", "api"),
        ("headers", "servers"),
        _response,
    ),
    Kind.ACCESS_LOG: (("every", "scope", "selector", "direction"), ("field",), _access_log),
}
