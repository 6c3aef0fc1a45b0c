"""Ports: what `-p GATEWAY_PORT[:SERVICE_PORT]` says and what it becomes on a gateway."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.fields import Fields, optional, port, text

# A gateway container has no NET_BIND_SERVICE; Linux lets it bind ports from here on
# (net.ipv4.ip_unprivileged_port_start's default).
FIRST_UNPRIVILEGED_PORT = 1024
# Added to a port that the gateway's Envoy may not bind: clients still use the low port, on the
# gateway's Service, as Istio itself does with 80 -> 8080.
PRIVILEGED_PORT_OFFSET = 10_000

_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
# A Service's port may have no name; istiod's names are those of its clusters.
_port_name = text(re.compile(rf"(?:{_PORT_NAME.pattern})?"), "the name of a port", 63)
_eds_service = text(
    re.compile(r"outbound\|[0-9]{1,5}\|[-A-Za-z0-9_.]*\|[-A-Za-z0-9.]+"),
    "the name of a cluster of Istio's",
    400,
)
_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
# An EnvoyFilter of 500 ports has 941 kB (measured); etcd takes objects of up to 1.5 MB.
MOST_PORTS = 500
_FORM = (
    "write -p GATEWAY_PORT or -p GATEWAY_PORT:SERVICE_PORT, for example -p 5300:53; "
    "a range is written -p 20000-20031 or -p 20000-20031:30000-30031"
)


def port_number(text: str, what: str = "port") -> int:
    """Read a port number.

    Args:
        text: what the user typed.
        what: what to call it in the error.

    Raises:
        UsageError: not a whole number from 1 to 65535.
    """
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(f"{what} {text!r} is not a number", hints=[_FORM])
    number = int(text)
    if not 1 <= number <= 65535:
        raise UsageError(f"{what} {text} is out of range", hints=["ports go from 1 to 65535"])
    return number


@dataclass(frozen=True)
class PortRequest:
    """One `-p`: a port that clients use at the gateway, and the Service's port behind it.

    Attributes:
        gateway_port: 1 to 65535.
        service_port: the Service's port by number (int) or name (str); None where the user
            named none.
    """

    gateway_port: int
    service_port: int | str | None = None

    @classmethod
    def parse(cls, text: str) -> PortRequest:
        """Read `5300`, `5300:53` or `5300:dns`.

        Raises:
            UsageError: a part is missing, no port, or out of range.
        """
        gateway, colon, service = text.partition(":")
        gateway_port = port_number(gateway, "gateway port")
        if not colon:
            return cls(gateway_port)
        if not service:
            raise UsageError(
                f"-p {text!r}: the Service's port after the colon is missing", hints=[_FORM]
            )
        if re.search("[a-z]", service):
            if not _PORT_NAME.fullmatch(service):
                raise UsageError(
                    f"-p {text}: {service!r} is neither a port number nor a port name",
                    hints=[_FORM],
                )
            return cls(gateway_port, service)
        return cls(gateway_port, port_number(service, "Service port"))


def parse_port_requests(texts: Sequence[str]) -> tuple[PortRequest, ...]:
    """Read every `-p` of a command line: `5300`, `5300:53`, `5300:dns`, or a range of ports.

    `20000-20031` means the Service's ports of the same numbers, `20000-20031:30000-30031` as many
    others in the same order, `20000-20031:53` one port behind all of them.

    Args:
        texts: the values, one for each `-p`.

    Returns:
        One request for each gateway port, in the order given.

    Raises:
        UsageError: one is malformed, two name the same gateway port, or there are more than
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
    """Reject an exposure of more ports than its EnvoyFilter can hold.

    Raises:
        UsageError: there are more than MOST_PORTS.
    """
    if count > MOST_PORTS:
        raise UsageError(
            f"an exposure can have at most {MOST_PORTS} ports",
            hints=["expose the Service several times: --name NAME -p FIRST-LAST"],
        )


def _expand(text: str) -> Iterator[PortRequest]:
    """The requests of one `-p`."""
    gateway, colon, service = text.partition(":")
    if not _RANGE.fullmatch(gateway):
        yield PortRequest.parse(text)
        return
    numbers = port_range(gateway, "gateway port")
    if not colon:
        yield from (PortRequest(number, number) for number in numbers)
    elif _RANGE.fullmatch(service):
        targets = port_range(service, "Service port")
        if len(targets) != len(numbers):
            raise UsageError(
                f"-p {text}: {gateway} has {len(numbers)} ports and {service} has {len(targets)}",
                hints=[_FORM],
            )
        yield from map(PortRequest, numbers, targets)
    else:
        target = PortRequest.parse(f"{numbers[0]}:{service}").service_port
        yield from (PortRequest(number, target) for number in numbers)


def port_numbers(text: str, what: str) -> range:
    """Read `5300` or `20000-20031`.

    Raises:
        UsageError: it is neither.
    """
    if _RANGE.fullmatch(text):
        return port_range(text, what)
    number = port_number(text, what)
    return range(number, number + 1)


def port_range(text: str, what: str) -> range:
    """Read `20000-20031`: all numbers from the first to the last.

    Raises:
        UsageError: it is no range, a number is no port, or the last comes before the first.
    """
    found = _RANGE.fullmatch(text)
    if not found:
        raise UsageError(f"{what} {text!r} is not a range", hints=[_FORM])
    first, last = (port_number(number, what) for number in found.groups())
    if last < first:
        raise UsageError(f"the range {text} ends before it begins", hints=[_FORM])
    return range(first, last + 1)


def listener_port(gateway_port: int, first_bindable: int) -> int:
    """The port that the gateway's Envoy binds for a port that clients use.

    Args:
        gateway_port: the port at the gateway's Service.
        first_bindable: the lowest port the gateway's pods may bind.

    Raises:
        UsageError: it may bind neither that port nor the one it would be translated to.
    """
    if gateway_port >= first_bindable:
        return gateway_port
    translated = gateway_port + PRIVILEGED_PORT_OFFSET
    if not first_bindable <= translated <= 65535:
        raise UsageError(
            f"the gateway may bind neither port {gateway_port} nor {translated} in its place",
            hints=[f"its pods may bind ports from {first_bindable} on"],
        )
    return translated


@dataclass(frozen=True)
class ExposedPort:
    """One UDP port of a Service, on its way through a gateway.

    Attributes:
        gateway_port: where clients send to, on the Service in front of the gateway.
        listener_port: what the gateway's Envoy binds; differs from gateway_port only for
            ports that the gateway may not bind.
        service_port: the Service's port number.
        service_port_name: the Service's name for it ("" where it has none); EndpointSlices
            carry it.
        target_port: the pods' port; None where pods differ, so that every endpoint says its own.
        eds_service: istiod's name of an endpoint list that already follows the Service's pods
            (`outbound|53||coredns.default.svc.cluster.local`), where the Service has a TCP port
            of the same number; None where the exposure's own ServiceEntry gives it.
    """

    gateway_port: int
    listener_port: int
    service_port: int
    service_port_name: str = ""
    target_port: int | None = None
    eds_service: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no port; an annotation that someone edited may hold anything.

        Raises:
            ValueError: a number is missing or out of range.
        """
        for number in (self.gateway_port, self.listener_port, self.service_port):
            if not isinstance(number, int) or not 1 <= number <= 65535:
                raise ValueError(f"{number!r} is no port")

    @classmethod
    def from_fields(cls, fields: Fields) -> ExposedPort:
        """Read a port of a spec annotation.

        Raises:
            ValueError: a field is missing or wrong.
        """
        return cls(
            gateway_port=fields.take("gateway_port", port),
            listener_port=fields.take("listener_port", port),
            service_port=fields.take("service_port", port),
            service_port_name=fields.take("service_port_name", _port_name, ""),
            target_port=fields.take("target_port", optional(port), None),
            eds_service=fields.take("eds_service", optional(_eds_service), None),
        )

    @property
    def entry_port_name(self) -> str:
        """The port's name in the ServiceEntry."""
        return f"port-{self.service_port}"

    def __str__(self) -> str:
        """As kubectl prints ports: `5300:53/UDP`."""
        return f"{self.gateway_port}:{self.service_port}/UDP"


def port_runs(ports: Sequence[ExposedPort]) -> list[list[ExposedPort]]:
    """Group the ports that one `-p` can name: consecutive, with as many Service ports or one."""
    runs: list[list[ExposedPort]] = []
    for each in ports:
        if runs and _continues(runs[-1], each):
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


def _continues(run: Sequence[ExposedPort], port: ExposedPort) -> bool:
    step = port.service_port - run[-1].service_port
    steps = {run[1].service_port - run[0].service_port} if len(run) > 1 else {0, 1}
    return port.gateway_port == run[-1].gateway_port + 1 and step in steps


def ports_text(ports: Sequence[ExposedPort]) -> list[str]:
    """The ports as tables show them, consecutive ones as a range: `20000-20031:20000-20031/UDP`."""
    return [
        f"{number_ranges(port.gateway_port for port in run)}:"
        f"{number_ranges(port.service_port for port in run)}/UDP"
        for run in port_runs(ports)
    ]


def number_ranges(numbers: Iterable[int]) -> str:
    """Numbers with consecutive ones as a range: `53,20000-20031`. Each is shown once."""
    ranges: list[list[int]] = []
    for number in dict.fromkeys(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in ranges)
