"""Rules about endpoints."""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.wording import exposure_ref
from kubectl_istio_udp.model.entries import same_host
from kubectl_istio_udp.model.exposure import (
    Discovery,
    Exposure,
)
from kubectl_istio_udp.model.snapshot import Snapshot


def no_ready_endpoint(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U201: no endpoint would answer yet."""
    if exposure.spec.discovery is Discovery.DNS:
        return
    for backend in exposure.spec.backends:
        if not exposure.ready_endpoints(backend):
            there = len(exposure.endpoints.get(backend.key, ()))
            yield Finding(
                "U201",
                f"Service {snapshot.service}",
                f"Service {snapshot.service} has no ready endpoints for {backend.port}/UDP "
                f"({there} not ready); clients get no answer until one is ready",
                f"see them: kubectl get endpointslices -n {snapshot.service.namespace} "
                f"-l kubernetes.io/service-name={snapshot.service.name}",
            )


def goes_stale(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U202: the addresses are listed, and no controller updates them."""
    if exposure.spec.discovery in (Discovery.ENDPOINTS, Discovery.STATIC):
        yield Finding(
            "U202",
            exposure_ref(exposure),
            f"the addresses of the pods are in the "
            f"{'EnvoyFilter' if exposure.spec.discovery is Discovery.STATIC else 'ServiceEntry'}"
            " and become stale when pods are replaced, unless a controller updates them",
            "run expose again after pods were replaced",
        )


def address_refused(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U210: the Service has an address that is not allowed as an endpoint."""
    if exposure.spec.discovery not in (Discovery.ENDPOINTS, Discovery.STATIC):
        return
    for address, reason in snapshot.rules.objections(snapshot.slices).items():
        yield Finding(
            "U210",
            f"Service {snapshot.service}",
            f"the gateway will not send to endpoint {address} of Service {snapshot.service}: it is "
            f"{reason}",
            f"see it: kubectl get endpointslices -n {snapshot.service.namespace} "
            f"-l kubernetes.io/service-name={snapshot.service.name}",
        )


def host_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U110: another ServiceEntry has the same host as this exposure's."""
    spec = exposure.spec
    for other in same_host(spec.key, spec.entries, snapshot.entries, spec.gateway.namespace):
        name = f"{other.namespace}/{other.name}"
        yield Finding(
            "U110",
            f"ServiceEntry {name}",
            f"ServiceEntry {name} has the same host as exposure {spec.name}; its endpoints may get "
            "the datagrams",
            f"delete it: kubectl delete serviceentry -n {other.namespace} {other.name}; or use "
            f"another host: kubectl istio-udp delete -n {spec.namespace} {spec.name}, then expose "
            "again",
        )
