"""The conditions of objects of the Gateway API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubectl_istio_udp.model.decoded import as_list, as_mapping

Manifest = Mapping[str, Any]


def generation_of(manifest: Manifest) -> int:
    """metadata.generation of an object; 0 if it has none."""
    return int(manifest["metadata"].get("generation") or 0)


def current_conditions(owner: Manifest, generation: int) -> tuple[Manifest, ...]:
    """The conditions that are about a generation; those about an earlier one say nothing about it.

    Args:
        owner: what has the conditions: a status, or its entry for a listener or a parent.
        generation: the object's generation.
    """
    found = map(as_mapping, as_list(owner.get("conditions")))
    return tuple(each for each in found if each.get("observedGeneration") == generation)


def current_condition(owner: Manifest, generation: int, kind: str) -> Manifest:
    """The condition of a type, as `current_conditions`; {} if there is none."""
    found = current_conditions(owner, generation)
    return next((each for each in found if each.get("type") == kind), {})
