"""The API server by its paths: get, list, apply, delete, logs, exec, port-forward.

The product knows the handful of resources it touches, so it asks for them directly: no
discovery round trips, no discovery cache, and no generated model classes to import.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import urllib3
from urllib3.connection import HTTPConnection

from kubectl_istio_udp.kube import exec as execution
from kubectl_istio_udp.kube import websockets
from kubectl_istio_udp.kube.exec import ExecResult
from kubectl_istio_udp.kube.kubeconfig import ConnectionOptions, log_in
from kubectl_istio_udp.kube.portforward import PROTOCOLS, PodHttp
from kubectl_istio_udp.kube.refusals import Action, refusal
from kubectl_istio_udp.kube.retrying import without_conflict
from kubectl_istio_udp.kube.transport import Transport, plain
from kubectl_istio_udp.model.errors import (
    ClusterError,
    Expired,
    Forbidden,
    NotFound,
    NotInstalled,
    Unreachable,
    UpgradeUnavailable,
)
from kubectl_istio_udp.model.resources import RESOURCES

if TYPE_CHECKING:
    import websocket

Object = Mapping[str, Any]

_METHODS = {"list": "GET", "watch": "GET", "create": "POST", "update": "PUT", "merge": "PATCH"}
_CONTENT_TYPES = {"patch": "apply-patch+yaml", "merge": "merge-patch+json"}
_WARNING = re.compile(r'^\d{3} \S+ "((?:[^"\\]|\\.)*)"')
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
# Bodies are read in such pieces. An event of a watch is an object, which etcd takes up to 1.5 MB.
_PIECE_BYTES = 2**16
_LONGEST_EVENT_PIECES = 256
# Verbs that may reach the server twice: the second time nothing changes.
_READS = frozenset({"get", "list", "watch"})
_HARMLESS = _READS | {"patch"}


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
class Page:
    """A part of a list.

    Attributes:
        items: manifests.
        continue_: where the next page begins, "" after the last one.
        version: that of the whole list, from which a watch can go on.
        size: how many bytes it came in.
    """

    items: Sequence[dict[str, Any]]
    continue_: str
    version: str
    size: int = 0


class PageTooLong(ClusterError):
    """A page of a list has more bytes than were to be read at once; ask for fewer objects."""


class Api:
    """One cluster, as one user. Safe to use from several threads."""

    def __init__(
        self, transport: Transport, options: ConnectionOptions, namespace: str = "default"
    ) -> None:
        """Take the way to the API server; see `connect`."""
        self._transport, self._options = transport, options
        self._served: dict[str, str] = {}
        self._cannot_forward: dict[str, ClusterError] = {}
        self.namespace = namespace

    @classmethod
    def connect(cls, options: ConnectionOptions) -> Api:
        """Read the kubeconfig (or the pod's service account); sends nothing yet.

        Raises:
            Unreachable: there is no usable configuration, or no such context.
        """
        login = log_in(options, os.environ)
        if login.user.auth_provider and login.cluster.tls:
            # Few have it.
            from kubectl_istio_udp.kube import oidc

            if oidc.must_renew(login.user):
                oidc.renew(options)
                login = log_in(options, os.environ)
        return cls(Transport(login, timeout=options.request_timeout), options, login.namespace)

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

    def merge(self, patch: Object, *, manager: str, dry_run: bool = False) -> dict[str, Any]:
        """Change one object by a JSON merge patch (RFC 7396); it as it is now.

        Args:
            patch: the fields, null for those that are to go, with apiVersion, kind, name and
                namespace; uid and resourceVersion say which object, and as of when.
            manager: the field manager.
            dry_run: let the server decide, write nothing.

        Raises:
            Conflict: it is another object, or was changed meanwhile.
        """
        metadata = patch["metadata"]
        query = {"fieldManager": manager, **({"dryRun": "All"} if dry_run else {})}
        namespace, name = metadata.get("namespace"), metadata["name"]
        answer: dict[str, Any] = self._json(
            "merge", patch["kind"], namespace, name, query=query, body=patch
        )
        return answer

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
        most_bytes: int | None = None,
        **selectors: str,
    ) -> Page:
        """Some of the objects of a kind, as a list of the API server comes in pages.

        Args:
            kind, namespace: as for `list`.
            limit: how many at most.
            continue_: where the last page ended, "" for the first one.
            most_bytes: how long the answer may be, unless it is a single object; None for any.
            selectors: labelSelector, fieldSelector.

        Raises:
            Expired: the pages took too long; begin anew.
            PageTooLong: it has more bytes; no more than that was read.
        """
        query = {"limit": str(limit), **{key: text for key, text in selectors.items() if text}}
        if continue_:
            query["continue"] = continue_
        sent = self._send("list", kind, namespace, query=query, stream=True)
        body = self._body(sent, most_bytes if limit > 1 else None)
        answer = self._decoded(body)
        about, version = answer["metadata"], answer.get("apiVersion", "v1")
        items = [{"apiVersion": version, "kind": kind, **item} for item in answer["items"]]
        place, found = about.get("continue") or "", about.get("resourceVersion") or ""
        return Page(items, place, found, len(body))

    def _body(self, answer: urllib3.BaseHTTPResponse, most_bytes: int | None) -> bytes:
        """The body of an answer that is still to be read.

        Raises:
            PageTooLong: it has more bytes than it may.
        """
        pieces: list[bytes] = []
        length = 0
        try:
            for piece in answer.stream(_PIECE_BYTES, decode_content=True):
                pieces.append(piece)
                length += len(piece)
                if most_bytes is not None and length > most_bytes:
                    answer.close()
                    raise PageTooLong(f"a page of a list has more than {most_bytes} bytes")
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise self._transport.unreachable(error, None) from error
        answer.release_conn()
        return b"".join(pieces)

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
        return Watch(answer, lambda error: self._transport.unreachable(error, silence))

    def delete(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        *,
        dry_run: bool = False,
        uid: str = "",
    ) -> bool:
        """Delete one object; whether it was there.

        Args:
            kind, namespace, name: which.
            dry_run: let the server decide, delete nothing.
            uid: delete the object only if it is still this very one.

        Raises:
            Conflict: there is another one of that name by now.
        """
        query = {"dryRun": "All"} if dry_run else {}
        exact = {"preconditions": {"uid": uid}}
        try:
            self._json("delete", kind, namespace, name, query=query, body=exact if uid else None)
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
        text: str = self._request(
            "get", "Pod", namespace, pod, raw=True, subresource="log", query=query
        )[0]
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
            lambda: self._exec_once(namespace, pod, container, command, timeout), harmless=True
        )

    def _exec_once(
        self, namespace: str, pod: str, container: str, command: Sequence[str], timeout: float
    ) -> ExecResult:
        pods = RESOURCES["Pod"]
        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("command", word) for word in command]
        path = pods.path(pods.api_version, namespace, pod, "exec") + "?" + urlencode(query)
        action = self._action("create", "Pod", namespace, pod, "exec")
        return execution.run(self._transport, path, action, timeout)

    # -- port-forward -------------------------------------------------------------------------

    def http(self, namespace: str, pod: str, port: int, timeout: float) -> PodHttp:
        """HTTP requests to a port of a pod, by port-forward; nothing is sent yet.

        Where a namespace allows no port-forward, the API server is not asked again.

        Args:
            namespace, pod, port: where; the port is one of localhost in the pod.
            timeout: seconds that each request may take.
        """
        forward = partial(self._forward, namespace, pod, port, timeout)
        return PodHttp(f"{namespace}/{pod}", port, timeout, forward)

    def _forward(self, namespace: str, pod: str, port: int, timeout: float) -> websocket.WebSocket:
        if namespace in self._cannot_forward:
            raise copy.copy(self._cannot_forward[namespace])
        pods = RESOURCES["Pod"]
        path = pods.path(pods.api_version, namespace, pod, "portforward")
        path += "?" + urlencode({"ports": port})
        action = self._action("create", "Pod", namespace, pod, "portforward")
        try:
            return self._options.retries.call(
                lambda: websockets.connect(self._transport, path, action, timeout, PROTOCOLS),
                harmless=True,
            )
        except (Forbidden, UpgradeUnavailable) as error:
            self._cannot_forward[namespace] = copy.copy(error)
            raise

    # -- requests -----------------------------------------------------------------------------

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
        *,
        raw: bool = False,
        **more: Any,
    ) -> tuple[Any, tuple[str, ...]]:
        """Send one request; the decoded answer (text where raw) and the server's warnings."""
        answer = self._send(verb, kind, namespace, name, raw=raw, **more)
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
                answer = self._options.retries.call(
                    send, read=verb in _READS, harmless=verb in _HARMLESS
                )
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
        path += "?" + urlencode(query) if query else ""
        headers = {"Accept": "*/*" if raw else "application/json"}
        content = None
        if body is not None:
            named = {} if action.verb == "delete" else {"apiVersion": api_version}
            content = _encoded({**body, **named})
            headers["Content-Type"] = "application/" + _CONTENT_TYPES.get(action.verb, "json")
        answer = self._transport.send(
            _METHODS.get(action.verb, action.verb.upper()),
            path,
            headers=headers,
            body=content,
            stream=stream,
        )
        if answer.status >= 300:
            raise refusal(answer.status, answer.data, action, answer.headers)
        return answer

    def _decoded(self, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Unreachable(
                f"what answers at {self._transport.url} is no Kubernetes API server: "
                f"{plain(body.decode(errors='replace'))[:100]}",
                hints=["is a proxy or a login page in between? kubectl version"],
            )
        return answer

    def _action(
        self, verb: str, kind: str, namespace: str | None, name: str, subresource: str
    ) -> Action:
        user = self._transport.user
        return Action(verb, RESOURCES[kind], namespace, name, subresource, user)


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
        begun: list[bytes] = []
        try:
            for piece in self._answer.stream(_PIECE_BYTES, decode_content=False):
                *lines, rest = piece.split(b"\n")
                for line in lines:
                    if whole := b"".join([*begun, line]):
                        yield _event(whole)
                    begun.clear()
                begun.append(rest)
                if len(begun) > _LONGEST_EVENT_PIECES:
                    raise ClusterError("an event of a watch is longer than any object may be")
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


def selector_of(labels: Mapping[str, str]) -> str:
    """The label selector that asks for all of these labels: `app=dns,tier=front`."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


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
