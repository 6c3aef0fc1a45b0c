"""The UDP listener of an exposed port."""

from __future__ import annotations

from typing import Any

from kubectl_istio_udp.model.exposure import Affinity, Exposure
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.service import IPV4, IPV6
from kubectl_istio_udp.render.envoy import TYPES, marked
from kubectl_istio_udp.render.shares import matcher

_RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024


# One line per ended session; the counters are udp_proxy's dynamic metadata (its documentation,
# "Access log extensions").
_SESSION_LINE = (
    "[%START_TIME%] udp_session listener={name} client=%DOWNSTREAM_REMOTE_ADDRESS% "
    "upstream=%UPSTREAM_HOST% duration_ms=%DURATION% "
    "datagrams_received=%DYNAMIC_METADATA(udp.proxy.session:datagrams_received)% "
    "datagrams_sent=%DYNAMIC_METADATA(udp.proxy.session:datagrams_sent)% "
    "bytes_received=%DYNAMIC_METADATA(udp.proxy.session:bytes_received)% "
    "bytes_sent=%DYNAMIC_METADATA(udp.proxy.session:bytes_sent)%\n"
)


def listener(exposure: Exposure, port: ExposedPort) -> dict[str, Any]:
    """The UDP listener of an exposed port."""
    spec = exposure.spec
    name = spec.proxy_name(port)
    options = spec.options_of(port)
    size = options.max_datagram_size
    proxy: dict[str, Any] = {
        "@type": f"{TYPES}.filters.udp.udp_proxy.v3.UdpProxyConfig",
        "stat_prefix": name,
        "idle_timeout": options.idle_timeout.envoy(),
        "upstream_socket_config": {"max_rx_datagram_size": size},
        "matcher": matcher(spec, port),
    }
    if options.affinity is Affinity.SOURCE_IP:
        proxy["hash_policies"] = [{"source_ip": True}]
    if options.session_log:
        proxy["access_log"] = [_session_log(name)]
    return marked(
        spec,
        {
            "name": name,
            "address": {"socket_address": _bind_address(exposure, port.listener_port)},
            "socket_options": _socket_options(exposure),
            "udp_listener_config": {"downstream_socket_config": {"max_rx_datagram_size": size}},
            "listener_filters": [
                {"name": "envoy.filters.udp_listener.udp_proxy", "typed_config": proxy}
            ],
        },
    )


def _socket_options(exposure: Exposure) -> list[dict[str, Any]]:
    """The socket options of the listener: for bursts, and for answers longer than one packet.

    Receive buffer: Linux's default holds about 250 small datagrams. At 5,000 new sessions per
    second on a busy machine it lost 212 to 1,881 of 14,000 queries; with this size 0 to 111 were
    lost (measured). Linux silently limits the size to net.core.rmem_max (socket(7)), so setting it
    never fails.

    MTU discovery: Envoy forbids fragmentation of what its UDP listeners send (for QUIC), so
    answers over 1,472 bytes would be lost. IP_PMTUDISC_DONT allows it again (ip(7)). Envoy sets its
    own option after STATE_PREBIND, so this one is set at STATE_BOUND (measured).

    Never change these: a listener with changed socket options gets new sockets, and until the
    old ones are drained (45 s) the kernel still gives them half of the datagrams (measured).
    """
    buffer = _socket_option("SO_RCVBUF", 1, 8, _RECEIVE_BUFFER_BYTES, "STATE_PREBIND")
    fragments = {
        IPV4: _socket_option("IP_MTU_DISCOVER", 0, 10, 0, "STATE_BOUND"),
        IPV6: _socket_option("IPV6_MTU_DISCOVER", 41, 23, 0, "STATE_BOUND"),
    }
    return [buffer, *(fragments[family] for family in sorted(exposure.families or (IPV4,)))]


def _socket_option(
    description: str, level: int, name: int, value: int, state: str
) -> dict[str, Any]:
    """A socket option, by Linux's numbers."""
    return {
        "description": description,
        "level": level,
        "name": name,
        "int_value": value,
        "state": state,
    }


def _bind_address(exposure: Exposure, port: int) -> dict[str, Any]:
    address: dict[str, Any] = {"protocol": "UDP", "address": "0.0.0.0", "port_value": port}
    if IPV6 in exposure.families:
        address["address"] = "::"
        if IPV4 in exposure.families:
            address["ipv4_compat"] = True
    return address


def _session_log(name: str) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": f"{TYPES}.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {
                "text_format_source": {"inline_string": _SESSION_LINE.format(name=name)}
            },
        },
    }
