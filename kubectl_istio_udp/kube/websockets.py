"""Websockets to the API server, for subresources of pods that upgrade the connection."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubectl_istio_udp.kube.refusals import Action, refusal
from kubectl_istio_udp.kube.transport import Transport
from kubectl_istio_udp.model.errors import ClusterError, UpgradeUnavailable

if TYPE_CHECKING:
    import websocket

# The most bytes that are read of one answer of a pod, so that a pod that goes on for ever does not
# take the reader's memory. The configuration of the test cluster's gateway has 0.2 MB.
MOST_BYTES = 128 * 2**20


def connect(
    transport: Transport, path: str, action: Action, timeout: float, protocols: Sequence[str]
) -> websocket.WebSocket:
    """Open a websocket; `shutdown()` closes it.

    Args:
        transport: the way to the API server.
        path: path and query.
        action: what is asked for, for errors.
        timeout: seconds for the connection, and for each read until the caller sets it anew.
        protocols: the subprotocols to offer, best first.

    Raises:
        UpgradeUnavailable: something on the way does not let websockets through.
        NotFound, Forbidden, Unreachable, ClusterError: the server refused it, or was not reached.
    """
    # A quarter of the time that `get` takes to start, and `get` needs no websocket.
    import websocket

    socket = websocket.WebSocket()
    connection = transport.open_socket(timeout)
    try:
        socket.connect(
            re.sub("^http", "ws", transport.url) + path,
            socket=connection,
            timeout=timeout,
            header=[f"{key}: {value}" for key, value in transport.headers().iteritems()],
            subprotocols=list(protocols),
            suppress_origin=True,
        )
    except BaseException as error:
        connection.close()
        if isinstance(error, websocket.WebSocketBadStatusException):
            if error.status_code == 401:
                transport.rejected()
            raise _not_upgraded(error, action) from error
        if isinstance(error, (OSError, websocket.WebSocketException)):
            raise transport.unreachable(error, timeout) from error
        raise
    return socket


def _not_upgraded(error: websocket.WebSocketBadStatusException, action: Action) -> ClusterError:
    """The error for a handshake that was answered like any other request."""
    status, body = error.status_code, error.resp_body or b""
    text = body.decode(errors="replace")
    # The API server's own refusals are Status objects; but one that misses the headers that ask
    # for the upgrade had a front in between that took them away.
    if '"Status"' in text and "pgrade" not in text:
        return refusal(status, body, action, error.resp_headers or {})
    return UpgradeUnavailable(
        f"cannot {action.verb} {action.resource}/{action.subresource}: what is in front of the API "
        f"server does not let websockets through (it answered {status})",
        hints=[
            "without websockets work: get, describe, delete, expose --no-wait, "
            "direct response --no-wait",
            "let it pass Upgrade headers, or use a kubeconfig that goes to the API server itself",
        ],
    )
