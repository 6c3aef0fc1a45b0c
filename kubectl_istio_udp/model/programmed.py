"""Whether a gateway pod's Envoy has what an EnvoyFilter adds.

`expose`, `get -o wide`, `verify` and the controller's conditions decide it here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model.envoyfilter import items, record
from kubectl_istio_udp.model.names import MANAGER
from kubectl_istio_udp.model.proxystate import ProxyState

Revisions = Mapping[str, str]


@dataclass(frozen=True)
class Lack:
    """What a gateway pod's Envoy lacks.

    Attributes:
        what: `listener NAME` or `cluster NAME`.
        refusal: Envoy's error, if it rejected it; "" if it may still arrive.
    """

    what: str
    refusal: str = ""

    def __str__(self) -> str:
        """The rest of a sentence about the gateway pod."""
        if self.refusal:
            return f"rejects {self.what}: {self.refusal}"
        return f"does not yet have {self.what}"


def first_lack(state: ProxyState, listeners: Revisions, clusters: Revisions) -> Lack | None:
    """What an Envoy lacks, first what it rejected; None if it has everything.

    It may still have an earlier revision of what it lacks.

    Args:
        state: what the Envoy reports.
        listeners, clusters: the wanted revisions by name.
    """
    found = [
        *_lacks("listener", state.listeners, listeners, state),
        *_lacks("cluster", state.clusters, clusters, state),
    ]
    return next((each for each in found if each.refusal), found[0] if found else None)


def _lacks(kind: str, present: Revisions, wanted: Revisions, state: ProxyState) -> Iterator[Lack]:
    for name, revision in wanted.items():
        if present.get(name) == revision:
            continue
        refusal = state.refusals.get(name)
        # Another revision is from an earlier write.
        refused = refusal is not None and refusal.revision in ("", revision)
        yield Lack(f"{kind} {name}", refusal.why if refusal and refused else "")


def revisions(envoy_filter: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The revision of each listener and cluster that an EnvoyFilter adds; "" if it has none.

    Returns:
        {"LISTENER": {name: revision}, "CLUSTER": {name: revision}}
    """
    found: dict[str, dict[str, str]] = {"LISTENER": {}, "CLUSTER": {}}
    for patch in map(record, items(record(envoy_filter.get("spec")).get("configPatches"))):
        value = record(record(patch.get("patch")).get("value"))
        kind, name = patch.get("applyTo"), value.get("name")
        if kind in found and name:
            found[kind][str(name)] = revision_in(value)
    return found


def revision_in(resource: Mapping[str, Any]) -> str:
    """The revision in the metadata of a listener or cluster; "" if it has none."""
    marks = record(record(resource.get("metadata")).get("filter_metadata"))
    return str(record(marks.get(MANAGER)).get("revision", ""))
