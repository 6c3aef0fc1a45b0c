"""The documentation says what the code does."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kubectl_istio_udp.checks import accesslog, expose, response
from kubectl_istio_udp.checks.catalog import CHECKS, CODES_OF_VALIDATE, PAGE
from kubectl_istio_udp.checks.findings import FINDING_KEYS, Finding
from kubectl_istio_udp.checks.rules import Rule, codes_of
from kubectl_istio_udp.model.kinds import ObjectRef

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("script", ["generate.py", "draw.py"])
def test_what_is_made_from_the_code_agrees_with_it(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / script), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_picture_shows_every_room_and_the_files_of_expose() -> None:
    picture = (ROOT / "docs" / "rooms.svg").read_text()
    package = ROOT / "kubectl_istio_udp"
    drawn = set(re.findall(r">(\w+)/</text>", picture))
    assert drawn == {path.parent.name for path in package.glob("*/__init__.py")}
    steps = re.findall(r">\d+\. (\S+\.py)</text>", picture)
    assert steps[0] == "cli/expose.py"
    assert [step for step in steps if not (package / step).exists()] == []


def test_every_check_is_in_the_table() -> None:
    rules: tuple[Rule[Any, Any], ...] = (*expose.RULES, *response.RULES, *accesslog.RULES)
    assert list(CHECKS) == sorted(codes_of(rules) | CODES_OF_VALIDATE)
    assert len({check.meaning for check in CHECKS.values()}) == len(CHECKS)


def test_every_key_of_a_finding_is_documented() -> None:
    found = Finding("U203", ObjectRef("gateway", "istio-system", "edge"))
    assert list(found.to_data()) == list(FINDING_KEYS)


def test_a_finding_links_to_its_paragraph() -> None:
    """As GitHub makes anchors of headings: in lower case, without punctuation."""
    page = (ROOT / "docs" / "checks.md").read_text()
    headings = re.findall(r"^## (U.+)$", page, re.MULTILINE)
    anchors = [re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings]
    assert [check.link for check in CHECKS.values()] == [f"{PAGE}#{anchor}" for anchor in anchors]


def test_links_of_every_page_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
