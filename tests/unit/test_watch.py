"""The cache that a watch keeps: what it takes, and what it passes over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.watch import Cache, Key


class Kept:
    """A cache that is told what to take by hand, and what it did with it."""

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
def kept(api: Api) -> Iterator[Kept]:
    yield Kept(api)


def test_the_echo_of_a_write_is_not_read_again(kept: Kept) -> None:
    kept.learn(1, "10")
    kept.learn(1, "10")
    assert kept.read == [1]
    assert kept.changes == [(None, 1)]


def test_what_is_older_is_passed_over(kept: Kept) -> None:
    kept.learn(2, "10")
    kept.learn(1, "9")
    assert kept.cache.get("default", "coredns") == 2
    kept.learn(3, "11")
    assert kept.changes == [(None, 2), (2, 3)]


def test_what_has_no_version_is_always_taken(kept: Kept) -> None:
    for content in (1, 2):
        kept.learn(content, None)
    assert kept.changes == [(None, 1), (1, 2)]


def test_what_was_forgotten_is_taken_when_it_comes_back(kept: Kept) -> None:
    kept.learn(1, "10")
    kept.cache.forget("default", "coredns")
    kept.learn(1, "11")
    assert kept.changes == [(None, 1), (1, None), (None, 1)]
