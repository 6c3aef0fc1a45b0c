"""Captures what the real dig prints into this directory; needs bind9-dnsutils and dnspython.

    python tests/support/answers/capture.py

A server on loopback gives each answer, asked with exactly the command that `verify` runs.
"""

from __future__ import annotations

import pathlib
import socket
import subprocess
import threading
from typing import Any

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rrset

from kubectl_istio_udp.verify.probes import DnsProbe, argv

HERE = pathlib.Path(__file__).parent


def reply(
    query: Any,
    rcode: Any = "NOERROR",
    flags: Any = dns.flags.AA,
    answer: Any = (),
    additional: Any = (),
) -> Any:
    message = dns.message.make_response(query)
    message.set_rcode(dns.rcode.from_text(rcode))
    message.flags |= flags
    message.answer += [dns.rrset.from_text(*record) for record in answer]
    message.additional += [dns.rrset.from_text(*record) for record in additional]
    return message.to_wire()


WHOAMI = [
    ("foo.bar.com.", 0, "IN", "A", "10.244.0.21"),
    ("_udp.foo.bar.com.", 0, "IN", "SRV", "0 0 47318 ."),
]
TXT = [("foo.bar.com.", 30, "IN", "TXT", '"two words" "and more"')]
ADDRESSES = [("foo.bar.com.", 60, "IN", "A", "192.0.2.1", "192.0.2.2")]
CASES = {
    "noerror": ("A", lambda q: reply(q, answer=ADDRESSES)),
    "txt": ("TXT", lambda q: reply(q, answer=TXT)),
    "whoami": ("A", lambda q: reply(q, additional=WHOAMI)),
    "empty": ("AAAA", lambda q: reply(q)),
    "nxdomain": ("A", lambda q: reply(q, "NXDOMAIN")),
    "servfail": ("A", lambda q: reply(q, "SERVFAIL")),
    "refused": ("A", lambda q: reply(q, "REFUSED")),
    "truncated": ("A", lambda q: reply(q, flags=dns.flags.AA | dns.flags.TC)),
    "garbled": ("A", lambda q: b"\x00\x01hello, this is no DNS message"),
    "echoed": ("A", lambda q: q.to_wire()),
    "cut": ("A", lambda q: reply(q, answer=ADDRESSES)[:40]),
    "timeout": ("A", lambda q: None),
}


def serve(sock: Any, answer: Any) -> None:
    data, client = sock.recvfrom(4096)
    back = answer(dns.message.from_wire(data))
    if back is not None:
        sock.sendto(back, client)


def capture(name: Any, kind: Any, address: Any, port: Any) -> None:
    done = subprocess.run(
        argv(DnsProbe("foo.bar.com", kind), address, port, 1), capture_output=True, text=True
    )
    for stream, text in (("stdout", done.stdout), ("stderr", done.stderr)):
        (HERE / f"{name}.{stream}.txt").unlink(missing_ok=True)
        if text:
            (HERE / f"{name}.{stream}.txt").write_text(text)
    print(f"{name:14} exit {done.returncode}")


for name, (kind, answer) in CASES.items():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=serve, args=(sock, answer))
        thread.start()
        capture(name, kind, "127.0.0.1", sock.getsockname()[1])
        thread.join()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 0))
    closed = sock.getsockname()[1]
capture("closed", "A", "127.0.0.1", closed)
capture("unresolved", "A", "nowhere.invalid", 53)
capture("no-route", "A", "2001:db8::1", 53)
