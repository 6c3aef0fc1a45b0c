"""What to ask with: a DNS query, a datagram of one's own, or an HTTP request."""

from __future__ import annotations

from dataclasses import dataclass

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.response import Answer

# `dig` and `nc` count in whole seconds.
_LEAST_SECONDS = 1


@dataclass(frozen=True)
class DnsProbe:
    """A DNS query.

    Attributes:
        name: the name to ask for.
        type: the record type.
    """

    name: str
    type: str = "A"

    @classmethod
    def parse(cls, text: str) -> DnsProbe:
        """Read `foo.bar.com` or `foo.bar.com TXT`.

        Raises:
            UsageError: neither; a word that dig would take for an option is refused too.
        """
        words = text.split()
        if not 1 <= len(words) <= 2 or any(word[0] in "-+@" for word in words):
            raise UsageError(
                f"--query {text!r} is not a DNS name with an optional type",
                hints=["for example --query foo.bar.com, or --query 'foo.bar.com TXT'"],
            )
        return cls(words[0], words[1].upper() if len(words) > 1 else "A")


@dataclass(frozen=True)
class DatagramProbe:
    """A datagram with a payload of one's own; any datagram back is an answer.

    Attributes:
        payload: its bytes.
    """

    payload: bytes


@dataclass(frozen=True)
class HttpProbe:
    """A GET request, and what has to come back.

    Attributes:
        host, port: whom the request is for (its URL and Host header), wherever it is sent.
        answer: its path, and the status, headers and body that are wanted.
        tls: whether it is sent by https; the certificate is not checked.
    """

    host: str
    port: int
    answer: Answer
    tls: bool = False

    @property
    def url(self) -> str:
        """The URL."""
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{self.host}:{self.port}{self.answer.path}"


Probe = DnsProbe | DatagramProbe | HttpProbe


def parse_probe(text: str, query: str | None) -> Probe:
    """Read `--probe dns|text:HELLO|hex:00ff`.

    Args:
        text: the flag's value.
        query: what a DNS probe asks for; None where nobody said.

    Raises:
        UsageError: it is none of these, or a DNS probe without a name to ask for.
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
    """The length of the datagram that a probe sends, in bytes; None where its tool decides."""
    return len(probe.payload) if isinstance(probe, DatagramProbe) else None


def argv(probe: Probe, address: str, port: int, timeout: float) -> list[str]:
    """The command that asks one address once.

    Args:
        probe: what to ask.
        address: IP address or name.
        port: UDP port.
        timeout: seconds to wait for an answer; rounded up to whole ones.
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


# netcat of OpenBSD stops after one answer with -W 1; other netcats lack it and wait for the
# timeout. A closed port ends it early and silently, which only the time tells (centiseconds of
# /proc/uptime). The answer comes as hexadecimal, so that no byte is lost on the way.
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

# A body may be anything, so that it too comes as hexadecimal.
_GET = """
command -v curl >/dev/null || exit 127
{ curl "$@" || echo "exit $?" >&2; } | od -An -v -tx1
"""


def _octal(payload: bytes) -> str:
    """The payload as an argument of printf, every byte an octal escape."""
    return "".join(f"\\{byte:03o}" for byte in payload)
