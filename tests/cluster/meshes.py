"""Change the configuration of the test cluster's mesh for a while."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import eventually, get, kubectl, run


@contextlib.contextmanager
def mesh_config(**fields: Any) -> Iterator[None]:
    """The mesh's configuration with other fields, restored afterwards."""
    if os.environ.get("E2E_CLUSTER") == "current":
        pytest.skip("the mesh's configuration is changed on the project's own cluster only")
    before = get("configmap", "-n", "istio-system", "istio")
    for name in ("resourceVersion", "uid"):
        del before["metadata"][name]
    config = {**yaml.safe_load(before["data"]["mesh"]), **fields}
    changed = {**before, "data": {**before["data"], "mesh": yaml.safe_dump(config)}}
    try:
        kubectl("replace", "-f", "-", stdin=yaml.safe_dump(changed))
        yield
    finally:
        kubectl("replace", "-f", "-", stdin=yaml.safe_dump(before))


def istio_version() -> tuple[int, int]:
    """The release of the cluster's istiod."""
    spec = get("deploy", "-n", "istio-system", "istiod")["spec"]["template"]["spec"]
    major, minor, *_ = spec["containers"][0]["image"].rpartition(":")[2].split(".")
    return int(major), int(minor)


@contextlib.contextmanager
def istiod_variables(**variables: str) -> Iterator[None]:
    """istiod with some environment variables, and without them afterwards."""
    if os.environ.get("E2E_CLUSTER") == "current":
        pytest.skip("istiod is changed on the project's own cluster only")
    _set_variables(*(f"{name}={value}" for name, value in variables.items()))
    try:
        yield
    finally:
        _set_variables(*(f"{name}-" for name in variables))


def _set_variables(*words: str) -> None:
    kubectl("set", "env", "-n", "istio-system", "deploy/istiod", *words)
    kubectl("rollout", "status", "-n", "istio-system", "deploy/istiod", "--timeout=120s")
    eventually("one istiod answers the API server", _is_asked, 60)


def _is_asked() -> bool:
    """Whether the new istiod's webhook answers several times in a row."""
    pods = get("pods", "-n", "istio-system", "-l", "app=istiod")["items"]
    words = ("kubectl", "apply", "--dry-run=server", "-n", "istio-system", "-f", "-")
    empty = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "asked"},
        "spec": {"workloadSelector": {"labels": {"nobody": "here"}}},
    }
    return len(pods) == 1 and all(run(*words, stdin=json.dumps(empty)).code == 0 for _ in range(3))
