"""Access logs: what they may be, whom they reach, and each rule of `access-log`."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.checks.accesslog import RULES, check_access_log
from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.rules import codes_of
from kubectl_istio_udp.model.accesslog import (
    AccessLogSpec,
    Direction,
    LogField,
    LogScope,
    default_name,
)
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import ClusterError, UsageError
from kubectl_istio_udp.model.kinds import Kind
from kubectl_istio_udp.model.logscope import AccessLogSnapshot, Proxy, Setting, proxy_of
from kubectl_istio_udp.model.mesh import Mesh, image_version, oldest, parse_version, show_version
from kubectl_istio_udp.model.names import labels
from kubectl_istio_udp.render.accesslog import access_log_writes
from tests.support.builders import gateway_pod, metadata, pod
from tests.support.checked import texts_of, undeclared, whole

LOGGING = Mesh(writes_access_log=True, istio=(1, 31))


def spec(namespace: str = "lab", **more: Any) -> AccessLogSpec:
    usual = {"name": "x", "every": Duration(5), "scope": LogScope.NAMESPACE}
    return AccessLogSpec(namespace, **{**usual, **more})


def setting(namespace: str = "lab", **more: Any) -> Setting:
    found = Setting.from_object(access_log_writes(spec(namespace, **more))[0].manifest)
    assert found is not None
    return found


@pytest.mark.parametrize("every", [0, 0.0009])
def test_an_interval_that_is_too_short(every: float | int) -> None:
    with pytest.raises(UsageError, match="accepts 1ms or more"):
        spec(every=Duration(every))


def test_a_gateway_has_no_direction() -> None:
    with pytest.raises(UsageError, match="--direction"):
        spec(scope=LogScope.GATEWAY, direction=Direction.INBOUND)
    assert spec(every=Duration(0.001), scope=LogScope.GATEWAY).direction is Direction.ANY


@pytest.mark.parametrize(
    ("scope", "selector", "gateway", "name"),
    [
        (LogScope.MESH, {}, None, "mesh"),
        (LogScope.NAMESPACE, {}, None, "namespace"),
        (LogScope.GATEWAY, {"istio": "x"}, "edge", "edge"),
        (LogScope.NAMESPACE, {"b": "2", "app.io/Name": "Web_1"}, None, "name-web-1-b-2"),
        (LogScope.NAMESPACE, {"a": "b" * 70}, None, "a-" + "b" * 61),
    ],
)
def test_names_from_the_scope(
    scope: LogScope, selector: dict[str, Any], gateway: str | None, name: str
) -> None:
    assert default_name(scope, selector, gateway) == name


@pytest.mark.parametrize(
    ("control_plane", "proxies", "expected"),
    [
        ((1, 18), [(1, 18), (1, 31)], LogField.OPTIONS),
        ((1, 31), [], LogField.OPTIONS),
        ((1, 17), [(1, 31)], LogField.FLUSH_INTERVAL),
        ((1, 31), [(1, 31), (1, 17)], LogField.FLUSH_INTERVAL),
        ((1, 31), [None], LogField.FLUSH_INTERVAL),
        (None, [(1, 31)], LogField.FLUSH_INTERVAL),
    ],
)
def test_the_field_that_every_proxy_supports(
    control_plane: tuple[int, int] | None, proxies: list[Any], expected: LogField
) -> None:
    assert spec().understood_by(control_plane, proxies).log_field is expected


@given(
    st.builds(
        AccessLogSpec,
        namespace=st.just("lab"),
        name=st.just("x"),
        every=st.integers(1, 10**7).map(lambda ms: Duration(ms / 1000)),
        scope=st.sampled_from([LogScope.MESH, LogScope.NAMESPACE]),
        selector=st.dictionaries(st.sampled_from("ab"), st.sampled_from("cd")),
        direction=st.sampled_from(Direction),
        log_field=st.sampled_from(LogField),
    )
)
def test_the_annotation_keeps_every_setting(made: AccessLogSpec) -> None:
    assert AccessLogSpec.from_json(made.to_json()) == made


@pytest.mark.parametrize("selector", ["null", "[]", '"app=a"'])
def test_an_annotation_with_an_invalid_selector(selector: str) -> None:
    text = spec().to_json().replace('"selector":{}', f'"selector":{selector}')
    with pytest.raises(ClusterError):
        AccessLogSpec.from_json(text)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({}, {}, True),
        ({}, {"namespace": "other"}, False),
        ({"namespace": "root"}, {"namespace": "other"}, True),
        ({"selector": {"app": "a"}}, {}, True),
        ({"selector": {"app": "a"}}, {"selector": {"app": "b"}}, False),
        ({"selector": {"app": "a"}}, {"selector": {"tier": "b"}}, True),
        ({"selector": {"a": "1", "b": "1"}}, {"selector": {"a": "1", "b": "2"}}, False),
        ({"selector": {"app": "a"}}, {"namespace": "root", "selector": {"app": "b"}}, False),
        ({"direction": Direction.INBOUND}, {"direction": Direction.OUTBOUND}, False),
        ({"direction": Direction.INBOUND}, {}, True),
        ({"scope": LogScope.GATEWAY}, {"direction": Direction.INBOUND}, False),
        ({"scope": LogScope.GATEWAY}, {}, True),
    ],
)
def test_which_settings_overlap(one: dict[str, Any], other: dict[str, Any], expected: bool) -> None:
    assert setting(**one).overlaps(setting(**other), "root") is expected
    assert setting(**other).overlaps(setting(**one), "root") is expected


def filter_of(
    config: dict[str, Any],
    apply_to: str = "NETWORK_FILTER",
    name: str = "envoy.filters.network.tcp_proxy",
    **match: Any,
) -> dict[str, Any]:
    patch = {"applyTo": apply_to, "patch": {"value": {"name": name, **config}}}
    if match:
        patch["match"] = match
    return {
        "kind": "EnvoyFilter",
        "metadata": metadata("lab", "theirs"),
        "spec": {"configPatches": [patch]},
    }


@pytest.mark.parametrize(
    "config",
    [
        {"typed_config": {"access_log_flush_interval": "5s"}},
        {"typedConfig": {"accessLogFlushInterval": "5s"}},
        {"typed_config": {"access_log_options": {}}},
        {"typedConfig": {"accessLogOptions": {}}},
    ],
)
def test_reads_intervals_of_other_envoy_filters_in_every_spelling(config: dict[str, Any]) -> None:
    found = Setting.from_object(filter_of(config))
    assert found is not None and found.owner == "lab/theirs" and found.access_log is None
    assert found.sides == {"inbound", "outbound", "gateway"}
    inbound = Setting.from_object(filter_of(config, context="SIDECAR_INBOUND"))
    assert inbound is not None and inbound.sides == {"inbound"}


@pytest.mark.parametrize(
    "manifest",
    [
        filter_of({"typed_config": {"stat_prefix": "x"}}),
        filter_of({"typed_config": {"access_log_options": {}}}, name="other"),
        filter_of({"typed_config": {"access_log_options": {}}}, apply_to="CLUSTER"),
        filter_of({}),
        filter_of({"typed_config": 5}),
        filter_of({"typed_config": [{}]}),
        {"metadata": metadata("a", "b")},
    ],
)
def test_ignores_envoy_filters_without_an_interval(manifest: dict[str, Any]) -> None:
    assert Setting.from_object(manifest) is None


def test_recognizes_its_own_envoy_filter() -> None:
    assert setting().access_log == ("lab", "x")


def test_a_response_with_the_name_is_not_an_access_log() -> None:
    manifest = dict(access_log_writes(spec())[0].manifest)
    other = {"labels": labels(Kind.RESPONSE, "lab", "x")}
    manifest["metadata"] = {**manifest["metadata"], **other}
    found = Setting.from_object(manifest)
    assert found is not None and found.access_log is None


def test_proxies_of_pods() -> None:
    assert proxy_of(gateway_pod()) == Proxy(
        "istio-system",
        "istio-ingressgateway-1",
        {"app": "istio-ingressgateway", "istio": "ingressgateway"},
        (1, 31),
    )
    assert proxy_of(pod()) is None
    native = pod()
    native["spec"]["initContainers"] = [{"name": "istio-proxy", "image": "p@sha256:00"}]
    found = proxy_of(native)
    assert found is not None and found.istio is None


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_has_no_proxy(phase: str) -> None:
    ended = gateway_pod()
    ended["status"]["phase"] = phase
    assert proxy_of(ended) is None
    ended["status"]["phase"] = "Pending"
    assert proxy_of(ended) is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.31.0", (1, 31)),
        ("v1.9", (1, 9)),
        ("1.18.2-asm.1", (1, 18)),
        ("latest", None),
        ("", None),
    ],
)
def test_versions(text: str, expected: tuple[int, ...] | None) -> None:
    assert parse_version(text) == expected
    assert image_version({"image": f"r.io:5000/istio/pilot:{text}"}) == expected
    assert image_version({"image": f"r.io:5000/istio/pilot:{text}@sha256:00"}) == expected
    assert show_version(expected) == (f"{expected[0]}.{expected[1]}" if expected else "unknown")


def test_the_oldest_known_version() -> None:
    assert oldest([(1, 31), None, (1, 9)]) == (1, 9)
    assert oldest([None]) is None


@pytest.mark.parametrize(
    ("config", "writes", "root"),
    [
        ({}, False, "istio-system"),
        ({"accessLogFile": "/dev/stdout", "rootNamespace": "root"}, True, "root"),
        ({"accessLogFile": ""}, False, "istio-system"),
        ({"defaultProviders": {"accessLogging": ["envoy"]}}, True, "istio-system"),
        ({"defaultProviders": {"tracing": ["x"]}}, False, "istio-system"),
    ],
)
def test_reads_the_meshs_settings(config: dict[str, Any], writes: bool, root: str) -> None:
    found = Mesh.from_config(config)
    assert (found.writes_access_log, found.root_namespace) == (writes, root)


def test_each_direction_has_its_own_name() -> None:
    found = {default_name(LogScope.NAMESPACE, {}, None, direction) for direction in Direction}
    assert found == {"namespace", "namespace-inbound", "namespace-outbound"}
    long = default_name(LogScope.NAMESPACE, {"a": "b" * 63}, None, Direction.INBOUND)
    assert len(long) == 63 and long.endswith("-inbound")


PROXY = Proxy("lab", "p", {"app": "a"}, (1, 31))


def planned(
    asked: AccessLogSpec | None = None, **facts: Any
) -> tuple[AccessLogSpec, AccessLogSnapshot]:
    return asked or spec(), AccessLogSnapshot(**{"mesh": LOGGING, "proxies": (PROXY,), **facts})


def findings(**case: Any) -> tuple[Finding, ...]:
    return check_access_log(*planned(**case))


OWN = access_log_writes(spec())[0].manifest
FOREIGN = {**OWN, "metadata": metadata("lab", "accesslog-lab-x")}
FIRES: list[tuple[str, dict[str, Any]]] = [
    ("U101", {"objects": (FOREIGN,)}),
    ("U121", {"settings": (setting(name="y"),)}),
    ("U121", {"settings": (Setting("root/x", "istio-system"),)}),
    ("U221", {"mesh": Mesh()}),
    ("U222", {"proxies": ()}),
    ("U222", {"asked": spec(selector={"app": "b"})}),
    ("U222", {"proxies": (), "asked": spec("istio-system", scope=LogScope.MESH)}),
    (
        "U222",
        {"asked": spec("istio-system", scope=LogScope.MESH, selector={"app": "b"}), "proxies": ()},
    ),
    ("U223", {}),
    ("U223", {"proxies": (PROXY, dataclasses.replace(PROXY, name="q"))}),
    ("U223", {"present": spec(every=Duration(9))}),
]
SILENT: list[tuple[str, dict[str, Any]]] = [
    ("U101", {"objects": (OWN,)}),
    ("U121", {"settings": (setting(), setting("other"))}),
    ("U221", {}),
    ("U221", {"mesh": Mesh(), "telemetry_logs": True}),
    ("U222", {"asked": spec(selector={"app": "a"})}),
    ("U222", {"asked": spec("istio-system", scope=LogScope.MESH)}),
    ("U223", {"present": spec()}),
    ("U223", {"proxies": ()}),
]


@pytest.mark.parametrize(("code", "case"), FIRES)
def test_a_rule_reports_its_finding(code: str, case: dict[str, Any]) -> None:
    (found,) = [finding for finding in findings(**case) if finding.code == code]
    assert str(found).endswith(f"[{code}]")
    whole(found)


@pytest.mark.parametrize(("code", "case"), SILENT)
def test_a_rule_reports_nothing_without_its_problem(code: str, case: dict[str, Any]) -> None:
    assert code not in [finding.code for finding in findings(**case)]


def test_every_code_is_tested_both_ways() -> None:
    codes = codes_of(RULES)
    assert {code for code, _ in FIRES} == codes == {code for code, _ in SILENT}


def test_every_text_is_tested() -> None:
    found = {(f.code, f.case) for code, case in FIRES for f in findings(**case)}
    assert found == texts_of(RULES)


def test_rules_read_what_they_declare() -> None:
    assert undeclared(RULES, ((code, *planned(**case)) for code, case in (*FIRES, *SILENT))) == {}


def test_an_overlap_names_what_to_delete() -> None:
    (found, *_) = findings(settings=(setting(name="y"),))
    assert "accesslog/y of namespace lab" in found.message
    assert "kubectl istio-udp delete -n lab accesslog/y" in found.remedy()
    (found, *_) = findings(settings=(Setting("istio-system/x", "istio-system"),))
    assert "kubectl delete envoyfilter -n istio-system x" in found.remedy()


def test_its_object_is_labelled_as_its_own() -> None:
    assert OWN["metadata"]["labels"] == labels(Kind.ACCESS_LOG, "lab", "x")
