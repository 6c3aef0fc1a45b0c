"""The API client: get, list, apply, delete, logs, exec, port-forward.

Paths come from a table of the kinds that the plugin uses (model/resources.py). So there are no
discovery requests, no discovery cache, and no generated model classes to import.
"""

from __future__ import annotations

import builtins
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

from kubectl_istio_udp.kube.connections import within
from kubectl_istio_udp.kube.http_errors import Action, refusal
from kubectl_istio_udp.kube.json_reader import decoded
from kubectl_istio_udp.kube.kubeconfig import ConnectionOptions, log_in
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
from kubectl_istio_udp.model.resources import RESOURCES, resource_key

if TYPE_CHECKING:
    import websocket

    from kubectl_istio_udp.kube.exec import ExecResult
    from kubectl_istio_udp.kube.portforward import PodHttp

Object = Mapping[str, Any]

_METHODS = {"list": "GET", "watch": "GET", "create": "POST", "update": "PUT", "merge": "PATCH"}
_CONTENT_TYPES = {"patch": "apply-patch+yaml", "merge": "merge-patch+json"}
_WARNING = re.compile(r'^\d{3} \S+ "((?:[^"\\]|\\.)*)"')
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
# Bodies are read in chunks of this size. A watch event is one object; etcd's limit is 1.5 MB.
_CHUNK_BYTES = 2**16
_LONGEST_EVENT_CHUNKS = 256
# Verbs that may be sent twice: the second request changes nothing.
_READS = frozenset({"get", "list", "watch"})
_HARMLESS = _READS | {"patch"}


@dataclass(frozen=True)
class ApplyResult:
    """The result of one server-side apply.

    Attributes:
        manifest: the object after the apply.
        verb: `created`, `changed` or `unchanged`.
        warnings: warnings of the API server and its webhooks.
    """

    manifest: dict[str, Any]
    verb: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """One page of a list.

    Attributes:
        items: manifests.
        continue_: the continue token of the next page, "" after the last page.
        version: the resourceVersion of the list; a watch can start from it.
        size: the length of the response in bytes.
    """

    items: Sequence[dict[str, Any]]
    continue_: str
    version: str
    size: int = 0


class PageTooLong(ClusterError):
    """A page of a list is longer than the caller's limit; request fewer objects per page."""


class Api:
    """A client of one cluster, as one user. Safe to use from several threads.

    Attributes:
        namespace: the namespace of the context.
        waits: the waits and timeouts of commands that use it.
    """

    def __init__(
        self, transport: Transport, options: ConnectionOptions, namespace: str = "default"
    ) -> None:
        """Use `connect` to make one from flags and a kubeconfig."""
        self._transport, self._options = transport, options
        self._served: dict[str, str] = {}
        self._cannot_forward: dict[str, ClusterError] = {}
        self.namespace = namespace
        self.waits = options.waits

    @classmethod
    def connect(cls, options: ConnectionOptions) -> Api:
        """Read the kubeconfig, or the pod's service account; send no request yet.

        Raises:
            Unreachable: there is no valid configuration, or the context does not exist.
        """
        login = log_in(options, os.environ)
        if login.user.auth_provider and login.cluster.tls:
            # Imported here because few users have the auth provider `oidc`.
            from kubectl_istio_udp.kube import oidc

            if oidc.must_renew(login.user):
                oidc.renew(options)
                login = log_in(options, os.environ)
        return cls(Transport(login, timeout=options.request_timeout), options, login.namespace)

    # -- objects ------------------------------------------------------------------------------

    def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any]:
        """Read one object; `namespace` is None for a cluster-scoped kind.

        Raises:
            NotFound: the object or its namespace does not exist.
            Forbidden, Unreachable, ClusterError: the request failed.
        """
        answer: dict[str, Any] = self._json("get", kind, namespace, name)
        return answer

    def find(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Read one object; None if it or its namespace does not exist.

        Raises:
            Forbidden, Unreachable, ClusterError: the request failed.
        """
        try:
            return self.get(kind, namespace, name)
        except NotFound:
            return None

    def list(
        self, kind: str, namespace: str | None = None, selector: str = ""
    ) -> list[dict[str, Any]]:
        """List the objects of a kind.

        Args:
            kind: e.g. `Pod`.
            namespace: None lists all namespaces.
            selector: a label selector.

        Returns:
            Manifests with apiVersion and kind, which the API server omits in lists.

        Raises:
            NotInstalled: the API server does not serve the kind.
            Forbidden, Unreachable, ClusterError: the request failed.
        """
        query = {"labelSelector": selector} if selector else {}
        return self._items(kind, self._json("list", kind, namespace, query=query))

    def apply(
        self,
        manifest: Object,
        *,
        before: Object | None,
        manager: str,
        force: bool = False,
        dry_run: bool = False,
    ) -> ApplyResult:
        """Apply one object by server-side apply.

        Args:
            manifest: the fields to set.
            before: the object as last read, None if it did not exist; used to find `verb`.
            manager: the field manager.
            force: take fields over from other managers.
            dry_run: the server and its webhooks check the request, but nothing is written.

        Raises:
            ApplyConflict: another manager owns a field and has another value.
            Conflict: the uid or the resourceVersion in the manifest is no longer current.
            NotFound: the namespace does not exist.
            NotInstalled: the API server does not serve the kind.
            Forbidden, Unreachable, ClusterError: the request failed, or a webhook rejected it.
        """
        kind, metadata = resource_key(manifest), manifest["metadata"]
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
            return ApplyResult(after, "created", warnings)
        # A dry run returns the old resourceVersion, so compare the content too.
        same = _same_content(before, after) if dry_run else _same_version(before, after)
        return ApplyResult(after, "unchanged" if same else "changed", warnings)

    def merge(
        self, patch: Object, *, manager: str, dry_run: bool = False, subresource: str = ""
    ) -> dict[str, Any]:
        """Change one object by a JSON merge patch (RFC 7396); return the changed object.

        Args:
            patch: the fields to set, null to remove a field, with apiVersion, kind, name and
                namespace. With uid and resourceVersion the patch only applies to that version.
            manager: the field manager.
            dry_run: the server checks the request, but nothing is written.
            subresource: `status`, or "" for the object itself.

        Raises:
            Conflict: the uid or the resourceVersion is no longer current.
            NotFound: the object does not exist.
            Forbidden, Unreachable, ClusterError: the request failed, or a webhook rejected it.
        """
        metadata = patch["metadata"]
        query = {"fieldManager": manager, **({"dryRun": "All"} if dry_run else {})}
        namespace, name = metadata.get("namespace"), metadata["name"]
        answer: dict[str, Any] = self._json(
            "merge", resource_key(patch), namespace, name, subresource, query=query, body=patch
        )
        return answer

    def create(self, manifest: Object, *, manager: str) -> dict[str, Any]:
        """Create one object; return it as stored.

        Raises:
            Conflict: an object with this name exists.
            NotFound: the namespace does not exist.
            Forbidden, Unreachable, ClusterError: the request failed, or a webhook rejected it.
        """
        metadata = manifest["metadata"]
        answer: dict[str, Any] = self._json(
            "create",
            resource_key(manifest),
            metadata.get("namespace"),
            query={"fieldManager": manager},
            body=manifest,
        )
        return answer

    def update(self, manifest: Object, *, manager: str) -> dict[str, Any]:
        """Replace one object that still has the manifest's resourceVersion; return it as stored.

        Raises:
            Conflict: it was modified concurrently.
            NotFound: it does not exist.
            Forbidden, Unreachable, ClusterError: the request failed, or a webhook rejected it.
        """
        metadata = manifest["metadata"]
        answer: dict[str, Any] = self._json(
            "update",
            resource_key(manifest),
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
        """Read one page of the list of a kind.

        Args:
            kind, namespace: as for `list`.
            limit: the maximum number of objects.
            continue_: the continue token of the previous page, "" for the first page.
            most_bytes: the maximum length of the response; None for no limit. A page of one
                object may always be longer.
            selectors: labelSelector, fieldSelector.

        Raises:
            Expired: the continue token is too old; start again with the first page.
            PageTooLong: the response is longer than `most_bytes`; the rest was not read.
        """
        query = {"limit": str(limit), **{key: text for key, text in selectors.items() if text}}
        if continue_:
            query["continue"] = continue_
        sent = self._send("list", kind, namespace, query=query, stream=True)
        body = self._body(sent, most_bytes if limit > 1 else None)
        answer = self._decoded(body)
        items, about = self._items(kind, answer), answer["metadata"]
        place, found = about.get("continue") or "", about.get("resourceVersion") or ""
        return Page(items, place, found, len(body))

    def _body(self, answer: urllib3.BaseHTTPResponse, most_bytes: int | None) -> bytes:
        """Read the body of a streamed response.

        Raises:
            PageTooLong: it is longer than `most_bytes`.
        """
        chunks: list[bytes] = []
        length = 0
        seconds = self._transport.timeout
        try:
            with within(seconds):
                for chunk in answer.stream(_CHUNK_BYTES, decode_content=True):
                    chunks.append(chunk)
                    length += len(chunk)
                    if most_bytes is not None and length > most_bytes:
                        answer.close()
                        raise PageTooLong(f"a page of a list has more than {most_bytes} bytes")
        except (OSError, urllib3.exceptions.HTTPError) as error:
            raise self._transport.unreachable(error, seconds) from error
        answer.release_conn()
        return b"".join(chunks)

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
        """Watch the objects of a kind.

        Args:
            kind, namespace: as for `list`.
            version: the resourceVersion to start from.
            seconds: the server ends the watch after this time.
            silence: the watch fails after this many seconds without an event or bookmark.
            selectors: labelSelector, fieldSelector.

        Raises:
            Expired: the version is too old; list again.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(seconds)),
            **{key: text for key, text in selectors.items() if text},
        }
        answer = self._send("watch", kind, namespace, query=query, stream=True, silence=silence)
        return Watch(answer, lambda error: self._transport.unreachable(error, silence))

    def delete(self, manifest: Object, *, dry_run: bool = False, unchanged: bool = False) -> bool:
        """Delete one object if it is still the one that was read; return whether it existed.

        Args:
            manifest: the object as read. One without a uid is deleted by its name alone.
            dry_run: the server checks the request, but nothing is deleted.
            unchanged: only delete it if it still has the manifest's resourceVersion.

        Raises:
            Conflict: it was modified concurrently (`unchanged`), or was deleted and created again.
            Forbidden, Unreachable, ClusterError: the request failed, or a webhook rejected it.
        """
        kind, metadata = resource_key(manifest), manifest["metadata"]
        namespace, name = metadata.get("namespace"), metadata["name"]
        exact = ("uid", "resourceVersion") if unchanged else ("uid",)
        preconditions = {key: metadata[key] for key in exact if key in metadata}
        # All in the body: the API server ignores the query of a DELETE that has a body.
        options: dict[str, Any] = {"dryRun": ["All"]} if dry_run else {}
        if preconditions:
            options["preconditions"] = preconditions
        try:
            self._json("delete", kind, namespace, name, body=options or None)
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
        """Read the last lines of a container's log.

        Args:
            namespace, pod, container: the container.
            since_seconds: the maximum age of a line.
            lines: the maximum number of lines.
            timestamps: whether each line begins with the kubelet's timestamp (RFC 3339).

        Raises:
            NotFound: the pod does not exist.
            Forbidden, Unreachable, ClusterError: the request failed, for example because the
                container has not started.
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
        """Run a command in a container and wait until it exits.

        Args:
            namespace, pod, container: the container.
            command: executable and arguments; no shell is used.
            timeout: seconds to wait for its exit. It may keep running in the pod afterwards.

        Raises:
            UpgradeUnavailable: a proxy on the way blocks websockets.
            Busy: the server still asks to retry later, after all retries.
            NotFound, Forbidden, ClusterError: the command was not started.
            Unreachable: the server could not be reached or the connection broke; the command may
                have been started.
        """
        return self._options.retries.call(
            lambda: self._exec_once(namespace, pod, container, command, timeout), harmless=True
        )

    def _exec_once(
        self, namespace: str, pod: str, container: str, command: Sequence[str], timeout: float
    ) -> ExecResult:
        # Most commands run nothing in a pod, and websocket-client takes long to import.
        from kubectl_istio_udp.kube.exec import run

        pods = RESOURCES["Pod"]
        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("command", word) for word in command]
        path = pods.path(pods.api_version, namespace, pod, "exec") + "?" + urlencode(query)
        action = self._action("create", "Pod", namespace, pod, "exec")
        return run(self._transport, path, action, timeout)

    # -- port-forward -------------------------------------------------------------------------

    def http(self, namespace: str, pod: str, port: int, timeout: float) -> PodHttp:
        """A client for HTTP requests to a port of a pod, by port-forward; send no request yet.

        After a port-forward in a namespace was forbidden or not supported, later ones in the same
        namespace raise the same error without a request.

        Args:
            namespace, pod, port: the pod, and a port of its localhost.
            timeout: seconds for each request.
        """
        from kubectl_istio_udp.kube.portforward import PodHttp

        forward = partial(self._forward, namespace, pod, port, timeout)
        return PodHttp(f"{namespace}/{pod}", port, timeout, forward)

    def _forward(self, namespace: str, pod: str, port: int, timeout: float) -> websocket.WebSocket:
        from kubectl_istio_udp.kube.portforward import PROTOCOLS
        from kubectl_istio_udp.kube.websockets import connect

        if namespace in self._cannot_forward:
            raise copy.copy(self._cannot_forward[namespace])
        pods = RESOURCES["Pod"]
        path = pods.path(pods.api_version, namespace, pod, "portforward")
        path += "?" + urlencode({"ports": port})
        action = self._action("create", "Pod", namespace, pod, "portforward")
        try:
            return self._options.retries.call(
                lambda: connect(self._transport, path, action, timeout, PROTOCOLS),
                harmless=True,
            )
        except (Forbidden, UpgradeUnavailable) as error:
            self._cannot_forward[namespace] = copy.copy(error)
            raise

    # -- requests -----------------------------------------------------------------------------

    def _json(
        self,
        verb: str,
        kind: str,
        namespace: str | None,
        name: str = "",
        subresource: str = "",
        **more: Any,
    ) -> Any:
        return self._request(verb, kind, namespace, name, subresource=subresource, **more)[0]

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
        """Send one request; return the decoded body (text if raw) and the server's warnings."""
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
        silence: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request, in the version that the server was seen to serve, or another one.

        Raises:
            NotInstalled: the server serves none of the kind's versions.
            ClusterError: the server rejected the request.
        """
        versions = RESOURCES[kind].api_versions
        missing: NotInstalled | None = None
        for api_version in dict.fromkeys((self._served.get(kind, versions[0]), *versions)):
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
                    silence=silence,
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
        silence: float | None,
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
            silence=silence,
        )
        if answer.status >= 300:
            raise refusal(answer.status, answer.data, action, answer.headers)
        return answer

    def _decoded(self, body: bytes) -> dict[str, Any]:
        """Decode an object, a list or a Status.

        Raises:
            Unreachable: it is something else.
        """
        try:
            answer = decoded(body)
        except ValueError:
            answer = None
        is_status = isinstance(answer, dict) and answer.get("kind") == "Status"
        if not (is_status or _has_metadata(answer)):
            raise self._not_kubernetes(body.decode(errors="replace"))
        found: dict[str, Any] = answer
        return found

    def _items(self, kind: str, answer: Object) -> builtins.list[dict[str, Any]]:
        """The objects of a list, with apiVersion and kind, which the API server omits in lists.

        Raises:
            Unreachable: it is not a list.
        """
        # In Go's JSON an empty list may be null.
        items = [] if answer.get("items", "") is None else answer.get("items")
        if not isinstance(items, list) or not all(map(_has_metadata, items)):
            raise self._not_kubernetes(json.dumps(answer))
        about = {"apiVersion": answer.get("apiVersion", "v1"), "kind": RESOURCES[kind].kind}
        return [{**about, **item} for item in items]

    def _not_kubernetes(self, text: str) -> Unreachable:
        return Unreachable(
            f"{self._transport.url} does not answer like a Kubernetes API server: "
            f"{plain(text)[:100]}",
            hints=["look for a proxy or a login page in between: kubectl version"],
        )

    def _action(
        self, verb: str, kind: str, namespace: str | None, name: str, subresource: str
    ) -> Action:
        user = self._transport.user
        return Action(verb, RESOURCES[kind], namespace, name, subresource, user)


class Watch:
    """A running watch: iterate over (type, manifest) until the server ends it.

    Types are those of the API: ADDED, MODIFIED, DELETED, and BOOKMARK, whose manifest only has a
    resourceVersion.
    """

    def __init__(
        self,
        answer: urllib3.BaseHTTPResponse,
        unreachable: Callable[[BaseException], Unreachable],
    ) -> None:
        """Take the streamed response, and a function that makes errors of broken connections."""
        self._answer, self._unreachable = answer, unreachable

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each event when it arrives.

        Raises:
            Expired: the server no longer has the version that follows; list again.
            Unreachable: the connection broke, or no event arrived in time.
            ClusterError: the server sent an error.
        """
        partial_line: list[bytes] = []
        try:
            for chunk in self._answer.stream(_CHUNK_BYTES, decode_content=False):
                *lines, rest = chunk.split(b"\n")
                for line in lines:
                    if whole := b"".join([*partial_line, line]):
                        yield _event(whole)
                    partial_line.clear()
                partial_line.append(rest)
                if len(partial_line) > _LONGEST_EVENT_CHUNKS:
                    raise ClusterError("a watch event is longer than the largest possible object")
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            raise self._unreachable(error) from error
        finally:
            self._answer.close()

    def stop(self) -> None:
        """End the watch. May be called from another thread."""
        # Shutting down a watch that has already ended raises an error.
        with suppress(Exception):
            self._answer.shutdown()


def _event(line: bytes) -> tuple[str, dict[str, Any]]:
    event = decoded(line)
    kind, manifest = event["type"], event["object"]
    if kind == "ERROR":
        code, message = manifest.get("code"), manifest.get("message", "")
        raise (Expired if code == 410 else ClusterError)(f"the watch ended: {message}")
    return kind, manifest


def _has_metadata(value: object) -> bool:
    """Whether decoded JSON has metadata, as every object and every list of the API."""
    return isinstance(value, dict) and isinstance(value.get("metadata"), dict)


def selector_of(labels: Mapping[str, str]) -> str:
    """The label selector that requires all of these labels: `app=dns,tier=front`."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _warnings(headers: Iterable[str]) -> list[str]:
    """The texts of HTTP Warning headers (RFC 9111's `code agent "text"`), each once."""
    texts = [match[1].replace('\\"', '"') for line in headers if (match := _WARNING.match(line))]
    return list(dict.fromkeys(texts))


def _encoded(body: Object) -> bytes:
    """JSON that is also valid YAML, because the server parses the body of an apply as YAML.

    YAML has no surrogate pairs, and requires unprintable characters to be escaped.
    """
    text = json.dumps(body, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda char: f"\\u{ord(char[0]):04x}", text).encode()


def _same_version(before: Object, after: Object) -> bool:
    same: bool = before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    return same


def _same_content(before: Object, after: Object) -> bool:
    """Whether two versions of an object only differ in fields that the server sets."""
    server_fields = ("resourceVersion", "generation", "managedFields", "creationTimestamp", "uid")

    def content(manifest: Object) -> dict[str, Any]:
        metadata = {k: v for k, v in manifest["metadata"].items() if k not in server_fields}
        return {**manifest, "metadata": metadata}

    return content(before) == content(after)
