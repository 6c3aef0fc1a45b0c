"""What the real Envoy says of EnvoyFilters: golden renderings, good and broken ones by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from kubectl_istio_udp.envoy.validate import validate
from tests.unit.conftest import Run

HERE = Path(__file__).parent
# Patches with only fields of Istio's API have nothing for Envoy to check.
GOLDEN = sorted(
    path
    for path in (HERE.parent / "unit" / "golden").glob("*.out.yaml")
    if "kind: EnvoyFilter" in path.read_text(encoding="utf-8")
)
GOOD = sorted((HERE / "good").glob("*.yaml"))
BROKEN = sorted((HERE / "broken").glob("*.yaml"))
MARK = re.compile(r"  # refused: (.+)$")


def name(path: Path) -> str:
    return path.name.partition(".")[0]


@pytest.mark.parametrize("path", GOLDEN, ids=name)
def test_accepts_every_golden_rendering(path: Path, envoy: Path) -> None:
    manifests = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    report = validate(envoy, manifests)
    assert (report.refused, report.unchecked) == ((), ())


@pytest.mark.parametrize("path", GOOD, ids=name)
def test_accepts_what_is_right(path: Path, run: Run, envoy: Path) -> None:
    done = run("validate", "-f", str(path))
    assert (done.code, done.err) == (0, "")
    assert "accepts" in done.out


@pytest.mark.parametrize("path", BROKEN, ids=name)
def test_refuses_what_is_broken_at_its_line(path: Path, run: Run, envoy: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    expected = [
        (number, found[1]) for number, line in enumerate(lines, 1) if (found := MARK.search(line))
    ]
    assert len(expected) == 1
    done = run("validate", "-f", str(path), "-o", "json")
    answer = json.loads(done.out)
    assert (done.code, answer["good"], answer["unchecked"]) == (1, False, [])
    assert [each["line"] for each in answer["refused"]] == [expected[0][0]]
    assert expected[0][1] in answer["refused"][0]["message"]


def test_there_are_enough_broken_ones() -> None:
    assert len(BROKEN) >= 20
