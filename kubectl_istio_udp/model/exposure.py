"""An exposure: a Service's UDP ports on a gateway, and every choice that goes with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.annotation import read_spec, write_spec
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.entries import Entry
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.fields import (
    Fields,
    dns_label,
    duration,
    flag,
    items,
    one_of,
    record,
    whole_number,
)
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.kinds import Kind, ObjectRef
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.service import (
    Endpoint,
    EndpointSlice,
    Service,
    ServicePort,
    service_port_endpoints,
)

# Linux gives a pod 28,232 ephemeral ports (net.ipv4.ip_local_port_range) for all of its sessions.
MOST_USEFUL_SESSIONS = 28_000
# A UDP payload over IPv4 cannot be longer (65,535 less the IP and UDP headers).
LARGEST_DATAGRAM_BYTES = 65_507
_LARGEST_UINT32 = 2**32 - 1
# The versions of the annotation. 2: each ServiceEntry with its host and addresses.
_VERSIONS = (1, 2)
# Read specs are kept: more than a gateway has memory for, and no longer ones than people make.
_SPECS_KEPT, _LONGEST_KEPT = 2048, 8192


class Discovery(str, Enum):
    """How the gateway's Envoy learns the pods' addresses.

    SELECTOR: a ServiceEntry with the Service's selector; istiod publishes the ready pods (EDS).
    ENDPOINTS: a ServiceEntry that lists the addresses; fresh when it is rewritten (EDS).
    STATIC: the addresses are in the EnvoyFilter itself; rewriting them ends every session.
    DNS: the name of an ExternalName Service, resolved by Envoy.
    """

    SELECTOR = "selector"
    ENDPOINTS = "endpoints"
    STATIC = "static"
    DNS = "dns"


class Affinity(str, Enum):
    """What keeps a client on one pod: nothing beyond its session, or its source address."""

    NONE = "none"
    SOURCE_IP = "source-ip"

    @property
    def usual_load_balancing(self) -> LoadBalancing:
        """What goes with it where nothing else is said."""
        return LoadBalancing.MAGLEV if self is Affinity.SOURCE_IP else LoadBalancing.ROUND_ROBIN


class LoadBalancing(str, Enum):
    """Which pod a new session gets; the value is what the flag is given."""

    ROUND_ROBIN = "round-robin"
    LEAST_REQUEST = "least-request"
    RANDOM = "random"
    MAGLEV = "maglev"
    RING_HASH = "ring-hash"

    @property
    def hashes(self) -> bool:
        """Whether it chooses by a hash of the client, as source-ip affinity needs."""
        return self in (LoadBalancing.MAGLEV, LoadBalancing.RING_HASH)


class GatewayServiceMode(str, Enum):
    """How clients reach the gateway's new port.

    COMPANION: a Service of our own that selects the gateway's pods.
    PATCH: the port is added to the gateway's own Service.
    NONE: not our business; clients use the pods' addresses, or a Service someone else made.
    """

    COMPANION = "companion"
    PATCH = "patch"
    NONE = "none"


@dataclass(frozen=True)
class Options:
    """Every limit and choice of an exposure that has a default.

    Attributes:
        max_sessions: client ports that one gateway pod serves at once, for each port; Envoy's
            circuit breaker drops the datagrams of further ones.
        idle_timeout: how long a client port without datagrams keeps its session, longer than 0.
        max_datagram_size: the longest payload that passes, in bytes, both ways.
        affinity, load_balancing: which pod a client gets.
        session_log: whether the gateway writes a line for every session that ends.
        gateway_service: how clients reach the port.
    """

    max_sessions: int = MOST_USEFUL_SESSIONS
    idle_timeout: Duration = field(default=Duration(10))
    max_datagram_size: int = 9000
    affinity: Affinity = Affinity.NONE
    load_balancing: LoadBalancing = LoadBalancing.ROUND_ROBIN
    session_log: bool = False
    gateway_service: GatewayServiceMode = GatewayServiceMode.COMPANION

    def __post_init__(self) -> None:
        """Refuse what Envoy would refuse, or what could never pass a datagram.

        Raises:
            UsageError: a value is out of range, or two do not go together.
        """
        if not 1 <= self.max_sessions <= _LARGEST_UINT32:
            raise UsageError(f"--max-sessions {self.max_sessions} is not in 1..{_LARGEST_UINT32}")
        if self.idle_timeout < Duration(0.001):
            raise UsageError("--idle-timeout must be at least 1ms")
        if not 1 <= self.max_datagram_size <= LARGEST_DATAGRAM_BYTES:
            raise UsageError(
                f"--max-datagram-size {self.max_datagram_size} is not in "
                f"1..{LARGEST_DATAGRAM_BYTES} (bytes)"
            )
        if (self.affinity is Affinity.SOURCE_IP) != self.load_balancing.hashes:
            raise UsageError(
                f"--affinity {self.affinity.value} cannot be combined with "
                f"--load-balancing {self.load_balancing.value}",
                hints=["maglev and ring-hash need --affinity source-ip; the others work without"],
            )

    @classmethod
    def from_fields(cls, fields: Fields) -> Options:
        """Read the options of a spec annotation.

        Raises:
            ValueError, UsageError: a field is missing or wrong, or two do not go together.
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
class ExposureSpec:
    """What an exposure is, as its objects' annotation keeps it; everything else is derived.

    Attributes:
        namespace, name: the exposure's own name, in the Service's namespace.
        service: the Service's name.
        ports: its ports at the gateway, at least one.
        gateway: which gateway.
        discovery: how addresses are found, decided.
        options: the limits and choices.
        entries: its ServiceEntries; none for static and DNS discovery.
    """

    namespace: str
    name: str
    service: str
    ports: tuple[ExposedPort, ...]
    gateway: GatewayRef
    discovery: Discovery
    options: Options = field(default_factory=Options)
    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is not an exposure.

        Raises:
            ValueError: it has no port, or an entry that another exposure could have.
        """
        if not self.ports:
            raise ValueError("an exposure has at least one port")
        for entry in self.entries:
            if entry.namespace not in (self.namespace, self.gateway.namespace):
                raise ValueError(f"a ServiceEntry in namespace {entry.namespace!r}")
            if not names.is_object_name(entry.name, self.namespace, self.name):
                raise ValueError(f"a ServiceEntry named {entry.name!r}")

    @property
    def object_name(self) -> str:
        """The name of its objects; further ServiceEntries have a suffix after a dot."""
        return names.object_name(self.namespace, self.name)

    def proxy_name(self, port: ExposedPort) -> str:
        """The name of a port's listener and of its cluster in Envoy, and its stat prefix."""
        return f"{self.object_name}-{port.gateway_port}"

    def entry_ports(self, entry: Entry) -> tuple[ExposedPort, ...]:
        """The ports whose endpoints an entry lists; of several for one Service port the last."""
        there = {port.service_port: port for port in self.ports if port.eds_service is None}
        return tuple(there[number] for number in entry.ports if number in there)

    def eds_service(self, port: ExposedPort) -> str | None:
        """The name under which istiod publishes a port's endpoints (EDS), if it does."""
        if port.eds_service:
            return port.eds_service
        hosts = [entry.host for entry in self.entries if port.service_port in entry.ports]
        return f"outbound|{port.service_port}||{hosts[0]}" if hosts else None

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name), which no other exposure has."""
        return (self.namespace, self.name)

    @property
    def sessions(self) -> int:
        """The sessions that it may hold in one gateway pod, over all of its ports."""
        return len(self.ports) * self.options.max_sessions

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
    def possible_places(self) -> frozenset[tuple[str, str]]:
        """(kind, namespace) of every object that it may have, whatever its options are or were.

        Its ServiceEntry may be in its own namespace or in the gateway's.
        """
        at_gateway = ("ServiceEntry", "EnvoyFilter", "Service")
        found = [(kind, self.gateway.namespace) for kind in at_gateway]
        return frozenset([*found, ("ServiceEntry", self.namespace)])

    def to_json(self) -> str:
        """The annotation: versioned JSON, sorted, so that the same spec is the same text."""
        return self._json

    @cached_property
    def _json(self) -> str:
        # Each of an exposure's objects carries it, and a controller renders them at every change.
        data = asdict(self)
        data["options"]["idle_timeout"] = self.options.idle_timeout.envoy()
        return write_spec(data, _VERSIONS[-1])

    @classmethod
    def from_json(cls, text: object) -> ExposureSpec:
        """Read the annotation.

        Raises:
            ClusterError: another version wrote it, or someone edited it.
        """
        if isinstance(text, str) and len(text) <= _LONGEST_KEPT:
            return cls._read(text)
        return read_spec(text, Kind.EXPOSURE, cls._from_fields, _VERSIONS)

    @classmethod
    @lru_cache(maxsize=_SPECS_KEPT)
    def _read(cls, text: str) -> ExposureSpec:
        return read_spec(text, Kind.EXPOSURE, cls._from_fields, _VERSIONS)

    @classmethod
    def _from_fields(cls, fields: Fields) -> ExposureSpec:
        listed = (
            fields.take("entries", items(record(Entry.from_fields))) if fields.version > 1 else ()
        )
        found = cls(
            namespace=fields.take("namespace", dns_label),
            name=fields.take("name", dns_label),
            service=fields.take("service", dns_label),
            ports=fields.take("ports", items(record(ExposedPort.from_fields))),
            gateway=fields.take("gateway", record(GatewayRef.from_fields)),
            discovery=fields.take("discovery", one_of(Discovery)),
            options=fields.take("options", record(Options.from_fields)),
            entries=listed,
        )
        return found if fields.version > 1 else _with_entry_of_version_1(found)


def _with_entry_of_version_1(spec: ExposureSpec) -> ExposureSpec:
    """With the ServiceEntry that version 1 implied: in the Service's namespace, without address."""
    numbers = tuple(dict.fromkeys(p.service_port for p in spec.ports if p.eds_service is None))
    if not numbers or spec.discovery not in (Discovery.SELECTOR, Discovery.ENDPOINTS):
        return spec
    host = names.guessable_host(*spec.key)
    entry = Entry(spec.namespace, spec.object_name, host, (), numbers)
    return replace(spec, entries=(entry,))


def exposed_endpoints(
    spec: ExposureSpec,
    service: Service | None,
    slices: Iterable[EndpointSlice],
    families: Sequence[str],
) -> dict[int, tuple[Endpoint, ...]]:
    """The endpoints of an exposure's ports as they are now, by Service port number.

    Args:
        spec: the exposure.
        service: its Service; None where it is gone.
        slices: the Service's EndpointSlices.
        families: what the gateway can reach, the preferred one first.
    """
    slices = tuple(slices)
    former = {
        p.service_port: ServicePort(p.service_port, p.service_port_name, "UDP", p.target_port or 0)
        for p in spec.ports
    }
    return {
        number: service_port_endpoints(service, slices, port, families)
        for number, port in former.items()
    }


@dataclass(frozen=True)
class Exposure:
    """An exposure with the facts of the moment: all that rendering needs.

    Attributes:
        spec: what is wanted.
        families: the gateway's address families, the primary one first.
        selector: the Service's selector.
        external_name: the name of an ExternalName Service.
        endpoints: the endpoints by Service port number, ready or not.
        gateway_service: the manifest of the Service in front of the gateway, if any.
    """

    spec: ExposureSpec
    families: tuple[str, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    external_name: str | None = None
    endpoints: Mapping[int, tuple[Endpoint, ...]] = field(default_factory=dict)
    gateway_service: Mapping[str, Any] | None = None

    def ready_endpoints(self, port: ExposedPort) -> tuple[Endpoint, ...]:
        """The endpoints of a port that take new sessions.

        Where none is ready, those that are on their way out and still answer: kube-proxy does the
        same (KEP-1669), and an answer from a leaving pod is better than none. istiod, which finds
        them by selector, does not.
        """
        there = self.endpoints.get(port.service_port, ())
        ready = tuple(e for e in there if e.ready)
        if ready or self.spec.discovery is Discovery.SELECTOR:
            return ready
        return tuple(e for e in there if e.serving and e.terminating)
