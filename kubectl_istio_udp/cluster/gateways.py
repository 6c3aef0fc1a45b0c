"""Finding the gateway that a command is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubectl_istio_udp.kube.client import Api, selector_of
from kubectl_istio_udp.kube.parallel import for_each
from kubectl_istio_udp.model.errors import Forbidden, NotFound
from kubectl_istio_udp.model.gateway import (
    GATEWAY_API_LABEL,
    ISTIO_LABEL,
    Gateway,
    GatewayRef,
    choose_gateway,
    gateways_from,
)


@dataclass(frozen=True)
class GatewayChoice:
    """How the user says which gateway.

    Attributes:
        name: `--gateway`: `NAME` or `NAMESPACE/NAME`, None to find the only one.
        selector: `--gateway-selector`: pod labels, empty to find gateways by Istio's labels.
        known: the gateway that an exposure is at, where the user names none.
    """

    name: str | None = None
    selector: tuple[tuple[str, str], ...] = ()
    known: GatewayRef | None = None

    @property
    def namespace(self) -> str | None:
        """The namespace it names, None where pods of every namespace must be looked at."""
        if self.known:
            return self.known.namespace
        return (self.name or "").rpartition("/")[0] or None

    def or_known(self, gateway: GatewayRef) -> GatewayChoice:
        """The same choice; where it chooses nothing, the gateway that an exposure is at."""
        return self if self.name or self.selector else replace(self, known=gateway)


def gateway_pods(api: Api, choice: GatewayChoice) -> list[dict[str, Any]]:
    """The pods among which a gateway is looked for.

    Raises:
        Forbidden: they may not be listed; says what can be done about it.
    """
    if choice.known:
        selectors = [selector_of(choice.known.selector)]
    elif choice.selector:
        selectors = [selector_of(dict(choice.selector))]
    else:
        selectors = [ISTIO_LABEL, GATEWAY_API_LABEL]
    try:
        lists = for_each(lambda text: api.list("Pod", choice.namespace, text), selectors)
    except Forbidden as error:
        if choice.namespace is None:
            error.hints += ("or say where the gateway is: --gateway NAMESPACE/NAME",)
        raise
    unique = {
        (pod["metadata"]["namespace"], pod["metadata"]["name"]): pod
        for found in lists
        for pod in found
    }
    return list(unique.values())


def gateway_among(api: Api, pods: list[dict[str, Any]], choice: GatewayChoice) -> Gateway:
    """The gateway chosen, of those whose pods were found.

    Raises:
        NotFound, UsageError: there is none, or nothing chooses one of several.
    """
    namespaces = sorted({pod["metadata"]["namespace"] for pod in pods})
    lists = for_each(lambda namespace: api.list("Service", namespace), namespaces)
    services = [service for found in lists for service in found]
    if choice.known:
        return _known_gateway(choice.known, gateways_from(pods, services, choice.known.selector))
    gateways = gateways_from(pods, services, dict(choice.selector) or None)
    return choose_gateway(gateways, choice.name, selector_given=bool(choice.selector))


def _known_gateway(known: GatewayRef, found: Sequence[Gateway]) -> Gateway:
    """The gateway that an exposure is at, whatever other gateways there are by now.

    Raises:
        NotFound: none of its pods runs.
    """
    if not found:
        raise NotFound(
            f"gateway {known}, where this exposure is, has no running pod",
            hints=[
                f"see its pods: kubectl get pods -n {known.namespace} "
                f"-l {selector_of(known.selector)}",
                "to use another gateway, delete the exposure first",
            ],
        )
    return replace(found[0], ref=known)


def find_gateway(api: Api, choice: GatewayChoice) -> Gateway:
    """The gateway chosen.

    Raises:
        NotFound, UsageError, Forbidden: as gateway_pods and gateway_among.
    """
    return gateway_among(api, gateway_pods(api, choice), choice)
