"""`expose --api udproute`: decide as for an exposure, and write a Gateway and UDPRoutes.

The controller creates the exposure from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from kubectl_istio_udp.apply.changes import ChangeSet
from kubectl_istio_udp.apply.exposing import ExposeArguments, decide, find_kept
from kubectl_istio_udp.apply.gatewayapi import read_class_name, wait_until_programmed
from kubectl_istio_udp.apply.pipeline import Decision, Progress, Report, apply_decision
from kubectl_istio_udp.envoy.validate_option import ensure_accepted
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.deletion import is_being_deleted
from kubectl_istio_udp.model.errors import NotInstalled, Refused, UsageError
from kubectl_istio_udp.model.exposure import Discovery, Exposure, ExposureSpec
from kubectl_istio_udp.model.gatewayapi import ApiGateway, Key, UdpRoute
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.model.write_options import WriteOptions
from kubectl_istio_udp.render import udproute
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.sources.annotations import GATEWAY_OPTIONS, option_annotations, read_options
from kubectl_istio_udp.sources.gateways import exposure_key
from kubectl_istio_udp.sources.routes import KIND
from kubectl_istio_udp.sources.settings import differences, settings_of
from kubectl_istio_udp.state.existing import find_exposure
from kubectl_istio_udp.state.gateways import find_gateway
from kubectl_istio_udp.state.ownership import Existing
from kubectl_istio_udp.state.snapshot import read_snapshot

Manifest = Mapping[str, Any]
_ANOTHER_NAME = "to create another Gateway: --name NAME"


@dataclass(frozen=True)
class _Current:
    """The Gateway and the routes of an earlier run.

    Attributes:
        gateway: the Gateway's manifest; None if it does not exist.
        routes: the routes that this command has written for it.
        before: the exposure that they request; None without one.
        exposed: whether the controller has created the exposure.
        automatic_sessions: whether the controller chooses the number of sessions.
        expect_rate: the annotation of this name.
    """

    gateway: Manifest | None = None
    routes: tuple[Manifest, ...] = ()
    before: ExposureSpec | None = None
    exposed: bool = False
    automatic_sessions: bool = True
    expect_rate: float | None = None


def expose_by_routes(
    api: Api,
    arguments: ExposeArguments,
    writing: WriteOptions,
    report: Report,
    flags: Mapping[str, str],
) -> Manifest:
    """Write a Gateway and UDPRoutes for a Service, as requested on a command line.

    Args:
        api: the cluster.
        arguments: the request; the name is the Gateway's.
        writing: how to write.
        report: informed about each step.
        flags: as for `apply_decision`.

    Returns:
        The Gateway's manifest; after waiting with its status.

    Raises:
        UsageError: it is not possible with this Service or gateway.
        NotInstalled: the Gateway API or its class is not installed.
        Refused, Rejected or an error of the cluster; everything was rolled back then, unless former
            routes were deleted already.
    """
    settings = arguments.settings
    if settings.discovery not in (None, "auto", Discovery.ENDPOINTS.value):
        raise UsageError(
            f"--discovery {settings.discovery} cannot be combined with --api udproute",
            hints=["the controller always lists the endpoints of routes"],
        )
    key = (arguments.namespace, arguments.name or arguments.service)
    class_name, current = in_parallel(
        [
            lambda: read_class_name(api, key[0]),
            lambda: _read_current(api, key, arguments, writing, report.warn),
        ]
    )
    absent = arguments.settings.not_exposed(current.before)
    if absent:
        report.warn(absent)
    exposure, decision, applied = _decide(api, key, class_name, current, arguments, writing)
    ensure_accepted(
        [write.manifest for write in writes(exposure, writing.manager)],
        writing.validate,
        flags,
        warn=report.warn,
    )
    done = apply_decision(api, decision, writing, report, flags)
    _delete_routes(api, applied.former, writing, report)
    if writing.waits:
        if applied.former:
            with report.waiting() as progress:
                applied.wait_for_all(writing.seconds, progress)
        return api.get(API_GATEWAY, *key)
    return next(each.manifest for each in done if each.write.kind == API_GATEWAY)


# -- the current state ----------------------------------------------------------------------------


def _read_current(
    api: Api,
    key: Key,
    arguments: ExposeArguments,
    writing: WriteOptions,
    warn: Callable[[str], None],
) -> _Current:
    """The Gateway and the routes of an earlier run of this command.

    The routes remain if the Gateway is deleted.

    Raises:
        Refused: the Gateway exists, and this command did not write it, or for another Service.
    """
    with suppress(NotInstalled):
        gateway = api.find(API_GATEWAY, *key)
        if gateway is not None and not _is_written_by(gateway, writing.manager):
            raise Refused(
                f"Gateway {'/'.join(key)} exists, and expose did not write it; nothing was written",
                hints=[_ANOTHER_NAME],
            )
        found = tuple(
            each
            for each in api.list(KIND, key[0])
            if _is_written_by(each, writing.manager) and _only_parent(each, key)
        )
        if gateway is None or is_being_deleted(gateway):
            return _Current(routes=found)
        _refuse_other_service(key, arguments.service, found)
        exposed = find_kept(api, exposure_key(key), arguments.gateway, warn).at_gateway
        return _current(api, arguments, gateway, found, exposed)
    return _Current()


def _refuse_other_service(key: Key, service: str, found: Sequence[Manifest]) -> None:
    """Refuse to change a Gateway whose routes lead to other Services only.

    Raises:
        Refused: they do.
    """
    backends = [backend for route in found for backend in UdpRoute.from_object(route).backends]
    services = sorted({f"{backend.namespace}/{backend.name}" for backend in backends})
    if services and f"{key[0]}/{service}" not in services:
        raise Refused(
            f"Gateway {'/'.join(key)} already exists, for Service {', '.join(services)}; nothing "
            "was written",
            hints=[_ANOTHER_NAME],
        )


def _current(
    api: Api,
    arguments: ExposeArguments,
    gateway: Manifest,
    found: tuple[Manifest, ...],
    exposed: ExposureSpec | None,
) -> _Current:
    """What the Gateway and its routes request; `exposed` is the exposure that the controller made.

    Raises:
        NotFound, UsageError: an annotation is invalid, or there is no exposure yet, and its gateway
            is not found.
    """
    read = ApiGateway.from_object(gateway)
    given = read_options(read.annotations, GATEWAY_OPTIONS)
    targets = {
        parent.section_name: backend.port or 0
        for route in map(UdpRoute.from_object, found)
        for parent in route.parents
        for backend in route.backends
    }
    ports = tuple(
        ExposedPort.of(listener.port, listener.port, targets[listener.name])
        for listener in read.listeners
        if listener.name in targets
    )
    if not ports:
        return _Current(gateway, found)
    options = given.options
    if exposed and given.automatic_sessions:
        options = replace(options, max_sessions=exposed.options.max_sessions)
    choice = arguments.gateway.or_named(given.gateway)
    ref = exposed.gateway if exposed else find_gateway(api, choice).ref
    name = exposure_key(read.key)
    before = ExposureSpec(*name, arguments.service, ports, ref, Discovery.ENDPOINTS, options)
    automatic, rate = given.automatic_sessions, given.expect_rate
    return _Current(gateway, found, before, exposed is not None, automatic, rate)


def _is_written_by(manifest: Manifest, manager: str) -> bool:
    owners = manifest["metadata"].get("managedFields") or ()
    return any(owner.get("manager") == manager for owner in owners)


def _only_parent(manifest: Manifest, key: Key) -> bool:
    parents = UdpRoute.from_object(manifest).parents
    return bool(parents) and all(parent.is_gateway(key) for parent in parents)


# -- the decision ---------------------------------------------------------------------------------


def _decide(
    api: Api,
    key: Key,
    class_name: str,
    current: _Current,
    arguments: ExposeArguments,
    writing: WriteOptions,
) -> tuple[Exposure, Decision, _Applied]:
    before, request = current.before, _request(key, current, arguments)
    choice = arguments.gateway.or_known(before.gateway) if before else arguments.gateway
    decided = decide(request, _snapshot(api, key, request, choice))
    exposure = decided.exposure
    spec = exposure.spec
    if len(spec.ports) > udproute.MOST_LISTENERS:
        raise UsageError(
            f"{len(spec.ports)} ports are more than the {udproute.MOST_LISTENERS} listeners that a "
            "Gateway can have",
            hints=["write several Gateways: --name NAME"],
        )
    notes = option_annotations(request, str(spec.gateway))
    manifests = [
        udproute.gateway(key, class_name, spec.ports, notes),
        *udproute.routes(key, arguments.service, spec.ports),
    ]
    todo = tuple(Write(manifest, writing.manager) for manifest in manifests)
    wanted = {write.name for write in todo if write.kind == KIND}
    former = tuple(each for each in current.routes if each["metadata"]["name"] not in wanted)
    applied = _Applied(api, key, current.gateway, former, spec, request.automatic_sessions)
    if before and not current.exposed:
        # The number of sessions is not known yet, so it does not change.
        options = replace(before.options, max_sessions=spec.options.max_sessions)
        before = replace(before, options=options)
    summary = f"Gateway {'/'.join(key)} of class {class_name}, at gateway {spec.gateway}"
    decision = Decision(
        spec=spec,
        before=before,
        summary=summary,
        # The controller keeps the list of endpoints up to date.
        findings=tuple(each for each in decided.findings if each.code != "U202"),
        changes=ChangeSet(writes=todo),
        wait=applied.wait,
    )
    return exposure, decision, applied


def _request(key: Key, current: _Current, arguments: ExposeArguments) -> ExposeRequest:
    """The request of the Gateway's exposure; its sessions stay automatic unless they are named."""
    settings = replace(arguments.settings, discovery=Discovery.ENDPOINTS.value)
    namespace, name = exposure_key(key)
    request = settings.request(namespace, arguments.service, name, current.before)
    if settings.max_sessions is not None or settings.expect_rate is not None:
        return request
    return replace(
        request,
        automatic_sessions=current.automatic_sessions,
        expect_rate=current.expect_rate,
    )


def _snapshot(api: Api, key: Key, request: ExposeRequest, choice: GatewayChoice) -> Snapshot:
    """The snapshot without the Gateway's exposure, whose objects the controller writes."""
    namespace, name = exposure_key(key)
    nothing = Existing(Kind.EXPOSURE, namespace, name, None, ())
    snapshot = read_snapshot(api, request, choice, nothing, need_proxy=False)
    others = tuple(each for each in snapshot.exposures if each.key != (namespace, name))
    return replace(snapshot, exposures=others)


@dataclass(frozen=True)
class _Applied:
    """Waits until the controller has applied a decided exposure.

    Attributes:
        api: the cluster.
        key: the Gateway.
        before: the Gateway before this run; None if it did not exist.
        former: the routes of earlier runs that are deleted after this one has written its own.
        spec: the decided exposure.
        automatic: whether the controller chooses the number of sessions.
    """

    api: Api
    key: Key
    before: Manifest | None
    former: tuple[Manifest, ...]
    spec: ExposureSpec
    automatic: bool

    def wait(self, seconds: float, progress: Progress) -> None:
        """Wait, without the ports that former routes may still serve.

        Of two routes at a listener the older one is served.
        """
        parents = [p for route in self.former for p in UdpRoute.from_object(route).parents]
        served = {parent.section_name for parent in parents}
        ports = [p for p in self.spec.ports if not served & {"", udproute.listener_name(p)}]
        self._wait(ports, seconds, progress)

    def wait_for_all(self, seconds: float, progress: Progress) -> None:
        """Wait, for all ports."""
        self._wait(self.spec.ports, seconds, progress)

    def _wait(self, ports: Sequence[ExposedPort], seconds: float, progress: Progress) -> None:
        wait_until_programmed(
            self.api,
            self.key,
            seconds,
            progress,
            before=self.before,
            unapplied=lambda: self._unapplied(ports),
        )

    def _unapplied(self, ports: Sequence[ExposedPort]) -> str:
        """What the controller has not applied yet, as text; "" if nothing."""
        wanted = self.spec
        found = find_exposure(self.api, *wanted.key, gateways=[wanted.gateway.namespace]).held
        if found is None:
            return "its exposure does not exist yet"
        if not found.gateway.same_pods(wanted.gateway):
            return f"it is still exposed at gateway {found.gateway}"
        sessions = found.options.max_sessions if self.automatic else wanted.options.max_sessions
        options = replace(wanted.options, max_sessions=sessions)
        if found.options != options:
            after = settings_of(replace(found, options=options))
            return f"not applied yet: {differences(settings_of(found), after)[0]}"
        served = {port.gateway_port: _targets(found, port) for port in found.ports}
        lacking = [p for p in ports if served.get(p.gateway_port) != _targets(wanted, p)]
        return f"port {lacking[0].gateway_port} is not served by its route yet" if lacking else ""


def _targets(spec: ExposureSpec, port: ExposedPort) -> tuple[tuple[Key, int], ...]:
    """The Service and port of each backend that gets clients."""
    default = (spec.namespace, spec.service)
    return tuple((each.service or default, each.port) for each in port.backends if each.weight)


def _delete_routes(
    api: Api, former: Sequence[Manifest], writing: WriteOptions, report: Report
) -> None:
    """Delete the routes to ports of the Service that are no longer exposed.

    After the new routes are written, so that each listener always has a route.
    """
    for route in former:
        if writing.dry_run != "client":
            api.delete(route, dry_run=writing.dry_run == "server")
        report.removed(KIND, route["metadata"]["name"])
