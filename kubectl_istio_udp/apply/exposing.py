"""`expose`: read the cluster, decide, and write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from kubectl_istio_udp.apply.changes import change_set
from kubectl_istio_udp.apply.pipeline import Decision, Progress, Report, apply_decision
from kubectl_istio_udp.apply.reserving import decide_until_it_fits, reserved_if_changed
from kubectl_istio_udp.apply.waiting import Expected, wait_until_live
from kubectl_istio_udp.checks.expose import check_expose
from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.kube.client import Api
from kubectl_istio_udp.kube.reads import Reads
from kubectl_istio_udp.model.envoyfilter import revisions
from kubectl_istio_udp.model.errors import ClusterError, Refused, UsageError
from kubectl_istio_udp.model.exposure import Exposure, ExposureSpec
from kubectl_istio_udp.model.gatewaychoice import GatewayChoice
from kubectl_istio_udp.model.kinds import Kind, ObjectRef
from kubectl_istio_udp.model.names import EXPOSE_ANNOTATION
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.resources import API_GATEWAY, RESOURCES
from kubectl_istio_udp.model.snapshot import Snapshot
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.model.write_options import WriteOptions
from kubectl_istio_udp.plan.exposure import plan
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.sources.settings import NamedSettings
from kubectl_istio_udp.state.existing import find_exposure
from kubectl_istio_udp.state.gatewaynamespaces import (
    USUAL_GATEWAY_NAMESPACE,
    named_by_administrators,
)
from kubectl_istio_udp.state.gateways import find_gateway
from kubectl_istio_udp.state.leftovers import read_leftovers
from kubectl_istio_udp.state.ownership import Existing, is_declared, readable
from kubectl_istio_udp.state.snapshot import begin_reads, read_snapshot, ready_addresses


@dataclass(frozen=True)
class ExposeArguments:
    """The request on a command line.

    Attributes:
        namespace, service: the Service.
        name: the exposure's name; None for the Service's name.
        settings: the named settings.
        gateway: how the gateway is chosen.
    """

    namespace: str
    service: str
    name: str | None
    settings: NamedSettings
    gateway: GatewayChoice


@dataclass(frozen=True)
class Decided:
    """A planned exposure, with its description and findings.

    Attributes:
        exposure: the exposure.
        summary: how its endpoints are found, as one line of text.
        findings: the findings of the checks.
    """

    exposure: Exposure
    summary: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Exposed:
    """What `expose` wrote.

    Attributes:
        exposure: the exposure.
        service: the Service for clients, as the API server returned it; None if there is none.
    """

    exposure: Exposure
    service: Mapping[str, Any] | None


def expose(
    api: Api,
    arguments: ExposeArguments,
    writing: WriteOptions,
    report: Report,
    flags: Mapping[str, str],
) -> Exposed:
    """Expose a Service as requested on a command line.

    Args:
        api: the cluster.
        arguments: the request.
        writing: how to write.
        report: informed about each step.
        flags: as for `apply_decision`.

    Raises:
        UsageError: it is not possible with this Service or gateway.
        Refused, Rejected or an error of the cluster; everything was rolled back then.
    """
    exposed: list[Exposed] = []

    def decide_and_write() -> None:
        exposure, decision = _decide(api, arguments, writing, report)
        done = apply_decision(api, decision, writing, report, flags)
        services = (each.manifest for each in done if each.write.kind == "Service")
        exposed.append(Exposed(exposure, next(services, None)))

    decide_until_it_fits(decide_and_write, report.note)
    return exposed[0]


def decide(request: ExposeRequest, snapshot: Snapshot) -> Decided:
    """Plan an exposure, and check the plan.

    Raises:
        UsageError: it is not possible with this Service or gateway.
    """
    planned = plan(request, snapshot)
    because = f": {planned.reason}" if planned.reason else ""
    summary = f"endpoint discovery: {planned.exposure.spec.discovery.value}{because}"
    return Decided(planned.exposure, summary, check_expose(planned.exposure, snapshot))


def _decide(
    api: Api, arguments: ExposeArguments, writing: WriteOptions, report: Report
) -> tuple[Exposure, Decision]:
    """Decide from the current state of the cluster."""
    with Reads(api) as reads:
        begin_reads(reads, arguments.namespace, arguments.service, arguments.gateway)
        key = (arguments.namespace, arguments.name or arguments.service)
        existing = find_kept(reads, key, arguments.gateway, report.warn)
        _refuse_declared(existing)
        before = existing.at_gateway
        if before and before.service != arguments.service:
            before = None  # the checks refuse this
        request = arguments.settings.request(
            arguments.namespace, arguments.service, arguments.name, before
        )
        absent = arguments.settings.not_exposed(before)
        if absent:
            report.warn(absent)
        choice = arguments.gateway.or_known(before.gateway) if before else arguments.gateway
        snapshot = read_snapshot(reads, request, choice, existing, need_proxy=writing.waits)
        decided = decide(request, snapshot)
        exposure, spec = decided.exposure, decided.exposure.spec
        todo = writes(exposure, writing.manager)
        leftovers = read_leftovers(reads, [existing.spec, spec])
    found = (*existing.objects, *snapshot.objects, *leftovers.stale_reservations(spec.key))
    return exposure, Decision(
        spec=spec,
        before=before,
        summary=decided.summary,
        findings=decided.findings,
        changes=change_set(
            spec.kind, spec.key, found, leftovers.services_of([existing.spec, spec]), todo
        ),
        wait=_waiter(api, exposure, todo, had_pods=bool(snapshot.gateway.ready_pods)),
        confirm=lambda: check_not_overtaken(api, spec),
        guard=lambda: reserved_if_changed(api, exposure, snapshot, todo, report.warn),
    )


def find_kept(
    api: Api, key: tuple[str, str], choice: GatewayChoice, warn: Callable[[str], None]
) -> Existing:
    """The existing exposure, if its gateway and settings stay unless the command names others.

    Anyone can write the objects of an exposure in a namespace of their own, with any settings. So
    an object in the gateway's namespace must have them, and this must be a namespace where gateways
    belong, the namespace of the gateway that the command chooses, or one that the exposure's own
    namespace names. Gateways belong where administrators said so; if they did not, also where
    istiod injected a gateway with a Service.

    Args:
        api: the cluster.
        key: the exposure's (namespace, name).
        choice: how the command chooses the gateway.
        warn: called with the reason if objects are ignored.

    Returns:
        The exposure; without a spec if there is none that counts.
    """
    existing = find_exposure(api, *key, [choice.namespace] if choice.namespace else [])
    if existing.decided_by is None or _is_kept(api, existing, choice):
        return existing
    ignored = ObjectRef.of(existing.decided_by)
    if existing.at_gateway is None:
        warn(f"ignoring the settings in {ignored}: no object in the gateway's namespace has them")
        return replace(existing, spec=None, objects=existing.gateway_objects, decided_by=None)
    warn(
        f"ignoring {ignored}: gateways do not belong in namespace {ignored.namespace} (to keep an "
        "exposure there, name its gateway: --gateway NAMESPACE/NAME)"
    )
    return Existing(Kind.EXPOSURE, *key, None, ())


def _is_kept(api: Api, existing: Existing, choice: GatewayChoice) -> bool:
    spec = existing.at_gateway
    if spec is None:
        return False
    place = spec.gateway.namespace
    if existing.named_at_home or place in (choice.namespace, USUAL_GATEWAY_NAMESPACE):
        return True
    named = named_by_administrators(api)
    if place in named:
        return True
    # If a gateway cannot be chosen, reading the snapshot reports the reason.
    with suppress(ClusterError, UsageError):
        if not named and find_gateway(api, GatewayChoice(known=spec.gateway)).by_istiod:
            return True
    with suppress(ClusterError, UsageError):
        return find_gateway(api, choice).ref.namespace == place
    return False


def _waiter(
    api: Api, exposure: Exposure, todo: Sequence[Write], *, had_pods: bool
) -> Callable[[float, Progress], object]:
    """Return a function that waits until the gateway's pods have the written configuration."""
    spec = exposure.spec

    def wait(seconds: float, progress: Progress) -> None:
        written = revisions(next(w.manifest for w in todo if w.kind == "EnvoyFilter"))
        expected = Expected(
            prefix=f"{spec.object_name}-",
            listeners=written["LISTENER"],
            clusters=written["CLUSTER"],
            hosts=lambda: ready_addresses(api, exposure),
        )
        place = (spec.gateway.namespace, spec.gateway.selector)
        wait_until_live(api, *place, expected, seconds, progress, had_pods=had_pods)

    return wait


def _refuse_declared(existing: Existing) -> None:
    """Refuse to change an exposure that the controller manages.

    Raises:
        Refused: the controller manages it; the hints say how to change it.
    """
    if not is_declared(existing):
        return
    namespace, name = existing.namespace, existing.name
    if existing.exposure is not None and not existing.exposure.service:
        gateways = RESOURCES[API_GATEWAY].qualified
        raise Refused(
            f"exposure {name} is managed by the controller for a Gateway of the Gateway API; "
            "nothing was written",
            hints=[
                f"to change it, edit the Gateway: kubectl get {gateways} -n {namespace}",
                "to create another exposure: --name NAME",
            ],
        )
    annotate = f"kubectl annotate service -n {namespace} {name}"
    raise Refused(
        f"exposure {name} is managed by the controller, because Service {namespace}/{name} has "
        f"the annotation {EXPOSE_ANNOTATION}; nothing was written",
        hints=[
            f"to change it: {annotate} --overwrite {EXPOSE_ANNOTATION}=PORTS (other settings: "
            "annotations kubectl-istio-udp/OPTION)",
            f"to manage it by command line: {annotate} {EXPOSE_ANNOTATION}-, then (if no "
            f"controller runs any more) kubectl istio-udp delete -n {namespace} {name}, then "
            "expose it again",
        ],
    )


def check_not_overtaken(api: Api, spec: ExposureSpec) -> None:
    """Check that the written spec is still the current one.

    Raises:
        ClusterError: another `expose` of the same exposure wrote after this one.
    """
    found = api.find("EnvoyFilter", spec.gateway.namespace, spec.object_name)
    if found is None or readable(found, ExposureSpec) != spec:
        raise ClusterError(
            f"exposure {spec.name} was modified concurrently",
            hints=[f"see its state: kubectl istio-udp get -n {spec.namespace} {spec.name}"],
        )
