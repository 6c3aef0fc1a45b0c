"""docs/security.md names each right that the controller has, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from kubectl_istio_udp.render.controller import Installation, controller

DOC = Path(__file__).parents[2] / "docs" / "security.md"
WANTED = Installation(
    "own", "image", ("gateway",), ("root",), 1000, mesh_configs=(("plane", "istio"),)
)
Right = tuple[str, str, str, str]


def installed() -> set[Right]:
    """(where, verb, resource, name) of every right in the manifests."""
    found = set()
    for manifest in controller(WANTED):
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


def documented() -> set[Right]:
    """The same from the table."""
    table = DOC.read_text().partition("## The controller's rights")[2]
    found = set()
    for where, rights in re.findall(r"^\| ([a-z ]+) \| ([a-z, -]+) \|", table, re.MULTILINE):
        if where == "where":
            continue
        words, _, name = rights.partition(" named ")
        *verbs, last = words.split(", ")
        verb, resource = last.split(" ")
        found |= {(where, each, resource, name) for each in (*verbs, verb)}
    return found


def test_the_table_of_rights_is_that_of_the_manifests() -> None:
    assert documented() == installed()


def test_the_documents_that_it_names_are_there() -> None:
    for link in re.findall(r"\]\(([a-z.-]+)\)", DOC.read_text()):
        assert (DOC.parent / link).exists(), link
    for path in re.findall(
        r"`(kubectl_istio_udp/[a-z_/]+\.py|tests/[a-z_/]+\.py)`", DOC.read_text()
    ):
        assert (DOC.parents[1] / path).exists(), path
