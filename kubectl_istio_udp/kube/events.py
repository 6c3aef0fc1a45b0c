"""Kubernetes Events: write them, sign them, and check their signature."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.annotation_values import PREFIX
from kubectl_istio_udp.model.names import MANAGER

# The maximum length of a message (events.k8s.io/v1, field note).
_LONGEST_MESSAGE = 1024
_LONGEST_NAME = 200


# Annotation of an Event: when it was last written, in microseconds. The Event's own timestamps
# only have seconds.
WRITTEN_AT_ANNOTATION = f"{PREFIX}told"


# Annotation of an Event: the controller's signature. A tenant may write Events in its namespace
# with any component's name.
SEAL_ANNOTATION = f"{PREFIX}seal"


def write_event(
    api: Api, about: About, *, reason: str, message: str, warning: bool, by: str, secret: str
) -> None:
    """Write an Event about an object, or update the one with the same content.

    Its name is a hash of its content. So writing it again, after a restart or from another
    replica, updates its time and adds no second Event. The API server deletes Events after an hour.

    Args:
        api: the cluster.
        about: the object.
        reason: one word.
        message: a sentence; cut to the maximum length of an Event's message.
        warning: whether its type is Warning instead of Normal.
        by: the name of the replica.
        secret: the key of the signature, which can only be read in the controller's namespace;
            "" for no signature.

    Raises:
        ClusterError: it was not written.
    """
    message = (
        message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 3] + "..."
    )
    digest = hashlib.sha256(f"{about.uid}\0{reason}\0{message}".encode()).hexdigest()[:16]
    time = datetime.now(timezone.utc)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ")
    event: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{about.name[:_LONGEST_NAME].rstrip('.-')}.{digest}",
            "namespace": about.namespace,
            "annotations": {WRITTEN_AT_ANNOTATION: time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")},
        },
        "involvedObject": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "namespace": about.namespace,
            "name": about.name,
            "uid": about.uid,
        },
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message,
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "reportingInstance": by,
        "lastTimestamp": now,
        "count": 1,
    }
    if secret:
        event["metadata"]["annotations"][SEAL_ANNOTATION] = _seal(event, secret)
    api.apply(event, before=None, manager=MANAGER, force=True)


def is_sealed(event: Mapping[str, Any], secret: str) -> bool:
    """Whether an Event has a valid signature with this secret."""
    notes = event["metadata"].get("annotations") or {}
    seal = str(notes.get(SEAL_ANNOTATION, ""))
    return bool(secret) and hmac.compare_digest(seal.encode(), _seal(event, secret).encode())


def _seal(event: Mapping[str, Any], secret: str) -> str:
    """An HMAC over an Event's object, message and time."""
    about = event["involvedObject"]
    told = (event["metadata"].get("annotations") or {}).get(WRITTEN_AT_ANNOTATION)
    parts = [about.get(key) for key in ("kind", "namespace", "name", "uid")]
    parts += [event.get("type"), event.get("reason"), event.get("message"), told]
    return hmac.new(secret.encode(), json.dumps(parts).encode(), hashlib.sha256).hexdigest()


def newest(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The last Event about each Service, by (namespace, name)."""

    def when(event: Mapping[str, Any]) -> str:
        notes = event["metadata"].get("annotations") or {}
        return str(notes.get(WRITTEN_AT_ANNOTATION) or event.get("lastTimestamp") or "")

    return {
        (event["involvedObject"].get("namespace") or "", event["involvedObject"]["name"]): event
        for event in sorted(events, key=when)
        if event["involvedObject"].get("kind") == "Service"
    }
