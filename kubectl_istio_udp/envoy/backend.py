"""A DNS server on this machine that tells clients who they are, like CoreDNS's plugin `whoami`."""

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


class Backend:
    """One server, from construction until `close`.

    Attributes:
        address: its IP address.
        ports: its UDP ports.
        answered: how many queries it has answered.
    """

    def __init__(self, address: str, ports: Iterable[int]) -> None:
        """Bind and serve.

        Raises:
            OSError: an address or port cannot be had.
        """
        self.address, self.ports = address, tuple(ports)
        self.answered = 0
        self._selector = selectors.DefaultSelector()
        # Told to end by a byte through this.
        self._told, self._tell = socket.socketpair()
        self._selector.register(self._told, selectors.EVENT_READ)
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
        """End it and give its ports back."""
        self._tell.send(b".")
        self._thread.join()
        self._close_all()

    def _close_all(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._tell.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                bound = key.fileobj
                assert isinstance(bound, socket.socket)
                if bound is self._told:
                    return
                # Another datagram's ICMP error may come in place of one.
                with suppress(OSError):
                    query, client = bound.recvfrom(_LARGEST)
                    answer = whoami(query, client[0], client[1])
                    if answer:
                        bound.sendto(answer, client)
                        self.answered += 1


def whoami(query: bytes, address: str, port: int) -> bytes | None:
    """The answer to a DNS query: the client's address and port in the additional section.

    Args:
        query: the datagram.
        address, port: the client it came from.

    Returns:
        None for what is no DNS query.
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
