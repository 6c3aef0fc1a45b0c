"""Rules about the Service and its pods: why there is no pod to query."""

from __future__ import annotations

from kubectl_istio_udp.model.annotation_values import some
from kubectl_istio_udp.model.endpointrules import summary
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.service import SERVICE_LABEL
from kubectl_istio_udp.verify.cause import Cause, labels_text, none_ready
from kubectl_istio_udp.verify.evidence import Evidence


def port_gone(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The Service has no UDP port with this number any more."""
    service, spec = evidence.service, evidence.spec
    if any(p.port == port.service_port for p in service.udp_ports):
        return None
    renumbered = [p for p in service.udp_ports if p.name and p.name == port.service_port_name]
    if renumbered:
        now = f"its port {renumbered[0].name} is {renumbered[0].port} now"
    elif service.udp_ports:
        now = f"its UDP ports: {some(service.udp_ports, 5)}"
    else:
        now = "it has no UDP port"
    to = renumbered[0].port if renumbered else "SERVICE_PORT"
    remedy = (
        f"kubectl istio-udp expose {spec.service} -n {spec.namespace} -p {port.gateway_port}:{to}"
        if spec.service
        else f"change port to {to} in the UDPRoute's backendRefs"
    )
    return Cause(
        "ServicePortGone",
        f"Service {service} no longer has port {port.service_port}/UDP ({now})",
        remedy,
    )


def refused_cause(evidence: Evidence) -> Cause | None:
    """The gateway does not send to some addresses of the Service, because they are not allowed."""
    if not evidence.refused:
        return None
    service = evidence.service
    return Cause(
        "EndpointRefused",
        f"the gateway does not send to {summary(evidence.refused)}",
        "see who lists it: kubectl get endpointslices "
        f"-n {service.namespace} -l {SERVICE_LABEL}={service.name}",
    )


def all_refused(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """All addresses of the Service are refused."""
    return refused_cause(evidence)


def no_pods(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The Service's selector selects no pod."""
    service = evidence.service
    if evidence.pods != () or not service.selector:
        return None
    return Cause(
        "NoPods",
        f"Service {service} selects {labels_text(service.selector)}, and no pod in namespace "
        f"{service.namespace} has these labels",
        f"kubectl get pods -n {service.namespace} --show-labels",
    )


def pods_not_ready(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """None of the Service's pods is ready."""
    pods, service = evidence.pods, evidence.service
    if not pods or any(p.ready for p in pods):
        return None
    return Cause(
        "PodsNotReady",
        f"Service {service} has {len(pods)} pod(s), {none_ready(pods)}",
        f"kubectl describe pod -n {service.namespace} {pods[0].name}",
    )


def target_port_missing(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """No pod has a container port with the name of the target port."""
    service = evidence.service
    named = [
        p.target_port
        for p in service.udp_ports
        if p.port == port.service_port and isinstance(p.target_port, str)
    ]
    if not named or not evidence.pods:
        return None
    return Cause(
        "TargetPortMissing",
        f"no ready pod of Service {service} declares a UDP container port named {named[0]}",
        "declare it in the pods' containers, or give the Service's port a number as targetPort",
    )


def no_endpoints(evidence: Evidence, port: ExposedPort, pod: str) -> Cause | None:
    """The Service has no endpoints, and no other rule knows why."""
    service = evidence.service
    return Cause(
        "NoEndpoints",
        f"Service {service} has no ready endpoints for {port.service_port}/UDP",
        f"kubectl get endpointslices -n {service.namespace} -l {SERVICE_LABEL}={service.name}",
    )
