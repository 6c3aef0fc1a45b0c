"""The user's credentials: the Authorization header, impersonation headers, a client certificate.

As in client-go, credentials are never sent over plain HTTP.
"""

from __future__ import annotations

import base64
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kubectl_istio_udp.kube.kubeconfig import Certificate, Login, User, read_file
from kubectl_istio_udp.model.errors import Unreachable

# Seconds until a token file is read again; the same as client-go's token_source.go.
_READ_AGAIN_SECONDS = 60.0
# Seconds until a credential plugin that failed is run again.
_RUN_AGAIN_SECONDS = 1.0
_LEGAL_IN_HEADERS = frozenset(
    "!#$&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


@dataclass(frozen=True, eq=False, repr=False)
class RequestCredentials:
    """The credentials of one request.

    Attributes:
        authorization: the Authorization header, "" for none.
        certificate: the client certificate, None for none.
    """

    authorization: str = ""
    certificate: Certificate | None = None


class Credentials(Protocol):
    """A source of a user's credentials. Safe to use from several threads."""

    def current(self) -> RequestCredentials:
        """The credentials for the next request.

        Raises:
            Unreachable: the token file cannot be read, or the credential plugin failed.
        """

    def rejected(self, credentials: RequestCredentials) -> None:
        """Drop cached credentials if they are these, because the server answered 401."""


class ClientCertificate:
    """A user's client certificate. Its files are read again, because others may renew them."""

    def __init__(self, user: User) -> None:
        """Read it.

        Raises:
            Unreachable: a file cannot be read.
        """
        self._user = user
        self._last = self._read()

    def _read(self) -> Certificate | None:
        user = self._user
        certificate, key = user.client_certificate_data, user.client_key_data
        if not certificate and user.client_certificate:
            certificate = read_file(user.client_certificate, "client-certificate")
        if not key and user.client_key:
            key = read_file(user.client_key, "client-key")
        return Certificate(certificate, key) if certificate else None

    def __call__(self) -> Certificate | None:
        """The certificate, None for none; the last one while a file cannot be read or is empty."""
        if self._user.client_certificate or self._user.client_key:
            with suppress(Unreachable):
                # A file that is being written is empty at first.
                self._last = self._read() or self._last
        return self._last


class Fixed:
    """Credentials that do not change, except for a client certificate in files."""

    def __init__(
        self,
        authorization: str = "",
        certificate: Callable[[], Certificate | None] = lambda: None,
    ) -> None:
        """Take the value of the Authorization header, and the source of the certificate."""
        self._authorization, self._certificate = authorization, certificate

    def current(self) -> RequestCredentials:
        """See Credentials."""
        return RequestCredentials(self._authorization, self._certificate())

    def rejected(self, credentials: RequestCredentials) -> None:
        """See Credentials."""


class TokenFile:
    """A bearer token in a file that another process renews, for example the kubelet."""

    def __init__(
        self,
        path: Path,
        fallback: str,
        certificate: Callable[[], Certificate | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the file, a token to use while it cannot be read, and a clock in seconds."""
        self._path, self._token, self._clock = path, fallback, clock
        self._certificate = certificate
        self._until = -math.inf

    def current(self) -> RequestCredentials:
        """See Credentials; the file is read again every minute."""
        now, certificate = self._clock(), self._certificate()
        if now >= self._until:
            try:
                found = self._path.read_text(encoding="utf-8").strip()
                if found:
                    self._token, self._until = found, now + _READ_AGAIN_SECONDS
                problem = "is empty"
            except OSError as error:
                problem = f"cannot be read: {error.strerror}"
            except ValueError:
                problem = "is not text"
            # The token that was read before may still be valid.
            if not self._token and (problem != "is empty" or certificate is None):
                raise Unreachable(
                    f"the token file {self._path} {problem}",
                    hints=["log in again, or choose another context with --context"],
                )
        return RequestCredentials(f"Bearer {self._token}" if self._token else "", certificate)

    def rejected(self, credentials: RequestCredentials) -> None:
        """See Credentials."""
        if credentials.authorization == f"Bearer {self._token}":
            self._until = -math.inf


class PluginSource:
    """The credentials that a credential plugin prints, cached until they expire."""

    def __init__(self, login: Login) -> None:
        """Take the user that has the plugin."""
        self._login = login
        self._lock = threading.Lock()
        self._current = RequestCredentials()
        self._until = 0.0
        self._failure: Unreachable | None = None
        self._failed = -math.inf

    def current(self) -> RequestCredentials:
        """See Credentials."""
        # Imported here because most users have no plugin.
        from kubectl_istio_udp.kube.plugins import run

        with self._lock:
            if time.time() < self._until:
                return self._current
            # A plugin may prompt. Do not run it again for each of a command's parallel requests.
            if self._failure and time.monotonic() < self._failed + _RUN_AGAIN_SECONDS:
                raise self._failure
            try:
                given = run(self._login)
            except Unreachable as error:
                self._failure, self._failed = error, time.monotonic()
                raise
            authorization = f"Bearer {given.token}" if given.token else ""
            self._current, self._until = (
                RequestCredentials(authorization, given.certificate),
                given.expires,
            )
            return self._current

    def rejected(self, credentials: RequestCredentials) -> None:
        """See Credentials; a plugin runs once for all requests with the same credentials."""
        with self._lock:
            if credentials is self._current:
                self._until = 0.0


def credentials_of(login: Login) -> Credentials:
    """The source of a user's credentials. No plugin runs yet.

    Raises:
        Unreachable: the user has no credentials, a client certificate cannot be read, a plugin over
            plain HTTP was not found, or an id-token (auth provider oidc) is missing or expired.
    """
    user = login.user
    if not login.cluster.tls:
        if user.plugin:
            from kubectl_istio_udp.kube.plugins import find

            # Do not run the plugin, since credentials are not sent over plain HTTP. But report a
            # missing plugin.
            find(user.plugin)
        return Fixed()
    certificate = ClientCertificate(user)
    if user.token_file:
        return TokenFile(Path(user.token_file), user.token, certificate)
    if user.token:
        return Fixed(f"Bearer {user.token}", certificate)
    if user.username:
        return Fixed(basic(f"{user.username}:{user.password}"), certificate)
    if user.auth_provider:
        # Imported here because few users have the auth provider `oidc`.
        from kubectl_istio_udp.kube.oidc import id_token

        return Fixed(f"Bearer {id_token(user)}", certificate)
    # client-go does not run the plugin if the user also has a certificate.
    if user.plugin and certificate() is None:
        return PluginSource(login)
    if certificate() is None:
        raise Unreachable(
            f"the kubeconfig has no credentials for {login.cluster.url}"
            + (f": user {user.name!r} is empty" if user.name else ""),
            hints=["log in, choose another context with --context, or set --token"],
        )
    return Fixed(certificate=certificate)


def impersonation(user: User) -> list[tuple[str, str]]:
    """The impersonation headers of a user."""
    headers = [("Impersonate-User", user.as_user)] if user.as_user else []
    headers += [("Impersonate-Group", group) for group in user.as_groups]
    headers += [("Impersonate-Uid", user.as_uid)] if user.as_uid else []
    headers += [
        (f"Impersonate-Extra-{_escaped(key)}", value)
        for key, values in user.as_extra
        for value in values
    ]
    return headers


def _escaped(key: str) -> str:
    """A key of as-user-extra, escaped for a header's name (client-go's headerKeyEscape)."""
    return "".join(
        chr(byte) if chr(byte) in _LEGAL_IN_HEADERS else f"%{byte:02X}" for byte in key.encode()
    )


def basic(userinfo: str) -> str:
    """The value of an Authorization header for `USER:PASSWORD`."""
    return "Basic " + base64.b64encode(userinfo.encode()).decode()
