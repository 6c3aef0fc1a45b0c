"""The cache that a watch keeps: what it takes, and what it passes over."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import NAMESPACE_BYTES, Cache, Key
from tests.support import builders, routes
from tests.support.apiserver import ApiServer
from tests.support.controlling import until


class Kept:
    """A cache that receives objects by hand, and the changes that it reported."""

    def __init__(self, api: Api) -> None:
        self.read: list[int] = []
        self.changes: list[tuple[int | None, int | None]] = []
        self.cache: Cache[int] = Cache(api, "Service", keep=self._keep, changed=self._changed)

    def _keep(self, manifest: Any) -> int:
        self.read.append(manifest["content"])
        content: int = manifest["content"]
        return content

    def _changed(self, key: Key, before: int | None, now: int | None) -> None:
        self.changes.append((before, now))

    def learn(self, content: int, version: str | None) -> None:
        metadata = {"namespace": "default", "name": "coredns", "resourceVersion": version}
        self.cache.learn({"metadata": metadata, "content": content})


@pytest.fixture
def kept(api: Api) -> Kept:
    return Kept(api)


def test_the_watch_event_of_a_write_is_not_read_again(kept: Kept) -> None:
    kept.learn(1, "10")
    kept.learn(1, "10")
    assert kept.read == [1]
    assert kept.changes == [(None, 1)]


def test_older_versions_are_ignored(kept: Kept) -> None:
    kept.learn(2, "10")
    kept.learn(1, "9")
    assert kept.cache.get("default", "coredns") == 2
    kept.learn(3, "11")
    assert kept.changes == [(None, 2), (2, 3)]


def test_objects_without_a_version_are_always_cached(kept: Kept) -> None:
    for content in (1, 2):
        kept.learn(content, None)
    assert kept.changes == [(None, 1), (1, 2)]


def test_a_recreated_object_is_cached_again(kept: Kept) -> None:
    kept.learn(1, "10")
    kept.cache.forget("default", "coredns")
    kept.learn(1, "11")
    assert kept.changes == [(None, 1), (1, None), (None, 1)]


def test_a_late_response_to_a_write_does_not_restore_a_deleted_object(
    kept: Kept, server: ApiServer
) -> None:
    """The watch delivers the deletion before the response to an earlier write arrives."""
    service = {**builders.service(), "content": 1}
    server.put(service)
    kept.cache.start()
    until(lambda: kept.cache.get("default", "coredns"))
    late = server.get("Service", "default", "coredns")
    server.remove("Service", "default", "coredns")
    until(lambda: kept.cache.get("default", "coredns") is None)
    assert late is not None
    kept.cache.learn(late)
    assert kept.cache.get("default", "coredns") is None
    server.put(service)
    until(lambda: kept.cache.get("default", "coredns"))
    kept.cache.stop()


def test_a_kind_that_the_server_lacks_has_no_objects(api: Api, server: ApiServer) -> None:
    """It is watched as soon as it is installed, and its objects go with it."""
    changes: list[tuple[Any, Any]] = []
    cache: Cache[str] = Cache(
        api,
        "UDPRoute",
        keep=lambda manifest: manifest["metadata"]["name"],
        changed=lambda _, before, now: changes.append((before, now)),
        list_again_after=0.05,
    )
    server.installed.discard("UDPRoute")
    server.put(routes.route())
    cache.start()
    assert cache.wait_synced(5.0) and not cache.values() and not cache.failures
    server.installed.add("UDPRoute")
    until(lambda: cache.values() == ("dns",) and server.watching())
    server.installed.discard("UDPRoute")
    server.compact()
    server.cut_watches()
    until(lambda: not cache.values())
    assert changes == [(None, "dns"), ("dns", None)] and cache.alive
    cache.stop()


class Odd(Exception):
    """An unexpected error."""


@pytest.mark.parametrize("error", [Odd(), RecursionError(), MemoryError(), OverflowError()])
def test_an_unreadable_object_does_not_hide_others(api: Api, error: Exception) -> None:
    def keep(manifest: Any) -> int:
        if manifest["metadata"]["name"] == "odd":
            raise error
        return 1

    cache: Cache[int] = Cache(api, "Service", keep=keep, changed=lambda *_: None)
    for name in ("odd", "even"):
        cache.learn({"metadata": {"namespace": "default", "name": name}})
    assert (cache.get("default", "odd"), cache.get("default", "even")) == (None, 1)


def test_an_error_in_handling_an_object_does_not_end_the_watch(api: Api, server: ApiServer) -> None:
    """All further objects are cached, also objects from the watch."""
    told: list[str] = []

    def changed(key: Key, before: int | None, now: int | None) -> None:
        told.append(key[1])
        if key[1].startswith("odd"):
            raise Odd

    cache: Cache[int] = Cache(api, "ConfigMap", keep=lambda _: 1, changed=changed)
    server.put(config_map("odd-1"), config_map("even-1"))
    cache.start()
    assert cache.wait_synced(5)
    server.put(config_map("odd-2"))
    server.put(config_map("even-2"))
    deadline = time.monotonic() + 60
    while "even-2" not in told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {"odd-1", "even-1", "odd-2", "even-2"} <= set(told)
    assert cache.alive
    cache.stop()


def config_map(name: str, namespace: str = "default") -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": name}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def test_a_namespace_does_not_fill_the_cache(api: Api, server: ApiServer) -> None:
    """What does not fit is read again when there is room."""
    changes: list[tuple[str, bool]] = []
    half = NAMESPACE_BYTES // 2
    cache: Cache[int] = Cache(
        api,
        "ConfigMap",
        keep=lambda _: half,
        weigh=lambda kept: kept,
        changed=lambda key, _, now: changes.append(("/".join(key), now is not None)),
    )
    for found in server.all("ConfigMap"):
        server.remove("ConfigMap", found["metadata"]["namespace"], found["metadata"]["name"])
    server.put(*[config_map(name, "attack") for name in "abcde"], config_map("a"))
    cache.start()
    assert cache.wait_synced(5)
    assert set(cache.names()) == {("attack", "a"), ("attack", "b"), ("default", "a")}
    for name in "ab":
        server.remove("ConfigMap", "attack", name)
    until(lambda: cache.names() == (("default", "a"),))
    # The first attempt to list them again fails.
    server.fail("GET", "configmaps.*limit=", 500, times=1)
    server.cut_watches()
    until(lambda: len(cache.names()) == 3)
    assert cache.get("attack", "c") and cache.get("attack", "d")
    assert (("attack/e", True)) not in changes
    cache.stop()


def test_a_change_that_does_not_fit_removes_the_object(api: Api) -> None:
    cache: Cache[int] = Cache(
        api,
        "ConfigMap",
        keep=lambda found: int(found["data"]["size"]),
        weigh=lambda kept: kept,
        changed=lambda *_: None,
    )
    for version, size in enumerate((1, NAMESPACE_BYTES + 1, NAMESPACE_BYTES), 1):
        found = {**config_map("a"), "data": {"size": str(size)}}
        found["metadata"]["resourceVersion"] = str(version)
        cache.learn(found)
        assert len(cache.names()) == (size <= NAMESPACE_BYTES)
