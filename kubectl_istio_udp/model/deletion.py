"""Objects that were deleted and only exist until their finalizers are removed.

The API server still accepts writes to such an object, but they are lost with it. A Service of type
LoadBalancer is in this state until its cloud has removed the load balancer (finalizer
service.kubernetes.io/load-balancer-cleanup of the service controller).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl_istio_udp.model.errors import Conflict
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.model.resources import RESOURCES, resource_key


def is_being_deleted(manifest: Mapping[str, Any]) -> bool:
    """Whether an object is being deleted."""
    return "deletionTimestamp" in manifest["metadata"]


def deletion_text(manifest: Mapping[str, Any]) -> str:
    """The message about an object that is being deleted: what it waits for."""
    finalizers = ", ".join(manifest["metadata"].get("finalizers") or ())
    rest = f"; it exists until its finalizers are removed: {finalizers}" if finalizers else ""
    return f"{ObjectRef.of(manifest)} is being deleted{rest}"


class BeingDeleted(Conflict):
    """A write is lost, because its object is being deleted.

    Attributes:
        manifest: the object.
    """

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        """Describe the object and how to wait for it."""
        ref, resource = ObjectRef.of(manifest), RESOURCES[resource_key(manifest)]
        place = f"-n {ref.namespace} " if ref.namespace else ""
        super().__init__(
            deletion_text(manifest),
            hints=[
                "wait, then run the command again: kubectl wait --for=delete "
                f"{place}{resource.qualified}/{ref.name} --timeout 5m"
            ],
        )
        self.manifest = manifest
