"""The answers of an exposure's hops, and the verdict over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.probe.result import Answer


@dataclass(frozen=True)
class HopResult:
    """The answers of one hop, one for each probe sent."""

    hop: Hop
    answers: tuple[Answer, ...]

    @property
    def answered(self) -> int:
        """How many probes were answered."""
        return sum(answer.answered for answer in self.answers)

    @property
    def good(self) -> bool:
        """Whether all were."""
        return self.answered == len(self.answers)

    @property
    def worst(self) -> Answer:
        """The answer to show: the first that is none, else the first."""
        return next((a for a in self.answers if not a.answered), self.answers[0])


@dataclass(frozen=True)
class Verdict:
    """What the probes prove.

    Attributes:
        good: whether every probe was answered.
        broken: the first hop at fault, None where none is, or where there was nothing to ask.
        text: the sentence for people.
    """

    good: bool
    broken: Hop | None
    text: str


def judge(results: Sequence[HopResult], *, direct_only: bool = False) -> Verdict:
    """Name the hop that is broken, going from the pods outwards.

    Args:
        results: the results of one Service port, or of all.
        direct_only: whether only the pods were to be asked.
    """
    pods = [r for r in results if r.hop.via is Via.POD]
    if not pods:
        return Verdict(False, None, "there is no endpoint to ask: nothing can answer")
    bare = {r.hop.service_port for r in results} - {r.hop.service_port for r in pods}
    if bare:
        listed = ", ".join(map(str, sorted(bare)))
        return Verdict(False, None, f"there is no endpoint to ask for port {listed}")
    bad_pods = [r for r in pods if not r.good]
    if bad_pods:
        return Verdict(False, bad_pods[0].hop, _sentence(bad_pods, results, ""))
    if direct_only:
        return Verdict(True, None, f"{_count(pods, 'pod')} answered")
    if not any(r.hop.via is Via.GATEWAY for r in results):
        return Verdict(False, None, "pods answer, but the gateway has no ready pod")
    return _outwards(results, "pods answer")


def judge_response(results: Sequence[HopResult]) -> Verdict:
    """Name the hop that does not give an HTTP response as it was asked for.

    Args:
        results: the results of sidecars, or of a gateway's pods and its Service.
    """
    if not results:
        return Verdict(False, None, "the gateway has no ready pod")
    return _outwards(results, "")


def _outwards(results: Sequence[HopResult], first: str) -> Verdict:
    """The verdict over the hops beyond the pods; `first` says what answered before them."""
    steps = ((Via.SIDECAR, first), (Via.GATEWAY, first), (Via.SERVICE, "the gateway answers"))
    for via, before in steps:
        bad = [r for r in results if r.hop.via is via and not r.good]
        if bad:
            return Verdict(False, bad[0].hop, _sentence(bad, results, before))
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
        return "sends what is no DNS response"
    return f"is reached, and answers {answer.outcome}"


_SILENCE = {
    "timeout": "does not answer",
    "unreachable": "refuses the port",
    "unresolved": "has a name that does not resolve",
}


def _count(results: Sequence[HopResult], what: str) -> str:
    return f"{len(results)} {what}{'s' if len(results) != 1 else ''}"
