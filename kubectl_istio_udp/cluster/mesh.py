"""Reading the mesh's own settings and the version of its control plane."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import yaml

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.errors import Forbidden, NotFound
from kubectl_istio_udp.model.mesh import (
    DEFAULT_ROOT_NAMESPACE,
    Mesh,
    Version,
    image_version,
    oldest,
)

# istiod's ConfigMap; an installation with a revision has `istio-REVISION` in its place.
_CONFIG = "istio"
_ISTIOD = "app=istiod"
_ISTIOD_CONTAINER = "discovery"


def root_namespace(api: Api) -> str:
    """The mesh's root namespace, whose EnvoyFilters reach every proxy (mesh config)."""
    return Mesh.from_config(_config(api)).root_namespace


def read_mesh(api: Api) -> Mesh:
    """The mesh's settings and the version of its oldest istiod.

    What may not be read is as Istio sets it by default, and the version unknown.
    """
    config, istio = in_parallel([lambda: _config(api), lambda: _control_plane(api)])
    return Mesh.from_config(config, istio)


def _config(api: Api) -> dict[str, Any]:
    try:
        found = api.find("ConfigMap", DEFAULT_ROOT_NAMESPACE, _CONFIG)
        if found is None:
            listed = api.list("ConfigMap", DEFAULT_ROOT_NAMESPACE)
            revisions = [c for c in listed if c["metadata"]["name"].startswith(f"{_CONFIG}-")]
            found = next((c for c in revisions if "mesh" in (c.get("data") or {})), {})
        config = yaml.safe_load((found.get("data") or {}).get("mesh") or "")
    except (NotFound, Forbidden, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _control_plane(api: Api) -> Version | None:
    with suppress(Forbidden, NotFound):
        pods = api.list("Pod", DEFAULT_ROOT_NAMESPACE, _ISTIOD)
        return oldest(
            image_version(container)
            for pod in pods
            for container in pod["spec"]["containers"]
            if container["name"] == _ISTIOD_CONTAINER
        )
    return None
