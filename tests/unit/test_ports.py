from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.ports import (
    ExposedPort,
    PortRequest,
    listener_port,
    parse_port_requests,
    port_number,
)


@pytest.mark.parametrize(
    ("text", "gateway", "service"),
    [
        ("5300", 5300, None),
        ("5300:53", 5300, 53),
        ("5300:dns", 5300, "dns"),
        ("5300:dns-2", 5300, "dns-2"),
        ("5300:2dns", 5300, "2dns"),
        ("1:65535", 1, 65535),
        ("65535:1", 65535, 1),
    ],
)
def test_reads_a_port_request(text, gateway, service):
    assert PortRequest.parse(text) == PortRequest(gateway, service)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "gateway port '' is not a number"),
        (":53", "gateway port '' is not a number"),
        ("abc", "gateway port 'abc' is not a number"),
        ("9" * 5_000, "gateway port '9+' is not a number"),
        ("dns:53", "gateway port 'dns' is not a number"),
        ("0", "gateway port 0 is out of range"),
        ("65536", "gateway port 65536 is out of range"),
        ("-1", "gateway port '-1' is not a number"),
        ("+53", "gateway port '\\+53' is not a number"),
        (" 53", "gateway port ' 53' is not a number"),
        ("53.0", "gateway port '53.0' is not a number"),
        ("٥٣", "gateway port '٥٣' is not a number"),
        ("5300:", "the Service's port after the colon is missing"),
        ("5300:0", "Service port 0 is out of range"),
        ("5300:65536", "Service port 65536 is out of range"),
        ("5300:-53", "Service port '-53' is not a number"),
        ("5300:٥٣", "Service port '٥٣' is not a number"),
        ("5300:53:53", "Service port '53:53' is not a number"),
        ("5300:DNS", "Service port 'DNS' is not a number"),
        ("5300:-dns", "'-dns' is no port number or name"),
        ("5300:dns-", "'dns-' is no port number or name"),
        ("5300:d_s", "'d_s' is no port number or name"),
        ("5300:dns:x", "'dns:x' is no port number or name"),
    ],
)
def test_refuses_a_bad_port_request(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        PortRequest.parse(text)
    assert caught.value.hints
    assert caught.value.exit_code == 2


def test_names_what_a_bad_number_is_of():
    with pytest.raises(UsageError, match="port 'x' is not a number"):
        port_number("x")


def test_refuses_one_gateway_port_twice():
    with pytest.raises(UsageError, match="gateway port 5300 is given twice"):
        parse_port_requests(["5300:53", "5301:53", "5300:54"])


def test_one_service_port_may_have_two_gateway_ports():
    assert len(parse_port_requests(["5300:53", "5301:53"])) == 2
    assert parse_port_requests([]) == ()


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_reads_every_pair_of_ports(gateway, service):
    assert PortRequest.parse(f"{gateway}:{service}") == PortRequest(gateway, service)


@given(st.text(max_size=8))
def test_any_text_is_read_or_refused(text):
    try:
        found = PortRequest.parse(text)
    except UsageError:
        return
    assert 1 <= found.gateway_port <= 65535


@pytest.mark.parametrize(
    ("gateway_port", "first", "expected"),
    [(53, 1024, 10053), (1023, 1024, 11023), (1024, 1024, 1024), (53, 0, 53), (5300, 1024, 5300)],
)
def test_translates_only_ports_that_the_gateway_may_not_bind(gateway_port, first, expected):
    assert listener_port(gateway_port, first) == expected


def test_an_exposed_port_prints_as_kubectl_does():
    port = ExposedPort(5300, 5300, 53, "dns", 53)
    assert str(port) == "5300:53/UDP"
    assert port.entry_port_name == "port-53"


@pytest.mark.parametrize(("first_bindable", "port"), [(20_000, 53), (60_000, 59_000)])
def test_a_port_that_cannot_be_translated_is_refused(first_bindable, port):
    with pytest.raises(UsageError, match="may bind neither"):
        listener_port(port, first_bindable)
