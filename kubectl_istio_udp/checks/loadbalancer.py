"""Rules about the gateway's Service and its load balancer."""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_istio_udp.checks.findings import Finding, Value
from kubectl_istio_udp.checks.refs import companion_ref, gateway_service_ref, spec_ref
from kubectl_istio_udp.checks.rules import rule
from kubectl_istio_udp.model.exposure import (
    Exposure,
    GatewayServiceMode,
)
from kubectl_istio_udp.model.ports import ports_text
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.plan.loadbalancer import Takeover, refuses_udp_beside_tcp, takeover


@rule("U206", reads=("exposures",))
def way_changes(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The port or address that clients use would change."""
    spec = exposure.spec
    for before in snapshot.exposures:
        if before.gateway != spec.gateway or before.service != spec.service:
            continue
        kept = {port.gateway_port for port in spec.ports}
        gone = [port for port in before.ports if port.gateway_port not in kept]
        if gone:
            yield Finding(
                "U206", spec_ref(spec), "spec.ports", {"ports": tuple(ports_text(gone))}, "port"
            )
        mode, new = before.options.gateway_service.value, spec.options.gateway_service.value
        if mode != new:
            yield Finding(
                "U206",
                spec_ref(spec),
                "spec.options.gateway_service",
                {"before": mode, "now": new},
                "address",
            )


@rule("U301", reads=("gateway",))
def own_load_balancer(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The companion Service creates a separate load balancer."""
    service = snapshot.gateway.service
    companion = exposure.spec.options.gateway_service is GatewayServiceMode.COMPANION
    if companion and service and service["spec"].get("type") == "LoadBalancer":
        yield Finding(
            "U301",
            companion_ref(exposure),
            "spec.type",
            {"gateway_service": str(gateway_service_ref(snapshot.gateway))},
        )


@rule("U133", reads=("exposures",))
def no_load_balancer(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """No controller will create the companion's load balancer."""
    taken = _companion_takeover(exposure)
    if taken and taken.no_udp and taken.sure and not _mode_unchanged(exposure, snapshot):
        yield Finding("U133", companion_ref(exposure), "spec.type", {"reason": taken.no_udp})


@rule("U134", reads=("exposures", "gateway"))
def stops_load_balancer(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """With a UDP port, the gateway's own load balancer would no longer be updated."""
    reason = _refused_beside_tcp(exposure)
    if reason and not _mode_unchanged(exposure, snapshot):
        yield Finding(
            "U134",
            gateway_service_ref(snapshot.gateway),
            "spec.ports",
            {"reason": reason, "gateway": str(snapshot.gateway.ref)},
        )


@rule("U217", reads=("exposures", "gateway"))
def load_balancer_without_udp(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The load balancer may not be created, may not forward, or may not be updated.

    Only a warning if the exposure already has this problem, so that other changes are possible.
    """
    taken = _companion_takeover(exposure)
    stays = _mode_unchanged(exposure, snapshot)
    companion = companion_ref(exposure)
    if taken and taken.no_udp and (stays or not taken.sure):
        yield Finding("U217", companion, "spec.type", {"reason": taken.no_udp}, "no UDP")
    elif taken and taken.health_check and not taken.no_udp:
        yield Finding(
            "U217", companion, "spec.type", {"reason": taken.health_check}, "health check"
        )
    reason = _refused_beside_tcp(exposure)
    if reason and stays:
        yield Finding(
            "U217",
            gateway_service_ref(snapshot.gateway),
            "spec.ports",
            {"reason": reason},
            "patched",
        )


def _refused_beside_tcp(exposure: Exposure) -> str:
    """Why the gateway's own Service, which would be patched, must not get a UDP port."""
    if exposure.spec.options.gateway_service is not GatewayServiceMode.PATCH:
        return ""
    return refuses_udp_beside_tcp(exposure.gateway_service or {})


def _mode_unchanged(exposure: Exposure, snapshot: Snapshot) -> bool:
    """Whether the exposure already exists with this gateway-service mode."""
    spec = exposure.spec
    return any(
        before.key == spec.key
        and before.gateway == spec.gateway
        and before.options.gateway_service is spec.options.gateway_service
        for before in snapshot.exposures
    )


@rule("U216", reads=("gateway",))
def unknown_annotations(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The companion does not get unknown annotations."""
    taken = _companion_takeover(exposure)
    if taken and taken.unknown:
        values: dict[str, Value] = {
            "gateway_service": str(gateway_service_ref(snapshot.gateway)),
            "annotations": taken.unknown,
        }
        yield Finding("U216", companion_ref(exposure), "metadata.annotations", values)


@rule("U304", reads=("gateway",))
def left_out(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """Annotations that only apply to the gateway's own load balancer."""
    taken = _companion_takeover(exposure)
    if taken and taken.left_out:
        listed = tuple(
            f"{key} ({why.value.partition(':')[0]})" for key, why in sorted(taken.left_out.items())
        )
        values: dict[str, Value] = {
            "gateway_service": str(gateway_service_ref(snapshot.gateway)),
            "annotations": listed,
        }
        yield Finding("U304", companion_ref(exposure), "metadata.annotations", values)


def _companion_takeover(exposure: Exposure) -> Takeover | None:
    """What the companion copies from a Service of type LoadBalancer; None without one."""
    service = exposure.gateway_service or {}
    companion = exposure.spec.options.gateway_service is GatewayServiceMode.COMPANION
    balanced = (service.get("spec") or {}).get("type") == "LoadBalancer"
    return takeover(service) if companion and balanced else None
