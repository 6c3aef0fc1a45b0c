"""The auth provider `oidc`: an id-token in the kubeconfig, which kubectl renews.

Most identity providers accept a refresh token once and return the next one. It must be written to
the kubeconfig, or the user has to log in again. kubectl does that, so this module runs kubectl to
renew the token (client-go's plugin/pkg/client/auth/oidc).
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from contextlib import suppress

from kubectl_istio_udp.kube.kubeconfig import ConnectionOptions, User
from kubectl_istio_udp.model.errors import Unreachable

# client-go treats a token as expired ten seconds before its end.
_LEEWAY_SECONDS = 10.0
_LONGEST_SECONDS = 60.0
_FLAGS = (
    "kubeconfig",
    "context",
    "cluster",
    "user",
    "server",
    "certificate_authority",
    "tls_server_name",
)


def id_token(user: User) -> str:
    """The id-token of a user, to send as a bearer token.

    Raises:
        Unreachable: the user has no valid id-token.
    """
    settings = user.auth_provider_config
    for name in ("idp-issuer-url", "client-id"):
        if not settings.get(name):
            raise _cannot(user, f"it has no {name}")
    token = settings.get("id-token", "")
    if not token:
        raise _cannot(user, "it has no id-token")
    if _ends(user, token) <= time.time() + _LEEWAY_SECONDS:
        raise _cannot(user, "its id-token has expired")
    return token


def must_renew(user: User) -> bool:
    """Whether a user has a refresh token, and no valid id-token."""
    settings = user.auth_provider_config
    if user.auth_provider != "oidc" or user.token or user.token_file:
        return False
    if not settings.get("refresh-token"):
        return False
    token = settings.get("id-token", "")
    return not token or _ends(user, token) <= time.time() + _LEEWAY_SECONDS


def renew(options: ConnectionOptions) -> None:
    """Run kubectl, so that it renews the user's tokens in the kubeconfig."""
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name in _FLAGS
        if (value := getattr(options, name))
    ]
    if options.insecure_skip_tls_verify:
        flags.append("--insecure-skip-tls-verify")
    with suppress(OSError, subprocess.TimeoutExpired):
        # kubectl's output is ignored: the caller checks whether the token is valid now.
        subprocess.run(
            ["kubectl", "get", "--raw", "/version", *flags],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LONGEST_SECONDS,
            check=False,
        )


def _ends(user: User, token: str) -> float:
    """When a token (JWT) expires, in seconds since 1970.

    Raises:
        Unreachable: it is not a JWT, or has no expiry time.
    """
    try:
        _header, payload, _signature = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (ValueError, KeyError, TypeError) as error:
        raise _cannot(user, "its id-token is not a JWT with an expiry time") from error


def _cannot(user: User, why: str) -> Unreachable:
    return Unreachable(
        f"user {user.name!r} cannot log in with the auth provider oidc: {why}",
        hints=["log in again, or choose another context with --context"],
    )
