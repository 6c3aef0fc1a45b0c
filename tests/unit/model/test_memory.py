"""How much memory UDP ports may take, and the quantities that limit it."""

from __future__ import annotations

import pytest

from kubectl_istio_udp.model.gateway import gateways_from
from kubectl_istio_udp.model.memory import ProxySize, udp_budget
from kubectl_istio_udp.model.quantity import quantity
from tests.support.builders import gateway_pod


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1Gi", 2**30),
        ("1024Mi", 2**30),
        ("4G", 4e9),
        ("1.5k", 1500),
        ("2000m", 2),
        ("1e9", 1e9),
        (4, 4),
        ("4", 4),
        (None, None),
        ("", None),
        ("much", None),
        ("4Xi", None),
        ("1.2.3", None),
    ],
)
def test_a_quantity(text: str | int | None, number: float | None) -> None:
    assert quantity(text) == number


def test_every_port_keeps_each_cluster_in_each_worker() -> None:
    one = ProxySize(workers=2, clusters=300).udp_bytes(10)
    more_workers = ProxySize(workers=4, clusters=300).udp_bytes(10)
    more_clusters = ProxySize(workers=2, clusters=600).udp_bytes(10)
    assert more_workers == more_clusters
    assert more_workers - one == one - ProxySize(workers=0, clusters=0).udp_bytes(10)
    assert ProxySize(workers=2, clusters=300).udp_bytes(20) == 2 * one


def test_half_of_a_pod_is_for_others() -> None:
    assert udp_budget(2**30) == 2**29


def test_the_smallest_pod_of_a_gateway_decides() -> None:
    pods = [
        gateway_pod("a", limits={"memory": "2Gi", "cpu": "2"}),
        gateway_pod("b", limits={"memory": "1Gi", "cpu": "500m"}),
        gateway_pod("c"),
    ]
    (gateway,) = gateways_from(pods, ())
    assert gateway.memory_limit == 2**30
    assert [pod.cpu_limit for pod in gateway.pods] == [2, 0.5, None]
    (free,) = gateways_from([gateway_pod()], ())
    assert free.memory_limit is None
