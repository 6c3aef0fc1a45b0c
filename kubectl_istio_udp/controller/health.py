"""The controller's own HTTP server: /healthz, /readyz, /metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kubectl_istio_udp.model.errors import UsageError

# How often the server looks whether it is to end.
_POLL_SECONDS = 0.05


class HealthServer:
    """Answers the kubelet's probes and Prometheus, in threads of its own."""

    def __init__(
        self,
        port: int | None,
        metrics: Callable[[], bytes],
        ailment: Callable[[], str],
        ready: Callable[[], bool],
    ) -> None:
        """Say where and what.

        Args:
            port: where to listen; 0 takes any, None does not listen.
            metrics: the text of /metrics.
            ailment: why /healthz is to answer 500, "" where all is well.
            ready: whether /readyz is to answer 200.

        Raises:
            UsageError: the port cannot be listened at.
        """
        self._http: ThreadingHTTPServer | None = None
        if port is None:
            return
        try:
            self._http = ThreadingHTTPServer(("", port), _handler(metrics, ailment, ready))
        except OSError as error:
            raise UsageError(
                f"health and metrics cannot be served at port {port}: {error.strerror}",
                hints=["choose another: --port PORT; or any that is free: --port 0"],
            ) from error
        self._http.daemon_threads = True

    @property
    def port(self) -> int:
        """Where it listens; 0 where it does not."""
        return int(self._http.server_address[1]) if self._http else 0

    def start(self) -> None:
        """Answer from now on."""
        if self._http:
            threading.Thread(
                target=self._http.serve_forever, args=(_POLL_SECONDS,), name="health", daemon=True
            ).start()

    def stop(self) -> None:
        """Answer no more."""
        if self._http:
            self._http.shutdown()
            self._http.server_close()


def _handler(
    metrics: Callable[[], bytes], ailment: Callable[[], str], ready: Callable[[], bool]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # One that connects and says nothing must not keep a thread.
        timeout = 10

        def log_message(self, format: str, *args: object) -> None:
            """Probes are no news."""

        def do_GET(self) -> None:
            """Answer."""
            if self.path == "/metrics":
                self._answer(200, metrics(), "text/plain; version=0.0.4; charset=utf-8")
            elif self.path == "/healthz":
                problem = ailment()
                self._answer(500 if problem else 200, (problem or "ok").encode())
            elif self.path == "/readyz":
                there = ready()
                self._answer(200 if there else 503, b"ok" if there else b"listing")
            else:
                self._answer(404, b"there are /healthz, /readyz and /metrics")

        def _answer(self, code: int, body: bytes, kind: str = "text/plain") -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
