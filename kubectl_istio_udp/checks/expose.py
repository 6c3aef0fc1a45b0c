"""The checks of `expose` before it writes: would it harm the gateway, or have no effect?

The rules are in the files of their subjects; `RULES` has all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kubectl_istio_udp.checks import endpoints, gateway, loadbalancer, mesh, ports, sessions
from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.objects import foreign_objects, run_rules
from kubectl_istio_udp.checks.wording import exposure_ref
from kubectl_istio_udp.model.exposure import Exposure
from kubectl_istio_udp.model.snapshot import Snapshot

Rule = Callable[[Exposure, Snapshot], Iterator[Finding]]


def check_expose(exposure: Exposure, snapshot: Snapshot) -> tuple[Finding, ...]:
    """The findings of all rules about writing this exposure, errors first."""
    return run_rules(RULES, exposure, snapshot)


def _foreign_object(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U101: one of our objects would overwrite an existing one that does not belong to it."""
    return foreign_objects(exposure.spec, snapshot.objects)


def _other_exposure(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U106: the exposure's name is used for another Service or gateway."""
    mine = exposure.spec
    for other in snapshot.exposures:
        if other.gateway.same_pods(mine.gateway) and other.service == mine.service:
            continue
        yield Finding(
            "U106",
            exposure_ref(exposure),
            f"exposure {mine.namespace}/{mine.name} already exists, for Service {other.service} at "
            f"gateway {other.gateway}",
            f"use another name: --name {mine.name}-2; or first run "
            f"kubectl istio-udp delete -n {mine.namespace} {mine.name}",
        )


RULES: tuple[Rule, ...] = (
    mesh.namespace_not_read,
    mesh.selectors_ignored,
    mesh.changes_hidden,
    mesh.changes_stay_hidden,
    mesh.mesh_unknown,
    _foreign_object,
    endpoints.host_taken,
    ports.name_taken,
    ports.port_taken,
    ports.perhaps_taken,
    ports.port_bound,
    ports.service_port_taken,
    loadbalancer.no_load_balancer,
    loadbalancer.stops_load_balancer,
    _other_exposure,
    gateway.old_gateway,
    sessions.too_many_sessions,
    sessions.too_much_memory,
    sessions.unknown_limit,
    sessions.few_sessions,
    loadbalancer.way_changes,
    ports.protocols_meet,
    endpoints.no_ready_endpoint,
    endpoints.address_refused,
    endpoints.goes_stale,
    gateway.no_ready_gateway,
    loadbalancer.load_balancer_without_udp,
    loadbalancer.unknown_annotations,
    loadbalancer.own_load_balancer,
    loadbalancer.left_out,
    gateway.on_host_network,
    gateway.affinity_to_nodes,
    gateway.who_the_client_is,
    ports.port_translated,
    sessions.session_rate,
)
