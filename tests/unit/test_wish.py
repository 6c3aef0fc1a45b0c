from __future__ import annotations

import contextlib

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
)
from kubectl_istio_udp.model.ports import PortRequest
from kubectl_istio_udp.model.wish import ALLOWED_ALL, Permission, is_wished, service_wish
from tests.unit import builders

PREFIX = "kubectl-istio-udp/"


def wish(expose="5300:53", **options):
    notes = {f"{PREFIX}{key.replace('_', '-')}": value for key, value in options.items()}
    return service_wish(builders.service(annotations={f"{PREFIX}expose": expose, **notes}))


def allowed(**notes):
    return Permission.parse({PREFIX + key.replace("_", "-"): text for key, text in notes.items()})


def test_ports():
    assert wish("5300:53, 5301:dns,5302").request.ports == (
        PortRequest(5300, 53),
        PortRequest(5301, "dns"),
        PortRequest(5302),
    )
    assert wish("all").request.ports == ()
    assert not is_wished(builders.service())


def test_every_option_of_expose():
    found = wish(
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
    assert wish(discovery="auto").request.discovery is None
    assert wish().request.automatic_sessions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"session_log": "yes"}, "neither"),
        ({"affinity": "cookie"}, "none of none, source-ip"),
        ({"load_balancing": "maglev"}, "does not go with"),
        ({"gateway": "a" * 310}, "longer than 253"),
        ({"gateway": "a" * 400}, "longer than 320"),
        ({"max_datagram_size": "70000"}, "not in"),
        ({"idle_timeout": "0s"}, "at least 1ms"),
        ({"spec": "{}"}, "there is no annotation"),
    ],
)
def test_what_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        wish(**options)


@given(st.text(max_size=3000))
def test_any_text_is_a_wish_or_refused(text):
    try:
        ports = wish(text).request.ports
    except UsageError as error:
        assert len(error.message) < 5000
    else:
        assert all(1 <= port.gateway_port <= 65535 for port in ports)


@given(st.sampled_from(["gateway", "idle_timeout", "max_sessions", "discovery"]), st.text())
def test_any_option_is_read_or_refused(option, text):
    with contextlib.suppress(UsageError):
        wish(**{option: text})


def test_permissions():
    found = allowed(allow="5300-5399, 6000", allow_sessions="28000")
    assert [found.forbids(p) for p in (5299, 5300, 5399, 5400, 6000)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert found.sessions == 28_000
    assert allowed().forbids(5300) and allowed(allow="").forbids(5300)
    assert not ALLOWED_ALL.forbids(53)


@pytest.mark.parametrize("text", ["*", "5300-", "5400-5300", "0", "70000", "-1", "5300 5301"])
def test_permissions_that_are_none(text):
    with pytest.raises(UsageError):
        allowed(allow=text)


@given(st.text(max_size=200), st.integers(1, 65535))
def test_no_text_allows_more_than_it_says(text, port):
    """Only numbers that stand in it."""
    try:
        found = allowed(allow=text)
    except UsageError:
        return
    assert found.forbids(port) or any(first <= port <= last for first, last in found.ports)


def test_expect_rate():
    request = wish(expect_rate="200", idle_timeout="30s").request
    assert request.expect_rate == 200 and request.automatic_sessions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expect_rate": "many"}, "annotation kubectl-istio-udp/expect-rate: 'many' is not"),
        ({"expect_rate": "9", "max_sessions": "9"}, "max-sessions and expect-rate both decide"),
    ],
)
def test_what_is_no_expected_rate(options, message):
    with pytest.raises(UsageError, match=message):
        wish(**options)
