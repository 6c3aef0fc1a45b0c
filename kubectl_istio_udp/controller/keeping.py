"""What is kept of each object that tenants write: only what decides something, and little of it.

The API server lets a tenant's object be 1.5 MB. What is kept of one is a few kilobytes at most,
whatever it says: the caches of a controller must hold thousands of them in the memory of its pod.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model.ports import MOST_PORTS
from kubectl_istio_udp.model.service import EndpointSlice
from kubectl_istio_udp.model.values import PREFIX
from kubectl_istio_udp.model.wish import EXPOSE_ANNOTATION, LONGEST_PORTS, LONGEST_VALUE

Manifest = Mapping[str, Any]

# More annotations of ours than there are: an unknown one is among those that are kept.
_MOST_ANNOTATIONS = 24
# Ports of a Service, UDP first; beyond these only what its annotation names. More than an exposure
# may have, so that one that asks for all of them is refused.
_MOST_PORTS = 2 * MOST_PORTS
_MOST_PAIRS, _LONGEST_LABELS, _MOST_CONTAINER_PORTS = 64, 4_096, 64
# Of a ServiceEntry outside the gateways' namespaces, where tenants write.
_LONGEST_ENTRY = 16_384
# Shorter texts do not get shorter.
_WORTH_COMPRESSING = 512
_NOTHING = b""


@dataclass(frozen=True)
class Packed:
    """A part of a manifest, as compressed JSON; nothing where nothing of it decides."""

    content: bytes = _NOTHING

    @classmethod
    def of(cls, part: Manifest) -> Packed:
        """Pack what is to be kept."""
        text = json.dumps(part, separators=(",", ":"), sort_keys=True).encode()
        return cls(zlib.compress(text, 1) if len(text) > _WORTH_COMPRESSING else text)

    def unpacked(self) -> dict[str, Any]:
        """What was packed, {} for nothing."""
        if self.content == _NOTHING:
            return {}
        plain = self.content[:1] == b"{"
        found: dict[str, Any] = json.loads(self.content if plain else zlib.decompress(self.content))
        return found


@dataclass(frozen=True)
class KeptService:
    """A tenant's Service.

    Attributes:
        tcp_ports: how many TCP ports it has.
        packed: its manifest, as far as exposing it goes; nothing where it has no UDP port and does
            not ask.
    """

    tcp_ports: int
    packed: Packed

    @classmethod
    def of(cls, manifest: Manifest) -> KeptService:
        """Keep what decides of a Service.

        Raises:
            ValueError: it selects pods by more labels than any should.
        """
        spec = manifest.get("spec") or {}
        ports = spec.get("ports") or ()
        tcp = sum(port.get("protocol", "TCP") == "TCP" for port in ports)
        notes = our_annotations(manifest)
        if EXPOSE_ANNOTATION not in notes and tcp == len(ports):
            return cls(tcp, Packed())
        selector = spec.get("selector") or {}
        if len(selector) > _MOST_PAIRS:
            raise ValueError(f"it selects by {len(selector)} labels")
        fields = ("type", "externalName", "publishNotReadyAddresses", "selector")
        kept = {key: spec[key] for key in fields if key in spec}
        about = ("name", "namespace", "uid", "creationTimestamp")
        metadata = {key: text for key, text in manifest["metadata"].items() if key in about}
        part = {
            "apiVersion": manifest["apiVersion"],
            "kind": manifest["kind"],
            "metadata": {**metadata, "annotations": notes},
            "spec": {**kept, "ports": _ports(ports, notes.get(EXPOSE_ANNOTATION, ""))},
        }
        return cls(tcp, Packed.of(part))


def _ports(ports: Any, asked: str) -> list[Manifest]:
    words = {*re.split("[^a-z0-9]+", asked), *re.split("[^a-z0-9-]+", asked)}
    fields = ("name", "port", "protocol", "targetPort")
    udp_first = sorted(ports, key=lambda port: port.get("protocol") != "UDP")
    return [
        {key: port[key] for key in fields if key in port}
        for number, port in enumerate(udp_first)
        if number < _MOST_PORTS or words & {str(port["port"]), port.get("name")}
    ]


def our_annotations(manifest: Manifest) -> dict[str, str]:
    """An object's annotations of ours, each no longer than shows that it is too long."""
    notes = manifest["metadata"].get("annotations") or {}
    ours = sorted(key for key in notes if key.startswith(PREFIX))
    kept = [*ours[:_MOST_ANNOTATIONS], *(key for key in ours if key == EXPOSE_ANNOTATION)]
    return {key: notes[key][: _longest(key) + 1] for key in kept}


def _longest(key: str) -> int:
    return LONGEST_PORTS if key == EXPOSE_ANNOTATION else LONGEST_VALUE


@dataclass(frozen=True)
class KeptSlice:
    """An EndpointSlice, and the Service it belongs to."""

    service: str
    packed: Packed

    @classmethod
    def of(cls, manifest: Manifest, service: str) -> KeptSlice:
        """Keep what decides of an EndpointSlice.

        Raises:
            KeyError, IndexError: an endpoint has no address.
        """
        part = {
            "addressType": manifest.get("addressType"),
            "ports": manifest.get("ports") or [],
            "endpoints": [_endpoint(entry) for entry in manifest.get("endpoints") or ()],
        }
        return cls(service, Packed.of({k: v for k, v in part.items() if v is not None}))

    def slice(self) -> EndpointSlice:
        """The EndpointSlice."""
        return EndpointSlice.from_object(self.packed.unpacked())


def _endpoint(entry: Manifest) -> dict[str, Any]:
    kept: dict[str, Any] = {"addresses": [entry["addresses"][0]]}
    if conditions := entry.get("conditions"):
        kept["conditions"] = conditions
    if reference := entry.get("targetRef"):
        kept["targetRef"] = {key: reference.get(key) for key in ("kind", "name")}
    return kept


def pod_labels(pod: Manifest) -> dict[str, str]:
    """A pod's labels; none where they are more than any should have, and no Service finds it."""
    labels = pod["metadata"].get("labels") or {}
    length = sum(len(key) + len(value) for key, value in labels.items())
    return dict(labels) if len(labels) <= _MOST_PAIRS and length <= _LONGEST_LABELS else {}


def small_pod(pod: Manifest) -> Manifest:
    """A pod without what could be long of it and decides nothing."""
    spec, metadata = pod.get("spec") or {}, pod["metadata"]
    small = {
        key: [_container(container) for container in spec.get(key) or ()]
        for key in ("containers", "initContainers")
    }
    return {**pod, "metadata": {**metadata, "labels": pod_labels(pod)}, "spec": {**spec, **small}}


def _container(container: Manifest) -> Manifest:
    return {**container, "ports": list(container.get("ports") or ())[:_MOST_CONTAINER_PORTS]}


def small_entry(manifest: Manifest) -> Manifest:
    """A tenant's ServiceEntry with our labels: without what is longer than ours would be.

    One without its spec differs from every one that could be wanted, and is written anew.
    """
    notes = our_long_annotations(manifest)
    spec = manifest.get("spec") or {}
    fits = len(json.dumps(spec)) <= _LONGEST_ENTRY
    return {
        **manifest,
        "metadata": {**manifest["metadata"], "annotations": notes},
        "spec": spec if fits else {},
    }


def our_long_annotations(manifest: Manifest) -> dict[str, str]:
    """The annotations of ours of an object that we may have made, without those too long for it."""
    notes = manifest["metadata"].get("annotations") or {}
    ours = sorted(key for key in notes if key.startswith(PREFIX))[:_MOST_ANNOTATIONS]
    return {key: notes[key] for key in ours if len(notes[key]) <= _LONGEST_ENTRY}
