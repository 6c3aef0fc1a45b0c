"""docs/security.md names each right that the controller has, and no other."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from kubectl_istio_udp.render.controller import Installation, controller

DOC = Path(__file__).parents[2] / "docs" / "security.md"
WANTED = Installation(
    "own", "image", ("gateway",), ("root",), 1000, mesh_configs=(("plane", "istio"),)
)
Right = tuple[str, str, str, str]


def installed(gateway_api: bool = False) -> set[Right]:
    """(where, verb, resource, name) of every right in the manifests."""
    found = set()
    for manifest in controller(replace(WANTED, gateway_api=gateway_api)):
        if manifest["kind"] not in ("ClusterRole", "Role"):
            continue
        where = manifest["metadata"].get("namespace", "every namespace")
        for rule in manifest["rules"]:
            assert not {"*"} & {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames", [""]):
                        found.add((where, verb, resource, name))
    return found


def documented(heading: str) -> set[Right]:
    """The same from the table below a heading."""
    section = DOC.read_text().partition(heading)[2]
    table = re.split("^#", section, maxsplit=1, flags=re.MULTILINE)[0]
    found = set()
    for where, rights in re.findall(r"^\| ([a-z ]+) \| ([a-z, /-]+) \|", table, re.MULTILINE):
        if where == "where":
            continue
        words, _, name = rights.partition(" named ")
        *verbs, last = words.split(", ")
        verb, resource = last.split(" ")
        found |= {(where, each, resource, name) for each in (*verbs, verb)}
    return found


def test_the_table_of_rights_is_that_of_the_manifests() -> None:
    rights = installed()
    assert documented("## The controller's rights") == rights
    assert documented("### With `--gateway-api`") == installed(gateway_api=True) - rights


def test_the_named_documents_exist() -> None:
    for link in re.findall(r"\]\(([a-z.-]+)\)", DOC.read_text()):
        assert (DOC.parent / link).exists(), link
    for path in re.findall(
        r"`(kubectl_istio_udp/[a-z_/]+\.py|tests/[a-z_/]+\.py)`", DOC.read_text()
    ):
        assert (DOC.parents[1] / path).exists(), path
