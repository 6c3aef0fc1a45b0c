"""Access logs: their settings, and the annotation with them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model.accesslog import (
    AccessLogSpec,
    Direction,
    LogField,
    LogScope,
    default_name,
)
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import ClusterError, UsageError
from tests.support.mesh_builders import access_log

spec = partial(access_log, name="x", namespace="lab")


@pytest.mark.parametrize("every", [0, 0.0009])
def test_an_interval_that_is_too_short(every: float | int) -> None:
    with pytest.raises(UsageError, match="accepts 1ms or more"):
        spec(every=Duration(every))


def test_a_gateway_has_no_direction() -> None:
    with pytest.raises(UsageError, match="--direction"):
        spec(scope=LogScope.GATEWAY, direction=Direction.INBOUND)
    assert spec(every=Duration(0.001), scope=LogScope.GATEWAY).direction is Direction.ANY


@pytest.mark.parametrize(
    ("scope", "selector", "gateway", "name"),
    [
        (LogScope.MESH, {}, None, "mesh"),
        (LogScope.NAMESPACE, {}, None, "namespace"),
        (LogScope.GATEWAY, {"istio": "x"}, "edge", "edge"),
        (LogScope.NAMESPACE, {"b": "2", "app.io/Name": "Web_1"}, None, "name-web-1-b-2"),
        (LogScope.NAMESPACE, {"a": "b" * 70}, None, "a-" + "b" * 61),
    ],
)
def test_names_from_the_scope(
    scope: LogScope, selector: dict[str, Any], gateway: str | None, name: str
) -> None:
    assert default_name(scope, selector, gateway) == name


@pytest.mark.parametrize(
    ("control_plane", "proxies", "expected"),
    [
        ((1, 18), [(1, 18), (1, 31)], LogField.OPTIONS),
        ((1, 31), [], LogField.OPTIONS),
        ((1, 17), [(1, 31)], LogField.FLUSH_INTERVAL),
        ((1, 31), [(1, 31), (1, 17)], LogField.FLUSH_INTERVAL),
        ((1, 31), [None], LogField.FLUSH_INTERVAL),
        (None, [(1, 31)], LogField.FLUSH_INTERVAL),
    ],
)
def test_the_field_that_every_proxy_supports(
    control_plane: tuple[int, int] | None, proxies: list[Any], expected: LogField
) -> None:
    assert spec().understood_by(control_plane, proxies).log_field is expected


@given(
    st.builds(
        AccessLogSpec,
        namespace=st.just("lab"),
        name=st.just("x"),
        every=st.integers(1, 10**7).map(lambda ms: Duration(ms / 1000)),
        scope=st.sampled_from([LogScope.MESH, LogScope.NAMESPACE]),
        selector=st.dictionaries(st.sampled_from("ab"), st.sampled_from("cd")),
        direction=st.sampled_from(Direction),
        log_field=st.sampled_from(LogField),
    )
)
def test_the_annotation_keeps_every_setting(made: AccessLogSpec) -> None:
    assert AccessLogSpec.from_json(made.to_json()) == made


@pytest.mark.parametrize("selector", ["null", "[]", '"app=a"'])
def test_an_annotation_with_an_invalid_selector(selector: str) -> None:
    text = spec().to_json().replace('"selector":{}', f'"selector":{selector}')
    with pytest.raises(ClusterError):
        AccessLogSpec.from_json(text)


def test_each_direction_has_its_own_name() -> None:
    found = {default_name(LogScope.NAMESPACE, {}, None, direction) for direction in Direction}
    assert found == {"namespace", "namespace-inbound", "namespace-outbound"}
    long = default_name(LogScope.NAMESPACE, {"a": "b" * 63}, None, Direction.INBOUND)
    assert len(long) == 63 and long.endswith("-inbound")
