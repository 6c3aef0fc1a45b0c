"""Read the settings of a mesh and the version of its control plane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import yaml

from kubectl_istio_udp.kube.client import Api, selector_of
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

Manifest = Mapping[str, Any]
Config = Mapping[str, Any]

ISTIOD_LABEL = {"app": "istiod"}
# istiod's variable with the name of a second ConfigMap; istiod's own ConfigMap takes precedence
# (its pilot/pkg/bootstrap/mesh.go).
_SHARED_CONFIG = "SHARED_MESH_CONFIG"


def read_mesh(api: Api, control_plane: ControlPlane = DEFAULT_CONTROL_PLANE) -> Mesh:
    """The settings of a control plane's mesh and the version of its oldest istiod.

    If something may not be read, Istio's defaults are assumed, the version is unknown, and
    `Mesh.assumed` is set.
    """
    return mesh_from(control_plane, *_read(api, control_plane))


def mesh_config_names(api: Api, control_plane: ControlPlane) -> tuple[str, ...]:
    """The names of the ConfigMaps with a control plane's mesh settings, in its namespace.

    The default name if none can be read, or if it is ambiguous.
    """
    if not control_plane.namespace:
        return ()
    configs, pods = _read(api, control_plane)
    shared = _shared_name(_istiods(pods, control_plane))
    of_revisions = [name for name in configs if name != shared]
    names = of_revisions if len(of_revisions) == 1 else [control_plane.config_name]
    return tuple(sorted({*names, *filter(None, [shared])}))


def mesh_from(
    control_plane: ControlPlane, configs: Mapping[str, Config], istiods: Iterable[Manifest]
) -> Mesh:
    """The settings of a mesh, from objects of its control plane.

    Args:
        control_plane: the control plane.
        configs: the decoded meshConfig of ConfigMaps in its namespace, by name.
        istiods: the istiod pods in its namespace.
    """
    containers = _istiods(istiods, control_plane)
    variables = environment(containers[0]) if containers else {}
    shared = _shared_name(containers)
    of_revisions = {name: config for name, config in configs.items() if name != shared}
    config = of_revisions.get(control_plane.config_name, _only(of_revisions))
    if shared in configs:
        config = {**configs[shared], **(config or {})}
    versions = oldest(map(image_version, containers))
    return Mesh.from_config(config, versions, control_plane, variables)


def mesh_config(config_map: Manifest) -> Config:
    """The decoded meshConfig in a ConfigMap; {} (Istio's defaults) if it has none.

    Raises:
        ValueError: it is not valid YAML.
    """
    try:
        config = yaml.safe_load((config_map.get("data") or {}).get("mesh") or "")
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("the mesh configuration is not YAML") from error
    return config if isinstance(config, dict) else {}


def _read(api: Api, control_plane: ControlPlane) -> tuple[dict[str, Config], list[dict[str, Any]]]:
    """The meshConfigs of a control plane by ConfigMap name, and its istiod pods."""
    if not control_plane.namespace:
        return {}, []
    found, pods = in_parallel(
        [lambda: _config_maps(api, control_plane), lambda: _pods(api, control_plane)]
    )
    shared = _shared_name(_istiods(pods, control_plane))
    if shared:
        with suppress(Forbidden, NotFound):
            found = [*found, api.get("ConfigMap", control_plane.namespace, shared)]
    configs = {}
    for config_map in found:
        with suppress(ValueError):
            configs[config_map["metadata"]["name"]] = mesh_config(config_map)
    return configs, pods


def _config_maps(api: Api, control_plane: ControlPlane) -> list[dict[str, Any]]:
    """The control plane's ConfigMap by its default name; if missing, the other candidates."""
    namespace, name = control_plane.namespace, control_plane.config_name
    with suppress(Forbidden, NotFound):
        found = api.find("ConfigMap", namespace, name)
        if found is not None:
            return [found]
        return [
            c
            for c in api.list("ConfigMap", namespace)
            if c["metadata"]["name"].startswith("istio") and "mesh" in (c.get("data") or {})
        ]
    return []


def _only(configs: Mapping[str, Config]) -> Config | None:
    """The only one; None if there are several candidates."""
    return next(iter(configs.values())) if len(configs) == 1 else None


def _pods(api: Api, control_plane: ControlPlane) -> list[dict[str, Any]]:
    """The istiod pods in a control plane's namespace; none if they may not be listed."""
    with suppress(Forbidden, NotFound):
        return api.list("Pod", control_plane.namespace, selector_of(ISTIOD_LABEL))
    return []


def _istiods(pods: Iterable[Manifest], control_plane: ControlPlane) -> list[Manifest]:
    """The istiod containers of a control plane, from the pods of its namespace."""
    found = list(pods)
    wanted = control_plane.revision or "default"
    of_revision = [
        pod for pod in found if (pod["metadata"].get("labels") or {}).get(REVISION_LABEL) == wanted
    ]
    return [
        container
        for pod in of_revision or found
        for container in pod["spec"]["containers"]
        if container["name"] == ISTIOD_CONTAINER
    ]


def _shared_name(containers: Iterable[Manifest]) -> str:
    """The name of istiod's second ConfigMap; "" if it has none."""
    first = next(iter(containers), None)
    return environment(first).get(_SHARED_CONFIG, "") if first else ""
