"""Find the gateway for a command."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from kubectl_istio_udp.kube.client import Api, selector_of
from kubectl_istio_udp.kube.parallel import for_each, in_parallel
from kubectl_istio_udp.model.errors import Forbidden, NotFound
from kubectl_istio_udp.model.gateway import (
    GATEWAY_API_LABEL,
    ISTIO_LABEL,
    Gateway,
    GatewayRef,
    gateways_from,
)
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.names import namespaced_name
from kubectl_istio_udp.plan.gateway import choose_gateway
from kubectl_istio_udp.state.gatewaynamespaces import labelled_namespaces

# The kinds whose names `--gateway` accepts.
_NAMED_KINDS = ("Service", "Deployment", "DaemonSet")
_MOST_OF_A_NAME = 100


def gateway_pods(api: Api, choice: GatewayChoice) -> list[dict[str, Any]]:
    """The pods to search for a gateway.

    Raises:
        Forbidden: they may not be listed; the hints say what to do.
    """
    if choice.known:
        selectors = [selector_of(choice.known.selector)]
    elif choice.selector:
        selectors = [selector_of(dict(choice.selector))]
    elif choice.namespace:
        # All pods, with any labels: any label may distinguish another gateway's pods.
        selectors = [""]
    else:
        selectors = [ISTIO_LABEL, GATEWAY_API_LABEL]
    try:
        lists = for_each(lambda text: api.list("Pod", choice.namespace, text), selectors)
    except Forbidden as error:
        if choice.namespace is None:
            error.hints += ("or name the gateway: --gateway NAMESPACE/NAME",)
        raise
    return _each_once([pod for found in lists for pod in found])


def _each_once(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    unique = {namespaced_name(pod): pod for pod in pods}
    return list(unique.values())


def gateway_among(api: Api, pods: list[dict[str, Any]], choice: GatewayChoice) -> Gateway:
    """The chosen one of the gateways with these pods.

    A gateway whose pods have none of Istio's labels is found by the name of its Service,
    Deployment or DaemonSet.

    Raises:
        NotFound, UsageError: there is none, or there are several and none is chosen.
    """
    try:
        return _choose(api, pods, choice)
    except NotFound:
        named = choice.name and not (choice.selector or choice.namespace or choice.known)
        more = _pods_named(api, choice.name) if named and choice.name else []
        if not more:
            raise
    return _choose(api, _each_once([*pods, *more]), choice)


def _choose(api: Api, pods: list[dict[str, Any]], choice: GatewayChoice) -> Gateway:
    namespaces = sorted({pod["metadata"]["namespace"] for pod in pods})
    services, labelled = in_parallel(
        [
            lambda: for_each(lambda namespace: api.list("Service", namespace), namespaces),
            lambda: (
                []
                if choice.namespace or choice.selector or choice.known
                else labelled_namespaces(api)
            ),
        ]
    )
    in_front = [service for found in services for service in found]
    if choice.known:
        return _known_gateway(choice.known, pods, in_front)
    gateways = gateways_from(pods, in_front, dict(choice.selector) or None)
    return choose_gateway(
        gateways, choice.name, selector_given=bool(choice.selector), namespaces=labelled
    )


def _pods_named(api: Api, name: str) -> list[dict[str, Any]]:
    """The pods of all Services, Deployments and DaemonSets with this name."""
    owners = [
        owner for found in for_each(lambda k: _named(api, k, name), _NAMED_KINDS) for owner in found
    ]
    lists = for_each(lambda owner: _pods_of(api, owner), owners)
    return [pod for found in lists for pod in found]


def _named(api: Api, kind: str, name: str) -> list[Mapping[str, Any]]:
    """The objects with this name in all namespaces; none if they may not be listed."""
    with suppress(Forbidden):
        page = api.list_page(
            kind, None, limit=_MOST_OF_A_NAME, fieldSelector=f"metadata.name={name}"
        )
        return list(page.items)
    return []


def _pods_of(api: Api, owner: Mapping[str, Any]) -> list[dict[str, Any]]:
    selector = (owner.get("spec") or {}).get("selector") or {}
    if owner["kind"] != "Service":
        selector = selector.get("matchLabels") or {}
    if not selector:
        return []
    return api.list("Pod", owner["metadata"]["namespace"], selector_of(selector))


def _known_gateway(
    known: GatewayRef, pods: Sequence[Mapping[str, Any]], services: Sequence[Mapping[str, Any]]
) -> Gateway:
    """The exposure's current gateway, whatever other gateways exist now.

    If its selector now matches another gateway's pods too, labels are added to it.

    Raises:
        NotFound: none of its pods is running.
    """
    found = gateways_from(pods, services)
    if not found:
        raise NotFound(
            f"gateway {known} of this exposure has no running pod",
            hints=[
                f"see its pods: kubectl get pods -n {known.namespace} "
                f"-l {selector_of(known.selector)}",
                "to use another gateway, delete the exposure first",
            ],
        )
    named = [g for g in found if g.ref.name == known.name] or [
        g.fronted_by(known.name) for g in found if known.name in g.service_names
    ]
    if len(found) > 1 and len(named) == 1 and not named[0].also_selected:
        more = {**known.selector, **named[0].ref.selector}
        return replace(named[0], ref=replace(known, selector=more))
    (gateway, *_) = gateways_from(pods, services, known.selector)
    return replace(gateway.fronted_by(known.name), ref=known)


def find_gateway(api: Api, choice: GatewayChoice) -> Gateway:
    """Find the chosen gateway.

    Raises:
        NotFound, UsageError, Forbidden: as in gateway_pods and gateway_among.
    """
    return gateway_among(api, gateway_pods(api, choice), choice)


def gateway_secret(gateway: Gateway) -> str:
    """A value known only to readers of the gateway's namespace: the uid of its Service.

    For a gateway without a Service it is random and differs each time.
    """
    metadata = (gateway.service or {}).get("metadata") or {}
    return metadata.get("uid") or secrets.token_hex(16)
