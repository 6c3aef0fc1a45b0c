from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.ports import (
    MOST_PORTS,
    ExposedPort,
    PortRequest,
    listener_port,
    parse_port_requests,
    parse_removed_ports,
    port_number,
    ports_text,
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
def test_reads_a_port_request(text: str, gateway: int, service: int | str | None) -> None:
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
        ("5300:-53", "Service port '-53' is neither a number nor the name of a port"),
        ("5300:٥٣", "Service port '٥٣' is neither a number nor the name of a port"),
        ("5300:53:53", "Service port '53:53' is neither a number nor the name of a port"),
        ("5300:DNS", "Service port 'DNS' is neither a number nor the name of a port"),
        ("5300:-dns", "'-dns' is neither a number nor the name of a port"),
        ("5300:dns-", "'dns-' is neither a number nor the name of a port"),
        ("5300:d_s", "'d_s' is neither a number nor the name of a port"),
        ("5300:dns:x", "'dns:x' is neither a number nor the name of a port"),
    ],
)
def test_refuses_a_bad_port_request(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        PortRequest.parse(text)
    assert caught.value.hints
    assert caught.value.exit_code == 2


def test_names_the_value_of_a_bad_number() -> None:
    with pytest.raises(UsageError, match="port 'x' is not a number"):
        port_number("x")


def test_refuses_one_gateway_port_twice() -> None:
    with pytest.raises(UsageError, match="gateway port 5300 is given twice"):
        parse_port_requests(["5300:53", "5301:53", "5300:54"])


def test_one_service_port_may_have_two_gateway_ports() -> None:
    assert len(parse_port_requests(["5300:53", "5301:53"])) == 2
    assert parse_port_requests([]) == ()


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_reads_every_pair_of_ports(gateway: int, service: int) -> None:
    assert PortRequest.parse(f"{gateway}:{service}") == PortRequest(gateway, service)


@given(st.text(max_size=8))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = PortRequest.parse(text)
    except UsageError:
        return
    assert 1 <= found.gateway_port <= 65535


@pytest.mark.parametrize(
    ("gateway_port", "first", "expected"),
    [(53, 1024, 10053), (1023, 1024, 11023), (1024, 1024, 1024), (53, 0, 53), (5300, 1024, 5300)],
)
def test_translates_only_ports_that_the_gateway_may_not_bind(
    gateway_port: int, first: int, expected: int
) -> None:
    assert listener_port(gateway_port, first) == expected


def test_an_exposed_port_prints_as_kubectl_does() -> None:
    port = ExposedPort.of(5300, 5300, 53, "dns", 53)
    assert str(port) == "5300:53/UDP"
    assert port.backends[0].entry_port_name == "port-53"


@pytest.mark.parametrize(("first_bindable", "port"), [(20_000, 53), (60_000, 59_000)])
def test_a_port_that_cannot_be_translated_is_refused(first_bindable: int, port: int) -> None:
    with pytest.raises(UsageError, match="may bind neither"):
        listener_port(port, first_bindable)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("20000-20002", [(20000, 20000), (20001, 20001), (20002, 20002)]),
        ("20000-20001:53", [(20000, 53), (20001, 53)]),
        ("20000-20001:dns", [(20000, "dns"), (20001, "dns")]),
        ("20000-20001:30005-30006", [(20000, 30005), (20001, 30006)]),
        ("5300-5300", [(5300, 5300)]),
        ("65535-65535:1", [(65535, 1)]),
    ],
)
def test_reads_a_range(text: str, pairs: list[Any]) -> None:
    assert parse_port_requests([text]) == tuple(PortRequest(*pair) for pair in pairs)


def test_ranges_and_single_ports_keep_their_order() -> None:
    found = parse_port_requests(["5300:53", "6000-6001", "5299:53"])
    assert [request.gateway_port for request in found] == [5300, 6000, 6001, 5299]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["20031-20000"], "the range 20031-20000 ends before it begins"),
        (["0-3"], "gateway port 0 is out of range"),
        (["65535-65536"], "gateway port 65536 is out of range"),
        (["20000-20003:30000-30002"], "has 4 ports and 30000-30002 has 3"),
        (["20000-20003:30003-30000"], "the range 30003-30000 ends before it begins"),
        (["20000-20003:"], "the Service's port after the colon is missing"),
        (["20000-"], "gateway port '20000-' is not a number"),
        (["20000-20001-20002"], "gateway port '20000-20001-20002' is not a number"),
        (["5300:20000-20001"], "Service port '20000-20001' is neither a number nor the name of"),
        (["20000-20003", "20003:53"], "gateway port 20003 is given twice"),
        ([f"1-{MOST_PORTS + 1}"], f"an exposure can have at most {MOST_PORTS} ports"),
        (["1-999999999"], "gateway port 999999999 is out of range"),
    ],
)
def test_rejects_an_invalid_range(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_port_requests(texts)


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ([], []),
        ([(5300, 53)], ["5300:53/UDP"]),
        ([(5300, 53), (5301, 54)], ["5300-5301:53-54/UDP"]),
        ([(5300, 53), (5301, 53)], ["5300-5301:53/UDP"]),
        ([(1, 7), (2, 7), (3, 8), (4, 9)], ["1-2:7/UDP", "3-4:8-9/UDP"]),
        ([(1, 7), (2, 9)], ["1:7/UDP", "2:9/UDP"]),
        (
            [(1, 1), (2, 2), (3, 3), (5, 5), (9, 9), (10, 10)],
            ["1-3:1-3/UDP", "5:5/UDP", "9-10:9-10/UDP"],
        ),
    ],
)
def test_consecutive_ports_are_shown_as_a_range(
    pairs: list[tuple[int, ...]], text: list[str]
) -> None:
    ports = [ExposedPort.of(gateway, gateway, service) for gateway, service in pairs]
    assert ports_text(ports) == text


@pytest.mark.parametrize(
    ("text", "numbers"), [("53", [53]), ("20000-20002", [20000, 20001, 20002]), ("7-7", [7])]
)
def test_reads_a_port_or_a_range(text: str, numbers: list[int]) -> None:
    assert list(parse_removed_ports([text])) == numbers


@pytest.mark.parametrize("text", ["", "x", "3-1", "0-1", "5300:53"])
def test_rejects_text_that_is_neither_a_port_nor_a_range(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_removed_ports([text])
    assert "--remove-port" in caught.value.hints[0] or text.startswith("0")
