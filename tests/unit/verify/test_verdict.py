from __future__ import annotations

from collections.abc import Sequence

import pytest

from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.verify.tool_output import Answer
from kubectl_istio_udp.verify.verdict import HopResult, judge

POD_A, POD_B = (Hop(Via.POD, f"coredns-{i}", f"10.244.0.2{i}", 53, 53) for i in (0, 1))
GATEWAY_A, GATEWAY_B = (Hop(Via.GATEWAY, f"gw-{i}", f"10.244.0.{i}", 5300, 53) for i in (7, 8))
SERVICE = Hop(Via.SERVICE, "udp-default-coredns", "10.96.0.1", 5300, 53)
ANSWERS = {
    "yes": Answer(True, "NOERROR"),
    "silent": Answer(False, "timeout"),
    "closed": Answer(False, "unreachable"),
    "refused": Answer(False, "REFUSED"),
    "garbled": Answer(False, "garbled"),
    "unresolved": Answer(False, "unresolved"),
}


def result(hop: Hop, *answers: str) -> HopResult:
    return HopResult(hop, tuple(ANSWERS[answer] for answer in answers))


def results(
    pods: Sequence[str] = (), gateways: Sequence[str] = (), service: str | None = None
) -> list[HopResult]:
    found = [result(hop, answer) for hop, answer in zip((POD_A, POD_B), pods, strict=False)]
    found += [result(h, a) for h, a in zip((GATEWAY_A, GATEWAY_B), gateways, strict=False)]
    return found + ([result(SERVICE, service)] if service else [])


YES, NO = "yes", "silent"


@pytest.mark.parametrize(
    ("given", "broken", "text"),
    [
        (results([YES], [YES], YES), None, "every hop answered"),
        (results([YES], [YES]), None, "every hop answered"),
        (results([YES, NO], [YES], YES), POD_B, "pod coredns-1 (10.244.0.21:53) does not answer"),
        (results([NO, NO], [NO], NO), POD_A, "pod coredns-0 (10.244.0.20:53) does not answer"),
        (
            results(["closed"], [NO], NO),
            POD_A,
            "pod coredns-0 (10.244.0.20:53) refuses the port",
        ),
        (
            results(["refused"], ["refused"]),
            POD_A,
            "pod coredns-0 (10.244.0.20:53) answers REFUSED",
        ),
        (
            results(["garbled"], [YES]),
            POD_A,
            "pod coredns-0 (10.244.0.20:53) sends something that is not a DNS response",
        ),
        (
            results(["unresolved"], [YES]),
            POD_A,
            "pod coredns-0 (10.244.0.20:53) has a name that does not resolve",
        ),
        (results([YES], [NO], NO), GATEWAY_A, "pods answer, the gateway does not answer"),
        (results([YES], [NO, NO], NO), GATEWAY_A, "pods answer, the gateway does not answer"),
        (
            results([YES], [YES, NO], YES),
            GATEWAY_B,
            "pods answer, gateway gw-8 (10.244.0.8:5300) does not answer",
        ),
        (results([YES], ["closed"], NO), GATEWAY_A, "pods answer, the gateway refuses the port"),
        (
            results([YES], [YES], NO),
            SERVICE,
            "the gateway answers, service udp-default-coredns (10.96.0.1:5300) does not answer",
        ),
    ],
)
def test_names_the_first_broken_hop_from_the_pods_outwards(
    given: list[HopResult], broken: Hop | None, text: str
) -> None:
    verdict = judge(given)
    assert (verdict.good, verdict.broken, verdict.text) == (broken is None, broken, text)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "no endpoint to query"),
        (results([], [YES], YES), "no endpoint to query for port 53"),
        (results([YES]), "pods answer, but the gateway has no ready pod"),
    ],
)
def test_nothing_to_query_is_not_a_success(given: list[HopResult], text: str) -> None:
    verdict = judge(given)
    assert (verdict.good, verdict.broken, verdict.text) == (False, None, text)


@pytest.mark.parametrize(
    ("given", "good", "text"),
    [
        (results([YES]), True, "1 pod answered"),
        (results([YES, YES]), True, "2 pods answered"),
        (results([YES, NO]), False, "pod coredns-1 (10.244.0.21:53) does not answer"),
        ([], False, "no endpoint to query"),
    ],
)
def test_direct_needs_no_gateway(given: list[HopResult], good: bool, text: str) -> None:
    verdict = judge(given, direct_only=True)
    assert (verdict.good, verdict.text) == (good, text)


def test_some_of_several_probes_lost() -> None:
    verdict = judge([result(POD_A, YES, YES, NO), result(GATEWAY_A, YES, YES, YES)])
    assert verdict.text == "pod coredns-0 (10.244.0.20:53) does not answer (2 of 3 answered)"


def test_the_worst_answer_is_shown() -> None:
    assert result(POD_A, YES, "refused", NO).worst.outcome == "REFUSED"
    assert result(POD_A, YES, YES).worst.outcome == "NOERROR"


@pytest.mark.parametrize(
    ("address", "target"), [("10.0.0.1", "10.0.0.1:53"), ("fd00::1", "[fd00::1]:53")]
)
def test_a_target_is_written_as_an_address_and_port(address: str, target: str) -> None:
    assert Hop(Via.POD, "x", address, 53, 53).target == target


def test_a_port_without_endpoint_is_not_the_gateways_fault() -> None:
    def result(via: Via, port: int, answered: bool) -> HopResult:
        answer = Answer(answered, "NOERROR" if answered else "timeout")
        return HopResult(Hop(via, "x", "10.0.0.1", port, port), (answer,))

    verdict = judge(
        [result(Via.POD, 53, True), result(Via.GATEWAY, 53, True), result(Via.GATEWAY, 54, False)]
    )
    assert "no endpoint to query" in verdict.text
