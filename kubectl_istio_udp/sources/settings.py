"""The settings of an exposure: named settings change, others keep their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from kubectl_istio_udp.model.accesslog import AccessLogSpec
from kubectl_istio_udp.model.annotation_values import some
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    ExposureSpec,
    GatewayServiceMode,
    LoadBalancing,
    Options,
)
from kubectl_istio_udp.model.kinds import Spec
from kubectl_istio_udp.model.ports import PortRequest, ports_text
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.response import ResponseSpec

Value = TypeVar("Value")

# Discoveries that are never chosen automatically if the selector works: they were requested, or
# the Service needs them.
_KEPT_DISCOVERIES = (Discovery.STATIC, Discovery.ENDPOINTS)


@dataclass(frozen=True)
class NamedSettings:
    """The settings named on a command line; None or () for those not named.

    Attributes:
        ports: gateway ports to add, or to map to another port of the Service.
        remove_ports: gateway ports to remove.
        discovery: a value of Discovery, or `auto` to choose again.
        expect_rate: as in ExposeRequest.
        max_sessions, idle_timeout, max_datagram_size, affinity, load_balancing, session_log,
            gateway_service: as in Options.
    """

    ports: tuple[PortRequest, ...] = ()
    remove_ports: tuple[int, ...] = ()
    discovery: str | None = None
    max_sessions: int | None = None
    expect_rate: float | None = None
    idle_timeout: Duration | None = None
    max_datagram_size: int | None = None
    affinity: Affinity | None = None
    load_balancing: LoadBalancing | None = None
    session_log: bool | None = None
    gateway_service: GatewayServiceMode | None = None

    def __post_init__(self) -> None:
        """Reject what is invalid for every exposure.

        Raises:
            UsageError: a value is out of range, or two values conflict.
        """
        both = {request.gateway_port for request in self.ports} & set(self.remove_ports)
        if both:
            raise UsageError(f"gateway port {min(both)} is in -p and in --remove-port")
        implied = Affinity.NONE
        if self.affinity is None and self.load_balancing and self.load_balancing.hashes:
            implied = Affinity.SOURCE_IP
        usual = Options(affinity=implied, load_balancing=implied.usual_load_balancing)
        self._request("", "", None, None, usual)

    def request(
        self, namespace: str, service: str, name: str | None, before: ExposureSpec | None
    ) -> ExposeRequest:
        """The complete request: named settings, then the exposure's current ones, then defaults.

        Args:
            namespace, service, name: as in ExposeRequest.
            before: the current exposure; None for a new one.

        Raises:
            UsageError: no port would be left, or two settings conflict.
        """
        options = before.options if before else Options()
        return self._request(namespace, service, name, before, options)

    def not_exposed(self, before: ExposureSpec | None) -> str:
        """A sentence about ports to remove that the exposure does not have; "" if it has all."""
        present = [port.gateway_port for port in before.ports] if before else []
        absent = [port for port in self.remove_ports if port not in present]
        if not before or not absent:
            return ""
        return f"exposure {before.name} has no gateway port {some(absent)}; it has {some(present)}"

    def _request(
        self,
        namespace: str,
        service: str,
        name: str | None,
        before: ExposureSpec | None,
        options: Options,
    ) -> ExposeRequest:
        return ExposeRequest(
            namespace=namespace,
            service=service,
            name=name,
            ports=self._ports(before),
            discovery=self._discovery(before),
            options=self._over(options),
            automatic_sessions=self.max_sessions is None,
            expect_rate=self.expect_rate,
        )

    def _ports(self, before: ExposureSpec | None) -> tuple[PortRequest, ...]:
        if before is None:
            return self.ports
        ports = {p.gateway_port: PortRequest(p.gateway_port, p.service_port) for p in before.ports}
        ports |= {request.gateway_port: request for request in self.ports}
        kept = tuple(each for number, each in ports.items() if number not in self.remove_ports)
        if not kept:
            raise UsageError(
                f"exposure {before.name} would have no ports left",
                hints=[
                    f"to delete it: kubectl istio-udp delete -n {before.namespace} {before.name}"
                ],
            )
        return kept

    def _discovery(self, before: ExposureSpec | None) -> Discovery | None:
        if self.discovery is not None:
            return None if self.discovery == "auto" else Discovery(self.discovery)
        kept = before.discovery if before else None
        return kept if kept in _KEPT_DISCOVERIES else None

    def _over(self, options: Options) -> Options:
        affinity = options.affinity if self.affinity is None else self.affinity
        # Hash policies require affinity: unless it is named, the policy follows the affinity.
        usual = (
            options.load_balancing
            if affinity is options.affinity
            else affinity.usual_load_balancing
        )
        return Options(
            max_sessions=_first(self.max_sessions, options.max_sessions),
            idle_timeout=_first(self.idle_timeout, options.idle_timeout),
            max_datagram_size=_first(self.max_datagram_size, options.max_datagram_size),
            affinity=affinity,
            load_balancing=_first(self.load_balancing, usual),
            session_log=_first(self.session_log, options.session_log),
            gateway_service=_first(self.gateway_service, options.gateway_service),
        )


def _first(named: Value | None, kept: Value) -> Value:
    return kept if named is None else named


def settings_of(spec: Spec) -> dict[str, str]:
    """The settings for display, by the names of options and annotations.

    Derived values (listener ports, names in Envoy) are left out.
    """
    if isinstance(spec, AccessLogSpec):
        return _access_log_settings(spec)
    if isinstance(spec, ResponseSpec):
        return _response_settings(spec)
    return _exposure_settings(spec) if isinstance(spec, ExposureSpec) else {}


def _access_log_settings(spec: AccessLogSpec) -> dict[str, str]:
    return {
        "every": str(spec.every),
        "scope": spec.scope.value,
        "selector": ",".join(f"{key}={value}" for key, value in sorted(spec.selector.items())),
        "direction": spec.direction.value,
    }


def _response_settings(spec: ResponseSpec) -> dict[str, str]:
    answer = spec.answer
    body = answer.body
    return {
        "path": answer.path + ("*" if answer.prefix else ""),
        "status": str(answer.status),
        "body": f"{body.size} bytes, sha256 {body.sha256[:12]}" if body else "",
        "headers": ",".join(f"{name}={value}" for name, value in answer.headers),
        "hosts": ",".join(answer.hosts),
        "at": f"{spec.gateway}:{spec.gateway_port}" if spec.gateway else "mesh",
        "api": spec.api.value,
    }


def _exposure_settings(spec: ExposureSpec) -> dict[str, str]:
    options = spec.options
    return {
        "service": spec.service,
        "ports": ",".join(ports_text(spec.ports)),
        "gateway": str(spec.gateway),
        "discovery": spec.discovery.value,
        "max-sessions": str(options.max_sessions),
        "idle-timeout": str(options.idle_timeout),
        "max-datagram-size": str(options.max_datagram_size),
        "affinity": options.affinity.value,
        "load-balancing": options.load_balancing.value,
        "session-log": "on" if options.session_log else "off",
        "gateway-service": options.gateway_service.value,
    }


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """The settings that differ, each as `idle-timeout: 60s -> 10s`.

    Args:
        before, after: text by setting; "" and missing settings are shown as `none`.
    """
    return tuple(
        f"{name}: {before.get(name) or 'none'} -> {after.get(name) or 'none'}"
        for name in dict.fromkeys((*before, *after))
        if before.get(name, "") != after.get(name, "")
    )
