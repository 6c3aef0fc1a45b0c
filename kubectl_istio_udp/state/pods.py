"""The pods of a gateway."""

from __future__ import annotations

from collections.abc import Mapping

from kubectl_istio_udp.kube.client import Api, selector_of
from kubectl_istio_udp.model.gateway import GatewayPod, is_gateway_pod


def ready_pods(api: Api, namespace: str, selector: Mapping[str, str]) -> tuple[GatewayPod, ...]:
    """A gateway's ready pods, sorted by name.

    Raises:
        Forbidden, Unreachable, ClusterError: the pods cannot be listed.
    """
    pods = api.list("Pod", namespace, selector_of(selector))
    found = [GatewayPod.from_object(pod) for pod in pods if is_gateway_pod(pod)]
    return tuple(sorted((pod for pod in found if pod.ready), key=lambda pod: pod.name))
