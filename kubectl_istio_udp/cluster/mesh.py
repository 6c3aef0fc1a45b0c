"""Reading the settings of a mesh and the version of its control plane."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import yaml

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.parallel import in_parallel
from kubectl_istio_udp.model.errors import Forbidden, NotFound
from kubectl_istio_udp.model.mesh import (
    DEFAULT_CONTROL_PLANE,
    ISTIOD_CONTAINER,
    REVISION_LABEL,
    ControlPlane,
    Mesh,
    environment,
    image_version,
    oldest,
)

_ISTIOD = "app=istiod"
# istiod's variable with the name of a second ConfigMap, over which its own one takes precedence
# (its pilot/pkg/bootstrap/mesh.go).
_SHARED_CONFIG = "SHARED_MESH_CONFIG"


def read_mesh(api: Api, control_plane: ControlPlane = DEFAULT_CONTROL_PLANE) -> Mesh:
    """The settings of a control plane's mesh and the version of its oldest istiod.

    What may not be read is as Istio sets it by default, and the version unknown. `Mesh.assumed`
    says so.
    """
    if not control_plane.namespace:
        return Mesh.from_config(None, control_plane=control_plane)
    own, istiods = in_parallel(
        [lambda: _config_maps(api, control_plane), lambda: _istiods(api, control_plane)]
    )
    variables = environment(istiods[0]) if istiods else {}
    config = _mesh_config(own.get(control_plane.config_name) or _only(own))
    shared = variables.get(_SHARED_CONFIG)
    if shared:
        more = _mesh_config(api.find("ConfigMap", control_plane.namespace, shared))
        config = {**more, **(config or {})} if more is not None else config
    versions = oldest(map(image_version, istiods))
    return Mesh.from_config(config, versions, control_plane, variables)


def _config_maps(api: Api, control_plane: ControlPlane) -> dict[str, dict[str, Any]]:
    """The ConfigMap of a control plane by its name; where there is none, those beside it."""
    namespace, name = control_plane.namespace, control_plane.config_name
    with suppress(Forbidden, NotFound):
        found = api.find("ConfigMap", namespace, name)
        if found is not None:
            return {name: found}
        listed = api.list("ConfigMap", namespace)
        return {
            c["metadata"]["name"]: c
            for c in listed
            if c["metadata"]["name"].startswith("istio") and "mesh" in (c.get("data") or {})
        }
    return {}


def _only(config_maps: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The one that there is; None where there are several, any of which may be the one."""
    return next(iter(config_maps.values())) if len(config_maps) == 1 else None


def _mesh_config(config_map: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if config_map is None:
        return None
    try:
        config = yaml.safe_load((config_map.get("data") or {}).get("mesh") or "")
    except yaml.YAMLError:
        return None
    return config if isinstance(config, dict) else {}


def _istiods(api: Api, control_plane: ControlPlane) -> list[dict[str, Any]]:
    """The containers of a control plane's istiod pods; none where they may not be listed."""
    with suppress(Forbidden, NotFound):
        pods = api.list("Pod", control_plane.namespace, _ISTIOD)
        wanted = control_plane.revision or "default"
        of_revision = [
            pod
            for pod in pods
            if (pod["metadata"].get("labels") or {}).get(REVISION_LABEL) == wanted
        ]
        return [
            container
            for pod in of_revision or pods
            for container in pod["spec"]["containers"]
            if container["name"] == ISTIOD_CONTAINER
        ]
    return []
