"""The settings of an access log: named settings change, the others stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubectl_istio_udp.model.accesslog import (
    AccessLogSpec,
    Direction,
    LogScope,
    check_settings,
    default_name,
)
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.names import check_dns_label

DEFAULT_EVERY = Duration(5)


def named_scope(
    *, mesh: bool, gateway: GatewayChoice, namespace: str | None, selector: Mapping[str, str]
) -> LogScope:
    """The scope that a command line names.

    Args:
        mesh: whether `--mesh` is given.
        gateway: the named gateway, if any.
        namespace: `-n`; None without it.
        selector: the pod labels of `-l`.

    Raises:
        UsageError: two of them cannot be combined.
    """
    if mesh and gateway.is_named:
        raise UsageError("--mesh cannot be combined with --gateway: it already includes gateways")
    if mesh and namespace:
        raise UsageError("--mesh cannot be combined with -n: it already includes all namespaces")
    if gateway.is_named and selector:
        raise UsageError("-l cannot be combined with --gateway: a gateway has its own labels")
    if mesh:
        return LogScope.MESH
    return LogScope.GATEWAY if gateway.is_named else LogScope.NAMESPACE


@dataclass(frozen=True)
class NamedAccessLog:
    """The settings that a command line names; None and {} stand for unnamed ones.

    Attributes:
        scope: which proxies write the log.
        every, direction: as in AccessLogSpec.
        selector: the pod labels of `-l`.
        name: the access log's name; None to derive it from the other settings.
    """

    scope: LogScope
    every: Duration | None = None
    direction: Direction | None = None
    selector: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None

    def __post_init__(self) -> None:
        """Reject what no access log can have.

        Raises:
            UsageError: the name is not a DNS label, the interval is too short, or the direction is
                not possible.
        """
        check_settings(self.every or DEFAULT_EVERY, self.scope, self.direction or Direction.ANY)
        if self.name:
            check_dns_label(self.name, "access log")

    def name_at(self, gateway: str | None, labels: Mapping[str, str]) -> str:
        """The name of the access log.

        Args:
            gateway: the gateway's name; None if the log is not at a gateway.
            labels: the labels of the pods.
        """
        direction = self.direction or Direction.ANY
        return self.name or default_name(self.scope, labels, gateway, direction)

    def spec(
        self, namespace: str, name: str, labels: Mapping[str, str], before: AccessLogSpec | None
    ) -> AccessLogSpec:
        """The complete settings: named ones, then the access log's current ones, then defaults.

        Args:
            namespace: the namespace of its EnvoyFilter.
            name: its name.
            labels: the labels of the pods; empty for all pods.
            before: the current access log; None for a new one.

        Raises:
            UsageError: the interval is too short, or the direction is not possible.
        """
        if before is not None and before.scope is not self.scope:
            before = None
        return AccessLogSpec(
            namespace=namespace,
            name=name,
            every=self.every or (before.every if before else DEFAULT_EVERY),
            scope=self.scope,
            selector=before.selector if before and self.name and not labels else labels,
            direction=self.direction or (before.direction if before else Direction.ANY),
        )
