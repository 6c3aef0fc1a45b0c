"""Rules about the endpoints to which the gateway sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl_istio_udp.model.exposure import Discovery, Exposure
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.service import EXPORT_TO_ANNOTATION
from kubectl_istio_udp.render.serviceentry import service_entry
from kubectl_istio_udp.verify.cause import (
    CHECK_ISTIOD,
    Cause,
    hosts_agree,
    hosts_differ,
    labels_text,
    name_of,
    port_numbers,
    run_again,
    some_of,
)
from kubectl_istio_udp.verify.evidence import Evidence


def host_taken(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """Another ServiceEntry has the same host, and its endpoints are in the cluster."""
    if hosts_agree(evidence, port, pod) or not evidence.same_host or port.eds_service:
        return None
    return Cause(
        "HostTaken",
        f"ServiceEntry {evidence.same_host} has the same host as this exposure, and istiod "
        f"sends its endpoints to the gateway; {hosts_differ(evidence, port, pod)}",
        f"delete that ServiceEntry, or its host; then {run_again(evidence)}",
    )


def twin_gone(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The endpoints come from the Service's TCP port with the same number."""
    if not port.eds_service or hosts_agree(evidence, port, pod):
        return None
    service, number = evidence.service, port.service_port
    udp = [p for p in service.udp_ports if p.port == number]
    if udp and service.tcp_twin(udp[0]):
        return None
    tcp = next((p for p in service.ports if p.protocol == "TCP" and p.port == number), None)
    now = f"leads to another target ({tcp.target_port})" if tcp else "is gone"
    return Cause(
        "TwinPortGone",
        f"the gateway gets its endpoints from port {number}/TCP of Service {service}, which "
        f"{now}; {hosts_differ(evidence, port, pod)}",
        run_again(evidence),
    )


def service_not_exported(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The Service is not exported to the gateway's namespace, so istiod sends no endpoints."""
    exported = evidence.service.export_to
    if not port.eds_service or hosts_agree(evidence, port, pod) or not exported:
        return None
    gateway = evidence.spec.gateway.namespace
    if evidence.service.is_exported_to(gateway, ()):
        return None
    return Cause(
        "ServiceNotExported",
        f"Service {evidence.service} is exported to {', '.join(exported)} only (annotation "
        f"{EXPORT_TO_ANNOTATION}), so the gateway does not get its endpoints",
        f"add {gateway} to the annotation, or expose with --discovery endpoints",
    )


def entry_edited(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """A ServiceEntry was edited, besides its endpoints, which have rules of their own."""
    if port.eds_service or hosts_agree(evidence, port, pod):
        return None
    exposure = Exposure(evidence.spec)
    for entry in evidence.spec.entries:
        wanted = service_entry(exposure, entry)
        place = ObjectRef.of(wanted)
        existing = next((each for each in evidence.entries if ObjectRef.of(each) == place), None)
        if existing and (field := _edited(existing.get("spec") or {}, wanted["spec"])):
            return Cause(
                "EntryEdited",
                f"{field} of ServiceEntry {name_of(existing)} was edited; "
                f"{hosts_differ(evidence, port, pod)}",
                run_again(evidence, "--force-conflicts"),
            )
    return None


def _edited(has: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first field of a ServiceEntry that is not as wanted; "" if there is none."""
    for field in ("hosts", "exportTo", "resolution"):
        if has.get(field) != wanted[field]:
            return field
    for field in ("endpoints", "workloadSelector"):
        if field in has and field not in wanted:
            return field
    return "" if all(port in (has.get("ports") or ()) for port in wanted["ports"]) else "ports"


def selector_changed(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The Service's selector differs from the ServiceEntry's."""
    if evidence.spec.discovery is not Discovery.SELECTOR or port.eds_service:
        return None
    if hosts_agree(evidence, port, pod):
        return None
    for entry in evidence.entries:
        selector = (entry.get("spec") or {}).get("workloadSelector") or {}
        written = selector.get("labels") or {}
        if dict(written) != dict(evidence.service.selector):
            return Cause(
                "SelectorChanged",
                f"Service {evidence.service} selects {labels_text(evidence.service.selector)}, but "
                f"ServiceEntry {name_of(entry)} selects {labels_text(written)}; "
                f"{hosts_differ(evidence, port, pod)}",
                run_again(evidence),
            )
    return None


def target_changed(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The gateway sends to the pods' former port."""
    has, should = evidence.hosts(pod, port), evidence.addresses(port)
    if evidence.spec.discovery is Discovery.DNS or not has or not should:
        return None
    before, now = port_numbers(has), port_numbers(should)
    if before & now or port.eds_service:
        return None
    return Cause(
        "TargetPortChanged",
        f"port {port.service_port} of Service {evidence.service} now leads to target port "
        f"{some_of(now)}; {hosts_differ(evidence, port, pod)}",
        run_again(evidence),
    )


def stale(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The written addresses are not the Service's endpoints any more."""
    written = evidence.spec.discovery in (Discovery.STATIC, Discovery.ENDPOINTS)
    if not written or port.eds_service or hosts_agree(evidence, port, pod):
        return None
    return Cause("StaleAddresses", hosts_differ(evidence, port, pod), run_again(evidence))


def foreign(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The cluster has addresses that are not endpoints of the Service."""
    foreign = (
        evidence.hosts(pod, port) - evidence.addresses(port)
        if not hosts_agree(evidence, port, pod)
        else frozenset()
    )
    if not foreign:
        return None
    namespace = evidence.service.namespace
    differ = hosts_differ(evidence, port, pod)
    return Cause(
        "ForeignHosts",
        f"{differ}: {some_of(foreign)} is not an endpoint of the Service",
        "look for what has these addresses: "
        f"kubectl get workloadentries,serviceentries -n {namespace} -o wide",
    )


def not_sent(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """Something that istiod should have sent is missing."""
    if hosts_agree(evidence, port, pod):
        return None
    name = evidence.cluster(port)
    if not evidence.hosts(pod, port):
        return Cause(
            "NoHosts",
            f"cluster {name} of {pod} has no hosts: istiod sends no endpoints of Service "
            f"{evidence.service}",
            f"{CHECK_ISTIOD}, and whether it watches namespace {evidence.service.namespace}",
        )
    return Cause(
        "HostsMissing",
        hosts_differ(evidence, port, pod),
        CHECK_ISTIOD,
    )


def other_answer(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The gateway forwards another server's answer, and there is no evidence why."""
    return Cause("ErrorAnswer")
