"""Connections to one API server, as one user: TLS, proxy, credentials."""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from collections.abc import Mapping
from errno import ETIMEDOUT
from http.client import IncompleteRead
from typing import Any
from urllib.parse import urlsplit

import urllib3

from kubectl_istio_udp.kube import kubeconfig, tls
from kubectl_istio_udp.kube.connections import POOLS, within
from kubectl_istio_udp.kube.credentials import (
    RequestCredentials,
    basic,
    credentials_of,
    impersonation,
)
from kubectl_istio_udp.kube.http_proxy import Proxy, proxy_for
from kubectl_istio_udp.kube.kubeconfig import Certificate, Login
from kubectl_istio_udp.model.errors import Broken, Unreachable

# More connections than the controller's workers and watches use. Connections beyond the pool's size
# are closed, and the next request needs a new TLS handshake.
_KEPT_CONNECTIONS = 64
# Seconds. Python's sockets count milliseconds in 31 bits.
_LONGEST_TIMEOUT = 2_000_000.0
# Control characters, and halves of characters: how Python reads bytes that are not UTF-8.
_NOT_IN_HEADERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
# The causes after which client-go sends a read again (IsConnectionReset, IsProbableEOF): the other
# side closed the connection. Timeouts, refused connections and garbage are not among them.
_BROKEN = (
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    IncompleteRead,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
# TCP keepalive finds a dead connection on which nothing is sent: after 10 s of silence the kernel
# sends a probe every 5 s, and closes the connection after the third without an answer.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class Transport:
    """Connections to an API server. Safe to use from several threads.

    Attributes:
        url: the server's URL without trailing slash.
        user: the impersonated user, None for none.
        timeout: seconds for one request, None for no timeout.
    """

    def __init__(self, login: Login, *, timeout: float) -> None:
        """Find the proxy and the credentials; send no request yet.

        Args:
            login: the cluster and the user.
            timeout: seconds for one request: to connect, to send it, and to read the response; 0
                for no timeout. Time for a credential plugin is added, because a user may have to
                log in.

        Raises:
            Unreachable: the proxy or the credentials are invalid.
        """
        self.url = login.cluster.url
        self.user = login.user.as_user or None
        self.timeout = min(timeout, _LONGEST_TIMEOUT) or None
        self._login = login
        self._credentials = credentials_of(login)
        self._proxy = proxy_for(self.url, login.cluster.proxy_url, os.environ)
        self._headers = impersonation(login.user)
        self._lock = threading.Lock()
        self._current_pool: urllib3.PoolManager | None = None
        self._certificate: Certificate | None = None

    def credentials(self) -> RequestCredentials:
        """The user's credentials for one request; may run a credential plugin.

        Raises:
            Unreachable: they cannot be read, or the plugin failed.
        """
        return self._credentials.current()

    def headers(self, credentials: RequestCredentials) -> urllib3.HTTPHeaderDict:
        """The headers with the user's credentials.

        Raises:
            Unreachable: they contain a character that a header cannot have.
        """
        headers = urllib3.HTTPHeaderDict({"User-Agent": "kubectl-istio-udp"})
        userinfo = self._login.cluster.userinfo
        # As in Go, credentials in the URL take precedence.
        authorization = basic(userinfo) if userinfo else credentials.authorization
        if authorization:
            headers["Authorization"] = authorization
        for name, value in self._headers:
            headers.add(name, value)
        for name, value in headers.iteritems():
            if _NOT_IN_HEADERS.search(value):
                raise Unreachable(
                    f"the header {name} cannot be sent: it would contain a line break, another "
                    "control character, or text that is not UTF-8",
                    hints=["look for it in the user's entry: kubectl config view --raw"],
                )
        return headers

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        stream: bool = False,
        silence: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request; return the response with any status.

        Args:
            method, path, headers, body: the request; path includes the query.
            stream: do not read the response's body yet.
            silence: how many seconds a streamed body may pause; None for the request's timeout.

        Raises:
            Broken: the connection ended before the response was complete.
            Unreachable: there was no response, or not within the timeout, or the credentials cannot
                be used.
        """
        seconds, credentials = self.timeout, self.credentials()
        whole = self.headers(credentials)
        whole.extend(headers)
        if self._login.cluster.compression and not stream:
            whole["Accept-Encoding"] = "gzip"
        pool = self._pool(credentials.certificate)
        try:
            with within(seconds):
                answer = pool.request(
                    method,
                    self.url + path,
                    headers=_in_utf8(whole),
                    body=body,
                    timeout=urllib3.Timeout(connect=seconds, read=silence or seconds),
                    retries=False,
                    redirect=False,
                    preload_content=not stream,
                )
                if answer.status >= 300 and stream:
                    answer.read(cache_content=True)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            # The pool's idle connections may be broken for the same reason.
            pool.clear()
            raise self.unreachable(error, seconds) from error
        if answer.status == 401:
            self.rejected(credentials)
        return answer

    def rejected(self, credentials: RequestCredentials) -> None:
        """Read the credentials again before the next request, because the server answered 401."""
        self._credentials.rejected(credentials)

    def open_socket(self, credentials: RequestCredentials, seconds: float) -> socket.socket:
        """Open a connection for a websocket, through the same proxy and with the same TLS settings.

        Args:
            credentials: the user's credentials.
            seconds: the timeout for connecting.

        Raises:
            Unreachable: the server cannot be reached.
        """
        target = urlsplit(self.url)
        # urllib3 has no public API for a connection without a request.
        pool = self._pool(credentials.certificate).connection_from_url(self.url)
        connection: Any = pool._new_conn()
        connection.timeout = seconds
        try:
            with within(seconds):
                if pool.proxy is None:
                    connection.connect()
                elif target.scheme == "https":
                    pool._prepare_proxy(connection)
                else:
                    connection.set_tunnel(target.hostname, target.port or 80, self._proxy_headers())
                    connection.connect()
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise self.unreachable(error, seconds) from error
        found: socket.socket = connection.sock
        return found

    def _pool(self, certificate: Certificate | None) -> urllib3.PoolManager:
        """The connection pool; a new one for a new client certificate."""
        with self._lock:
            if self._current_pool is None or certificate != self._certificate:
                self._current_pool, self._certificate = self._make_pool(certificate), certificate
            return self._current_pool

    def _make_pool(self, certificate: Certificate | None) -> urllib3.PoolManager:
        cluster, proxy = self._login.cluster, self._proxy
        options: dict[str, Any] = {
            "maxsize": _KEPT_CONNECTIONS,
            "socket_options": _socket_options(),
        }
        if cluster.insecure:
            # The user set insecure-skip-tls-verify.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        # As in Go, the TLS settings of the server apply to an https proxy too.
        context = tls.context_of(cluster, certificate) if cluster.tls else None
        if context is not None:
            options["ssl_context"] = context
            if cluster.tls_server_name:
                options["server_hostname"] = cluster.tls_server_name
        if proxy is not None and proxy.scheme == "socks5":
            # PySocks connects to the proxy: each step may take the request's timeout.
            return _socks_pool(proxy, options)
        if proxy is None:
            pool = urllib3.PoolManager(**options)
        else:
            pool = urllib3.ProxyManager(
                proxy.url,
                proxy_headers=self._proxy_headers(),
                proxy_ssl_context=context
                or (tls.system_context() if proxy.scheme == "https" else None),
                **options,
            )
        pool.pool_classes_by_scheme = POOLS
        return pool

    def _proxy_headers(self) -> dict[str, str]:
        proxy = self._proxy
        if proxy is None or proxy.username is None:
            return {}
        return {"Proxy-Authorization": basic(f"{proxy.username}:{proxy.password}")}

    def unreachable(self, error: BaseException, seconds: float | None) -> Unreachable:
        """The error for a request without a response; seconds is its timeout, None for none."""
        through = f" through the proxy {self._proxy.url}" if self._proxy else ""
        cause = _cause(error)
        # The kernel's own timeouts (ETIMEDOUT) are not this one.
        late = "timed out" in str(error).lower() and getattr(cause, "errno", None) != ETIMEDOUT
        if seconds is not None and late:
            return Unreachable(
                f"the API server {self.url} did not answer within {seconds:g}s{through}",
                hints=["wait longer: --request-timeout 60s", "check it: kubectl version"],
            )
        hints = ["check it: kubectl version", "another cluster: --context or --kubeconfig"]
        if self.url == kubeconfig.DEFAULT_SERVER:
            lacking = ", ".join(map(str, self._login.not_found))
            found = f" (not found: {lacking})" if lacking else ""
            hints.insert(0, f"no kubeconfig names a server, so the default was used{found}")
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted: {cause.verify_message}"
        else:
            why = plain(cause)
        kind = Broken if isinstance(cause, _BROKEN) else Unreachable
        return kind(f"the API server {self.url} cannot be reached{through}: {why}", hints=hints)


def _cause(error: BaseException) -> BaseException:
    """The original error inside urllib3's exceptions."""
    while True:
        below = error.__cause__ or getattr(error, "reason", None)
        if below is None and error.args and isinstance(error.args[-1], BaseException):
            below = error.args[-1]
        if not isinstance(below, BaseException):
            return error
        error = below


def _socks_pool(proxy: Proxy, options: Mapping[str, Any]) -> urllib3.PoolManager:
    try:
        # Imported here because few users have a SOCKS proxy, and PySocks is optional.
        from urllib3.contrib.socks import SOCKSProxyManager
    except ImportError as error:
        raise Unreachable(
            f"the proxy {proxy.url} needs a Python package that is not installed: PySocks",
            hints=["install it: pip install 'kubectl-istio-udp[socks]'"],
        ) from error
    # As Go does, let the proxy resolve the server's name.
    url = proxy.url.replace("socks5:", "socks5h:", 1)
    return SOCKSProxyManager(url, username=proxy.username, password=proxy.password, **options)


def _in_utf8(headers: urllib3.HTTPHeaderDict) -> urllib3.HTTPHeaderDict:
    """Trim headers and encode them as UTF-8, as Go does; http.client would write Latin-1."""
    found = urllib3.HTTPHeaderDict()
    for name, value in headers.iteritems():
        found.add(name, value.strip(" \t").encode().decode("latin-1"))
    return found


def _socket_options() -> list[tuple[int, int, int]]:
    """urllib3's default socket options, and the keepalive options that the platform supports."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
    options += [
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in _KEEPALIVE.items()
        if hasattr(socket, name)
    ]
    return options


def plain(error: object) -> str:
    """An exception's text as one line, without error numbers and urllib3's object addresses."""
    text = re.sub(r"<[^>]* object at 0x[0-9a-f]+>:? ?|\[Errno -?\d+\] ", "", str(error)).strip()
    return " ".join(text.split()) or type(error).__name__
