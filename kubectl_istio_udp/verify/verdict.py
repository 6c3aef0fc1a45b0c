"""The answers of an exposure's hops, and the verdict from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.verify.tool_output import (
    DELIVERED,
    FORWARDED,
    LOST,
    NOT_READ,
    ONE_CLIENT,
    SENT,
    Answer,
)

ANSWERED = "Answered"
NO_ENDPOINT = "NoEndpoints"
NO_GATEWAY = "GatewayNotReady"
_NO_GATEWAY = "the gateway has no ready pod"
# Other outcomes are error responses of the server: SERVFAIL, REFUSED, HTTP 500.
_REASONS = {
    "timeout": "NoAnswer",
    "unreachable": "PortRefused",
    "unresolved": "NameNotResolved",
    "garbled": "NoDnsAnswer",
    "no HTTP": "NoHttpAnswer",
    DELIVERED: "Delivered",
    FORWARDED: "Forwarded",
    SENT: "Sent",
    ONE_CLIENT: "OneClient",
    NOT_READ: "NotRead",
    LOST: "NotDelivered",
}
_ANSWER = ("pods answer", "the gateway answers")
_DELIVER = ("pods read the datagrams", "the gateway forwards them")
# The texts for the weakest outcome, if no hop failed.
_ONE_WAY = {
    DELIVERED: "every hop delivers: the server reads the datagrams, and does not answer",
    FORWARDED: "sent, and the gateway forwards it; this protocol does not answer, and the server's "
    "pod has no `cat` to show what it reads",
    ONE_CLIENT: "sent; this protocol does not answer, and the server's socket is connected to one "
    "client and does not accept datagrams of others",
    SENT: "sent; this protocol does not answer, and the counters of no pod can be read",
}


@dataclass(frozen=True)
class HopResult:
    """The answers of one hop, one per probe."""

    hop: Hop
    answers: tuple[Answer, ...]

    @property
    def answered(self) -> int:
        """The number of answered probes."""
        return sum(answer.answered for answer in self.answers)

    @property
    def good(self) -> bool:
        """Whether all probes were answered."""
        return self.answered == len(self.answers)

    @property
    def worst(self) -> Answer:
        """The answer to show: the first failed one, otherwise the first."""
        return next((a for a in self.answers if not a.answered), self.answers[0])

    @property
    def reason(self) -> str:
        """One word for programs: `Answered`, or the outcome of the worst answer."""
        worst = self.worst
        usual = ANSWERED if worst.answered else "ErrorAnswer"
        return _REASONS.get(worst.outcome, usual)


@dataclass(frozen=True)
class Verdict:
    """The conclusion from all probes.

    Attributes:
        good: whether every probe was answered.
        broken: the first failing hop; None if no hop fails or there was nothing to query.
        text: a sentence for users.
        reason: one word for programs: `Answered`, `NoAnswer`, `StaleAddresses`.
        port: the Service port without endpoints; None if that is not the problem.
        remedy: what to do next; "" if that depends.
    """

    good: bool
    broken: Hop | None
    text: str
    reason: str = ANSWERED
    port: int | None = None
    remedy: str = ""

    def because(self, reason: str, text: str, remedy: str = "") -> Verdict:
        """A failed verdict with the cause that was found for it."""
        clauses = [clause for clause in ("" if self.good else self.text, text) if clause]
        return replace(
            self, good=False, text=": ".join(clauses), reason=reason, remedy=remedy or self.remedy
        )


def judge(
    results: Sequence[HopResult], *, direct_only: bool = False, before: tuple[str, str] = _ANSWER
) -> Verdict:
    """Find the broken hop, from the pods outwards.

    Args:
        results: the results for one Service port, or for all.
        direct_only: whether only the pods were queried.
        before: what is known about the pods and about the gateway, for the sentence.
    """
    pods = [r for r in results if r.hop.via is Via.POD]
    bare = {r.hop.service_port for r in results} - {r.hop.service_port for r in pods} - {0}
    if bare or not pods:
        return no_endpoint(sorted(bare))
    bad_pods = [r for r in pods if not r.good]
    if bad_pods:
        text = _sentence(bad_pods, results, "")
        return Verdict(False, bad_pods[0].hop, text, bad_pods[0].reason)
    if direct_only:
        return Verdict(True, None, f"{_pods(pods)} answered")
    if not any(r.hop.via is Via.GATEWAY for r in results):
        return Verdict(False, None, f"{before[0]}, but {_NO_GATEWAY}", NO_GATEWAY)
    return _outwards(results, *before)


def judge_one_way(results: Sequence[HopResult], *, direct_only: bool = False) -> Verdict:
    """The verdict for a protocol without answers.

    Args:
        results: the results from verify.delivery.
        direct_only: whether only the pods were tested.
    """
    verdict = judge(results, direct_only=direct_only, before=_DELIVER)
    if not verdict.good:
        return verdict
    outcomes = {r.worst.outcome for r in results}
    for outcome in (SENT, FORWARDED, ONE_CLIENT, DELIVERED):
        if outcome in outcomes:
            return replace(verdict, text=_ONE_WAY[outcome], reason=_REASONS[outcome])
    return verdict


def no_endpoint(ports: Sequence[int]) -> Verdict:
    """The verdict if some Service ports (empty: all) have no endpoints."""
    listed = f" for port {', '.join(map(str, ports))}" if ports else ""
    port = ports[0] if ports else None
    return Verdict(False, None, f"no endpoint to query{listed}", NO_ENDPOINT, port)


def judge_response(results: Sequence[HopResult]) -> Verdict:
    """Find the hop that does not send an HTTP response as expected.

    Args:
        results: the results of sidecars, or of a gateway's pods and its Service.
    """
    if not results:
        return Verdict(False, None, _NO_GATEWAY, NO_GATEWAY)
    return _outwards(results, "", _ANSWER[1])


def _outwards(results: Sequence[HopResult], pods: str, gateway: str) -> Verdict:
    """The verdict on the gateway and the Service; `pods` and `gateway` describe the good hops."""
    steps = ((Via.SIDECAR, pods), (Via.GATEWAY, pods), (Via.SERVICE, gateway))
    for via, before in steps:
        bad = [r for r in results if r.hop.via is via and not r.good]
        if bad:
            return Verdict(False, bad[0].hop, _sentence(bad, results, before), bad[0].reason)
    return Verdict(True, None, "every hop answered")


def _sentence(bad: Sequence[HopResult], results: Iterable[HopResult], before: str) -> str:
    first = bad[0]
    same = [r for r in results if r.hop.via is first.hop.via]
    name = f"{first.hop.via.value} {first.hop.name} ({first.hop.target})"
    all_gateways = first.hop.via is Via.GATEWAY and len(bad) == len(same)
    subject = "the gateway" if all_gateways else name
    what = _what(first)
    lost = (
        "" if len(first.answers) == 1 else f" ({first.answered} of {len(first.answers)} answered)"
    )
    lead = f"{before}, " if before else ""
    return f"{lead}{subject} {what}{lost}"


def _what(result: HopResult) -> str:
    answer = result.worst
    if not answer.arrived:
        return _SILENCE[answer.outcome]
    if answer.outcome == "garbled":
        return "sends something that is not a DNS response"
    return f"answers {answer.outcome}"


_SILENCE = {
    "timeout": "does not answer",
    "unreachable": "refuses the port",
    "unresolved": "has a name that does not resolve",
    NOT_READ: "gets the datagrams, but its server does not read them",
    LOST: "does not get the datagrams, or does not forward them",
}


def _pods(results: Sequence[HopResult]) -> str:
    return "1 pod" if len(results) == 1 else f"{len(results)} pods"
