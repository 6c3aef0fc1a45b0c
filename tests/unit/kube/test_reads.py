from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.reads import Reads
from kubectl_istio_udp.model.errors import Forbidden, NotFound
from tests.support.apiserver import ApiServer

Listed = tuple[str, str | None, str]


@pytest.fixture
def reads(api: Api) -> Iterator[Reads]:
    with Reads(api) as made:
        yield made


def sent(server: ApiServer) -> list[str]:
    return [f"{r.path}?{r.query.get('labelSelector', [''])[0]}" for r in server.requests]


@pytest.mark.parametrize(
    ("namespace", "selector"),
    [
        (None, ""),
        ("istio-system", ""),
        (None, "app=network-tool"),
        (None, "istio"),
        ("istio-system", "istio=ingressgateway"),
        ("istio-system", "istio=ingressgateway,app=other"),
        ("nowhere", ""),
    ],
)
def test_a_list_of_all_answers_narrower_ones(
    reads: Reads, api: Api, server: ApiServer, namespace: str | None, selector: str
) -> None:
    """As the API server answers them."""
    expected = api.list("Pod", namespace, selector)
    server.requests.clear()
    reads.begin("Pod")
    assert reads.list("Pod", namespace, selector) == expected
    assert sent(server) == ["/api/v1/pods?"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("Pod", "istio-system", ""), ("Pod", None, "")),
        (("Pod", "istio-system", ""), ("Pod", "default", "")),
        (("Pod", None, "istio=ingressgateway"), ("Pod", None, "istio")),
        (("Pod", None, "app=a"), ("Pod", None, "app=b")),
        (("Pod", None, ""), ("Service", None, "")),
    ],
)
def test_a_list_does_not_answer_wider_or_other_ones(
    reads: Reads, api: Api, server: ApiServer, first: Listed, second: Listed
) -> None:
    expected = api.list(*second)
    reads.begin(*first)
    reads.list(*first)
    server.requests.clear()
    assert reads.list(*second) == expected
    assert len(server.requests) == 1


def test_what_was_read_is_not_requested_again(reads: Reads, server: ApiServer) -> None:
    for _ in range(2):
        reads.list("Pod", "istio-system", "istio")
        reads.get("Service", "default", "coredns")
    assert len(server.requests) == 2


def test_a_list_answers_get_and_find(reads: Reads, api: Api, server: ApiServer) -> None:
    expected = api.get("Service", "default", "coredns")
    reads.begin("Service")
    assert reads.get("Service", "default", "coredns") == expected
    assert reads.find("Service", "default", "coredns") == expected
    server.requests.clear()
    assert reads.find("Service", "default", "other") is None
    assert server.requests == []
    with pytest.raises(NotFound, match="other"):  # in the server's words
        reads.get("Service", "default", "other")


def test_without_permission_for_the_wide_list_the_narrow_one_is_requested(
    reads: Reads, api: Api, server: ApiServer
) -> None:
    expected = api.list("Service", "default"), api.get("Service", "default", "coredns")
    server.fail("GET", r"/api/v1/services$", 403, body="no")
    reads.begin("Service")
    assert (
        reads.list("Service", "default"),
        reads.get("Service", "default", "coredns"),
    ) == expected


def test_each_caller_of_a_forbidden_list_gets_a_separate_error(
    reads: Reads, server: ApiServer
) -> None:
    server.fail("GET", r"/api/v1/services$", 403, body="no")
    errors = []
    for _ in range(2):
        with pytest.raises(Forbidden) as raised:
            reads.list("Service")
        raised.value.hints += ("mine",)
        errors.append(raised.value)
    assert [error.hints.count("mine") for error in errors] == [1, 1]


def test_reads_end_with_the_context(api: Api, server: ApiServer) -> None:
    """Reads that have not begun are dropped: a failed command ends with its last request."""
    namespaces = [f"n{number}" for number in range(50)]
    with pytest.raises(KeyboardInterrupt), Reads(api) as reads:
        for namespace in namespaces:
            reads.begin("Pod", namespace)
        raise KeyboardInterrupt
    asked = len(server.requests)
    assert asked < len(namespaces)
    time.sleep(0.1)
    assert len(server.requests) == asked
