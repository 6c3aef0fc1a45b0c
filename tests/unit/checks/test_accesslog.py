"""Each rule of `access-log`."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest

from kubectl_istio_udp.checks.accesslog import RULES, check_access_log
from kubectl_istio_udp.checks.findings import Finding
from kubectl_istio_udp.checks.rules import codes_of
from kubectl_istio_udp.model.accesslog import AccessLogSpec, LogScope
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.logscope import AccessLogSnapshot, Proxy, Setting
from kubectl_istio_udp.model.mesh import Mesh
from kubectl_istio_udp.render.accesslog import access_log_writes
from tests.support.builders import metadata
from tests.support.checked import texts_of, undeclared, whole
from tests.support.mesh_builders import access_log, setting_of

LOGGING = Mesh(writes_access_log=True, istio=(1, 31))
spec = partial(access_log, name="x", namespace="lab")
PROXY = Proxy("lab", "p", {"app": "a"}, (1, 31))


def setting(**more: Any) -> Setting:
    return setting_of(spec(**more))


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
    ("U222", {"proxies": (), "asked": spec(namespace="istio-system", scope=LogScope.MESH)}),
    (
        "U222",
        {
            "asked": spec(namespace="istio-system", scope=LogScope.MESH, selector={"app": "b"}),
            "proxies": (),
        },
    ),
    ("U223", {}),
    ("U223", {"proxies": (PROXY, dataclasses.replace(PROXY, name="q"))}),
    ("U223", {"present": spec(every=Duration(9))}),
]
SILENT: list[tuple[str, dict[str, Any]]] = [
    ("U101", {"objects": (OWN,)}),
    ("U121", {"settings": (setting(), setting(namespace="other"))}),
    ("U221", {}),
    ("U221", {"mesh": Mesh(), "telemetry_logs": True}),
    ("U222", {"asked": spec(selector={"app": "a"})}),
    ("U222", {"asked": spec(namespace="istio-system", scope=LogScope.MESH)}),
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
