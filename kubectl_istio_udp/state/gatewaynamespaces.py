"""Find the namespaces of gateways.

Anyone can create an object in a namespace of their own that names it as a gateway's. Only
administrators decide where gateways belong. Users who may not list all namespaces also search where
annotations name a gateway.
"""

from __future__ import annotations

from contextlib import suppress

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.errors import Forbidden, UsageError
from kubectl_istio_udp.model.gateway import GATEWAYS_LABEL
from kubectl_istio_udp.model.names import CONTROLLER, GATEWAY_ANNOTATION, check_dns_label

USUAL_GATEWAY_NAMESPACE = "istio-system"
_OPTION = "--gateway-namespace="


def gateway_namespaces(api: Api) -> frozenset[str]:
    """The namespaces where gateways belong, as administrators decide.

    These are istio-system, the namespaces that an administrator has labelled, and those in which
    the controller uses gateways. What may not be read is left out.
    """
    return named_by_administrators(api) | {USUAL_GATEWAY_NAMESPACE}


def named_by_administrators(api: Api) -> frozenset[str]:
    """The namespaces that administrators named as having gateways; empty if they named none."""
    labelled, of_controller = in_parallel(
        [lambda: labelled_namespaces(api), lambda: _namespaces_of_controller(api)]
    )
    return frozenset({*labelled, *of_controller})


def controller_namespace(api: Api) -> str | None:
    """The namespace of the installed controller, from its ClusterRoleBinding; None if unknown.

    Tenants cannot write this object.
    """
    binding = api.find("ClusterRoleBinding", None, CONTROLLER)
    subjects = (binding or {}).get("subjects") or [{}]
    namespace: str | None = subjects[0].get("namespace")
    return namespace


def _namespaces_of_controller(api: Api) -> list[str]:
    """The controller's `--gateway-namespace` options; none if they may not be read."""
    with suppress(Forbidden):
        namespace = controller_namespace(api)
        deployment = api.find("Deployment", namespace, CONTROLLER) if namespace else None
        pod = (((deployment or {}).get("spec") or {}).get("template") or {}).get("spec") or {}
        arguments = [
            text for each in pod.get("containers") or () for text in each.get("args") or ()
        ]
        return [text.removeprefix(_OPTION) for text in arguments if text.startswith(_OPTION)]
    return []


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
