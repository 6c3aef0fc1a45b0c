"""The mark in the metadata of an EnvoyFilter's listeners and clusters."""

from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.render.metadata import revision

TYPES = "type.googleapis.com/envoy.extensions"


def marked(spec: ExposureSpec, resource: dict[str, Any]) -> dict[str, Any]:
    """Add a mark to the metadata of a listener or cluster; Envoy's config dump shows it.

    A waiting `expose` distinguishes its own configuration from earlier ones by the revision.
    """
    mark = {"exposure": f"{spec.namespace}/{spec.name}", "revision": revision(resource)}
    return {**resource, "metadata": {"filter_metadata": {names.MANAGER: mark}}}
