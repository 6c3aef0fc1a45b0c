"""The checks of `access-log`: whether lines appear, and only the requested ones."""

from __future__ import annotations

from collections.abc import Iterator

from kubectl_istio_udp.checks.findings import Finding, Value
from kubectl_istio_udp.checks.refs import owner_ref, spec_ref
from kubectl_istio_udp.checks.rules import Rule, foreign_objects, rule, run_rules
from kubectl_istio_udp.model.accesslog import AccessLogSpec
from kubectl_istio_udp.model.logscope import AccessLogSnapshot, Setting
from kubectl_istio_udp.render.accesslog import access_log_writes


def check_access_log(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> tuple[Finding, ...]:
    """The findings of all rules about writing this access log, errors first."""
    return run_rules(RULES, spec, snapshot)


@rule("U101", reads=("objects",))
def _foreign_object(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> Iterator[Finding]:
    """The EnvoyFilter would overwrite an existing one that does not belong to it."""
    return foreign_objects(spec, snapshot.objects)


@rule("U121", reads=("mesh", "settings"))
def _overlap(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> Iterator[Finding]:
    """Another EnvoyFilter sets the interval for some of the same proxies."""
    planned = Setting.from_object(access_log_writes(spec)[0].manifest)
    assert planned is not None
    for other in snapshot.settings:
        if other.access_log == spec.key:
            continue
        if planned.overlaps(other, snapshot.mesh.root_namespace):
            case, values = "", {}
            if other.access_log:
                namespace, name = other.access_log
                case, values = "access log", {"namespace": namespace, "owner": name}
            owner = owner_ref("EnvoyFilter", other.owner)
            yield Finding("U121", owner, "spec.configPatches", values, case)


@rule("U221", reads=("mesh", "telemetry_logs"))
def _no_log(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> Iterator[Finding]:
    """The proxies write no access log."""
    if not snapshot.mesh.writes_access_log and not snapshot.telemetry_logs:
        yield Finding("U221", spec_ref(spec))


@rule("U222", reads=("mesh", "proxies"))
def _nobody(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> Iterator[Finding]:
    """No proxy is selected."""
    if not snapshot.reached(spec):
        labels = ",".join(f"{key}={value}" for key, value in spec.selector.items())
        values: dict[str, Value] = {"labels": labels} if labels else {}
        scope = "mesh" if spec.namespace == snapshot.mesh.root_namespace else "namespace"
        case = f"{scope}, labels" if labels else scope
        yield Finding("U222", spec_ref(spec), "spec.selector", values, case)


@rule("U223", reads=("mesh", "present", "proxies"))
def _reconnects(spec: AccessLogSpec, snapshot: AccessLogSnapshot) -> Iterator[Finding]:
    """Changing a listener's filters makes Envoy close its open connections."""
    count = len(snapshot.reached(spec))
    if count and spec != snapshot.present:
        case = "one proxy" if count == 1 else ""
        yield Finding("U223", spec_ref(spec), values={"proxies": count}, case=case)


RULES: tuple[Rule[AccessLogSpec, AccessLogSnapshot], ...] = (
    _foreign_object,
    _overlap,
    _no_log,
    _nobody,
    _reconnects,
)
