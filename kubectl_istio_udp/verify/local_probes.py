"""Probes sent from this machine: with dig, or with dnspython if dig is missing."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time

import dns.exception
import dns.message
import dns.query
import dns.rcode

from kubectl_istio_udp.verify.probes import DnsProbe, argv
from kubectl_istio_udp.verify.tool_output import Answer, read_answer

_EVERY_SECONDS = 0.01


def query(probe: DnsProbe, address: str, port: int, timeout: float) -> Answer:
    """Send one query to one address.

    Args:
        probe: the query.
        address, port: the destination.
        timeout: seconds to wait for an answer.
    """
    if shutil.which("dig") is None:
        return query_without_dig(probe, address, port, timeout)
    command = argv(probe, address, port, timeout)
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, timeout=timeout + 10
    )
    return read_answer(probe, done.stdout, done.stderr, done.returncode, "", "of this machine")


def query_without_dig(probe: DnsProbe, address: str, port: int, timeout: float) -> Answer:
    """Like `query`, but with dnspython and a new client port."""
    query = dns.message.make_query(probe.name, probe.type)
    began = time.monotonic()
    try:
        answer = dns.query.udp(query, address, timeout=timeout, port=port)
    except dns.exception.Timeout:
        return Answer(False, "timeout")
    except ConnectionRefusedError:
        return Answer(False, "unreachable")
    except (dns.exception.DNSException, OSError) as error:
        return Answer(False, "garbled", text=str(error)[:200])
    spent = round((time.monotonic() - began) * 1000)
    rcode = dns.rcode.to_text(answer.rcode())
    records = [
        f"{rrset.rdtype.name} {record}"
        for rrset in (answer.answer or answer.additional)
        for record in rrset
    ]
    return Answer(rcode in ("NOERROR", "NXDOMAIN"), rcode, False, spent, ", ".join(records))


class SteadyClient:
    """Sends queries to one address continuously, each from a new client port; use it in `with`.

    Like every resolver it retries once if there is no answer. An answer is lost if its pod leaves
    the gateway's endpoints at that moment: Envoy ends the sessions of a removed host.

    Attributes:
        sent: the number of queries.
        answered: the number of answered queries.
        retried: how many of those were answered on the second attempt.
    """

    def __init__(self, probe: DnsProbe, address: str, port: int, timeout: float) -> None:
        """Take the arguments of query_without_dig."""
        self.sent = self.answered = self.retried = 0
        self._where = (probe, address, port, timeout)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="steady client", daemon=True)

    def __enter__(self) -> SteadyClient:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it after the current query."""
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            answered = query_without_dig(*self._where).answered
            if not answered:
                answered = query_without_dig(*self._where).answered
                self.retried += answered
            self.answered += answered
            self.sent += 1

    def go_on(self, more: int) -> None:
        """Wait until it has sent this many more queries."""
        wanted = self.sent + more
        while self.sent < wanted:
            time.sleep(_EVERY_SECONDS)
