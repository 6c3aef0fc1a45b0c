"""Credential plugins: commands that print a token or a client certificate.

The protocol is `client.authentication.k8s.io/v1` and `v1beta1` (client-go's exec.go).
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubectl_istio_udp.kube.kubeconfig import (
    Certificate,
    Cluster,
    Fields,
    Login,
    Plugin,
    read_file,
)
from kubectl_istio_udp.kube.yaml_reader import decoded
from kubectl_istio_udp.model.errors import Unreachable

_KIND = "ExecCredential"
# RFC 3339 as Go's time.Parse reads it. Fractions of a second do not matter here.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d?):(\d\d:\d\d)(?:[.,]\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True)
class PluginCredentials:
    """The credentials that a plugin printed.

    Attributes:
        token: a bearer token, "" for none.
        certificate: a client certificate, None for none.
        expires: the expiry time, in seconds since 1970; infinite if the plugin printed none.
    """

    token: str
    certificate: Certificate | None
    expires: float


def find(plugin: Plugin) -> str:
    """The path of a plugin's executable.

    Raises:
        Unreachable: it does not exist.
    """
    found = shutil.which(plugin.command)
    # Like Go, do not run a program from the current folder.
    if found is None or not os.path.isabs(found):
        raise _failed(plugin, f"the credential plugin {plugin.command} was not found")
    return found


def run(login: Login) -> PluginCredentials:
    """Run a user's plugin. It may read stdin and write to stderr, as with kubectl.

    Raises:
        Unreachable: it is missing, failed, or printed no valid credentials.
    """
    plugin = login.user.plugin
    if plugin is None:
        raise AssertionError("a user with a plugin")
    interactive = _interactive(plugin)
    about = {"cluster": _cluster_info(login.cluster)} if plugin.cluster_info else {}
    spec = {**about, "interactive": interactive}
    info = {"kind": _KIND, "apiVersion": plugin.api_version, "spec": spec}
    environment = {
        **os.environ,
        **_environment(plugin),
        # As kubectl writes it, for plugins that are shell scripts and search the text.
        "KUBERNETES_EXEC_INFO": json.dumps(info, separators=(",", ":"), ensure_ascii=False),
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
    """A plugin's environment variables; as in Go, the first `=` in a name begins the value."""
    texts = (f"{name}={value}" for name, value in plugin.environment)
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def _interactive(plugin: Plugin) -> bool:
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if plugin.interactive == "Always" and not terminal:
        raise _failed(
            plugin,
            f"the credential plugin {plugin.command} needs input, but standard input is not a "
            "terminal",
        )
    return terminal and plugin.interactive != "Never"


def _cluster_info(cluster: Cluster) -> dict[str, Any]:
    """A cluster in the format of ExecCredential (spec.cluster)."""
    data = cluster.certificate_authority_data
    if not data and cluster.certificate_authority:
        data = read_file(cluster.certificate_authority, "certificate-authority")
    info = {
        "server": cluster.server,
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure,
        "certificate-authority-data": base64.b64encode(data).decode(),
        "proxy-url": cluster.proxy_url,
        "disable-compression": not cluster.compression,
    }
    return {**{key: value for key, value in info.items() if value}, "config": cluster.exec_config}


def _read(output: bytes, plugin: Plugin) -> PluginCredentials:
    """Parse a plugin's output.

    Raises:
        ValueError: it is not a valid ExecCredential.
    """
    try:
        answer = Fields("the output", _decoded(output.decode()))
        # kubectl accepts an object without a kind.
        kind, version = answer.text("kind") or _KIND, answer.text("apiVersion")
    except (ValueError, RecursionError):
        kind = ""
    if kind != _KIND:
        # The output is not shown, because it may contain a token.
        raise ValueError("did not print an ExecCredential (JSON)")
    if version != plugin.api_version:
        raise ValueError(f"printed apiVersion {version!r}; the kubeconfig has {plugin.api_version}")
    try:
        status = answer.fields("status") or Fields("the status", {})
        token, expires = status.text("token"), status.optional_text("expirationTimestamp")
        certificate, key = status.text("clientCertificateData"), status.text("clientKeyData")
    except ValueError as error:
        raise ValueError(f"printed a malformed ExecCredential: {error}") from error
    if bool(certificate) != bool(key):
        raise ValueError("printed only one of certificate and key")
    if not token and not certificate:
        raise ValueError("printed neither a token nor a certificate")
    pair = Certificate(certificate.encode(), key.encode()) if certificate else None
    return PluginCredentials(token, pair, _expires(expires))


def _decoded(text: str) -> Any:
    """Parse JSON or YAML; kubectl accepts both.

    Raises:
        ValueError: it is neither.
    """
    return json.loads(text) if text.lstrip().startswith("{") else decoded(text)


def _expires(timestamp: str | None) -> float:
    if timestamp is None:
        return math.inf
    invalid = ValueError(f"printed an invalid expirationTimestamp: {timestamp!r}")
    match = _TIME.fullmatch(timestamp)
    if not match:
        raise invalid
    day, hour, rest, zone = match.groups()
    offset = zone.replace("Z", "+00:00")
    try:
        return datetime.fromisoformat(f"{day}T{hour:0>2}:{rest}{offset}").timestamp()
    except ValueError:
        raise invalid from None


def _failed(plugin: Plugin, message: str) -> Unreachable:
    hint = " ".join(plugin.install_hint.split())
    return Unreachable(message, hints=[hint] if hint else [])
