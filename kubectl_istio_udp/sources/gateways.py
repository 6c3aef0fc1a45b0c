"""The request of a Gateway that the controller serves: an exposure of its UDP listeners."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from kubectl_istio_udp.model.annotation_values import PREFIX
from kubectl_istio_udp.model.envoyfilter import GATEWAY_API_GROUP
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import Discovery, GatewayServiceMode
from kubectl_istio_udp.model.gateway import GATEWAY_API_LABEL, GatewayRef
from kubectl_istio_udp.model.gatewayapi import ISTIO_CLASS, ApiGateway, Key, ParametersRef
from kubectl_istio_udp.model.names import LONGEST_LABEL
from kubectl_istio_udp.model.ports import check_port_count
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.sources.annotations import (
    GATEWAY_OPTIONS,
    ExposeOptions,
    Intent,
    read_options,
)

_HASH_LENGTH = 6
# What parametersRef may name, as (group, kind): a Gateway of class istio, or the Service or the
# workload of any gateway.
_PARAMETERS = {
    (GATEWAY_API_GROUP, "Gateway"),
    ("", "Service"),
    ("apps", "Deployment"),
    ("apps", "DaemonSet"),
}


class InvalidParameters(UsageError):
    """A Gateway names no Istio gateway that can be used, or several."""


class UnsupportedAddress(UsageError):
    """A Gateway requests addresses."""


def exposure_key(gateway: Key) -> Key:
    """The (namespace, name) of the exposure of a Gateway.

    The name is a DNS label, although a Gateway's name may be longer and have dots. The suffix
    avoids the names of Services.
    """
    return _made_key(gateway, "gw", LONGEST_LABEL)


def child_key(gateway: Key) -> Key:
    """The (namespace, name) of the Gateway of class istio that is created for a Gateway.

    istiod appends a dash and the class to the names of its objects, which must be DNS labels. The
    Service's name must begin with a letter.
    """
    first = "" if gateway[1][:1].isalpha() else "gateway-"
    return _made_key(gateway, "udp", LONGEST_LABEL - len(f"-{ISTIO_CLASS}"), first)


def is_child_of(ref: GatewayRef, gateway: Key) -> bool:
    """Whether a gateway is the one that the controller creates for a Gateway."""
    return (ref.namespace, ref.selector.get(GATEWAY_API_LABEL)) == child_key(gateway)


def _made_key(gateway: Key, word: str, longest: int, first: str = "") -> Key:
    """The namespace of a Gateway, and a name made from its name, a word and a hash.

    Args:
        gateway: the Gateway.
        word: what the name is for.
        longest: the length that it may have.
        first: how it begins.
    """
    namespace, name = gateway
    digest = hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:_HASH_LENGTH]
    end = f"-{word}-{digest}"
    start = f"{first}{name}".replace(".", "-")
    return namespace, start[: longest - len(end)].rstrip("-") + end


def clone_key(route: Key) -> Key:
    """The (namespace, name) of the copy of a route for Gateways of class istio."""
    return _made_key(route, "udp", LONGEST_LABEL)


def needs_child(gateway: ApiGateway) -> bool:
    """Whether a Gateway needs one of class istio that is created for it.

    It does if it names no gateway and has a listener that can be served. Parameters of a kind that
    is no gateway name none; the Gateway is not accepted then, but keeps what it has.
    """
    attached = _names_gateway(gateway.parameters) or f"{PREFIX}gateway" in gateway.annotations
    return not attached and bool(gateway.udp or gateway.mirrored)


def _names_gateway(parameters: ParametersRef | None) -> bool:
    return parameters is not None and (parameters.group, parameters.kind) in _PARAMETERS


def not_accepted(gateway: ApiGateway, requested: object) -> UsageError | None:
    """Why a Gateway is not accepted as a whole; None if it is.

    Args:
        gateway: the Gateway.
        requested: its intent, or the error from reading it; None without UDP listeners.
    """
    if not isinstance(requested, UsageError):
        return None
    always = isinstance(requested, (InvalidParameters, UnsupportedAddress))
    return requested if always or gateway.udp else None


def gateway_intent(gateway: ApiGateway, *, may_own: bool) -> Intent | None:
    """Read the request of a Gateway; None if it has only listeners of a created gateway.

    Args:
        gateway: the Gateway.
        may_own: whether a Gateway of class istio may be created for it in its namespace.

    Raises:
        InvalidParameters: it names several gateways, or none although none may be created.
        UnsupportedAddress: it requests addresses.
        UsageError: an annotation is malformed, too long or unknown, no listener can be served, or
            the listeners would not have the same addresses.
    """
    expose_options = read_options(gateway.annotations, GATEWAY_OPTIONS)
    if gateway.addresses:
        raise UnsupportedAddress(
            "spec.addresses is not supported",
            hints=["remove it: clients use the addresses of the gateway's Service"],
        )
    target = _target(gateway, expose_options)
    listeners, mirrored = gateway.udp, needs_child(gateway) and gateway.mirrored
    if not listeners and not mirrored:
        raise UsageError(f"Gateway {gateway} has no UDP listener")
    check_port_count(len(listeners))
    namespace, name = exposure_key(gateway.key)
    request = ExposeRequest(
        namespace=namespace,
        service="",
        name=name,
        discovery=Discovery.ENDPOINTS,
        automatic_sessions=expose_options.automatic_sessions,
        expect_rate=expose_options.expect_rate,
        options=expose_options.options,
    )
    intent = Intent(
        request,
        gateway.about,
        target,
        tuple(listener.port for listener in listeners),
        gateway_kind=gateway.parameters.kind if gateway.parameters else "",
        generation=gateway.generation,
    )
    if target is None and not may_own:
        raise InvalidParameters(
            f"namespace {namespace} is not a --gateway-namespace of the controller, so no gateway "
            "can be created in it",
            hints=[f"name one: annotation {PREFIX}gateway, or spec.infrastructure.parametersRef"],
        )
    if not listeners:
        return None
    return _with_own_gateway(intent, gateway) if target is None else intent


def _with_own_gateway(intent: Intent, gateway: ApiGateway) -> Intent:
    """An intent with a separate gateway; its Service gets the UDP ports, unless set otherwise.

    Raises:
        UsageError: the UDP ports would have another address than the Gateway's other listeners.
    """
    options = intent.request.options
    if f"{PREFIX}gateway-service" not in gateway.annotations:
        options = replace(options, gateway_service=GatewayServiceMode.PATCH)
    if gateway.mirrored and options.gateway_service is not GatewayServiceMode.PATCH:
        # Every address in a Gateway's status serves all of its listeners.
        raise UsageError(
            f"annotation {PREFIX}gateway-service: {options.gateway_service.value} would give UDP "
            f"another address than listener {gateway.mirrored[0].name}",
            hints=["remove the annotation, or move the UDP listeners to another Gateway"],
        )
    return replace(
        intent,
        request=replace(intent.request, options=options),
        gateway="/".join(child_key(gateway.key)),
        own_gateway=True,
        gateway_kind="Gateway",
    )


def _target(gateway: ApiGateway, expose_options: ExposeOptions) -> str | None:
    """The Istio gateway for a Gateway, `[NAMESPACE/]NAME`; None for a separate one."""
    parameters = gateway.parameters
    if expose_options.gateway and parameters:
        raise InvalidParameters(
            f"both the annotation {PREFIX}gateway and spec.infrastructure.parametersRef name a "
            "gateway",
            hints=["remove one of them"],
        )
    if parameters:
        return f"{gateway.about.namespace}/{_named(parameters)}"
    return expose_options.gateway


def _named(parameters: ParametersRef) -> str:
    if not _names_gateway(parameters):
        kind = "/".join(filter(None, [parameters.group, parameters.kind]))
        raise InvalidParameters(
            f"spec.infrastructure.parametersRef names a {kind}",
            hints=[
                "it can name a Service, a Deployment or DaemonSet of group apps, or a Gateway of "
                f"group {GATEWAY_API_GROUP}"
            ],
        )
    return parameters.name
