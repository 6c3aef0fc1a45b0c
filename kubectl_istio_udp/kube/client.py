"""The API server by its paths: get, list, apply, delete, logs, exec.

The product knows the handful of resources it touches, so it asks for them directly: no
discovery round trips, no discovery cache, and no generated model classes to import.
"""

from __future__ import annotations

import json
import re
import socket as socket_
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlencode, urlparse

import certifi
import urllib3
import websocket
import yaml
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import (
    ConfigException,
    list_kube_config_contexts,
    load_incluster_config,
    load_kube_config,
)
from urllib3.connection import HTTPConnection

from kubectl_istio_udp.kube.refusals import Action, refusal
from kubectl_istio_udp.kube.retrying import Retries, without_conflict
from kubectl_istio_udp.model.errors import (
    Busy,
    ClusterError,
    Expired,
    IstioUdpError,
    NotFound,
    NotInstalled,
    Unreachable,
)
from kubectl_istio_udp.model.resources import RESOURCES

Object = Mapping[str, Any]
Item = TypeVar("Item")
Result = TypeVar("Result")

_METHODS = {"list": "GET", "watch": "GET", "create": "POST", "update": "PUT"}
# A connection whose other end has gone is noticed although nothing is sent: after 10 s of silence
# the kernel asks every 5 s, and gives up after the third.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_WARNING = re.compile(r'^\d{3} \S+ "((?:[^"\\]|\\.)*)"')
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_MANY_AT_ONCE = 8
# More than a controller's workers and watches hold: what finds no room is closed, and the next
# request begins with a TLS handshake.
_KEPT_CONNECTIONS = 64
# exec's channels (the subprotocol's documentation in k8s.io/apimachinery, remotecommand).
_STDOUT, _STDERR, _STATUS = 1, 2, 3


@dataclass(frozen=True)
class ConnectionOptions:
    """kubectl's flags that say which cluster and as whom.

    Attributes:
        kubeconfig: path of a kubeconfig; None takes $KUBECONFIG or ~/.kube/config, and inside a
            pod the service account.
        context: the kubeconfig's context; None takes its current one.
        as_user, as_groups: whom to impersonate.
        request_timeout: seconds that one request may take; 0 waits for ever.
        retries: what to do when the server asks to come later.
    """

    kubeconfig: str | None = None
    context: str | None = None
    as_user: str | None = None
    as_groups: tuple[str, ...] = ()
    request_timeout: float = 30.0
    retries: Retries = field(default_factory=Retries)


@dataclass(frozen=True)
class Applied:
    """The outcome of one server-side apply.

    Attributes:
        manifest: the object as it is now.
        verb: `created`, `changed` or `unchanged`.
        warnings: what the API server and its webhooks warn of.
    """

    manifest: dict[str, Any]
    verb: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExecResult:
    """What a command in a pod did.

    Attributes:
        stdout, stderr: what it printed.
        exit_code: what it exited with; None where it could not be started (no such executable).
        error: why it could not be started, or why it was cut off.
    """

    stdout: str
    stderr: str
    exit_code: int | None
    error: str = ""


@dataclass(frozen=True)
class Page:
    """A part of a list.

    Attributes:
        items: manifests.
        continue_: where the next page begins, "" after the last one.
        version: that of the whole list, from which a watch can go on.
    """

    items: Sequence[dict[str, Any]]
    continue_: str
    version: str


class Api:
    """One cluster, as one user. Safe to use from several threads."""

    def __init__(
        self, configuration: Any, options: ConnectionOptions, namespace: str = "default"
    ) -> None:
        """Take a kubernetes.client.Configuration; see `connect`."""
        self._configuration = configuration
        self._options = options
        configuration.connection_pool_maxsize = _KEPT_CONNECTIONS
        configuration.socket_options = _socket_options()
        self._pool = RESTClientObject(configuration).pool_manager
        self._served: dict[str, str] = {}
        self.namespace = namespace

    @classmethod
    def connect(cls, options: ConnectionOptions) -> Api:
        """Read the kubeconfig (or the pod's service account); sends nothing yet.

        Raises:
            Unreachable: there is no usable configuration, or no such context.
        """
        configuration = Configuration()
        try:
            load_kube_config(
                config_file=options.kubeconfig,
                context=options.context,
                client_configuration=configuration,
            )
            namespace = _context_namespace(options)
        except ConfigException as error:
            if options.kubeconfig or options.context or not _in_cluster(configuration):
                raise _bad_kubeconfig(error, options) from error
            namespace = _pod_namespace()
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise _bad_kubeconfig(error, options) from error
        return cls(configuration, options, namespace)

    # -- objects ------------------------------------------------------------------------------

    def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any]:
        """One object; `namespace` is None for a kind that has none.

        Raises:
            NotFound, Forbidden, Unreachable, ClusterError: as the server says.
        """
        answer: dict[str, Any] = self._json("get", kind, namespace, name)
        return answer

    def find(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """One object, or None where there is none (or its namespace is missing)."""
        try:
            return self.get(kind, namespace, name)
        except NotFound:
            return None

    def list(
        self, kind: str, namespace: str | None = None, selector: str = ""
    ) -> list[dict[str, Any]]:
        """The objects of a kind.

        Args:
            kind: e.g. `Pod`.
            namespace: None lists all namespaces.
            selector: a label selector.

        Returns:
            Manifests with apiVersion and kind filled in, as a single read has them.
        """
        query = {"labelSelector": selector} if selector else {}
        answer = self._json("list", kind, namespace, query=query)
        version = answer.get("apiVersion", "v1")
        return [{"apiVersion": version, "kind": kind, **item} for item in answer["items"]]

    def apply(
        self,
        manifest: Object,
        *,
        before: Object | None,
        manager: str,
        force: bool = False,
        dry_run: bool = False,
    ) -> Applied:
        """Server-side apply of one object.

        Args:
            manifest: the fields that are to be ours.
            before: the object as last read, None where there was none: tells what changed.
            manager: the field manager.
            force: take fields over from other managers.
            dry_run: let the server (and its webhooks) decide, write nothing.

        Raises:
            ApplyConflict: another manager owns a field and has it otherwise.
        """
        kind, metadata = manifest["kind"], manifest["metadata"]
        namespace, name = metadata.get("namespace"), metadata["name"]
        query = {"fieldManager": manager}
        if force:
            query["force"] = "true"
        if dry_run:
            query["dryRun"] = "All"

        def patch() -> tuple[Any, tuple[str, ...]]:
            return self._request("patch", kind, namespace, name, query=query, body=manifest)

        exact = {"uid", "resourceVersion"} & set(metadata)
        after, warnings = patch() if exact else without_conflict(patch)
        if before is None:
            return Applied(after, "created", warnings)
        # A dry run answers with the old resourceVersion, whatever it would change.
        same = _same_content(before, after) if dry_run else _same_version(before, after)
        return Applied(after, "unchanged" if same else "changed", warnings)

    def create(self, manifest: Object, *, manager: str) -> dict[str, Any]:
        """Create one object that must not be there yet; it as it is now.

        Raises:
            Conflict: there is one of that name.
        """
        metadata = manifest["metadata"]
        answer: dict[str, Any] = self._json(
            "create",
            manifest["kind"],
            metadata.get("namespace"),
            query={"fieldManager": manager},
            body=manifest,
        )
        return answer

    def update(self, manifest: Object, *, manager: str) -> dict[str, Any]:
        """Replace one object, if it still has the manifest's resourceVersion; it as it is now.

        Raises:
            Conflict: somebody else changed it meanwhile.
        """
        metadata = manifest["metadata"]
        answer: dict[str, Any] = self._json(
            "update",
            manifest["kind"],
            metadata.get("namespace"),
            metadata["name"],
            query={"fieldManager": manager},
            body=manifest,
        )
        return answer

    def list_page(
        self,
        kind: str,
        namespace: str | None,
        *,
        limit: int,
        continue_: str = "",
        **selectors: str,
    ) -> Page:
        """Some of the objects of a kind, as a list of the API server comes in pages.

        Args:
            kind, namespace: as for `list`.
            limit: how many at most.
            continue_: where the last page ended, "" for the first one.
            selectors: labelSelector, fieldSelector.

        Raises:
            Expired: the pages took too long; begin anew.
        """
        query = {"limit": str(limit), **{key: text for key, text in selectors.items() if text}}
        if continue_:
            query["continue"] = continue_
        answer = self._json("list", kind, namespace, query=query)
        about, version = answer["metadata"], answer.get("apiVersion", "v1")
        items = [{"apiVersion": version, "kind": kind, **item} for item in answer["items"]]
        return Page(items, about.get("continue") or "", about.get("resourceVersion") or "")

    def watch(
        self,
        kind: str,
        namespace: str | None,
        version: str,
        *,
        seconds: float,
        silence: float,
        **selectors: str,
    ) -> Watch:
        """Begin to watch the objects of a kind from a version of their list.

        Args:
            kind, namespace: as for `list`.
            version: what came before it is known.
            seconds: how long; the server ends it then.
            silence: seconds without anything, bookmarks too, after which it is broken.
            selectors: labelSelector, fieldSelector.

        Raises:
            Expired: the version is too old: list again.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(seconds)),
            **{key: text for key, text in selectors.items() if text},
        }
        answer = self._send("watch", kind, namespace, query=query, stream=True)
        # The answer begins at once, and only then may be silent for long.
        if isinstance(answer.connection, HTTPConnection) and answer.connection.sock is not None:
            answer.connection.sock.settimeout(silence)
        return Watch(answer, lambda error: self._unreachable(error, silence))

    def delete(self, kind: str, namespace: str | None, name: str, *, dry_run: bool = False) -> bool:
        """Delete one object; whether it was there."""
        query = {"dryRun": "All"} if dry_run else {}
        try:
            self._json("delete", kind, namespace, name, query=query)
        except NotFound:
            return False
        return True

    def log(
        self,
        namespace: str,
        pod: str,
        container: str,
        since_seconds: int,
        *,
        lines: int = 1000,
        timestamps: bool = False,
    ) -> str:
        """The last lines of a container's log.

        Args:
            namespace, pod, container: whose.
            since_seconds: how far back.
            lines: how many at most.
            timestamps: whether each begins with when the kubelet got it (RFC 3339).
        """
        query = {
            "container": container,
            "sinceSeconds": str(since_seconds),
            "tailLines": str(lines),
            "timestamps": "true" if timestamps else "false",
        }
        text: str = self._request("get", "Pod", namespace, pod, "log", query=query, raw=True)[0]
        return text

    # -- exec ---------------------------------------------------------------------------------

    def exec(
        self, namespace: str, pod: str, container: str, command: Sequence[str], timeout: float
    ) -> ExecResult:
        """Run a command in a container and wait for its end.

        Args:
            namespace, pod, container: where.
            command: executable and arguments; no shell is involved.
            timeout: seconds until it is given up (the command itself may go on in the pod).

        Raises:
            NotFound, Forbidden, Unreachable, ClusterError: the command was not tried.
        """
        return self._options.retries.call(
            lambda: self._exec_once(namespace, pod, container, command, timeout)
        )

    def _exec_once(
        self, namespace: str, pod: str, container: str, command: Sequence[str], timeout: float
    ) -> ExecResult:
        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("command", word) for word in command]
        pods = RESOURCES["Pod"]
        path = pods.path(pods.api_version, namespace, pod, "exec")
        url = re.sub("^http", "ws", self._configuration.host) + path + "?" + urlencode(query)
        deadline = time.monotonic() + timeout
        socket = websocket.WebSocket(sslopt=self._tls())
        socket.settimeout(timeout)
        try:
            socket.connect(
                url,
                header=[f"{key}: {value}" for key, value in self._headers().iteritems()],
                subprotocols=["v5.channel.k8s.io", "v4.channel.k8s.io"],
                **self._proxy(),
            )
            return _read_channels(socket, deadline)
        except websocket.WebSocketBadStatusException as error:
            action = self._action("create", "Pod", namespace, pod, "exec")
            refused = refusal(error.status_code, error.resp_body or b"", action)
            raise _timed(refused, error.resp_headers or {}) from error
        except (OSError, websocket.WebSocketException) as error:
            raise self._unreachable(error, timeout) from error
        finally:
            socket.shutdown()

    def _tls(self) -> dict[str, Any]:
        configuration = self._configuration
        options: dict[str, Any] = {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
        if configuration.verify_ssl:
            options = {
                "cert_reqs": ssl.CERT_REQUIRED,
                "ca_certs": configuration.ssl_ca_cert or certifi.where(),
            }
        if configuration.cert_file:
            options |= {"certfile": configuration.cert_file, "keyfile": configuration.key_file}
        if getattr(configuration, "tls_server_name", None):
            options["server_hostname"] = configuration.tls_server_name
        return options

    def _proxy(self) -> dict[str, Any]:
        proxy = urlparse(self._configuration.proxy or "")
        if not proxy.hostname:
            return {}
        return {
            "http_proxy_host": proxy.hostname,
            "http_proxy_port": proxy.port,
            "proxy_type": proxy.scheme if proxy.scheme.startswith("socks") else "http",
        }

    # -- requests -----------------------------------------------------------------------------

    def _headers(self) -> urllib3.HTTPHeaderDict:
        headers = urllib3.HTTPHeaderDict({"User-Agent": "kubectl-istio-udp"})
        for auth in self._configuration.auth_settings().values():
            if auth["in"] == "header" and auth["value"]:
                headers[auth["key"]] = auth["value"]
        if self._options.as_user:
            headers["Impersonate-User"] = self._options.as_user
        for group in self._options.as_groups:
            headers.add("Impersonate-Group", group)
        return headers

    def _json(
        self, verb: str, kind: str, namespace: str | None, name: str = "", **more: Any
    ) -> Any:
        return self._request(verb, kind, namespace, name, **more)[0]

    def _request(
        self,
        verb: str,
        kind: str,
        namespace: str | None,
        name: str = "",
        subresource: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        raw: bool = False,
    ) -> tuple[Any, tuple[str, ...]]:
        """Send one request; the decoded answer (text where raw) and the server's warnings."""
        answer = self._send(
            verb, kind, namespace, name, subresource, query=query, body=body, raw=raw
        )
        warnings = tuple(_warnings(answer.headers.getlist("Warning")))
        if raw:
            return answer.data.decode(errors="replace"), warnings
        return self._decoded(answer.data), warnings

    def _send(
        self,
        verb: str,
        kind: str,
        namespace: str | None,
        name: str = "",
        subresource: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        raw: bool = False,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request, in the first version that the server has; its answer if it accepts."""
        known = self._served.get(kind)
        missing: NotInstalled | None = None
        for api_version in (known,) if known else RESOURCES[kind].api_versions:
            try:
                action = self._action(verb, kind, namespace, name, subresource)
                send = partial(
                    self._send_in,
                    api_version,
                    action,
                    query=query,
                    body=body,
                    raw=raw,
                    stream=stream,
                )
                answer = self._options.retries.call(send)
            except NotInstalled as error:
                missing = missing or error
                continue
            self._served[kind] = api_version
            return answer
        self._served.pop(kind, None)
        raise missing or AssertionError(f"{kind} has no version")

    def _send_in(
        self,
        api_version: str,
        action: Action,
        *,
        query: Mapping[str, str] | None,
        body: Object | None,
        raw: bool,
        stream: bool,
    ) -> urllib3.BaseHTTPResponse:
        path = RESOURCES[action.kind].path(
            api_version, action.namespace, action.name, action.subresource
        )
        url = self._configuration.host + path + ("?" + urlencode(query) if query else "")
        headers = self._headers()
        headers["Accept"] = "*/*" if raw else "application/json"
        if body is not None:
            body = {**body, "apiVersion": api_version}
            applied = action.verb == "patch"
            headers["Content-Type"] = "application/" + ("apply-patch+yaml" if applied else "json")
        seconds = self._options.request_timeout or None
        try:
            answer: urllib3.BaseHTTPResponse = self._pool.request(
                _METHODS.get(action.verb, action.verb.upper()),
                url,
                headers=headers,
                body=_encoded(body) if body is not None else None,
                timeout=urllib3.Timeout(connect=seconds, read=seconds),
                retries=False,
                preload_content=not stream,
            )
            if answer.status >= 300:
                raise _timed(refusal(answer.status, answer.data, action), answer.headers)
        except (OSError, urllib3.exceptions.HTTPError) as error:
            # Whatever ended this connection, those that wait in the pool may have met with too.
            self._pool.clear()
            raise self._unreachable(error, seconds) from error
        return answer

    def _decoded(self, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Unreachable(
                f"what answers at {self._configuration.host} is no Kubernetes API server: "
                f"{_plain(body.decode(errors='replace'))[:100]}",
                hints=["is a proxy or a login page in between? kubectl version"],
            )
        return answer

    def _action(
        self, verb: str, kind: str, namespace: str | None, name: str, subresource: str
    ) -> Action:
        user = self._options.as_user
        return Action(verb, RESOURCES[kind], namespace, name, subresource, user)

    def _unreachable(self, error: BaseException, seconds: float | None) -> Unreachable:
        host = self._configuration.host
        if "timed out" in str(error).lower():
            return Unreachable(
                f"the API server {host} did not answer within {seconds or 0:g}s",
                hints=["give it longer: --request-timeout 60s", "check it: kubectl version"],
            )
        cause = error.__cause__ or getattr(error, "reason", None) or error
        return Unreachable(
            f"the API server {host} cannot be reached: {_plain(cause)}",
            hints=["check it: kubectl version", "another cluster: --context or --kubeconfig"],
        )


class Watch:
    """A watch that has begun: iterate over (type, manifest) until the server ends it.

    Types are the API's: ADDED, MODIFIED, DELETED, and BOOKMARK, whose manifest has nothing but a
    resourceVersion.
    """

    def __init__(
        self,
        answer: urllib3.BaseHTTPResponse,
        unreachable: Callable[[BaseException], Unreachable],
    ) -> None:
        """Take the answer, whose body is still to come, and what to say when it does not."""
        self._answer, self._unreachable = answer, unreachable

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each event as it comes.

        Raises:
            Expired: the server no longer has what comes next.
            Unreachable: the connection broke, or was silent for too long.
            ClusterError: the server says so.
        """
        rest = b""
        try:
            for piece in self._answer.stream(2**16, decode_content=False):
                *lines, rest = (rest + piece).split(b"\n")
                for line in filter(None, lines):
                    yield _event(line)
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            raise self._unreachable(error) from error
        finally:
            self._answer.close()

    def stop(self) -> None:
        """End it, from another thread too."""
        # One that has ended already has nothing to shut down.
        with suppress(Exception):
            self._answer.shutdown()


def _event(line: bytes) -> tuple[str, dict[str, Any]]:
    event = json.loads(line)
    kind, manifest = event["type"], event["object"]
    if kind == "ERROR":
        code, message = manifest.get("code"), manifest.get("message", "")
        raise (Expired if code == 410 else ClusterError)(f"the watch ended: {message}")
    return kind, manifest


def _timed(error: ClusterError, headers: Mapping[str, str]) -> ClusterError:
    """The error, with the time that the server asks to wait, where it does."""
    seconds = headers.get("Retry-After") or headers.get("retry-after") or ""
    if isinstance(error, Busy) and seconds.isdigit():
        error.retry_after = float(seconds)
    return error


def _socket_options() -> list[tuple[int, int, int]]:
    """urllib3's own, and keepalive as far as the platform has it."""
    options = [(socket_.IPPROTO_TCP, socket_.TCP_NODELAY, 1)]
    options.append((socket_.SOL_SOCKET, socket_.SO_KEEPALIVE, 1))
    options += [
        (socket_.IPPROTO_TCP, getattr(socket_, name), value)
        for name, value in _KEEPALIVE.items()
        if hasattr(socket_, name)
    ]
    return options


def selector_of(labels: Mapping[str, str]) -> str:
    """The label selector that asks for all of these labels: `app=dns,tier=front`."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def in_parallel(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Run calls at the same time; their results in order, or the first one's error."""
    return for_each(lambda call: call(), calls)


def for_each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply a function to items at the same time; results in order, or the first one's error."""
    with ThreadPoolExecutor(max_workers=_MANY_AT_ONCE) as pool:
        futures = [pool.submit(function, item) for item in items]
        return [future.result() for future in futures]


def _context_namespace(options: ConnectionOptions) -> str:
    """The namespace that the chosen context of a kubeconfig names."""
    contexts, active = list_kube_config_contexts(config_file=options.kubeconfig)
    chosen = [entry for entry in contexts if entry["name"] == options.context] or [active]
    namespace: str = (chosen[0].get("context") or {}).get("namespace") or "default"
    return namespace


def _in_cluster(configuration: Any) -> bool:
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException:
        return False
    return True


def _pod_namespace() -> str:
    path = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return "default"


def _bad_kubeconfig(error: BaseException, options: ConnectionOptions) -> IstioUdpError:
    text = _plain(error)
    if options.context and options.context in text:
        return Unreachable(
            f"the kubeconfig has no context {options.context!r}",
            hints=["see those it has: kubectl config get-contexts"],
        )
    return Unreachable(
        f"the kubeconfig {options.kubeconfig or ''} cannot be used: {text}".replace("  ", " "),
        hints=["check it: kubectl config view", "name another one: --kubeconfig FILE"],
    )


def _read_channels(socket: Any, deadline: float) -> ExecResult:
    """Collect an exec's channels until it ends or the deadline (monotonic seconds) passes."""
    channels: dict[int, bytes] = {_STDOUT: b"", _STDERR: b"", _STATUS: b""}
    cut_off = ""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            cut_off = "timed out"
            break
        socket.settimeout(left)
        try:
            opcode, data = socket.recv_data(control_frame=True)
        except (TimeoutError, websocket.WebSocketTimeoutException):
            cut_off = "timed out"
            break
        except websocket.WebSocketConnectionClosedException:
            break
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            break
        if opcode in (websocket.ABNF.OPCODE_BINARY, websocket.ABNF.OPCODE_TEXT) and len(data) > 1:
            channels[data[0]] = channels.get(data[0], b"") + data[1:]
    exit_code, error = _exit_status(channels[_STATUS])
    return ExecResult(
        channels[_STDOUT].decode(errors="replace"),
        channels[_STDERR].decode(errors="replace"),
        exit_code,
        cut_off or error,
    )


def _exit_status(status: bytes) -> tuple[int | None, str]:
    """Exit code and error of a metav1.Status from exec's error channel."""
    if not status:
        return None, "the connection ended before the command did"
    try:
        data = json.loads(status)
    except ValueError:
        return None, "how the command ended cannot be read"
    if data.get("status") == "Success":
        return 0, ""
    for cause in (data.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"]), ""
    return None, data.get("message", "the command could not be started")


def _warnings(headers: Iterable[str]) -> list[str]:
    """The texts of HTTP Warning headers (RFC 9111's `code agent "text"`), each once."""
    texts = [match[1].replace('\\"', '"') for line in headers if (match := _WARNING.match(line))]
    return list(dict.fromkeys(texts))


def _encoded(body: Object) -> bytes:
    """JSON that a YAML parser takes too, as which the server reads an apply.

    YAML knows no surrogate pairs, and wants what is not printable escaped.
    """
    text = json.dumps(body, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda char: f"\\u{ord(char[0]):04x}", text).encode()


def _same_version(before: Object, after: Object) -> bool:
    same: bool = before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    return same


def _same_content(before: Object, after: Object) -> bool:
    """Whether two states of an object differ in nothing but the server's own bookkeeping."""
    own = ("resourceVersion", "generation", "managedFields", "creationTimestamp", "uid")

    def content(manifest: Object) -> dict[str, Any]:
        metadata = {k: v for k, v in manifest["metadata"].items() if k not in own}
        return {**manifest, "metadata": metadata}

    return content(before) == content(after)


def _plain(error: object) -> str:
    """One line about an exception, without urllib3's object addresses."""
    text = re.sub(r"<[^>]* object at 0x[0-9a-f]+>:? ?", "", str(error)).strip()
    return " ".join(text.split()) or type(error).__name__
