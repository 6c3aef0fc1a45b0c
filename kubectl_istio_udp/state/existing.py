"""Find existing exposures, responses and access logs by their objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import for_each
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.errors import ClusterError, Forbidden, NotFound
from kubectl_istio_udp.model.kinds import Kind, Ref
from kubectl_istio_udp.state.ownership import (
    OBJECT_KINDS,
    Existing,
    State,
    Stray,
    resolve,
    spec_of,
)

# Kinds of objects that exposures do not have.
_NO_EXPOSURES = ("Gateway", "VirtualService")
# Where to look for objects of a gateway if the user may not list all namespaces.
USUAL_GATEWAY_NAMESPACE = "istio-system"


def read_state(
    api: Api, namespace: str | None = None, kinds: Sequence[Kind] = tuple(Kind)
) -> State:
    """The exposures, responses, access logs and strays of a namespace; None for all namespaces.

    Leftovers of an interrupted deletion are included, so that they can be seen and deleted. If
    exposures are requested, forbidden kinds that only responses or access logs need are skipped:
    a team may only have the rights for exposures.

    Raises:
        Forbidden: the kinds of exposures may not be listed either.
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
    return resolve((manifest for each in found for manifest in each), kinds)


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
    api: Api, namespace: str, object_kinds: Sequence[str], selector: str, *, lenient: bool
) -> list[list[dict[str, Any]]]:
    """The objects that a user without access to all namespaces can find.

    Searches the namespace of the exposures, and the namespaces of their gateways. An access log
    only has objects in its own namespace.

    Args:
        api: the cluster.
        namespace: the exposures' namespace.
        object_kinds: the kinds of objects.
        selector: the label selector.
        lenient: whether to skip forbidden kinds that exposures do not need.

    Raises:
        Forbidden: listing is not permitted there either.
    """
    of_namespace = [kind for kind in object_kinds if kind in ("ServiceEntry", "VirtualService")]
    others = [kind for kind in object_kinds if kind not in of_namespace]
    at_home = [(kind, namespace, lenient and kind in _NO_EXPOSURES) for kind in of_namespace]
    found = for_each(lambda place: _list_in(api, selector, *place), at_home)
    namespaces = {USUAL_GATEWAY_NAMESPACE} if of_namespace else set()
    for manifest in (m for each in found for m in each):
        with suppress(ClusterError):
            filters = [ref for ref in spec_of(manifest).objects if ref.kind == "EnvoyFilter"]
            namespaces |= {ref.namespace for ref in filters} or {USUAL_GATEWAY_NAMESPACE}
    places = [
        (kind, each, lenient and kind in _NO_EXPOSURES)
        for each in sorted(namespaces)
        for kind in others
    ]
    if "ServiceEntry" in of_namespace:
        # ServiceEntries that list addresses.
        places += [("ServiceEntry", each, True) for each in sorted(namespaces - {namespace})]
    # Access logs of the namespace, and objects of a gateway in it.
    places += [(kind, namespace, lenient) for kind in others if namespace not in namespaces]
    return found + for_each(lambda place: _list_in(api, selector, *place), places)


def list_exposures(api: Api, namespace: str | None = None) -> tuple[Existing, ...]:
    """The exposures of a namespace, or of all namespaces."""
    return list_existing(api, namespace, (Kind.EXPOSURE,))


def get_existing(
    api: Api, namespace: str, wanted: Iterable[str], *, missing_ok: bool = False
) -> tuple[Existing, ...]:
    """The exposures, responses and access logs of `get_state`, without the strays."""
    return get_state(api, namespace, wanted, missing_ok=missing_ok).existing


def get_state(
    api: Api, namespace: str, wanted: Iterable[str], *, missing_ok: bool = False
) -> State:
    """The objects with these names, in the given order; all in the namespace without names.

    Args:
        api: the cluster.
        namespace: the namespace.
        wanted: names as on the command line (`coredns`, `response/hello`).
        missing_ok: ignore names that do not exist.

    Returns:
        The existing ones, and the strays that claim to belong to them.

    Raises:
        UsageError: a name has an unknown kind.
        NotFound: one does not exist; the message lists those that exist.
    """
    refs = [Ref.parse(text) for text in wanted]
    if not refs:
        return read_state(api, namespace)
    kinds = tuple(dict.fromkeys(ref.kind for ref in refs))
    state = read_state(api, namespace, kinds)
    found = {existing.ref: existing for existing in state.existing}
    owners = {(ref.kind, namespace, ref.name) for ref in refs}
    strays = tuple(stray for stray in state.strays if stray.owner in owners)
    missing = [ref for ref in refs if ref not in found]
    if missing and not missing_ok:
        same = [str(ref) for ref in found if ref.kind is missing[0].kind]
        raise NotFound(
            f"{missing[0].kind.words} {missing[0].name} not found in namespace {namespace}",
            hints=[
                f"this namespace has: {', '.join(same)}"
                if same
                else "this namespace has none; list all: kubectl istio-udp get -A",
                *map(explain_stray, strays),
            ],
        )
    return State(tuple(found[ref] for ref in refs if ref in found), strays)


def explain_stray(stray: Stray) -> str:
    """The message about a stray: that it is ignored, and why."""
    owner = stray.claimed_owner or "an exposure, response or access log"
    return f"{stray} is labelled as part of {owner} but is not; ignoring it: {stray.reason}"


def find_exposure(api: Api, namespace: str, name: str) -> Existing:
    """The exposure with this name and its existing objects, if any."""
    wanted = (namespace, name)
    found = [e for e in list_exposures(api, namespace) if (e.namespace, e.name) == wanted]
    return found[0] if found else Existing(Kind.EXPOSURE, namespace, name, None, ())
