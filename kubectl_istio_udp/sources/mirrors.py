"""The parents of HTTP, GRPC, TLS and TCP routes that a Gateway of class istio decides about.

And which certificates its listeners may use.

The controller creates it for a Gateway of its class (`sources/gateways.py`), and copies the routes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kubectl_istio_udp.model.decoded import as_list, as_mapping
from kubectl_istio_udp.model.gatewayapi import (
    GROUP,
    ApiGateway,
    BackendRef,
    Key,
    Listener,
    ParentRef,
    ReferenceGrant,
    Route,
)
from kubectl_istio_udp.sources.gateways import child_key
from kubectl_istio_udp.sources.routes import Attachment, named_listeners, not_allowed

FindGateway = Callable[[Key], ApiGateway | None]


@dataclass(frozen=True)
class MirroredParent:
    """A parent of a route that is a Gateway of the controller.

    Attributes:
        parent: the reference of the route.
        copied: the reference of its copy to the created Gateway; None if there is none.
        refusal: why it has no copy; None otherwise.
    """

    parent: ParentRef
    copied: ParentRef | None = None
    refusal: Attachment | None = None


def mirrored_parents(
    route: Route, find: FindGateway, has_child: Callable[[ApiGateway], bool]
) -> tuple[MirroredParent, ...]:
    """The parents of a route that are Gateways of the controller.

    Args:
        route: an HTTPRoute, GRPCRoute, TLSRoute or TCPRoute.
        find: returns a Gateway of the controller; None for others.
        has_child: whether a Gateway of class istio is created for a Gateway.
    """
    found = []
    for parent in route.parents:
        gateway = find((parent.namespace, parent.name))
        if gateway is None or not parent.is_gateway(gateway.key):
            continue
        refusal = _refusal(route.about.kind, parent, gateway, has_child(gateway))
        copied = None if refusal else parent.renamed(child_key(gateway.key)[1])
        found.append(MirroredParent(parent, copied, refusal))
    return tuple(found)


def certificates(gateway: ApiGateway, listener: Listener) -> tuple[BackendRef, ...]:
    """The certificates of a listener in other namespaces, as references."""
    refs = map(as_mapping, as_list(as_mapping(listener.raw.get("tls")).get("certificateRefs")))
    found = (
        BackendRef(
            group=str(ref.get("group") or ""),
            kind=str(ref.get("kind") or "Secret"),
            namespace=str(ref.get("namespace") or gateway.about.namespace),
            name=str(ref.get("name") or ""),
        )
        for ref in refs
    )
    return tuple(ref for ref in found if ref.namespace != gateway.about.namespace)


def unpermitted_certificate(
    gateway: ApiGateway, listener: Listener, grants: Sequence[ReferenceGrant]
) -> str:
    """Why a listener may not use a certificate of another namespace; "" if it may use all.

    This is checked before the certificate's existence, which a namespace without a ReferenceGrant
    must not learn. istiod 1.31 checks the existence first.
    """
    namespace = gateway.about.namespace
    for ref in certificates(gateway, listener):
        if not any(grant.permits((GROUP, "Gateway", namespace), ref) for grant in grants):
            return (
                f"no ReferenceGrant in namespace {ref.namespace} permits Gateways of namespace "
                f"{namespace} to refer to {ref.kind} {ref.namespace}/{ref.name}"
            )
    return ""


def copied_parents(
    route: Route,
    parents: Sequence[MirroredParent],
    undecided: Sequence[ParentRef],
    copy: Route | None,
) -> tuple[ParentRef, ...] | None:
    """The references of a route's copy; empty if it needs none.

    A copy keeps its references to Gateways that cannot be decided, and gets no new ones.

    Args:
        route: the route.
        parents: its parents that are Gateways of the controller.
        undecided: its parents that may be.
        copy: the existing copy; None if there is none.

    Returns:
        The references; None if the copy stays as it is, because it is for undecided Gateways only.
    """
    decided = {each.parent.identity: each.copied for each in parents if each.copied is not None}
    held = {ref.identity for ref in copy.parents} if copy else set()
    renamed = {
        ref.identity: ref.renamed(child_key((ref.namespace, ref.name))[1]) for ref in undecided
    }
    kept = {key: ref for key, ref in renamed.items() if ref.identity in held}
    if kept and not decided:
        return None
    wanted = {**decided, **kept}
    return tuple(wanted[ref.identity] for ref in route.parents if ref.identity in wanted)


def _refusal(kind: str, parent: ParentRef, gateway: ApiGateway, child: bool) -> Attachment | None:
    """Why the parent selects no listener of the created Gateway; None if it selects one."""
    named = named_listeners(parent, gateway)
    if isinstance(named, Attachment):
        return named
    if child and any(listener.is_mirrored for listener in named):
        return None
    return not_allowed(gateway, named, f"{kind}s")
