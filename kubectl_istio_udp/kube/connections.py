"""Connections with one timeout for a whole request, as Go's http.Client has.

The timeout of a Python socket is for one step: for each address that is tried, and each time data
arrives. A server that sends one byte per second never exceeds it. Here, each step may only take
what is left of the request's time (`within`).

The next address of a host is tried when one has failed or does not answer soon (RFC 8305, as in
Go). So a host with a broken IPv6 address is reached by IPv4.
"""

from __future__ import annotations

import math
import os
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import chain, zip_longest
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from kubectl_istio_udp.kube.hostnames import check_hostname

# Seconds until the next address is tried; the default of Go's net.Dialer (FallbackDelay).
_NEXT_ADDRESS_SECONDS = 0.3
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Limit the time of all connections in this thread; afterwards each step raises TimeoutError.

    Args:
        seconds: the limit; None for none. It cannot extend a limit that is already set.
    """
    at = math.inf if seconds is None else time.monotonic() + seconds
    token = _deadline.set(min(at, _deadline.get()))
    try:
        yield
    finally:
        _deadline.reset(token)


def _limited(timeout: float | None) -> float | None:
    """The timeout of the next step: at most the time that is left.

    Raises:
        TimeoutError: no time is left.
    """
    at = _deadline.get()
    if at == math.inf:
        return timeout
    left = at - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left if timeout is None else min(left, timeout)


class Socket(socket.socket):
    """A socket that observes `within`, besides its own timeout for each step."""

    _timeout: float | None = None

    def settimeout(self, value: float | None) -> None:
        """Set the timeout of each step."""
        self._timeout = value
        super().settimeout(value)

    def _limit(self) -> None:
        super().settimeout(_limited(self._timeout))

    def recv(self, *arguments: Any) -> bytes:
        """See socket.socket."""
        self._limit()
        return super().recv(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        """See socket.socket."""
        self._limit()
        return super().recv_into(*arguments)

    def send(self, *arguments: Any) -> int:
        """See socket.socket."""
        self._limit()
        return super().send(*arguments)

    def sendall(self, *arguments: Any) -> None:
        """See socket.socket."""
        self._limit()
        super().sendall(*arguments)


class TlsSocket(Socket, ssl.SSLSocket):
    """A Socket with TLS; SSLContext.wrap_socket makes it."""

    def do_handshake(self, block: bool = False) -> None:
        """See ssl.SSLSocket."""
        self._limit()
        super().do_handshake(block)
        check_hostname(self)


class TlsObject(ssl.SSLObject):
    """TLS inside of another connection; SSLContext.wrap_bio makes it."""

    def do_handshake(self) -> None:
        """See ssl.SSLObject."""
        super().do_handshake()
        check_hostname(self)


def connect(host: str, port: int, options: Iterable[Any], timeout: float | None) -> socket.socket:
    """Connect to the first address of a host that answers.

    Args:
        host, port: the host's name or address.
        options: arguments of setsockopt.
        timeout: seconds for all addresses together, and afterwards for each step; None for none.

    Raises:
        TimeoutError: no address answered in time.
        OSError: all failed; the error of the first one.
    """
    waiting = deque(_addresses(host, port))
    seconds = _limited(timeout)
    end = math.inf if seconds is None else time.monotonic() + seconds
    failures: list[OSError] = []
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                if waiting:
                    try:
                        selector.register(_begin(waiting.popleft(), options), selectors.EVENT_WRITE)
                    except OSError as error:
                        failures.append(error)
                        continue
                left = max(0.0, end - time.monotonic())
                pause = min(left, _NEXT_ADDRESS_SECONDS) if waiting else left
                connected = _first_connected(selector, pause, failures)
                if connected is not None:
                    connected.settimeout(timeout)
                    return connected
                if time.monotonic() >= end:
                    raise TimeoutError("timed out")
        finally:
            for key in tuple(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
    raise failures[0]


def _first_connected(
    selector: selectors.BaseSelector, seconds: float, failures: list[OSError]
) -> socket.socket | None:
    """The first socket that connects within these seconds; None if none does.

    Sockets that fail are closed, and their errors added to `failures`.
    """
    for key, _ in selector.select(None if seconds == math.inf else seconds):
        found: Any = selector.unregister(key.fileobj).fileobj
        code = found.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            return found  # type: ignore[no-any-return]
        found.close()
        failures.append(OSError(code, os.strerror(code)))
    return None


def _begin(address: _Address, options: Iterable[Any]) -> Socket:
    """Begin to connect to an address; return the socket."""
    family, kind, protocol, _, target = address
    found = Socket(family, kind, protocol)
    try:
        for option in options:
            found.setsockopt(*option)
        found.setblocking(False)
        with suppress(BlockingIOError):
            found.connect(target)
    except OSError:
        found.close()
        raise
    return found


def _addresses(host: str, port: int) -> Iterator[_Address]:
    """The addresses of a host, IPv4 and IPv6 in turn; the resolver's first one stays the first."""
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError(f"{host!r} is not a valid host name") from None
    first = [each for each in addresses if each[0] == addresses[0][0]]
    rest = [each for each in addresses if each[0] != addresses[0][0]]
    return filter(None, chain.from_iterable(zip_longest(first, rest)))


def _connected(connection: HTTPConnection) -> socket.socket:
    # urllib3 has no public way to use another socket; its SOCKS connections override this too.
    host: str = connection._dns_host
    timeout: Any = connection.timeout
    return connect(host, connection.port, connection.socket_options or (), timeout)


class _Connection(HTTPConnection):
    _new_conn = _connected


class _TlsConnection(HTTPSConnection):
    _new_conn = _connected


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


# The connection pools of a urllib3.PoolManager, by scheme.
POOLS = {"http": _Pool, "https": _TlsPool}
