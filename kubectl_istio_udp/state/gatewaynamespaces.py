"""Find the namespaces that may have gateways, for users who may not list all namespaces."""

from __future__ import annotations

from contextlib import suppress

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.errors import Forbidden, UsageError
from kubectl_istio_udp.model.gateway import GATEWAYS_LABEL
from kubectl_istio_udp.model.names import GATEWAY_ANNOTATION, check_dns_label

USUAL_GATEWAY_NAMESPACE = "istio-system"


def likely_gateway_namespaces(api: Api, namespace: str) -> frozenset[str]:
    """The namespaces that may have the gateways of a namespace's Services.

    These are istio-system, the namespaces that an administrator has labelled, and those that
    annotations of the Services name.
    """
    labelled, annotated = in_parallel(
        [lambda: labelled_namespaces(api), lambda: _annotated_namespaces(api, namespace)]
    )
    return frozenset({USUAL_GATEWAY_NAMESPACE, *labelled, *annotated})


def labelled_namespaces(api: Api) -> list[str]:
    """The namespaces that an administrator has labelled as having gateways."""
    with suppress(Forbidden):
        return [
            n["metadata"]["name"] for n in api.list("Namespace", None, f"{GATEWAYS_LABEL}=true")
        ]
    return []


def _annotated_namespaces(api: Api, namespace: str) -> list[str]:
    """The namespaces of the gateways that annotations of a namespace's Services name."""
    found = []
    with suppress(Forbidden):
        for service in api.list("Service", namespace):
            text = (service["metadata"].get("annotations") or {}).get(GATEWAY_ANNOTATION, "")
            gateway_namespace, slash, _ = text.partition("/")
            with suppress(UsageError):
                found += [check_dns_label(gateway_namespace, "namespace")] if slash else []
    return found
