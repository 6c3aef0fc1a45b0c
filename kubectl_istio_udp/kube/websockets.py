"""Websockets to the API server, for exec and port-forward."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import websocket

from kubectl_istio_udp.kube.connections import within
from kubectl_istio_udp.kube.http_errors import Action, refusal
from kubectl_istio_udp.kube.transport import Transport
from kubectl_istio_udp.model.errors import ClusterError, UpgradeUnavailable

# The maximum bytes read from one response of a pod, so that an endless response does not use up
# memory. The configuration of the test cluster's gateway has 0.2 MB.
MOST_BYTES = 128 * 2**20


def connect(
    transport: Transport, path: str, action: Action, timeout: float, protocols: Sequence[str]
) -> websocket.WebSocket:
    """Open a websocket; `shutdown()` closes it.

    Args:
        transport: connections to the API server.
        path: path and query.
        action: the request, for errors.
        timeout: seconds to connect, and then for each read until the caller changes it.
        protocols: the subprotocols to offer, best first.

    Raises:
        UpgradeUnavailable: a proxy on the way blocks websockets.
        NotFound, Forbidden, Unreachable, ClusterError: the server rejected the request, or could
            not be reached.
    """
    socket = websocket.WebSocket()
    shown = transport.credentials()
    headers = [f"{key}: {value}" for key, value in transport.headers(shown).iteritems()]
    deadline = time.monotonic() + timeout
    connection = transport.open_socket(shown, timeout)
    try:
        with within(deadline - time.monotonic()):
            socket.connect(
                re.sub("^http", "ws", transport.url) + path,
                socket=connection,
                timeout=timeout,
                header=headers,
                subprotocols=list(protocols),
                suppress_origin=True,
            )
    except BaseException as error:
        connection.close()
        if isinstance(error, websocket.WebSocketBadStatusException):
            if error.status_code == 401:
                transport.rejected(shown)
            raise _not_upgraded(error, action) from error
        if isinstance(error, (OSError, websocket.WebSocketException)):
            raise transport.unreachable(error, timeout) from error
        raise
    return socket


def _not_upgraded(error: websocket.WebSocketBadStatusException, action: Action) -> ClusterError:
    """The error for a websocket handshake that was answered without an upgrade."""
    status, body = error.status_code, error.resp_body or b""
    text = body.decode(errors="replace")
    # The API server's errors are Status objects. If its error is that the upgrade headers are
    # missing, then a proxy removed them.
    if '"Status"' in text and "pgrade" not in text:
        return refusal(status, body, action, error.resp_headers or {})
    return UpgradeUnavailable(
        f"cannot {action.verb} {action.resource}/{action.subresource}: a proxy or load balancer in "
        f"front of the API server blocks websockets (it answered {status})",
        hints=[
            "these commands work without websockets: get, describe, delete, expose --no-wait, "
            "direct response --no-wait",
            "let it pass Upgrade headers, or use a kubeconfig that connects to the API server "
            "directly",
        ],
    )
