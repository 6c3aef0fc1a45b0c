"""golden/NAME.in.yaml (the request, and the objects of a cluster) -> NAME.out.yaml (manifests).

`python -m pytest tests/unit/test_golden.py --update-golden` writes the latter anew.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.model.accesslog import AccessLogSpec
from kubectl_istio_udp.model.durations import Duration
from kubectl_istio_udp.model.exposure import (
    Affinity,
    Discovery,
    GatewayServiceMode,
    LoadBalancing,
    Options,
)
from kubectl_istio_udp.model.ports import parse_port_requests
from kubectl_istio_udp.model.request import ExposeRequest
from kubectl_istio_udp.model.response import Body, Response, ResponseSpec
from kubectl_istio_udp.model.write import Write
from kubectl_istio_udp.plan.exposure import plan
from kubectl_istio_udp.render.accesslog import access_log_writes
from kubectl_istio_udp.render.exposure import writes
from kubectl_istio_udp.render.response import response_writes
from tests.support.builders import snapshot_of

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name.removesuffix(".in.yaml") for path in GOLDEN.glob("*.in.yaml"))
OPTIONS: dict[str, Callable[[Any], Any]] = {
    "idle_timeout": Duration.parse,
    "affinity": Affinity,
    "load_balancing": LoadBalancing,
    "gateway_service": GatewayServiceMode,
}


# Ten times as fast, where PyYAML was built with it.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def given_in(case: str) -> dict[str, Any]:
    text = (GOLDEN / f"{case}.in.yaml").read_text(encoding="utf-8")
    given: dict[str, Any] = yaml.load(text, LOADER)
    return given


def rendered(case: str) -> tuple[Write, ...]:
    """The writes of a case: of an exposure from a cluster, of the others from their specs."""
    given = copy.deepcopy(given_in(case))
    if "response" in given:
        content = given.get("content", "")
        raw = bytes.fromhex(content) if given.get("binary") else content.encode()
        answer = given["response"].setdefault("answer", {})
        answer.setdefault("prefix", False)
        answer.setdefault("headers", [])
        answer.setdefault("hosts", ["*"])
        answer["body"] = asdict(Body.of(raw, bool(given.get("binary")))) if raw else None
        usual: dict[str, Any] = {"gateway": None, "servers": [], "mesh_ports": []}
        spec = ResponseSpec.from_json(json.dumps({"version": 1, **usual, **given["response"]}))
        return response_writes(Response(spec, raw, spec.answer.hosts))
    if "access_log" in given:
        data = {"version": 1, "direction": "any", **given["access_log"]}
        return access_log_writes(AccessLogSpec.from_json(json.dumps(data)))
    asked = given["request"]
    snapshot = snapshot_of(
        given["objects"],
        name=asked["service"],
        namespace=asked["namespace"],
        gateway=asked.get("gateway"),
        gateway_selector=asked.get("gateway_selector"),
        file_limit=asked.get("file_limit"),
    )
    request = ExposeRequest(
        namespace=asked["namespace"],
        service=asked["service"],
        name=asked.get("name"),
        ports=parse_port_requests(asked.get("ports", [])),
        discovery=Discovery(asked["discovery"]) if "discovery" in asked else None,
        automatic_sessions="max_sessions" not in asked.get("options", {}),
        options=Options(
            **{
                key: OPTIONS.get(key, lambda plain: plain)(value)
                for key, value in asked.get("options", {}).items()
            }
        ),
    )
    return writes(plan(request, snapshot).exposure)


@pytest.mark.parametrize("case", CASES)
def test_renders_as_recorded(case: str, pytestconfig: Any) -> None:
    found = [dict(write.manifest) for write in rendered(case)]
    path = GOLDEN / f"{case}.out.yaml"
    if pytestconfig.getoption("--update-golden"):
        path.write_text(yaml.safe_dump_all(found, sort_keys=False), encoding="utf-8")
    assert found == list(yaml.load_all(path.read_text(encoding="utf-8"), LOADER))


@pytest.mark.parametrize("case", CASES)
def test_renders_the_same_bytes_again(case: str) -> None:
    def text() -> str:
        return json.dumps([write.manifest for write in rendered(case)])

    assert text() == text()


def test_every_recording_has_its_case() -> None:
    recorded = {path.name.removesuffix(".out.yaml") for path in GOLDEN.glob("*.out.yaml")}
    assert recorded == set(CASES)
    assert len(CASES) >= 20
