"""Probes: a DNS query, a datagram with a given payload, or an HTTP request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.names import LONGEST_LABEL, LONGEST_SUBDOMAIN

if TYPE_CHECKING:
    from kubectl_istio_udp.model.response import Answer

# `dig` and `nc` only accept whole seconds.
_LEAST_SECONDS = 1
# The record types that dig knows (IANA's registry), without zone transfers, which use TCP. dig
# queries A for a type that it does not know.
_TYPE = re.compile(
    "A|AAAA|AFSDB|ANY|APL|CAA|CDNSKEY|CDS|CERT|CNAME|CSYNC|DHCID|DNAME|DNSKEY|DS|EUI48|EUI64|HINFO|"
    "HIP|HTTPS|KEY|KX|LOC|MX|NAPTR|NS|NSEC|NSEC3|NSEC3PARAM|OPENPGPKEY|PTR|RP|RRSIG|SIG|SMIMEA|SOA|"
    "SPF|SRV|SSHFP|SVCB|TLSA|TXT|URI|ZONEMD|TYPE[0-9]{1,5}"
)


@dataclass(frozen=True)
class DnsProbe:
    """A DNS query.

    Attributes:
        name: the name to query.
        type: the record type.
    """

    name: str
    type: str = "A"

    @classmethod
    def parse(cls, text: str) -> DnsProbe:
        """Read `foo.bar.com` or `foo.bar.com TXT`.

        Raises:
            UsageError: it is neither, or a word looks like an option of dig.
        """
        words = text.split()
        if not 1 <= len(words) <= 2 or any(word[0] in "-+@" for word in words):
            raise _no_query(text, "is not a DNS name with an optional type")
        name, kind = words[0], words[1].upper() if len(words) > 1 else "A"
        labels = name.rstrip(".").split(".")
        if len(name) > LONGEST_SUBDOMAIN + 1 or max(map(len, labels)) > LONGEST_LABEL:
            raise _no_query(
                text,
                f"is not a DNS name: it is longer than {LONGEST_SUBDOMAIN} characters, or a part "
                f"between dots is longer than {LONGEST_LABEL}",
            )
        if not _TYPE.fullmatch(kind):
            raise _no_query(text, f"has the type {kind!r}, which cannot be queried over UDP")
        return cls(name, kind)


def _no_query(text: str, why: str) -> UsageError:
    return UsageError(
        f"--query {text!r} {why}",
        hints=["for example --query foo.bar.com, or --query 'foo.bar.com TXT'"],
    )


@dataclass(frozen=True)
class DatagramProbe:
    """A datagram with a given payload; any datagram in return is an answer.

    Attributes:
        payload: the bytes.
    """

    payload: bytes


@dataclass(frozen=True)
class HttpProbe:
    """A GET request and the expected response.

    Attributes:
        host, port: the URL's host and port (and Host header), independent of the address.
        answer: the path, and the expected status, headers and body.
        tls: whether it uses https; the certificate is not verified.
    """

    host: str
    port: int
    answer: Answer
    tls: bool = False

    @property
    def url(self) -> str:
        """The request's URL."""
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{self.host}:{self.port}{self.answer.path}"


Probe = DnsProbe | DatagramProbe | HttpProbe


def parse_probe(text: str, query: str | None) -> Probe:
    """Read `--probe dns|text:HELLO|hex:00ff`.

    Args:
        text: the value of --probe.
        query: the DNS query; None if there is none.

    Raises:
        UsageError: the value is invalid, or a DNS probe has no query.
    """
    kind, _, payload = text.partition(":")
    if text == "dns":
        if query is None:
            raise UsageError("a DNS probe needs a name", hints=["name it: --query NAME"])
        return DnsProbe.parse(query)
    if kind == "text" and payload:
        try:
            return DatagramProbe(payload.encode())
        except UnicodeEncodeError:
            raise UsageError(
                f"--probe {text!r} is not text", hints=["send bytes: --probe hex:00ff"]
            ) from None
    if kind == "hex" and payload:
        try:
            return DatagramProbe(bytes.fromhex(payload))
        except ValueError:
            raise UsageError(
                f"--probe {text}: {payload!r} is not hexadecimal", hints=["for example: hex:00ff"]
            ) from None
    raise UsageError(
        f"--probe {text!r} is not one of dns, text:..., hex:...",
        hints=["for example --probe text:HELLO or --probe hex:00ff"],
    )


def size_of(probe: Probe) -> int | None:
    """The length of a probe's datagram in bytes; None if its tool decides."""
    return len(probe.payload) if isinstance(probe, DatagramProbe) else None


def argv(probe: Probe, address: str, port: int, timeout: float) -> list[str]:
    """The command that sends a probe once.

    Args:
        probe: the probe.
        address: IP address or name.
        port: UDP port.
        timeout: seconds to wait for an answer, rounded up to whole seconds.
    """
    seconds = str(max(_LEAST_SECONDS, -int(-timeout // 1)))
    if isinstance(probe, DnsProbe):
        return [
            "dig", f"@{address}", "-p", str(port), "-q", probe.name, "-t", probe.type,
            f"+time={seconds}", "+tries=1", "+notcp", "+ignore", "+nosearch",
        ]  # fmt: skip
    if isinstance(probe, HttpProbe):
        words = ["-sS", "-i", "-k", "--http1.1", "--path-as-is", "-g", "--max-time", seconds]
        words += ["-w", "%{stderr}took %{time_total}\n"]
        if address != probe.host:
            bare = f"[{address}]" if ":" in address else address
            words += ["--connect-to", f"::{bare}:{port}"]
        return ["sh", "-c", _GET, "sh", *words, probe.url]
    return ["sh", "-c", _SEND, "sh", _octal(probe.payload), address, str(port), seconds]


# OpenBSD's netcat stops after one answer with -W 1; other netcats lack this option and wait for the
# timeout. If the port is closed, nc ends early without a message, which only its duration shows
# (centiseconds of /proc/uptime). The answer is printed in hexadecimal to preserve all bytes.
_SEND = """
command -v nc >/dev/null || exit 127
nc -h 2>&1 | grep -q -- "-W" && one="-W 1"
now() { read -r up rest </proc/uptime; echo "${up%.*}${up#*.}"; }
begun=$(now)
answer=$(printf "$1" | nc -u -w "$4" $one "$2" "$3" | od -An -v -tx1)
spent=$(($(now) - begun))
echo "$answer"
[ -n "$answer" ] || [ "$spent" -ge $(($4 * 90)) ] || echo refused >&2
"""

# The body may have any bytes, so it is printed in hexadecimal too.
_GET = """
command -v curl >/dev/null || exit 127
{ curl "$@" || echo "exit $?" >&2; } | od -An -v -tx1
"""


def _octal(payload: bytes) -> str:
    """The payload for printf, every byte as an octal escape."""
    return "".join(f"\\{byte:03o}" for byte in payload)
