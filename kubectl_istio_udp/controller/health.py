"""The controller's HTTP server: /healthz, /readyz, /metrics.

Every pod in the cluster may connect (render/controller.py). So the number of connections is
limited: a new one closes the oldest, which has had enough time for a probe.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kubectl_istio_udp.model.errors import UsageError

# How often the server checks whether it should stop.
_POLL_SECONDS = 0.05
_MOST_CONNECTIONS = 32
# The text of /metrics is cached for this long.
_METRICS_SECONDS = 1.0
_log = logging.getLogger(__name__)


class HealthServer:
    """Answers the kubelet's probes and Prometheus, in its own threads."""

    def __init__(
        self,
        port: int | None,
        metrics: Callable[[], bytes],
        why_unhealthy: Callable[[], str],
        ready: Callable[[], bool],
    ) -> None:
        """Bind the port; `start` begins to answer.

        Args:
            port: the port; 0 for any free one, None to open none.
            metrics: returns the text of /metrics.
            why_unhealthy: returns why /healthz should answer 500; "" if everything works.
            ready: returns whether /readyz should answer 200.

        Raises:
            UsageError: the port cannot be bound.
        """
        self._http: _Server | None = None
        if port is None:
            return
        try:
            self._http = _Server(("", port), _handler(_kept(metrics), why_unhealthy, ready))
        except OSError as error:
            raise UsageError(
                f"cannot serve health and metrics on port {port}: {error.strerror}",
                hints=["choose another port: --port PORT; or any free one: --port 0"],
            ) from error

    @property
    def port(self) -> int:
        """The port; 0 if it does not listen."""
        return int(self._http.server_address[1]) if self._http else 0

    def start(self) -> None:
        """Start to answer."""
        if self._http:
            threading.Thread(
                target=self._http.serve_forever, args=(_POLL_SECONDS,), name="health", daemon=True
            ).start()

    def stop(self) -> None:
        """Stop answering."""
        if self._http:
            self._http.shutdown()
            self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The length of the backlog: probes may wait behind many new connections.
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        # Oldest first.
        self._connections: dict[socket.socket, None] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread; beyond the limit, close the oldest connection."""
        with self._lock:
            self._connections[request] = None
            too_many = len(self._connections) > _MOST_CONNECTIONS
            oldest = next(iter(self._connections)) if too_many else None
            if oldest is not None:
                del self._connections[oldest]
        if oldest is not None:
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log at debug level: clients often close a connection early."""
        _log.debug("a request for health or metrics failed", exc_info=True)


def _kept(metrics: Callable[[], bytes]) -> Callable[[], bytes]:
    """Cache the text for a moment."""
    lock, kept, until = threading.Lock(), b"", 0.0

    def recent() -> bytes:
        nonlocal kept, until
        with lock:
            if time.monotonic() >= until:
                kept, until = metrics(), time.monotonic() + _METRICS_SECONDS
            return kept

    return recent


def _handler(
    metrics: Callable[[], bytes], why_unhealthy: Callable[[], str], ready: Callable[[], bool]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # A client that sends nothing must not occupy a thread.
        timeout = 10

        def log_message(self, format: str, *args: object) -> None:
            """Do not log probes."""

        def do_GET(self) -> None:
            """Answer."""
            if self.path == "/metrics":
                self._answer(200, metrics(), "text/plain; version=0.0.4; charset=utf-8")
            elif self.path == "/healthz":
                problem = why_unhealthy()
                self._answer(500 if problem else 200, (problem or "ok").encode())
            elif self.path == "/readyz":
                is_ready = ready()
                self._answer(
                    200 if is_ready else 503, b"ok" if is_ready else b"caches are not synced"
                )
            else:
                self._answer(404, b"not found; use /healthz, /readyz or /metrics")

        def _answer(self, code: int, body: bytes, kind: str = "text/plain") -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
