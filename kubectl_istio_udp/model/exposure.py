"""An exposure: a Service's UDP ports on a gateway, with its settings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.entries import Entry
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.fields import (
    Fields,
    dns_label,
    duration,
    empty_text,
    flag,
    items,
    one_of,
    record,
    whole_number,
)
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.kinds import Kind, ObjectRef
from kubectl_istio_udp.model.ports import Backend, ExposedPort
from kubectl_istio_udp.model.service import (
    Endpoint,
    EndpointSlice,
    Service,
    ServicePort,
    service_port_endpoints,
)
from kubectl_istio_udp.model.spec_annotation import read_spec, write_spec
from kubectl_istio_udp.model.textcache import TextCache

# Linux gives a pod 28,232 ephemeral ports (net.ipv4.ip_local_port_range) for all of its sessions.
MOST_USEFUL_SESSIONS = 28_000
# The longest UDP payload over IPv4 (65,535 less the IP and UDP headers).
LARGEST_DATAGRAM_BYTES = 65_507
_LARGEST_UINT32 = 2**32 - 1
# Versions of the annotation. Version 2 stores each ServiceEntry with its host and addresses; it
# remains the format for exposures of one Service. Version 3 has ports with several backends.
_OF_ONE_SERVICE, _ROUTED = 2, 3
_VERSIONS = (1, _OF_ONE_SERVICE, _ROUTED)
_HASH_LENGTH = 8
# The spec of an exposure with a port has 1,200 characters, that of a Gateway with 25 listeners
# 14,000. Reading the latter takes 5 ms, and each object of the exposure has it.
_CHARACTERS_KEPT = 8_000_000


class Discovery(str, Enum):
    """How the gateway's Envoy gets the endpoint addresses.

    SELECTOR: a ServiceEntry with the Service's selector; istiod publishes the ready pods (EDS).
    ENDPOINTS: a ServiceEntry lists the addresses and must be rewritten when they change (EDS).
    STATIC: the EnvoyFilter lists the addresses; rewriting it ends every session.
    DNS: Envoy resolves the name of an ExternalName Service.
    """

    SELECTOR = "selector"
    ENDPOINTS = "endpoints"
    STATIC = "static"
    DNS = "dns"


class Affinity(str, Enum):
    """What ties a client to one pod: only its session (none), or its source address."""

    NONE = "none"
    SOURCE_IP = "source-ip"

    @property
    def usual_load_balancing(self) -> LoadBalancing:
        """The default load balancing for this affinity."""
        return LoadBalancing.MAGLEV if self is Affinity.SOURCE_IP else LoadBalancing.ROUND_ROBIN


class LoadBalancing(str, Enum):
    """How Envoy selects the pod of a new session; the value is the flag's value."""

    ROUND_ROBIN = "round-robin"
    LEAST_REQUEST = "least-request"
    RANDOM = "random"
    MAGLEV = "maglev"
    RING_HASH = "ring-hash"

    @property
    def hashes(self) -> bool:
        """Whether it hashes the client's address, as source-ip affinity requires."""
        return self in (LoadBalancing.MAGLEV, LoadBalancing.RING_HASH)


class GatewayServiceMode(str, Enum):
    """How clients reach the gateway port.

    COMPANION: a new Service that selects the gateway's pods.
    PATCH: the port is added to the gateway's own Service.
    NONE: nothing is created; clients use the pods' addresses, or another Service.
    """

    COMPANION = "companion"
    PATCH = "patch"
    NONE = "none"


@dataclass(frozen=True)
class Options:
    """The settings of an exposure that have defaults.

    Attributes:
        max_sessions: the maximum concurrent client sessions per port and gateway pod; Envoy's
            circuit breaker drops datagrams of additional clients.
        idle_timeout: how long a session lives without datagrams; at least 1 ms.
        max_datagram_size: the longest payload that passes, in bytes, in both directions.
        affinity, load_balancing: how the pod of a client is selected.
        session_log: whether the gateway logs every session when it ends.
        gateway_service: how clients reach the gateway port.
    """

    max_sessions: int = MOST_USEFUL_SESSIONS
    idle_timeout: Duration = field(default=Duration(10))
    max_datagram_size: int = 9000
    affinity: Affinity = Affinity.NONE
    load_balancing: LoadBalancing = LoadBalancing.ROUND_ROBIN
    session_log: bool = False
    gateway_service: GatewayServiceMode = GatewayServiceMode.COMPANION

    def __post_init__(self) -> None:
        """Reject what Envoy would reject, and settings that would pass no datagram.

        Raises:
            UsageError: a value is out of range, or two values conflict.
        """
        if not 1 <= self.max_sessions <= _LARGEST_UINT32:
            raise UsageError(
                f"max-sessions {self.max_sessions} is not between 1 and {_LARGEST_UINT32}"
            )
        if self.idle_timeout < Duration(0.001):
            raise UsageError("idle-timeout must be at least 1ms")
        if not 1 <= self.max_datagram_size <= LARGEST_DATAGRAM_BYTES:
            raise UsageError(
                f"max-datagram-size {self.max_datagram_size} is not between "
                f"1 and {LARGEST_DATAGRAM_BYTES} (bytes)"
            )
        if (self.affinity is Affinity.SOURCE_IP) != self.load_balancing.hashes:
            raise UsageError(
                f"affinity {self.affinity.value} cannot be combined with "
                f"load-balancing {self.load_balancing.value}",
                hints=["maglev and ring-hash need affinity source-ip; the others work without it"],
            )

    @classmethod
    def from_fields(cls, fields: Fields) -> Options:
        """Read the options from the spec annotation.

        Raises:
            ValueError, UsageError: a field is missing or invalid, or two values conflict.
        """
        usual = cls()
        return cls(
            max_sessions=fields.take(
                "max_sessions", whole_number(1, _LARGEST_UINT32), usual.max_sessions
            ),
            idle_timeout=fields.take("idle_timeout", duration),
            max_datagram_size=fields.take(
                "max_datagram_size",
                whole_number(1, LARGEST_DATAGRAM_BYTES),
                usual.max_datagram_size,
            ),
            affinity=fields.take("affinity", one_of(Affinity)),
            load_balancing=fields.take("load_balancing", one_of(LoadBalancing)),
            session_log=fields.take("session_log", flag, usual.session_log),
            gateway_service=fields.take("gateway_service", one_of(GatewayServiceMode)),
        )


@dataclass(frozen=True)
class PortOptions:
    """The settings of one port, in place of the exposure's.

    Attributes:
        gateway_port: the port.
        options: its settings; `max_sessions` and `gateway_service` are the exposure's.
    """

    gateway_port: int
    options: Options

    @classmethod
    def from_fields(cls, fields: Fields) -> PortOptions:
        """Read them from a spec annotation of version 3.

        Raises:
            ValueError, UsageError: a field is missing or invalid.
        """
        return cls(
            gateway_port=fields.take("gateway_port", whole_number(1, 65_535)),
            options=fields.take("options", record(Options.from_fields)),
        )


@dataclass(frozen=True)
class ExposureSpec:
    """The settings of an exposure, as stored in its objects' annotation.

    Attributes:
        namespace, name: the exposure's name, and the namespace of its Service.
        service: the Service's name; "" if each backend names its own Service, as for a Gateway.
        ports: the exposed ports, at least one.
        gateway: the gateway.
        discovery: how the gateway gets the endpoint addresses.
        options: the settings that have defaults.
        entries: its ServiceEntries; none for static and DNS discovery.
        port_options: the ports of a Gateway's exposure whose routes have other settings.
    """

    namespace: str
    name: str
    service: str
    ports: tuple[ExposedPort, ...]
    gateway: GatewayRef
    discovery: Discovery
    options: Options = field(default_factory=Options)
    entries: tuple[Entry, ...] = ()
    port_options: tuple[PortOptions, ...] = ()

    def __post_init__(self) -> None:
        """Reject a spec without ports, or with entries that may belong to another exposure.

        Raises:
            ValueError: there is no port, a backend without a Service, something appears twice, or
                an entry's namespace or name is wrong.
        """
        if not self.ports:
            raise ValueError("an exposure has at least one port")
        if any((backend.service is None) != bool(self.service) for backend in self.backends):
            raise ValueError("a backend needs a Service: the exposure's or its own")
        if self.service and any(len(port.backends) != 1 for port in self.ports):
            raise ValueError("a port of an exposure of one Service has one backend")
        _check_unique("ports have gateway port", (port.gateway_port for port in self.ports))
        _check_unique("ports have listener port", (port.listener_port for port in self.ports))
        _check_unique("ServiceEntries are", (f"{e.namespace}/{e.name}" for e in self.entries))
        _check_unique("settings are for", (each.gateway_port for each in self.port_options))
        for entry in self.entries:
            if entry.namespace not in (self.namespace, self.gateway.namespace):
                raise ValueError(f"a ServiceEntry in namespace {entry.namespace!r}")
            if not names.is_object_name(entry.name, self.namespace, self.name):
                raise ValueError(f"a ServiceEntry named {entry.name!r}")

    @property
    def object_name(self) -> str:
        """The name of its objects; further ServiceEntries have a suffix after a dot."""
        return names.object_name(self.namespace, self.name)

    # Cached, as below: every decision about a gateway adds up all exposures there.
    @cached_property
    def backends(self) -> tuple[Backend, ...]:
        """The backends of all ports."""
        return tuple(backend for port in self.ports for backend in port.backends)

    @property
    def services(self) -> frozenset[tuple[str, str]]:
        """(namespace, name) of each Service that its backends are ports of."""
        default = (self.namespace, self.service)
        return frozenset(backend.service or default for backend in self.backends)

    def proxy_name(self, port: ExposedPort) -> str:
        """The name of a port's listener in Envoy, and its stat prefix."""
        return f"{self.object_name}-{port.gateway_port}"

    def cluster_name(self, port: ExposedPort, backend: Backend) -> str:
        """The name of a backend's cluster in Envoy.

        In an exposure of one Service it is the listener's name. It does not depend on weights or
        on other backends, so that these can change without ending the backend's sessions.
        """
        if backend.service is None:
            return self.proxy_name(port)
        text = "/".join([*backend.service, str(backend.port)])
        digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
        return f"{self.proxy_name(port)}.{digest}"

    def options_of(self, port: ExposedPort) -> Options:
        """The settings of a port."""
        of_port = (
            each.options for each in self.port_options if each.gateway_port == port.gateway_port
        )
        return next(of_port, self.options)

    @property
    def listener_names(self) -> frozenset[str]:
        """The names of its listeners in Envoy."""
        return frozenset(self.proxy_name(port) for port in self.ports)

    @property
    def cluster_names(self) -> frozenset[str]:
        """The names of its clusters in Envoy."""
        return frozenset(
            self.cluster_name(port, backend) for port in self.ports for backend in port.backends
        )

    def entry_backends(self, entry: Entry) -> tuple[Backend, ...]:
        """The backends whose endpoints an entry lists; per Service port only the last of them."""
        by_number = {
            backend.port: backend
            for backend in self.backends
            if backend.eds_service is None and backend.service == entry.service
        }
        return tuple(by_number[number] for number in entry.ports if number in by_number)

    def eds_service(self, backend: Backend) -> str | None:
        """The name under which istiod publishes a backend's endpoints (EDS); None without EDS."""
        if backend.eds_service:
            return backend.eds_service
        hosts = [
            entry.host
            for entry in self.entries
            if backend.port in entry.ports and backend.service == entry.service
        ]
        return f"outbound|{backend.port}||{hosts[0]}" if hosts else None

    @property
    def routed(self) -> bool:
        """Whether it is the exposure of a Gateway: its routes name the Services."""
        return not self.service

    @cached_property
    def key(self) -> tuple[str, str]:
        """(namespace, name), unique among exposures."""
        return (self.namespace, self.name)

    @cached_property
    def sessions(self) -> int:
        """The maximum sessions of all its clusters together in one gateway pod."""
        return len(self.serving) * self.options.max_sessions

    @cached_property
    def serving(self) -> tuple[Backend, ...]:
        """The backends that get clients."""
        return tuple(backend for backend in self.backends if backend.weight)

    @property
    def kind(self) -> Kind:
        """Kind.EXPOSURE."""
        return Kind.EXPOSURE

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """The objects it consists of, in writing order."""
        entries = [ObjectRef("ServiceEntry", e.namespace, e.name) for e in self.entries]
        found = [*entries, ObjectRef("EnvoyFilter", self.gateway.namespace, self.object_name)]
        if self.options.gateway_service is GatewayServiceMode.COMPANION:
            found.append(ObjectRef("Service", self.gateway.namespace, self.object_name))
        return tuple(found)

    @property
    def possible_locations(self) -> frozenset[tuple[str, str]]:
        """(kind, namespace) of every object that it may have, with any current or former options.

        Its ServiceEntry may be in its own namespace or in the gateway's.
        """
        at_gateway = ("ServiceEntry", "EnvoyFilter", "Service")
        found = [(kind, self.gateway.namespace) for kind in at_gateway]
        return frozenset([*found, ("ServiceEntry", self.namespace)])

    def to_json(self) -> str:
        """The annotation's value: versioned JSON with sorted keys; equal specs give equal text."""
        return self._json

    @cached_property
    def _json(self) -> str:
        # Cached: every object of the exposure has it, and the controller renders on every change.
        data = asdict(self)
        data["options"]["idle_timeout"] = self.options.idle_timeout.envoy()
        if not self.service:
            data["ports"] = [port.to_routed_data() for port in self.ports]
            for each, given in zip(data["port_options"], self.port_options, strict=True):
                each["options"]["idle_timeout"] = given.options.idle_timeout.envoy()
            return write_spec(data, _ROUTED)
        del data["port_options"]
        data["ports"] = [port.to_data() for port in self.ports]
        for entry in data["entries"]:
            del entry["service"]
        return write_spec(data, _OF_ONE_SERVICE)

    @classmethod
    def from_json(cls, text: object) -> ExposureSpec:
        """Read the annotation.

        Raises:
            ClusterError: another version wrote it, or it was edited by hand.
        """
        return _specs(text) if isinstance(text, str) else _read(text)

    @classmethod
    def _from_fields(cls, fields: Fields) -> ExposureSpec:
        routed = fields.version == _ROUTED
        entry = record(Entry.from_routed_fields if routed else Entry.from_fields)
        port = record(ExposedPort.from_routed_fields if routed else ExposedPort.from_fields)
        options = items(record(PortOptions.from_fields))
        listed = fields.take("entries", items(entry)) if fields.version > 1 else ()
        found = cls(
            namespace=fields.take("namespace", dns_label),
            name=fields.take("name", dns_label),
            service=fields.take("service", empty_text if routed else dns_label),
            ports=fields.take("ports", items(port)),
            gateway=fields.take("gateway", record(GatewayRef.from_fields)),
            discovery=fields.take("discovery", one_of(Discovery)),
            options=fields.take("options", record(Options.from_fields)),
            entries=listed,
            port_options=fields.take("port_options", options, ()) if routed else (),
        )
        return found if fields.version > 1 else _with_entry_of_version_1(found)


def _check_unique(what: str, values: Iterable[object]) -> None:
    """Reject duplicate values.

    Raises:
        ValueError: `two WHAT VALUE`.
    """
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"two {what} {value}")
        seen.add(value)


def _read(text: object) -> ExposureSpec:
    return read_spec(text, Kind.EXPOSURE, ExposureSpec._from_fields, _VERSIONS)


_specs = TextCache(_read, _CHARACTERS_KEPT)


def _with_entry_of_version_1(spec: ExposureSpec) -> ExposureSpec:
    """Add the entry that version 1 implied: in the Service's namespace, without addresses."""
    numbers = tuple(dict.fromkeys(b.port for b in spec.backends if b.eds_service is None))
    if not numbers or spec.discovery not in (Discovery.SELECTOR, Discovery.ENDPOINTS):
        return spec
    host = names.guessable_host(*spec.key)
    entry = Entry(spec.namespace, spec.object_name, host, (), numbers)
    return replace(spec, entries=(entry,))


Endpoints = Mapping[tuple[tuple[str, str] | None, int], tuple[Endpoint, ...]]


def exposed_endpoints(
    spec: ExposureSpec,
    service: Service | None,
    slices: Iterable[EndpointSlice],
    families: Sequence[str],
    of: tuple[str, str] | None = None,
) -> dict[tuple[tuple[str, str] | None, int], tuple[Endpoint, ...]]:
    """The current endpoints of a Service's backends, by `Backend.key`.

    Args:
        spec: the exposure.
        service: the Service; None if it does not exist.
        slices: the Service's EndpointSlices.
        families: the gateway's address families, the preferred one first.
        of: the Service, as in `Backend.service`.
    """
    slices = tuple(slices)
    return {
        backend.key: service_port_endpoints(service, slices, former_port(backend), families)
        for backend in spec.backends
        if backend.service == of
    }


def former_port(backend: Backend) -> ServicePort:
    """The Service port of a backend, as it was when the exposure was written."""
    return ServicePort(backend.port, backend.port_name, "UDP", backend.target_port or 0)


@dataclass(frozen=True)
class Exposure:
    """An exposure and the current facts that rendering needs.

    Attributes:
        spec: the settings.
        families: the gateway's address families, the primary one first.
        selector: the Service's selector.
        external_name: the DNS name of an ExternalName Service.
        endpoints: the endpoints by `Backend.key`, ready or not.
        gateway_service: the manifest of the gateway's Service; None if there is none.
    """

    spec: ExposureSpec
    families: tuple[str, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    external_name: str | None = None
    endpoints: Endpoints = field(default_factory=dict)
    gateway_service: Mapping[str, Any] | None = None

    def ready_endpoints(self, backend: Backend) -> tuple[Endpoint, ...]:
        """The endpoints of a backend that get new sessions.

        If none is ready, these are the terminating ones that still serve, as in kube-proxy
        (KEP-1669): an answer from a terminating pod is better than none. With discovery by selector
        istiod does not do this.
        """
        endpoints = self.endpoints.get(backend.key, ())
        ready = tuple(e for e in endpoints if e.ready)
        if ready or self.spec.discovery is Discovery.SELECTOR:
            return ready
        return tuple(e for e in endpoints if e.serving and e.terminating)
