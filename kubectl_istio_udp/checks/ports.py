"""Rules about ports and names that the gateway or its Service already has.

If two EnvoyFilters add a listener or cluster with the same name, or bind the same port, Envoy
rejects the whole update: running gateway pods keep their old configuration, new ones never become
Ready. So conflicts are errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from kubectl_istio_udp.checks.findings import Finding, Value
from kubectl_istio_udp.checks.mesh import mesh_name
from kubectl_istio_udp.checks.refs import (
    LISTENER_ADDRESS,
    gateway_ref,
    owner_ref,
    patch_name,
    service_port,
    spec_ref,
)
from kubectl_istio_udp.checks.rules import rule
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.envoyfilter import Footprint
from kubectl_istio_udp.model.exposure import (
    Exposure,
    ExposureSpec,
    GatewayServiceMode,
)
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.model.managed_fields import conflicting_ports
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.state.occupancy import of_others
from kubectl_istio_udp.state.reservations import ANNOTATION, is_reservation

_FOOTPRINT_FIELDS = ("before", "bound", "footprints", "gateway", "mesh")


@rule("U102", reads=_FOOTPRINT_FIELDS)
def name_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """Another EnvoyFilter adds a listener or cluster with the same name."""
    for footprint in _footprints_of_others(exposure, snapshot):
        for kind, wanted, taken in (
            ("listener", exposure.spec.listener_names, footprint.listeners),
            ("cluster", exposure.spec.cluster_names, footprint.clusters),
        ):
            for name in sorted(wanted & taken):
                if _blocks(footprint, name, snapshot):
                    case, more = _certainty(footprint, snapshot)
                    yield Finding(
                        "U102",
                        owner_ref("EnvoyFilter", footprint.owner),
                        _field(footprint, patch_name(name)),
                        {
                            "kind": kind,
                            "name": name,
                            "gateway": str(snapshot.gateway.ref),
                            **more,
                        },
                        case,
                    )


@rule("U103", reads=_FOOTPRINT_FIELDS)
def port_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """Another EnvoyFilter's listener binds the same UDP port."""
    for footprint in _footprints_of_others(exposure, snapshot):
        for port in exposure.spec.ports:
            if port.listener_port in footprint.udp_ports and _blocks(
                footprint, port.listener_port, snapshot
            ):
                case, more = _certainty(footprint, snapshot)
                if footprint.exposure:
                    case, more = _exposure(footprint.exposure)
                yield Finding(
                    "U103",
                    owner_ref("EnvoyFilter", footprint.owner),
                    _field(footprint, LISTENER_ADDRESS),
                    {
                        "port": port.listener_port,
                        "service_port": port.service_port,
                        "gateway": str(snapshot.gateway.ref),
                        **more,
                    },
                    case,
                )


@rule("U208", reads=("before", "bound", "footprints", "gateway"))
def perhaps_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """An EnvoyFilter would conflict, but it is not certain that the gateway gets it."""
    for footprint in _footprints_of_others(exposure, snapshot):
        spec = exposure.spec
        wanted = spec.listener_names | spec.cluster_names
        ports = {port.listener_port for port in spec.ports} & footprint.udp_ports
        ports = {port for port in ports if not _blocks(footprint, port, snapshot)}
        taken = sorted(
            name
            for name in (footprint.listeners | footprint.clusters) & wanted
            if not _blocks(footprint, name, snapshot)
        )
        if not (taken or ports):
            continue
        case, more = _exposure(footprint.exposure) if footprint.exposure else ("", {})
        yield Finding(
            "U208",
            owner_ref("EnvoyFilter", footprint.owner),
            _field(footprint, "spec.configPatches"),
            {
                "added": (*(f"port {port}/UDP" for port in sorted(ports)), *taken),
                "gateway": str(snapshot.gateway.ref),
                "doubt": footprint.doubt,
                **more,
            },
            case,
        )


def _footprints_of_others(exposure: Exposure, snapshot: Snapshot) -> Iterator[Footprint]:
    """What other EnvoyFilters than the exposure's add to the gateway."""
    spec = exposure.spec
    return of_others(snapshot.footprints, spec.key, [spec.gateway.namespace])


def _is_live(footprint: Footprint, snapshot: Snapshot) -> bool:
    """Whether the gateway certainly has what an EnvoyFilter adds, by the rules or by its Envoy."""
    return footprint.is_certain(_bound(snapshot))


def _blocks(footprint: Footprint, taken: str | int, snapshot: Snapshot) -> bool:
    """Whether an EnvoyFilter with a port or name prevents an exposure from using it."""
    return footprint.blocks(taken, _held(snapshot.before), _bound(snapshot))


def _bound(snapshot: Snapshot) -> frozenset[str]:
    """The names of the listeners of the gateway's Envoy; none if they are not known."""
    return frozenset(listener.name for listener in snapshot.bound or ())


def _held(before: ExposureSpec | None) -> Set[str | int]:
    """The listener ports, and the names of listeners and clusters, that an exposure has."""
    if before is None:
        return frozenset()
    ports = {port.listener_port for port in before.ports}
    return before.listener_names | before.cluster_names | ports


def _field(footprint: Footprint, field: str) -> str:
    """The field of an EnvoyFilter that adds something; a reservation has no patches yet."""
    name = footprint.owner.rpartition("/")[2]
    return f"metadata.annotations.{ANNOTATION}" if is_reservation(name) else field


def _certainty(footprint: Footprint, snapshot: Snapshot) -> tuple[str, dict[str, Value]]:
    """The case of a finding, and its values, if the root namespace is unknown."""
    if _is_live(footprint, snapshot):
        return "", {}
    return "root unknown", {"mesh": mesh_name(snapshot.mesh)}


def _exposure(key: tuple[str, str]) -> tuple[str, dict[str, Value]]:
    """The case of a finding about another exposure's EnvoyFilter, and its values."""
    return "exposure", {"namespace": key[0], "owner": key[1]}


@rule("U104", reads=("bound", "footprints", "gateway", "objects"))
def port_bound(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """An active listener of the gateway has the UDP port (e.g. HTTP/3) or the name.

    Ignores listeners of the exposure itself, and those of EnvoyFilters: U102 and U103 describe
    them better.
    """
    added = {name for footprint in snapshot.footprints for name in footprint.listeners}
    owned = exposure.spec.listener_names
    gateway = gateway_ref(snapshot.gateway.ref)
    exists = any(manifest["kind"] == "EnvoyFilter" for manifest in snapshot.objects)
    for bound in snapshot.bound or ():
        if bound.name in added:
            continue
        udp = bound.protocol == "UDP"
        # A listener that was just deleted may still be active; it goes away.
        if bound.name in owned and not udp and not exists:
            values: dict[str, Value] = {
                "listener": bound.name,
                "port": bound.port,
                "protocol": bound.protocol,
            }
            yield Finding("U104", gateway, values=values, case="name")
        for port in exposure.spec.ports:
            if udp and bound.port == port.listener_port and bound.name not in owned:
                yield Finding(
                    "U104",
                    gateway,
                    values={
                        "listener": bound.name,
                        "port": bound.port,
                        "service_port": port.service_port,
                    },
                    case="port",
                )


@rule("U105", reads=("gateway",))
def service_port_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The gateway's Service, which would be patched, already has such a UDP port."""
    if exposure.spec.options.gateway_service is not GatewayServiceMode.PATCH:
        return
    service = exposure.gateway_service
    if service is None:
        yield Finding("U105", gateway_ref(snapshot.gateway.ref), case="no Service")
        return
    manager = names.service_manager(*exposure.spec.key)
    for port in exposure.spec.ports:
        for entry in conflicting_ports(service, manager, port.gateway_port):
            yield Finding(
                "U105",
                _service_ref(service),
                service_port(entry["port"]),
                {
                    "port": entry["port"],
                    "protocol": entry.get("protocol") or "TCP",
                    "name": entry.get("name") or "without a name",
                    "service_port": port.service_port,
                    "gateway": str(snapshot.gateway.ref),
                },
                "port",
            )


@rule("U230")
def protocols_meet(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """A TCP and a UDP port of the gateway's own Service would have the same number."""
    service = exposure.gateway_service
    if exposure.spec.options.gateway_service is not GatewayServiceMode.PATCH or service is None:
        return
    taken = {p["port"] for p in service["spec"].get("ports") or () if p.get("protocol") != "UDP"}
    for port in exposure.spec.ports:
        if port.gateway_port in taken:
            yield Finding(
                "U230",
                _service_ref(service),
                service_port(port.gateway_port),
                {"port": port.gateway_port},
            )


@rule("U302")
def port_translated(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """The gateway may not bind the port, so the Service translates it."""
    for port in exposure.spec.ports:
        if port.listener_port != port.gateway_port:
            values = {"port": port.gateway_port, "listener_port": port.listener_port}
            yield Finding("U302", spec_ref(exposure.spec), "spec.ports", values)


def _service_ref(service: Mapping[str, Any]) -> ObjectRef:
    metadata = service["metadata"]
    return ObjectRef("Service", metadata["namespace"], metadata["name"])
