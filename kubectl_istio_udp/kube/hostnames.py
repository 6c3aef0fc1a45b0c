"""Check the name in a server's certificate as Go does (crypto/x509, VerifyHostname).

OpenSSL's own check accepts no wildcard before the last label, such as `*.local`.
"""

from __future__ import annotations

import ipaddress
import ssl
from typing import Any


def check_hostname(connection: ssl.SSLSocket | ssl.SSLObject) -> None:
    """Check the certificate of a connection whose handshake is done.

    Raises:
        SSLCertVerificationError: it is for other names. Nothing was sent to the server yet.
    """
    if connection.context.verify_mode is not ssl.CERT_REQUIRED:
        return
    wanted = connection.server_hostname or ""
    certificate: Any = connection.getpeercert() or {}
    names = certificate.get("subjectAltName", ())
    if not any(matches(kind, name, wanted) for kind, name in names):
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = f"it is not valid for {wanted!r}"
        raise error


def matches(kind: str, name: str, wanted: str) -> bool:
    """Whether a name of a certificate matches the server's; an address matches addresses only.

    Args:
        kind, name: an entry of subjectAltName.
        wanted: the server's name or address.
    """
    address = _address(wanted)
    if address is not None:
        return kind == "IP Address" and _address(name.strip()) == address
    return kind == "DNS" and _is_pattern_of(name.lower(), wanted.lower().removesuffix("."))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_pattern_of(pattern: str, host: str) -> bool:
    """Whether a DNS name in a certificate matches; `*` stands for the whole first label."""
    first, _, rest = pattern.partition(".")
    label, _, domain = host.partition(".")
    if first == "*" and rest:
        return bool(label) and domain == rest
    return bool(host) and host == pattern
