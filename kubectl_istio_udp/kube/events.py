"""Kubernetes Events: what happened to an object, for whoever runs `kubectl describe`."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import Conflict
from kubectl_istio_udp.model.names import MANAGER
from kubectl_istio_udp.model.wish import About

# The API's own bound on a message (events.k8s.io/v1, note).
_LONGEST_MESSAGE = 1024
_LONGEST_NAME = 200


def tell(api: Api, about: About, *, reason: str, message: str, warning: bool, by: str) -> bool:
    """Write an Event about an object, unless the same has been said of it already.

    Its name is made from what it says, so that saying it again (after a restart, or by another
    replica) finds it there; Events end after an hour by themselves.

    Args:
        api: the cluster.
        about: whom it is about.
        reason: one word.
        message: a sentence; cut to what an Event may hold.
        warning: whether it is a Warning, not Normal.
        by: who says so: the replica's name.

    Returns:
        Whether it is new.
    """
    message = (
        message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 3] + "..."
    )
    said = hashlib.sha256(f"{about.uid}\0{reason}\0{message}".encode()).hexdigest()[:16]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{about.name[:_LONGEST_NAME]}.{said}",
            "namespace": about.namespace,
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
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        api.create(event, manager=MANAGER)
    except Conflict:
        return False
    return True
