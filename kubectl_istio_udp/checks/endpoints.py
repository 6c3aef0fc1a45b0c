"""Rules about endpoints."""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.refs import owner_ref, service_port, spec_ref
from kubectl_istio_udp.checks.rules import rule
from kubectl_istio_udp.model.entries import same_host
from kubectl_istio_udp.model.exposure import (
    Discovery,
    Exposure,
)
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.model.snapshot import Snapshot


@rule("U201", reads=("service",))
def no_ready_endpoint(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """No endpoint would answer yet."""
    if exposure.spec.discovery is Discovery.DNS:
        return
    for backend in exposure.spec.backends:
        if not exposure.ready_endpoints(backend):
            not_ready = len(exposure.endpoints.get(backend.key, ()))
            yield Finding(
                "U201",
                owner_ref("Service", str(snapshot.service)),
                service_port(backend.port),
                {"port": backend.port, "not_ready": not_ready},
            )


@rule("U202")
def goes_stale(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The addresses are listed, and no controller updates them."""
    if exposure.spec.discovery in (Discovery.ENDPOINTS, Discovery.STATIC):
        static = exposure.spec.discovery is Discovery.STATIC
        values = {"kind": "EnvoyFilter" if static else "ServiceEntry"}
        yield Finding("U202", spec_ref(exposure.spec), "spec.discovery", values)


@rule("U210", reads=("rules", "service", "slices"))
def address_refused(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The Service has an address that is not allowed as an endpoint."""
    if exposure.spec.discovery not in (Discovery.ENDPOINTS, Discovery.STATIC):
        return
    for address, reason in snapshot.rules.objections(snapshot.slices).items():
        yield Finding(
            "U210",
            owner_ref("Service", str(snapshot.service)),
            values={"address": address, "reason": reason},
        )


@rule("U219", reads=("others_addresses", "service"))
def address_of_others(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The Service lists the address of another namespace's pod, or of a node."""
    if exposure.spec.discovery not in (Discovery.ENDPOINTS, Discovery.STATIC):
        return
    for address, owner in snapshot.others_addresses:
        yield Finding(
            "U219",
            owner_ref("Service", str(snapshot.service)),
            values={"address": address, "owner": owner},
        )


@rule("U110", reads=("entries",))
def host_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """Another ServiceEntry has the same host as this exposure's."""
    spec = exposure.spec
    for other in same_host(spec.key, spec.entries, snapshot.entries, spec.gateway.namespace):
        yield Finding(
            "U110",
            ObjectRef("ServiceEntry", other.namespace, other.name),
            "spec.hosts",
            {"namespace": spec.namespace, "exposure": spec.name},
        )
