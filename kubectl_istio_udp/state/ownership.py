"""The one rule that decides which exposure, response or access log an object belongs to.

Anyone who may write in a namespace can write any label and annotation there, including those of
another user's exposure. So no single mark decides. An object *is consistent* if its labels,
name, namespace and the spec in its annotation all name the same exposure. One of the objects that
agree decides what the exposure is (for an exposure its EnvoyFilter, which only the gateway's owner
can write). If the objects of several gateways' namespaces claim one exposure, those count that are
where gateways belong. The other objects belong to it if they have its labels, its name, and a
namespace that its objects may be in. Their own annotations do not matter, so that an edited one can
be repaired.

All other objects with the plugin's labels are strays: they are shown but never changed, and their
annotations are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.deletion import is_being_deleted
from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.kinds import Kind, ObjectRef, Ref, Spec

Manifest = Mapping[str, Any]
Owner = tuple[Kind, str, str]
Wanted = TypeVar("Wanted")

# The object kinds of each kind, in writing order.
OBJECT_KINDS: Mapping[Kind, Sequence[str]] = {
    Kind.EXPOSURE: ("ServiceEntry", "EnvoyFilter", "Service"),
    Kind.RESPONSE: ("Gateway", "VirtualService", "EnvoyFilter"),
    Kind.ACCESS_LOG: ("EnvoyFilter",),
}
# Which object decides: the first of these that exists. An exposure is part of a gateway, so objects
# in the gateway's namespace come first. A response belongs to the namespace of its VirtualService.
_DECIDES: Mapping[Kind, Sequence[str]] = {
    Kind.EXPOSURE: ("EnvoyFilter", "Service", "ServiceEntry"),
    Kind.RESPONSE: ("VirtualService", "EnvoyFilter", "Gateway"),
    Kind.ACCESS_LOG: ("EnvoyFilter",),
}
# Object kinds in the namespace of the exposure or response, not in the gateway's.
_AT_HOME = ("ServiceEntry", "VirtualService")


class Disagreement(ClusterError):
    """An object's labels, name, namespace and annotation do not name the same owner."""


@dataclass(frozen=True)
class Existing:
    """An exposure, response or access log that exists.

    Attributes:
        kind, namespace, name: its kind, namespace and name.
        spec: its settings; None if no object's annotation can be read.
        objects: its manifests, the deciding one first, then in writing order.
        problem: why spec is None.
        decided_by: the object whose annotation has the spec.
    """

    kind: Kind
    namespace: str
    name: str
    spec: Spec | None
    objects: tuple[Manifest, ...]
    problem: str = ""
    decided_by: Manifest | None = None

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return (self.namespace, self.name)

    @property
    def exists(self) -> bool:
        """Whether any of its objects exists."""
        return bool(self.objects)

    @property
    def exposure(self) -> ExposureSpec | None:
        """The spec of an exposure; None for other kinds, or if it cannot be read."""
        return self.spec if isinstance(self.spec, ExposureSpec) else None

    @property
    def at_gateway(self) -> ExposureSpec | None:
        """The spec of an exposure, from an object in the gateway's namespace; None without one.

        A tenant can write a ServiceEntry in the exposure's own namespace, and any spec in it.
        """
        if self.decided_by is None or _is_at_home(self.decided_by, self.namespace):
            return None
        return self.exposure

    @property
    def named_at_home(self) -> bool:
        """Whether the exposure's own namespace names the gateway's, or is the gateway's."""
        spec = self.at_gateway
        if spec is None or spec.gateway.namespace == self.namespace:
            return spec is not None
        entries = (
            each for each in self.all_of("ServiceEntry") if _is_at_home(each, self.namespace)
        )
        specs = (readable(entry, ExposureSpec) for entry in entries)
        return any(each and each.gateway.namespace == spec.gateway.namespace for each in specs)

    @property
    def held(self) -> ExposureSpec | None:
        """The spec of an exposure with an EnvoyFilter, i.e. what it uses of a gateway; or None."""
        return self.at_gateway if self.object("EnvoyFilter") else None

    def at(self, gateway: GatewayRef) -> Existing:
        """This exposure as it is at a gateway: without objects if it is at another one."""
        if self.exposure is None or self.exposure.gateway.same_pods(gateway):
            return self
        return replace(self, spec=None, objects=())

    @property
    def ref(self) -> Ref:
        """Its kind and name, as on the command line."""
        return Ref(self.kind, self.name)

    @property
    def missing(self) -> tuple[str, ...]:
        """Its missing objects, e.g. `EnvoyFilter istio-system/udp-a-b`."""
        return tuple(map(str, self.missing_refs))

    @property
    def missing_refs(self) -> tuple[ObjectRef, ...]:
        """Its missing objects. One whose labels were edited may exist."""
        if self.spec is None:
            return ()
        existing = {ObjectRef.of(manifest) for manifest in self.objects}
        return tuple(ref for ref in self.spec.objects if ref not in existing)

    @property
    def leaving(self) -> tuple[Manifest, ...]:
        """Its objects that are being deleted, except leftovers."""
        wanted = self.spec.objects if self.spec else ()
        return tuple(o for o in self.objects if is_being_deleted(o) and ObjectRef.of(o) in wanted)

    @property
    def source(self) -> str | None:
        """What requested it, from the deciding object's label; None for the command line."""
        order = _DECIDES[self.kind]
        deciding = sorted(self.objects, key=lambda manifest: order.index(manifest["kind"]))
        return _labels(deciding[0]).get(names.SOURCE_LABEL) if deciding else None

    def object(self, kind: str) -> Manifest | None:
        """Its first object of a kind, preferably not a leftover; None if there is none."""
        found = self.all_of(kind)
        wanted = self.spec.objects if self.spec else ()
        return next((o for o in found if ObjectRef.of(o) in wanted), found[0] if found else None)

    @property
    def gateway_objects(self) -> tuple[Manifest, ...]:
        """Its objects in the gateway's namespace, where no tenant of another one can write."""
        return tuple(each for each in self.objects if not _is_at_home(each, self.namespace))

    def all_of(self, kind: str) -> list[Manifest]:
        """All its objects of a kind: several ServiceEntries, and leftovers of earlier versions."""
        return [manifest for manifest in self.objects if manifest["kind"] == kind]


@dataclass(frozen=True)
class Stray:
    """An object with the plugin's labels that belongs to no exposure, response or access log.

    Attributes:
        kind, namespace, name: the object.
        owner: the owner that it claims; None if its labels name none.
        reason: what does not agree.
    """

    kind: str
    namespace: str
    name: str
    owner: Owner | None
    reason: str

    @property
    def claimed_owner(self) -> str:
        """The owner that it claims, e.g. `exposure default/coredns`; "" if its labels name none."""
        return _words(self.owner) if self.owner else ""

    def __str__(self) -> str:
        """`ServiceEntry lab/evil`."""
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True)
class State:
    """The exposures, responses, access logs and strays among some objects.

    Attributes:
        existing: the exposures, responses and access logs, sorted by kind, namespace and name.
        strays: the objects that belong to none of them, sorted the same way.
        partial: whether the user may not list all namespaces, so that some may be missing.
    """

    existing: tuple[Existing, ...] = ()
    strays: tuple[Stray, ...] = ()
    partial: bool = False


def spec_of(manifest: Manifest) -> Spec:
    """The spec in the annotation of an object that is consistent.

    Raises:
        Disagreement: its labels, name, namespace and annotation do not name the same owner.
        ClusterError: it has no annotation, or the annotation cannot be read.
    """
    owner = claimed_owner(manifest)
    spec = _read_annotation(manifest, owner)
    if (spec.kind, *spec.key) != owner:
        raise Disagreement(
            f"its annotation belongs to {spec.kind.words} {spec.namespace}/{spec.name}"
        )
    if _place(manifest) not in spec.possible_locations:
        raise Disagreement(
            f"{_words(owner)} has no {manifest['kind']} in namespace {_place(manifest)[1]}"
        )
    return spec


def readable(manifest: Manifest, kind: type[Wanted]) -> Wanted | None:
    """The spec of an object that is consistent and has this kind; otherwise None."""
    try:
        spec = spec_of(manifest)
    except ClusterError:
        return None
    return spec if isinstance(spec, kind) else None


def belongs(manifest: Manifest, spec: Spec) -> bool:
    """Whether an object belongs to a spec: by its labels, name and namespace.

    An object in another namespace (of a former gateway) must be consistent.
    """
    try:
        if claimed_owner(manifest) != (spec.kind, *spec.key):
            return False
        return _place(manifest) in spec.possible_locations or spec_of(manifest).key == spec.key
    except ClusterError:
        return False


def _unknown() -> frozenset[str]:
    """No namespace; for callers that only pass objects of namespaces where gateways belong."""
    return frozenset()


def resolve(
    manifests: Iterable[Manifest],
    kinds: Sequence[Kind] = tuple(Kind),
    gateways: Callable[[], Collection[str]] = _unknown,
) -> State:
    """Sort objects with the plugin's labels into owners and strays.

    Args:
        manifests: objects with the plugin's labels, of any kind and namespace.
        kinds: the kinds to return; objects that name other kinds are ignored.
        gateways: returns the namespaces where gateways belong; only called if the objects of
            several namespaces claim the same owner.
    """
    groups: dict[Owner, list[Manifest]] = {}
    strays: list[Stray] = []
    for manifest in manifests:
        labelled = names.owner_of(_labels(manifest))
        if labelled is not None and labelled[0] not in kinds:
            continue
        try:
            groups.setdefault(claimed_owner(manifest), []).append(manifest)
        except Disagreement as error:
            strays.append(_stray(manifest, labelled, error.message))
    existing = []
    for owner, claimants in groups.items():
        found = resolve_one(owner, claimants, gateways)
        existing += [found] if found else []
        members = {id(manifest) for manifest in found.objects} if found else set()
        left_out = [manifest for manifest in claimants if id(manifest) not in members]
        strays += [_stray(manifest, owner, _reason(manifest, owner)) for manifest in left_out]
    order = list(Kind)
    existing.sort(key=lambda each: (order.index(each.kind), each.namespace, each.name))
    strays.sort(key=lambda each: (each.kind, each.namespace, each.name))
    return State(tuple(existing), tuple(strays))


def resolve_one(
    owner: Owner,
    claimants: Sequence[Manifest],
    gateways: Callable[[], Collection[str]] = _unknown,
) -> Existing | None:
    """What exists of one owner; None if nothing belongs to it.

    Only the annotations of the deciding kind of object are read, unless the objects of several
    gateways' namespaces claim the owner.

    Args:
        owner: the owner.
        claimants: the objects that claim it (`claimed_owner`).
        gateways: as in `resolve`.
    """
    kind, namespace, name = owner
    claimants = _of_one_gateway(owner, claimants, gateways)
    (deciding, spec), problem = _deciding(owner, claimants), ""
    if spec is not None:
        places = spec.possible_locations
        members = [manifest for manifest in claimants if _place(manifest) in places]
    else:
        problems = [(manifest, _problem(manifest)) for manifest in claimants]
        unread = [(m, each) for m, each in problems if not isinstance(each, Disagreement)]
        members = _unread_members(owner, [manifest for manifest, _ in unread])
        problem = next((str(each) for m, each in unread if m is members[0]), "") if members else ""
    if not members:
        return None
    order = OBJECT_KINDS[kind]
    members.sort(key=lambda manifest: order.index(manifest["kind"]))
    return Existing(kind, namespace, name, spec, tuple(members), problem, deciding)


def remaining(existing: Existing) -> Existing:
    """What exists without the objects that are being deleted, which decide nothing any more."""
    staying = [manifest for manifest in existing.objects if not is_being_deleted(manifest)]
    if len(staying) == len(existing.objects):
        return existing
    owner = (existing.kind, existing.namespace, existing.name)
    return resolve_one(owner, staying) or Existing(*owner, None, ())


def _problem(manifest: Manifest) -> ClusterError | None:
    """Why an object's spec cannot be read, or does not count; None where it does."""
    try:
        spec_of(manifest)
    except ClusterError as error:
        return error
    return None


def _reason(manifest: Manifest, owner: Owner) -> str:
    problem = _problem(manifest)
    if isinstance(problem, Disagreement):
        return problem.message
    return f"{_words(owner)} has no {manifest['kind']} in namespace {_place(manifest)[1]}"


def _of_one_gateway(
    owner: Owner, claimants: Sequence[Manifest], gateways: Callable[[], Collection[str]]
) -> Sequence[Manifest]:
    """The objects in the owner's namespace, and those in the namespace of one gateway.

    Anyone can forge an owner's objects in a namespace of their own. If several namespaces have
    objects that may be a gateway's, these decide, in this order: whether gateways belong there,
    whether an object in the owner's namespace names it, which object it has (`_DECIDES`), and the
    age (the API server sets creationTimestamp). Objects that are being deleted come last.
    """
    kind, home, _ = owner
    if not _depends_on_gateway(owner, claimants):
        return claimants
    away = [manifest for manifest in claimants if not _is_at_home(manifest, home)]
    if len({_place(manifest)[1] for manifest in away}) < 2:
        return claimants
    found: dict[str, list[tuple[bool, bool, int, str]]] = {}
    for manifest in away:
        problem = _problem(manifest)
        if not isinstance(problem, Disagreement):
            decides = _DECIDES[kind].index(manifest["kind"])
            created = str(manifest["metadata"].get("creationTimestamp") or "")
            ends = is_being_deleted(manifest)
            rank = (ends, bool(problem), decides, created)
            found.setdefault(_place(manifest)[1], []).append(rank)
    if not found:
        return claimants
    chosen = next(iter(found))
    if len(found) > 1:
        expected = gateways()
        at_home = _specs(manifest for manifest in claimants if _place(manifest)[1] == home)
        named = {
            ref.namespace for _, spec in at_home for ref in spec.objects if ref.kind not in _AT_HOME
        }

        def order(place: str) -> tuple[object, ...]:
            best = min(found[place])
            return (best[0], place not in expected, place not in named, best, place)

        chosen = min(found, key=order)
    return [m for m in claimants if _is_at_home(m, home) or _place(m)[1] == chosen]


def _depends_on_gateway(owner: Owner, claimants: Sequence[Manifest]) -> bool:
    """Whether the owner's objects are where its gateway is, and no object at home decides."""
    first = _DECIDES[owner[0]][0]
    decides_at_home = first in _AT_HOME and _specs(m for m in claimants if m["kind"] == first)
    return owner[0] is not Kind.ACCESS_LOG and not decides_at_home


def _is_at_home(manifest: Manifest, home: str) -> bool:
    """Whether an object is in its owner's namespace because of its kind, not as a gateway's."""
    return manifest["kind"] in _AT_HOME and _place(manifest)[1] == home


def _deciding(
    owner: Owner, claimants: Sequence[Manifest]
) -> tuple[Manifest, Spec] | tuple[None, None]:
    """The deciding object and its spec; None if no object is consistent."""
    for kind in _DECIDES[owner[0]]:
        found = _specs(manifest for manifest in claimants if manifest["kind"] == kind)
        if found:
            # ServiceEntries in the gateway's namespace first: tenants cannot write these.
            return min(found, key=lambda each: _is_at_home(each[0], owner[1]))
    return None, None


def _specs(manifests: Iterable[Manifest]) -> list[tuple[Manifest, Spec]]:
    """The consistent objects, each with its spec."""
    found = []
    for manifest in manifests:
        with suppress(ClusterError):
            found.append((manifest, spec_of(manifest)))
    return found


def _unread_members(owner: Owner, claimants: Sequence[Manifest]) -> list[Manifest]:
    """The objects of an owner if no annotation of theirs can be read.

    They are shown, so that they can be repaired or deleted: those in the owner's namespace, and
    those of the gateway.
    """
    kind, home, _ = owner
    away = [m for m in claimants if kind is not Kind.ACCESS_LOG and m["kind"] not in _AT_HOME]
    gateway = _place(away[0])[1] if away else home
    return [m for m in claimants if _is_at_home(m, home) or _place(m)[1] == gateway]


def claimed_owner(manifest: Manifest) -> Owner:
    """The owner that an object's labels and name claim.

    Whether it does belong to it is decided by `resolve_one`.

    Raises:
        Disagreement: the labels name no owner, or one whose objects have another kind or name.
    """
    owner = names.owner_of(_labels(manifest))
    if owner is None:
        raise Disagreement("its labels do not name one exposure, response or access log")
    kind, namespace, name = owner
    if manifest["kind"] not in OBJECT_KINDS[kind]:
        raise Disagreement(f"{_words(owner)} has no {manifest['kind']}")
    expected, found = names.object_name(namespace, name, kind), manifest["metadata"]["name"]
    further = manifest["kind"] == "ServiceEntry" and found.startswith(f"{expected}.")
    if found != expected and not further:
        raise Disagreement(f"the objects of {_words(owner)} are named {expected}")
    return owner


def is_copy_of(manifest: Manifest, original: About) -> bool:
    """Whether the controller created a Gateway or route for another one of the Gateway API.

    Its controlling owner is the original, and a route has the plugin's label. A Gateway has none,
    because istiod copies the labels of Gateways to objects that it creates. Whoever may write such
    an object could also write the original: both are in the same namespace.
    """
    metadata = manifest["metadata"]
    owners = [o for o in metadata.get("ownerReferences") or () if o.get("controller")]
    labelled = _labels(manifest).get(names.MANAGED_BY_LABEL) == names.MANAGER
    return (
        (labelled or manifest["kind"] == "Gateway")
        and manifest["kind"] == original.kind
        and metadata.get("namespace") == original.namespace
        and [(o.get("kind"), o.get("uid")) for o in owners] == [(original.kind, original.uid)]
    )


def _read_annotation(manifest: Manifest, owner: Owner) -> Spec:
    notes = manifest["metadata"].get("annotations") or {}
    if names.SPEC_ANNOTATION not in notes:
        kind, (_, namespace) = manifest["kind"], _place(manifest)
        raise ClusterError(
            f"{kind} {namespace}/{manifest['metadata']['name']} has no annotation "
            f"{names.SPEC_ANNOTATION}"
        )
    text = notes[names.SPEC_ANNOTATION]
    if owner[0] is Kind.EXPOSURE:
        return ExposureSpec.from_json(text)
    # Many clusters have none of the other kinds, and each takes 2 to 4 ms to import.
    if owner[0] is Kind.RESPONSE:
        from kubectl_istio_udp.model.response import ResponseSpec

        return ResponseSpec.from_json(text)
    from kubectl_istio_udp.model.accesslog import AccessLogSpec

    return AccessLogSpec.from_json(text)


def _place(manifest: Manifest) -> tuple[str, str]:
    return (manifest["kind"], manifest["metadata"].get("namespace") or "default")


def _labels(manifest: Manifest) -> Mapping[str, str]:
    return manifest["metadata"].get("labels") or {}


def _words(owner: Owner) -> str:
    return f"{owner[0].words} {owner[1]}/{owner[2]}"


def _stray(manifest: Manifest, owner: Owner | None, reason: str) -> Stray:
    kind, namespace = _place(manifest)
    name = manifest["metadata"]["name"]
    return Stray(kind, namespace, name, owner, reason)


def is_declared(existing: Existing) -> bool:
    """Whether a controller manages an exposure, according to its EnvoyFilter."""
    return existing.source is not None
