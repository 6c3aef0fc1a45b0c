"""Credential plugins: commands that print a token or a client certificate.

The protocol is client-go's, `client.authentication.k8s.io/v1` and `v1beta1` (its exec.go).
"""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kubectl_istio_udp.kube.credentials import Certificate
from kubectl_istio_udp.kube.kubeconfig import Cluster, Fields, Login, Plugin, decoded
from kubectl_istio_udp.model.errors import Unreachable


@dataclass(frozen=True)
class Given:
    """What a plugin printed.

    Attributes:
        token: a bearer token, "" for none.
        certificate: a client certificate, None for none.
        expires: until when it is good, in seconds since 1970; infinite where it does not say.
    """

    token: str
    certificate: Certificate | None
    expires: float


def find(plugin: Plugin) -> str:
    """The path of a plugin's executable.

    Raises:
        Unreachable: there is none.
    """
    found = shutil.which(plugin.command)
    # Nor does Go take what it finds in the current folder.
    if found is None or not os.path.isabs(found):
        raise _failed(plugin, f"the credential plugin {plugin.command} was not found")
    return found


def run(login: Login) -> Given:
    """Run a user's plugin. It may ask on stdin and print to stderr, as under kubectl.

    Raises:
        Unreachable: it is missing, failed, or printed something else.
    """
    plugin = login.user.plugin
    if plugin is None:
        raise AssertionError("a user with a plugin")
    interactive = _interactive(plugin)
    spec: dict[str, Any] = {"interactive": interactive}
    if plugin.cluster_info:
        spec["cluster"] = _told(login.cluster)
    info = {"kind": "ExecCredential", "apiVersion": plugin.api_version, "spec": spec}
    environment = {
        **os.environ,
        **_environment(plugin),
        "KUBERNETES_EXEC_INFO": json.dumps(info),
    }
    try:
        done = subprocess.run(
            [plugin.command, *plugin.arguments],
            executable=find(plugin),
            env=environment,
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise _failed(
            plugin, f"the credential plugin {plugin.command} could not be started: {why}"
        ) from error
    if done.returncode:
        raise _failed(
            plugin,
            f"the credential plugin {plugin.command} failed with exit code {done.returncode}",
        )
    try:
        return _read(done.stdout, plugin)
    except ValueError as error:
        raise _failed(plugin, f"the credential plugin {plugin.command} {error}") from error


def _environment(plugin: Plugin) -> dict[str, str]:
    """What a plugin is started with, by name; as in Go, a `=` in a name begins the value."""
    texts = (f"{name}={value}" for name, value in plugin.environment)
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def _interactive(plugin: Plugin) -> bool:
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if plugin.interactive == "Always" and not terminal:
        raise _failed(
            plugin,
            f"the credential plugin {plugin.command} must ask something, and standard input is "
            "no terminal",
        )
    return terminal and plugin.interactive != "Never"


def _told(cluster: Cluster) -> dict[str, Any]:
    """A cluster as a plugin gets to know it."""
    data = cluster.certificate_authority_data
    if not data and cluster.certificate_authority:
        data = Path(cluster.certificate_authority).read_bytes()
    told = {
        "server": cluster.server,
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure,
        "certificate-authority-data": base64.b64encode(data).decode(),
        "proxy-url": cluster.proxy_url,
        "disable-compression": not cluster.compression,
    }
    return {**{key: value for key, value in told.items() if value}, "config": cluster.exec_config}


def _read(output: bytes, plugin: Plugin) -> Given:
    """The credentials that a plugin printed.

    Raises:
        ValueError: it is something else.
    """
    try:
        answer = Fields("the output", _decoded(output.decode()))
        kind, version = answer.text("kind"), answer.text("apiVersion")
    except ValueError:
        kind = ""
    if kind != "ExecCredential":
        # What it printed instead is not shown, for it may hold a token.
        raise ValueError("did not print an ExecCredential (JSON)")
    if version != plugin.api_version:
        raise ValueError(
            f"printed apiVersion {version!r}; the kubeconfig asks for {plugin.api_version}"
        )
    try:
        status = answer.fields("status") or Fields("the status", {})
        token, expires = status.text("token"), status.text("expirationTimestamp")
        certificate, key = status.text("clientCertificateData"), status.text("clientKeyData")
    except ValueError as error:
        raise ValueError(f"printed a malformed ExecCredential: {error}") from error
    if bool(certificate) != bool(key):
        raise ValueError("printed only one of certificate and key")
    if not token and not certificate:
        raise ValueError("printed neither a token nor a certificate")
    pair = Certificate(certificate.encode(), key.encode()) if certificate else None
    return Given(token, pair, _expires(expires))


def _decoded(text: str) -> Any:
    """JSON, or YAML, which kubectl takes too.

    Raises:
        ValueError: it is neither.
    """
    return json.loads(text) if text.lstrip().startswith("{") else decoded(text)


def _expires(timestamp: str) -> float:
    if not timestamp:
        return math.inf
    try:
        # Python 3.10 reads neither `Z` nor fractions of other than three or six digits.
        plain = timestamp.replace("Z", "+00:00").replace("z", "+00:00")
        head, dot, rest = plain.partition(".")
        if dot:
            digits = rest[: len(rest) - 6]
            plain = f"{head}.{digits[:6]:0<6}{rest[-6:]}"
        found = datetime.fromisoformat(plain)
    except ValueError as error:
        raise ValueError(f"printed expirationTimestamp {timestamp!r}, which is no time") from error
    if found.tzinfo is None:
        raise ValueError(f"printed expirationTimestamp {timestamp!r}, which has no time zone")
    return found.timestamp()


def _failed(plugin: Plugin, message: str) -> Unreachable:
    hint = " ".join(plugin.install_hint.split())
    return Unreachable(message, hints=[hint] if hint else [])
