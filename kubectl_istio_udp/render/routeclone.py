"""The copy of a route for the Gateways of class istio that the controller creates.

Its rules are those of the original, and its parents the created Gateways. It is in the namespace of
the original, so that the same ReferenceGrants apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.gatewayapi import ParentRef
from kubectl_istio_udp.model.mesh import REVISION_LABEL
from kubectl_istio_udp.render.metadata import owned_by
from kubectl_istio_udp.sources.gateways import clone_key


def route_clone(route: Mapping[str, Any], parents: Sequence[ParentRef]) -> dict[str, Any]:
    """The manifest; its owner reference makes the garbage collector delete it.

    Args:
        route: the original.
        parents: the references to the created Gateways, at least one.
    """
    about, labels = About.of(route), route["metadata"].get("labels") or {}
    spec = {key: value for key, value in route["spec"].items() if key != "useDefaultGateways"}
    namespace, name = clone_key((about.namespace, about.name))
    return {
        "apiVersion": route["apiVersion"],
        "kind": route["kind"],
        "metadata": {
            "name": name,
            "namespace": namespace,
            # Not all labels and annotations of the original: tools that manage the original find
            # their objects by these.
            "labels": {
                names.MANAGED_BY_LABEL: names.MANAGER,
                # The revision of the istiod that serves it.
                **{key: labels[key] for key in (REVISION_LABEL,) if key in labels},
            },
            "ownerReferences": [owned_by(about)],
        },
        # The original itself attaches to default Gateways.
        "spec": {**spec, "parentRefs": [dict(each.raw) for each in parents]},
    }
