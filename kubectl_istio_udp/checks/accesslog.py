"""The checks of `access-log` before it writes: will lines appear, and only the requested ones?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.objects import foreign_objects, run_rules
from kubectl_istio_udp.model.accesslog import AccessLogSpec
from kubectl_istio_udp.model.logscope import AccessLogSnapshot, Setting
from kubectl_istio_udp.render.accesslog import access_log_writes

Rule = Callable[[AccessLogSpec, AccessLogSnapshot], Iterator[Finding]]


def check_access_log(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> tuple[Finding, ...]:
    """The findings of all rules about writing this access log, errors first."""
    return run_rules(RULES, spec, snapshot)


def _foreign_object(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> Iterator[Finding]:
    """U101: the EnvoyFilter would overwrite an existing one that does not belong to it."""
    return foreign_objects(spec, snapshot.objects)


def _overlap(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> Iterator[Finding]:
    """U121: another EnvoyFilter sets the interval for some of the same proxies."""
    mine = Setting.from_object(access_log_writes(spec)[0].manifest)
    assert mine is not None
    for other in snapshot.settings:
        if other.access_log == spec.key:
            continue
        if mine.overlaps(other, snapshot.mesh.root_namespace):
            owner = f"EnvoyFilter {other.owner}"
            take = f"kubectl delete envoyfilter -n {other.namespace} {other.owner.split('/')[1]}"
            if other.access_log:
                namespace, name = other.access_log
                owner += f" (accesslog/{name} of namespace {namespace})"
                take = f"kubectl istio-udp delete -n {namespace} accesslog/{name}"
            yield Finding(
                "U121",
                f"EnvoyFilter {other.owner}",
                f"{owner} already sets the interval for some of the same proxies; it is undefined "
                "which one wins",
                f"select fewer proxies with -l or --direction, or delete the other one: {take}",
            )


def _no_log(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> Iterator[Finding]:
    """U221: the proxies write no access log."""
    if not snapshot.mesh.writes_access_log and not snapshot.telemetry_logs:
        yield Finding(
            "U221",
            _access_log(spec),
            "the mesh writes no access log, so no lines will appear: meshConfig has no "
            "accessLogFile, and no Telemetry enables accessLogging",
            "set meshConfig.accessLogFile: /dev/stdout (istioctl install --set "
            "meshConfig.accessLogFile=/dev/stdout)",
        )


def _nobody(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> Iterator[Finding]:
    """U222: no proxy is selected."""
    if not snapshot.reached(spec):
        labels = ",".join(f"{key}={value}" for key, value in spec.selector.items())
        where = (
            "in the mesh"
            if spec.namespace == snapshot.mesh.root_namespace
            else (f"in namespace {spec.namespace}")
        )
        yield Finding(
            "U222",
            _access_log(spec),
            f"no pod {where} has a proxy{f' and the labels {labels}' if labels else ''} yet",
            f"see them: kubectl get pods -n {spec.namespace}" + (f" -l {labels}" if labels else "")
            if "namespace" in where
            else "",
        )


def _reconnects(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> Iterator[Finding]:
    """U223: changing a listener's filters makes Envoy close its open connections."""
    count = len(snapshot.reached(spec))
    if count and spec != snapshot.present:
        yield Finding(
            "U223",
            _access_log(spec),
            f"this closes the open TCP connections of {count} "
            f"{'proxy' if count == 1 else 'proxies'} within 45s: Envoy drains a listener whose "
            "filters change",
        )


def _access_log(spec: AccessLogSpec) -> str:
    return f"access log {spec.namespace}/{spec.name}"


RULES: tuple[Rule, ...] = (_foreign_object, _overlap, _no_log, _nobody, _reconnects)
