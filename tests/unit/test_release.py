"""The version is in one place, and everything that a release is made from agrees with it."""

import configparser
import re
from pathlib import Path
from typing import Any

import yaml

from kubectl_istio_udp import __version__
from kubectl_istio_udp.render.controller import DEFAULT_IMAGE

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def workflow(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text())
    return read


def supported_pythons() -> list[str]:
    classifiers = setup_cfg()["metadata"]["classifiers"]
    return re.findall(r"Python :: (3\.\d+)$", classifiers, re.MULTILINE)


def test_the_package_is_where_setuptools_reads_the_version() -> None:
    assert setup_cfg()["metadata"]["version"] == "attr: kubectl_istio_udp.__version__"


def test_krew_manifest_is_of_this_version() -> None:
    manifest = yaml.safe_load((ROOT / "plugin.yaml").read_text())
    assert manifest["kind"] == "Plugin"
    assert manifest["spec"]["version"] == f"v{__version__}"
    for platform in manifest["spec"]["platforms"]:
        assert platform["bin"] == "kubectl-istio_udp"
        named = re.findall(r"v\d+\.\d+\.\d+", platform["uri"])
        assert named == [f"v{__version__}"] * 2
        assert re.fullmatch("[0-9a-f]{64}", platform["sha256"])


def test_controller_image_is_of_this_version() -> None:
    assert DEFAULT_IMAGE.rpartition(":")[2] == __version__


def test_newest_section_of_the_changelog_is_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+)\] - (unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert len(headings) == len(re.findall("^## ", changelog, re.MULTILINE))
    assert headings[0][0] == __version__


def test_no_other_file_has_the_version() -> None:
    number = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])")
    files = [
        *ROOT.glob("*"),
        *(ROOT / "packaging").rglob("*"),
        *(ROOT / ".github").rglob("*"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "kubectl_istio_udp").rglob("*.py"),
    ]
    text = {".md", ".py", ".cfg", ".toml", ".txt", ".yaml", ".yml", ""}
    having = {
        str(file.relative_to(ROOT))
        for file in files
        if file.is_file() and file.suffix in text and number.search(file.read_text(errors="ignore"))
    }
    # Of other programs, made from --help, or about reports on one release.
    having -= {"requirements-dev.txt", "docs/commands.md", "docs/conformance/README.md"}
    assert having == {"CHANGELOG.md", "kubectl_istio_udp/__init__.py", "plugin.yaml"}


def test_unit_tests_run_on_every_supported_python() -> None:
    assert workflow("test")["jobs"]["unit"]["strategy"]["matrix"]["python"] == supported_pythons()
    assert setup_cfg()["options"]["python_requires"] == f">={supported_pythons()[0]}"


def test_end_to_end_tests_run_on_every_istio_of_the_ground() -> None:
    releases = {path.name for path in (ROOT / "tests/cluster/ground/istio").iterdir()}
    assert set(workflow("e2e")["jobs"]["e2e"]["strategy"]["matrix"]["istio"]) == releases


def test_a_release_waits_for_all_tests() -> None:
    jobs = workflow("release")["jobs"]
    assert {jobs[name]["uses"] for name in ("test", "e2e")} == {
        "./.github/workflows/test.yml",
        "./.github/workflows/e2e.yml",
    }
    for name in ("build", "image"):
        assert set(jobs[name]["needs"]) == {"test", "e2e"}


def test_make_targets_of_workflows_and_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [
        *WORKFLOWS.glob("*.yml"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*.md"),
    ]
    for page in pages:
        named = re.findall(r"(?:^ +|`|run: )make ([a-z][a-z0-9-]*)", page.read_text(), re.MULTILINE)
        assert set(named) <= targets, page.name
