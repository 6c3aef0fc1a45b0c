"""The documentation says what the code does."""

import re
import subprocess
import sys
from pathlib import Path

from kubectl_istio_udp.checks import accesslog, expose, response
from kubectl_istio_udp.checks.objects import documented_codes

ROOT = Path(__file__).parents[2]


def test_pages_made_from_help_are_as_help_is() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_check_has_a_paragraph() -> None:
    page = (ROOT / "docs" / "checks.md").read_text()
    described = re.findall(r"^## (U\d+) \((?:error|warning|info)\)\n.+$", page, re.MULTILINE)
    rules = (*expose.RULES, *response.RULES, *accesslog.RULES)
    assert described == sorted(documented_codes(rules))


def test_links_of_every_page_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
