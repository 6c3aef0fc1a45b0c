"""What tells the API server who asks: headers, and a client certificate.

As in client-go, nothing that is secret goes over plain HTTP.
"""

from __future__ import annotations

import base64
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kubectl_istio_udp.kube.kubeconfig import Login, User
from kubectl_istio_udp.model.errors import Unreachable

# A token in a file is read again after so long (client-go's token_source.go has a minute).
_READ_AGAIN_SECONDS = 60.0
_LEGAL_IN_HEADERS = frozenset(
    "!#$&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


@dataclass(frozen=True)
class Certificate:
    """A client certificate with its key, each as PEM."""

    certificate: bytes
    key: bytes


class Credentials(Protocol):
    """Where a user's credentials come from. Safe to use from several threads."""

    def authorization(self) -> str:
        """The Authorization header, "" for none.

        Raises:
            Unreachable: there should be one and it cannot be had.
        """

    def certificate(self) -> Certificate | None:
        """The client certificate, None for none.

        Raises:
            Unreachable: there should be one and it cannot be had.
        """

    def rejected(self) -> None:
        """Note that the server answered 401: what is cached may have been withdrawn."""


class Fixed:
    """Credentials that do not change."""

    def __init__(self, authorization: str = "", certificate: Certificate | None = None) -> None:
        """Take them."""
        self._authorization, self._certificate = authorization, certificate

    def authorization(self) -> str:
        """See Credentials."""
        return self._authorization

    def certificate(self) -> Certificate | None:
        """See Credentials."""
        return self._certificate

    def rejected(self) -> None:
        """See Credentials."""


class TokenFile(Fixed):
    """A bearer token in a file that somebody else renews: the kubelet, for one."""

    def __init__(
        self,
        path: Path,
        fallback: str,
        certificate: Certificate | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the file, the token that counts while it cannot be read, and a clock in seconds."""
        super().__init__(certificate=certificate)
        self._path, self._token, self._clock = path, fallback, clock
        self._until = -math.inf

    def authorization(self) -> str:
        """See Credentials; the file is read again from time to time."""
        now = self._clock()
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
            # What was read before may still be good.
            if not self._token and (problem != "is empty" or self._certificate is None):
                raise Unreachable(
                    f"the token file {self._path} {problem}",
                    hints=["log in again, or choose another context with --context"],
                )
        return f"Bearer {self._token}" if self._token else ""

    def rejected(self) -> None:
        """See Credentials."""
        self._until = -math.inf


class Plugged:
    """What a credential plugin prints, kept until it expires."""

    def __init__(self, login: Login) -> None:
        """Take the user whose plugin it is."""
        self._login = login
        self._certificate: Certificate | None = None
        self._lock = threading.Lock()
        self._authorization = ""
        self._until = 0.0

    def _renew(self) -> None:
        # Most users have no plugin, and pay nothing for it.
        from kubectl_istio_udp.kube.plugins import run

        with self._lock:
            if time.time() < self._until:
                return
            given = run(self._login)
            self._authorization = f"Bearer {given.token}" if given.token else ""
            self._certificate = given.certificate
            self._until = given.expires

    def authorization(self) -> str:
        """See Credentials."""
        self._renew()
        return self._authorization

    def certificate(self) -> Certificate | None:
        """See Credentials."""
        self._renew()
        return self._certificate

    def rejected(self) -> None:
        """See Credentials."""
        with self._lock:
            self._until = 0.0


def credentials_of(login: Login) -> Credentials:
    """Where the credentials of a user come from.

    Raises:
        Unreachable: there are none, or a file cannot be read.
    """
    user = login.user
    if not login.cluster.tls:
        if user.plugin:
            from kubectl_istio_udp.kube.plugins import find

            # It is not run, for what it gives is not sent; that it is missing is told all the same.
            find(user.plugin)
        return Fixed()
    certificate = _certificate(user)
    if user.token_file:
        return TokenFile(Path(user.token_file), user.token, certificate)
    if user.token:
        return Fixed(f"Bearer {user.token}", certificate)
    if user.username:
        return Fixed(_basic(user.username, user.password), certificate)
    if user.auth_provider:
        # Few have it.
        from kubectl_istio_udp.kube.oidc import id_token

        return Fixed(f"Bearer {id_token(user)}", certificate)
    # client-go does not run a plugin where the kubeconfig has a certificate.
    if user.plugin and certificate is None:
        return Plugged(login)
    if certificate is None:
        raise Unreachable(
            f"the kubeconfig has no credentials for {login.cluster.url}"
            + (f": user {user.name!r} is empty" if user.name else ""),
            hints=["log in, or choose another context with --context", "or name a --token"],
        )
    return Fixed(certificate=certificate)


def impersonation(user: User) -> list[tuple[str, str]]:
    """The headers that ask to be treated as somebody else."""
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
    """A key of as-user-extra in a header's name (client-go's headerKeyEscape)."""
    return "".join(
        chr(byte) if chr(byte) in _LEGAL_IN_HEADERS else f"%{byte:02X}" for byte in key.encode()
    )


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _certificate(user: User) -> Certificate | None:
    certificate = user.client_certificate_data or _content(user.client_certificate)
    key = user.client_key_data or _content(user.client_key)
    return Certificate(certificate, key) if certificate else None


def _content(path: str) -> bytes:
    return Path(path).read_bytes() if path else b""
