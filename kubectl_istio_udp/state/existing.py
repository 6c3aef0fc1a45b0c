"""Find existing exposures, responses and access logs by their objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import for_each
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NotFound
from kubectl_istio_udp.model.kinds import Kind, Ref
from kubectl_istio_udp.state.gatewaynamespaces import (
    USUAL_GATEWAY_NAMESPACE,
    gateway_namespaces,
    likely_gateway_namespaces,
)
from kubectl_istio_udp.state.ownership import (
    OBJECT_KINDS,
    Existing,
    State,
    Stray,
    remaining,
    resolve,
    spec_of,
)

# Kinds of objects that exposures do not have.
_NO_EXPOSURES = ("Gateway", "VirtualService")
Result = TypeVar("Result")

# For users who may not list all namespaces, and have a gateway that no object or label names.
OTHER_GATEWAYS = "for a gateway in another namespace: --gateway-namespace NAMESPACE"


def read_state(
    api: Api,
    namespace: str | None = None,
    kinds: Sequence[Kind] = tuple(Kind),
    gateways: Iterable[str] = (),
) -> State:
    """The exposures, responses, access logs and strays of a namespace; None for all namespaces.

    Leftovers of an interrupted deletion are included, so that they can be seen and deleted. If
    exposures are requested, forbidden kinds that only responses or access logs need are skipped:
    a team may only have the rights for exposures.

    Args:
        api: the cluster.
        namespace: the namespace; None for all.
        kinds: which of them to read.
        gateways: namespaces with gateways that the user names.

    Raises:
        Forbidden: the kinds of exposures may not be listed either.
    """
    named = tuple(gateways)

    @cache
    def expected() -> frozenset[str]:
        return gateway_namespaces(api).union(named)

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
            found = _list_near(api, namespace, object_kinds, selector, named, lenient=lenient)
            state = resolve((manifest for each in found for manifest in each), kinds, expected)
            return replace(state, partial=True)
    return resolve((manifest for each in found for manifest in each), kinds, expected)


def list_existing(
    api: Api, namespace: str | None = None, kinds: Sequence[Kind] = tuple(Kind)
) -> tuple[Existing, ...]:
    """The exposures, responses and access logs of `read_state`, without the strays."""
    return read_state(api, namespace, kinds).existing


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
    api: Api,
    namespace: str,
    object_kinds: Sequence[str],
    selector: str,
    gateways: Iterable[str],
    *,
    lenient: bool,
) -> list[list[dict[str, Any]]]:
    """The objects that a user without access to all namespaces can find.

    Searches the namespace of the exposures, and the namespaces of their gateways: those that are
    given or that an object names, and likely ones as far as permitted. An access log only has
    objects in its own namespace.

    Args:
        api: the cluster.
        namespace: the exposures' namespace.
        object_kinds: the kinds of objects.
        selector: the label selector.
        gateways: namespaces with gateways.
        lenient: whether to skip forbidden kinds that exposures do not need.

    Raises:
        Forbidden: listing is not permitted there either, or in no namespace with gateways.
    """
    of_namespace = [kind for kind in object_kinds if kind in ("ServiceEntry", "VirtualService")]
    others = [kind for kind in object_kinds if kind not in of_namespace]
    at_home = [(kind, namespace, lenient and kind in _NO_EXPOSURES) for kind in of_namespace]
    found = for_each(lambda place: _list_in(api, selector, *place), at_home)
    if not of_namespace:
        return for_each(lambda kind: _list_in(api, selector, kind, namespace, lenient), others)
    named = set(gateways)
    for manifest in (m for each in found for m in each):
        with suppress(ClusterError):
            filters = [ref for ref in spec_of(manifest).objects if ref.kind == "EnvoyFilter"]
            named |= {ref.namespace for ref in filters} or {USUAL_GATEWAY_NAMESPACE}

    def read(place: str) -> list[list[dict[str, Any]]]:
        wanted = [(kind, place, lenient and kind in _NO_EXPOSURES) for kind in others]
        if "ServiceEntry" in of_namespace and place != namespace:
            # ServiceEntries that list addresses.
            wanted.append(("ServiceEntry", place, True))
        return for_each(lambda each: _list_in(api, selector, *each), wanted)

    at_gateways = dict(zip(named, for_each(read, named), strict=True))
    at_gateways |= _list_likely(api, namespace, named, read)
    # Access logs of the namespace, and objects of a gateway in it.
    places = [(kind, namespace, lenient) for kind in others if namespace not in at_gateways]
    found += for_each(lambda place: _list_in(api, selector, *place), places)
    return found + [each for lists in at_gateways.values() for each in lists]


def _list_likely(
    api: Api, namespace: str, named: set[str], read: Callable[[str], Result]
) -> dict[str, Result]:
    """What `read` finds in other namespaces that are likely to have gateways, as far as permitted.

    Raises:
        Forbidden: nothing may be read there, and no namespace is known to have gateways.
    """
    found: dict[str, Result] = {}
    refusal: Forbidden | None = None
    for place in sorted(likely_gateway_namespaces(api, namespace) - named):
        try:
            found[place] = read(place)
        except Forbidden as error:
            refusal = refusal or error
    if refusal and not (named or found):
        refusal.hints += (OTHER_GATEWAYS,)
        raise refusal
    return found


def list_exposures(api: Api) -> tuple[Existing, ...]:
    """The exposures of all namespaces."""
    return list_existing(api, None, (Kind.EXPOSURE,))


def get_existing(
    api: Api, namespace: str, wanted: Iterable[str], *, missing_ok: bool = False
) -> tuple[Existing, ...]:
    """The exposures, responses and access logs of `get_state`, without the strays."""
    return get_state(api, namespace, wanted, missing_ok=missing_ok).existing


def get_state(
    api: Api,
    namespace: str,
    wanted: Iterable[str],
    *,
    missing_ok: bool = False,
    gateways: Iterable[str] = (),
) -> State:
    """The objects with these names, in the given order; all in the namespace without names.

    Args:
        api: the cluster.
        namespace: the namespace.
        wanted: names as on the command line (`coredns`, `response/hello`).
        missing_ok: ignore names that do not exist.
        gateways: namespaces with gateways, for users who may not list all namespaces.

    Returns:
        The existing ones, and the strays that claim to belong to them.

    Raises:
        UsageError: a name has an unknown kind.
        NotFound: one does not exist; the message lists those that exist.
    """
    refs = [Ref.parse(text) for text in wanted]
    if not refs:
        return read_state(api, namespace, gateways=gateways)
    kinds = tuple(dict.fromkeys(ref.kind for ref in refs))
    state = read_state(api, namespace, kinds, gateways)
    found = {existing.ref: existing for existing in state.existing}
    owners = {(ref.kind, namespace, ref.name) for ref in refs}
    strays = tuple(stray for stray in state.strays if stray.owner in owners)
    missing = [ref for ref in refs if ref not in found]
    if missing and not missing_ok:
        same = [str(ref) for ref in found if ref.kind is missing[0].kind]
        raise NotFound(
            f"{missing[0].kind.words} {missing[0].name} not found in namespace {namespace}",
            hints=[
                *_slash_hint([str(ref) for ref in refs]),
                f"this namespace has: {', '.join(same)}"
                if same
                else "this namespace has none; list all: kubectl istio-udp get -A",
                *([OTHER_GATEWAYS] if state.partial else []),
                *map(explain_stray, strays),
            ],
        )
    return State(tuple(found[ref] for ref in refs if ref in found), strays, state.partial)


def _slash_hint(words: Sequence[str]) -> list[str]:
    """The hint for names that are written as kubectl's `TYPE NAME`; none for others."""
    kind = Kind.of_word(words[0]) if len(words) > 1 else None
    return [f"write TYPE/NAME: {kind.value}/{words[1]}"] if kind else []


def explain_stray(stray: Stray) -> str:
    """The message about a stray: that it is ignored, and why."""
    owner = stray.claimed_owner or "an exposure, response or access log"
    return f"{stray} is labelled as part of {owner} but is not; ignoring it: {stray.reason}"


def find_exposure(api: Api, namespace: str, name: str, gateways: Iterable[str] = ()) -> Existing:
    """The exposure with this name and its objects, if any, except those that are being deleted.

    Args:
        api: the cluster.
        namespace, name: the exposure.
        gateways: namespaces with gateways, for users who may not list all namespaces.
    """
    wanted = (namespace, name)
    state = read_state(api, namespace, (Kind.EXPOSURE,), gateways)
    found = [e for e in state.existing if (e.namespace, e.name) == wanted]
    return remaining(found[0]) if found else Existing(Kind.EXPOSURE, namespace, name, None, ())
