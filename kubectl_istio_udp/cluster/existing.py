"""The things there are, rebuilt from their own objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.kube.client import Api, for_each
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NotFound
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.kinds import Kind, Ref, Spec
from kubectl_istio_udp.model.specs import spec_of

# The kinds of object that a kind of thing may consist of, in the order in which they are written.
OBJECT_KINDS = {
    Kind.EXPOSURE: ("ServiceEntry", "EnvoyFilter", "Service"),
    Kind.RESPONSE: ("Gateway", "VirtualService", "EnvoyFilter"),
    Kind.ACCESS_LOG: ("EnvoyFilter",),
}
# Of these no exposure has one.
_NO_EXPOSURES = ("Gateway", "VirtualService")
# Written last or next to last, and what the proxies run by: its annotation is believed first.
_MOST_TRUSTED = ("EnvoyFilter", "VirtualService", "ServiceEntry", "Service", "Gateway")
# Where things without an object in their own namespace can be looked for by a user who may not
# look everywhere.
USUAL_GATEWAY_NAMESPACE = "istio-system"


@dataclass(frozen=True)
class Existing:
    """A thing found in the cluster.

    Attributes:
        kind, namespace, name: which.
        spec: what it is; None where no object's annotation can be read.
        objects: its manifests, in writing order.
        problem: why spec is None.
    """

    kind: Kind
    namespace: str
    name: str
    spec: Spec | None
    objects: tuple[Mapping[str, Any], ...]
    problem: str = ""

    @property
    def ref(self) -> Ref:
        """As a command line names it."""
        return Ref(self.kind, self.name)

    @property
    def missing(self) -> tuple[str, ...]:
        """The objects it should have and has not, as `EnvoyFilter istio-system/udp-a-b`."""
        if self.spec is None:
            return ()
        return tuple(
            f"{kind} {namespace}/{self.spec.object_name}"
            for kind, namespace in self.spec.places.items()
            if self.object(kind) is None
        )

    def object(self, kind: str) -> Mapping[str, Any] | None:
        """Its object of a kind, None where there is none."""
        return next((o for o in self.objects if o["kind"] == kind), None)


def list_existing(
    api: Api, namespace: str | None = None, kinds: Sequence[Kind] = tuple(Kind)
) -> tuple[Existing, ...]:
    """The things of some kinds in a namespace (None: in all), sorted by kind and name.

    An object left over from a half-done deletion counts too, so that it can be seen and deleted.
    Where exposures are among the kinds, what only the other kinds need may be hidden: a team may
    have the rights for exposures alone.

    Raises:
        Forbidden: not even those may be listed.
    """
    object_kinds = tuple(dict.fromkeys(o for kind in kinds for o in OBJECT_KINDS[kind]))
    selector = names.label_selector(namespace)
    try:
        found = for_each(lambda kind: api.list(kind, None, selector), object_kinds)
    except Forbidden:
        lenient = Kind.EXPOSURE in kinds
        if namespace is None:
            places = [(o, None, lenient and o in _NO_EXPOSURES) for o in object_kinds]
            found = for_each(lambda place: _list_in(api, selector, *place), places)
        else:
            found = _list_near(api, namespace, object_kinds, selector, lenient=lenient)
    groups: dict[tuple[Kind, str, str], list[Mapping[str, Any]]] = {}
    for manifest in (m for each in found for m in each):
        owner = names.owner_of(manifest["metadata"]["labels"])
        if owner and owner[0] in kinds:
            groups.setdefault(owner, []).append(manifest)
    order = list(Kind)
    return tuple(
        _existing(*key, groups[key])
        for key in sorted(groups, key=lambda key: (order.index(key[0]), *key[1:]))
    )


def _list_in(
    api: Api, selector: str, kind: str, where: str | None, may_be_hidden: bool
) -> list[dict[str, Any]]:
    try:
        return api.list(kind, where, selector)
    except Forbidden:
        if may_be_hidden:
            return []
        raise


def _list_near(
    api: Api, namespace: str, object_kinds: Sequence[str], selector: str, *, lenient: bool
) -> list[list[dict[str, Any]]]:
    """The objects that a user finds who may not look into all namespaces.

    Those in the things' own namespace, and in those of the gateways that they name. Access logs
    have none elsewhere.

    Args:
        api: the cluster.
        namespace: that of the things.
        object_kinds: which objects.
        selector: their labels.
        lenient: whether what exposures do not need may be hidden.

    Raises:
        Forbidden: not even there.
    """
    own = [kind for kind in object_kinds if kind in ("ServiceEntry", "VirtualService")]
    others = [kind for kind in object_kinds if kind not in own]
    at_home = [(kind, namespace, lenient and kind in _NO_EXPOSURES) for kind in own]
    found = for_each(lambda place: _list_in(api, selector, *place), at_home)
    spaces = {USUAL_GATEWAY_NAMESPACE} if own else set()
    for manifest in (m for each in found for m in each):
        with suppress(ClusterError):
            spaces.add(spec_of(manifest).places.get("EnvoyFilter", USUAL_GATEWAY_NAMESPACE))
    places = [
        (kind, space, lenient and kind in _NO_EXPOSURES)
        for space in sorted(spaces)
        for kind in others
    ]
    # Access logs of the namespace itself, and things of a gateway in it.
    places += [(kind, namespace, lenient) for kind in others if namespace not in spaces]
    return found + for_each(lambda place: _list_in(api, selector, *place), places)


def list_exposures(api: Api, namespace: str | None = None) -> tuple[Existing, ...]:
    """The exposures of a namespace, or of all."""
    return list_existing(api, namespace, (Kind.EXPOSURE,))


def get_existing(
    api: Api, namespace: str, wanted: Iterable[str], *, missing_ok: bool = False
) -> tuple[Existing, ...]:
    """The things of these names, in the order given; all of the namespace's where none is.

    Args:
        api: the cluster.
        namespace: where.
        wanted: names as on a command line (`coredns`, `response/hello`).
        missing_ok: pass over those that do not exist.

    Raises:
        UsageError: a name is of no kind.
        NotFound: one does not exist; the message lists those that do.
    """
    refs = [Ref.parse(text) for text in wanted]
    if not refs:
        return list_existing(api, namespace)
    kinds = tuple(dict.fromkeys(ref.kind for ref in refs))
    there = {existing.ref: existing for existing in list_existing(api, namespace, kinds)}
    missing = [ref for ref in refs if ref not in there]
    if missing and not missing_ok:
        same = [str(ref) for ref in there if ref.kind is missing[0].kind]
        raise NotFound(
            f"there is no {missing[0].kind.words} {missing[0].name} in namespace {namespace}",
            hints=[
                f"those there are: {', '.join(same)}"
                if same
                else "there is none in this namespace; see all: kubectl istio-udp get -A"
            ],
        )
    return tuple(there[ref] for ref in refs if ref in there)


def exposure_of(existing: Existing) -> ExposureSpec | None:
    """The spec of an exposure, None where it cannot be read."""
    return existing.spec if isinstance(existing.spec, ExposureSpec) else None


def _existing(
    kind: Kind, namespace: str, name: str, objects: Sequence[Mapping[str, Any]]
) -> Existing:
    order = OBJECT_KINDS[kind]
    objects = tuple(sorted(objects, key=lambda o: order.index(o["kind"])))
    problem = ""
    for manifest in sorted(objects, key=lambda o: _MOST_TRUSTED.index(o["kind"])):
        try:
            return Existing(kind, namespace, name, spec_of(manifest), objects)
        except ClusterError as error:
            problem = problem or error.message
    return Existing(kind, namespace, name, None, objects, problem)
