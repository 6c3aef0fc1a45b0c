"""Parse the output of dig, nc or curl into an Answer."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from kubectl_istio_udp.model.errors import ClusterError
from kubectl_istio_udp.verify.probes import DatagramProbe, DnsProbe, HttpProbe, Probe

_STATUS = re.compile(r"status: ([A-Z0-9]+),")
_FLAGS = re.compile(r"^;; flags: ([a-z ]*);", re.MULTILINE)
_TIME = re.compile(r"^;; Query time: (\d+) msec", re.MULTILINE)
_SIZE = re.compile(r"^;; MSG SIZE  rcvd: (\d+)", re.MULTILINE)
# A name server that responds with these codes received the datagram and works.
_ANSWERING = frozenset({"NOERROR", "NXDOMAIN"})
_GARBLED_TEXTS = ("query response not set", "malformed message", "id mismatch")
# curl's exit codes (its manual, "EXIT CODES").
_CURL = {6: "unresolved", 7: "unreachable", 28: "timeout"}
_CURL_EXIT = re.compile(r"^exit (\d+)$", re.MULTILINE)
_CURL_TIME = re.compile(r"^took ([\d.]+)$", re.MULTILINE)
_HTTP_STATUS = re.compile(r"HTTP/[\d.]+ (\d{3})")
_TOOLS = {DnsProbe: "dig", DatagramProbe: "nc", HttpProbe: "curl"}
# The outcomes of datagrams without an answer (verify/delivery.py).
DELIVERED, FORWARDED, SENT = "delivered", "forwarded", "sent"
NOT_READ, LOST, ONE_CLIENT = "not read", "lost", "one client"
REFUSED = "unreachable"
# Outcomes that show, without an answer, that datagrams reach the server.
ARRIVED = (DELIVERED, ONE_CLIENT)
# Outcomes that are not failures, but do not show that these datagrams were read.
UNCERTAIN = (FORWARDED, SENT, ONE_CLIENT)
_NOT_EXECUTABLE = 126
_NOT_FOUND = 127


@dataclass(frozen=True)
class Answer:
    """The result of one probe.

    Attributes:
        answered: whether there was an answer other than a refusal.
        outcome: for DNS the response code (NOERROR, NXDOMAIN, SERVFAIL, REFUSED ...); for HTTP the
            status and what is wrong with the rest (`200`, `200 with another body`); `answer`,
            `timeout`, `unreachable`, `unresolved` (the target's name), `garbled` (not a DNS
            response), `no HTTP`; for protocols without answers DELIVERED, FORWARDED, SENT,
            NOT_READ, LOST or ONE_CLIENT.
        truncated: whether the DNS response was truncated to fit a datagram (flag TC).
        milliseconds: how long it took; None if the tool does not report it.
        text: the records, or the payload: as text if it is printable, otherwise in hexadecimal.
        size: the length of the response datagram in bytes; None if unknown.
    """

    answered: bool
    outcome: str
    truncated: bool = False
    milliseconds: int | None = None
    text: str = ""
    size: int | None = None

    @property
    def arrived(self) -> bool:
        """Whether any datagram came back, including a refusal: then the path works."""
        return self.outcome not in ("timeout", "unreachable", "unresolved", LOST, NOT_READ)


def read_answer(
    probe: Probe, stdout: str, stderr: str, exit_code: int | None, error: str, pod: str
) -> Answer:
    """Parse the output of a probe's command.

    Args:
        probe: the probe.
        stdout, stderr, exit_code, error: the result of exec (exit_code None: it did not run).
        pod: the network-tool pod, for messages.

    Raises:
        ClusterError: the tool could not run: it is not in the pod's image.
    """
    tool = _TOOLS[type(probe)]
    if exit_code is None and error and "timed out" not in error and "not found" not in error:
        raise ClusterError(f"{tool} in pod {pod} was interrupted: {error}", hints=["try again"])
    if exit_code in (_NOT_FOUND, _NOT_EXECUTABLE) or "not found" in error:
        raise ClusterError(
            f"pod {pod} cannot run {tool}: {' '.join((error or stderr or 'not found').split())}",
            hints=["use a pod that has it: --tool-pod NAME, or --create-tool"],
        )
    if isinstance(probe, DnsProbe):
        return _dns(stdout, stderr, error)
    payload = bytes.fromhex("".join(stdout.split()))
    if isinstance(probe, HttpProbe):
        return _http(probe, payload, stderr, error)
    if payload:
        return Answer(True, "answer", text=_readable(payload), size=len(payload))
    refused = "refused" in stderr.lower() or "unreachable" in stderr.lower()
    return Answer(False, "unreachable" if refused else "timeout")


def _readable(payload: bytes) -> str:
    """A payload as text if it is printable, otherwise in hexadecimal."""
    text = payload.decode(errors="replace").rstrip("\r\n")
    return text if text.isascii() and text.isprintable() else payload.hex()


def _http(probe: HttpProbe, payload: bytes, stderr: str, error: str) -> Answer:
    head, _, body = payload.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status, failed = _HTTP_STATUS.match(lines[0]), _CURL_EXIT.search(stderr)
    if status is None:
        code = int(failed[1]) if failed else 0
        written = _CURL_EXIT.sub("", _CURL_TIME.sub("", stderr))
        output = " ".join(written.split())[:200]
        return Answer(False, "timeout" if error else _CURL.get(code, "no HTTP"), text=output)
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:])
    }
    wrong = _differs(probe, int(status[1]), headers, body)
    took = _CURL_TIME.search(stderr)
    return Answer(
        answered=not wrong,
        outcome=f"{status[1]} {wrong}".strip() if wrong else status[1],
        milliseconds=round(float(took[1]) * 1000) if took else None,
        text=_readable(body),
    )


def _differs(probe: HttpProbe, status: int, headers: dict[str, str], body: bytes) -> str:
    """How an HTTP response differs from the expected one, as text; "" if it does not."""
    wanted = probe.answer
    if status != wanted.status:
        return f"instead of {wanted.status}"
    if wanted.body and hashlib.sha256(body).hexdigest() != wanted.body.sha256:
        return "with another body"
    for name, value in wanted.headers:
        if headers.get(name) != value:
            return f"with {name}: {headers[name]}" if name in headers else f"without {name}"
    return ""


def _dns(stdout: str, stderr: str, error: str) -> Answer:
    status, flags = _STATUS.search(stdout), _FLAGS.search(stdout)
    output = f"{stdout}\n{stderr}".lower()
    # dig accepts its own query as an answer if it is sent back, and a truncated message too.
    if any(text in output for text in _GARBLED_TEXTS):
        return Answer(False, "garbled", text=" ".join(stdout.split())[:200])
    if status is None or flags is None:
        if "couldn't get address" in output:
            return Answer(False, "unresolved")
        if "unreachable" in output or "refused" in output:
            return Answer(False, "unreachable")
        if error or "timed out" in output or "no servers could be reached" in output:
            return Answer(False, "timeout")
        return Answer(False, "garbled", text=" ".join(stdout.split())[:200])
    time, size = _TIME.search(stdout), _SIZE.search(stdout)
    return Answer(
        answered=status[1] in _ANSWERING,
        outcome=status[1],
        truncated="tc" in flags[1].split(),
        milliseconds=int(time[1]) if time else None,
        text=_records(stdout),
        size=int(size[1]) if size else None,
    )


def _records(stdout: str) -> str:
    """The records of the answer section, or else of the additional section, on one line.

    Servers like CoreDNS's `whoami` put what they know about the client into the additional section.
    """
    for section in ("ANSWER", "ADDITIONAL"):
        _, found, after = stdout.partition(f";; {section} SECTION:\n")
        if found:
            lines = after.partition("\n\n")[0].splitlines()
            fields = [line.split(maxsplit=4) for line in lines if line and line[0] != ";"]
            return ", ".join(" ".join(field[3:]) for field in fields if len(field) > 4)
    return ""
