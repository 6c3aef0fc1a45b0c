"""An API server in this process: enough of Kubernetes for the plugin, with faults on demand.

Reads, lists, watches, server-side apply, creation, updates, deletes, logs, exec, port-forward. What
it is true to is listed where it is done; tests/cluster proves the plugin against the real one.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from kubectl_istio_udp.model.resources import RESOURCES, resource_key

Manifest = dict[str, Any]
Json = TypeVar("Json")
Key = tuple[str, str, str]
_PATH = re.compile(
    r"/(?P<root>api/v1|apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?"
)
_WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# A fake port sends these bytes to refuse connections, followed by the reason.
_REFUSES = b"\0refuses\0"
# Fields that no field manager owns, and whose changes do not make a new version.
_SERVERS_OWN = (
    *("resourceVersion", "managedFields", "creationTimestamp", "uid", "generation"),
    *("finalizers", "deletionTimestamp"),
)


@dataclass
class Exec:
    """What a command in a container does.

    Attributes:
        error: why it could not be started.
        status: what comes as its end, in place of what code and error make.
        cut: whether the connection ends before the command does.
        hangs: whether it never ends.
    """

    stdout: str = ""
    stderr: str = ""
    code: int = 0
    error: str = ""
    status: str = ""
    cut: bool = False
    hangs: bool = False


@dataclass
class Fault:
    """What happens to matching requests instead of the normal response.

    Attributes:
        done: whether a write is done all the same.
    """

    method: str
    path: str
    status: int = 0
    body: str = ""
    skip: int = 0
    times: int = 1_000_000
    done: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def _stale(given: Manifest, existing: Manifest) -> str:
    """Why a write does not apply to an object; "" if it does."""
    uid, version = given.get("uid"), given.get("resourceVersion")
    if uid and uid != existing.get("uid"):
        return f"uid mismatch: {uid}"
    if version and existing and version != existing["resourceVersion"]:
        return "object modified"
    return ""


def _take(mine: dict[Any, Any], others: dict[str, dict[Any, Any]], *, force: bool) -> str:
    """Take leaves with other values over from other managers; without force, return the
    conflict."""
    for other, theirs in others.items():
        clashing = [path for path, value in mine.items() if theirs.get(path, value) != value]
        if clashing and not force:
            fields = ", ".join(".".join(path) for path in clashing)
            return f'conflict with "{other}": {fields}'
        for path in clashing:
            del theirs[path]
    return ""


@dataclass(frozen=True)
class Request:
    """A received request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, list[str]]
    body: Any

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def dry_run(self) -> bool:
        """Whether it is a dry run; the API server ignores the query of a DELETE with a body."""
        if self.method == "DELETE" and self.body:
            return bool(self.body.get("dryRun") == ["All"])
        return self.query.get("dryRun") == ["All"]


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    # The length of the backlog: a controller opens 14 connections at once, and one that does not
    # fit waits for a second.
    request_queue_size = 128


class ApiServer:
    """The stored objects, and settings for tests.

    Attributes:
        requests: all that came, in order.
        now: the time of writes, as in managedFields.
        run: called with (namespace, pod, container, command) for every exec. What it answers to
            `pilot-agent request GET PATH` is what the pod's admin interface answers by
            port-forward too.
        forwards: how many forwarded connections there have been.
        seen: called with every request before it is answered.
        logs: log text by (namespace, pod).
        load_balancer: the address that Services of that type get at once; None for none.
        finalizer: what Services of that type get at once, as from a cloud; "" for none. An object
            with finalizers outlives its deletion, until `finish_deletions`.
        warnings: text of the Warning header by kind, on every apply.
        pods_start: whether new pods run at once.
        admit: called with every object that is to be stored; why it is refused, "" for yes.
        permits: called with verb, kind (`Pod/log` for a subresource), namespace and name of every
            request; whether it may be.
        installed: kinds that the server knows.
        served: the only apiVersions it has of a kind, where not all that the product can use.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.run: Callable[[str, str, str, list[str]], Exec] = lambda *_: Exec()
        self.seen: Callable[[Request], object] = lambda _: None
        self.now: Callable[[], str] = _now
        self.forwards = 0
        self.logs: dict[tuple[str, str], str] = {}
        self.load_balancer: str | None = "203.0.113.5"
        self.finalizer = ""
        self.warnings: dict[str, list[str]] = {}
        self.pods_start = True
        self.admit: Callable[[Manifest], str] = lambda _: ""
        self.permits: Callable[[str, str, str, str], bool] = lambda *_: True
        self.installed = set(RESOURCES)
        self.served: dict[str, set[str]] = {}
        self._objects: dict[Key, Manifest] = {}
        self._owned: dict[Key, dict[str, dict[tuple[str, ...], Any]]] = {}
        self._faults: list[Fault] = []
        self._version = 100
        self._history: list[tuple[int, str, Manifest]] = []
        self._oldest = 0
        self._watches: list[Any] = []
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._http = _Http(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def stop(self) -> None:
        self._stopping.set()
        self.cut_watches()
        # A server that waits for a connection wakes up when one arrives.
        socket.create_connection(("127.0.0.1", self._http.server_port)).close()
        self._thread.join()
        self._http.server_close()

    def _accept(self) -> None:
        """Serve until stopped; serve_forever would poll many times per second."""
        while not self._stopping.is_set():
            self._http.handle_request()

    def kubeconfig(self, path: Path, **context: Any) -> Path:
        """Write a kubeconfig with the context `here` for this server."""
        cluster = {"name": "fake", "cluster": {"server": self.url}}
        user = {"name": "me", "user": {"token": "t0ken"}}
        here = {"name": "here", "context": {"cluster": "fake", "user": "me", **context}}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [cluster], "users": [user], "contexts": [here],
        }  # fmt: skip
        # JSON is YAML, and the quicker to read.
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    # -- for tests ----------------------------------------------------------------------------

    def put(self, *manifests: Manifest) -> None:
        """Store objects with another field manager (`helm`)."""
        with self._lock:
            for manifest in manifests:
                key = _key(manifest)
                self._owned[key] = {"helm": _leaves(_keyed(_content(manifest)))}
                self._store(key, _copied(manifest))

    def remove(self, kind: str, namespace: str, name: str) -> None:
        with self._lock:
            self._remove((kind, namespace, name))

    def finish_deletions(self) -> None:
        """Remove the objects that are being deleted, as if their finalizers were removed."""
        with self._lock:
            for key, manifest in list(self._objects.items()):
                if "deletionTimestamp" in manifest["metadata"]:
                    self._remove(key)

    def compact(self) -> None:
        """Drop the old versions: watches that start from them get 410."""
        with self._lock:
            self._oldest = self._version
            self._history.clear()

    def cut_watches(self) -> None:
        """Break all running watches."""
        with self._lock:
            watches, self._watches = self._watches, []
        for connection in watches:
            with contextlib.suppress(OSError):
                connection.shutdown(2)

    def watching(self) -> int:
        """The number of running watches."""
        with self._lock:
            return len(self._watches)

    def get(self, kind: str, namespace: str, name: str) -> Any:
        """The manifest of an object; None if it does not exist.

        Any, so that a test may take for granted that it is there.
        """
        with self._lock:
            return _copied(self._objects.get((kind, namespace, name)))

    def there(self) -> set[Key]:
        """(kind, namespace, name) of every object."""
        with self._lock:
            return set(self._objects)

    def all(self, kind: str) -> list[Manifest]:
        with self._lock:
            return [_copied(o) for (k, _, _), o in sorted(self._objects.items()) if k == kind]

    def state(self) -> dict[Key, Manifest]:
        """The content of every object, without the server's own bookkeeping."""
        with self._lock:
            return {key: _content(manifest) for key, manifest in self._objects.items()}

    def fail(self, method: str, path: str, status: int = 0, body: str = "", **more: Any) -> None:
        """Answer requests with a path (and query) matching this pattern with a status.

        Status 0 closes the connection; -1 never answers. `skip` lets the first ones pass, `times`
        ends it after so many.
        """
        self._faults.append(Fault(method, path, status, body, **more))

    def heal(self) -> None:
        self._faults.clear()

    def writes(self) -> list[str]:
        """The requests that change something, dry runs not counted."""
        return [
            str(r)
            for r in self.requests
            if r.method in ("PATCH", "DELETE", "POST", "PUT") and not r.dry_run
        ]

    def kind_of(self, root: str, plural: str) -> str | None:
        """The kind of the objects at a path; None for unknown paths."""
        api_version = root.split("/", 1)[1]
        for kind, resource in RESOURCES.items():
            if plural == resource.plural and kind in self.installed:
                served = self.served.get(kind) or set(resource.api_versions)
                if api_version in served:
                    return kind
        return None

    # -- for the handler ----------------------------------------------------------------------

    def fault(self, method: str, target: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.method == method and re.search(fault.path, target) and fault.times > 0:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def listed(self, kind: str, namespace: str | None, selector: str) -> list[Manifest]:
        with self._lock:
            return [
                _copied(o)
                for (k, space, _), o in sorted(self._objects.items())
                if k == kind
                and namespace in (None, space)
                and _matches(selector, o["metadata"].get("labels") or {})
            ]

    def apply(
        self, key: Key, manifest: Manifest, manager: str, force: bool, dry_run: bool
    ) -> tuple[int, Manifest]:
        """Server-side apply, as far as: each leaf field has owners; one that another manager has
        otherwise is a conflict, or is taken by force; a leaf this manager gives up and nobody else
        has goes away; a Service's ports are keyed by port and protocol, other lists are whole; an
        object that does not change keeps its version.
        """
        with self._lock:
            there = self._objects.get(key)
            if stale := _stale(manifest["metadata"], (there or {"metadata": {}})["metadata"]):
                return 409, _status(409, f"Operation cannot be fulfilled: {stale}")
            owned = {n: dict(v) for n, v in self._owned.get(key, {}).items()} if there else {}
            mine = _leaves(_keyed(_content(manifest)))
            others_leaves = {name: leaves for name, leaves in owned.items() if name != manager}
            if conflict := _take(mine, others_leaves, force=force):
                return 409, _status(409, f"Apply failed with 1 conflict: {conflict}")
            gone = set(owned.get(manager, {})) - set(mine)
            owned[manager] = mine
            others = {path for leaves in owned.values() for path in leaves}
            new = _keyed(_copied(there) if there else _skeleton(manifest))
            for path in gone - others:
                _drop(new, path)
            for path, value in mine.items():
                _set(new, path, value)
            result = _unkeyed(new)
            self._defaults(result, created=there is None)
            owned = {name: leaves for name, leaves in owned.items() if leaves}
            if refused := self.admit(result):
                return 400, _status(400, refused)
            if dry_run:
                return (200 if there else 201), _with_managers(result, owned, self.now())
            if there is None or _content(result) != _content(there):
                self._owned[key] = owned
                self._store(key, result)
                self._consequences(result, created=there is None)
            return (200 if there else 201), _copied(self._objects[key])

    def merge(self, key: Key, patch: Manifest, manager: str) -> tuple[int, Manifest]:
        """A JSON merge patch: the fields that it changes are the manager's, as an update's are."""
        with self._lock:
            there = self._objects.get(key)
            if there is None:
                return 404, _status(404, "not found", name=key[2])
            for name in ("uid", "resourceVersion"):
                if patch["metadata"].get(name, there["metadata"][name]) != there["metadata"][name]:
                    return 409, _status(409, f"{name} is another")
            if "managedFields" in patch["metadata"]:
                self._owned[key].pop(f"{manager}:Update", None)
                self._store(key, _copied(there))
                return 200, _copied(self._objects[key])
            result = _merged(_copied(there), patch)
            if "generation" in there["metadata"] and result.get("spec") != there.get("spec"):
                result["metadata"]["generation"] = there["metadata"]["generation"] + 1
            if refused := self.admit(result):
                return 400, _status(400, refused)
            old, new = (_leaves(_keyed(_content(each))) for each in (there, result))
            owned = self._owned.setdefault(key, {})
            for leaves in owned.values():
                for path in [p for p, value in leaves.items() if new.get(p) != value]:
                    del leaves[path]
            changed = {path: value for path, value in new.items() if old.get(path) != value}
            owned.setdefault(f"{manager}:Update", {}).update(changed)
            self._store(key, result)
            return 200, _copied(self._objects[key])

    def delete(self, key: Key, dry_run: bool) -> bool:
        with self._lock:
            there = self._objects.get(key)
            if there is None or dry_run:
                return there is not None
            if not there["metadata"].get("finalizers"):
                self._remove(key)
            elif "deletionTimestamp" not in there["metadata"]:
                there["metadata"]["deletionTimestamp"] = self.now()
                self._store(key, _copied(there))
            return True

    def create(self, key: Key, manifest: Manifest) -> tuple[int, Manifest]:
        with self._lock:
            if key in self._objects:
                return 409, _status(409, f'"{key[2]}" already exists')
            # The creator owns its fields by `Update`, so no apply removes them.
            self._owned[key] = {"create": _leaves(_keyed(_content(manifest)))}
            made = _copied(manifest)
            made["metadata"].setdefault("creationTimestamp", self.now())
            self._store(key, made)
            return 201, _copied(self._objects[key])

    def update(self, key: Key, manifest: Manifest) -> tuple[int, Manifest]:
        with self._lock:
            there = self._objects.get(key)
            if there is None:
                return 404, _status(404, "not found", name=key[2])
            version = manifest["metadata"].get("resourceVersion")
            if version and version != there["metadata"]["resourceVersion"]:
                return 409, _status(409, "the object has been modified")
            self._store(key, _copied(manifest))
            return 200, _copied(self._objects[key])

    @property
    def version(self) -> int:
        return self._version

    def changes(self, kind: str, since: int, seconds: float) -> list[tuple[int, str, Manifest]]:
        """Wait for the changes after a version; raises IndexError if they are no longer kept."""
        with self._news:
            found = self._since(kind, since)
            if not found:
                self._news.wait(seconds)
                found = self._since(kind, since)
            return found

    def _since(self, kind: str, since: int) -> list[tuple[int, str, Manifest]]:
        if since < self._oldest:
            raise IndexError(since)
        found = []
        for version, event, manifest in reversed(self._history):
            if version <= since:
                break
            if resource_key(manifest) == kind:
                found.append((version, event, manifest))
        return found[::-1]

    def _remove(self, key: Key) -> None:
        gone = self._objects.pop(key)
        self._owned.pop(key, None)
        self._version += 1
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._note("DELETED", gone)

    def _note(self, event: str, manifest: Manifest) -> None:
        self._history.append((self._version, event, _copied(manifest)))
        self._news.notify_all()

    def _store(self, key: Key, manifest: Manifest) -> None:
        self._version += 1
        metadata = manifest["metadata"]
        former = (self._objects.get(key) or {"metadata": {}})["metadata"]
        metadata["resourceVersion"] = str(self._version)
        metadata["uid"] = former.get("uid") or f"uid-{self._version}"
        metadata.setdefault("creationTimestamp", "2026-01-02T03:04:05Z")
        event = "MODIFIED" if key in self._objects else "ADDED"
        self._objects[key] = _with_managers(manifest, self._owned.get(key, {}), self.now())
        self._note(event, self._objects[key])

    def _defaults(self, manifest: Manifest, *, created: bool) -> None:
        if manifest["kind"] == "Service" and created:
            spec = manifest["spec"]
            spec.setdefault("clusterIP", f"10.96.1.{len(self._objects) % 250}")
            if spec.get("type") == "LoadBalancer" and self.load_balancer:
                ingress = [{"ip": self.load_balancer}]
                manifest["status"] = {"loadBalancer": {"ingress": ingress}}
            if spec.get("type") == "LoadBalancer" and self.finalizer:
                manifest["metadata"]["finalizers"] = [self.finalizer]
        if manifest["kind"] == "Pod" and created:
            manifest["status"] = _pod_status(manifest, running=self.pods_start)

    def _consequences(self, manifest: Manifest, *, created: bool) -> None:
        """A new Deployment has a pod."""
        if manifest["kind"] == "Deployment" and created:
            template, metadata = manifest["spec"]["template"], manifest["metadata"]
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{metadata['name']}-1",
                    "namespace": metadata["namespace"],
                    "labels": template["metadata"]["labels"],
                },
                "spec": template["spec"],
            }
            self._defaults(pod, created=True)
            self._store(_key(pod), pod)


def _pod_status(pod: Manifest, *, running: bool) -> Manifest:
    state = {} if running else {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    return {
        "phase": "Running" if running else "Pending",
        "podIP": "10.244.0.99",
        "containerStatuses": [
            {"name": c["name"], "ready": running, "state": state} for c in pod["spec"]["containers"]
        ],
    }


def _copied(value: Json) -> Json:
    """A copy of JSON; several times as fast as copy.deepcopy."""
    copy: Json = json.loads(json.dumps(value))
    return copy


def _key(manifest: Manifest) -> Key:
    metadata = manifest["metadata"]
    return resource_key(manifest), metadata.get("namespace", ""), metadata["name"]


def _skeleton(manifest: Manifest) -> Manifest:
    metadata = {k: v for k, v in manifest["metadata"].items() if k in ("name", "namespace")}
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": metadata}


def _content(manifest: Manifest) -> Manifest:
    metadata = {k: v for k, v in manifest["metadata"].items() if k not in _SERVERS_OWN}
    found = {k: v for k, v in manifest.items() if k != "status"}
    return _copied({**found, "metadata": metadata})


def _keyed(manifest: Manifest) -> Manifest:
    """A Service's list of ports as a mapping, by the keys that managedFields has."""
    if manifest["kind"] == "Service" and isinstance(
        (manifest.get("spec") or {}).get("ports"), list
    ):
        ports = {}
        for port in manifest["spec"]["ports"]:
            protocol = port.get("protocol", "TCP")
            ports[f'k:{{"port":{port["port"]},"protocol":"{protocol}"}}'] = port
        manifest["spec"]["ports"] = ports
    return manifest


def _unkeyed(manifest: Manifest) -> Manifest:
    ports = (manifest.get("spec") or {}).get("ports")
    if manifest["kind"] == "Service" and isinstance(ports, dict):
        manifest["spec"]["ports"] = list(ports.values())
    return manifest


def _leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, dict):
        return {path: value}
    found: dict[tuple[str, ...], Any] = {}
    for key, inner in value.items():
        if path or key not in ("apiVersion", "kind"):
            found |= _leaves(inner, (*path, key))
    return {
        p: v for p, v in found.items() if p not in (("metadata", "name"), ("metadata", "namespace"))
    }


def _set(manifest: Manifest, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        manifest = manifest.setdefault(key, {})
    manifest[path[-1]] = value


def _merged(target: Manifest, patch: Manifest) -> Manifest:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            target[key] = _merged(target.get(key) or {}, value)
        else:
            target[key] = value
    return target


def _drop(manifest: Manifest, path: tuple[str, ...]) -> None:
    """Remove a leaf, and its parents that are empty then."""
    key, *rest = path
    if key not in manifest:
        return
    if rest:
        _drop(manifest[key], tuple(rest))
    if not rest or (manifest[key] == {} and len(path) < 4):
        del manifest[key]


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _with_managers(
    manifest: Manifest, owned: dict[str, dict[tuple[str, ...], Any]], now: str
) -> Manifest:
    entries = []
    for manager, leaves in sorted(owned.items()):
        fields: Manifest = {}
        for path in leaves:
            place = fields
            for key in path:
                place = place.setdefault(key if key.startswith("k:") else f"f:{key}", {})
        name, _, operation = manager.partition(":")
        entry = {"manager": name, "operation": operation or "Apply", "time": now}
        entries.append({**entry, "fieldsV1": fields})
    result = _copied(manifest)
    result["metadata"]["managedFields"] = entries
    return result


def _matches(selector: str, labels: dict[str, str]) -> bool:
    for part in filter(None, selector.split(",")):
        key, equals, value = part.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def _chosen(selector: str, manifest: Manifest) -> bool:
    """Whether a field selector, `metadata.name=a,involvedObject.kind=B`, chooses an object."""
    pairs = [part.split("=", 1) for part in selector.split(",") if part]
    return all(_field(manifest, path) == value for path, value in pairs)


def _field(manifest: Any, path: str) -> Any:
    """The value at a dotted path; None if it does not exist."""
    for key in path.split("."):
        manifest = manifest.get(key) if isinstance(manifest, dict) else None
    return manifest


def _status(code: int, message: str, **details: Any) -> Manifest:
    reasons = {403: "Forbidden", 404: "NotFound", 409: "Conflict", 500: "InternalError"}
    return {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
        "reason": reasons.get(code, ""), "code": code, "details": details,
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection; a subclass for each server names its API server."""

    api: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    raw_requestline: bytes

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def parse_request(self) -> bool:
        """Read the request's line and headers.

        Python's own way is email's parser, which takes a tenth of a test's time.
        """
        self.requestline = self.raw_requestline.decode("iso-8859-1").rstrip("\r\n")
        words = self.requestline.split()
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            # A client that speaks TLS.
            self.command, self.request_version = "", "HTTP/1.1"
            self.send_error(400)
            return False
        self.command, self.path, self.request_version = words
        self.given: dict[str, list[str]] = {}
        while (line := self.rfile.readline().decode("iso-8859-1")) not in ("\r\n", "\n", ""):
            name, _, value = line.partition(":")
            self.given.setdefault(name.lower(), []).append(value.strip())
        self.close_connection = self.given.get("connection") == ["close"]
        return True

    def do_GET(self) -> None:
        self.answer()

    def do_PATCH(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        target = urlsplit(self.path)
        length = int(self.given.get("content-length", ["0"])[0])
        body = json.loads(self.rfile.read(length)) if length else None
        query = parse_qs(target.query)
        request = Request(self.command, target.path, query, self.given, body)
        self.request_now = request
        self.api.requests.append(request)
        self.api.seen(request)
        fault = self.api.fault(self.command, self.path)
        match = _PATH.fullmatch(target.path)
        if fault:
            if fault.done and match:
                self.write_unanswered(match, query, body)
            self.misbehave(fault)
            return
        if target.path.count("/") == 4 and target.path.startswith("/api/v1/namespaces/"):
            space = target.path.rpartition("/")[2]
            self.object_or_404(self.api.get("Namespace", "", space), "namespaces", space)
        elif match and (kind := self.api.kind_of(match["root"], match["plural"])):
            first = {key: values[0] for key, values in query.items()}
            self.serve(kind, match, first, query, body)
        else:
            self.text(404, "404 page not found\n")

    def write_unanswered(self, match: re.Match[str], query: Any, body: Any) -> None:
        """Do what the request asks for; the client does not get the response."""
        if self.command == "DELETE":
            of = self.api.kind_of(match["root"], match["plural"]) or ""
            self.api.delete((of, match["namespace"], match["name"]), False)
        elif body:
            key = (resource_key(body), match["namespace"], body["metadata"]["name"])
            if self.command == "POST":
                self.api.create(key, body)
            else:
                self.api.apply(key, body, query["fieldManager"][0], True, False)

    def misbehave(self, fault: Fault) -> None:
        if fault.status > 0:
            if fault.body and not fault.body.startswith("{"):
                self.text(fault.status, fault.body, fault.headers)
            else:
                status = _status(fault.status, f"told to answer {fault.status}")
                found = json.loads(fault.body or "null") or status
                self.json(fault.status, found, headers=fault.headers)
            return
        if fault.status < 0:
            self.api._stopping.wait()
        self.close_connection = True
        self.connection.close()

    def serve(  # noqa: C901 - every kind of request
        self, kind: str, match: re.Match[str], first: dict[str, str], query: Any, body: Any
    ) -> None:
        namespace, name = match["namespace"], match["name"]
        # A list of one name needs a right to that name only.
        one = first.get("fieldSelector", "").partition("metadata.name=")[2]
        for verb in self.verbs(kind, match, first):
            of = f"{kind}/{match['sub']}" if match["sub"] else kind
            if not self.api.permits(verb, of, namespace or "", name or one):
                self.json(403, _status(403, f"cannot {verb} {match['plural']}"))
                return
        if match["sub"] == "log":
            self.text(200, self.api.logs.get((namespace, name), ""))
        elif match["sub"] == "exec":
            self.exec(namespace, name, first["container"], query["command"])
        elif match["sub"] == "portforward":
            self.forward(namespace, name, int(first["ports"]))
        elif self.command == "POST":
            key = (kind, namespace or "", body["metadata"]["name"])
            self.json(*self.api.create(key, body))
        elif self.command == "PUT":
            self.json(*self.api.update((kind, namespace or "", name), body))
        elif name is None and "watch" in first:
            self.watch(kind, namespace, first)
        elif name is None:
            version = match["root"].removeprefix("apis/").removeprefix("api/")
            self.list_objects(kind, version, namespace, first)
        elif self.command == "GET":
            self.object_or_404(self.api.get(kind, namespace or "", name), match["plural"], name)
        elif self.command == "DELETE":
            self.delete((kind, namespace or "", name), match["plural"], body)
        else:
            self.patch((kind, namespace or "", name), first, body)

    def list_objects(
        self, kind: str, version: str, namespace: str | None, first: dict[str, str]
    ) -> None:
        now = str(self.api.version)
        items = self.api.listed(kind, namespace, first.get("labelSelector", ""))
        items = [i for i in items if _chosen(first.get("fieldSelector", ""), i)]
        for item in items:
            item.pop("kind"), item.pop("apiVersion")
        listed = {"kind": f"{kind}List", "apiVersion": version, "items": items}
        self.json(200, {**listed, "metadata": {"resourceVersion": now}})

    def delete(self, key: Key, plural: str, body: Any) -> None:
        wanted = (body or {}).get("preconditions") or {}
        found = (self.api.get(*key) or {"metadata": wanted})["metadata"]
        if wrong := [each for each, value in wanted.items() if found[each] != value]:
            self.json(409, _status(409, f"Precondition failed: {wrong[0]}"))
            return
        there = self.api.delete(key, self.request_now.dry_run)
        done = {"kind": "Status", "status": "Success"} if there else None
        self.object_or_404(done, plural, key[2])

    def patch(self, key: Key, first: dict[str, str], body: Any) -> None:
        manager = first["fieldManager"]
        if self.given["content-type"] == ["application/merge-patch+json"]:
            self.json(*self.api.merge(key, body, manager))
            return
        force = first.get("force") == "true"
        code, result = self.api.apply(key, body, manager, force, self.request_now.dry_run)
        self.json(code, result, self.api.warnings.get(key[0], ()))

    def verbs(self, kind: str, match: re.Match[str], first: dict[str, str]) -> list[str]:
        """The verbs that authorization checks; a server-side apply may create."""
        key = (kind, match["namespace"] or "", match["name"])
        if match["sub"] == "portforward":
            # `get` until Kubernetes 1.34, `create` from 1.35.
            return ["get", "create"]
        if self.command == "PATCH":
            # Only an apply creates an object; a merge patch of a missing one is a 404.
            merges = self.given["content-type"] == ["application/merge-patch+json"]
            return ["patch"] if merges or self.api.get(*key) else ["patch", "create"]
        if self.command == "GET" and not match["name"]:
            return ["watch" if "watch" in first else "list"]
        verbs = {"GET": "get", "POST": "create", "PUT": "update", "DELETE": "delete"}
        return [verbs[self.command]]

    def watch(self, kind: str, namespace: str | None, first: dict[str, str]) -> None:
        """One event a line, in chunks, until the time is over or the connection is cut."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        with self.api._lock:
            self.api._watches.append(self.connection)
        since = int(first["resourceVersion"])
        try:
            while not self.api._stopping.is_set():
                try:
                    changes = self.api.changes(kind, since, 0.2)
                except IndexError:
                    self.event({"type": "ERROR", "object": _status(410, "too old")})
                    raise ConnectionError from None
                for since, event, manifest in changes:  # noqa: B007
                    seen = self.seen(namespace, first, event, manifest)
                    if seen:
                        self.event({"type": seen, "object": manifest})
                with self.api._lock:
                    if self.connection not in self.api._watches:
                        raise ConnectionError
        finally:
            with self.api._lock:
                if self.connection in self.api._watches:
                    self.api._watches.remove(self.connection)
            self.close_connection = True

    def event(self, event: Manifest) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()

    def seen(
        self, namespace: str | None, first: dict[str, str], event: str, manifest: Manifest
    ) -> str:
        """The event as a watch sends it: an object that no longer matches is deleted."""
        metadata = manifest["metadata"]
        if namespace not in (None, metadata.get("namespace")):
            return ""
        if not _chosen(first.get("fieldSelector", ""), manifest):
            return ""
        if _matches(first.get("labelSelector", ""), metadata.get("labels") or {}):
            return event
        return "DELETED" if event == "MODIFIED" else ""

    def object_or_404(self, found: Manifest | None, plural: str, name: str) -> None:
        if found is None:
            self.json(404, _status(404, f'{plural} "{name}" not found', name=name, kind=plural))
        else:
            self.json(200, found)

    def json(self, code: int, value: Any, warnings: Any = (), headers: Any = None) -> None:
        self.text(
            code,
            json.dumps(value),
            {"Content-Type": "application/json", **(headers or {})},
            [f'299 - "{text}"' for text in warnings],
        )

    def text(self, code: int, text: str, headers: Any = None, warnings: Any = ()) -> None:
        data = text.encode()
        self.send_response(code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        for warning in warnings:
            self.send_header("Warning", warning)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def exec(self, namespace: str, pod: str, container: str, command: list[str]) -> None:
        """The server's side of a websocket with subprotocol v5.channel.k8s.io."""
        if self.api.get("Pod", namespace, pod) is None:
            self.object_or_404(None, "pods", pod)
            return
        self.upgrade("v5.channel.k8s.io")
        result = self.api.run(namespace, pod, container, command)
        if result.hangs:
            self.api._stopping.wait()
            return
        for channel, text in ((1, result.stdout), (2, result.stderr)):
            for piece in _pieces(text.encode()):
                self.frame(2, bytes([channel]) + piece)
        if result.cut:
            return
        self.frame(2, b"\x03" + (result.status or json.dumps(_exit(result))).encode())
        self.frame(8, (1000).to_bytes(2, "big"))
        with contextlib.suppress(OSError):
            self.rfile.read(2)

    def upgrade(self, protocol: str) -> None:
        """Take a websocket's handshake."""
        key = self.given["sec-websocket-key"][0] + _WEBSOCKET_GUID
        digest = hashlib.sha1(key.encode(), usedforsecurity=False).digest()
        accept = base64.b64encode(digest).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.send_header("Sec-WebSocket-Protocol", protocol)
        self.end_headers()
        self.close_connection = True

    def forward(self, namespace: str, pod: str, port: int) -> None:
        """The server's side of a websocket with subprotocol v4.channel.k8s.io.

        A node that cannot connect says so on the second channel and closes, as containerd does.
        """
        if self.api.get("Pod", namespace, pod) is None:
            self.object_or_404(None, "pods", pod)
            return
        self.upgrade("v4.channel.k8s.io")
        self.api.forwards += 1
        for channel in (0, 1):
            self.frame(2, bytes([channel]) + port.to_bytes(2, "little"))
        near, far = socket.socketpair()
        ask = functools.partial(self.api.run, namespace, pod, "istio-proxy")
        threading.Thread(target=_Admin, args=(far, ask), daemon=True).start()
        back = threading.Thread(target=self.relay, args=(near, port), daemon=True)
        back.start()
        with near, contextlib.suppress(OSError):
            while (message := self.message()) is not None:
                near.sendall(message[1:])
            near.shutdown(socket.SHUT_RDWR)
        back.join()

    def relay(self, near: socket.socket, port: int) -> None:
        """Send the data of a port as messages until it closes."""
        with contextlib.suppress(OSError):
            while data := near.recv(32_768):
                if data.startswith(_REFUSES):
                    why = data.removeprefix(_REFUSES)
                    text = f"error forwarding port {port} to pod x, uid : ".encode() + why
                    self.frame(2, b"\x01" + text)
                    break
                self.frame(2, b"\x00" + data)
            self.frame(8, (1000).to_bytes(2, "big"))
            self.connection.shutdown(socket.SHUT_RD)

    def message(self) -> bytes | None:
        """The next message of a websocket's client; None at its end."""
        head = self.rfile.read(2)
        if len(head) < 2 or head[0] & 15 == 8:
            return None
        size = head[1] & 127
        if size > 125:
            size = int.from_bytes(self.rfile.read(2 if size == 126 else 8), "big")
        mask, data = self.rfile.read(4), self.rfile.read(size)
        return bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))

    def frame(self, opcode: int, data: bytes) -> None:
        size = len(data)
        head = bytes([0x80 | opcode])
        if size < 126:
            head += bytes([size])
        elif size < 65_536:
            head += bytes([126]) + size.to_bytes(2, "big")
        else:
            head += bytes([127]) + size.to_bytes(8, "big")
        self.wfile.write(head + data)


class _Admin(BaseHTTPRequestHandler):
    """A pod's admin interface, at the other end of a forwarded port; answers in chunks, as Envoy.

    It answers what `pilot-agent request GET` prints. An error is a port at which nothing listens.
    """

    protocol_version = "HTTP/1.1"

    def __init__(self, connection: socket.socket, run: Callable[[list[str]], Exec]) -> None:
        self.run = run
        with connection, contextlib.suppress(OSError):
            super().__init__(connection, ("localhost", 0), None)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        result = self.run(["pilot-agent", "request", "GET", self.path.removeprefix("/")])
        if result.error:
            self.wfile.write(_REFUSES + f"{result.error}: connection refused".encode())
            self.close_connection = True
            return
        if result.hangs:
            self.rfile.read(1)
            return
        self.send_response(404 if result.code else 200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in _pieces((result.stderr if result.code else result.stdout).encode()):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if result.cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")


def _pieces(data: bytes) -> Iterator[bytes]:
    """Split output as a real server does: at most 32 KiB at a time."""
    for start in range(0, len(data), 32_768):
        yield data[start : start + 32_768]


def _exit(result: Exec) -> Manifest:
    if result.error:
        return {"status": "Failure", "message": result.error, "reason": "InternalError"}
    if result.code:
        cause = {"reason": "ExitCode", "message": str(result.code)}
        message = f"command terminated with exit code {result.code}"
        return {
            "status": "Failure", "message": message, "reason": "NonZeroExitCode",
            "details": {"causes": [cause]},
        }  # fmt: skip
    return {"status": "Success"}
