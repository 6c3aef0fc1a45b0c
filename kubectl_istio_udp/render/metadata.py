"""The metadata and API versions of all objects that the plugin creates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.kinds import Spec

# EnvoyFilter has no newer version. A ServiceEntry changes with its endpoints, up to a hundred times
# per second: v1 (served from Istio 1.22) is the stored version and the one that newer istiods
# watch, and a write in another version costs the API server a quarter more (docs/measurements.md).
# A VirtualService is written once, and may be needed from Istio 1.15 on.
_REVISION_LENGTH = 12


def metadata(spec: Spec, namespace: str) -> dict[str, Any]:
    """The metadata of one of a spec's objects, in a namespace."""
    return {
        "name": spec.object_name,
        "namespace": namespace,
        "labels": names.labels(spec.kind, spec.namespace, spec.name),
        "annotations": {names.SPEC_ANNOTATION: spec.to_json()},
    }


def owned_by(owner: About) -> dict[str, Any]:
    """The owner reference to the object that another one of its namespace is created for."""
    return {
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
    }


def revision(resource: Mapping[str, Any]) -> str:
    """A short hash of a listener, cluster or route; it changes with the content."""
    text = json.dumps(resource, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_REVISION_LENGTH]
