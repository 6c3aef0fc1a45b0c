"""HTTP requests to a port of a pod, through the API server (`v4.channel.k8s.io`).

Each message begins with a channel number: channel 0 has the port's data, channel 1 the node's
errors. The first message of each channel only contains the port number (kubelet,
pkg/cri/streaming/portforward/websocket.go).
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Callable
from typing import Any

import websocket

from kubectl_istio_udp.kube.websockets import MOST_BYTES
from kubectl_istio_udp.model.errors import ClusterError, ForwardFailed, NoAnswer

PROTOCOLS = ("v4.channel.k8s.io",)
_DATA, _ERROR = 0, 1
_PORT_BYTES = 2


class PodHttp:
    """A client for HTTP requests to a port of a pod, one after the other over one connection.

    Attributes:
        where: the pod, as `namespace/name`.
    """

    def __init__(
        self,
        where: str,
        port: int,
        timeout: float,
        connect: Callable[[], websocket.WebSocket],
    ) -> None:
        """Create the client; the first request connects.

        Args:
            where: the pod, as `namespace/name`, for errors.
            port: the port in the pod, on localhost.
            timeout: seconds for each request.
            connect: opens the websocket.
        """
        self.where, self._port, self._timeout = where, port, timeout
        self._http = _Connection(connect)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str) -> bytes:
        """Send a GET request; return the response's body.

        Raises:
            ForwardFailed: nothing listens on the port, or the node cannot connect to it.
            UpgradeUnavailable, NotFound, Forbidden, Unreachable: the connection to the pod failed.
            NoAnswer: the response timed out, was incomplete or too long, or its status is not 200.
        """
        self._http.deadline = time.monotonic() + self._timeout
        try:
            self._http.request("GET", path)
            answer = self._http.getresponse()
            body = answer.read(MOST_BYTES + 1)
        except (http.client.HTTPException, OSError) as error:
            self._http.close()
            raise NoAnswer(self._failure_text(error)) from error
        except ClusterError:
            self._http.close()
            raise
        subject = f"port {self._port} of pod {self.where} answered"
        if len(body) > MOST_BYTES:
            self._http.close()
            raise NoAnswer(f"{subject} more than {MOST_BYTES // 2**20} MB")
        if answer.status != 200:
            text = body.decode(errors="replace").strip()
            raise NoAnswer(f"{subject} {answer.status}: {text[:300]}")
        return body

    def _failure_text(self, error: Exception) -> str:
        """The message about a request without a complete response."""
        at = f"port {self._port} of pod {self.where}"
        if isinstance(error, TimeoutError):
            return f"{at} did not respond within {self._timeout:g}s"
        return f"{at} closed the connection before the response was complete"


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over a forwarded port.

    Attributes:
        deadline: the deadline of the current operation (monotonic seconds).
    """

    def __init__(self, connect: Callable[[], websocket.WebSocket]) -> None:
        super().__init__("localhost")
        self._connect, self.deadline = connect, 0.0

    def connect(self) -> None:
        """Forward the port; http.client calls this if there is no open connection."""
        self.sock: Any = _PodSocket(self._connect(), lambda: self.deadline)


class _PodSocket:
    """The socket methods that http.client needs, over a websocket."""

    def __init__(self, socket: websocket.WebSocket, deadline: Callable[[], float]) -> None:
        self._websocket, self._deadline = socket, deadline
        # Per channel, the bytes to skip before its data.
        self._heads = {_DATA: _PORT_BYTES, _ERROR: _PORT_BYTES}
        self._read = b""

    def close(self) -> None:
        """Close the connection."""
        self._websocket.shutdown()

    def sendall(self, data: bytes) -> None:
        """Send bytes to the port."""
        self._websocket.settimeout(self._left())
        self._websocket.send_binary(bytes([_DATA]) + data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """A file to read one response from; closing it does not close the connection."""
        return io.BufferedReader(_Reader(self))

    def recv(self, size: int) -> bytes:
        """At least one byte from the port; b"" at the end.

        Raises:
            TimeoutError: the deadline passed.
            ForwardFailed: the node reported an error on the error channel.
        """
        while not self._read:
            data = self._message()
            if data is None:
                return b""
            self._read = data
        each, self._read = self._read[:size], self._read[size:]
        return each

    def _message(self) -> bytes | None:
        """The data of the next message; None at the end."""
        self._websocket.settimeout(self._left())
        try:
            opcode, message = self._websocket.recv_data(control_frame=True)
        except websocket.WebSocketTimeoutException as error:
            raise TimeoutError from error
        except websocket.WebSocketConnectionClosedException:
            return None
        except websocket.WebSocketException as error:
            raise ConnectionError(str(error)) from error
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return None
        if opcode not in (websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_TEXT) or not message:
            return b""
        channel, data = message[0], message[1:]
        head = self._heads.get(channel, 0)
        self._heads[channel] = max(0, head - len(data))
        data = data[head:]
        if channel == _ERROR and data:
            raise ForwardFailed(data.decode(errors="replace").strip())
        return bytes(data) if channel == _DATA else b""

    def _left(self) -> float:
        left = self._deadline() - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _Reader(io.RawIOBase):
    """A raw file that reads from a socket."""

    def __init__(self, socket: _PodSocket) -> None:
        self._socket = socket

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at least one byte; 0 at the end."""
        each = self._socket.recv(len(buffer))
        buffer[: len(each)] = each
        return len(each)
