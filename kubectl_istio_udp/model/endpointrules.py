"""Which addresses may become endpoints of an exposure.

A gateway can connect to addresses that a tenant must not: nodes, the cloud's metadata service, the
API server, other tenants' pods. Whoever can write a Service and its EndpointSlices chooses their
addresses, so this module checks them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from kubectl_istio_udp.model.service import Endpoint, EndpointSlice, Pod

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The clouds' metadata services outside the link-local range: AWS, Google Cloud and Alibaba Cloud
# (their documentation of instance metadata).
_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200")
)
# Their names (documentation of Google Cloud and AWS).
_METADATA_NAMES = frozenset(
    ("metadata.google.internal", "metadata", "instance-data.ec2.internal", "instance-data")
)
# IPv6 prefixes whose last 32 bits are an IPv4 address that a translator or the kernel sends to:
# IPv4-compatible (RFC 4291) and NAT64 (RFC 6052, RFC 8215).
_WITH_IPV4 = tuple(
    ipaddress.IPv6Network(text) for text in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48")
)
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")


@dataclass(frozen=True)
class EndpointRules:
    """The rules for one namespace.

    Attributes:
        api_server: the addresses of the API server.
        pods: the addresses of the namespace's running pods; other addresses are not allowed.
            None allows any address.
        ranges: additional ranges that the administrator allowed.
    """

    api_server: frozenset[str] = frozenset()
    pods: Container[str] | None = None
    ranges: tuple[Network, ...] = field(default=())

    def objection(self, address: str) -> str | None:
        """Why an address may not be an endpoint, e.g. `a loopback address`; None if it may."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return "not an IP address"
        for each in (parsed, *_inside(parsed)):
            special = _special(each)
            if special or str(each) in self.api_server:
                return special or "an address of the API server"
        if self.pods is None or str(parsed) in self.pods:
            return None
        if any(parsed.version == net.version and parsed in net for net in self.ranges):
            return None
        return "not the address of a running pod of the namespace"

    def allowing(self, addresses: Iterable[str]) -> EndpointRules:
        """The same rules, with these addresses allowed in addition, except special ones."""
        more = tuple(ipaddress.ip_network(text) for text in canonical(addresses))
        return replace(self, ranges=(*self.ranges, *more))

    def following(self, pods: Iterable[Pod]) -> EndpointRules:
        """The rules for endpoints that istiod finds itself, from these pods.

        A pod on the host's network has its node's address, which may be the API server's: then the
        gateway sends to the pod.
        """
        nodes = canonical(address for pod in pods for address in pod.node_addresses)
        return replace(self, api_server=self.api_server - nodes)

    def name_objection(self, name: str) -> str | None:
        """Why the name of an ExternalName Service may not be an endpoint; None if it may.

        Envoy takes an IP address for a name. Where a name leads is only known when it is resolved.
        """
        plain = name.lower().rstrip(".")
        try:
            return self.objection(str(ipaddress.ip_address(plain)))
        except ValueError:
            labels = plain.split(".")
        # RFC 6761: localhost, and names below it.
        if labels[-1] == "localhost":
            return "a loopback name"
        service, namespace = API_SERVER_SERVICE[::-1]
        if labels[:3] in ([service, namespace], [service, namespace, "svc"]):
            return "the name of the API server"
        if plain in _METADATA_NAMES:
            return "the name of a cloud's metadata service"
        return None

    def permitted(self, endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
        """The endpoints whose addresses are allowed."""
        return tuple(e for e in endpoints if self.objection(e.address) is None)

    def objections(self, slices: Iterable[EndpointSlice]) -> dict[str, str]:
        """The addresses in EndpointSlices that are not allowed, each with the reason."""
        addresses = {endpoint.address for each in slices for endpoint in each.endpoints}
        found = {address: self.objection(address) for address in sorted(addresses)}
        return {address: reason for address, reason in found.items() if reason}


def summary(objections: Mapping[str, str]) -> str:
    """`10.9.0.2 (and 4 more): it is a multicast address`, from `EndpointRules.objections`.

    Args:
        objections: at least one address, with the reason.
    """
    address, reason = next(iter(objections.items()))
    more = f" (and {len(objections) - 1} more)" if len(objections) > 1 else ""
    return f"{address}{more}: it is {reason}"


ANY_ADDRESS = EndpointRules()
# The Service of the API server.
API_SERVER_SERVICE = ("default", "kubernetes")


def api_server_addresses(
    service: Mapping[str, Any] | None, slices: Iterable[EndpointSlice]
) -> frozenset[str]:
    """The addresses of the API server, from its Service's manifest and its EndpointSlices."""
    spec = (service or {}).get("spec") or {}
    cluster_ips = {*(spec.get("clusterIPs") or ()), spec.get("clusterIP")}
    endpoints = {endpoint.address for each in slices for endpoint in each.endpoints}
    return frozenset(filter(None, cluster_ips | endpoints))


def canonical(addresses: Iterable[str]) -> set[str]:
    """Addresses in canonical form, so that equal ones compare equal; invalid ones are dropped."""
    found = set()
    for text in addresses:
        with suppress(ValueError):
            found.add(str(ipaddress.ip_address(text)))
    return found


def _inside(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses embedded in an IPv6 address."""
    if address.version == 4:
        return
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    if address.sixtofour:
        yield address.sixtofour
    if any(address in network for network in _WITH_IPV4):
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _special(address: Address) -> str | None:
    if address.is_unspecified or (address.version == 4 and address in _THIS_NETWORK):
        return "an unspecified address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if address in _METADATA:
        return "the address of a cloud's metadata service"
    if address.version == 4 and address.is_reserved:
        return "a broadcast or reserved address"
    return None
