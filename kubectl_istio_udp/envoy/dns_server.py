"""A DNS server on this machine that returns the client's address, like CoreDNS's `whoami`."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress

import dns.exception
import dns.flags
import dns.message
import dns.rrset

_LARGEST = 65_535


class DnsServer:
    """A server that runs from construction until `close`.

    Attributes:
        address: its IP address.
        ports: its UDP ports.
        answered: how many queries it has answered.
    """

    def __init__(self, address: str, ports: Iterable[int]) -> None:
        """Bind the ports and start to serve.

        Raises:
            OSError: an address or port is not available.
        """
        self.address, self.ports = address, tuple(ports)
        self.answered = 0
        self._selector = selectors.DefaultSelector()
        # A byte through this pair ends the thread.
        self._stop_receiver, self._stop_sender = socket.socketpair()
        self._selector.register(self._stop_receiver, selectors.EVENT_READ)
        try:
            for port in self.ports:
                bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self._selector.register(bound, selectors.EVENT_READ)
                bound.bind((address, port))
                bound.setblocking(False)
        except OSError:
            self._close_all()
            raise
        self._thread = threading.Thread(target=self._serve, name=f"backend {address}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the sockets."""
        self._stop_sender.send(b".")
        self._thread.join()
        self._close_all()

    def _close_all(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._stop_sender.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                bound = key.fileobj
                assert isinstance(bound, socket.socket)
                if bound is self._stop_receiver:
                    return
                # The ICMP error of an earlier datagram may be raised here instead.
                with suppress(OSError):
                    query, client = bound.recvfrom(_LARGEST)
                    answer = whoami(query, client[0], client[1])
                    if answer:
                        bound.sendto(answer, client)
                        self.answered += 1


def whoami(query: bytes, address: str, port: int) -> bytes | None:
    """The response to a DNS query, with the client's address and port in the additional section.

    Args:
        query: the datagram.
        address, port: the client.

    Returns:
        The response, or None if the datagram is not a DNS query.
    """
    try:
        asked = dns.message.from_wire(query)
    except (dns.exception.DNSException, ValueError):
        return None
    if asked.flags & dns.flags.QR or not asked.question:
        return None
    name = asked.question[0].name
    answer = dns.message.make_response(asked, recursion_available=False)
    answer.flags |= dns.flags.AA
    kind = "AAAA" if ":" in address else "A"
    answer.additional = [
        dns.rrset.from_text(name, 0, "IN", kind, address),
        dns.rrset.from_text(f"_udp.{name}", 0, "IN", "SRV", f"0 0 {port} ."),
    ]
    return answer.to_wire()
