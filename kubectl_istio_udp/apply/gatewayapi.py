"""The GatewayClass of the controller, and waiting until it reports that a Gateway is served."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.apiconditions import current_condition, generation_of
from kubectl_istio_udp.model.decoded import as_list, as_mapping
from kubectl_istio_udp.model.errors import Forbidden, NotInstalled, Rejected, WaitTimeout
from kubectl_istio_udp.model.gatewayapi import GATEWAY_CLASS, GatewayClass, Key
from kubectl_istio_udp.model.resources import API_GATEWAY
from kubectl_istio_udp.sources.routes import KIND

Manifest = Mapping[str, Any]
Progress = Callable[[str], None]

_INSTALL = "kubectl istio-udp controller install --gateway-api"
# Reasons of the condition Programmed for what the controller does not carry out.
_REFUSED = ("Invalid", "NoResources")
_STATUS = "see the controller: kubectl istio-udp controller status"


def read_class_name(api: Api, namespace: str) -> str:
    """The name of the controller's GatewayClass.

    Args:
        api: the cluster.
        namespace: a namespace in which the user may list UDPRoutes.

    Raises:
        NotInstalled: the Gateway API, its UDPRoutes, or the class is not installed.
    """
    try:
        found, _ = in_parallel(
            [lambda: api.list("GatewayClass"), lambda: api.list(KIND, namespace)]
        )
    except Forbidden:
        return GATEWAY_CLASS
    except NotInstalled as error:
        error.hints = (
            "install the CRDs of the Gateway API, 1.6 or later: "
            "https://gateway-api.sigs.k8s.io/guides/getting-started/",
            f"then the controller: {_INSTALL}",
        )
        raise
    served = [each.name for each in map(GatewayClass.from_object, found) if each.is_served]
    if not served:
        raise NotInstalled(
            f"the cluster has no GatewayClass {GATEWAY_CLASS}, because no controller serves "
            "UDPRoutes",
            hints=[f"install it: {_INSTALL}"],
        )
    return GATEWAY_CLASS if GATEWAY_CLASS in served else min(served)


def wait_until_programmed(
    api: Api,
    key: Key,
    seconds: float,
    progress: Progress,
    *,
    before: Manifest | None = None,
    unapplied: Callable[[], str] = lambda: "",
) -> None:
    """Wait until the controller has applied a Gateway and reports that the gateway has it.

    Annotations do not change a Gateway's generation. So its conditions may be about the earlier
    annotations, although their observedGeneration is the latest.

    Args:
        api: the cluster.
        key: (namespace, name) of the Gateway.
        seconds: how long.
        progress: called with a line of text.
        before: the Gateway before this run's write; None if it did not exist.
        unapplied: returns what the controller has not applied yet, as text; "" if nothing. Called
            when the conditions are those of a programmed Gateway.

    Raises:
        Rejected: the controller does not accept the Gateway or one of its listeners.
        WaitTimeout: it has not reported this in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        gateway = api.get(API_GATEWAY, *key)
        problem, is_late = _problem(gateway), time.monotonic() >= deadline
        if problem and (is_late or not _may_be_earlier(problem, before, gateway)):
            raise Rejected(
                f"the controller does not accept Gateway {'/'.join(key)}: {problem}",
                hints=["what a namespace may expose: docs/controller.md"],
            )
        message = _unprogrammed(gateway) or unapplied()
        if not message:
            return
        progress(f"waiting for Gateway {key[1]}: {message}")
        if is_late:
            raise WaitTimeout(
                f"Gateway {'/'.join(key)} is not programmed after {seconds:g}s: {message}; the "
                "objects stay applied",
                hints=[_STATUS, "to wait longer: --timeout 2m"],
            )
        time.sleep(api.waits.poll)


def _unprogrammed(gateway: Manifest) -> str:
    """Why a Gateway is not programmed, as text; "" if it is."""
    accepted, programmed = (_condition(gateway, each) for each in ("Accepted", "Programmed"))
    if accepted.get("status") == programmed.get("status") == "True":
        return ""
    return str(programmed.get("message") or "the controller has not reported yet")


def _may_be_earlier(problem: str, before: Manifest | None, gateway: Manifest) -> bool:
    """Whether a problem may be about the annotations that the Gateway had before."""
    return (
        before is not None
        and _annotations(before) != _annotations(gateway)
        and generation_of(before) == generation_of(gateway)
        and _problem(before) == problem
    )


def _annotations(gateway: Manifest) -> Mapping[str, Any]:
    return as_mapping(gateway["metadata"].get("annotations"))


def _condition(gateway: Manifest, kind: str, owner: Manifest | None = None) -> Manifest:
    """A condition of a Gateway, or of a listener; {} unless it is about its generation."""
    found = as_mapping(gateway.get("status")) if owner is None else owner
    return current_condition(found, generation_of(gateway), kind)


def _problem(gateway: Manifest) -> str:
    """Why the controller does not accept a Gateway or one of its listeners; "" if it does."""
    listeners = map(as_mapping, as_list(as_mapping(gateway.get("status")).get("listeners")))
    found = [_condition(gateway, "Accepted", each) for each in listeners]
    for each in [*found, _condition(gateway, "Accepted")]:
        if each.get("status") == "False":
            return str(each.get("message") or each.get("reason"))
    programmed = _condition(gateway, "Programmed")
    return str(programmed.get("message")) if programmed.get("reason") in _REFUSED else ""


def addresses(gateway: Manifest) -> list[str]:
    """The addresses for clients in a Gateway's status."""
    found = as_list(as_mapping(gateway.get("status")).get("addresses"))
    return [str(as_mapping(each).get("value")) for each in found]
