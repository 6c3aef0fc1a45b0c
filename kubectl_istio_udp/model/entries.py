"""An exposure's ServiceEntries: which ports share one, and the host and addresses of each.

istiod publishes the endpoints of a ServiceEntry under its host. If several entries have the same
host, a gateway gets the endpoints of one of them, usually the oldest, or of all in one namespace,
whoever created them (measured on Istio 1.31). So the host has a part that others cannot guess: a
hash of uids. The Service's uid alone is not enough: its tenant knows it and could give the host
endpoints that the exposure must not have.

Sidecars in the gateway's namespace see the entries too. For an entry without an address they
listen on 0.0.0.0 with its port numbers, which captures unrelated TCP connections (measured on
Istio 1.31). So each entry has unique addresses.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import threading
from collections.abc import (
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.fields import (
    Fields,
    dns_label,
    dns_subdomain,
    items,
    port,
    service_key,
    shown,
)
from kubectl_istio_udp.model.service import IPV4, IPV6

Key = tuple[str, str]

_HASH_LENGTH = 20
# An exposure's entry has one host and two addresses. Of other entries, keep a few of each.
_MOST_KEPT = 8
# IPv4: reserved (RFC 1112, 240.0.0.0/4), without 240.0.0.0/8, from which istiod allocates
# (240.240.0.0/16), and without 255.0.0.0/8 (broadcast). IPv6: the discard prefix (RFC 6666);
# istiod allocates from 2001:2::/48.
_RANGES = {
    IPV4: (int(ipaddress.IPv4Address("241.0.0.0")), 14 * 2**24),
    IPV6: (int(ipaddress.IPv6Address("100::")), 2**64),
}


@dataclass(frozen=True)
class Entry:
    """One ServiceEntry of an exposure.

    Attributes:
        namespace, name: of the ServiceEntry.
        host: the key of its endpoints in istiod; it is never resolved.
        addresses: where sidecars in the gateway's namespace listen for it, one per address
            family; () in entries that versions before 0.2 wrote.
        ports: the Service port numbers whose endpoints it lists.
        service: (namespace, name) of the Service; None for the exposure's own Service.
    """

    namespace: str
    name: str
    host: str
    addresses: tuple[str, ...]
    ports: tuple[int, ...]
    service: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        """Reject an entry without a port.

        Raises:
            ValueError: there is no port.
        """
        if not self.ports:
            raise ValueError("a ServiceEntry has at least one port")

    @classmethod
    def from_fields(cls, fields: Fields) -> Entry:
        """Read an entry from the spec annotation.

        Raises:
            ValueError: a field is missing or wrong.
        """
        return cls(
            namespace=fields.take("namespace", dns_label),
            name=fields.take("name", dns_subdomain),
            host=fields.take("host", _host),
            addresses=fields.take("addresses", items(_address)),
            ports=fields.take("ports", items(port)),
        )

    @classmethod
    def from_routed_fields(cls, fields: Fields) -> Entry:
        """Read an entry of a spec annotation of version 3, where each names its Service.

        Raises:
            ValueError: a field is missing or wrong.
        """
        service = fields.take("service", service_key)
        return replace(cls.from_fields(fields), service=service)


@dataclass(frozen=True)
class EntrySummary:
    """The parts of any ServiceEntry in the cluster that conflicts are computed from.

    Attributes:
        namespace, name: of the ServiceEntry.
        hosts: its hosts with the suffix of exposures' hosts.
        addresses: its addresses within the ranges that exposures' entries use.
        exported_to: the namespaces that see it, from its exportTo; () for the mesh's default.
    """

    namespace: str
    name: str
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    exported_to: tuple[str, ...] = ()

    @classmethod
    def from_object(cls, manifest: Mapping[str, Any]) -> EntrySummary:
        """Read a ServiceEntry manifest."""
        metadata, spec = manifest["metadata"], manifest.get("spec") or {}
        hosts = tuple(h for h in spec.get("hosts") or () if h.endswith(names.HOST_SUFFIX))
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            hosts=hosts,
            addresses=tuple(a for a in spec.get("addresses") or () if is_reserved(a)),
            exported_to=tuple(spec.get("exportTo") or ()) if hosts else (),
        )

    @property
    def has_many_hosts(self) -> bool:
        """Whether it has more of these hosts than a cache keeps as text (`small`)."""
        return len(self.hosts) > _MOST_KEPT

    def small(self, namespaces: Iterable[str]) -> EntrySummary:
        """The same summary, reduced to what a cache of all ServiceEntries should keep.

        Args:
            namespaces: the namespaces that `visible_in` will be called with.
        """
        kept = {"*", ".", self.namespace, *namespaces}
        exported = tuple(sorted(kept.intersection(self.exported_to)))
        return replace(
            self,
            hosts=() if self.has_many_hosts else self.hosts,
            addresses=self.addresses[:_MOST_KEPT],
            # `~` means no namespace; () would mean all.
            exported_to=exported or (("~",) if self.exported_to else ()),
        )

    def may_be_of(self, key: tuple[str, str], gateway_namespace: str) -> bool:
        """Whether its name and namespace are ones that an exposure's entries may have."""
        in_place = self.namespace in (key[0], gateway_namespace)
        return in_place and names.is_object_name(self.name, *key)

    def visible_in(self, namespace: str) -> bool:
        """Whether proxies of a namespace may see it; the mesh's default counts as `*`."""
        seen_by = {self.namespace if where == "." else where for where in self.exported_to}
        return not seen_by or bool({"*", namespace} & seen_by)


class EntryIndex:
    """ServiceEntries by host and by address; thread-safe.

    The controller keeps one up to date, and the command line makes one for each decision.
    """

    def __init__(self) -> None:
        """Start without ServiceEntries."""
        self._lock = threading.Lock()
        self._summaries: dict[Key, EntrySummary] = {}
        # Tuples, because nearly all of them have one element, and tenants may have many.
        self._by_host: dict[str, tuple[Key, ...]] = {}
        self._by_address: dict[str, tuple[Key, ...]] = {}
        self._many: dict[Key, Container[str]] = {}

    @classmethod
    def of(cls, summaries: Iterable[EntrySummary]) -> EntryIndex:
        """An index of some ServiceEntries."""
        found = cls()
        for summary in summaries:
            found.put((summary.namespace, summary.name), summary)
        return found

    def put(self, key: Key, now: EntrySummary | None, many: Container[str] | None = None) -> None:
        """Add or replace a ServiceEntry.

        Args:
            key: its (namespace, name).
            now: its summary; None removes it.
            many: its hosts, if they are too many for the summary.
        """
        with self._lock:
            self._many.pop(key, None)
            if many is not None:
                self._many[key] = many
            before = self._summaries.pop(key, None)
            if now is not None:
                self._summaries[key] = now
            for summary, change in ((before, _without), (now, _with)):
                for host in set(summary.hosts) if summary else ():
                    change(self._by_host, host, key)
                for address in set(summary.addresses) if summary else ():
                    change(self._by_address, address, key)

    def with_host(self, hosts: Collection[str]) -> tuple[EntrySummary, ...]:
        """The ServiceEntries with one of these hosts; each summary has those hosts alone."""
        with self._lock:
            keys = {key for host in hosts for key in self._by_host.get(host, ())}
            keys |= {k for k, many in self._many.items() if any(host in many for host in hosts)}
            found = [(self._summaries[key], self._many.get(key)) for key in sorted(keys)]
        return tuple(
            replace(each, hosts=tuple(h for h in hosts if h in (many or each.hosts)))
            for each, many in found
        )

    def with_address(self, address: str) -> tuple[EntrySummary, ...]:
        """The ServiceEntries with an address, written as ours are."""
        with self._lock:
            return tuple(self._summaries[key] for key in self._by_address.get(address, ()))


def _with(index: dict[str, tuple[Key, ...]], value: str, key: Key) -> None:
    index[value] = (*index.get(value, ()), key)


def _without(index: dict[str, tuple[Key, ...]], value: str, key: Key) -> None:
    rest = tuple(each for each in index.pop(value) if each != key)
    if rest:
        index[value] = rest


def same_host(
    key: tuple[str, str],
    entries: Iterable[Entry],
    everywhere: EntryIndex,
    gateway_namespace: str,
) -> tuple[EntrySummary, ...]:
    """Other ServiceEntries with a host of the exposure that its gateway sees.

    The gateway may send the exposure's datagrams to their endpoints.

    Args:
        key: the exposure's (namespace, name).
        entries: the exposure's entries.
        everywhere: all ServiceEntries of the cluster.
        gateway_namespace: the gateway's namespace.
    """
    return tuple(
        other
        for other in everywhere.with_host([entry.host for entry in entries])
        if not other.may_be_of(key, gateway_namespace) and other.visible_in(gateway_namespace)
    )


@dataclass(frozen=True)
class EntryRequest:
    """The input for planning an exposure's entries.

    Attributes:
        key: the exposure's (namespace, name).
        namespace: the namespace for the entries.
        groups: the Service's port numbers, grouped by entry.
        gateway_namespace: the gateway's namespace.
        families: the gateway's address families.
        secret: what the hosts are derived from, known only to those who can read both the
            Service and the gateway.
        kept: the exposure's current entries for the Service.
        everywhere: all ServiceEntries of the cluster.
        service: the Service, as in `Entry.service`.
        beside: the exposure's current and planned entries for other Services.
    """

    key: tuple[str, str]
    namespace: str
    groups: Sequence[tuple[int, ...]]
    gateway_namespace: str
    families: Sequence[str]
    secret: str
    kept: tuple[Entry, ...]
    everywhere: EntryIndex = field(default_factory=EntryIndex)
    service: tuple[str, str] | None = None
    beside: tuple[Entry, ...] = ()

    def has_host(self, host: str) -> bool:
        """Whether a ServiceEntry that does not belong to this exposure has a host."""
        return self._any_other(self.everywhere.with_host([host]))

    def has_address(self, address: str) -> bool:
        """Whether a ServiceEntry that does not belong to this exposure has an address."""
        return self._any_other(self.everywhere.with_address(address))

    def _any_other(self, found: Iterable[EntrySummary]) -> bool:
        return any(not each.may_be_of(self.key, self.gateway_namespace) for each in found)


def plan_entries(request: EntryRequest) -> tuple[Entry, ...]:
    """Plan the entries of an exposure.

    A group of ports keeps the host and addresses of the current entry that has one of its ports,
    so that the gateway's cluster stays the same. It gets a new host if others may know the current
    one: hosts of spec version 1 can be guessed, and users who can read one namespace must not know
    hosts of another.
    """
    guessable = names.guessable_host(*request.key)
    kept = [
        entry
        for entry in request.kept
        if entry.host != guessable and entry.namespace == request.namespace
    ]
    found: list[Entry] = []
    for group in request.groups:
        former = next((entry for entry in kept if set(entry.ports) & set(group)), None)
        if former is not None:
            kept.remove(former)
        else:
            former = _new_entry(request, group, [*request.beside, *kept, *found])
        addresses = _addresses(request, former, [*request.beside, *kept, *found])
        found.append(replace(former, addresses=addresses, ports=group))
    return tuple(found)


def _new_entry(request: EntryRequest, group: tuple[int, ...], others: Sequence[Entry]) -> Entry:
    # The former entry stays until the gateway has the new host, so no datagram is lost.
    existing = [entry for entry in request.kept if entry.namespace == request.namespace]
    used_names = {entry.name for entry in (*existing, *others)}
    used_hosts = {entry.host for entry in others}
    hosts = (host for host in _hosts(request, group[0]) if host not in used_hosts)
    host = next(host for host in hosts if not request.has_host(host))
    name = next(n for n in _names(request.key, group[0]) if n not in used_names)
    return Entry(request.namespace, name, host, (), group, request.service)


def _names(key: tuple[str, str], port: int) -> Iterator[str]:
    """Candidate names for an entry; the dot avoids clashes with other exposures' names."""
    name = names.object_name(*key)
    yield name
    yield f"{name}.{port}"
    yield from (f"{name}.{port}.{number}" for number in itertools.count(2))


def _hosts(request: EntryRequest, port: int) -> Iterator[str]:
    namespace, name = request.key
    for number in itertools.count():
        text = f"{request.secret}/{request.namespace}/{namespace}/{name}/{port}/{number}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
        yield f"{digest}.{names.guessable_host(namespace, name)}"


def _addresses(request: EntryRequest, entry: Entry, others: Iterable[Entry]) -> tuple[str, ...]:
    """The entry's current addresses, and a new one for each family without one."""
    has = {IPV6 if ":" in address else IPV4 for address in entry.addresses}
    lacking = [family for family in sorted(request.families or (IPV4,)) if family not in has]
    if not lacking:
        return entry.addresses
    used = {address for other in others for address in other.addresses}

    def is_free(address: str) -> bool:
        return address not in used and not request.has_address(address)

    return (*entry.addresses, *(_free_address(family, entry.host, is_free) for family in lacking))


def _free_address(family: str, host: str, is_free: Callable[[str], bool]) -> str:
    """The address that the host's hash selects, or the next free one after it."""
    first, size = _RANGES[family]
    start = int.from_bytes(hashlib.sha256(host.encode()).digest()[:16], "big")
    for step in itertools.count():
        address = str(ipaddress.ip_address(first + (start + step) % size))
        if is_free(address):
            return address
    raise AssertionError("unreachable")


def _host(value: object) -> str:
    host = dns_subdomain(value)
    if not host.endswith(names.HOST_SUFFIX):
        raise ValueError(f"{shown(host)} does not end with {names.HOST_SUFFIX}")
    return host


def _address(value: object) -> str:
    if isinstance(value, str) and is_reserved(value):
        return value
    raise ValueError(f"{shown(value)} is not an address for a ServiceEntry")


def is_reserved(address: str) -> bool:
    """Whether an address is in the ranges reserved for exposures' entries."""
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return False
    first, size = _RANGES[IPV6 if number.version == 6 else IPV4]
    return first <= int(number) < first + size
