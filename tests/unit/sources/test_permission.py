"""What Namespaces' annotations allow, and what is said of what they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.errors import UsageError
from kubectl_istio_udp.model.exposure import Discovery, GatewayServiceMode, Options
from kubectl_istio_udp.model.gateway import GatewayRef
from kubectl_istio_udp.sources.permission import (
    ALLOWED_ALL,
    SETTINGS,
    Permission,
    Use,
    named_setting,
)

PREFIX = "kubectl-istio-udp/"
DOCS = Path(__file__).parents[3] / "docs"
GATEWAY = GatewayRef("istio-system", "edge", {"istio": "edge"})


def allowed(**notes: Any) -> Permission:
    return Permission.parse({PREFIX + key.replace("_", "-"): text for key, text in notes.items()})


def use(**more: Any) -> Use:
    options = {name: more.pop(name) for name in list(more) if name in vars(Options())}
    usual = {"ports": (5300,), "discovery": Discovery.ENDPOINTS, "gateway": GATEWAY}
    return Use(**{**usual, **more}, options=Options(**{"max_sessions": 1000, **options}))


def test_permissions() -> None:
    found = allowed(allow="5300-5399, 6000", allow_sessions="28000")
    assert [found.forbids(p) for p in (5299, 5300, 5399, 5400, 6000)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert found.sessions == 28_000
    assert allowed().forbids(5300) and allowed(allow="").forbids(5300)
    assert not ALLOWED_ALL.forbids(53)


@pytest.mark.parametrize("text", ["*", "5300-", "5400-5300", "0", "70000", "-1", "5300 5301"])
def test_invalid_permissions(text: str) -> None:
    with pytest.raises(UsageError):
        allowed(allow=text)


@pytest.mark.parametrize("name", ["allow-gateway", "allow-bogus", "allowed", "allow-Sessions"])
def test_a_misspelled_limit_is_no_limit_that_is_ignored(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown annotation {PREFIX}{name} on the Namespace"):
        Permission.parse({f"{PREFIX}allow": "5300", PREFIX + name: "x"})


def test_annotations_that_are_no_limits_are_ignored() -> None:
    notes = {f"{PREFIX}allow": "5300", f"{PREFIX}note": "x", "example.com/allow": "x"}
    assert not Permission.parse(notes).forbids(5300)


@given(st.text(max_size=200), st.integers(1, 65535))
def test_no_text_allows_numbers_that_it_does_not_contain(text: str, port: int) -> None:
    """Only numbers that stand in it."""
    try:
        found = allowed(allow=text)
    except UsageError:
        return
    assert found.forbids(port) or any(first <= port <= last for first, last in found.ports)


def test_the_defaults_suit_a_shared_gateway() -> None:
    found = allowed(allow="5300")
    assert found.objection(use()) == ""
    assert found.gateway_services == {GatewayServiceMode.COMPANION, GatewayServiceMode.NONE}
    assert (found.total_ports, found.total_sessions) == (100, 8000)


@pytest.mark.parametrize(
    ("asked", "name", "value"),
    [
        ({"ports": (5300, 5301)}, "allow", "5300-5301"),
        ({"max_sessions": 5000}, "allow-sessions", "5000"),
        ({"gateway_service": GatewayServiceMode.PATCH}, "allow-gateway-service", "patch"),
        ({"discovery": Discovery.STATIC}, "allow-discovery", "static,endpoints"),
        ({"discovery": Discovery.SELECTOR}, "allow-discovery", "selector"),
        ({"session_log": True}, "allow-session-log", "true"),
        ({"idle_timeout": Duration(600)}, "allow-idle-timeout", "1s-10m"),
        ({"idle_timeout": Duration(0.5)}, "allow-idle-timeout", "500ms-1s"),
    ],
)
def test_settings_that_are_not_allowed_by_default(
    asked: dict[str, Any], name: str, value: str
) -> None:
    used = use(**asked)
    objection = allowed(allow="5300").objection(used)
    assert f"(annotation kubectl-istio-udp/{name} on the Namespace)" in objection
    notes = {f"{PREFIX}allow": "5300", PREFIX + name: value}
    assert Permission.parse(notes).objection(used) == ""
    # The same as a default of the controller, which the Namespace's own annotation overrides.
    default = dict([named_setting(f"{name}={value}")])
    mine = {} if name == "allow" else {f"{PREFIX}allow": "5300"}
    assert Permission.parse(mine, default).objection(used) == ""
    assert ALLOWED_ALL.objection(used) == ""


@pytest.mark.parametrize("named", ["edge", "istio-system/edge", "other, istio-system/edge"])
def test_gateways(named: str) -> None:
    assert allowed(allow="5300", allow_gateways=named).objection(use()) == ""


@pytest.mark.parametrize("named", ["other", "elsewhere/edge"])
def test_other_gateways(named: str) -> None:
    found = allowed(allow="5300", allow_gateways=named)
    assert "gateway istio-system/edge is not allowed" in found.objection(use())
    assert "gateway istio-system/edge" in found.withdrawn(use())


def test_a_built_in_default_withdraws_nothing() -> None:
    """An exposure of an older version may have what is not allowed by default any more."""
    old = use(gateway_service=GatewayServiceMode.PATCH, session_log=True)
    found = allowed(allow="5300")
    assert found.objection(old) and not found.withdrawn(old)
    assert allowed(allow="5300", allow_session_log="false").withdrawn(old)
    assert allowed().withdrawn(old)


@pytest.mark.parametrize(
    "text",
    [
        "allow-sessions=many",
        "allow-nothing=1",
        "allow-sessions",
        "allow-gateways=",
        "allow-gateways=../x",
        "allow-discovery=dns",
        "allow-discovery=",
        "allow-session-log=yes",
        "allow-idle-timeout=5m-1s",
        "allow=" + "1," * 5000,
    ],
)
def test_invalid_settings(text: str) -> None:
    with pytest.raises(UsageError):
        named_setting(text)


def test_every_setting_is_documented_with_its_default() -> None:
    page = (DOCS / "controller.md").read_text(encoding="utf-8")
    for setting in SETTINGS:
        default = f"`{setting.default}`" if setting.default else "none"
        row = f"| `{PREFIX}{setting.name}` | {setting.meaning} | {default} |"
        assert row in page, row
