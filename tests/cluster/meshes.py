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
