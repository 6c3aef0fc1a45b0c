"""Read the requests in Services' annotations.

Anyone who may edit a Service can write these. The types here reject what is too long, malformed
or unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kubectl_istio_udp.model.about import About
from kubectl_istio_udp.model.annotation_values import (
    PREFIX,
    bounded,
    duration,
    one_of,
    shown,
    truth,
    whole,
)
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    GatewayServiceMode,
    LoadBalancing,
    Options,
)
from kubectl_istio_udp.model.names import EXPOSE_ANNOTATION, QUERY_ANNOTATION, check_namespaced_name
from kubectl_istio_udp.model.ports import MOST_PORTS, PortRequest, parse_port_requests
from kubectl_istio_udp.model.request import ExposeRequest, rate

# Instead of a list of ports: every UDP port of the Service, under its own number.
ALL_PORTS = "all"
# Generous limits: 100 ports and ranges make a long list, and the value of an option is a word.
LONGEST_PORTS, MOST_PARTS, LONGEST_VALUE = 2_000, 100, 320


@dataclass(frozen=True)
class Intent:
    """A declared exposure.

    Attributes:
        request: the equivalent request to `expose`.
        about: the object that declares it.
        gateway: `[NAMESPACE/]NAME`; None for the only gateway.
        udp_ports: the UDP port numbers of the Service, if all of them are requested, or of the
            Gateway.
        own_gateway: whether the gateway is made for this exposure alone.
        gateway_kind: the kind of the object that `gateway` names; "" for any.
        generation: metadata.generation of a Gateway, whose spec decides more than this request,
            e.g. which routes attach; 0 for a Service.
    """

    request: ExposeRequest
    about: About
    gateway: str | None = None
    udp_ports: tuple[int, ...] = ()
    own_gateway: bool = False
    gateway_kind: str = ""
    generation: int = 0

    @property
    def gateway_ports(self) -> tuple[int, ...]:
        """The requested gateway ports."""
        return tuple(port.gateway_port for port in self.request.ports) or self.udp_ports

    @property
    def key(self) -> tuple[str, str]:
        """The exposure's (namespace, name)."""
        return (self.request.namespace, self.request.exposure_name)


def is_requested(service: Mapping[str, Any]) -> bool:
    """Whether a Service requests an exposure."""
    return EXPOSE_ANNOTATION in (service["metadata"].get("annotations") or {})


def service_intent(service: Mapping[str, Any]) -> Intent:
    """Read the request in a Service's annotations.

    Raises:
        UsageError: an annotation is malformed, too long or unknown.
    """
    metadata = service["metadata"]
    notes = dict(metadata.get("annotations") or {})
    ports = read_ports(notes.pop(EXPOSE_ANNOTATION))
    udp_ports = () if ports else _udp_ports(service)
    notes.pop(QUERY_ANNOTATION, None)
    expose_options = read_options(notes, _READERS)
    request = ExposeRequest(
        namespace=metadata["namespace"],
        service=metadata["name"],
        ports=ports,
        discovery=expose_options.discovery,
        automatic_sessions=expose_options.automatic_sessions,
        expect_rate=expose_options.expect_rate,
        options=expose_options.options,
    )
    return Intent(request, About.of(service), expose_options.gateway, udp_ports)


@dataclass(frozen=True)
class ExposeOptions:
    """The options in the annotations of an object.

    Attributes:
        options: the options that the exposure has.
        automatic_sessions: whether no number of sessions is given.
        expect_rate, discovery, gateway: as the options of `expose`; None if not given.
    """

    options: Options
    automatic_sessions: bool
    expect_rate: float | None
    discovery: Discovery | None
    gateway: str | None


def read_options(notes: Mapping[str, str], supported: Iterable[str]) -> ExposeOptions:
    """Read the options in annotations.

    Args:
        notes: the object's annotations; those of other tools are ignored.
        supported: the names, without prefix, of the options that this kind of object can have.

    Raises:
        UsageError: an annotation is malformed, too long or unknown.
    """
    values = {
        key.removeprefix(PREFIX): bounded(key, value, LONGEST_VALUE)
        for key, value in notes.items()
        if key.startswith(PREFIX)
    }
    unknown = sorted(set(values) - set(supported))
    if unknown:
        name = f"{PREFIX}{shown(unknown[0])[1:-1]}"
        raise UsageError(
            f"annotation {name} does not apply to this kind of object"
            if unknown[0] in _READERS
            else f"unknown annotation {name}",
            hints=[f"supported: {', '.join(PREFIX + name for name in supported)}"],
        )
    read = {name: _READERS[name](PREFIX + name, value) for name, value in values.items()}
    others = ("gateway", "discovery", "expect-rate")
    given = {name.replace("-", "_"): value for name, value in read.items() if name not in others}
    affinity = given.get("affinity", Affinity.NONE)
    return ExposeOptions(
        options=Options(**{"load_balancing": affinity.usual_load_balancing, **given}),
        automatic_sessions="max-sessions" not in read,
        expect_rate=read.get("expect-rate"),
        discovery=read.get("discovery"),
        gateway=read.get("gateway"),
    )


def option_annotations(request: ExposeRequest, gateway: str) -> dict[str, str]:
    """The annotations that request the same options: the inverse of `read_options`.

    Options with their default have none.

    Args:
        request: the request.
        gateway: `NAMESPACE/NAME`.
    """
    options, usual = request.options, Options()
    sessions, rate = not request.automatic_sessions, request.expect_rate
    found: dict[str, object] = {
        "gateway": gateway,
        "max-sessions": options.max_sessions if sessions else None,
        "expect-rate": f"{rate:g}" if rate is not None else None,
        "idle-timeout": _unusual(options.idle_timeout, usual.idle_timeout),
        "max-datagram-size": _unusual(options.max_datagram_size, usual.max_datagram_size),
        "affinity": _unusual(options.affinity, usual.affinity),
        "load-balancing": _unusual(options.load_balancing, options.affinity.usual_load_balancing),
        "session-log": "true" if options.session_log else None,
        "gateway-service": _unusual(options.gateway_service, usual.gateway_service),
    }
    return {f"{PREFIX}{name}": str(each) for name, each in found.items() if each is not None}


def _unusual(value: object, usual: object) -> object:
    """The text of a value; None for the default."""
    if value == usual:
        return None
    return value.value if isinstance(value, Enum) else str(value)


def read_ports(text: str) -> tuple[PortRequest, ...]:
    """Read the ports in the annotation of a Service; none for all of the Service's.

    Raises:
        UsageError: it is malformed or too long.
    """
    text = bounded(EXPOSE_ANNOTATION, text, LONGEST_PORTS).strip()
    if text == ALL_PORTS:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MOST_PARTS:
        raise UsageError(f"annotation {EXPOSE_ANNOTATION} has more than {MOST_PARTS} ports")
    try:
        return parse_port_requests(parts)
    except UsageError as error:
        raise UsageError(
            f"annotation {EXPOSE_ANNOTATION}: {error.message}",
            hints=['write it like "5300:53" or "5300:53,5301:dns", or "all"'],
        ) from error


def _rate(name: str, text: str) -> float:
    try:
        return rate(text)
    except UsageError as error:
        raise UsageError(f"annotation {name}: {error.message}") from error


def _udp_ports(service: Mapping[str, Any]) -> tuple[int, ...]:
    """The Service's UDP ports; their number is checked before anything else uses them."""
    ports = (service.get("spec") or {}).get("ports") or ()
    found = tuple(port["port"] for port in ports if port.get("protocol") == "UDP")
    if len(found) > MOST_PORTS:
        raise UsageError(
            f"annotation {EXPOSE_ANNOTATION}: the Service has more than {MOST_PORTS} UDP ports, "
            "the maximum of an exposure",
            hints=["list the ports to expose"],
        )
    return found


def _discovery(name: str, text: str) -> Discovery | None:
    if text == "auto":
        return None
    return one_of([each for each in Discovery if each is not Discovery.DNS])(name, text)


def _gateway(name: str, text: str) -> str:
    return check_namespaced_name(text, f"annotation {name}:")


# One annotation for each option of `expose`, with the same name.
_READERS: Mapping[str, Callable[[str, str], Any]] = {
    "gateway": _gateway,
    "discovery": _discovery,
    "max-sessions": whole,
    "expect-rate": _rate,
    "idle-timeout": duration,
    "max-datagram-size": whole,
    "affinity": one_of(Affinity),
    "load-balancing": one_of(LoadBalancing),
    "session-log": truth,
    "gateway-service": one_of(GatewayServiceMode),
}
# Routes have their endpoints listed, wherever their Services are.
GATEWAY_OPTIONS = tuple(name for name in _READERS if name != "discovery")
# A route may not have what the Gateway shares among its listeners: the gateway and its sessions.
ROUTE_OPTIONS = ("idle-timeout", "max-datagram-size", "affinity", "load-balancing", "session-log")
