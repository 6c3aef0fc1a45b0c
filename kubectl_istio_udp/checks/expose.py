"""The checks of `expose`: whether it would harm the gateway, or have no effect.

The rules are in the files of their subjects; `RULES` has all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_istio_udp.checks import endpoints, gateway, loadbalancer, mesh, ports, sessions
from kubectl_istio_udp.checks.findings import Finding, errors, is_error
from kubectl_istio_udp.checks.refs import spec_ref
from kubectl_istio_udp.checks.rules import Rule, foreign_objects, rule, run_rules
from kubectl_istio_udp.model.exposure import Exposure
from kubectl_istio_udp.model.snapshot import Snapshot


def check_expose(exposure: Exposure, snapshot: Snapshot) -> tuple[Finding, ...]:
    """The findings of all rules about writing this exposure, errors first."""
    return run_rules(RULES, exposure, snapshot)


def expose_errors(exposure: Exposure, snapshot: Snapshot) -> tuple[Finding, ...]:
    """The findings that prevent the write, without looking for others."""
    return errors(run_rules(ERROR_RULES, exposure, snapshot))


@rule("U101", reads=("objects",))
def _foreign_object(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """An object of the exposure already exists, and belongs to something else."""
    return foreign_objects(exposure.spec, snapshot.objects)


@rule("U106", reads=("exposures",))
def _other_exposure(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The exposure's name is used for another Service or gateway."""
    spec = exposure.spec
    for other in snapshot.exposures:
        same_service = other.service == spec.service
        if other.gateway.same_pods(spec.gateway) and same_service:
            continue
        yield Finding(
            "U106",
            spec_ref(spec),
            "spec.gateway" if same_service else "spec.service",
            {"service": other.service, "gateway": str(other.gateway)},
        )


RULES: tuple[Rule[Exposure, Snapshot], ...] = (
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
    endpoints.address_of_others,
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
ERROR_RULES = tuple(rule for rule in RULES if any(map(is_error, rule.codes)))
