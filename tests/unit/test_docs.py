"""The documentation says what the code does."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from kubectl_istio_udp import __version__
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
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_plugin_manifest_is_of_this_version() -> None:
    manifest = yaml.safe_load((ROOT / "plugin.yaml").read_text())
    assert manifest["kind"] == "Plugin"
    assert manifest["spec"]["version"] == f"v{__version__}"
    for platform in manifest["spec"]["platforms"]:
        assert platform["bin"] == "kubectl-istio_udp"
        assert f"v{__version__}" in platform["uri"]
        assert re.fullmatch("[0-9a-f]{64}", platform["sha256"])
