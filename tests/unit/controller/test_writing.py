"""Writes of the leader end before another replica may lead."""

from __future__ import annotations

import time

import pytest

from kubectl_istio_udp.controller import writing
from kubectl_istio_udp.controller.writing import Fence, NotLeading, Writer
from kubectl_istio_udp.kube import lease
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.model.errors import Unreachable
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.state.caches import Caches
from tests.support.apiserver import ApiServer, Request
from tests.support.builders import plan_of


def filter_of_an_exposure() -> Write:
    return next(each for each in writes(plan_of().exposure) if each.kind == "EnvoyFilter")


def writer(api: Api, leads: bool = True) -> Writer:
    caches = Caches(
        api, ("istio-system",), (), (), enqueue=lambda _: None, endpoints_changed=lambda *_: None,
        may_enqueue=lambda: True, footprint_changed=lambda *_: None,
    )  # fmt: skip
    return Writer(api, caches, Fence(may_write=lambda: leads, wrote=lambda *_: None))


def test_a_write_and_the_renewal_of_the_lease_end_within_its_duration() -> None:
    assert writing.REQUEST_SECONDS + lease._RENEW_WITHIN <= lease.DURATION_SECONDS


def test_all_requests_of_a_write_together_have_its_time(
    api: Api, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's field is removed by two more requests. Each one alone is fast enough."""
    write = filter_of_an_exposure()
    api.apply(write.manifest, before=None, manager=write.manager)
    patch = {**write.manifest, "spec": {"priority": 7}}
    existing = api.merge(patch, manager="somebody")
    monkeypatch.setattr(writing, "REQUEST_SECONDS", 0.5)
    sent: list[Request] = []

    def slow(request: Request) -> None:
        sent.append(request)
        time.sleep(0.3)

    server.seen = slow
    with pytest.raises(Unreachable):
        writer(api).apply(write, existing)
    assert 1 <= len(sent) <= 2


def test_nothing_is_written_without_the_lease(api: Api, server: ApiServer) -> None:
    write = filter_of_an_exposure()
    with pytest.raises(NotLeading):
        writer(api, leads=False).apply(write)
    with pytest.raises(NotLeading):
        writer(api, leads=False).delete(write.manifest)
    assert server.writes() == []
