"""The Service for clients of the gateway port: a companion, or a patch of the gateway's own."""

from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model.exposure import Exposure
from kubectl_istio_udp.plan.loadbalancer import COPIED_FIELDS, takeover
from kubectl_istio_udp.render.metadata import metadata


def companion_service(exposure: Exposure) -> dict[str, Any]:
    """The companion Service: it selects the gateway's pods and only has the exposure's UDP ports.

    It has the type of the gateway's own Service; ClusterIP if there is none.
    """
    spec = exposure.spec
    of_gateway = exposure.gateway_service or {}
    of_spec = of_gateway.get("spec") or {}
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(spec, spec.gateway.namespace),
        "spec": {
            "type": of_spec.get("type", "ClusterIP"),
            "selector": dict(spec.gateway.selector),
            "ports": _ports(exposure),
            **{name: of_spec[name] for name in COPIED_FIELDS if name in of_spec},
        },
    }
    taken = takeover(of_gateway)
    about = manifest["metadata"]
    about["labels"] = {**taken.labels, **about["labels"]}
    about["annotations"] = {**taken.annotations, **about["annotations"]}
    return manifest


def gateway_service_patch(exposure: Exposure) -> dict[str, Any]:
    """A server-side apply configuration that adds the ports to the gateway's own Service.

    It contains nothing else, so that the field manager only owns the ports.
    """
    service = exposure.gateway_service or {}
    name = (service.get("metadata") or {}).get("name", exposure.spec.gateway.name)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": exposure.spec.gateway.namespace},
        "spec": {"ports": _ports(exposure)},
    }


def _ports(exposure: Exposure) -> list[dict[str, Any]]:
    return [
        {
            "name": f"udp-{port.gateway_port}",
            "port": port.gateway_port,
            "protocol": "UDP",
            "targetPort": port.listener_port,
        }
        for port in exposure.spec.ports
    ]
