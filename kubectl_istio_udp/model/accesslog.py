"""An access log: lines that proxies write periodically of long TCP connections."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.annotation import read_spec, write_spec
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.fields import Fields, dns_label, duration, labels, one_of
from kubectl_istio_udp.model.kinds import Kind, ObjectRef
from kubectl_istio_udp.model.mesh import Version

# Envoy 1.26 (its release notes; Istio 1.18) moved the setting into access_log_options and
# deprecated the field before it, which every Envoy until today still takes (measured with 1.40).
OPTIONS_SINCE: Version = (1, 18)
# The network filter that writes the lines.
TCP_PROXY = "envoy.filters.network.tcp_proxy"
_LEAST = Duration(0.001)


class Reach(str, Enum):
    """Whose connections are logged: every proxy's, a namespace's, or a gateway's."""

    MESH = "mesh"
    NAMESPACE = "namespace"
    GATEWAY = "gateway"


class Direction(str, Enum):
    """Which connections of a sidecar: those it accepts, those it makes, or both."""

    ANY = "any"
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class LogField(str, Enum):
    """Under which name Envoy's tcp_proxy knows the interval."""

    OPTIONS = "access_log_options"
    FLUSH_INTERVAL = "access_log_flush_interval"


def default_name(
    reach: Reach,
    selector: Mapping[str, str],
    gateway: str | None,
    direction: Direction = Direction.ANY,
) -> str:
    """The name of an access log that is given none, the same for the same reach.

    `mesh`, `namespace`, the gateway's name, or the selector's values (`app-web`); with the
    direction at its end where it is one (`namespace-inbound`).
    """
    if reach is Reach.GATEWAY and gateway:
        return gateway
    end = "" if direction is Direction.ANY else f"-{direction.value}"
    if not selector:
        return f"{reach.value}{end}"
    text = "-".join(f"{key.rpartition('/')[2]}-{value}" for key, value in sorted(selector.items()))
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return plain[: names.LONGEST_LABEL - len(end)].rstrip("-") + end


@dataclass(frozen=True)
class AccessLogSpec:
    """What an access log is, as its object's annotation keeps it.

    Attributes:
        namespace, name: its own name; the namespace is the one its EnvoyFilter is in.
        every: the time between two lines of a connection, at least 1 ms.
        reach: whose connections.
        selector: the labels of the pods in reach, empty for all.
        direction: which connections.
        log_field: how the proxies know the interval.
    """

    namespace: str
    name: str
    every: Duration
    reach: Reach
    selector: Mapping[str, str] = field(default_factory=dict)
    direction: Direction = Direction.ANY
    log_field: LogField = LogField.OPTIONS

    def __post_init__(self) -> None:
        """Refuse what Envoy would refuse.

        Raises:
            ValueError: the selector is none.
            UsageError: the interval is under 1 ms (the field's documentation), or a gateway
                is to have a sidecar's direction.
        """
        if not isinstance(self.selector, Mapping):
            raise ValueError("an access log has a selector of labels")
        if self.every < _LEAST:
            raise UsageError(f"--every {self.every} is too short; Envoy accepts 1ms or more")
        if self.reach is Reach.GATEWAY and self.direction is not Direction.ANY:
            raise UsageError("--direction only applies to sidecars, not to a gateway")

    def understood_by(
        self, control_plane: Version | None, proxies: Sequence[Version | None]
    ) -> AccessLogSpec:
        """The same with the field that istiod and every proxy in reach understand.

        Args:
            control_plane: the oldest istiod, which must be able to decode the field.
            proxies: the version of each proxy; None counts as old, since the old field is always
                understood.
        """
        everyone = [control_plane, *proxies]
        new = all(version is not None and version >= OPTIONS_SINCE for version in everyone)
        return replace(self, log_field=LogField.OPTIONS if new else LogField.FLUSH_INTERVAL)

    @property
    def kind(self) -> Kind:
        """Kind.ACCESS_LOG."""
        return Kind.ACCESS_LOG

    @property
    def object_name(self) -> str:
        """The name of its EnvoyFilter."""
        return names.object_name(self.namespace, self.name, Kind.ACCESS_LOG)

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name), which no other access log has."""
        return (self.namespace, self.name)

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """Its one object: the EnvoyFilter."""
        return (ObjectRef("EnvoyFilter", self.namespace, self.object_name),)

    @property
    def possible_places(self) -> frozenset[tuple[str, str]]:
        """(kind, namespace) of every object that it may have: its one object."""
        return frozenset((ref.kind, ref.namespace) for ref in self.objects)

    def to_json(self) -> str:
        """The annotation: versioned JSON, sorted, so that the same spec is the same text."""
        return write_spec({**asdict(self), "every": self.every.envoy()})

    @classmethod
    def from_json(cls, text: object) -> AccessLogSpec:
        """Read the annotation.

        Raises:
            ClusterError: another version wrote it, or someone edited it.
        """
        return read_spec(text, Kind.ACCESS_LOG, cls._from_fields)

    @classmethod
    def _from_fields(cls, fields: Fields) -> AccessLogSpec:
        return cls(
            namespace=fields.take("namespace", dns_label),
            name=fields.take("name", dns_label),
            every=fields.take("every", duration),
            reach=fields.take("reach", one_of(Reach)),
            selector=fields.take("selector", labels, {}),
            direction=fields.take("direction", one_of(Direction)),
            log_field=fields.take("log_field", one_of(LogField)),
        )
