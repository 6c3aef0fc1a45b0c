from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    GatewayServiceMode,
    LoadBalancing,
    Options,
)
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.sources.annotations import (
    GATEWAY_OPTIONS,
    is_requested,
    option_annotations,
    read_options,
    service_intent,
)
from tests.support import builders

PREFIX = "kubectl-istio-udp/"


def intent(expose: Any = "5300:53", **options: Any) -> Any:
    notes = {f"{PREFIX}{key.replace('_', '-')}": value for key, value in options.items()}
    return service_intent(builders.service(annotations={f"{PREFIX}expose": expose, **notes}))


def test_ports() -> None:
    assert intent("5300:53, 5301:dns,5302").request.ports == (
        PortRequest(5300, 53),
        PortRequest(5301, "dns"),
        PortRequest(5302),
    )
    assert intent("all").request.ports == ()
    assert not is_requested(builders.service())


def test_every_option_of_expose() -> None:
    found = intent(
        gateway="edge/gw",
        discovery="endpoints",
        max_sessions="123",
        idle_timeout="1m",
        max_datagram_size="1400",
        affinity="source-ip",
        session_log="true",
        gateway_service="none",
        query="foo.bar.com",
    )
    options = found.request.options
    assert (found.gateway, found.request.discovery) == ("edge/gw", Discovery.ENDPOINTS)
    assert not found.request.automatic_sessions and options.max_sessions == 123
    assert (options.idle_timeout, options.max_datagram_size) == (Duration(60), 1400)
    assert (options.affinity, options.load_balancing) == (Affinity.SOURCE_IP, LoadBalancing.MAGLEV)
    assert options.session_log and options.gateway_service is GatewayServiceMode.NONE
    assert intent(discovery="auto").request.discovery is None
    assert intent().request.automatic_sessions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"session_log": "yes"}, "neither"),
        ({"affinity": "cookie"}, "not one of none, source-ip"),
        ({"load_balancing": "maglev"}, "cannot be combined with"),
        ({"gateway": "a" * 310}, "longer than 253"),
        ({"gateway": "a" * 400}, "longer than 320"),
        ({"max_datagram_size": "70000"}, "not between"),
        ({"idle_timeout": "0s"}, "at least 1ms"),
        ({"spec": "{}"}, "unknown annotation"),
    ],
)
def test_invalid_annotations(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        intent(**options)


@given(st.text(max_size=3000))
def test_any_text_is_a_request_or_refused(text: str) -> None:
    try:
        ports = intent(text).request.ports
    except UsageError as error:
        assert len(error.message) < 5000
    else:
        assert all(1 <= port.gateway_port <= 65535 for port in ports)


@given(st.sampled_from(["gateway", "idle_timeout", "max_sessions", "discovery"]), st.text())
def test_any_option_is_read_or_refused(option: str, text: str) -> None:
    with contextlib.suppress(UsageError):
        intent(**{option: text})


def test_expect_rate() -> None:
    request = intent(expect_rate="200", idle_timeout="30s").request
    assert request.expect_rate == 200 and request.automatic_sessions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expect_rate": "many"}, "annotation kubectl-istio-udp/expect-rate: 'many' is not"),
        ({"expect_rate": "9", "max_sessions": "9"}, "max-sessions and expect-rate both decide"),
    ],
)
def test_invalid_expected_rates(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        intent(**options)


def test_all_ports_are_counted_before_they_are_read() -> None:
    ports = [{"name": f"p{n}", "port": 1000 + n, "protocol": "UDP"} for n in range(2000)]
    with pytest.raises(UsageError, match="has more than 500 UDP ports"):
        service_intent(builders.service(annotations={f"{PREFIX}expose": "all"}, ports=ports))
    found = service_intent(
        builders.service(annotations={f"{PREFIX}expose": "all"}, ports=ports[:9])
    )
    assert found.gateway_ports == tuple(range(1000, 1009))


@given(
    sessions=st.none() | st.integers(1, 100_000),
    rate=st.none() | st.sampled_from([0.5, 200.0]),
    idle=st.sampled_from([0.5, 10, 90, 7200]),
    size=st.sampled_from([1400, 9000]),
    affinity=st.sampled_from(Affinity),
    log=st.booleans(),
    mode=st.sampled_from(GatewayServiceMode),
)
def test_annotations_for_options_are_read_as_these_options(
    sessions: int | None,
    rate: float | None,
    idle: float,
    size: int,
    affinity: Affinity,
    log: bool,
    mode: GatewayServiceMode,
) -> None:
    options = Options(
        idle_timeout=Duration(idle),
        max_datagram_size=size,
        affinity=affinity,
        load_balancing=affinity.usual_load_balancing,
        session_log=log,
        gateway_service=mode,
    )
    if sessions is not None:
        rate, options = None, dataclasses.replace(options, max_sessions=sessions)
    request = ExposeRequest(
        "a", "b", options=options, automatic_sessions=sessions is None, expect_rate=rate
    )
    notes = option_annotations(request, "istio-system/edge")
    read = read_options(notes, GATEWAY_OPTIONS)
    assert read.options == options and read.gateway == "istio-system/edge"
    assert (read.automatic_sessions, read.expect_rate) == (sessions is None, rate)


def test_defaults_need_no_annotation() -> None:
    found = option_annotations(ExposeRequest("a", "b"), "istio-system/edge")
    assert found == {f"{PREFIX}gateway": "istio-system/edge"}
