"""What every object of an exposure carries, and the API versions the objects are written in."""

from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.exposure import ExposureSpec

# EnvoyFilter has no newer version; ServiceEntry is served as v1beta1 by every Istio from 1.5.
ISTIO_ALPHA_API = "networking.istio.io/v1alpha3"
ISTIO_BETA_API = "networking.istio.io/v1beta1"


def metadata(spec: ExposureSpec, namespace: str) -> dict[str, Any]:
    """The metadata of one of an exposure's objects, in the namespace it belongs to."""
    return {
        "name": spec.object_name,
        "namespace": namespace,
        "labels": names.labels(spec.namespace, spec.name),
        "annotations": {names.SPEC_ANNOTATION: spec.to_json()},
    }
