"""Choose the proxy for an API server, from `proxy-url` and the environment.

The rules are those of golang.org/x/net/http/httpproxy and client-go's clientcmd.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from kubectl_istio_udp.kube.kubeconfig import without_password
from kubectl_istio_udp.model.errors import Unreachable

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
# The schemes that client-go accepts in a kubeconfig.
_IN_KUBECONFIG = ("http", "https", "socks5")


@dataclass(frozen=True)
class Proxy:
    """A proxy.

    Attributes:
        scheme: http, https or socks5 (the proxy resolves names).
        host, port: its address.
        username, password: its credentials; None for none.
    """

    scheme: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None

    @property
    def url(self) -> str:
        """The proxy's URL without username and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def proxy_for(server: str, proxy_url: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for a server; None for a direct connection.

    Args:
        server: the server's URL.
        proxy_url: the cluster's `proxy-url`; it overrides the environment.
        environment: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in upper or lower case.

    Raises:
        Unreachable: the proxy's URL is invalid, or its scheme is unknown.
    """
    if proxy_url:
        return _parse("proxy-url", proxy_url, _IN_KUBECONFIG)
    target = urlsplit(server)
    name = f"{target.scheme.upper()}_PROXY"
    text = environment.get(name) or environment.get(name.lower()) or ""
    if not text or not _used_for(server, environment):
        return None
    # A proxy without a scheme is HOST:PORT.
    return _parse(name, text if "://" in text else f"http://{text}", tuple(_PORTS))


def _parse(name: str, text: str, schemes: Collection[str]) -> Proxy:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        # The error's text may contain a password.
        raise _bad(name, text, "it is not a valid URL") from None
    if parts.scheme not in schemes:
        raise _bad(name, text, f"its scheme is not one of {', '.join(schemes)}")
    if not parts.hostname:
        raise _bad(name, text, "it names no host")
    scheme = "socks5" if parts.scheme.startswith("socks5") else parts.scheme
    username = None if parts.username is None else unquote(parts.username)
    return Proxy(
        scheme,
        parts.hostname,
        port or _PORTS[parts.scheme],
        username,
        None if username is None else unquote(parts.password or ""),
    )


def _bad(name: str, text: str, why: str) -> Unreachable:
    return Unreachable(f"the proxy {without_password(text)!r} ({name}) cannot be used: {why}")


def _used_for(server: str, environment: Mapping[str, str]) -> bool:
    """Whether the environment's proxy is used for a server (httpproxy's useProxy)."""
    target = urlsplit(server)
    host = (target.hostname or "").lower()
    port = str(target.port or {"http": 80, "https": 443}[target.scheme])
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return False
    excluded = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    return not any(
        _excludes(entry.strip().lower(), host, port, address) for entry in excluded.split(",")
    )


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _excludes(entry: str, host: str, port: str, address: _Address | None) -> bool:
    """Whether an entry of NO_PROXY matches a host."""
    if not entry:
        return False
    if entry == "*":
        return True
    if "/" in entry:
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            pass
        else:
            return address is not None and address in network
    name, only = _split_port(entry)
    if only not in ("", port) or not name:
        return False
    listed = _address(name)
    if listed is not None:
        return listed == address
    if name.startswith("*."):
        name = name[1:]
    return (
        host.endswith(name)
        if name.startswith(".")
        else host in (name,) or host.endswith(f".{name}")
    )


def _split_port(entry: str) -> tuple[str, str]:
    """Split HOST:PORT or [HOST]:PORT; for other text the port is ""."""
    name, colon, port = entry.rpartition(":")
    if name.startswith("[") and name.endswith("]"):
        return name[1:-1], port
    if not colon or ":" in name:
        return entry.strip("[]"), ""
    return name, port


def _address(text: str) -> _Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found
