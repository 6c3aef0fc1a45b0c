"""The reads of one decision: each object or list is only requested once."""

from __future__ import annotations

import builtins
import copy
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import ClusterError, Forbidden

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

    def has(self, manifest: Mapping[str, Any]) -> bool:
        """Whether an object of the kind belongs to this list."""
        metadata = manifest["metadata"]
        labels = metadata.get("labels") or {}
        return self.namespace in (None, metadata.get("namespace")) and all(
            labels.get(key) == value if equals else key in labels
            for key, equals, value in (each.partition("=") for each in self.requirements)
        )


class Reads(Api):
    """A client that caches the reads of one decision.

    A list also answers narrower ones: for one of its namespaces, or with more labels. Make a new
    Reads for each decision, and use it in a `with`. Use the Api itself for what may have changed
    since.
    """

    def __init__(self, api: Api) -> None:
        """Share the connections of an Api."""
        vars(self).update(vars(api))
        self._lock = threading.Lock()
        self._known: dict[_List | tuple[str, str | None, str], Future[Any]] = {}
        self._pool = ThreadPoolExecutor(_MANY_AT_ONCE)

    def __enter__(self) -> Reads:
        """Enter the context; nothing is read yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop the reads that have not begun, and wait for those that have."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def begin(self, kind: str, namespace: str | None = None, selector: str = "") -> None:
        """Start to read a list. An error is raised by the `list`, `get` or `find` that needs it."""
        asked = _List(kind, namespace, selector)
        with self._lock:
            self._known[asked] = self._pool.submit(Api.list, self, kind, namespace, selector)

    def begin_call(self, call: Callable[[], object]) -> None:
        """Start a function that reads in parallel, so that its results are cached when needed."""
        self._pool.submit(call)

    def list(
        self, kind: str, namespace: str | None = None, selector: str = ""
    ) -> builtins.list[dict[str, Any]]:
        """See `Api.list`."""
        asked = _List(kind, namespace, selector)
        with self._lock:
            known = [each for each in self._known if isinstance(each, _List)]
        for wider in known:
            if wider != asked and wider.covers(asked):
                # Users who may not list everything may be allowed to list this.
                with suppress(Forbidden):
                    return [each for each in self._result(wider) if asked.has(each)]
        return [*self._once(asked, lambda: Api.list(self, kind, namespace, selector))]

    def get(self, kind: str, namespace: str | None, name: str) -> dict[str, Any]:
        """See `Api.get`."""
        listed = self._listed(kind, namespace, name)
        if listed:
            return listed[0]
        found: dict[str, Any] = self._once(
            (kind, namespace, name), lambda: Api.get(self, kind, namespace, name)
        )
        return found

    def find(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """See `Api.find`."""
        listed = self._listed(kind, namespace, name)
        if listed is not None:
            return listed[0] if listed else None
        return super().find(kind, namespace, name)

    def _listed(
        self, kind: str, namespace: str | None, name: str
    ) -> builtins.list[dict[str, Any]] | None:
        """The object of this name in a list of all objects; None without such a list."""
        for whole in dict.fromkeys((_List(kind, None, ""), _List(kind, namespace, ""))):
            if whole in self._known:
                with suppress(ClusterError):
                    return [
                        each
                        for each in self._result(whole)
                        if (each["metadata"].get("namespace"), each["metadata"]["name"])
                        == (namespace, name)
                    ]
        return None

    def _once(self, key: _List | tuple[str, str | None, str], read: Callable[[], Any]) -> Any:
        """The result of a request, which is only sent the first time."""
        with self._lock:
            sent = key in self._known
            future = self._known.setdefault(key, Future())
        if not sent:
            try:
                future.set_result(read())
            except BaseException as error:
                future.set_exception(error)
        return self._result(key)

    def _result(self, key: _List | tuple[str, str | None, str]) -> Any:
        try:
            return self._known[key].result()
        except ClusterError as error:
            # Each caller adds its own hints.
            raise copy.copy(error) from error
