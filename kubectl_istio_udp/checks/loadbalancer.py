"""Rules about the gateway's Service and its load balancer."""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.wording import companion_ref, exposure_ref
from kubectl_istio_udp.model.exposure import (
    Exposure,
    GatewayServiceMode,
)
from kubectl_istio_udp.model.ports import ports_text
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.plan.loadbalancer import Takeover, refuses_udp_beside_tcp, takeover


def way_changes(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U206: the port or address that clients use would change."""
    mine = exposure.spec
    for before in snapshot.exposures:
        if before.gateway != mine.gateway or before.service != mine.service:
            continue
        kept = {port.gateway_port for port in mine.ports}
        gone = [port for port in before.ports if port.gateway_port not in kept]
        if gone:
            yield Finding(
                "U206",
                exposure_ref(exposure),
                f"this removes port {', '.join(ports_text(gone))} from exposure {mine.name}; "
                "clients can no longer use it",
            )
        mode, new = before.options.gateway_service.value, mine.options.gateway_service.value
        if mode != new:
            yield Finding(
                "U206",
                exposure_ref(exposure),
                f"the address of exposure {mine.name} changes: --gateway-service was {mode}, "
                f"now {new}",
            )


def own_load_balancer(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U301: the companion Service creates a separate load balancer."""
    service = snapshot.gateway.service
    companion = exposure.spec.options.gateway_service is GatewayServiceMode.COMPANION
    if companion and service and service["spec"].get("type") == "LoadBalancer":
        yield Finding(
            "U301",
            companion_ref(exposure),
            f"Service {exposure.spec.gateway.namespace}/{exposure.spec.object_name} creates a "
            "separate load balancer with its own address",
            f"to use the address of {snapshot.gateway.service_name}: --gateway-service patch",
        )


def no_load_balancer(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U133: no controller will create the companion's load balancer."""
    taken = _companion_takeover(exposure)
    if taken and taken.no_udp and taken.sure and not _is_that_way(exposure, snapshot):
        yield Finding(
            "U133",
            companion_ref(exposure),
            f"Service {exposure.spec.gateway.namespace}/{exposure.spec.object_name} would never "
            f"get an address: {taken.no_udp}",
            _ANOTHER_WAY_IN,
        )


def stops_load_balancer(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U134: with a UDP port, the gateway's own load balancer would no longer be updated."""
    reason = _refused_beside_tcp(exposure)
    if reason and not _is_that_way(exposure, snapshot):
        yield Finding(
            "U134",
            f"Service {snapshot.gateway.service_name}",
            f"a UDP port would stop the load balancer of Service {snapshot.gateway.service_name} "
            f"from following changes, for its TCP ports too: {reason}",
            "use --gateway-service companion, or none",
        )


def load_balancer_without_udp(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U217: a load balancer may not be created, not forward, or not be updated.

    If it is already so, this is no reason to refuse other changes.
    """
    taken = _companion_takeover(exposure)
    stays = _is_that_way(exposure, snapshot)
    name = f"Service {exposure.spec.gateway.namespace}/{exposure.spec.object_name}"
    if taken and taken.no_udp and (stays or not taken.sure):
        yield Finding("U217", companion_ref(exposure), f"{name}: {taken.no_udp}", _ANOTHER_WAY_IN)
    elif taken and taken.health_check and not taken.no_udp:
        yield Finding(
            "U217",
            companion_ref(exposure),
            f"{name}: {taken.health_check}",
            "let the load balancer send to pods (aws-load-balancer-nlb-target-type: ip)",
        )
    reason = _refused_beside_tcp(exposure)
    if reason and stays:
        yield Finding(
            "U217",
            f"Service {snapshot.gateway.service_name}",
            f"the load balancer of Service {snapshot.gateway.service_name} may not follow changes: "
            f"{reason}",
            "use --gateway-service companion, or none",
        )


_ANOTHER_WAY_IN = (
    "bring the clients to the gateway's pods or nodes another way, and expose with "
    "--gateway-service none"
)


def _refused_beside_tcp(exposure: Exposure) -> str:
    """Why the gateway's own Service, which would be patched, must not get a UDP port."""
    if exposure.spec.options.gateway_service is not GatewayServiceMode.PATCH:
        return ""
    return refuses_udp_beside_tcp(exposure.gateway_service or {})


def _is_that_way(exposure: Exposure, snapshot: Snapshot) -> bool:
    """Whether the exposure exists with the same gateway-service mode."""
    mine = exposure.spec
    return any(
        before.key == mine.key
        and before.gateway == mine.gateway
        and before.options.gateway_service is mine.options.gateway_service
        for before in snapshot.exposures
    )


def unknown_annotations(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U216: the companion does not get unknown annotations."""
    taken = _companion_takeover(exposure)
    if taken and taken.unknown:
        name = exposure.spec.object_name
        yield Finding(
            "U216",
            companion_ref(exposure),
            f"Service {exposure.spec.gateway.namespace}/{name} does not take over from "
            f"{snapshot.gateway.service_name}: {', '.join(taken.unknown)} (unknown annotations, "
            "which may name one load balancer)",
            "if they restrict access, set them on the Service yourself: kubectl annotate "
            f"service -n {exposure.spec.gateway.namespace} {name} ...",
        )


def left_out(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U304: annotations that only apply to the gateway's own load balancer."""
    taken = _companion_takeover(exposure)
    if taken and taken.left_out:
        listed = ", ".join(
            f"{key} ({why.value.partition(':')[0]})" for key, why in sorted(taken.left_out.items())
        )
        yield Finding(
            "U304",
            companion_ref(exposure),
            f"Service {exposure.spec.gateway.namespace}/{exposure.spec.object_name} does not take "
            f"over from {snapshot.gateway.service_name}: {listed}",
        )


def _companion_takeover(exposure: Exposure) -> Takeover | None:
    """What the companion copies from a Service of type LoadBalancer; None without one."""
    service = exposure.gateway_service or {}
    companion = exposure.spec.options.gateway_service is GatewayServiceMode.COMPANION
    balanced = (service.get("spec") or {}).get("type") == "LoadBalancer"
    return takeover(service) if companion and balanced else None
