"""An access log: log lines that proxies write periodically for open TCP connections."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum

from kubectl_istio_udp.model import names
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.fields import Fields, dns_label, duration, labels, one_of
from kubectl_istio_udp.model.kinds import Kind, ObjectRef
from kubectl_istio_udp.model.mesh import Version
from kubectl_istio_udp.model.spec_annotation import read_spec, write_spec

# Envoy 1.26 (Istio 1.18; its release notes) moved the setting to access_log_options. It deprecated
# the former field, but Envoy still accepts it (measured with 1.40).
OPTIONS_SINCE: Version = (1, 18)
# The network filter that writes the lines.
TCP_PROXY = "envoy.filters.network.tcp_proxy"
_LEAST = Duration(0.001)


class LogScope(str, Enum):
    """Which proxies write the log: all of the mesh, a namespace's, or a gateway's."""

    MESH = "mesh"
    NAMESPACE = "namespace"
    GATEWAY = "gateway"


class Direction(str, Enum):
    """Which connections of a sidecar are logged: inbound, outbound, or both."""

    ANY = "any"
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class LogField(str, Enum):
    """The field of Envoy's tcp_proxy that holds the interval."""

    OPTIONS = "access_log_options"
    FLUSH_INTERVAL = "access_log_flush_interval"


def default_name(
    scope: LogScope,
    selector: Mapping[str, str],
    gateway: str | None,
    direction: Direction = Direction.ANY,
) -> str:
    """The default name of an access log; the same arguments give the same name.

    `mesh`, `namespace`, the gateway's name, or the selector's values (`app-web`), followed by the
    direction if one is set (`namespace-inbound`).

    Args:
        scope: which proxies write the log.
        selector: the pod labels.
        gateway: the gateway's name; None without one.
        direction: the direction.
    """
    if scope is LogScope.GATEWAY and gateway:
        return gateway
    end = "" if direction is Direction.ANY else f"-{direction.value}"
    if not selector:
        return f"{scope.value}{end}"
    text = "-".join(f"{key.rpartition('/')[2]}-{value}" for key, value in sorted(selector.items()))
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return plain[: names.LONGEST_LABEL - len(end)].rstrip("-") + end


def check_settings(every: Duration, scope: LogScope, direction: Direction) -> None:
    """Reject settings that no access log can have.

    Raises:
        UsageError: the interval is under 1 ms (the minimum in the field's documentation), or a
            direction is set for a gateway.
    """
    if every < _LEAST:
        raise UsageError(f"--every {every} is too short; Envoy accepts 1ms or more")
    if scope is LogScope.GATEWAY and direction is not Direction.ANY:
        raise UsageError("--direction only applies to sidecars, not to a gateway")


@dataclass(frozen=True)
class AccessLogSpec:
    """The settings of an access log, as stored in the annotation of its EnvoyFilter.

    Attributes:
        namespace, name: the access log's name, and the namespace of its EnvoyFilter.
        every: the time between two log lines of a connection, at least 1 ms.
        scope: which proxies write the log.
        selector: the pod labels that select the proxies; empty for all.
        direction: which connections are logged.
        log_field: the tcp_proxy field that holds the interval.
    """

    namespace: str
    name: str
    every: Duration
    scope: LogScope
    selector: Mapping[str, str] = field(default_factory=dict)
    direction: Direction = Direction.ANY
    log_field: LogField = LogField.OPTIONS

    def __post_init__(self) -> None:
        """Reject what Envoy would reject.

        Raises:
            ValueError: the selector is not a map of labels.
            UsageError: see `check_settings`.
        """
        if not isinstance(self.selector, Mapping):
            raise ValueError("an access log has a selector of labels")
        check_settings(self.every, self.scope, self.direction)

    def understood_by(
        self, control_plane: Version | None, proxies: Sequence[Version | None]
    ) -> AccessLogSpec:
        """The same spec with the field that istiod and every selected proxy support.

        Args:
            control_plane: the version of the oldest istiod, which must be able to decode the field.
            proxies: the version of each proxy. None counts as old, because every version supports
                the old field.
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
        """(namespace, name), unique among access logs."""
        return (self.namespace, self.name)

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """Its one object: the EnvoyFilter."""
        return (ObjectRef("EnvoyFilter", self.namespace, self.object_name),)

    @property
    def possible_locations(self) -> frozenset[tuple[str, str]]:
        """(kind, namespace) of every object that it may have: only the EnvoyFilter."""
        return frozenset((ref.kind, ref.namespace) for ref in self.objects)

    def to_json(self) -> str:
        """The annotation's value: versioned JSON with sorted keys; equal specs give equal text."""
        fields = asdict(self)
        # The annotation's name of the field since the first version.
        fields["reach"] = fields.pop("scope")
        return write_spec({**fields, "every": self.every.envoy()})

    @classmethod
    def from_json(cls, text: object) -> AccessLogSpec:
        """Read the annotation.

        Raises:
            ClusterError: another version wrote it, or it was edited by hand.
        """
        return read_spec(text, Kind.ACCESS_LOG, cls._from_fields)

    @classmethod
    def _from_fields(cls, fields: Fields) -> AccessLogSpec:
        return cls(
            namespace=fields.take("namespace", dns_label),
            name=fields.take("name", dns_label),
            every=fields.take("every", duration),
            scope=fields.take("reach", one_of(LogScope)),
            selector=fields.take("selector", labels, {}),
            direction=fields.take("direction", one_of(Direction)),
            log_field=fields.take("log_field", one_of(LogField)),
        )
