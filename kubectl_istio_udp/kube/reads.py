"""The reads of one decision: each object or list is only requested once."""

from __future__ import annotations

import builtins
import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, Forbidden

Result = TypeVar("Result")

# Threads: more than the reads that a decision begins together (snapshot.py begins up to seven, and
# others follow while they run), so that none waits for a thread.
_MANY_AT_ONCE = 12


@dataclass(frozen=True)
class _List:
    """A list: its kind, namespace (None for all) and label selector."""

    kind: str
    namespace: str | None
    selector: str

    @property
    def requirements(self) -> frozenset[str]:
        """The parts of the selector: `KEY=VALUE` and `KEY`."""
        return frozenset(filter(None, self.selector.split(",")))

    def covers(self, other: _List) -> bool:
        """Whether this list includes every object of another one."""
        keys = {requirement.partition("=")[0] for requirement in other.requirements}
        return (
            self.kind == other.kind
            and self.namespace in (None, other.namespace)
            and all(each in (*other.requirements, *keys) for each in self.requirements)
        )


class _Listed:
    """The objects of a list, by namespace, by name and by label."""

    def __init__(self, manifests: Sequence[dict[str, Any]]) -> None:
        self.all = manifests
        self.in_namespace: dict[str | None, list[dict[str, Any]]] = {}
        self.named: dict[tuple[str | None, str], dict[str, Any]] = {}
        self._labelled: dict[tuple[str | None, str], dict[str, list[dict[str, Any]]]] = {}
        for manifest in manifests:
            metadata = manifest["metadata"]
            namespace = metadata.get("namespace")
            self.in_namespace.setdefault(namespace, []).append(manifest)
            self.named[namespace, metadata["name"]] = manifest

    def of(self, requested: _List) -> list[dict[str, Any]]:
        """The objects of a narrower list."""
        wanted = [requirement.partition("=") for requirement in requested.requirements]
        with_value = next(((key, value) for key, equals, value in wanted if equals), None)
        if with_value is None:
            some = self._in(requested.namespace)
        else:
            key, value = with_value
            some = self._by_value(requested.namespace, key).get(value, ())
        labels = ((manifest, manifest["metadata"].get("labels") or {}) for manifest in some)
        return [
            manifest
            for manifest, has in labels
            if all(has.get(key) == value if equals else key in has for key, equals, value in wanted)
        ]

    def _in(self, namespace: str | None) -> Sequence[dict[str, Any]]:
        return self.all if namespace is None else self.in_namespace.get(namespace, ())

    def _by_value(self, namespace: str | None, key: str) -> dict[str, list[dict[str, Any]]]:
        """The objects of a namespace by the value of a label.

        Hundreds of Services ask for their EndpointSlices among those of all.
        """
        found = self._labelled.get((namespace, key))
        if found is None:
            found = {}
            for manifest in self._in(namespace):
                value = (manifest["metadata"].get("labels") or {}).get(key)
                if value is not None:
                    found.setdefault(value, []).append(manifest)
            self._labelled[namespace, key] = found
        return found


class Reads(Api):
    """A client that caches the reads of one decision.

    A list that was begun also answers narrower ones (for one of its namespaces, or with more
    labels), `get` and `find`. Make a new Reads for each decision, and use it in a `with`. Use the
    Api itself for what may have changed since.
    """

    def __init__(self, api: Api) -> None:
        """Share the connections of an Api."""
        vars(self).update(vars(api))
        self._lock = threading.Lock()
        self._begun: dict[_List, Future[_Listed]] = {}
        self._read: dict[_List | tuple[str, str | None, str], Future[Any]] = {}
        self._pool = ThreadPoolExecutor(_MANY_AT_ONCE)

    def __enter__(self) -> Reads:
        """Enter the context; nothing is read yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the reads that have not begun, and wait for those that have."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def begin(self, kind: str, namespace: str | None = None, selector: str = "") -> None:
        """Start to read a list. An error is raised by the `list`, `get` or `find` that needs it."""

        def read() -> _Listed:
            return _Listed(Api.list(self, kind, namespace, selector))

        self._begun[_List(kind, namespace, selector)] = self._pool.submit(read)

    def begin_call(self, call: Callable[[], object]) -> None:
        """Start a function that reads in parallel, so that its results are cached when needed."""
        self._pool.submit(call)

    def list(
        self, kind: str, namespace: str | None = None, selector: str = ""
    ) -> builtins.list[dict[str, Any]]:
        """See `Api.list`."""
        requested = _List(kind, namespace, selector)
        for wider, listed in [*self._begun.items()]:
            if wider == requested:
                return [*_result(listed).all]
            if wider.covers(requested):
                # Users who may not list everything may be allowed to list this.
                with suppress(Forbidden):
                    return _result(listed).of(requested)
        return [*self._once(requested, lambda: Api.list(self, kind, namespace, selector))]

    def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any]:
        """See `Api.get`."""
        listed = self._listed(kind, namespace)
        if listed and (namespace, name) in listed.named:
            return listed.named[namespace, name]
        found: dict[str, Any] = self._once(
            (kind, namespace, name), lambda: Api.get(self, kind, namespace, name)
        )
        return found

    def find(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """See `Api.find`."""
        listed = self._listed(kind, namespace)
        return (
            listed.named.get((namespace, name)) if listed else super().find(kind, namespace, name)
        )

    def _listed(self, kind: str, namespace: str | None) -> _Listed | None:
        """A list that was begun and has all objects of a namespace; None without such a list."""
        for whole in (_List(kind, None, ""), _List(kind, namespace, "")):
            if whole in self._begun:
                with suppress(ClusterError):
                    return _result(self._begun[whole])
        return None

    def _once(self, key: _List | tuple[str, str | None, str], read: Callable[[], Any]) -> Any:
        """The result of a request, which is only sent the first time."""
        with self._lock:
            sent = key in self._read
            future = self._read.setdefault(key, Future())
        if not sent:
            try:
                future.set_result(read())
            except BaseException as error:
                future.set_exception(error)
        return _result(future)


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except ClusterError as error:
        # Each caller adds its own hints.
        raise copy.copy(error) from error
