"""How findings name the objects of an exposure."""

from __future__ import annotations

from kubectl_istio_udp.model.exposure import (
    Exposure,
)


def exposure_ref(exposure: Exposure) -> str:
    """`exposure namespace/name`."""
    return f"exposure {exposure.spec.namespace}/{exposure.spec.name}"


def companion_ref(exposure: Exposure) -> str:
    """`Service namespace/name` of the companion Service."""
    return f"Service {exposure.spec.gateway.namespace}/{exposure.spec.object_name}"
