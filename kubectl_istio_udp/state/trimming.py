"""Reduce objects that tenants write to the parts that decisions need.

The API server allows objects of 1.5 MB. Here at most a few kilobytes of each are kept, whatever it
contains: the controller's caches hold thousands of objects in its pod's memory.
"""

from __future__ import annotations

import json
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.annotation_values import PREFIX
from kubectl_istio_udp.model.endpointrules import canonical
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.mesh import REVISION_LABEL
from kubectl_istio_udp.model.names import EXPOSE_ANNOTATION
from kubectl_istio_udp.model.ports import MOST_PORTS
from kubectl_istio_udp.model.service import EndpointSlice, Service, ServicePort
from kubectl_istio_udp.sources.annotations import LONGEST_PORTS, LONGEST_VALUE, read_ports

Manifest = Mapping[str, Any]

# More than the plugin defines, so that unknown annotations are kept too (and reported).
_MOST_ANNOTATIONS = 24
# Ports of a Service: first those that its annotation requests, then the other UDP ports. The limit
# is above that of an exposure, so that a request for all ports of a larger Service is refused.
_MOST_PORTS = 2 * MOST_PORTS
_LONGEST_NAME = 63
# TCP ports of a Service without UDP ports.
_MOST_TCP_PORTS = 32
_EXTERNAL = "ExternalName"
_MOST_PAIRS, _MOST_LABELS, _MOST_CONTAINER_PORTS = 64, 64, 32
# `maxItems` of a ServiceEntry's hosts, in the CRDs of Istio 1.30 and 1.31.
_MOST_HOSTS = 256
# The spec, and the annotation, of a ServiceEntry outside the gateways' namespaces, where tenants
# write. Those of an exposure with 100 ports have this size.
_LONGEST_ENTRY = 8_192
# Compressed bytes of a Service, and of an EndpointSlice. 1,000 ports with similar names need 8 kB,
# 1,000 endpoints with the names of their pods 10 kB. Random names need ten times that.
_LONGEST_SERVICE, _LONGEST_SLICE = 12_288, 32_768
# What the objects, and their entries in the indexes, need beside their content (measured).
_SLICE_OVERHEAD = 800
# Compression does not shorten shorter texts.
_WORTH_COMPRESSING = 512
_NOTHING = b""
# The labels of a ServiceEntry that matter.
_LABELS = (*names.LABELS, REVISION_LABEL)


@dataclass(frozen=True)
class Packed:
    """A part of a manifest as compressed JSON; empty if nothing of it is needed."""

    content: bytes = _NOTHING

    @classmethod
    def of(cls, part: Manifest) -> Packed:
        """Compress the part to keep."""
        text = json.dumps(part, separators=(",", ":"), sort_keys=True).encode()
        return cls(zlib.compress(text, 1) if len(text) > _WORTH_COMPRESSING else text)

    def unpacked(self) -> dict[str, Any]:
        """The part; {} if empty."""
        if self.content == _NOTHING:
            return {}
        plain = self.content[:1] == b"{"
        found: dict[str, Any] = json.loads(self.content if plain else zlib.decompress(self.content))
        return found


def unpacked(kept: Manifest | Packed | None) -> Manifest | None:
    """A manifest that may be compressed."""
    return kept.unpacked() if isinstance(kept, Packed) else kept


@dataclass(frozen=True)
class KeptService:
    """A tenant's Service, reduced.

    Attributes:
        tcp_ports: the number of its TCP ports.
        packed: its manifest, reduced to what exposing needs; empty if it has no UDP port and no
            request.
        numbers: if it is empty, the first TCP ports, two bytes each, to say why a route cannot use
            them.
        external: whether it is of type ExternalName.
    """

    tcp_ports: int
    packed: Packed
    numbers: bytes = b""
    external: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> KeptService:
        """Reduce a Service.

        Raises:
            ValueError: its selector has too many labels.
        """
        spec = manifest.get("spec") or {}
        ports = spec.get("ports") or ()
        tcp = sum(port.get("protocol", "TCP") == "TCP" for port in ports)
        notes = plugin_annotations(manifest)
        if EXPOSE_ANNOTATION not in notes and tcp == len(ports):
            numbers = array("H", (port["port"] for port in ports[:_MOST_TCP_PORTS]))
            external = spec.get("type") == _EXTERNAL
            return cls(tcp, Packed(), numbers.tobytes(), external)
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
        packed = Packed.of(part)
        if len(packed.content) > _LONGEST_SERVICE:
            # A request for it is refused: it has no UDP port.
            packed = Packed.of({**part, "spec": {**kept, "ports": []}})
        return cls(tcp, packed)

    def without_udp(self, namespace: str, name: str) -> Service:
        """The Service, if its manifest is not needed: its first TCP ports, and its type."""
        ports = tuple(ServicePort(number) for number in array("H", self.numbers))
        return Service(namespace, name, ports, external_name="" if self.external else None)


def _ports(ports: Any, annotation: str) -> list[Manifest]:
    named = _named_ports(annotation) if len(ports) > _MOST_PORTS else frozenset()
    fields = ("name", "port", "protocol", "targetPort")

    def rank(port: Manifest) -> tuple[bool, bool]:
        return (not named & {port["port"], port.get("name")}, port.get("protocol") != "UDP")

    first = sorted(ports, key=rank)[:_MOST_PORTS]
    return [{key: port[key] for key in fields if key in port} for port in first]


def _named_ports(annotation: str) -> frozenset[int | str]:
    """The numbers and names of the Service's ports that its annotation requests."""
    try:
        requests = read_ports(annotation)
    except UsageError:
        return frozenset()  # It is refused, whatever ports the Service has.
    return frozenset(
        each.gateway_port if each.service_port is None else each.service_port for each in requests
    )


def plugin_annotations(manifest: Manifest) -> dict[str, str]:
    """An object's annotations for the plugin, truncated just above their maximum length."""
    notes = manifest["metadata"].get("annotations") or {}
    of_plugin = sorted(key for key in notes if key.startswith(PREFIX))
    kept = [*of_plugin[:_MOST_ANNOTATIONS], *(key for key in of_plugin if key == EXPOSE_ANNOTATION)]
    return {key: notes[key][: _longest(key) + 1] for key in kept}


def _longest(key: str) -> int:
    return LONGEST_PORTS if key == EXPOSE_ANNOTATION else LONGEST_VALUE


@dataclass(frozen=True)
class KeptSlice:
    """An EndpointSlice, reduced.

    Attributes:
        service: the name of its Service.
        packed: its content, reduced to what exposing needs.
        size: the number of its endpoints.
        digest: four bytes per address, sorted; texts would take a hundred times that.
    """

    service: str
    packed: Packed
    size: int
    digest: bytes

    @classmethod
    def of(cls, manifest: Manifest, service: str) -> KeptSlice:
        """Reduce an EndpointSlice.

        Raises:
            KeyError, IndexError: an endpoint has no address.
        """
        endpoints = [_endpoint(entry) for entry in manifest.get("endpoints") or ()]
        part = {
            "addressType": manifest["addressType"],
            "ports": _udp_ports(manifest.get("ports") or ()),
            "endpoints": endpoints,
        }
        packed = Packed.of(part)
        if len(packed.content) > _LONGEST_SLICE:
            # The pods themselves show which addresses they have.
            bare = [{k: v for k, v in each.items() if k != "targetRef"} for each in endpoints]
            packed = Packed.of({**part, "endpoints": bare})
        if len(packed.content) > _LONGEST_SLICE:
            packed = Packed.of({**part, "ports": [], "endpoints": bare})
        addresses = canonical(entry["addresses"][0] for entry in endpoints)
        digest = array("I", sorted(map(_short_hash, addresses))).tobytes()
        return cls(service, packed, len(endpoints), digest)

    @property
    def weight(self) -> int:
        """The bytes that it needs in the cache, about."""
        return _SLICE_OVERHEAD + len(self.packed.content) + len(self.digest)

    def may_list(self, address: str) -> bool:
        """Whether it lists an address (in canonical form); rarely a false positive."""
        return _holds(memoryview(self.digest).cast("I"), _short_hash(address))

    def slice(self) -> EndpointSlice:
        """The EndpointSlice, unpacked."""
        return EndpointSlice.from_object(self.packed.unpacked())


def _udp_ports(ports: Sequence[Manifest]) -> list[Manifest]:
    fields = ("name", "port", "protocol")
    return [{k: p[k] for k in fields if k in p} for p in ports if p.get("protocol") == "UDP"]


def _short_hash(address: str) -> int:
    # Python's hash is seeded per process, so nobody can construct colliding addresses.
    return hash(address) & 0xFFFFFFFF


def _endpoint(entry: Manifest) -> dict[str, Any]:
    kept: dict[str, Any] = {"addresses": [entry["addresses"][0]]}
    if conditions := entry.get("conditions"):
        kept["conditions"] = conditions
    if reference := entry.get("targetRef"):
        # The API server does not validate these texts.
        names = {key: str(reference.get(key) or "") for key in ("kind", "name")}
        kept["targetRef"] = {key: text[-_LONGEST_NAME:] for key, text in names.items()}
    return kept


@dataclass(frozen=True)
class LabelSet:
    """Labels of a pod or selector, reduced to eight bytes each for comparison."""

    digest: bytes = b""

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> LabelSet:
        """Reduce labels."""
        return cls(_digest(labels.items()))

    def has(self, selector: LabelSet) -> bool:
        """Whether these include all labels of a selector, which must not be empty."""
        if not selector.digest:
            return False
        digests = memoryview(self.digest).cast("Q")
        return all(_holds(digests, each) for each in memoryview(selector.digest).cast("Q"))


@dataclass(frozen=True)
class HostSet:
    """The hosts of a ServiceEntry, reduced to eight bytes each for lookups."""

    digest: bytes = b""

    @classmethod
    def of(cls, hosts: Iterable[str]) -> HostSet:
        """Reduce hosts, at most as many as Istio allows in a ServiceEntry."""
        return cls(_digest(islice(hosts, _MOST_HOSTS)))

    def __contains__(self, host: object) -> bool:
        """Whether a host is among them."""
        return _holds(memoryview(self.digest).cast("Q"), _hash(host))


def _hash(value: object) -> int:
    """64 bits that are unpredictable outside this process: str's hash is salted."""
    return hash(value) & 0xFFFFFFFFFFFFFFFF


def _digest(values: Iterable[object]) -> bytes:
    return array("Q", sorted(map(_hash, values))).tobytes()


def _holds(numbers: Sequence[int], wanted: int) -> bool:
    place = bisect_left(numbers, wanted)
    return place < len(numbers) and numbers[place] == wanted


def pod_labels(pod: Manifest) -> LabelSet:
    """A pod's labels; empty if there are too many, so that no Service selects it."""
    labels = pod["metadata"].get("labels") or {}
    return LabelSet.of(labels) if len(labels) <= _MOST_LABELS else LabelSet()


def small_pod(pod: Manifest) -> Manifest:
    """A pod without long fields that no decision needs."""
    spec = pod.get("spec") or {}
    small: dict[str, list[Manifest]] = {"containers": [], "initContainers": []}
    left = _MOST_CONTAINER_PORTS
    for key, containers in small.items():
        for container in spec.get(key) or ():
            ports = container.get("ports") or ()
            named = [p for p in ports if p.get("protocol") == "UDP" and p.get("name")][:left]
            left -= len(named)
            containers.append({"name": container["name"], "ports": named})
    return {**pod, "spec": {**spec, **small}}


def small_entry(manifest: Manifest) -> Manifest:
    """A tenant's ServiceEntry with the plugin's labels, without fields longer than an exposure's.

    Without its spec it differs from every rendered one, and is written again.
    """
    metadata, spec = manifest["metadata"], manifest.get("spec") or {}
    labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    text = notes.get(names.SPEC_ANNOTATION)
    fits = len(json.dumps(spec)) <= _LONGEST_ENTRY
    return {
        **manifest,
        "metadata": {
            **metadata,
            "labels": {key: labels[key] for key in _LABELS if key in labels},
            "annotations": {names.SPEC_ANNOTATION: text}
            if text is not None and len(text) <= _LONGEST_ENTRY
            else {},
        },
        "spec": spec if fits else {},
    }
