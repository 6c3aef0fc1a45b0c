"""Websockets to the API server, for exec and port-forward."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from http import HTTPStatus

import websocket

from kubectl_istio_udp.kube.connections import within
from kubectl_istio_udp.kube.http_errors import Action, refusal
from kubectl_istio_udp.kube.transport import Transport
from kubectl_istio_udp.model.errors import ClusterError, Unreachable, UpgradeUnavailable

# The maximum bytes read from one response of a pod, so that an endless response does not use up
# memory. The configuration of the test cluster's gateway has 0.2 MB.
MOST_BYTES = 128 * 2**20
_REDIRECTS = (301, 302, 303, 307, 308)
# Responses that may have other causes than websockets: a proxy that wants a login, or cannot reach
# the API server.
_OTHER_CAUSES = (407, 500, 502, 503, 504)
_WITHOUT = "get, describe, delete, expose --no-wait, direct response --no-wait"


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
        Busy: the server asks to retry later.
        Unreachable: the server could not be reached, or a proxy on the way answered with an error
            that may pass.
        NotFound, Forbidden, ClusterError: the server rejected the request.
    """
    socket = websocket.WebSocket()
    credentials = transport.credentials()
    headers = [f"{key}: {value}" for key, value in transport.headers(credentials).iteritems()]
    deadline = time.monotonic() + timeout
    connection = transport.open_socket(credentials, timeout)
    try:
        with within(deadline - time.monotonic()):
            socket.connect(
                re.sub("^http", "ws", transport.url) + path,
                socket=connection,
                timeout=timeout,
                header=headers,
                subprotocols=list(protocols),
                suppress_origin=True,
                # The redirect may lead to another server, and the headers have a token.
                redirect_limit=0,
            )
        if socket.getstatus() in _REDIRECTS:  # before websocket-client 1.9
            raise websocket.WebSocketException("Redirect limit exhausted")  # noqa: TRY301
    except BaseException as error:
        connection.close()
        # Without a status the response is not HTTP.
        if isinstance(error, websocket.WebSocketBadStatusException) and error.status_code:
            if error.status_code == 401:
                transport.rejected(credentials)
            raise _not_upgraded(error, action) from error
        if socket.getstatus() in _REDIRECTS:
            raise _answered(socket.getstatus(), action) from error
        if isinstance(error, (OSError, websocket.WebSocketException)):
            raise transport.unreachable(error, timeout) from error
        raise
    return socket


def _not_upgraded(error: websocket.WebSocketBadStatusException, action: Action) -> ClusterError:
    """The error for a websocket handshake that was answered without an upgrade."""
    status, body = error.status_code, error.resp_body or b""
    text, headers = body.decode(errors="replace"), error.resp_headers or {}
    # The API server's errors are Status objects. If its error is that the upgrade headers are
    # missing, then a proxy removed them.
    may_retry = status >= 500 and "retry-after" in {name.lower() for name in headers}
    if ('"Status"' in text and "pgrade" not in text) or status in (401, 429) or may_retry:
        return refusal(status, body, action, headers)
    if status in _OTHER_CAUSES:
        return _answered(status, action)
    return UpgradeUnavailable(
        f"cannot {action.verb} {action.resource}/{action.subresource}: a proxy or load balancer in "
        f"front of the API server blocks websockets (it answered {status})",
        hints=[
            f"these commands work without websockets: {_WITHOUT}",
            "let it pass Upgrade headers, or use a kubeconfig that connects to the API server "
            "directly",
        ],
    )


def _answered(status: int | None, action: Action) -> Unreachable:
    """The error for a response of a proxy that does not show whether it supports websockets."""
    answer = f"{status} {HTTPStatus(status).phrase}" if status else ""
    return Unreachable(
        f"cannot {action.verb} {action.resource}/{action.subresource}: a proxy or load balancer in "
        f"front of the API server answered {answer}",
        hints=[
            "look for a proxy or a login page in between: kubectl version",
            f"if it blocks websockets, these commands work without them: {_WITHOUT}",
        ],
    )
