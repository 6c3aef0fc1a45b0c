"""Read kubeconfig files, flags and environment, and choose the cluster and the user.

The rules are those of client-go's `tools/clientcmd` (loader.go, client_config.go, validation.go).
tests/cluster/test_kubectl.py compares them with kubectl. This module sends no request and runs no
credential plugin.
"""

from __future__ import annotations

import base64
import binascii
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from kubectl_istio_udp.kube.retrying import Retries
from kubectl_istio_udp.kube.yaml_reader import decoded, text_of
from kubectl_istio_udp.model.errors import Unreachable
from kubectl_istio_udp.model.waits import Waits

# kubectl's default if no server is configured.
DEFAULT_SERVER = "http://localhost:8080"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# The extension of a cluster that is passed to credential plugins (client-go's exec.go).
_EXEC_EXTENSION = "client.authentication.k8s.io/exec"
_EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_EXEC_MODES = ("Never", "IfAvailable", "Always")
# Removed auth providers and the plugins that replace them (client-go's plugin/pkg/client/auth).
_REMOVED_PROVIDERS = {"gcp": "gke-gcloud-auth-plugin", "azure": "kubelogin"}
_CHECK = "check it: kubectl config view"
# The flag of each field of ConnectionOptions that overrides one of a cluster or a user.
_OVERRIDES = {
    "server": "--server",
    "certificate_authority": "--certificate-authority",
    "tls_server_name": "--tls-server-name",
    "insecure_skip_tls_verify": "--insecure-skip-tls-verify",
    "token": "--token",
    "username": "--username",
    "password": "--password",
    "client_certificate": "--client-certificate",
    "client_key": "--client-key",
    "as_user": "--as",
    "as_groups": "--as-group",
    "as_uid": "--as-uid",
    "as_extra": "--as-user-extra",
}
_NO_PORT = re.compile(r"(?<=\w):(?!//)(?!\d*(?:[/?#]|$)).*", re.DOTALL)
Entry = TypeVar("Entry")

# The classes below are never compared or printed, and some have secrets. Without __eq__ and
# __repr__, every command starts 3 ms sooner.


@dataclass(frozen=True, eq=False, repr=False)
class ConnectionOptions:
    """kubectl's flags that choose the cluster and the user.

    Attributes:
        kubeconfig: path of a kubeconfig; None reads $KUBECONFIG or ~/.kube/config, and inside a
            pod the service account.
        context, cluster, user: entries of the kubeconfig; None takes those of the current context.
        server, certificate_authority, tls_server_name, insecure_skip_tls_verify,
            disable_compression: override the cluster's.
        token, username, password, client_certificate, client_key: override the user's.
        as_user, as_groups, as_uid, as_extra: the user to impersonate; as_extra as in `User`.
        request_timeout: seconds for one request; 0 for no timeout.
        retries: how often requests are retried.
        waits: the waits and timeouts of commands.
    """

    kubeconfig: str | None = None
    context: str | None = None
    cluster: str | None = None
    user: str | None = None
    server: str | None = None
    certificate_authority: str | None = None
    tls_server_name: str | None = None
    insecure_skip_tls_verify: bool = False
    disable_compression: bool = False
    token: str | None = None
    username: str | None = None
    password: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    as_user: str | None = None
    as_groups: tuple[str, ...] = ()
    as_uid: str | None = None
    as_extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    request_timeout: float = 30.0
    retries: Retries = field(default_factory=Retries)
    waits: Waits = field(default_factory=Waits)


@dataclass(frozen=True)
class Certificate:
    """A client certificate with its key, each as PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, eq=False, repr=False)
class Plugin:
    """A command that prints credentials (`exec` of a user).

    Attributes:
        api_version: the version of ExecCredential that it prints.
        command: its path, or a name to find on PATH.
        arguments, environment: its arguments, and variables added to this process's environment.
        install_hint: how to install it.
        interactive: `Never`, `IfAvailable` or `Always`: whether it gets stdin.
        cluster_info: whether it gets the cluster in KUBERNETES_EXEC_INFO.
    """

    api_version: str
    command: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    install_hint: str = ""
    interactive: str = "IfAvailable"
    cluster_info: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Cluster:
    """How to reach an API server.

    Attributes:
        server: its URL as written in the kubeconfig; "" if it is missing.
        certificate_authority: a file; `certificate_authority_data` is its content.
        insecure: whether any certificate is accepted.
        tls_server_name: the name in the certificate, "" for the URL's host.
        proxy_url: "" for the proxy of the environment.
        compression: whether responses may be compressed.
        exec_config: additional data for credential plugins.
    """

    name: str = ""
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: bytes = b""
    insecure: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    compression: bool = True
    exec_config: Any = None

    @property
    def url(self) -> str:
        """The server's URL without trailing slash, query and password."""
        parts = _split_url(self.server)
        host = parts.netloc.rpartition("@")[2]
        path = unquote(parts.path).rstrip("/")
        # Go joins and normalizes paths.
        path = quote(posixpath.normpath(path), safe="/$&+,:;=@") if path else ""
        return urlunsplit((parts.scheme.lower(), host, path, "", ""))

    @property
    def userinfo(self) -> str:
        """`USER:PASSWORD` of the server's URL, "" for none."""
        name, at, _ = _split_url(self.server).netloc.rpartition("@")
        user, _, password = name.partition(":")
        return f"{unquote(user)}:{unquote(password)}" if at else ""

    @property
    def tls(self) -> bool:
        """Whether the server's URL is https."""
        return self.url.startswith("https://")


@dataclass(frozen=True, eq=False, repr=False)
class User:
    """The credentials of a user, as in the kubeconfig.

    Attributes:
        token, token_file: a bearer token; the file takes precedence, and is read again.
        username, password: for HTTP basic authentication.
        client_certificate, client_key: files; `..._data` are their contents (PEM).
        plugin: a command that prints a token or a certificate.
        auth_provider, auth_provider_config: name and settings of a legacy auth provider.
        as_user, as_groups, as_uid, as_extra: the user to impersonate.
    """

    name: str = ""
    token: str = ""
    token_file: str = ""
    username: str = ""
    password: str = ""
    client_certificate: str = ""
    client_certificate_data: bytes = b""
    client_key: str = ""
    client_key_data: bytes = b""
    plugin: Plugin | None = None
    auth_provider: str = ""
    auth_provider_config: Mapping[str, str] = field(default_factory=dict)
    as_user: str = ""
    as_groups: tuple[str, ...] = ()
    as_uid: str = ""
    as_extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Context:
    """A cluster, a user and a namespace, by their names."""

    cluster: str = ""
    user: str = ""
    namespace: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Kubeconfig:
    """The merged content of the kubeconfig files."""

    current: str = ""
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    users: Mapping[str, User] = field(default_factory=dict)
    contexts: Mapping[str, Context] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Login:
    """The chosen cluster and user.

    Attributes:
        namespace: the default of `-n`.
        not_found: the kubeconfig files that do not exist, if none names a server.
    """

    cluster: Cluster
    user: User
    namespace: str = "default"
    not_found: tuple[Path, ...] = ()


def log_in(options: ConnectionOptions, environment: Mapping[str, str]) -> Login:
    """The cluster and user that flags, environment and files choose.

    Args:
        options: the flags.
        environment: KUBECONFIG, HOME, KUBERNETES_MASTER (the default server), and in a pod
            KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT and POD_NAMESPACE.

    Raises:
        Unreachable: a file cannot be read, or the chosen entries are missing or invalid.
    """
    files = _files(options, environment)
    config = load(files, required=bool(options.kubeconfig))
    pod = _pod_server(environment)
    namespace = _pod_namespace(environment) if pod else "default"
    flags = (options.context, options.cluster, options.user, options.server)
    if pod and not config.current and not any(flags):
        return _pod_login(pod, namespace, options)
    server = environment.get("KUBERNETES_MASTER") or DEFAULT_SERVER
    login = choose(config, options, server, namespace)
    if login.cluster.server != DEFAULT_SERVER:
        return login
    return replace(login, not_found=tuple(path for path in files if not path.exists()))


# -- files --------------------------------------------------------------------------------------


def _files(options: ConnectionOptions, environment: Mapping[str, str]) -> list[Path]:
    if options.kubeconfig:
        return [Path(options.kubeconfig)]
    listed = environment.get("KUBECONFIG", "")
    if listed:
        return [Path(part) for part in dict.fromkeys(listed.split(os.pathsep)) if part]
    return [Path(environment.get("HOME", "")) / ".kube" / "config"]


def load(files: Iterable[Path], *, required: bool = False) -> Kubeconfig:
    """Read and merge kubeconfig files: if several have an entry or a setting, the first one wins.

    Args:
        files: paths; files that do not exist are skipped.
        required: raise an error if a file does not exist.

    Raises:
        Unreachable: a file cannot be read, or is not a kubeconfig.
    """
    merged = Kubeconfig()
    for path in files:
        try:
            found = _parse(path, text_of(path.read_bytes()))
        except FileNotFoundError as error:
            if required:
                raise _unusable(path, "there is no such file") from error
            continue
        except OSError as error:
            raise _unusable(path, error.strerror or str(error)) from error
        except ValueError as error:
            raise _unusable(path, " ".join(str(error).split())) from error
        merged = Kubeconfig(
            merged.current or found.current,
            {**found.clusters, **merged.clusters},
            {**found.users, **merged.users},
            {**found.contexts, **merged.contexts},
        )
    return merged


def _parse(path: Path, text: str) -> Kubeconfig:
    """Parse one file.

    Raises:
        ValueError: it is not a kubeconfig.
    """
    document = decoded(text)
    if document is None:
        return Kubeconfig()
    top = Fields("the file", document)
    kind, version = top.text("kind"), top.text("apiVersion")
    if kind not in ("", "Config"):
        raise ValueError(f"it is a {kind}, not a kubeconfig")
    if version not in ("", "v1"):
        raise ValueError(f"it has apiVersion {version!r}; use v1")
    # kubectl reads these too, so it rejects other types.
    top.fields("preferences")
    top.entries("extensions")
    folder = os.path.dirname(os.path.abspath(path))
    clusters = {
        name: _cluster(name, entry, folder) for name, entry in top.named("clusters", "cluster")
    }
    users = {name: _user(name, entry, folder) for name, entry in top.named("users", "user")}
    contexts = {
        name: Context(entry.text("cluster"), entry.text("user"), entry.text("namespace"))
        for name, entry in top.named("contexts", "context")
    }
    return Kubeconfig(top.text("current-context"), clusters, users, contexts)


class Fields:
    """Typed access to a mapping of a kubeconfig, or of a credential plugin's output.

    Every method raises ValueError, with `where` in the message, if the value has another type.
    """

    def __init__(self, where: str, mapping: object) -> None:
        """Take the mapping, and its name for messages."""
        self.where = where
        if not isinstance(mapping, dict):
            raise ValueError(f"{where} is not a mapping")
        self._mapping: dict[str, Any] = mapping

    def _get(self, key: str, kind: type[Entry], empty: Entry) -> Entry:
        value = self._mapping.get(key)
        if value is None:
            return empty
        if not isinstance(value, kind):
            raise ValueError(f"{key} of {self.where} is not a {_TYPES[kind]}")
        return value

    def text(self, key: str) -> str:
        """A string, "" if it is missing."""
        return self._get(key, str, "")

    def optional_text(self, key: str) -> str | None:
        """A string, None if it is missing."""
        return None if self._mapping.get(key) is None else self.text(key)

    def flag(self, key: str) -> bool:
        """A boolean, False if it is missing."""
        return self._get(key, bool, False)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; as in Go, null is an empty string."""
        values = ["" if value is None else value for value in self._get(key, list, [])]
        if not all(isinstance(value, str) for value in values):
            raise ValueError(f"{key} of {self.where} is not a list of strings")
        return tuple(values)

    def data(self, key: str) -> bytes:
        """The decoded bytes of a base64 string."""
        try:
            return base64.b64decode("".join(self.text(key).split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"{key} of {self.where} is not base64: {error}") from error

    def path(self, key: str, folder: str) -> str:
        """A path, relative to the folder of the file; "" if it is missing."""
        found = self.text(key)
        return _resolved(found, folder) if found else ""

    def fields(self, key: str) -> Fields | None:
        """A mapping, None if it is missing."""
        value = self._mapping.get(key)
        return None if value is None else Fields(f"{key} of {self.where}", value)

    def items(self) -> Iterable[tuple[str, Any]]:
        """All keys and values."""
        return self._mapping.items()

    def entries(self, key: str) -> list[Fields]:
        """A list of mappings; null entries become empty mappings."""
        return [
            Fields(f"an entry of {key} of {self.where}", {} if each is None else each)
            for each in self._get(key, list, [])
        ]

    def named(self, key: str, inner: str) -> list[tuple[str, Fields]]:
        """A list of {name, INNER: fields}; a duplicate name is an error, as in kubectl."""
        found: dict[str, Fields] = {}
        for entry in self.entries(key):
            name = entry.text("name")
            if name in found:
                raise ValueError(f"{key} has two entries named {name!r}")
            found[name] = entry.fields(inner) or Fields(inner, {})
            found[name].where = f"{inner} {name!r}"
        return list(found.items())


def _resolved(path: str, folder: str) -> str:
    """A path in a kubeconfig; Go removes `..` together with the part before it, even a link."""
    return path if os.path.isabs(path) else os.path.normpath(os.path.join(folder, path))


_TYPES: dict[type, str] = {str: "string", bool: "boolean", list: "list"}


def _cluster(name: str, entry: Fields, folder: str) -> Cluster:
    extensions = {each.text("name"): each for each in entry.entries("extensions")}
    extension = extensions.get(_EXEC_EXTENSION)
    return Cluster(
        name=name,
        server=entry.text("server"),
        certificate_authority=entry.path("certificate-authority", folder),
        certificate_authority_data=entry.data("certificate-authority-data"),
        insecure=entry.flag("insecure-skip-tls-verify"),
        tls_server_name=entry.text("tls-server-name"),
        proxy_url=entry.text("proxy-url"),
        compression=not entry.flag("disable-compression"),
        exec_config=dict(extension.items()).get("extension") if extension else None,
    )


def _user(name: str, entry: Fields, folder: str) -> User:
    plugin = entry.fields("exec")
    provider = entry.fields("auth-provider")
    extra = entry.fields("as-user-extra")
    return User(
        name=name,
        token=entry.text("token"),
        token_file=entry.path("tokenFile", folder),
        username=entry.text("username"),
        password=entry.text("password"),
        client_certificate=entry.path("client-certificate", folder),
        client_certificate_data=entry.data("client-certificate-data"),
        client_key=entry.path("client-key", folder),
        client_key_data=entry.data("client-key-data"),
        plugin=_plugin(plugin, folder) if plugin else None,
        auth_provider=provider.text("name") if provider else "",
        auth_provider_config=_settings(provider.fields("config")) if provider else {},
        as_user=entry.text("as"),
        as_groups=entry.texts("as-groups"),
        as_uid=entry.text("as-uid"),
        as_extra=tuple((key, extra.texts(key)) for key, _ in extra.items()) if extra else (),
    )


def _settings(entry: Fields | None) -> dict[str, str]:
    return {key: entry.text(key) for key, _ in entry.items()} if entry else {}


def _plugin(entry: Fields, folder: str) -> Plugin:
    command = entry.text("command")
    version = entry.text("apiVersion")
    return Plugin(
        api_version=version,
        # A name without a slash is searched on PATH.
        command=_resolved(command, folder) if os.sep in command else command,
        arguments=entry.texts("args"),
        environment=tuple((each.text("name"), each.text("value")) for each in entry.entries("env")),
        install_hint=entry.text("installHint"),
        interactive=entry.text("interactiveMode")
        or ("" if version == _EXEC_VERSIONS[0] else "IfAvailable"),
        cluster_info=entry.flag("provideClusterInfo"),
    )


# -- choosing -----------------------------------------------------------------------------------


def choose(config: Kubeconfig, options: ConnectionOptions, server: str, namespace: str) -> Login:
    """The cluster and user that the flags and the current context choose.

    Args:
        config: the kubeconfig.
        options: the flags; they override the kubeconfig.
        server: the default URL.
        namespace: the default namespace.

    Raises:
        Unreachable: an entry is missing or invalid.
    """
    name = options.context or config.current
    context = config.contexts.get(name, Context())
    if name and name not in config.contexts:
        raise Unreachable(
            f"the kubeconfig has no context {name!r}",
            hints=["list the contexts: kubectl config get-contexts"],
        )
    cluster = _chosen(config.clusters, options.cluster, context.cluster, name, "cluster", Cluster())
    user = _chosen(config.users, options.user, context.user, name, "user", User())
    login = Login(
        _with_cluster_flags(cluster, options, server),
        _with_user_flags(user, options),
        context.namespace or namespace,
    )
    for problem in [*_cluster_problems(login.cluster), *_user_problems(login.user)]:
        flags = ", ".join(_named_flags(options))
        what = f"the kubeconfig with {flags}" if flags else "the kubeconfig"
        raise Unreachable(f"{what} cannot be used: {problem}", hints=[_CHECK])
    return login


def _named_flags(options: ConnectionOptions) -> Iterable[str]:
    """The flags of the command line that change a cluster or a user."""
    return (flag for name, flag in _OVERRIDES.items() if getattr(options, name))


def _chosen(
    entries: Mapping[str, Entry],
    flag: str | None,
    by_context: str,
    context: str,
    kind: str,
    empty: Entry,
) -> Entry:
    name = flag or by_context
    if name in entries:
        return entries[name]
    if not name:
        return empty
    where = f"--{kind} {name}" if flag else f"context {context!r} names {kind} {name!r}"
    known = ", ".join(sorted(entries)) or "none"
    raise Unreachable(
        f"the kubeconfig has no {kind} {name!r} ({where})",
        hints=[f"existing {kind}s: {known}", _CHECK],
    )


def _with_cluster_flags(cluster: Cluster, options: ConnectionOptions, server: str) -> Cluster:
    cluster = replace(cluster, server=options.server or cluster.server or server)
    if options.insecure_skip_tls_verify or options.certificate_authority:
        cluster = replace(
            cluster,
            insecure=options.insecure_skip_tls_verify,
            certificate_authority=options.certificate_authority or "",
            certificate_authority_data=b"",
        )
    if options.disable_compression:
        cluster = replace(cluster, compression=False)
    if options.tls_server_name or options.server:
        # The kubeconfig's tls-server-name belongs to the kubeconfig's server.
        cluster = replace(cluster, tls_server_name=options.tls_server_name or "")
    return cluster


def _with_user_flags(user: User, options: ConnectionOptions) -> User:
    return replace(
        user,
        token=options.token or user.token,
        username=options.username or user.username,
        password=options.password or user.password,
        client_certificate=options.client_certificate or user.client_certificate,
        client_key=options.client_key or user.client_key,
        as_user=options.as_user or user.as_user,
        as_groups=options.as_groups or user.as_groups,
        as_uid=options.as_uid or user.as_uid,
        as_extra=options.as_extra or user.as_extra,
    )


def _cluster_problems(cluster: Cluster) -> Iterable[str]:
    try:
        parts = _split_url(cluster.server)
        known = parts.scheme.lower() in ("http", "https") and parts.hostname and parts.port != 0
        shown = cluster.url
    except ValueError:
        known, shown = False, without_password(cluster.server)
    if not known:
        yield f"server {shown!r} is neither an http or https URL nor HOST:PORT"
    if cluster.certificate_authority and cluster.certificate_authority_data:
        yield (
            f"cluster {cluster.name!r} has both certificate-authority and "
            "certificate-authority-data"
        )
    if cluster.insecure and (cluster.certificate_authority or cluster.certificate_authority_data):
        yield (
            f"cluster {cluster.name!r} has both a certificate authority and "
            "insecure-skip-tls-verify"
        )
    if cluster.certificate_authority:
        yield from _file_problems(cluster.certificate_authority, "certificate-authority")


def without_password(url: str) -> str:
    """An invalid URL for a message, without what may be a user and a password."""
    # In `http://USER:PASSWORD`, the host was forgotten.
    return _NO_PORT.sub(":...", url.rpartition("@")[2])


def _split_url(server: str) -> SplitResult:
    """Split a server's URL, or HOST:PORT.

    Raises:
        ValueError: it is neither.
    """
    parts = urlsplit(server)
    if parts.scheme and parts.netloc:
        return parts
    parts = urlsplit(f"http://{server}")
    if parts.path not in ("", "/"):
        raise ValueError(f"{server!r} is neither a URL nor HOST:PORT")
    return parts


def _user_problems(user: User) -> Iterable[str]:
    who = f"user {user.name!r}"
    if (user.token or user.token_file) and (user.username or user.password):
        yield f"{who} has both a token and a username and password"
    for key, path, data in (
        ("client-certificate", user.client_certificate, user.client_certificate_data),
        ("client-key", user.client_key, user.client_key_data),
    ):
        if path and data:
            yield f"{who} has both {key} and {key}-data"
        if path:
            yield from _file_problems(path, key)
    certificate = user.client_certificate or user.client_certificate_data
    if certificate and not (user.client_key or user.client_key_data):
        yield f"{who} has a client-certificate but no client-key"
    if (user.as_groups or user.as_uid or user.as_extra) and not user.as_user:
        yield f"{who} impersonates groups, a uid or extra fields, but no user (--as)"
    if user.plugin:
        yield from _plugin_problems(user, user.plugin)
    if user.auth_provider in _REMOVED_PROVIDERS:
        yield (
            f"{who} uses the auth provider {user.auth_provider}, which was removed from kubectl "
            f"in 1.26; use the credential plugin {_REMOVED_PROVIDERS[user.auth_provider]}"
        )
    elif user.auth_provider not in ("", "oidc"):
        yield f"{who} uses the auth provider {user.auth_provider!r}, which does not exist"


def _plugin_problems(user: User, plugin: Plugin) -> Iterable[str]:
    who = f"exec of user {user.name!r}"
    if not plugin.command:
        yield f"{who} has no command"
    if plugin.api_version not in _EXEC_VERSIONS:
        yield (f"{who} has apiVersion {plugin.api_version!r}; use {' or '.join(_EXEC_VERSIONS)}")
    if not all(name for name, _ in plugin.environment):
        yield f"{who} has an env entry without a name"
    if plugin.interactive not in _EXEC_MODES:
        known = ", ".join(_EXEC_MODES)
        yield f"{who} has interactiveMode {plugin.interactive!r}; use one of {known}"
    if user.auth_provider:
        yield f"user {user.name!r} has both exec and auth-provider"


def _file_problems(path: str, key: str) -> Iterable[str]:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        yield f"{key} {path} cannot be read: {error.strerror}"


def read_file(path: str, key: str) -> bytes:
    """The content of a file that the setting `key` of a kubeconfig names.

    Raises:
        Unreachable: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Unreachable(
            f"{key} {path} cannot be read: {error.strerror}", hints=[_CHECK]
        ) from error


# -- in a pod -----------------------------------------------------------------------------------


def _pod_server(environment: Mapping[str, str]) -> str:
    """The API server's URL if this process runs in a pod with a service account, otherwise ""."""
    host = environment.get("KUBERNETES_SERVICE_HOST")
    port = environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not (SERVICE_ACCOUNT / "token").exists():
        return ""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _pod_namespace(environment: Mapping[str, str]) -> str:
    """The namespace of the pod in which this process runs."""
    named = environment.get("POD_NAMESPACE")
    if named:
        return named
    try:
        return (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


def _pod_login(server: str, namespace: str, options: ConnectionOptions) -> Login:
    authority = SERVICE_ACCOUNT / "ca.crt"
    cluster = Cluster(
        server=server, certificate_authority=str(authority) if authority.exists() else ""
    )
    return Login(
        _with_cluster_flags(cluster, options, server),
        _with_user_flags(
            User(token_file="" if options.token else str(SERVICE_ACCOUNT / "token")), options
        ),
        namespace,
    )


def _unusable(path: Path, why: str) -> Unreachable:
    return Unreachable(
        f"the kubeconfig {path} cannot be used: {why}",
        hints=[_CHECK, "name another one: --kubeconfig FILE"],
    )
