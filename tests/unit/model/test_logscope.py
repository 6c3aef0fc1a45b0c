"""The proxies that access logs apply to, and the EnvoyFilters that set their interval."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from kubectl_istio_udp.model.accesslog import Direction, LogScope
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.logscope import Proxy, Setting, proxy_of
from kubectl_istio_udp.model.names import labels
from kubectl_istio_udp.render.accesslog import access_log_writes
from tests.support.builders import gateway_pod, metadata, pod
from tests.support.mesh_builders import access_log, setting_of

spec = partial(access_log, name="x", namespace="lab")


def setting(**more: Any) -> Setting:
    return setting_of(spec(**more))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({}, {}, True),
        ({}, {"namespace": "other"}, False),
        ({"namespace": "root"}, {"namespace": "other"}, True),
        ({"selector": {"app": "a"}}, {}, True),
        ({"selector": {"app": "a"}}, {"selector": {"app": "b"}}, False),
        ({"selector": {"app": "a"}}, {"selector": {"tier": "b"}}, True),
        ({"selector": {"a": "1", "b": "1"}}, {"selector": {"a": "1", "b": "2"}}, False),
        ({"selector": {"app": "a"}}, {"namespace": "root", "selector": {"app": "b"}}, False),
        ({"direction": Direction.INBOUND}, {"direction": Direction.OUTBOUND}, False),
        ({"direction": Direction.INBOUND}, {}, True),
        ({"scope": LogScope.GATEWAY}, {"direction": Direction.INBOUND}, False),
        ({"scope": LogScope.GATEWAY}, {}, True),
    ],
)
def test_which_settings_overlap(one: dict[str, Any], other: dict[str, Any], expected: bool) -> None:
    assert setting(**one).overlaps(setting(**other), "root") is expected
    assert setting(**other).overlaps(setting(**one), "root") is expected


def filter_of(
    config: dict[str, Any],
    apply_to: str = "NETWORK_FILTER",
    name: str = "envoy.filters.network.tcp_proxy",
    **match: Any,
) -> dict[str, Any]:
    patch = {"applyTo": apply_to, "patch": {"value": {"name": name, **config}}}
    if match:
        patch["match"] = match
    return {
        "kind": "EnvoyFilter",
        "metadata": metadata("lab", "theirs"),
        "spec": {"configPatches": [patch]},
    }


@pytest.mark.parametrize(
    "config",
    [
        {"typed_config": {"access_log_flush_interval": "5s"}},
        {"typedConfig": {"accessLogFlushInterval": "5s"}},
        {"typed_config": {"access_log_options": {}}},
        {"typedConfig": {"accessLogOptions": {}}},
    ],
)
def test_reads_intervals_of_other_envoy_filters_in_every_spelling(config: dict[str, Any]) -> None:
    found = Setting.from_object(filter_of(config))
    assert found is not None and found.owner == "lab/theirs" and found.access_log is None
    assert found.sides == {"inbound", "outbound", "gateway"}
    inbound = Setting.from_object(filter_of(config, context="SIDECAR_INBOUND"))
    assert inbound is not None and inbound.sides == {"inbound"}


@pytest.mark.parametrize(
    "manifest",
    [
        filter_of({"typed_config": {"stat_prefix": "x"}}),
        filter_of({"typed_config": {"access_log_options": {}}}, name="other"),
        filter_of({"typed_config": {"access_log_options": {}}}, apply_to="CLUSTER"),
        filter_of({}),
        filter_of({"typed_config": 5}),
        filter_of({"typed_config": [{}]}),
        {"metadata": metadata("a", "b")},
    ],
)
def test_ignores_envoy_filters_without_an_interval(manifest: dict[str, Any]) -> None:
    assert Setting.from_object(manifest) is None


def test_recognizes_its_own_envoy_filter() -> None:
    assert setting().access_log == ("lab", "x")


def test_a_response_with_the_name_is_not_an_access_log() -> None:
    manifest = dict(access_log_writes(spec())[0].manifest)
    other = {"labels": labels(Kind.RESPONSE, "lab", "x")}
    manifest["metadata"] = {**manifest["metadata"], **other}
    found = Setting.from_object(manifest)
    assert found is not None and found.access_log is None


def test_proxies_of_pods() -> None:
    assert proxy_of(gateway_pod()) == Proxy(
        "istio-system",
        "istio-ingressgateway-1",
        {"app": "istio-ingressgateway", "istio": "ingressgateway"},
        (1, 31),
    )
    assert proxy_of(pod()) is None
    native = pod()
    native["spec"]["initContainers"] = [{"name": "istio-proxy", "image": "p@sha256:00"}]
    found = proxy_of(native)
    assert found is not None and found.istio is None


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_has_no_proxy(phase: str) -> None:
    ended = gateway_pod()
    ended["status"]["phase"] = phase
    assert proxy_of(ended) is None
    ended["status"]["phase"] = "Pending"
    assert proxy_of(ended) is not None
