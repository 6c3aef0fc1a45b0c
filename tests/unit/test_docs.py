"""The documentation says what the code does."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubectl_istio_udp.checks import accesslog, expose, response
from kubectl_istio_udp.checks.catalog import CHECKS, CODES_OF_VALIDATE, PAGE
from kubectl_istio_udp.checks.findings import FINDING_KEYS, Finding
from kubectl_istio_udp.checks.rules import Rule, codes_of
from kubectl_istio_udp.model.gatewayapi import GATEWAY_CLASS, ApiGateway, UdpRoute
from kubectl_istio_udp.model.kinds import ObjectRef
from kubectl_istio_udp.model.ports import ExposedPort
from kubectl_istio_udp.model.service import Service
from kubectl_istio_udp.render import udproute
from kubectl_istio_udp.sources.gateways import gateway_intent
from kubectl_istio_udp.sources.routes import attach, resolve
from tests.support import builders

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("script", ["generate.py", "draw.py"])
def test_generated_pages_are_current(script: str) -> None:
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


def test_the_picture_of_the_class_shows_its_example() -> None:
    picture = (ROOT / "docs" / "gateway-api.svg").read_text()
    for text in (
        "Gateway team/udp",
        "UDPRoute team/dns",
        "coredns-canary:53",
        "10% of the clients",
    ):
        assert f">{text}</text>" in picture


def test_every_status_is_documented() -> None:
    source = (ROOT / "kubectl_istio_udp/state/status.py").read_text()
    reasons = set(re.findall(r'Condition\.fails\(\s*[\w.]+,\s*"(\w+)"', source))
    assert {"NoEndpoints", "Terminating"} <= reasons
    rows = re.findall(r"^\| `(\w+)`", (ROOT / "docs/lifecycle.md").read_text(), re.MULTILINE)
    assert reasons <= set(rows)
    usage = (ROOT / "docs/commands.md").read_text().partition("STATUS is ok")[2]
    assert {reason for reason in reasons if reason not in usage.partition("Options:")[0]} == set()


@pytest.mark.parametrize("page", ["gateway-api.md", "migration.md"])
def test_the_manifests_in_the_docs_are_served(page: str) -> None:
    """Each block with a Gateway of the class has a route that attaches, with valid backends."""
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    served = 0
    for block in blocks:
        found = {each["kind"]: each for each in yaml.safe_load_all(block)}
        gateway, route = found.get("Gateway", {}), found.get("UDPRoute")
        if route is None or gateway["spec"]["gatewayClassName"] != GATEWAY_CLASS:
            continue
        requesting, read = ApiGateway.from_object(gateway), UdpRoute.from_object(route)
        intent = gateway_intent(requesting, may_own=False)
        assert intent and intent.gateway == "istio-system/istio-ingressgateway"
        (parent,) = read.parents
        assert attach(read, parent, requesting, lambda _: {}).accepted
        assert resolve(read, _a_service, []).resolved
        served += 1
    assert served >= 1


def _a_service(namespace: str, name: str) -> Service:
    return Service.from_object(builders.service(name, namespace=namespace))


def test_the_migration_page_shows_what_expose_writes() -> None:
    text = (ROOT / "docs" / "migration.md").read_text()
    (block,) = re.findall(r"^```yaml\n([^`]*name: coredns-53.*?)^```", text, re.M | re.S)
    made, route = yaml.safe_load_all(block)
    key, port = ("team", "coredns"), ExposedPort.of(5300, 5300, 53)
    notes = made["metadata"]["annotations"]
    assert made == udproute.gateway(key, GATEWAY_CLASS, [port], notes)
    assert [route] == udproute.routes(key, "coredns", [port])


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
