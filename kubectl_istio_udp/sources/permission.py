"""What the exposures of a namespace may use of a gateway, as set by its administrator.

Annotations of the Namespace set this; the default is the controller's (`--namespace-default`) or
the one in SETTINGS.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.model.annotation_values import (
    PREFIX,
    bounded,
    duration,
    one_of,
    parts,
    shown,
    truth,
    whole,
)
from kubectl_istio_udp.model.endpointrules import Network
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import (
    Discovery,
    ExposureSpec,
    GatewayServiceMode,
    Options,
)
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.model.names import check_dns_subdomain
from kubectl_istio_udp.model.ports import port_number
from kubectl_istio_udp.model.request import ExposeRequest

LONGEST_SETTING = 4_000
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


@dataclass(frozen=True)
class Use:
    """What an exposure uses of a gateway, or requests.

    Attributes:
        ports: its gateway ports.
        options: its settings.
        automatic_sessions: whether the controller chooses the number of sessions.
        discovery: how the gateway gets the endpoint addresses; None if the controller chooses.
        gateway: the gateway; None if it is not chosen yet.
    """

    ports: tuple[int, ...]
    options: Options
    automatic_sessions: bool = False
    discovery: Discovery | None = None
    gateway: GatewayRef | None = None

    @classmethod
    def of_request(cls, request: ExposeRequest, udp_ports: tuple[int, ...]) -> Use:
        """What a request needs; `udp_ports` are the Service's, used if the request has none.

        A Gateway's ports are not included: each listener is decided separately.
        """
        if not request.service:
            udp_ports = ()
        ports = tuple(port.gateway_port for port in request.ports) or udp_ports
        return cls(ports, request.options, request.automatic_sessions, request.discovery)

    @classmethod
    def of_spec(cls, spec: ExposureSpec) -> Use:
        """What an existing exposure uses."""
        ports = tuple(port.gateway_port for port in spec.ports)
        return cls(ports, spec.options, False, spec.discovery, spec.gateway)


@dataclass(frozen=True)
class Permission:
    """What the exposures of a namespace may use of a gateway.

    Attributes:
        ports: the first and the last of each range of gateway ports.
        sessions: the maximum of `max-sessions` per port.
        total_ports: the maximum number of ports of all exposures together; the oldest Services
            get theirs first.
        total_sessions: the maximum number of sessions of all exposures together.
        gateways: `[NAMESPACE/]NAME` of each allowed gateway; empty for all.
        gateway_services: the allowed values of gateway-service.
        discoveries: the allowed values of discovery.
        endpoints: address ranges allowed as endpoints, in addition to the namespace's own pods.
        session_log: whether the gateway may log every session.
        idle_timeouts: the shortest and the longest idle timeout, in seconds.
        everything: whether everything is allowed (a cluster with one tenant).
        decided: the names of the settings that an administrator set.
    """

    ports: tuple[tuple[int, int], ...]
    sessions: int
    total_ports: int
    total_sessions: int
    gateways: tuple[str, ...]
    gateway_services: frozenset[GatewayServiceMode]
    discoveries: frozenset[Discovery]
    endpoints: tuple[Network, ...]
    session_log: bool
    idle_timeouts: tuple[float, float]
    everything: bool = False
    decided: frozenset[str] = frozenset()

    @classmethod
    def parse(
        cls, annotations: Mapping[str, str], defaults: Mapping[str, str] | None = None
    ) -> Permission:
        """Read a Namespace's annotations.

        Args:
            annotations: of the Namespace; annotations of other tools are ignored.
            defaults: the controller's defaults by setting name (`allow-sessions`).

        Raises:
            UsageError: a value is malformed, or a setting is unknown: a misspelled limit must not
                leave the default in place.
        """
        unknown = sorted(name for name in annotations if is_setting(name) and name not in _NAMES)
        if unknown:
            raise UsageError(
                f"unknown annotation {shown(unknown[0])[1:-1]} on the Namespace",
                hints=[f"supported: {', '.join(_NAMES)}"],
            )
        given = {**(defaults or {})}
        for setting in SETTINGS:
            if (text := annotations.get(PREFIX + setting.name)) is not None:
                given[setting.name] = text
        values = {s.field: s.parse(given.get(s.name, s.default)) for s in SETTINGS}
        return cls(**values, decided=frozenset(given))

    def forbids(self, gateway_port: int) -> bool:
        """Whether the namespace may not use a gateway port."""
        return not self.everything and not any(
            first <= gateway_port <= last for first, last in self.ports
        )

    def port_objection(self, gateway_port: int) -> str:
        """Why the namespace may not use a gateway port; "" if it may."""
        if not self.forbids(gateway_port):
            return ""
        return _with_annotation("allow", f"gateway port {gateway_port} is not allowed")

    def allows_gateway(self, ref: GatewayRef) -> bool:
        """Whether the namespace may use a gateway."""
        named = {ref.name, f"{ref.namespace}/{ref.name}"}
        return self.everything or not self.gateways or bool(named & set(self.gateways))

    def objection(self, use: Use) -> str:
        """Why a request is not allowed; "" if it is."""
        return next((_with_annotation(*found) for found in self._objections(use)), "")

    def withdrawn(self, use: Use) -> str:
        """Why an existing exposure is no longer allowed; "" if it still is.

        The program's defaults do not withdraw anything. Only settings of an administrator do, and
        ports, which no namespace has by default.
        """
        counting = {"allow", *self.decided}
        found = (each for each in self._objections(use) if each[0] in counting)
        return next((_with_annotation(*each) for each in found), "")

    def _objections(self, use: Use) -> Iterator[tuple[str, str]]:
        """The settings that a use violates, with the message for each."""
        if self.everything:
            return
        for port in filter(self.forbids, use.ports):
            yield "allow", f"gateway port {port} is not allowed"
            break
        if use.gateway and not self.allows_gateway(use.gateway):
            yield "allow-gateways", f"gateway {use.gateway} is not allowed"
        requested = use.options.max_sessions
        if not use.automatic_sessions and requested > self.sessions:
            yield (
                "allow-sessions",
                f"{requested} sessions for each port exceed the {self.sessions} allowed",
            )
        mode = use.options.gateway_service
        if mode not in self.gateway_services:
            yield "allow-gateway-service", f"gateway-service {mode.value} is not allowed"
        if use.discovery is not None and use.discovery not in self.discoveries:
            yield "allow-discovery", f"discovery {use.discovery.value} is not allowed"
        if use.options.session_log and not self.session_log:
            yield "allow-session-log", "a session log is not allowed"
        shortest, longest = self.idle_timeouts
        idle = use.options.idle_timeout
        if not shortest <= idle.seconds <= longest:
            yield (
                "allow-idle-timeout",
                f"idle timeout {idle} is not between {shortest:g}s and {longest:g}s",
            )


def _with_annotation(name: str, text: str) -> str:
    return f"{text} (annotation {PREFIX}{name} on the Namespace)"


def named_setting(text: str) -> tuple[str, str]:
    """Read `NAME=VALUE`, a default for all Namespaces, e.g. `allow-sessions=2000`.

    Raises:
        UsageError: the setting is unknown, or the value is malformed.
    """
    name, equals, value = text.partition("=")
    setting = next((each for each in SETTINGS if each.name == name), None)
    if setting is None or not equals:
        raise UsageError(
            f"--namespace-default {shown(text)} is not NAME=VALUE of a known setting",
            hints=[f"settings: {', '.join(each.name for each in SETTINGS)}"],
        )
    try:
        setting.parse(value)
    except UsageError as error:
        text = error.message.replace(f"annotation {PREFIX}{name}", f"--namespace-default {name}", 1)
        raise UsageError(text, hints=error.hints) from error
    return name, value


# -- the settings -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One setting for administrators.

    Attributes:
        name: the annotation's name without the prefix.
        field: the field of Permission that it sets.
        default: the default value, in the annotation's format.
        read: parses a value, given the annotation's name; raises UsageError.
        meaning: the description for the docs.
    """

    name: str
    field: str
    default: str
    read: Callable[[str, str], Any]
    meaning: str

    def parse(self, text: str) -> Any:
        """Read a value.

        Raises:
            UsageError: it is malformed or too long.
        """
        name = PREFIX + self.name
        return self.read(name, bounded(name, text, LONGEST_SETTING))


def is_setting(annotation: str) -> bool:
    """Whether an annotation of a Namespace is for the controller, known or not."""
    return annotation.startswith(f"{PREFIX}allow")


def _port_ranges(name: str, text: str) -> tuple[tuple[int, int], ...]:
    return tuple(_port_range(name, part) for part in parts(text))


def _port_range(name: str, text: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(text)
    if not found:
        raise UsageError(f"annotation {name}: {shown(text)} is neither a port nor a port range")
    first = port_number(found[1], f"annotation {name}: port")
    last = port_number(found[2] or found[1], f"annotation {name}: port")
    if last < first:
        raise UsageError(f"annotation {name}: the range {text} ends before it begins")
    return first, last


def _address_ranges(name: str, text: str) -> tuple[Network, ...]:
    return tuple(_address_range(name, part) for part in parts(text))


def _address_range(name: str, text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(
            f"annotation {name}: {shown(text)} is not a range of addresses",
            hints=['write it like "192.0.2.0/24" or "192.0.2.7,2001:db8::/64"'],
        ) from error


def _gateways(name: str, text: str) -> tuple[str, ...]:
    if text.strip() == "all":
        return ()
    found = tuple(parts(text))
    if not found:
        raise UsageError(f'annotation {name} is empty; write NAMESPACE/NAME, or "all"')
    for each in found:
        for part in each.split("/", 1):
            check_dns_subdomain(part, f"annotation {name}:")
    return found


def _modes(name: str, text: str) -> frozenset[GatewayServiceMode]:
    return frozenset(one_of(GatewayServiceMode)(name, part) for part in parts(text))


def _discoveries(name: str, text: str) -> frozenset[Discovery]:
    known = [each for each in Discovery if each is not Discovery.DNS]
    found = frozenset(one_of(known)(name, part) for part in parts(text))
    if not found:
        raise UsageError(f"annotation {name} is empty")
    return found


def _idle_timeouts(name: str, text: str) -> tuple[float, float]:
    first, dash, last = text.partition("-")
    shortest = duration(name, first).seconds
    longest = duration(name, last).seconds if dash else shortest
    if longest < shortest:
        raise UsageError(f"annotation {name}: the range {shown(text)} ends before it begins")
    return shortest, longest


SETTINGS = (
    Setting("allow", "ports", "", _port_ranges, "gateway ports: `5300-5399,6000`"),
    Setting("allow-sessions", "sessions", "4000", whole, "the maximum of `max-sessions`"),
    Setting("allow-total-ports", "total_ports", "100", whole, "ports of all exposures together"),
    Setting(
        "allow-total-sessions",
        "total_sessions",
        "8000",
        whole,
        "sessions of all exposures together, over all ports",
    ),
    Setting("allow-gateways", "gateways", "all", _gateways, "gateways, `NAMESPACE/NAME` each"),
    Setting(
        "allow-gateway-service",
        "gateway_services",
        "companion,none",
        _modes,
        "values of `gateway-service`; `patch` changes the Service that everybody uses",
    ),
    Setting(
        "allow-discovery",
        "discoveries",
        "endpoints",
        _discoveries,
        "values of `discovery`; `auto` chooses among them",
    ),
    Setting(
        "allow-endpoints",
        "endpoints",
        "",
        _address_ranges,
        "ranges of addresses that may be endpoints, besides the namespace's own pods",
    ),
    Setting(
        "allow-session-log",
        "session_log",
        "false",
        truth,
        "whether `session-log` may be `true`: a line in the gateway's log for every session",
    ),
    Setting(
        "allow-idle-timeout",
        "idle_timeouts",
        "1s-5m",
        _idle_timeouts,
        "the shortest and the longest `idle-timeout`",
    ),
)
_NAMES = tuple(PREFIX + setting.name for setting in SETTINGS)
ALLOWED_ALL = Permission(
    **{setting.field: setting.parse(setting.default) for setting in SETTINGS}, everything=True
)
