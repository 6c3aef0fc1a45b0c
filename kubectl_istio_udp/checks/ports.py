"""Rules about ports and names that the gateway or its Service already has.

If two EnvoyFilters add a listener or cluster with the same name, or bind the same port, Envoy
rejects the whole update: running gateway pods keep their old configuration, new ones never become
Ready. So conflicts are errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.mesh import mesh_name
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.envoyfilter import ROOT_UNKNOWN, Footprint
from kubectl_istio_udp.model.exposure import (
    Exposure,
    ExposureSpec,
    GatewayServiceMode,
)
from kubectl_istio_udp.model.ownership import managed_ports
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.state.reservations import reservation_name


def name_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U102: another EnvoyFilter adds a listener or cluster with the same name."""
    for footprint in _footprints_of_others(exposure, snapshot):
        for kind, wanted, taken in (
            ("listener", exposure.spec.listener_names, footprint.listeners),
            ("cluster", exposure.spec.cluster_names, footprint.clusters),
        ):
            for name in sorted(wanted & taken):
                if _blocks(footprint, name, snapshot):
                    yield Finding(
                        "U102",
                        f"EnvoyFilter {footprint.owner}",
                        f"EnvoyFilter {footprint.owner} already adds a {kind} named {name} to "
                        f"gateway {snapshot.gateway.ref}{_if_root(footprint, snapshot)}",
                        f"give the exposure another name: --name{_or_root(footprint, snapshot)}",
                    )


def port_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U103: another EnvoyFilter's listener binds the same UDP port."""
    for footprint in _footprints_of_others(exposure, snapshot):
        for port in exposure.spec.ports:
            if port.listener_port in footprint.udp_ports and _blocks(
                footprint, port.listener_port, snapshot
            ):
                yield Finding(
                    "U103",
                    f"EnvoyFilter {footprint.owner}",
                    f"port {port.listener_port}/UDP of gateway {snapshot.gateway.ref} is taken by "
                    f"{_owner(footprint)}{_if_root(footprint, snapshot)}",
                    _another_port(port.service_port) + _or_root(footprint, snapshot),
                )


def perhaps_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U208: an EnvoyFilter would conflict, but it is not certain that the gateway gets it."""
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
        what = [f"port {port}/UDP" for port in sorted(ports)] + taken
        yield Finding(
            "U208",
            f"EnvoyFilter {footprint.owner}",
            f"{_owner(footprint)} may add {', '.join(what)} to gateway {snapshot.gateway.ref}; its "
            f"Envoy would then reject both. Not certain: {footprint.doubt}",
            f"check it: kubectl get envoyfilter -n {footprint.owner.replace('/', ' ')} -o yaml",
        )


def _footprints_of_others(exposure: Exposure, snapshot: Snapshot) -> Iterator[Footprint]:
    """What other EnvoyFilters than the exposure's add to the gateway.

    Reservations of the same exposure are left out: only one run can hold one.
    """
    spec = exposure.spec
    own = {f"{spec.gateway.namespace}/{n}" for n in (spec.object_name, reservation_name(spec))}
    for footprint in snapshot.footprints:
        if footprint.exposure != spec.key or footprint.owner not in own:
            yield footprint


def _is_live(footprint: Footprint, snapshot: Snapshot) -> bool:
    """Whether the gateway certainly has what an EnvoyFilter adds, by the rules or by its Envoy."""
    bound = {listener.name for listener in snapshot.bound or ()}
    return not footprint.doubt or bool(footprint.listeners & bound)


def _blocks(footprint: Footprint, taken: str | int, snapshot: Snapshot) -> bool:
    """Whether an EnvoyFilter with a port or name prevents an exposure from using it.

    If only the mesh's root namespace is unknown, it does: the gateway gets both if the EnvoyFilter
    is in it. What the exposure has already is no reason to refuse a change.
    """
    unknown = _only_root_unknown(footprint) and taken not in _held(snapshot.before)
    return _is_live(footprint, snapshot) or unknown


def _held(before: ExposureSpec | None) -> Set[str | int]:
    """The listener ports, and the names of listeners and clusters, that an exposure has."""
    if before is None:
        return frozenset()
    ports = {port.listener_port for port in before.ports}
    return before.listener_names | before.cluster_names | ports


def _only_root_unknown(footprint: Footprint) -> bool:
    """Whether another EnvoyFilter applies to the gateway if its namespace is the root namespace.

    Those of exposures are for the gateways of their own namespace, wherever that is.
    """
    return footprint.doubt == ROOT_UNKNOWN and footprint.exposure is None


def _if_root(footprint: Footprint, snapshot: Snapshot) -> str:
    """The addition to a message if the root namespace is unknown."""
    if _is_live(footprint, snapshot):
        return ""
    namespace = footprint.owner.partition("/")[0]
    return (
        f", if {namespace} is the root namespace of the mesh; could not read the configuration of "
        f"{mesh_name(snapshot.mesh)}"
    )


def _or_root(footprint: Footprint, snapshot: Snapshot) -> str:
    """The addition to the remedy if the root namespace is unknown."""
    if _is_live(footprint, snapshot):
        return ""
    return ", or name the root namespace: --root-namespace NAMESPACE"


def _owner(footprint: Footprint) -> str:
    """An EnvoyFilter in messages."""
    if not footprint.exposure:
        return f"EnvoyFilter {footprint.owner}"
    namespace, name = footprint.exposure
    return f"EnvoyFilter {footprint.owner} (exposure {name} of namespace {namespace})"


def port_bound(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U104: an active listener of the gateway has the UDP port (e.g. HTTP/3) or the name.

    Ignores listeners of the exposure itself, and those of EnvoyFilters: U102 and U103 describe
    them better.
    """
    added = {name for footprint in snapshot.footprints for name in footprint.listeners}
    own = exposure.spec.listener_names
    there = any(manifest["kind"] == "EnvoyFilter" for manifest in snapshot.objects)
    for bound in snapshot.bound or ():
        if bound.name in added:
            continue
        udp = bound.protocol == "UDP"
        # A listener that was just deleted may still be active; it goes away.
        if bound.name in own and not udp and not there:
            yield Finding(
                "U104",
                f"gateway {snapshot.gateway.ref}",
                f"gateway {snapshot.gateway.ref} already has a listener {bound.name} on "
                f"{bound.port}/{bound.protocol}",
                "give the exposure another name: --name",
            )
        for port in exposure.spec.ports:
            if udp and bound.port == port.listener_port and bound.name not in own:
                yield Finding(
                    "U104",
                    f"gateway {snapshot.gateway.ref}",
                    f"port {bound.port}/UDP of gateway {snapshot.gateway.ref} is taken by its "
                    f"listener {bound.name}",
                    _another_port(port.service_port),
                )


def service_port_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U105: the gateway's Service, which would be patched, already has such a UDP port."""
    if exposure.spec.options.gateway_service is not GatewayServiceMode.PATCH:
        return
    service = exposure.gateway_service
    if service is None:
        yield Finding(
            "U105",
            f"gateway {snapshot.gateway.ref}",
            f"gateway {snapshot.gateway.ref} has no Service to patch",
            "use --gateway-service companion",
        )
        return
    name = f"{service['metadata']['namespace']}/{service['metadata']['name']}"
    ours = managed_ports(service, names.service_manager(*exposure.spec.key))
    for port in exposure.spec.ports:
        for entry in service["spec"].get("ports") or ():
            if entry in ours:
                continue
            same_port = (entry["port"], entry.get("protocol")) == (port.gateway_port, "UDP")
            if same_port or entry.get("name") == f"udp-{port.gateway_port}":
                yield Finding(
                    "U105",
                    f"Service {name}",
                    f"Service {name} already has a port {entry['port']}/{entry.get('protocol')} "
                    f"({entry.get('name')})",
                    _another_port(port.service_port),
                )


def protocols_meet(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U230: a TCP and a UDP port of the gateway's own Service would have the same number."""
    service = exposure.gateway_service
    if exposure.spec.options.gateway_service is not GatewayServiceMode.PATCH or service is None:
        return
    name = f"{service['metadata']['namespace']}/{service['metadata']['name']}"
    taken = {p["port"] for p in service["spec"].get("ports") or () if p.get("protocol") != "UDP"}
    for port in exposure.spec.ports:
        if port.gateway_port in taken:
            yield Finding(
                "U230",
                f"Service {name}",
                f"Service {name} has {port.gateway_port}/TCP and gets {port.gateway_port}/UDP, but "
                "`kubectl apply` and Helm merge ports by number alone: they may change the wrong "
                "one of the two",
                "use --gateway-service companion, or another gateway port",
            )


def port_translated(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U302: the gateway may not bind the port, so the Service translates it."""
    for port in exposure.spec.ports:
        if port.listener_port != port.gateway_port:
            yield Finding(
                "U302",
                f"gateway {snapshot.gateway.ref}",
                f"the gateway's pods may not bind port {port.gateway_port}; they listen on "
                f"{port.listener_port}/UDP, and the Service in front translates the port",
            )


def _another_port(service_port: int) -> str:
    return f"choose another gateway port: -p PORT:{service_port}"
