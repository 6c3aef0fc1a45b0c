"""Run a command in a container, over a websocket (`v5.channel.k8s.io`)."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import websocket

from kubectl_istio_udp.kube import websockets
from kubectl_istio_udp.kube.http_errors import Action
from kubectl_istio_udp.kube.transport import Transport

# The subprotocol's channels (k8s.io/apimachinery, remotecommand's documentation).
_STDOUT, _STDERR, _STATUS = 1, 2, 3
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")


@dataclass(frozen=True)
class ExecResult:
    """The result of a command in a pod.

    Attributes:
        stdout, stderr: its output.
        exit_code: its exit code; None if it was not started (no such executable) or interrupted.
        error: why it was not started, or was interrupted.
        timed_out: whether it was interrupted because it took too long.
    """

    stdout: str
    stderr: str
    exit_code: int | None
    error: str = ""
    timed_out: bool = False


def run(transport: Transport, path: str, action: Action, timeout: float) -> ExecResult:
    """Run a command and wait until it exits.

    Args:
        transport: connections to the API server.
        path: path and query, including the command.
        action: the request, for errors.
        timeout: seconds until it is abandoned (it may continue in the pod).

    Raises:
        UpgradeUnavailable: a proxy on the way blocks websockets.
        Busy: the server asks to retry later.
        NotFound, Forbidden, ClusterError: the command was not started.
        Unreachable: the server could not be reached or the connection broke; the command may have
            been started.
    """
    deadline = time.monotonic() + timeout
    socket = websockets.connect(transport, path, action, timeout, _PROTOCOLS)
    try:
        return _read(socket, deadline)
    except (OSError, websocket.WebSocketException) as error:
        raise transport.unreachable(error, timeout) from error
    finally:
        socket.shutdown()


def _read(socket: Any, deadline: float) -> ExecResult:
    """Collect the channels until the command ends or the deadline (monotonic seconds) passes."""
    channels: dict[int, bytearray] = {name: bytearray() for name in (_STDOUT, _STDERR, _STATUS)}
    cut_off, timed_out = "", False
    size = 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            timed_out = True
            break
        socket.settimeout(left)
        try:
            opcode, data = socket.recv_data(control_frame=True)
        except (TimeoutError, websocket.WebSocketTimeoutException):
            timed_out = True
            break
        except websocket.WebSocketConnectionClosedException:
            break
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            break
        size += len(data)
        if size > websockets.MOST_BYTES:
            cut_off = f"it wrote more than {websockets.MOST_BYTES // 2**20} MB"
            break
        if opcode in (websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_TEXT) and len(data) > 1:
            channels.setdefault(data[0], bytearray()).extend(data[1:])
    exit_code, error = _exit_status(bytes(channels[_STATUS]))
    return ExecResult(
        channels[_STDOUT].decode(errors="replace"),
        channels[_STDERR].decode(errors="replace"),
        exit_code,
        "timed out" if timed_out else cut_off or error,
        timed_out,
    )


def _exit_status(status: bytes) -> tuple[int | None, str]:
    """Exit code and error of a metav1.Status from exec's error channel."""
    if not status:
        return None, "the connection ended before the command did"
    try:
        data = json.loads(status)
    except ValueError:
        return None, "the exit status of the command cannot be read"
    if data.get("status") == "Success":
        return 0, ""
    for cause in (data.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"]), ""
    return None, data.get("message", "the command could not be started")
