"""What a Service's annotations wish for, and what its Namespace's annotations allow.

Whoever may edit a Service writes these; nothing of them goes on but through the types here, which
refuse what is too long, malformed or unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    GatewayServiceMode,
    LoadBalancing,
    Options,
)
from kubectl_istio_udp.model.names import QUERY_ANNOTATION, check_dns_subdomain
from kubectl_istio_udp.model.plan import ExposeRequest, rate
from kubectl_istio_udp.model.ports import PortRequest, parse_port_requests, port_number
from kubectl_istio_udp.model.sessions import CAREFUL_SESSIONS

PREFIX = "kubectl-istio-udp/"
EXPOSE_ANNOTATION = f"{PREFIX}expose"
ALLOW_ANNOTATION = f"{PREFIX}allow"
ALLOW_SESSIONS_ANNOTATION = f"{PREFIX}allow-sessions"
# On the objects that the controller makes: what asked for them.
SOURCE_LABEL = f"{PREFIX}source"
# In place of ports: every UDP port of the Service under its own number.
ALL_PORTS = "all"
# An exposure of 100 ports is a long list already; a value of an option is a word.
LONGEST_PORTS, MOST_PORTS, LONGEST_VALUE = 2_000, 100, 320
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")

Choice = TypeVar("Choice", bound=Enum)


@dataclass(frozen=True)
class Permission:
    """What the exposures of a namespace may take of a gateway.

    Attributes:
        ports: the first and the last of each range of gateway ports.
        sessions: the most client ports that one port may have.
        everything: whether nothing is forbidden (a cluster of one tenant).
    """

    ports: tuple[tuple[int, int], ...] = ()
    sessions: int = CAREFUL_SESSIONS
    everything: bool = False

    @classmethod
    def parse(cls, annotations: Mapping[str, str]) -> Permission:
        """Read a Namespace's annotations; none allows nothing.

        Raises:
            UsageError: one cannot be read.
        """
        ports = tuple(
            _port_range(part.strip())
            for part in annotations.get(ALLOW_ANNOTATION, "").split(",")
            if part.strip()
        )
        text = annotations.get(ALLOW_SESSIONS_ANNOTATION, str(CAREFUL_SESSIONS))
        return cls(ports, _whole(ALLOW_SESSIONS_ANNOTATION, text))

    def forbids(self, gateway_port: int) -> bool:
        """Whether a gateway port is not the namespace's to take."""
        return not self.everything and not any(
            first <= gateway_port <= last for first, last in self.ports
        )


ALLOWED_ALL = Permission(everything=True)


def _port_range(text: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(text)
    if not found:
        raise UsageError(f"annotation {ALLOW_ANNOTATION}: {_shown(text)} is no port and no range")
    first = port_number(found[1])
    last = port_number(found[2] or found[1])
    if last < first:
        raise UsageError(f"annotation {ALLOW_ANNOTATION}: the range {text} ends before it begins")
    return first, last


@dataclass(frozen=True)
class About:
    """The object that a wish stands on; what is told of the wish is told of it.

    Attributes:
        kind, api_version, namespace, name, uid: as Events refer to it.
        since: when it was created, as the API writes it: of two wishes the older wins.
    """

    kind: str
    api_version: str
    namespace: str
    name: str
    uid: str = ""
    since: str = ""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> About:
        """Read an object's metadata."""
        metadata = manifest["metadata"]
        return cls(
            kind=manifest["kind"],
            api_version=manifest.get("apiVersion", "v1"),
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            since=metadata.get("creationTimestamp") or "",
        )

    @property
    def rank(self) -> tuple[str, str, str]:
        """What wishes are ordered by, the older first."""
        return (self.since, self.namespace, self.name)


@dataclass(frozen=True)
class Wish:
    """An exposure that somebody declared.

    Attributes:
        request: as `expose` would be asked for it.
        gateway: `[NAMESPACE/]NAME`, None for the only one.
        about: what declared it.
    """

    request: ExposeRequest
    about: About
    gateway: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The exposure's (namespace, name)."""
        return (self.request.namespace, self.request.exposure_name)


def is_wished(service: Mapping[str, Any]) -> bool:
    """Whether a Service asks to be exposed."""
    return EXPOSE_ANNOTATION in (service["metadata"].get("annotations") or {})


def service_wish(service: Mapping[str, Any]) -> Wish:
    """What a Service's annotations wish for.

    Raises:
        UsageError: one is malformed, too long, or not known.
    """
    metadata = service["metadata"]
    notes = dict(metadata.get("annotations") or {})
    ports = _ports(notes.pop(EXPOSE_ANNOTATION))
    notes.pop(QUERY_ANNOTATION, None)
    values = {
        key.removeprefix(PREFIX): _bounded(key, value, LONGEST_VALUE)
        for key, value in notes.items()
        if key.startswith(PREFIX)
    }
    unknown = sorted(set(values) - set(_READERS))
    if unknown:
        raise UsageError(
            f"there is no annotation {PREFIX}{_shown(unknown[0])[1:-1]}",
            hints=[f"those there are: {', '.join(PREFIX + name for name in _READERS)}"],
        )
    read = {name: _READERS[name](PREFIX + name, value) for name, value in values.items()}
    request = ExposeRequest(
        namespace=metadata["namespace"],
        service=metadata["name"],
        ports=ports,
        discovery=read.pop("discovery", None),
        automatic_sessions="max-sessions" not in read,
        expect_rate=read.pop("expect-rate", None),
        options=_options(read),
    )
    return Wish(request, About.of(service), read.get("gateway"))


def _options(read: Mapping[str, Any]) -> Options:
    given = {
        name.replace("-", "_"): value
        for name, value in read.items()
        if name not in ("gateway", "discovery")
    }
    affinity = given.get("affinity", Affinity.NONE)
    return Options(**{"load_balancing": affinity.usual_load_balancing, **given})


def _ports(text: str) -> tuple[PortRequest, ...]:
    text = _bounded(EXPOSE_ANNOTATION, text, LONGEST_PORTS).strip()
    if text == ALL_PORTS:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MOST_PORTS:
        raise UsageError(f"annotation {EXPOSE_ANNOTATION} has more than {MOST_PORTS} ports")
    try:
        return parse_port_requests(parts)
    except UsageError as error:
        raise UsageError(
            f"annotation {EXPOSE_ANNOTATION}: {error.message}",
            hints=['write it like "5300:53" or "5300:53,5301:dns", or "all"'],
        ) from error


def _bounded(name: str, text: str, longest: int) -> str:
    if len(text) > longest:
        raise UsageError(f"annotation {_shown(name)} is longer than {longest} characters")
    return text


def _shown(text: str) -> str:
    """A text of somebody else's in a message: short, and on one line."""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _whole(name: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text.strip()):
        raise UsageError(f"annotation {name}: {_shown(text)} is not a whole number")
    return int(text)


def _rate(name: str, text: str) -> float:
    try:
        return rate(text)
    except UsageError as error:
        raise UsageError(f"annotation {name}: {error.message}") from error


def _truth(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise UsageError(f'annotation {name}: {_shown(text)} is neither "true" nor "false"')
    return text == "true"


def _duration(name: str, text: str) -> Duration:
    try:
        return Duration.parse(text)
    except UsageError as error:
        raise UsageError(f"annotation {name}: {error.message}", hints=error.hints) from error


def _one_of(values: type[Choice], *, but: frozenset[str] = frozenset()) -> Any:
    def read(name: str, text: str) -> Choice:
        known = [member.value for member in values if member.value not in but]
        if text not in known:
            raise UsageError(f"annotation {name}: {_shown(text)} is none of {', '.join(known)}")
        return values(text)

    return read


def _discovery(name: str, text: str) -> Discovery | None:
    if text == "auto":
        return None
    found: Discovery = _one_of(Discovery, but=frozenset({Discovery.DNS.value}))(name, text)
    return found


def _gateway(name: str, text: str) -> str:
    namespace, slash, plain = text.rpartition("/")
    for part in (namespace, plain) if slash else (plain,):
        check_dns_subdomain(part, f"annotation {name}:")
    return text


# One annotation for each option of `expose`, of the same name.
_READERS: Mapping[str, Callable[[str, str], Any]] = {
    "gateway": _gateway,
    "discovery": _discovery,
    "max-sessions": _whole,
    "expect-rate": _rate,
    "idle-timeout": _duration,
    "max-datagram-size": _whole,
    "affinity": _one_of(Affinity),
    "load-balancing": _one_of(LoadBalancing),
    "session-log": _truth,
    "gateway-service": _one_of(GatewayServiceMode),
}
