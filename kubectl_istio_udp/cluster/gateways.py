"""Finding the gateway that a command is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.kube.client import Api, for_each, selector_of
from kubectl_istio_udp.model.errors import Forbidden
from kubectl_istio_udp.model.gateway import (
    GATEWAY_API_LABEL,
    ISTIO_LABEL,
    Gateway,
    choose_gateway,
    gateways_from,
)


@dataclass(frozen=True)
class GatewayChoice:
    """How the user says which gateway.

    Attributes:
        name: `--gateway`: `NAME` or `NAMESPACE/NAME`, None to find the only one.
        selector: `--gateway-selector`: pod labels, empty to find gateways by Istio's labels.
    """

    name: str | None = None
    selector: tuple[tuple[str, str], ...] = ()

    @property
    def namespace(self) -> str | None:
        """The namespace it names, None where pods of every namespace must be looked at."""
        return (self.name or "").rpartition("/")[0] or None


def gateway_pods(api: Api, choice: GatewayChoice) -> list[dict[str, Any]]:
    """The pods among which a gateway is looked for.

    Raises:
        Forbidden: they may not be listed; says what can be done about it.
    """
    if choice.selector:
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
    gateways = gateways_from(pods, services, dict(choice.selector) or None)
    return choose_gateway(gateways, choice.name, selector_given=bool(choice.selector))


def find_gateway(api: Api, choice: GatewayChoice) -> Gateway:
    """The gateway chosen.

    Raises:
        NotFound, UsageError, Forbidden: as gateway_pods and gateway_among.
    """
    return gateway_among(api, gateway_pods(api, choice), choice)
