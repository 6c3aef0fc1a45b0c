"""The EnvoyFilter of an exposure: for each port a UDP listener and its clusters.

Field references: Envoy's API documentation of `config.listener.v3.Listener`,
`config.cluster.v3.Cluster` and `extensions.filters.udp.udp_proxy.v3.UdpProxyConfig`.
"""

from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model.exposure import Exposure
from kubectl_istio_udp.model.resources import RESOURCES
from kubectl_istio_udp.render.cluster import cluster
from kubectl_istio_udp.render.listener import listener
from kubectl_istio_udp.render.metadata import metadata

# With PILOT_FILTER_GATEWAY_CLUSTER_CONFIG istiod only sends a gateway the Services that it routes
# to, and their endpoints. From Istio 1.26 on it includes those named in this annotation
# (pilot/pkg/model/push_context.go, extraServicesForProxy).
_REFERENCED = "envoyfilter.istio.io/referenced-services"


def envoy_filter(exposure: Exposure) -> dict[str, Any]:
    """The EnvoyFilter manifest; endpoints are only used for static discovery."""
    spec = exposure.spec
    patches = []
    for port in spec.ports:
        clusters = (cluster(exposure, port, backend) for backend in port.backends)
        patches += [_add("CLUSTER", cluster) for cluster in clusters]
        patches.append(_add("LISTENER", listener(exposure, port)))
    # istiod generates clusters from the ServiceEntry, but the exposure only needs its endpoint
    # list; and each cluster costs memory for every UDP listener (model/memory.py).
    needless = {
        f"outbound|{number}||{entry.host}" for entry in spec.entries for number in entry.ports
    }
    patches += [_remove_cluster(name) for name in sorted(needless)]
    about = metadata(spec, spec.gateway.namespace)
    services = filter(None, map(spec.eds_service, spec.backends))
    if hosts := {service.split("|")[3] for service in services}:
        about["annotations"][_REFERENCED] = ",".join(sorted(hosts))
    return {
        **RESOURCES["EnvoyFilter"].type_meta,
        "metadata": about,
        "spec": {
            "workloadSelector": {"labels": dict(spec.gateway.selector)},
            "configPatches": patches,
        },
    }


def _add(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "applyTo": kind,
        "match": {"context": "GATEWAY"},
        "patch": {"operation": "ADD", "value": value},
    }


def _remove_cluster(name: str) -> dict[str, Any]:
    return {
        "applyTo": "CLUSTER",
        "match": {"context": "GATEWAY", "cluster": {"name": name}},
        "patch": {"operation": "REMOVE"},
    }
