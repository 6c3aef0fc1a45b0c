"""The controller's objects: mark them as the controller's, and compare them with existing ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kubectl_istio_udp.apply.exact import has_all, is_exact, revision_label
from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.annotation_values import PREFIX
from kubectl_istio_udp.model.deletion import is_being_deleted
from kubectl_istio_udp.model.exposure import ExposureSpec
from kubectl_istio_udp.model.managed_fields import managed_ports
from kubectl_istio_udp.model.mesh import REVISION_LABEL
from kubectl_istio_udp.model.names import SOURCE_LABEL
from kubectl_istio_udp.model.write import Write

Manifest = Mapping[str, Any]

# Differs from the field manager of `expose`, so that an `expose` with the same name gets a
# conflict. Otherwise it would take the exposure over, and the controller would revert it.
MANAGER = f"{names.MANAGER}-controller"
BY_SERVICE, BY_GATEWAY = "service", "gateway"
DIGEST_ANNOTATION = f"{PREFIX}digest"
_DIGEST_LENGTH = 12
_PORT_FIELDS = ("name", "port", "protocol", "targetPort")


def source_of(spec: ExposureSpec) -> str:
    """The kind of object that requests an exposure of the controller: a Service or a Gateway."""
    return BY_SERVICE if spec.service else BY_GATEWAY


def marked(write: Write, source: str = BY_SERVICE) -> Write:
    """A write that marks its object as created by the controller.

    The API server adds fields to Services, so a removed field can only be detected by a digest of
    what was written.
    """
    if not write.whole:
        return write
    metadata = dict(write.manifest["metadata"])
    metadata["labels"] = {**metadata["labels"], SOURCE_LABEL: source}
    if write.kind == "Service":
        text = json.dumps(write.manifest, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]
        metadata["annotations"] = {**metadata["annotations"], DIGEST_ANNOTATION: digest}
    return replace(write, manifest={**write.manifest, "metadata": metadata})


def with_revision(write: Write, existing: Manifest | None, revision: str) -> Write:
    """A write that keeps the revision label of its object, if its gateway's istiod reads it.

    Some clusters add this label to all of Istio's objects by a webhook.

    Args:
        write: the write.
        existing: its object; None if there is none.
        revision: the revision of the gateway's istiod; "" for the default one.
    """
    label = revision_label(existing) if existing else None
    if label is None or label != (revision or "default") or not write.whole:
        return write
    metadata = write.manifest["metadata"]
    labels = {**metadata["labels"], REVISION_LABEL: label}
    return replace(write, manifest={**write.manifest, "metadata": {**metadata, "labels": labels}})


def is_applied(write: Write, existing: Manifest | None) -> bool:
    """Whether an object is already as a write would make it, and stays."""
    if existing is None or is_being_deleted(existing):
        return False
    wanted, have = write.manifest["spec"], existing["spec"]
    if not write.whole:
        return _ports(managed_ports(existing, write.manager)) == _ports(wanted["ports"])
    for part in ("labels", "annotations"):
        if not has_all(existing["metadata"].get(part) or {}, write.manifest["metadata"][part]):
            return False
    return is_exact(write, existing) and (write.kind != "Service" or has_all(have, wanted))


def _ports(entries: Iterable[Manifest]) -> list[tuple[Any, ...]]:
    return sorted(tuple(entry.get(field) for field in _PORT_FIELDS) for entry in entries)
