"""A mesh that is set up another way than the test cluster's, for a while."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import get, kubectl


@contextlib.contextmanager
def mesh_config(**fields: Any) -> Iterator[None]:
    """The mesh's configuration with other fields, put back afterwards."""
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
