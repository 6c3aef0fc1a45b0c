"""What `verify` and `direct query` share: sending probes from the network-tool pod."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from kubectl_istio_udp.kube.client import Api, selector_of
from kubectl_istio_udp.kube.parallel import begun
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import ClusterError, UsageError
from kubectl_istio_udp.model.hop import Hop, Via
from kubectl_istio_udp.model.names import QUERY_ANNOTATION, check_namespaced_name
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.output.printing import Progress
from kubectl_istio_udp.render.samples import SAMPLE_QUERY, one_run_tool
from kubectl_istio_udp.verify.cause import Cause
from kubectl_istio_udp.verify.delivery import WatchedPods, deliver
from kubectl_istio_udp.verify.options import ProbeOptions
from kubectl_istio_udp.verify.probes import DnsProbe, Probe, argv, parse_probe
from kubectl_istio_udp.verify.tool_output import UNCERTAIN, read_answer
from kubectl_istio_udp.verify.toolpod import ToolPod, created_tool, find_tool
from kubectl_istio_udp.verify.verdict import HopResult, Verdict

# An open port reads the datagram at once; the wait is only for a closed port's refusal.
_ONE_WAY_TIMEOUT = Duration(1)
_NO_CAUSES: Mapping[Hop, Cause] = MappingProxyType({})


def probe_of(probe_settings: ProbeOptions, service: Service) -> Probe:
    """The probe for a Service.

    Raises:
        UsageError: there is no DNS name to query, or the Service's is malformed.
    """
    if probe_settings.probe == "dns" and not (probe_settings.query or service.query):
        where = f"-n {service.namespace} {service.name}"
        raise UsageError(
            f"missing the DNS name to query at Service {service}",
            hints=[
                "name it: --query NAME",
                f"or for every run: kubectl annotate service {where} {QUERY_ANNOTATION}=NAME",
                "if it is not a DNS server: --probe text:HELLO or --probe hex:00ff",
            ],
        )
    return parse_probe(probe_settings.probe, probe_settings.query or service.query)


# Waits for the search for the pod; None to create a pod.
Tool: TypeAlias = "Callable[[], ToolPod] | None"


def start_tool_search(api: Api, namespace: str, probe_settings: ProbeOptions) -> Tool:
    """Check the options, and start to search for the network-tool pod unless one is created.

    Raises:
        UsageError: an option is invalid.
    """
    _check(probe_settings)
    if probe_settings.create_tool:
        return None
    return begun(lambda: find_tool(api, namespace, probe_settings.tool_pod))


def _check(probe_settings: ProbeOptions) -> None:
    """Check the options that do not depend on the cluster.

    Raises:
        UsageError: one is malformed, or two cannot be combined.
    """
    parse_probe(probe_settings.probe, probe_settings.query or SAMPLE_QUERY)
    if probe_settings.query is not None:
        DnsProbe.parse(probe_settings.query)
    if probe_settings.probe == "dns" and probe_settings.one_way:
        raise UsageError(
            "--one-way is for protocols that do not answer, but DNS does",
            hints=["name what to send: --probe text:HELLO or --probe hex:00ff"],
        )
    if probe_settings.tool_pod is not None:
        check_namespaced_name(probe_settings.tool_pod, "--tool-pod")
        if probe_settings.create_tool:
            raise UsageError("--tool-pod cannot be combined with --create-tool")
    if probe_settings.tool_image is not None and not probe_settings.create_tool:
        raise UsageError(
            "--tool-image needs --create-tool",
            hints=["create a pod with this image for the run: --create-tool --tool-image IMAGE"],
        )


@contextmanager
def tool(
    api: Api,
    namespace: str,
    probe_settings: ProbeOptions,
    tool_search: Tool,
    *,
    in_mesh: bool = False,
) -> Iterator[ToolPod]:
    """The network-tool pod: the one that was found, or one created for this run.

    Args:
        api, namespace, probe_settings: the cluster, the namespace and the options.
        tool_search: the result of `start_tool_search`.
        in_mesh: whether a created pod gets a sidecar.

    Raises:
        NotFound, ClusterError, WaitTimeout: there is no running one.
    """
    if tool_search is not None:
        yield tool_search()
        return

    progress = Progress()
    manifest = one_run_tool(namespace, probe_settings.tool_image, in_mesh)
    with created_tool(api, namespace, manifest, progress) as pod:
        progress.clear()
        yield pod


def send(
    api: Api, pod: ToolPod, hops: Sequence[Hop], probe: Probe, probe_settings: ProbeOptions
) -> tuple[HopResult, ...]:
    """Send the requested number of probes to every hop, in parallel.

    Args:
        api: the cluster.
        pod: the network-tool pod.
        hops: the destinations.
        probe: the probe.
        probe_settings: the options for probes.

    Raises:
        ClusterError: the pod lacks the tool, or exec is not possible.
    """
    seconds = probe_settings.timeout.seconds
    commands = [
        argv(probe, hop.address, hop.port, seconds)
        for hop in hops
        for _ in range(probe_settings.count)
    ]
    answers = [
        read_answer(probe, done.stdout, done.stderr, done.exit_code, done.error, str(pod))
        for done in pod.run_all(api, commands, seconds)
    ]
    return tuple(
        HopResult(
            hop, tuple(answers[index * probe_settings.count : (index + 1) * probe_settings.count])
        )
        for index, hop in enumerate(hops)
    )


def send_one_way(
    api: Api,
    pod: ToolPod,
    hops: Sequence[Hop],
    probe: Probe,
    probe_settings: ProbeOptions,
    services: Iterable[Service],
    gateway: tuple[str, Sequence[str]] = ("", ()),
) -> tuple[HopResult, ...]:
    """Send probes without answers to every hop in turn, and read from counters what arrives.

    Args:
        api, pod, hops, probe, probe_settings: as for `send`.
        services: the Services whose pods are read.
        gateway: the namespace and the names of the gateway's pods.

    Raises:
        ClusterError: as `send`.
    """
    quick = replace(probe_settings, timeout=min(probe_settings.timeout, _ONE_WAY_TIMEOUT))
    names = {hop.name for hop in hops if hop.via is Via.POD}
    found = [pod for service in services for pod in _pods(api, service)]
    servers = [each for each in found if each["metadata"]["name"] in names]
    watched = WatchedPods.of(servers, *gateway)
    return deliver(api, hops, watched, lambda hop: send(api, pod, [hop], probe, quick)[0])


def _pods(api: Api, service: Service) -> list[dict[str, Any]]:
    """The pods that a Service selects; none if they may not be listed."""
    selector = selector_of(service.selector)
    try:
        return api.list("Pod", service.namespace, selector) if selector else []
    except ClusterError:
        return []


def query_again(
    api: Api,
    pod: ToolPod,
    results: Sequence[HopResult],
    probe: Probe,
    probe_settings: ProbeOptions,
    seconds: float,
) -> tuple[HopResult, ...]:
    """Query silent Services again for some seconds, if the gateway behind them answers.

    kube-proxy applies a new or changed Service about once a second, and the API does not show when
    it has.

    Args:
        api, pod, probe, probe_settings: as for `send`.
        results: the results so far; those of other hops are returned unchanged.
        seconds: how long.
    """
    deadline = time.monotonic() + seconds
    found = list(results)
    gateway_answers = any(r.hop.via is Via.GATEWAY and r.good for r in found)
    while gateway_answers and time.monotonic() < deadline:
        silent = [r.hop for r in found if r.hop.via is Via.SERVICE and not r.answered]
        if not silent:
            break
        time.sleep(api.waits.kube_proxy_poll)
        again = {r.hop: r for r in send(api, pod, silent, probe, probe_settings)}
        found = [again.get(r.hop, r) for r in found]
    return tuple(found)


@dataclass(frozen=True)
class Verification:
    """The result of `verify` for one exposure, response or access log.

    Attributes:
        good: whether it passed.
        text: a sentence for users.
        headers, rows: the table.
        data: the result for programs.
    """

    good: bool
    text: str
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


def hops_verification(
    results: Sequence[HopResult],
    verdict: Verdict,
    code: str = "rcode",
    causes: Mapping[Hop, Cause] = _NO_CAUSES,
    answered: str = "answered",
) -> Verification:
    """The result from the answers of hops.

    Args:
        results: the answers.
        verdict: the verdict from the answers.
        code: the header of the column with outcomes.
        causes: the known causes of failed hops.
        answered: the header of the column that shows whether a hop is good.
    """
    headers = ["target", "via", answered, code, "time", "answer"]
    data = as_data(results, verdict, causes)
    text = f"{verdict.text}; {verdict.remedy}" if verdict.remedy else verdict.text
    return Verification(verdict.good, text, headers, rows(results), data)


def rows(results: Sequence[HopResult]) -> list[list[str]]:
    """The rows of the table."""
    found = []
    for result in results:
        answer, hop = result.worst, result.hop
        outcome = answer.outcome + (" (truncated)" if answer.truncated else "")
        answered = "no" if not result.good else "?" if answer.outcome in UNCERTAIN else "yes"
        if len(result.answers) > 1:
            answered = f"{result.answered}/{len(result.answers)}"
        time = "" if answer.milliseconds is None else f"{answer.milliseconds}ms"
        found.append(
            [hop.target, f"{hop.via.value} {hop.name}", answered, outcome, time, answer.text[:80]]
        )
    return found


def as_data(
    results: Sequence[HopResult], verdict: Verdict, causes: Mapping[Hop, Cause] = _NO_CAUSES
) -> dict[str, Any]:
    """The results for programs; times in milliseconds."""
    return {
        "good": verdict.good,
        "reason": verdict.reason,
        "verdict": verdict.text,
        "remedy": verdict.remedy,
        "probes": [
            {
                "target": result.hop.target,
                "via": result.hop.via.value,
                "name": result.hop.name,
                "servicePort": result.hop.service_port,
                "sent": len(result.answers),
                "answered": result.answered,
                "reason": causes[result.hop].reason if result.hop in causes else result.reason,
                "rcode": result.worst.outcome,
                "truncated": result.worst.truncated,
                "milliseconds": result.worst.milliseconds,
                "answers": [answer.text for answer in result.answers],
            }
            for result in results
        ],
    }
