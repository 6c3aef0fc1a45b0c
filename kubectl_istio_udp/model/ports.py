"""Ports: parsing `-p GATEWAY_PORT[:SERVICE_PORT]`, and the ports of an exposure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.fields import (
    Fields,
    items,
    optional,
    port,
    record,
    service_key,
    text,
    whole_number,
)
from kubectl_istio_udp.model.shares import (
    Share,
    check_shares,
    read_shares,
    usual_shares,
    write_shares,
)

# Gateway containers lack NET_BIND_SERVICE; Linux lets them bind ports from here on
# (the default of net.ipv4.ip_unprivileged_port_start).
FIRST_UNPRIVILEGED_PORT = 1024
# Added to a port that the gateway's Envoy may not bind. Clients still use the low port on the
# gateway's Service, as with Istio's own 80 -> 8080.
PRIVILEGED_PORT_OFFSET = 10_000

_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
# A Service's port may be unnamed. For eds_service the name is that of an istiod cluster.
_port_name = text(re.compile(rf"(?:{_PORT_NAME.pattern})?"), "the name of a port", 63)
_eds_service = text(
    re.compile(r"outbound\|[0-9]{1,5}\|[-A-Za-z0-9_.]*\|[-A-Za-z0-9.]+"),
    "the name of an istiod cluster",
    400,
)
_NUMBER = re.compile("[0-9]{1,9}")
_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
# An EnvoyFilter with 500 ports has 941 kB (measured); etcd accepts objects of up to 1.5 MB.
MOST_PORTS = 500
# The Gateway API allows 16 backends of a weight up to 1,000,000 each; Envoy takes a 32-bit sum.
MOST_WEIGHT = 16_000_000
_FORM = (
    "write -p GATEWAY_PORT or -p GATEWAY_PORT:SERVICE_PORT, for example -p 5300:53; "
    "a range is written -p 20000-20031 or -p 20000-20031:30000-30031"
)
_REMOVE_FORM = (
    "write --remove-port GATEWAY_PORT, for example --remove-port 5300; "
    "a range is written --remove-port 20000-20031"
)


def port_number(text: str, what: str = "port", form: str = _FORM) -> int:
    """Read a port number.

    Args:
        text: what the user typed.
        what: the name of the value in error messages.
        form: the hint of the error for what is not a number.

    Raises:
        UsageError: it is not a whole number from 1 to 65535.
    """
    if not _NUMBER.fullmatch(text):
        raise UsageError(f"{what} {text!r} is not a number", hints=[form])
    number = int(text)
    if not 1 <= number <= 65535:
        raise UsageError(f"{what} {text} is out of range", hints=["ports go from 1 to 65535"])
    return number


@dataclass(frozen=True)
class PortRequest:
    """One `-p`: a gateway port and the Service's port.

    Attributes:
        gateway_port: 1 to 65535.
        service_port: the Service's port by number (int) or name (str); None for the default.
    """

    gateway_port: int
    service_port: int | str | None = None

    @classmethod
    def parse(cls, text: str) -> PortRequest:
        """Read `5300`, `5300:53` or `5300:dns`.

        Raises:
            UsageError: a part is missing, not a port, or out of range.
        """
        gateway, colon, service = text.partition(":")
        gateway_port = port_number(gateway, "gateway port")
        if not colon:
            return cls(gateway_port)
        if not service:
            raise UsageError(
                f"{text!r}: the Service's port after the colon is missing", hints=[_FORM]
            )
        if _NUMBER.fullmatch(service):
            return cls(gateway_port, port_number(service, "Service port"))
        if not _PORT_NAME.fullmatch(service) or not re.search("[a-z]", service):
            raise UsageError(
                f"Service port {service!r} is neither a number nor the name of a port",
                hints=[_FORM],
            )
        return cls(gateway_port, service)


def parse_port_requests(texts: Sequence[str]) -> tuple[PortRequest, ...]:
    """Parse all `-p` values of a command line: `5300`, `5300:53`, `5300:dns`, or a range of ports.

    `20000-20031` uses the same Service port numbers, `20000-20031:30000-30031` uses as many others
    in the same order, and `20000-20031:53` sends all gateway ports to one Service port.

    Args:
        texts: the value of each `-p`.

    Returns:
        One request per gateway port, in the order given.

    Raises:
        UsageError: a value is malformed, a gateway port is repeated, or there are more than
            MOST_PORTS.
    """
    requests: list[PortRequest] = []
    seen: set[int] = set()
    for request in chain.from_iterable(map(_expand, texts)):
        if request.gateway_port in seen:
            raise UsageError(
                f"gateway port {request.gateway_port} is given twice",
                hints=["use a different gateway port for each -p"],
            )
        seen.add(request.gateway_port)
        requests.append(request)
        check_port_count(len(requests))
    return tuple(requests)


def check_port_count(count: int) -> None:
    """Reject more ports than an EnvoyFilter can hold.

    Raises:
        UsageError: there are more than MOST_PORTS.
    """
    if count > MOST_PORTS:
        raise UsageError(
            f"an exposure can have at most {MOST_PORTS} ports",
            hints=["expose the Service several times: --name NAME -p FIRST-LAST"],
        )


def _expand(text: str) -> Iterator[PortRequest]:
    """The requests from one `-p`."""
    gateway, colon, service = text.partition(":")
    if not _RANGE.fullmatch(gateway):
        yield PortRequest.parse(text)
        return
    numbers = _port_range(gateway, "gateway port")
    if not colon:
        yield from (PortRequest(number, number) for number in numbers)
    elif _RANGE.fullmatch(service):
        targets = _port_range(service, "Service port")
        if len(targets) != len(numbers):
            raise UsageError(
                f"-p {text}: {gateway} has {len(numbers)} ports and {service} has {len(targets)}",
                hints=[_FORM],
            )
        yield from map(PortRequest, numbers, targets)
    else:
        target = PortRequest.parse(f"{numbers[0]}:{service}").service_port
        yield from (PortRequest(number, target) for number in numbers)


def parse_removed_ports(texts: Iterable[str]) -> tuple[int, ...]:
    """Parse all `--remove-port` values of a command line: `5300`, or a range `20000-20031`.

    Raises:
        UsageError: a value is neither a port nor a range.
    """
    return tuple(number for text in texts for number in _removed(text))


def _removed(text: str) -> Iterable[int]:
    what = "gateway port"
    if _RANGE.fullmatch(text):
        return _port_range(text, what, _REMOVE_FORM)
    return (port_number(text, what, _REMOVE_FORM),)


def _port_range(text: str, what: str, form: str = _FORM) -> range:
    """Parse `20000-20031`: all numbers from the first to the last.

    Args:
        text, what, form: as for `port_number`.

    Raises:
        UsageError: it is not a range, a number is not a port, or the range is reversed.
    """
    found = _RANGE.fullmatch(text)
    if not found:
        raise UsageError(f"{what} {text!r} is not a range", hints=[form])
    first, last = (port_number(number, what, form) for number in found.groups())
    if last < first:
        raise UsageError(f"the range {text} ends before it begins", hints=[form])
    return range(first, last + 1)


def listener_port(gateway_port: int, first_bindable: int) -> int:
    """The port that the gateway's Envoy binds for a gateway port.

    Args:
        gateway_port: the port that clients use.
        first_bindable: the lowest port that the gateway's pods may bind.

    Raises:
        UsageError: neither the port nor its replacement may be bound.
    """
    if gateway_port >= first_bindable:
        return gateway_port
    translated = gateway_port + PRIVILEGED_PORT_OFFSET
    if not first_bindable <= translated <= 65535:
        raise UsageError(
            f"the gateway may bind neither port {gateway_port} nor its replacement {translated}",
            hints=[f"its pods may bind ports from {first_bindable} on"],
        )
    return translated


def bound_as(gateway_port: int) -> frozenset[int]:
    """The ports that the Envoys of gateways may bind for a gateway port: see `listener_port`."""
    return frozenset((gateway_port, gateway_port + PRIVILEGED_PORT_OFFSET))


@dataclass(frozen=True)
class Backend:
    """A UDP port of a Service that gets a share of the clients of an exposed port.

    Attributes:
        port: the Service's port number.
        port_name: the name of the Service's port, which EndpointSlices contain; "" if it has none.
        target_port: the port in the pods; None if it differs between pods (endpoints have it).
        eds_service: the name of an existing endpoint list in istiod, that of the Service's TCP
            port with the same number (`outbound|53||coredns.default.svc.cluster.local`). None if
            the exposure's ServiceEntry provides the endpoints.
        weight: its share, relative to the other backends of the port. 0 for a backend whose cluster
            is there before or after it gets clients.
        service: (namespace, name) of the Service; None for the exposure's own Service.
    """

    port: int
    port_name: str = ""
    target_port: int | None = None
    eds_service: str | None = None
    weight: int = 1
    service: tuple[str, str] | None = None

    @classmethod
    def from_fields(cls, fields: Fields) -> Backend:
        """Read a backend from a spec annotation of version 3.

        Raises:
            ValueError: a field is missing or invalid.
        """
        return cls(
            port=fields.take("port", port),
            port_name=fields.take("port_name", _port_name),
            target_port=fields.take("target_port", optional(port)),
            eds_service=fields.take("eds_service", optional(_eds_service)),
            weight=fields.take("weight", whole_number(0, MOST_WEIGHT)),
            service=fields.take("service", service_key),
        )

    @property
    def key(self) -> tuple[tuple[str, str] | None, int]:
        """Its Service and port, unique among the backends of an exposed port."""
        return (self.service, self.port)

    @property
    def entry_port_name(self) -> str:
        """The name of the port in the ServiceEntry."""
        return f"port-{self.port}"


@dataclass(frozen=True)
class ExposedPort:
    """One exposed UDP port.

    Attributes:
        gateway_port: the port that clients use, on the gateway's Service.
        listener_port: the port that the gateway's Envoy binds; differs from gateway_port only for
            ports that the gateway may not bind.
        backends: the backends that share the clients; in an exposure of one Service exactly one.
        dropped: the weight of clients without a backend, relative to the backends' weights.
        shares: which clients each backend has, in the order of their numbers, the highest first;
            empty for the usual shares (model/shares.py).
    """

    gateway_port: int
    listener_port: int
    backends: tuple[Backend, ...]
    dropped: int = 0
    shares: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        """Reject invalid ports, which an edited annotation may contain.

        Raises:
            ValueError: a number is missing or out of range, two backends are the same, or the
                shares do not divide the clients.
        """
        numbers = [self.gateway_port, self.listener_port, *(b.port for b in self.backends)]
        for number in numbers:
            if not isinstance(number, int) or not 1 <= number <= 65535:
                raise ValueError(f"{number!r} is not a port")
        if len({backend.key for backend in self.backends}) < len(self.backends):
            raise ValueError("two backends are the same")
        if self.shares:
            check_shares(self.shares, len(self.backends))

    @classmethod
    def of(
        cls,
        gateway_port: int,
        listener_port: int,
        service_port: int,
        service_port_name: str = "",
        target_port: int | None = None,
        eds_service: str | None = None,
    ) -> ExposedPort:
        """A port of an exposure of one Service; see Backend."""
        backend = Backend(service_port, service_port_name, target_port, eds_service)
        return cls(gateway_port, listener_port, (backend,))

    @classmethod
    def from_fields(cls, fields: Fields) -> ExposedPort:
        """Read a port from a spec annotation of version 1 or 2.

        Raises:
            ValueError: a field is missing or invalid.
        """
        return cls.of(
            gateway_port=fields.take("gateway_port", port),
            listener_port=fields.take("listener_port", port),
            service_port=fields.take("service_port", port),
            service_port_name=fields.take("service_port_name", _port_name, ""),
            target_port=fields.take("target_port", optional(port), None),
            eds_service=fields.take("eds_service", optional(_eds_service), None),
        )

    @classmethod
    def from_routed_fields(cls, fields: Fields) -> ExposedPort:
        """Read a port from a spec annotation of version 3.

        Raises:
            ValueError: a field is missing or invalid.
        """
        return cls(
            gateway_port=fields.take("gateway_port", port),
            listener_port=fields.take("listener_port", port),
            backends=fields.take("backends", items(record(Backend.from_fields))),
            dropped=fields.take("dropped", whole_number(0, MOST_WEIGHT)),
            shares=fields.take("shares", read_shares, ()),
        )

    def to_data(self) -> dict[str, object]:
        """The port in a spec annotation of version 2."""
        backend = self.backends[0]
        return {
            "gateway_port": self.gateway_port,
            "listener_port": self.listener_port,
            "service_port": backend.port,
            "service_port_name": backend.port_name,
            "target_port": backend.target_port,
            "eds_service": backend.eds_service,
        }

    def to_routed_data(self) -> dict[str, object]:
        """The port in a spec annotation of version 3; earlier releases do not know `shares`."""
        data = asdict(self)
        del data["shares"]
        return {**data, "shares": write_shares(self.shares)} if self.shares else data

    @property
    def usual_shares(self) -> tuple[Share, ...]:
        """The shares without regard to former ones."""
        return usual_shares([backend.weight for backend in self.backends], self.dropped)

    @property
    def service_port(self) -> int:
        """The port number of its only backend; 0 if it has none or several."""
        return self.backends[0].port if len(self.backends) == 1 else 0

    @property
    def service_port_name(self) -> str:
        """The port name of its only backend; "" if it has none."""
        return self.backends[0].port_name if len(self.backends) == 1 else ""

    @property
    def eds_service(self) -> str | None:
        """The endpoint list of its only backend; see Backend."""
        return self.backends[0].eds_service if len(self.backends) == 1 else None

    def __str__(self) -> str:
        """The ports in kubectl's format: `5300:53/UDP`, or `5300/UDP` without a single backend."""
        target = f":{self.service_port}" if self.service_port else ""
        return f"{self.gateway_port}{target}/UDP"


def port_runs(ports: Sequence[ExposedPort]) -> list[list[ExposedPort]]:
    """Group ports that one `-p` can describe: a range, with a range or one as Service ports."""
    runs: list[list[ExposedPort]] = []
    for each in ports:
        if runs and _continues(runs[-1], each):
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


def _continues(run: Sequence[ExposedPort], port: ExposedPort) -> bool:
    if not (port.service_port and run[-1].service_port):
        return False
    step = port.service_port - run[-1].service_port
    steps = {run[1].service_port - run[0].service_port} if len(run) > 1 else {0, 1}
    return port.gateway_port == run[-1].gateway_port + 1 and step in steps


def ports_text(ports: Sequence[ExposedPort]) -> list[str]:
    """The ports as tables show them, consecutive ones as a range: `20000-20031:20000-20031/UDP`."""
    return [str(run[0]) if len(run) == 1 else _run_text(run) for run in port_runs(ports)]


def _run_text(run: Sequence[ExposedPort]) -> str:
    targets = number_ranges(port.service_port for port in run)
    return f"{number_ranges(port.gateway_port for port in run)}:{targets}/UDP"


def number_ranges(numbers: Iterable[int]) -> str:
    """Distinct numbers as text, consecutive ones as a range: `53,20000-20031`."""
    ranges: list[list[int]] = []
    for number in dict.fromkeys(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in ranges)
