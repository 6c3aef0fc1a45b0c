"""One look at one exposure: what is wanted, what there is, and the writes that are missing.

    wish -> permission -> plan -> (checks, where the gateway is touched) -> render -> apply

A change of endpoints costs one request, the ServiceEntry's; nothing is read. Whatever is written
carries the uid of the object that was seen, so that nothing is overwritten, or made again, that
somebody else has put in its place meanwhile.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from kubectl_istio_udp.apply.changes import ChangeSet, change_set
from kubectl_istio_udp.apply.deletion import close_the_way, silenced
from kubectl_istio_udp.checks.expose import check_expose
from kubectl_istio_udp.checks.findings import Finding, errors
from kubectl_istio_udp.controller.objects import MANAGER, is_so, marked
from kubectl_istio_udp.controller.outcome import (
    EXPOSED,
    FORBIDDEN,
    GONE,
    LEAVING,
    MANUAL,
    NO_GATEWAY,
    NOT_TAKEN,
    OK,
    PORT_MISSING,
    PORT_TAKEN,
    REFUSED,
    WAITING,
    Outcome,
    Refusal,
    invalid,
    refused,
)
from kubectl_istio_udp.controller.view import Own, View
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import Key
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.envoyfilter import Claims, applies_to
from kubectl_istio_udp.model.errors import IstioUdpError, NotFound, UsageError
from kubectl_istio_udp.model.exposure import (
    Discovery,
    Exposure,
    ExposureSpec,
)
from kubectl_istio_udp.model.gateway import Gateway, choose_gateway
from kubectl_istio_udp.model.memory import CAREFUL_WORKERS, ProxySize
from kubectl_istio_udp.model.plan import plan
from kubectl_istio_udp.model.service import IPV4, IPV6, Service, endpoints_of
from kubectl_istio_udp.model.sessions import automatic_sessions
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.model.usage import GatewayUsage
from kubectl_istio_udp.model.wish import ALLOWED_ALL, About, Permission, Wish
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.render.serviceentry import service_entry

Manifest = Mapping[str, Any]

# From the listener's end until the cluster behind it goes. istiod hands a change to the gateways
# within a second, and nobody here may ask them (no exec).
_LISTENER_SECONDS = 5.0


# The gateway is everybody's: an exposure changes its part of it no more often, whoever flips an
# annotation, or edits back and forth against us. Endpoints are no part of the gateway.
_CALM_SECONDS = 5.0


class NotLeading(IstioUdpError):
    """Another replica leads, or may begin to before this write has ended."""


class _MovesError(IstioUdpError):
    """The exposure is at another gateway than it is to be."""


@dataclass(frozen=True)
class _Facts:
    """A decided exposure, and what the decision rests on."""

    exposure: Exposure
    snapshot: Snapshot


class Reconciler:
    """Makes exposures true, one at a time for each name; safe to use from several threads."""

    def __init__(
        self,
        api: Api,
        view: View,
        *,
        file_limit: int,
        allow_all: bool,
        may_write: Callable[[], bool],
        wrote: Callable[[str, str], None],
        freed: Callable[[Claims], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Say with what.

        Args:
            api: where to write.
            view: what to decide on.
            file_limit: how many files each gateway's Envoy may open.
            allow_all: whether every namespace may expose every port.
            may_write: whether this replica leads.
            wrote: called with verb and kind of each request that writes.
            freed: called with what was to be claimed, when it could not be written.
            clock: gives seconds.
        """
        self._api, self._view = api, view
        self._file_limit, self._allow_all = file_limit, allow_all
        self._may_write, self._wrote, self._freed = may_write, wrote, freed
        self._clock = clock
        self._deciding = threading.Lock()
        self._pending: dict[Key, tuple[Claims, ExposureSpec]] = {}
        self._silent: dict[Key, float] = {}
        # Until when an exposure's part of the gateway stays as it is.
        self._calm: dict[Key, float] = {}

    def reconcile(self, key: Key) -> Outcome:
        """Look at an exposure and write what is missing.

        Raises:
            IstioUdpError: the API server did not take a write; it is to be tried again.
        """
        wished, own = self._view.wish(key), self._view.own(key)
        if own.there and own.source is None:
            self._refresh(own, names.MANAGER)
            return self._made_by_hand(key, own) if wished else Outcome(MANUAL)
        space = self._view.spaces.get("", key[0])
        if wished is None or space is None or space.leaving:
            return self._withdraw(key, own)
        try:
            permission = ALLOWED_ALL if self._allow_all else Permission.parse(space.annotations)
            self._still_allowed(own, permission)
            if isinstance(wished, UsageError):
                raise Refusal(invalid(wished))
            return self._honour(wished, permission, own)
        except UsageError as error:
            outcome = invalid(error)
        except Refusal as refusal:
            outcome = refusal.outcome
        except _MovesError:
            return self._withdraw(key, own)
        if outcome.reason == FORBIDDEN and own.there:
            return replace(self._withdraw(key, own), reason=FORBIDDEN, message=outcome.message)
        # What was honoured once goes on, and its endpoints stay true.
        self._refresh(own, MANAGER)
        return outcome

    def about(self, key: Key) -> About | None:
        """The object that what happens to an exposure is to be told of."""
        wished = self._view.wish(key)
        if isinstance(wished, Wish):
            return wished.about
        service = self._view.services.get(*key)
        return About.of(service) if service is not None and wished is not None else None

    # -- a wish -------------------------------------------------------------------------------

    def _made_by_hand(self, key: Key, own: Own) -> Outcome:
        return Outcome(
            REFUSED,
            NOT_TAKEN,
            f"there is an exposure {key[1]} that somebody made with `kubectl istio-udp expose`; "
            f"it stays as it is. To let the annotation rule: "
            f"kubectl istio-udp delete -n {key[0]} {key[1]}",
        )

    def _still_allowed(self, own: Own, permission: Permission) -> None:
        """Raises Refusal where what there is may not be any more."""
        if own.spec is not None:
            self._permit(own.spec.namespace, [p.gateway_port for p in own.spec.ports], permission)

    def _permit(self, namespace: str, ports: Iterable[int], permission: Permission) -> None:
        forbidden = [port for port in ports if permission.forbids(port)]
        if forbidden:
            raise Refusal(
                Outcome(
                    REFUSED,
                    FORBIDDEN,
                    f"namespace {namespace} may not expose gateway port {forbidden[0]}; its "
                    "administrator allows ports by the annotation kubectl-istio-udp/allow "
                    "on the Namespace",
                )
            )

    def _honour(self, wish: Wish, permission: Permission, own: Own) -> Outcome:
        facts = self._decide(wish, permission, own)
        exposure, snapshot = facts.exposure, facts.snapshot
        todo = [marked(write) for write in writes(exposure, MANAGER)]
        differing = [write for write in todo if not self._is_so(write)]
        kinds = {write.kind for write in differing}
        if "EnvoyFilter" in kinds and own.there and (left := self._calm_left(wish.key)) > 0:
            self._refresh(own, MANAGER)
            return Outcome(WAITING, again=left)
        if kinds - {"ServiceEntry"}:
            with self._decided(wish, exposure, snapshot, todo):
                if "EnvoyFilter" in kinds:
                    self._calm[wish.key] = self._clock() + _CALM_SECONDS
                self._apply_all(differing)
        else:
            self._apply_all(differing)
        self._remove(self._changes(own, todo))
        if missing := exposure.ports_missing():
            listed = ", ".join(f"{port.service_port}/UDP" for port in missing)
            return Outcome(
                OK,
                PORT_MISSING,
                f"not every address of the Service has port {listed} ready: istiod gives each port "
                "to each address, and part of the datagrams is lost there; make a Service for each "
                "port",
            )
        ports = ", ".join(map(str, exposure.spec.ports))
        return Outcome(OK, EXPOSED, f"{ports} at gateway {exposure.spec.gateway}")

    def _decide(self, wish: Wish, permission: Permission, own: Own) -> _Facts:
        """What the exposure is to be.

        Raises:
            UsageError: it cannot be so with this Service.
            Refusal: it may not be so, or there is no such gateway.
        """
        request, view = wish.request, self._view
        service = view.service((request.namespace, request.service))
        if service is None:
            raise UsageError(f"there is no Service {request.namespace}/{request.service}")
        if service.external_name is not None and not permission.everything:
            raise Refusal(
                Outcome(
                    REFUSED,
                    FORBIDDEN,
                    f"Service {service} is the DNS name {service.external_name}, which may be "
                    "anything that the gateway reaches; only a controller with --allow-all "
                    "exposes such",
                )
            )
        gateway = self._gateway(wish, own)
        asked = self._sticky(request.discovery, service, own)
        snapshot = Snapshot(
            service=service,
            slices=view.pieces((service.namespace, service.name)),
            # A list of addresses says everything itself.
            pods=() if asked is Discovery.ENDPOINTS else view.pods_of(service),
            gateway=gateway,
            file_limit=self._file_limit,
        )
        request = replace(
            request, discovery=asked, automatic_sessions=request.expect_rate is not None
        )
        planned = plan(request, snapshot).exposure
        self._permit(request.namespace, [p.gateway_port for p in planned.spec.ports], permission)
        exposure = _steady(planned, service)
        sessions = self._sessions(wish, permission, own, exposure, gateway)
        options = replace(exposure.spec.options, max_sessions=sessions)
        spec = replace(exposure.spec, options=options)
        if own.spec is not None and own.spec == spec:
            spec = own.spec  # which has its JSON at hand
        return _Facts(replace(exposure, spec=spec), snapshot)

    def _gateway(self, wish: Wish, own: Own) -> Gateway:
        try:
            gateway = choose_gateway(self._view.gateways(), wish.gateway)
        except (NotFound, UsageError) as error:
            hints = "; ".join(error.hints)
            message = (
                f"{error.message}; {hints}" if isinstance(error, UsageError) else error.message
            )
            raise Refusal(Outcome(WAITING, NO_GATEWAY, message)) from error
        before = own.spec.gateway if own.spec else None
        if before is None or before == gateway.ref:
            return gateway
        if before.same_pods(gateway.ref):
            return replace(gateway, ref=before)
        # Another gateway: what is at the first one goes, then this is looked at again.
        raise _MovesError(f"it is at gateway {before}")

    def _sticky(self, asked: Discovery | None, service: Service, own: Own) -> Discovery | None:
        """What `auto` came to once stays, if it is a list: a list can say everything.

        Otherwise an exposure would change with every rolling update of a named port.
        """
        listed = own.spec is not None and own.spec.discovery is Discovery.ENDPOINTS
        if asked is None and listed and service.external_name is None:
            return Discovery.ENDPOINTS
        return asked

    def _sessions(
        self,
        wish: Wish,
        permission: Permission,
        own: Own,
        exposure: Exposure,
        gateway: Gateway,
    ) -> int:
        """How many sessions a port gets: as wished for, as before, or what there is room for."""
        most = permission.sessions
        asked = exposure.spec.options.max_sessions
        if not wish.request.automatic_sessions or wish.request.expect_rate is not None:
            if asked > most and not permission.everything:
                raise Refusal(
                    Outcome(
                        REFUSED,
                        FORBIDDEN,
                        f"{asked} sessions are more than the {most} that namespace "
                        f"{wish.request.namespace} may have on a port (annotation "
                        "kubectl-istio-udp/allow-sessions on the Namespace)",
                    )
                )
            return asked
        spec, ports = own.spec, len(exposure.spec.ports)
        if spec is not None and len(spec.ports) == ports:
            found = spec.options.max_sessions
        else:
            elsewhere = self._others(exposure.spec, gateway)
            found = automatic_sessions(self._file_limit, elsewhere.sessions, ports, None)
        # Kept numbers too: an annotation that a tenant may have forged says them.
        return found if permission.everything else min(found, most)

    def _others(self, spec: ExposureSpec, gateway: Gateway) -> GatewayUsage:
        """What other exposures hold of a gateway, what is being written included."""
        found = [f.spec for f in self._view.all_filters() if f.spec]
        found += [pending for _, pending in self._pending.copy().values()]
        return GatewayUsage.of(gateway, self._view.root_namespace, found, spec.key)

    def _size(self, gateway: Gateway, udp_ports: int) -> ProxySize:
        """How big the gateway's Envoy is, as far as it can be told without asking it.

        Its workers are as many as its cores (ProxyConfig.concurrency's default), its clusters at
        least one for each TCP port of a Service and for each UDP port exposed.
        """
        workers = math.ceil(gateway.cores or CAREFUL_WORKERS)
        return ProxySize(workers, self._view.tcp_ports + udp_ports)

    @contextmanager
    def _decided(
        self, wish: Wish, exposure: Exposure, snapshot: Snapshot, todo: Sequence[Write]
    ) -> Iterator[None]:
        """Check that the gateway takes it, and keep it from others until it is written.

        Raises:
            Refusal: it would harm the gateway, or another has what it needs.
        """
        spec = exposure.spec
        claims = Claims.from_object(next(w.manifest for w in todo if w.kind == "EnvoyFilter"))
        with self._deciding:
            found = self._find_errors(exposure, snapshot, todo)
            if found:
                raise Refusal(refused(found))
            self._yield_to_older(wish, exposure, claims)
            self._pending[spec.key] = (claims, spec)
        try:
            yield
        except IstioUdpError:
            del self._pending[spec.key]
            self._freed(claims)
            raise
        del self._pending[spec.key]

    def _find_errors(
        self, exposure: Exposure, snapshot: Snapshot, todo: Sequence[Write]
    ) -> tuple[Finding, ...]:
        """What `expose` would refuse it for, with what is on its way counted as there."""
        view, spec = self._view, exposure.spec
        own = view.own(spec.key).spec
        # Of a thousand filters those that have nothing to do with this one are passed over first.
        ports = {port.listener_port for port in spec.ports}
        taken = {spec.proxy_name(port) for port in spec.ports}
        reach = [
            f.claims
            for f in view.all_filters()
            if (f.claims.udp_ports & ports or (f.claims.listeners | f.claims.clusters) & taken)
            and applies_to(f.manifest, snapshot.gateway, view.root_namespace)
        ]
        pending = [c for key, (c, _) in self._pending.copy().items() if key != spec.key]
        there = [view.find(w.kind, w.namespace, w.name) for w in todo if w.whole]
        others = self._others(spec, snapshot.gateway)
        seen = replace(
            snapshot,
            claims=(*reach, *pending),
            size=self._size(snapshot.gateway, others.ports + (len(own.ports) if own else 0)),
            others=others,
            objects=tuple(manifest for manifest in there if manifest),
            exposures=(own,) if own else (),
        )
        return errors(check_expose(exposure, seen))

    def _yield_to_older(self, wish: Wish, exposure: Exposure, claims: Claims) -> None:
        """Raise Refusal where an older wish for one of the ports could be honoured now, and is not.

        Whoever has a port keeps it; among those who only wish for it the older comes first, in
        whatever order they are looked at.
        """
        view, spec = self._view, exposure.spec
        held = (
            {port.listener_port for port in own.ports}
            if (own := view.own(spec.key).spec)
            else set()
        )
        wanted = claims.udp_ports - held
        for older in view.rivals(wanted):
            if older.about.rank >= wish.about.rank:
                return
            if older.key == spec.key:
                continue
            ports = self._could_have(older, spec)
            if ports & wanted:
                raise Refusal(
                    Outcome(
                        WAITING,
                        PORT_TAKEN,
                        f"port {min(ports & wanted)}/UDP of gateway {spec.gateway} goes to the "
                        f"older wish of Service {older.key[0]}/{older.key[1]}",
                    )
                )

    def _could_have(self, wish: Wish, instead_of: ExposureSpec) -> frozenset[int]:
        """The listener ports of a wish that could be honoured now; none where it could not."""
        own, space = self._view.own(wish.key), self._view.spaces.get("", wish.key[0])
        if space is None or space.leaving or (own.there and own.source is None):
            return frozenset()
        try:
            permission = ALLOWED_ALL if self._allow_all else Permission.parse(space.annotations)
            facts = self._decide(wish, permission, own)
            todo = [marked(write) for write in writes(facts.exposure, MANAGER)]
            found = self._find_errors(facts.exposure, facts.snapshot, todo)
        except (UsageError, Refusal, _MovesError):
            return frozenset()
        spec = facts.exposure.spec
        if found or not spec.gateway.same_pods(instead_of.gateway):
            return frozenset()
        return frozenset(port.listener_port for port in spec.ports)

    # -- what was there before ----------------------------------------------------------------

    def _refresh(self, own: Own, manager: str) -> None:
        """Write the ServiceEntry of an exposure that lists addresses, if it is another; no more."""
        spec, entry = own.spec, own.existing.object("ServiceEntry")
        if spec is None or entry is None or spec.discovery is not Discovery.ENDPOINTS:
            return
        slices = self._view.pieces((spec.namespace, spec.service))
        families = self._families(spec)
        endpoints = {
            port.service_port: endpoints_of(slices, port.service_port_name, families)
            for port in spec.ports
        }
        manifest = service_entry(Exposure(spec, families, endpoints=endpoints))
        if manifest is None:
            return
        write = Write(manifest, manager)
        write = marked(write) if manager == MANAGER else write
        if not is_so(write, entry):
            self._apply(write)

    def _families(self, spec: ExposureSpec) -> tuple[str, ...]:
        for gateway in self._view.gateways():
            if gateway.ref.same_pods(spec.gateway):
                return gateway.families
        return (IPV4, IPV6)

    def _withdraw(self, key: Key, own: Own) -> Outcome:
        """Take an exposure away: the way for clients, the listener, then the rest."""
        if not own.there:
            self._silent.pop(key, None)
            self._calm.pop(key, None)
            return Outcome(GONE)
        changes = self._changes(own, ())
        services, others = close_the_way(changes)
        self._remove(replace(changes, delete=tuple(services)))
        left = max((self._silence(key, manifest) for manifest in others), default=0.0)
        if left > 0:
            return Outcome(LEAVING, again=left)
        self._remove(ChangeSet(delete=tuple(others)))
        return Outcome(LEAVING)

    def _changes(self, own: Own, todo: Sequence[Write]) -> ChangeSet:
        """What differs from what is wanted, whoever left it there, and when."""
        existing = own.existing
        key = (existing.namespace, existing.name)
        return change_set(
            existing.kind, key, existing.objects, self._view.patched_services(key), todo
        )

    def _remove(self, changes: ChangeSet) -> None:
        """Delete and release what a ChangeSet says, the way for clients first."""
        services, others = close_the_way(changes)
        for manifest in services:
            self._delete(manifest)
        for release in changes.release:
            self._apply(Write(release.manifest, release.manager, whole=False))
        for manifest in others:
            self._delete(manifest)

    def _silence(self, key: Key, envoy_filter: Manifest) -> float:
        """End the listeners; the seconds until the gateways have done so."""
        if envoy_filter["kind"] != "EnvoyFilter":
            return 0.0
        write = silenced(envoy_filter, MANAGER)
        if write is not None:
            self._apply(write)
            self._silent[key] = self._clock() + _LISTENER_SECONDS
        # Whoever led before may have ended them just now.
        until = self._silent.setdefault(key, self._clock() + _LISTENER_SECONDS)
        return until - self._clock()

    def _calm_left(self, key: Key) -> float:
        """Seconds for which an exposure's part of the gateway has to stay as it is."""
        return self._calm.get(key, 0.0) - self._clock()

    # -- writing ------------------------------------------------------------------------------

    def _is_so(self, write: Write) -> bool:
        return is_so(write, self._view.find(write.kind, write.namespace, write.name))

    def _apply_all(self, todo: Iterable[Write]) -> None:
        for write in todo:
            self._apply(write)

    def _apply(self, write: Write) -> None:
        """Server-side apply: of a new object, or of exactly the one that was seen."""
        there = self._view.find(write.kind, write.namespace, write.name)
        manifest = dict(write.manifest)
        if there is not None and write.whole and "uid" in there["metadata"]:
            manifest["metadata"] = {**manifest["metadata"], "uid": there["metadata"]["uid"]}
        self._fence()
        self._wrote("patch", write.kind)
        applied = self._api.apply(
            manifest,
            before=None,
            manager=write.manager,
            force=there is not None and write.whole,
        )
        self._view.learn(applied.manifest)

    def _delete(self, manifest: Manifest) -> None:
        self._fence()
        self._wrote("delete", manifest["kind"])
        metadata = manifest["metadata"]
        self._api.delete(manifest["kind"], metadata["namespace"], metadata["name"])
        self._view.forget(manifest)

    def _fence(self) -> None:
        if not self._may_write():
            raise NotLeading("another replica leads")


def _steady(exposure: Exposure, service: Service) -> Exposure:
    """The exposure with nothing in its spec that changes when pods do.

    In a list of endpoints each says its own port; the number of a named port, which the plan takes
    from the pods, would make the EnvoyFilter another (by its annotation) when it differs.
    """
    spec = exposure.spec
    if spec.discovery is not Discovery.ENDPOINTS:
        return exposure
    named = {p.port for p in service.udp_ports if isinstance(p.target_port, str)}
    ports = tuple(
        replace(port, target_port=None) if port.service_port in named else port
        for port in spec.ports
    )
    return replace(exposure, spec=replace(spec, ports=ports))
