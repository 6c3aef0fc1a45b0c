"""The checks of `expose` before it writes: would it harm the gateway, or have no effect?

If two EnvoyFilters add a listener or cluster with the same name, or bind the same port, Envoy
rejects the whole update: running gateway pods keep their old configuration, new ones never become
Ready. So conflicts are errors here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import replace

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.objects import foreign_objects, run_rules
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.entries import same_host
from kubectl_istio_udp.model.envoyfilter import ROOT_UNKNOWN, Footprint
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    Exposure,
    ExposureSpec,
    GatewayServiceMode,
)
from kubectl_istio_udp.model.memory import udp_budget
from kubectl_istio_udp.model.mesh import Mesh, show_version
from kubectl_istio_udp.model.ownership import managed_ports
from kubectl_istio_udp.model.ports import ports_text
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.plan.loadbalancer import Takeover, refuses_udp_beside_tcp, takeover
from kubectl_istio_udp.plan.sessions import (
    CAREFUL_FILE_LIMIT,
    FEW_SESSIONS,
    budget,
    rate_for_sessions,
    room,
)
from kubectl_istio_udp.state.reservations import reservation_name

Rule = Callable[[Exposure, Snapshot], Iterator[Finding]]

# The first Istio with Envoy 1.23, whose UDP proxy has a matcher and a log (its release notes).
_FIRST_ISTIO = (1, 15)
# How many of the exposures with the most sessions a message names.
_HOLDERS_SHOWN = 3


def check_expose(exposure: Exposure, snapshot: Snapshot) -> tuple[Finding, ...]:
    """The findings of all rules about writing this exposure, errors first."""
    return run_rules(RULES, exposure, snapshot)


def _namespace_not_read(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U131: istiod does not read the namespace of one of the exposure's objects."""
    places = {ref.namespace: ref.kind for ref in exposure.spec.objects if ref.kind != "Service"}
    for namespace, kind in sorted(places.items()):
        if snapshot.reads_namespace(namespace):
            continue
        yield Finding(
            "U131",
            f"Namespace {namespace}",
            f"{snapshot.mesh.control_plane} does not read namespace {namespace}, so it would "
            f"ignore {kind} {exposure.spec.object_name}: meshConfig.discoverySelectors do not "
            "select the namespace",
            "give the namespace the labels of one of the discoverySelectors"
            + (", or use --discovery static" if kind == "ServiceEntry" else ""),
        )


def _selectors_ignored(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U132: istiod ignores workloadSelectors for gateways of the Gateway API."""
    if snapshot.gateway.api and not snapshot.mesh.selectors_for_gateway_api:
        yield Finding(
            "U132",
            f"gateway {snapshot.gateway.ref}",
            f"{snapshot.gateway.ref} is a gateway of the Gateway API, and "
            f"{snapshot.mesh.control_plane} ignores the workloadSelector of EnvoyFilters for these",
            "set ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY=true for istiod, or use another gateway",
        )


def _changes_hidden(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U135: the gateway would not be informed when the Service's pods change."""
    if _hides_changes(exposure, snapshot) and not _exists(exposure, snapshot):
        yield Finding("U135", f"gateway {snapshot.gateway.ref}", _hidden(snapshot), _SHOW_CHANGES)


def _changes_stay_hidden(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U218: like U135, but only a warning because the exposure already exists."""
    if _hides_changes(exposure, snapshot) and _exists(exposure, snapshot):
        yield Finding("U218", f"gateway {snapshot.gateway.ref}", _hidden(snapshot), _SHOW_CHANGES)


_SHOW_CHANGES = (
    "set PILOT_FILTER_GATEWAY_CLUSTER_CONFIG=false for istiod, upgrade to Istio 1.31, or use "
    "--discovery static and expose again when pods move"
)


def _hides_changes(exposure: Exposure, snapshot: Snapshot) -> bool:
    spec = exposure.spec
    return snapshot.mesh.hides_changes and any(map(spec.eds_service, spec.backends))


def _hidden(snapshot: Snapshot) -> str:
    mesh = snapshot.mesh
    return (
        f"{mesh.control_plane} (Istio {show_version(mesh.istio)}) does not inform gateways about "
        "changed endpoints, because PILOT_FILTER_GATEWAY_CLUSTER_CONFIG is set: when the pods "
        "endpoints that change, because PILOT_FILTER_GATEWAY_CLUSTER_CONFIG is set: when the pods "
        f"of {snapshot.service} move, clients get no answer"
    )


def _exists(exposure: Exposure, snapshot: Snapshot) -> bool:
    return any(before.key == exposure.spec.key for before in snapshot.exposures)


def _mesh_unknown(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U209: the mesh's root namespace is unknown."""
    mesh = snapshot.mesh
    if mesh.assumed:
        yield Finding(
            "U209",
            f"gateway {snapshot.gateway.ref}",
            f"could not read the mesh configuration of {_mesh_name(mesh)}; assuming root namespace "
            f"{mesh.root_namespace}. An EnvoyFilter in another root namespace could conflict",
            "name the root namespace: --root-namespace NAMESPACE",
        )


def _mesh_name(mesh: Mesh) -> str:
    """How messages name a mesh whose configuration could not be read, and where that would be."""
    plane = mesh.control_plane
    where = f" (ConfigMap {plane.namespace}/{plane.config_name})" if plane.namespace else ""
    return f"{plane}{where}"


def _foreign_object(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U101: one of our objects would overwrite an existing one that does not belong to it."""
    return foreign_objects(exposure.spec, snapshot.objects)


def _name_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
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


def _port_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
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


def _perhaps_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
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
    """Whether an EnvoyFilter that takes a port, or a name, keeps an exposure from taking it too.

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
    """Whether another EnvoyFilter reaches the gateway if its namespace is the root namespace.

    Those of exposures are for the gateways of their own namespace, wherever that is.
    """
    return footprint.doubt == ROOT_UNKNOWN and footprint.exposure is None


def _if_root(footprint: Footprint, snapshot: Snapshot) -> str:
    """What a message adds where the root namespace is not known."""
    if _is_live(footprint, snapshot):
        return ""
    namespace = footprint.owner.partition("/")[0]
    return (
        f", if {namespace} is the root namespace of the mesh; could not read the configuration of "
        f"{_mesh_name(snapshot.mesh)}"
    )


def _or_root(footprint: Footprint, snapshot: Snapshot) -> str:
    """What the remedy adds there."""
    if _is_live(footprint, snapshot):
        return ""
    return ", or name the root namespace: --root-namespace NAMESPACE"


def _owner(footprint: Footprint) -> str:
    """An EnvoyFilter in messages."""
    if not footprint.exposure:
        return f"EnvoyFilter {footprint.owner}"
    namespace, name = footprint.exposure
    return f"EnvoyFilter {footprint.owner} (exposure {name} of namespace {namespace})"


def _port_bound(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
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


def _service_port_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
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


def _other_exposure(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U106: the exposure's name is used for another Service or gateway."""
    mine = exposure.spec
    for other in snapshot.exposures:
        if other.gateway.same_pods(mine.gateway) and other.service == mine.service:
            continue
        yield Finding(
            "U106",
            _exposure(exposure),
            f"exposure {mine.namespace}/{mine.name} already exists, for Service {other.service} at "
            f"gateway {other.gateway}",
            f"use another name: --name {mine.name}-2; or first run "
            f"kubectl istio-udp delete -n {mine.namespace} {mine.name}",
        )


def _old_gateway(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U107: the gateway's Envoy is too old for the rendered configuration."""
    istio = snapshot.gateway.istio
    if istio is not None and istio < _FIRST_ISTIO:
        yield Finding(
            "U107",
            f"gateway {snapshot.gateway.ref}",
            f"gateway {snapshot.gateway.ref} runs Istio {'.'.join(map(str, istio))} and is too "
            f"old: routing UDP needs Istio {'.'.join(map(str, _FIRST_ISTIO))} or newer",
            "upgrade the gateway",
        )


def _too_many_sessions(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U108: clients could make the gateway's Envoy run out of files, and crash."""
    if snapshot.file_limit is None:
        return
    options, ports = exposure.spec.options, len(exposure.spec.ports)
    free = room(snapshot.file_limit, snapshot.others.sessions)
    if exposure.spec.sessions > free:
        yield Finding(
            "U108",
            f"gateway {snapshot.gateway.ref}",
            f"{options.max_sessions} sessions on {ports} port(s) exceed what gateway "
            f"{snapshot.gateway.ref} has left: {_reserved(snapshot, snapshot.file_limit)} (its "
            f"Envoy may open {snapshot.file_limit} files, and crashes when it needs more)",
            f"use at most --max-sessions {free // ports}"
            if free >= ports
            else "raise the file limit of the gateway's nodes, or lower another exposure's "
            "--max-sessions",
        )


def _reserved(snapshot: Snapshot, file_limit: int) -> str:
    """`9000 of 18000 sessions are reserved, the most by a/b 5000, c/d 4000`."""
    others = snapshot.others
    text = f"{others.sessions} of {budget(file_limit)} sessions are reserved"
    largest = ", ".join(map(str, others.largest(_HOLDERS_SHOWN)))
    return f"{text}, the most by {largest}" if largest else text


def _too_much_memory(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U109: the UDP ports could use so much memory that the gateway's Envoy is killed."""
    limit, size = snapshot.gateway.memory_limit, snapshot.size
    own = [spec for spec in snapshot.exposures if spec.key == exposure.spec.key]
    new = len(exposure.spec.ports) - sum(len(spec.ports) for spec in own)
    if limit is None or size is None or new <= 0:
        return
    ports = snapshot.others.ports + len(exposure.spec.ports)
    needed = replace(size, clusters=size.clusters + new).udp_bytes(ports)
    if needed > udp_budget(limit):
        yield Finding(
            "U109",
            f"gateway {snapshot.gateway.ref}",
            f"{ports} UDP port(s) may use {_mebibytes(needed)} of gateway {snapshot.gateway.ref}, "
            f"more than half of the memory limit of its pods ({_mebibytes(limit)}): Envoy keeps a "
            f"record of each of its {size.clusters} clusters for each port in each of its "
            f"{size.workers} workers",
            "raise the memory limit of the gateway's pods, or use another gateway",
        )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def _no_ready_endpoint(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
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


def _goes_stale(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U202: the addresses are listed, and no controller updates them."""
    if exposure.spec.discovery in (Discovery.ENDPOINTS, Discovery.STATIC):
        yield Finding(
            "U202",
            _exposure(exposure),
            f"the addresses of the pods are in the "
            f"{'EnvoyFilter' if exposure.spec.discovery is Discovery.STATIC else 'ServiceEntry'}"
            " and become stale when pods are replaced, unless a controller updates them",
            "run expose again after pods were replaced",
        )


def _no_ready_gateway(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U203: no gateway pod is ready, so the configuration cannot be confirmed."""
    if not snapshot.gateway.ready_pods:
        yield Finding(
            "U203",
            f"gateway {snapshot.gateway.ref}",
            f"gateway {snapshot.gateway.ref} has no ready pod",
            f"see them: kubectl get pods -n {snapshot.gateway.ref.namespace}",
        )


def _unknown_limit(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U204: the open-file limit of the gateway's Envoy is unknown."""
    if snapshot.file_limit is None and snapshot.gateway.ready_pods:
        yield Finding(
            "U204",
            f"gateway {snapshot.gateway.ref}",
            f"could not read the open-file limit of gateway {snapshot.gateway.ref} (no permission "
            f"to exec, no shell in its image, or no answer); each port gets "
            f"{exposure.spec.options.max_sessions} sessions",
            "if its nodes allow more open files, set the number: --max-sessions",
        )


def _few_sessions(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U205: the exposure gets so few sessions that clients may lose datagrams."""
    options = exposure.spec.options
    if options.max_sessions < FEW_SESSIONS:
        idle = options.idle_timeout
        rate = rate_for_sessions(options.max_sessions, idle.seconds)
        limit = CAREFUL_FILE_LIMIT if snapshot.file_limit is None else snapshot.file_limit
        yield Finding(
            "U205",
            _exposure(exposure),
            f"each port has only {options.max_sessions} client sessions: with --idle-timeout "
            f"{idle}, datagrams are lost above {rate:.3g} new clients a second. At gateway "
            f"{snapshot.gateway.ref} {_reserved(snapshot, limit)}",
            "if you expect more: --expect-rate N",
        )


def _session_rate(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U303: for how many clients the number of sessions is enough."""
    options = exposure.spec.options
    there = any(spec.options == options for spec in snapshot.exposures)
    if options.max_sessions >= FEW_SESSIONS and not there:
        rate = rate_for_sessions(options.max_sessions, options.idle_timeout.seconds)
        yield Finding(
            "U303",
            _exposure(exposure),
            f"each port has {options.max_sessions} client sessions, enough for {rate:.3g} new "
            f"clients a second (--idle-timeout {options.idle_timeout})",
            "if you expect more: --expect-rate N",
        )


def _way_changes(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
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
                _exposure(exposure),
                f"this removes port {', '.join(ports_text(gone))} from exposure {mine.name}; "
                "clients can no longer use it",
            )
        mode, new = before.options.gateway_service.value, mine.options.gateway_service.value
        if mode != new:
            yield Finding(
                "U206",
                _exposure(exposure),
                f"the address of exposure {mine.name} changes: --gateway-service was {mode}, "
                f"now {new}",
            )


def _protocols_meet(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
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


def _address_refused(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
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


def _host_taken(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
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


def _own_load_balancer(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U301: the companion Service creates a separate load balancer."""
    service = snapshot.gateway.service
    companion = exposure.spec.options.gateway_service is GatewayServiceMode.COMPANION
    if companion and service and service["spec"].get("type") == "LoadBalancer":
        yield Finding(
            "U301",
            _companion(exposure),
            f"Service {exposure.spec.gateway.namespace}/{exposure.spec.object_name} creates a "
            "separate load balancer with its own address",
            f"to use the address of {snapshot.gateway.service_name}: --gateway-service patch",
        )


def _no_load_balancer(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U133: no controller will create the companion's load balancer."""
    taken = _companion_takeover(exposure)
    if taken and taken.no_udp and taken.sure and not _is_that_way(exposure, snapshot):
        yield Finding(
            "U133",
            _companion(exposure),
            f"Service {exposure.spec.gateway.namespace}/{exposure.spec.object_name} would never "
            f"get an address: {taken.no_udp}",
            _ANOTHER_WAY_IN,
        )


def _stops_load_balancer(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
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


def _load_balancer_without_udp(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U217: a load balancer may not be created, not forward, or not be updated.

    If it is already so, this is no reason to refuse other changes.
    """
    taken = _companion_takeover(exposure)
    stays = _is_that_way(exposure, snapshot)
    name = f"Service {exposure.spec.gateway.namespace}/{exposure.spec.object_name}"
    if taken and taken.no_udp and (stays or not taken.sure):
        yield Finding("U217", _companion(exposure), f"{name}: {taken.no_udp}", _ANOTHER_WAY_IN)
    elif taken and taken.health_check and not taken.no_udp:
        yield Finding(
            "U217",
            _companion(exposure),
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


def _unknown_annotations(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U216: the companion does not get unknown annotations."""
    taken = _companion_takeover(exposure)
    if taken and taken.unknown:
        name = exposure.spec.object_name
        yield Finding(
            "U216",
            _companion(exposure),
            f"Service {exposure.spec.gateway.namespace}/{name} does not take over from "
            f"{snapshot.gateway.service_name}: {', '.join(taken.unknown)} (unknown annotations, "
            "which may name one load balancer)",
            "if they restrict access, set them on the Service yourself: kubectl annotate "
            f"service -n {exposure.spec.gateway.namespace} {name} ...",
        )


def _left_out(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U304: annotations that only apply to the gateway's own load balancer."""
    taken = _companion_takeover(exposure)
    if taken and taken.left_out:
        listed = ", ".join(
            f"{key} ({why.value.partition(':')[0]})" for key, why in sorted(taken.left_out.items())
        )
        yield Finding(
            "U304",
            _companion(exposure),
            f"Service {exposure.spec.gateway.namespace}/{exposure.spec.object_name} does not take "
            f"over from {snapshot.gateway.service_name}: {listed}",
        )


def _companion_takeover(exposure: Exposure) -> Takeover | None:
    """What the companion copies from a Service of type LoadBalancer; None without one."""
    service = exposure.gateway_service or {}
    companion = exposure.spec.options.gateway_service is GatewayServiceMode.COMPANION
    balanced = (service.get("spec") or {}).get("type") == "LoadBalancer"
    return takeover(service) if companion and balanced else None


def _on_host_network(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U305: the gateway's listeners use the network of its nodes."""
    if not snapshot.gateway.host_network:
        return
    listened = ", ".join(f"{port.listener_port}/UDP" for port in exposure.spec.ports)
    translated = [p for p in exposure.spec.ports if p.listener_port != p.gateway_port]
    yield Finding(
        "U305",
        f"gateway {snapshot.gateway.ref}",
        f"gateway {snapshot.gateway.ref} uses the network of its nodes: {listened} is open on each "
        "of them"
        + (
            f"; clients that send to a node use these ports, not {translated[0].gateway_port}"
            if translated
            else ""
        ),
        "make sure that no other program on these nodes uses the ports, and restrict access by a "
        "firewall",
    )


def _who_the_client_is(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U306: servers see the gateway's address; printed once, when the exposure is new."""
    if any(before.key == exposure.spec.key for before in snapshot.exposures):
        return
    yield Finding(
        "U306",
        f"Service {snapshot.service}",
        f"the pods of {snapshot.service} see the addresses of the gateway's pods instead of those "
        "of the clients, and must answer from the port that was queried",
        "what this means for DNS views, RADIUS, syslog, SIP and TFTP: docs/clients.md",
    )


def _affinity_to_nodes(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U307: with externalTrafficPolicy Cluster source-ip affinity applies to nodes, not clients."""
    if exposure.spec.options.affinity is not Affinity.SOURCE_IP:
        return
    service = (exposure.gateway_service or {}).get("spec") or {}
    outside = service.get("type") in ("LoadBalancer", "NodePort")
    if outside and service.get("externalTrafficPolicy") != "Local":
        yield Finding(
            "U307",
            f"Service {snapshot.gateway.service_name}",
            f"--affinity source-ip applies to nodes instead of clients: "
            f"{snapshot.gateway.service_name} has externalTrafficPolicy Cluster, so the gateway "
            "sees the address of a node",
            "set externalTrafficPolicy: Local on that Service, then expose again",
        )


def _port_translated(exposure: Exposure, snapshot: Snapshot) -> Iterator[Finding]:
    """U302: the gateway may not bind the port, so the Service translates it."""
    for port in exposure.spec.ports:
        if port.listener_port != port.gateway_port:
            yield Finding(
                "U302",
                f"gateway {snapshot.gateway.ref}",
                f"the gateway's pods may not bind port {port.gateway_port}; they listen on "
                f"{port.listener_port}/UDP, and the Service in front translates the port",
            )


def _exposure(exposure: Exposure) -> str:
    return f"exposure {exposure.spec.namespace}/{exposure.spec.name}"


def _companion(exposure: Exposure) -> str:
    return f"Service {exposure.spec.gateway.namespace}/{exposure.spec.object_name}"


def _another_port(service_port: int) -> str:
    return f"choose another gateway port: -p PORT:{service_port}"


RULES: tuple[Rule, ...] = (
    _namespace_not_read,
    _selectors_ignored,
    _changes_hidden,
    _changes_stay_hidden,
    _mesh_unknown,
    _foreign_object,
    _host_taken,
    _name_taken,
    _port_taken,
    _perhaps_taken,
    _port_bound,
    _service_port_taken,
    _no_load_balancer,
    _stops_load_balancer,
    _other_exposure,
    _old_gateway,
    _too_many_sessions,
    _too_much_memory,
    _unknown_limit,
    _few_sessions,
    _way_changes,
    _protocols_meet,
    _no_ready_endpoint,
    _address_refused,
    _goes_stale,
    _no_ready_gateway,
    _load_balancer_without_udp,
    _unknown_annotations,
    _own_load_balancer,
    _left_out,
    _on_host_network,
    _affinity_to_nodes,
    _who_the_client_is,
    _port_translated,
    _session_rate,
)
